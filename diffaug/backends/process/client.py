"""One model process for all workers of a DataLoader: the caller's side.

CUDA does not survive a fork, and eight workers must not load eight models. So workers ask a process
that was not forked. The first worker that asks starts it.
"""

import dataclasses
import hashlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from diffaug.backends.base import BATCH_SIZE, ModelBackend
from diffaug.backends.devices import has_lost_cuda
from diffaug.backends.hub import pin
from diffaug.backends.pipeline import check_requests
from diffaug.backends.process import connecting, protocol
from diffaug.backends.process.connecting import DeafError, end, pid_of, reach
from diffaug.backends.process.private_folder import (
    private_folder,
    remove_old_logs,
    unusable,
    write_private,
)
from diffaug.backends.process.watchdog import Owner, process_started, sweep
from diffaug.backends.ranks import MULTIPROCESSING, chosen_gpu, local_rank, visible_gpus
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.errors import DiffaugError, GenerationError, remade

_log = logging.getLogger("diffaug")

#: How often a process that died is started again before it is an error.
RESTARTS = 3
#: How long a process may take until it listens (importing torch on a busy machine), in seconds.
START_SECONDS = 180.0
#: After so many seconds without an answer, a caller says so, and looks whether the process lives.
WORD_SECONDS = 60.0
#: The line of a log after which another process writes.
_ANOTHER = "-- another process was started --"
#: A process forked later has another number.
_IMPORTED_IN = os.getpid()
#: What such a process runs.
_SCRIPT = Path(__file__).with_name("watchdog.py")


def in_child() -> bool:
    """Return whether this process is a worker of another, such as a DataLoader's.

    Workers are the children that ``multiprocessing``, joblib, ``concurrent.futures`` or
    ``datasets.map(num_proc=...)`` start, and every process that was forked after this module was
    imported. One of several processes that train together is not a worker, even if
    ``torch.multiprocessing.spawn`` started it: it has a GPU and workers of its own.
    """
    return _parent() is not None


def owner_here() -> Owner:
    """Return the owner of a process started here: the parent of a worker, or else this process."""
    pid = _parent() or os.getpid()
    return pid, process_started(pid) or "gone"


def _parent() -> int | None:
    """Return the process whose worker this one is; None if it is nobody's."""
    from torch.utils.data import get_worker_info

    modules = [sys.modules[name] for name in MULTIPROCESSING if name in sys.modules]
    parents = [parent.pid for module in modules if (parent := module.parent_process()) is not None]
    if not parents and os.getpid() != _IMPORTED_IN and process_started(_IMPORTED_IN):
        parents.append(_IMPORTED_IN)  # forked by other means; a daemon's parent has ended
    is_helper = get_worker_info() or any(module.current_process().daemon for module in modules)
    if not parents or (_trains() and not is_helper):
        return None
    # Each module knows its own children alone: a rank's child has the launcher of the rank, too.
    return os.getppid() if os.getppid() in parents else parents[0]


def _trains() -> bool:
    """Return whether this process has joined others to train, or uses a GPU of its own."""
    if has_lost_cuda():  # its parent uses one
        return False
    group = torch.distributed
    return torch.cuda.is_initialized() or (group.is_available() and group.is_initialized())


def wants_process(spec: ModelSpec) -> bool:
    """Return whether a model should run in a process of its own here.

    In a worker, it should if it runs on an accelerator, which neither survives a fork nor has room
    for a model for each worker. In the main process, it should if such a process runs already. With
    ``DIFFAUG_WORKER=process``, models on a CPU do the same; with ``DIFFAUG_WORKER=never``, none do.
    """
    choice = os.environ.get("DIFFAUG_WORKER", "auto")
    if choice not in ("auto", "process", "never"):
        raise ValueError(f"'DIFFAUG_WORKER' must be auto, process or never, got {choice!r}.")
    if not hasattr(socket, "AF_UNIX"):  # Windows
        return False
    if choice == "never" or not (choice == "process" or _on_accelerator(spec.device)):
        return False
    return in_child() or _Address(pin(spec)).exists()


