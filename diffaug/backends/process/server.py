"""The process that holds a model for others: it runs full batches of the requests of many callers.

``client`` starts it through ``watchdog``, which ends it with its owner.
"""

import errno
import logging
import math
import os
import queue
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffaug.backends.base import Backend, batch_size_of, spec_of
from diffaug.backends.batches import kind, sized
from diffaug.backends.pipeline import DiffusersBackend
from diffaug.backends.process import protocol
from diffaug.backends.process.watchdog import sweep
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec

#: Seconds without a request after which the model is freed; the next request loads it again.
IDLE = 300.0
#: A batch that is not full waits until all callers wait: for WAIT seconds, or for this SHARE of the
#: time of the last batch if that is longer. Callers that were just answered ask again meanwhile,
#: and do not take turns in two halves, with batches half as large as they could be.
WAIT, SHARE = 0.004, 0.05
#: It waits longer, up to this share, for the callers that asked again within it the last time.
PATIENT_SHARE = 0.25
#: How many batches of other kinds may run before the request that has waited longest.
MAX_SKIPPED = 4

#: Seconds that a caller has to prove that it knows the key.
PROOF_SECONDS = 10
#: Nobody can be accepted without a descriptor or memory, but others may soon end; or a caller went.
_FOR_A_MOMENT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
_FOR_A_MOMENT |= {errno.EINTR, errno.EAGAIN, errno.EPROTO, errno.EPERM}
PAUSE = 0.1

_log = logging.getLogger("diffaug")
_PACKAGE = str(Path(__file__).parents[2])


@dataclass(eq=False)
class _Caller:
    """A connection; how many seconds passed from its last answer until it asked again."""

    pause: float = math.inf
    answered: float = -math.inf


@dataclass(eq=False)
class _Call:
    """The requests of one caller, and their images by index."""

    requests: list[GenerationRequest]
    caller: _Caller = field(default_factory=_Caller)
    images: dict[int, Generated] = field(default_factory=dict)
    error: Exception | None = None
    trace: str = ""
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class _Item:
    """One request of a call, by its index, and what requests of one batch have in common."""

    call: _Call
    index: int
    kind: Hashable

    @property
    def request(self) -> GenerationRequest:
        return self.call.requests[self.index]


