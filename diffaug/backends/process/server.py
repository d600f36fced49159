"""The process that holds a model for others: takes requests from many callers, runs full batches.

``client`` starts it through ``watchdog``, which ends it with its owner.
"""

import logging
import os
import queue
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffaug.backends.base import Backend
from diffaug.backends.pipeline import DiffusersBackend
from diffaug.backends.process import protocol
from diffaug.backends.process.watchdog import sweep
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec

#: After how many seconds without a request the model is freed; the next request loads it again.
IDLE = 300.0
#: How long a batch that is not full waits for more, in seconds; and as a share of what the last one
#: took, in which callers that were just answered ask again: else they would take turns in two
#: halves, each with a batch half as large as it could be.
WAIT, SHARE = 0.004, 0.05

_PACKAGE = str(Path(__file__).parents[2])


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
        idle: after how many seconds without a request the model is freed.
    """

    def __init__(
        self,
        backend: Backend,
        listener: socket.socket,
        key: bytes,
        batch_size: int,
        idle: float = IDLE,
    ) -> None:
        self.backend, self.listener, self.key, self.batch_size = backend, listener, key, batch_size
        self.idle = idle
        self.calls: queue.Queue[_Call | None] = queue.Queue()
        self.callers = 0
        #: Seconds that the last batch took.
        self.took = 0.0
        #: Requests taken and not yet answered.
        self.waiting = 0
        #: What callers are to hear: each is a kind, ``"warning"`` or ``"log"``, and a text.
        self.messages: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until told to stop."""
        threading.Thread(target=self._accept, daemon=True).start()
        while (call := self._next()) is not None:
            if not self._answer(self._collect(call)):
                break
        self.backend.close()

    def _next(self) -> _Call | None:
        """Wait for a call; free the model meanwhile if none comes for long."""
        try:
            return self.calls.get(timeout=self.idle)
        except queue.Empty:
            self.backend.close()
            return self.calls.get()

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
            heard = 0
            try:
                while True:
                    answer, images = self._reply(*protocol.receive(connection))
                    messages = self.messages[heard:]
                    heard += len(messages)
                    protocol.send(connection, {**answer, "messages": messages}, images)
            finally:
                with self._lock:
                    self.callers -= 1

    def _reply(
        self, header: protocol.Header, images: list[torch.Tensor]
    ) -> tuple[protocol.Header, list[torch.Tensor]]:
        if header.get("ask") == "stop":
            self.calls.put(None)
            return {"stopped": True}, []
        if header.get("ask") == "load":
            return {"load": self.waiting}, []
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
            return {"error": kind, "message": message, "trace": call.trace}, []
        plain = [
            {"seed": image.seed, "attempts": image.attempts, "fallback": image.fallback}
            for image in call.made
        ]
        batch_size = getattr(self.backend, "batch_size", self.batch_size)
        answer = {"made": plain, "batch_size": batch_size}
        return answer, [image.image for image in call.made]

    def pass_on_messages(self) -> None:
        """Send diffaug's warnings, and its log from WARNING on, to the callers, too."""
        show = warnings.showwarning

        def show_and_keep(message: Any, category: Any, filename: str, *rest: Any) -> None:
            if filename.startswith(_PACKAGE):
                self.messages.append(("warning", str(message)))
            show(message, category, filename, *rest)

        warnings.showwarning = show_and_keep  # type: ignore[assignment]
        log = logging.getLogger("diffaug")
        log.addHandler(logging.StreamHandler())  # the process's own log
        log.addHandler(_Keeper(self.messages))


class _Keeper(logging.Handler):
    """Keep log records as messages to the callers."""

    def __init__(self, messages: list[tuple[str, str]]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.messages.append(("log", record.getMessage()))


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
    server = Server(backend, listener, bytes.fromhex(order["key"]), spec.batch_size)
    server.pass_on_messages()
    server.run()
    sweep(path)