def _on_accelerator(device: str) -> bool:
    if device != "auto":
        return not device.startswith("cpu")
    # Counting devices makes no CUDA context, which would not survive a fork.
    return torch.cuda.device_count() > 0 or torch.backends.mps.is_available()


class WorkerBackend(ModelBackend):
    """Ask the one process that holds a model for this process and its siblings.

    The process is started on the first request, collects the requests of all callers into batches,
    and ends with its owner: the parent of a worker, or else this process. If it is killed, it is
    started and asked again, three times. Its warnings are repeated here, once.

    Args:
        spec: the model and how to run it.
        owner: the model's process ends when this one ends, ``(pid, start)``; None for the parent of
            a worker, or else this process.

    Raises:
        GenerationError: the process cannot be started, or keeps dying; with its last lines.
        DiffaugError, ValueError: whatever the model's process raised.

    Example:
        >>> from diffaug import ModelSpec
        >>> from diffaug.backends.process.client import WorkerBackend
        >>> WorkerBackend(ModelSpec("timbrooks/instruct-pix2pix", size=512)).size  # starts nothing
        512
    """

    def __init__(self, spec: ModelSpec, owner: Owner | None = None) -> None:
        super().__init__(spec)
        #: How many requests of this backend got their source back, as in ``DiffusersBackend``.
        self.fallbacks = 0
        #: Images in one call of the model: the spec's number, or less where that did not fit.
        self.batch_size = BATCH_SIZE if spec.batch_size == "auto" else spec.batch_size
        #: What ``limit_batch_size`` was told; a process that is started again is told, too.
        self._most: int | None = None
        self._owner = owner
        self._local = threading.local()
        self._stops = 0
        #: The messages of the process that were repeated here, each a kind and a text.
        self.heard: set[tuple[str, str]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerBackend, (self.spec, self._owner)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Return one image for each request, in order."""
        requests = check_requests(requests, self.spec)
        if not requests:
            return []
        header, images = protocol.pack_requests(requests)
        answer, images = self._answer(header, images)
        self.batch_size = answer["batch_size"]
        self.fallbacks += sum(fields["fallback"] for fields in answer["made"])
        return [
            Generated(image, **fields) for fields, image in zip(answer["made"], images, strict=True)
        ]

    def choose_batch_size(self) -> int:
        """Return ``batch_size``; where the spec says ``"auto"``, the process chooses it."""
        if self.spec.batch_size == "auto":
            self.batch_size = self._answer({"ask": "batch_size"})[0]["batch_size"]
        return self.batch_size

    def limit_batch_size(self, most: int) -> None:
        """Let the model take no more images in one call."""
        self._most = most

    def _answer(
        self, header: protocol.Header, images: Sequence[torch.Tensor] = ()
    ) -> tuple[protocol.Header, list[torch.Tensor]]:
        """Ask the model's process, and raise what it raised."""
        most = {} if self._most is None else {"most": self._most}
        answer, received = self._ask({**header, **most}, images)
        if "error" in answer:
            raise _as_error(answer, self.spec.model)
        return answer, received

    def load(self) -> int:
        """Return how many requests wait in the model's process; start it if it is not there."""
        return int(self._ask({"ask": "load"})[0]["load"])

    def done(self) -> dict[str, float]:
        """Return what the model's process has done: its batches, their images, their seconds."""
        return dict(self._ask({"ask": "load"})[0]["done"])

    def stop(self, *, now: bool = False) -> None:
        """End the model's process, if it is there, after it has answered the requests that wait.

        ``now`` is for someone who has pressed Ctrl-C: nothing is waited for.
        """
        self._stops += 1  # a thread that still waits for it must not start another
        self._drop()
        address = _Address(self.pinned(), self._owner)
        with suppress(DeafError):
            if (connection := address.reach(0.5 if now else None)) is not None:
                end(connection, 0.0 if now else None)
        sweep(str(address.path))  # one that was killed could not

    def _ask(
        self, header: protocol.Header, images: Sequence[torch.Tensor] = ()
    ) -> tuple[protocol.Header, list[torch.Tensor]]:
        address, lost, stops = _Address(self.pinned(), self._owner), 0, self._stops
        while True:
            connection = self._connection(address)
            try:
                protocol.send(connection, header, images)
                self._await(connection, address)
                answer, received = protocol.receive(connection)
            except protocol.WireError:
                self._drop()  # a request is a pure function: it can be asked again
                lost += 1
                if self._stops != stops:
                    raise address.failed("was stopped") from None
                if lost > RESTARTS:  # maybe by this very request
                    raise address.failed(f"died {lost} times") from None
                continue
            except BaseException:  # as by Ctrl-C: the next request must not read this one's answer
                self._drop()
                raise
            for kind, text in answer.pop("messages"):
                self._repeat(kind, text)
            if "made" in answer:
                address.forgive()
            return answer, received

    def _await(self, connection: socket.socket, address: "_Address") -> None:
        """Wait for an answer; say after a while that there is none, and end a process that hangs.

        Raises:
            WireError: the process has ended, or hung and was killed.
        """
        connection.settimeout(WORD_SECONDS)
        while True:
            try:
                connection.recv(1, socket.MSG_PEEK)  # also at the end of the connection
                connection.settimeout(connecting.STALLED_SECONDS)
                return
            except TimeoutError:
                pid = pid_of(connection)
                self._repeat(
                    "warning",
                    f"the process {pid or ''} that runs '{self.spec.model}' has not answered for "
                    f"{WORD_SECONDS:.0f} s; its log: {address.path.with_suffix('.log')}",
                )
                address.check_alive()
            except OSError as error:
                raise protocol.WireError(f"the connection broke: {error}") from error

    def _repeat(self, kind: str, text: str) -> None:
        """Repeat a message of the model's process here, once."""
        if (kind, text) in self.heard:
            return
        self.heard.add((kind, text))
        if kind == "warning":
            warnings.warn(text, UserWarning, stacklevel=1)
        else:
            _log.warning("%s", text)

    def _connection(self, address: "_Address") -> socket.socket:
        """Return this thread's connection; one inherited through a fork is not ours."""
        kept = getattr(self._local, "kept", None)
        if kept is not None and kept[0] == os.getpid():
            connection: socket.socket = kept[1]
            return connection
        connection = address.connect()
        self._local.kept = (os.getpid(), connection)
        return connection

    def _drop(self) -> None:
        kept = getattr(self._local, "kept", None)
        self._local.kept = None
        if kept is not None:
            kept[1].close()

    def close(self) -> None:
        """Close the connection; the process still serves others, and ends with its owner."""
        self._drop()


def stop_processes() -> None:
    """End every model process that this process, or a worker of it, has started."""
    try:
        folder = private_folder()
    except DiffaugError:  # then none was started
        return
    for path in folder.glob(f"{os.getpid()}-*.sock"):
        with suppress(DeafError):  # it was killed
            if connection := reach(path):
                end(connection)
        sweep(str(path))


class _Address:
    """Where a model's process listens, and how it is started."""

    def __init__(self, spec: ModelSpec, owner: Owner | None = None) -> None:
        # The model's process is a fresh one, which does not know on which GPU its owner trains.
        if spec.device == "auto" and (gpu := chosen_gpu()):
            spec = dataclasses.replace(spec, device=f"cuda:{gpu}")
        self.spec = spec
        self.owner, self.started = owner or owner_here()
        # Processes that have a GPU each, started by torchrun or by hand, do not share a model.
        identity = [dataclasses.asdict(spec), local_rank(), visible_gpus()]
        fields = json.dumps(identity, sort_keys=True)
        name = hashlib.sha256(f"{self.started} {fields}".encode()).hexdigest()[:12]
        self.path = private_folder() / f"{self.owner}-{name}.sock"

    def exists(self) -> bool:
        """Return whether the process has been started."""
        return self.path.exists()

    def connect(self) -> socket.socket:
        """Connect, and start the process if it is not there."""
        from filelock import FileLock

        connection = self._reach_living()
        if connection is not None:
            return connection
        try:
            with FileLock(self.path.with_suffix(".lock")):
                while (
                    connection := self._reach_living()
                ) is None:  # another started it, or it died
                    self._start()
        except OSError as error:
            raise unusable(self.path.parent, error) from error
        return connection

    def _reach_living(self) -> socket.socket | None:
        with suppress(DeafError):  # which was killed: another is started
            return self.reach()
        return None

    def reach(self, seconds: float | None = None) -> socket.socket | None:
        """Connect to the process if it is there; DeafError says that it did not answer."""
        return reach(self.path, seconds)

    def check_alive(self) -> None:
        """Look whether the process answers a new caller.

        Raises:
            WireError: it does not, and was killed.
        """
        try:
            if (connection := self.reach()) is not None:
                connection.close()
        except DeafError as error:
            raise protocol.WireError(str(error)) from error

    def forgive(self) -> None:
        """Forget earlier deaths of the process, since it has answered."""
        starts = self.path.with_suffix(".starts")
        with suppress(OSError):
            if starts.stat().st_size > 1:
                starts.write_bytes(b".")

    def _start(self) -> None:
        """Start the process and wait until it listens, or was killed."""
        starts = self.path.with_suffix(".starts")
        count = len(starts.read_bytes()) if starts.exists() else 0
        if count > RESTARTS:
            raise self.failed(f"died {count} times")
        with starts.open("ab") as file:
            file.write(b".")
        key = secrets.token_bytes(32)
        for abandoned in (self.path, self.path.with_suffix(".sock.new")):
            abandoned.unlink(missing_ok=True)
        for orphan in self.path.parent.glob("*.starts"):  # if owner and process were both killed
            number = orphan.name.partition("-")[0]
            if not number.isdecimal() or process_started(int(number)) is None:
                sweep(str(orphan))
        remove_old_logs(self.path.parent)
        write_private(self.path.with_suffix(".key"), key)
        with self.path.with_suffix(".log").open("ab") as log:
            if log.tell():  # so that the last words of an earlier process are not this one's
                log.write(f"{_ANOTHER}\n".encode())
            process = subprocess.Popen(
                [sys.executable, "-P", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C ends the owner, and then the process ends
            )
        with suppress(BrokenPipeError), process.stdin as pipe:  # type: ignore[union-attr]
            pipe.write(json.dumps(self.job(key)).encode() + b"\n")
        deadline = time.monotonic() + START_SECONDS
        while not self.path.exists():
            if (code := process.poll()) is not None:
                if code < 0:  # by a signal: the next attempt may succeed
                    return
                raise self.failed(f"ended with code {code} as it started")
            if time.monotonic() > deadline:
                process.kill()
                raise self.failed(f"did not listen within {START_SECONDS:.0f} s")
            time.sleep(0.02)

    def job(self, key: bytes) -> dict[str, Any]:
        """Return what the process is told when it starts."""
        return {
            "spec": dataclasses.asdict(self.spec),
            "socket": str(self.path),
            "key": key.hex(),
            "owner": [self.owner, self.started],
            "path": [str(path) for path in sys.path],
            "call": ["diffaug.backends.process.server", "run_server"],
        }

    def failed(self, what: str) -> GenerationError:
        log = self.path.with_suffix(".log")
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        lines = lines[len(lines) - lines[::-1].index(_ANOTHER) :] if _ANOTHER in lines else lines
        last_lines = " | ".join(line.strip() for line in lines[-5:] if line.strip())
        return GenerationError(
            f"the process that runs '{self.spec.model}' {what}; its last lines: "
            f"{last_lines or 'none'}. All of them: {log}. If the machine killed it for want of "
            "memory, lower 'batch_size'; then run the same again."
        )


def _as_error(answer: protocol.Header, model: str) -> Exception:
    """Make the error again that the model's process raised."""
    error = remade(answer["error"], answer["message"], what=model)
    if answer.get("trace"):
        error.add_note(f"In the process that runs '{model}':\n{answer['trace']}")
    return error