class Server:
    """Answer callers on a listening socket; the model runs in the thread that calls ``run``.

    Args:
        backend: it generates the images.
        listener: a bound Unix socket.
        key: the secret that callers must know.
        batch_size: images that are collected before the model runs, if the backend does not say.
        kind: what requests must have in common to run in one batch.
        idle: seconds without a request after which the model is freed.
    """

    def __init__(
        self,
        backend: Backend,
        listener: socket.socket,
        key: bytes,
        batch_size: int,
        kind: Callable[[GenerationRequest], Hashable] = lambda _: None,
        idle: float = IDLE,
    ) -> None:
        self.backend, self.listener, self.key = backend, listener, key
        self.kind, self.idle, self._given_size = kind, idle, batch_size
        self.calls: queue.Queue[_Call | None] = queue.Queue()
        self.callers: set[_Caller] = set()
        #: Seconds that the last batch took.
        self.took = 0.0
        #: Requests taken and not yet answered.
        self.waiting = 0
        #: What was done so far: batches, the images in them, and the seconds that they took.
        self.batches, self.images, self.seconds = 0, 0, 0.0
        #: Messages for all callers: each is a kind, ``"warning"`` or ``"log"``, and a text.
        self.messages: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        # Only the thread of the model touches these.
        self._items: list[_Item] = []
        self._skipped = 0
        self._stopping = False

    @property
    def batch_size(self) -> int:
        """Images in one call of the model, which fit into memory."""
        size: int = getattr(self.backend, "batch_size", self._given_size)
        return size

    def run(self) -> None:
        """Serve until a caller asks to stop."""
        threading.Thread(target=self._accept, daemon=True).start()
        while self._collect():
            self._answer(self._choose())
        self.backend.close()

    def _collect(self) -> bool:
        """Take requests until a batch is full or all callers wait; return False at the end.

        A batch is full if enough requests can run together. The others wait for their own batch.
        """
        if not self._items and not self._stopping:
            self._take(self._next())
        began = time.monotonic()
        soon = began + max(WAIT, SHARE * self.took)
        late = max(soon, began + PATIENT_SHARE * self.took)
        while not self._stopping and not self._is_full():
            now = time.monotonic()
            missing = self._missing(regular=now >= soon)
            if not missing:
                break
            if now >= late:
                for caller in missing:
                    caller.pause = math.inf  # it is waited for once in vain, and not again
                break
            with suppress(queue.Empty):
                self._take(self.calls.get(timeout=(soon if now < soon else late) - now))
        return bool(self._items)

    def _is_full(self) -> bool:
        return max(map(len, self._groups().values()), default=0) >= self.batch_size

    def _missing(self, *, regular: bool) -> list[_Caller]:
        """Return the callers that do not wait; or only those that mostly ask again at once."""
        waiting = {item.call.caller for item in self._items}
        longest = PATIENT_SHARE * self.took if regular else math.inf
        with self._lock:
            return [caller for caller in self.callers - waiting if caller.pause <= longest]

    def _next(self) -> _Call | None:
        """Wait for a call; free the model if none comes for a long time."""
        try:
            return self.calls.get(timeout=self.idle)
        except queue.Empty:
            self.backend.close()
            return self.calls.get()

    def _take(self, call: _Call | None) -> None:
        if call is None:
            self._stopping = True
            return
        self._items += [
            _Item(call, index, self.kind(request)) for index, request in enumerate(call.requests)
        ]

    def _groups(self) -> dict[Hashable, list[_Item]]:
        groups: dict[Hashable, list[_Item]] = {}
        for item in self._items:
            groups.setdefault(item.kind, []).append(item)
        return groups

    def _choose(self) -> list[_Item]:
        """Return the next batch: of the most frequent kind, or of that which has waited longest."""
        groups = self._groups()
        oldest = groups[self._items[0].kind]
        chosen = max(groups.values(), key=lambda group: min(len(group), self.batch_size))
        if self._skipped >= MAX_SKIPPED:
            chosen = oldest
        self._skipped = 0 if chosen is oldest else self._skipped + 1
        batch = chosen[: self.batch_size]
        self._items = [item for item in self._items if item not in batch]
        return batch

    def _answer(self, batch: list[_Item]) -> None:
        """Run a batch; if that fails and is of several calls, run the requests of each alone."""
        began = time.monotonic()
        calls = {id(item.call): item.call for item in batch}
        try:
            self._generate(batch)
        except Exception as error:
            if len(calls) == 1:
                self._fail(batch[0].call, error)
            else:
                for call in calls.values():  # the mistake of one caller must not fail the others
                    self._alone(call, [item for item in batch if item.call is call])
        self.took = time.monotonic() - began
        self.batches, self.images = self.batches + 1, self.images + len(batch)
        self.seconds += self.took
        for call in calls.values():
            if call.error is not None or len(call.images) == len(call.requests):
                call.done.set()

    def _generate(self, items: list[_Item]) -> None:
        images = self.backend.generate([item.request for item in items])
        for item, image in zip(items, images, strict=True):
            item.call.images[item.index] = image

    def _alone(self, call: _Call, items: list[_Item]) -> None:
        try:
            self._generate(items)
        except Exception as error:
            self._fail(call, error)

    def _fail(self, call: _Call, error: Exception) -> None:
        call.error = error
        call.trace = _last_lines(error)
        self._items = [item for item in self._items if item.call is not call]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError as error:
                if error.errno not in _FOR_A_MOMENT:
                    _log.error("no caller can connect any more: %s", error)
                    self.calls.put(None)  # callers that are told so start another process
                    return
                time.sleep(PAUSE)
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one caller until it closes the connection."""
        with connection, suppress(protocol.WireError):
            connection.settimeout(PROOF_SECONDS)
            if not protocol.challenge(connection, self.key):
                return
            connection.settimeout(None)
            caller, sent = _Caller(), 0
            with self._lock:
                self.callers.add(caller)
            try:
                while True:
                    answer, images = self._reply(caller, *protocol.receive(connection))
                    messages = self.messages[sent:]
                    sent += len(messages)
                    try:
                        protocol.send(connection, {**answer, "messages": messages}, images)
                    except ValueError as error:  # images beyond what one message holds
                        protocol.send(connection, {**_said(error), "messages": messages})
            finally:
                with self._lock:
                    self.callers.remove(caller)

    def _reply(
        self, caller: _Caller, header: protocol.Header, images: list[torch.Tensor]
    ) -> tuple[protocol.Header, list[torch.Tensor]]:
        if header.get("ask") == "stop":
            self.calls.put(None)
            return {"stopped": True}, []
        if header.get("ask") == "load":
            done = {"batches": self.batches, "images": self.images, "seconds": self.seconds}
            return {"load": self.waiting, "done": done}, []
        if isinstance(most := header.get("most"), int) and hasattr(
            self.backend, "limit_batch_size"
        ):
            self.backend.limit_batch_size(most)
        if header.get("ask") == "batch_size":
            try:
                return {"batch_size": batch_size_of(self.backend) or self.batch_size}, []
            except Exception as error:
                return _said(error, _last_lines(error)), []
        try:
            # Resized in this thread, while the model runs for others.
            resized = list(map(self._resized, protocol.unpack_requests(header, images)))
            call = _Call(resized, caller)
        except Exception as error:
            call = _Call([], error=error)
        else:
            with self._lock:
                self.waiting += len(call.requests)
            caller.pause = time.monotonic() - caller.answered
            self.calls.put(call)
            call.done.wait()
            caller.answered = time.monotonic()
            with self._lock:
                self.waiting -= len(call.requests)
        if call.error is not None:
            return _said(call.error, call.trace), []
        generated = [call.images[index] for index in range(len(call.requests))]
        fields = [
            {"seed": image.seed, "attempts": image.attempts, "fallback": image.fallback}
            for image in generated
        ]
        answer = {"made": fields, "batch_size": self.batch_size}
        return answer, [image.image for image in generated]

    def _resized(self, request: GenerationRequest) -> GenerationRequest:
        """Resize a source as the backend would, in this thread and not in the model's."""
        spec = spec_of(self.backend)
        return request if spec is None else replace(request, image=sized(spec, request))

    def pass_on_messages(self) -> None:
        """Also send the callers the warnings of diffaug, and its log from the level WARNING on."""
        show = warnings.showwarning

        def show_and_keep(message: Any, category: Any, filename: str, *rest: Any) -> None:
            if filename.startswith(_PACKAGE):
                self.messages.append(("warning", str(message)))
            show(message, category, filename, *rest)

        warnings.showwarning = show_and_keep  # type: ignore[assignment]
        log = logging.getLogger("diffaug")
        log.addHandler(logging.StreamHandler())  # the process's own log
        log.addHandler(_Keeper(self.messages))


def _last_lines(error: Exception) -> str:
    return "".join(traceback.format_exception(error)[-3:])


def _said(error: Exception, trace: str = "") -> protocol.Header:
    """Return an error as an answer."""
    return {"error": type(error).__name__, "message": str(error), "trace": trace}


class _Keeper(logging.Handler):
    """Keep log records as messages to the callers."""

    def __init__(self, messages: list[tuple[str, str]]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.messages.append(("log", record.getMessage()))


def run_server(order: Mapping[str, Any]) -> None:
    """Serve ``order``: the ``spec``, the ``socket`` and the ``key`` (hexadecimal)."""
    spec = ModelSpec(**{**order["spec"], "adapters": tuple(order["spec"]["adapters"])})
    path = order["socket"]
    listener = socket.socket(socket.AF_UNIX)
    # Bound under another name and renamed, so that a caller that sees the path can connect.
    listener.bind(f"{path}.new")
    listener.listen(256)
    os.rename(f"{path}.new", path)
    backend = DiffusersBackend(spec)
    server = Server(
        backend, listener, bytes.fromhex(order["key"]), backend.batch_size, partial(kind, spec)
    )
    server.pass_on_messages()
    server.run()
    sweep(path)
