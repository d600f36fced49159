"""Model processes that the user starts: one on each GPU; the least busy one is asked."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from diffaug.backends.base import Backend
from diffaug.backends.devices import choose_device, why_no_gpu
from diffaug.backends.hub import pin
from diffaug.backends.presets import resolve
from diffaug.backends.process.client import WorkerBackend
from diffaug.backends.process.watchdog import process_started
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec


class PoolBackend(Backend):
    """Ask the least busy of several model processes; :func:`serve` makes one.

    Workers get a copy of it that asks the same processes. A long list of requests is divided among
    them.

    Args:
        backends: one for each process; all have the same model.
    """

    def __init__(self, backends: Sequence[WorkerBackend]) -> None:
        self.backends = list(backends)
        self.spec = self.backends[0].spec
        for backend in self.backends:
            backend.heard = self.backends[0].heard  # what several processes say is repeated once

    def __reduce__(self) -> tuple[Any, ...]:
        return PoolBackend, (self.backends,)

    @property
    def fingerprint(self) -> str:
        """Identify the model and its settings, the same on every device."""
        return self.backends[0].fingerprint

    @property
    def size(self) -> int:
        """Side in pixels of the square that the model works at."""
        return self.backends[0].size

    @property
    def batch_size(self) -> int:
        """Images in one call of the model, the least of all processes."""
        return min(backend.batch_size for backend in self.backends)

    def choose_batch_size(self) -> int:
        """Return ``batch_size``; with ``"auto"``, what the fullest device can take, for all."""
        if self.spec.batch_size == "auto":

            def choose(backend: WorkerBackend) -> int:
                try:
                    return backend.choose_batch_size()
                finally:
                    backend.close()  # the connection of this thread, which ends now

            with ThreadPoolExecutor(len(self.backends)) as threads:
                size = min(threads.map(choose, self.backends))
            for backend in self.backends:
                backend.limit_batch_size(size)
                backend.batch_size = size
        return self.batch_size

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Return one image for each request, in order."""
        # After a batch did not fit on one device, the others still take whole ones.
        requests, step = list(requests), max(backend.batch_size for backend in self.backends)
        parts = [requests[start : start + step] for start in range(0, len(requests), step)]
        if len(parts) < 2 or len(self.backends) < 2:
            return self._least_busy().generate(requests) if requests else []
        free: SimpleQueue[WorkerBackend] = SimpleQueue()
        for least_busy in sorted(self.backends, key=WorkerBackend.load):
            free.put(least_busy)

        def ask(part: list[GenerationRequest]) -> list[Generated]:
            backend = free.get()
            try:
                return backend.generate(part)
            finally:
                backend.close()  # the connection of this thread, which ends now
                free.put(backend)

        threads = ThreadPoolExecutor(len(self.backends))
        try:
            answer = [image for images in threads.map(ask, parts) for image in images]
        except BaseException as error:
            # After Ctrl-C, nobody waits for a process that may hang; ``serve`` ends it.
            threads.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
            raise
        threads.shutdown()
        return answer

    def _least_busy(self) -> WorkerBackend:
        # Not the one whose batch is nearly full: a batch of two never takes longer than one of
        # eight, so requests that are there are answered the sooner the more GPUs work on them.
        if len(self.backends) == 1:
            return self.backends[0]
        return min(self.backends, key=WorkerBackend.load)

    def close(self) -> None:
        """Close the connections; the processes end with ``serve``."""
        for backend in self.backends:
            backend.close()


@contextmanager
def serve(
    backend: str | Path | ModelSpec, *, devices: str | Sequence[str | int] = "auto"
) -> Iterator[PoolBackend]:
    """Run a model in a process on each device while a ``with`` statement lasts.

    Workers of a ``DataLoader`` start one such process by themselves; this is for several GPUs, or
    for a model that must be loaded before training begins.

    Args:
        backend: a preset's name, a model folder, a fine-tuned folder, a Hub id or a
            :class:`ModelSpec`.
        devices: ``"auto"`` for every GPU, or the CPU where there is none; or several devices, such
            as ``["cuda:0", "cuda:2"]`` or ``[0, 2]``.

    Raises:
        ValueError: no device, or one that torch does not know.
        ModelError: the model is unknown, or its revision cannot be looked up.

    Example:
        >>> from diffaug import serve
        >>> with serve("tiny", devices=[]) as backend:
        ...     pass
        Traceback (most recent call last):
        ValueError: 'devices' must name at least one device, got none.
    """
    names = devices_of(devices)
    pinned = pin(resolve(backend))
    pid = os.getpid()
    owner = (pid, process_started(pid) or "gone")
    pool = PoolBackend([WorkerBackend(replace(pinned, device=name), owner) for name in names])
    try:
        with ThreadPoolExecutor(len(names)) as threads:
            list(threads.map(WorkerBackend.load, pool.backends))
        yield pool
    except BaseException as error:
        for worker in pool.backends:
            worker.stop(now=not isinstance(error, Exception))
        raise
    for worker in pool.backends:
        worker.stop()


def devices_of(devices: str | Sequence[str | int]) -> list[str]:
    """Return the names of the devices that ``serve`` was given.

    Raises:
        ValueError: there is none, or one is given twice.
        GenerationError: a GPU is not there, or torch cannot use it.
    """
    if devices == "auto":
        # Where torch cannot use a GPU, the model's process says so and runs on the CPU.
        count = 0 if why_no_gpu() else torch.cuda.device_count()
        return [f"cuda:{number}" for number in range(count)] or ["auto"]
    parts = devices.split(",") if isinstance(devices, str) else map(str, devices)
    texts = [part.strip() for part in parts if part.strip()]
    names = [f"cuda:{text}" if text.isdecimal() else text for text in texts]
    if not names:
        raise ValueError("'devices' must name at least one device, got none.")
    if len(set(names)) < len(names):
        raise ValueError(f"'devices' must differ, got {', '.join(names)}.")
    for name in names:
        if re.fullmatch(r"cuda(:\d+)?", name):
            choose_device(name)
    return names
