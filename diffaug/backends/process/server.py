"""The process that holds a model for others: takes requests from many callers, runs full batches.

``client`` starts it through ``watchdog``, which ends it with its owner.
"""

import os
import queue
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from diffaug.backends.base import Backend
from diffaug.backends.pipeline import DiffusersBackend
from diffaug.backends.process import protocol
from diffaug.backends.process.watchdog import sweep
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec

#: How long a batch that is not full waits for more, in seconds; and as a share of what the last one
#: took, in which callers that were just answered ask again: else they would take turns in two
#: halves, each with a batch half as large as it could be.
WAIT, SHARE = 0.004, 0.05


@dataclass
class _Call:
    """One caller's requests, and what came of them."""

    requests: list[GenerationRequest]
    made: list[Generated] | None = None
    error: Exception | None = None
    trace: str = ""
    done: threading.Event = field(default_factory=threading.Event)


class Server:
    """Answer callers on a listening socket; the model runs in the thread that calls ``run``.

    Args:
        backend: what generates.
        listener: a bound Unix socket.
        key: what callers must know.
        batch_size: images that are collected before the model runs.
    """

    def __init__(
        self, backend: Backend, listener: socket.socket, key: bytes, batch_size: int
    ) -> None:
        self.backend, self.listener, self.key, self.batch_size = backend, listener, key, batch_size
        self.calls: queue.Queue[_Call | None] = queue.Queue()
        self.callers = 0
        #: Seconds that the last batch took.
        self.took = 0.0
        #: Requests taken and not yet answered.
        self.waiting = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until told to stop."""
        threading.Thread(target=self._accept, daemon=True).start()
        while (call := self.calls.get()) is not None:
            if not self._answer(self._collect(call)):
                break
        self.backend.close()

    def _collect(self, call: _Call) -> list[_Call | None]:
        """Add what others ask for meanwhile, until the batch is full or all callers wait."""
        calls: list[_Call | None] = [call]
        count, until = len(call.requests), time.monotonic() + max(WAIT, SHARE * self.took)
        while count < self.batch_size and len(calls) < self.callers:
            try:
                other = self.calls.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            calls.append(other)
            if other is None:
                break
            count += len(other.requests)
        return calls

    def _answer(self, calls: list[_Call | None]) -> bool:
        """Run calls in one go, each alone if that fails; tell whether to go on."""
        live = [call for call in calls if call is not None]
        began = time.monotonic()
        try:
            made = self.backend.generate([one for call in live for one in call.requests])
            answers = iter(made)
            for call in live:
                call.made = [next(answers) for _ in call.requests]
        except Exception:
            for call in live:  # one caller's mistake is not another's
                self._alone(call)
        self.took = time.monotonic() - began
        for call in live:
            call.done.set()
        return len(live) == len(calls)

    def _alone(self, call: _Call) -> None:
        try:
            call.made = self.backend.generate(call.requests)
        except Exception as error:
            call.error = error
            call.trace = "".join(traceback.format_exception(error)[-3:])

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one caller until it goes."""
        with connection, suppress(protocol.WireError):
            connection.settimeout(10)
            if not protocol.challenge(connection, self.key):
                return
            connection.settimeout(None)
            with self._lock:
                self.callers += 1
            try:
                while True:
                    self._reply(connection, *protocol.receive(connection))
            finally:
                with self._lock:
                    self.callers -= 1

    def _reply(
        self, connection: socket.socket, header: protocol.Header, images: list[torch.Tensor]
    ) -> None:
        if header.get("ask") == "stop":
            self.calls.put(None)
            protocol.send(connection, {"stopped": True})
            return
        if header.get("ask") == "load":
            protocol.send(connection, {"load": self.waiting})
            return
        try:
            call = _Call(protocol.unpack_requests(header, images))
        except Exception as error:
            call = _Call([], error=error)
        else:
            with self._lock:
                self.waiting += len(call.requests)
            self.calls.put(call)
            call.done.wait()
            with self._lock:
                self.waiting -= len(call.requests)
        if call.made is None:
            kind, message = type(call.error).__name__, str(call.error)
            protocol.send(connection, {"error": kind, "message": message, "trace": call.trace})
            return
        plain = [
            {"seed": one.seed, "attempts": one.attempts, "fallback": one.fallback}
            for one in call.made
        ]
        protocol.send(connection, {"made": plain}, [one.image for one in call.made])


def run_server(order: Mapping[str, Any]) -> None:
    """Serve as ordered: ``spec``, ``socket`` and ``key`` (hexadecimal)."""
    spec = ModelSpec(**{**order["spec"], "adapters": tuple(order["spec"]["adapters"])})
    path = order["socket"]
    listener = socket.socket(socket.AF_UNIX)
    # Bound under another name, so that whoever sees the path can connect.
    listener.bind(f"{path}.new")
    listener.listen(256)
    os.rename(f"{path}.new", path)
    backend = DiffusersBackend(spec)
    Server(backend, listener, bytes.fromhex(order["key"]), spec.batch_size).run()
    sweep(path)
