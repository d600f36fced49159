"""One live model per process: with ``ranks``, the only modules with state that changes."""

import atexit
import os
import threading
from pathlib import Path

from diffaug.backends.base import Backend, is_backend
from diffaug.backends.cache import CachedBackend
from diffaug.backends.hub import pin
from diffaug.backends.pipeline import DiffusersBackend
from diffaug.backends.presets import resolve
from diffaug.backends.process.client import WorkerBackend, stop_processes, wants_process
from diffaug.backends.spec import ModelSpec
from diffaug.checked import checked

_lock = threading.Lock()
_live: dict[ModelSpec, Backend] = {}
_cached: dict[ModelSpec, Backend] = {}
#: The spec of each name that callers gave: only the first use of one reads files or asks the Hub.
_named: dict[str | Path | ModelSpec, ModelSpec] = {}
#: Models from before a fork. They are neither used nor freed: a forked process that frees CUDA
#: memory crashes.
_inherited: list[Backend] = []
_hooked = False


@checked
def backend_for(backend: str | Path | ModelSpec | Backend, *, cache: bool = True) -> Backend:
    """Return the one backend of this process for a model.

    Args:
        backend: a preset's name, a model folder, a Hub id or a :class:`ModelSpec`; or a backend,
            which is returned as it is, uncached.
        cache: keep what is generated on disk.

    Raises:
        ValueError, TypeError: ``backend`` names no model.
        ModelError: the model is unknown, or its revision cannot be looked up.

    Example:
        >>> from diffaug import RecordingBackend
        >>> recording = RecordingBackend()
        >>> backend_for(recording) is recording
        True
    """
    global _hooked
    if is_backend(backend):
        return backend
    spec = named(backend)
    with _lock:
        if not _hooked:
            if hasattr(os, "register_at_fork"):  # not on Windows
                os.register_at_fork(after_in_child=_forget_inherited)
            atexit.register(_close_all)
            _hooked = True
        if spec not in _live:
            _live[spec] = WorkerBackend(spec) if wants_process(spec) else DiffusersBackend(spec)
        if not cache:
            return _live[spec]
        if spec not in _cached:
            _cached[spec] = CachedBackend(_live[spec])
        return _cached[spec]


def named(backend: str | Path | ModelSpec) -> ModelSpec:
    """Return the spec of a model with its revision and its size, which are looked up once."""
    with _lock:
        try:
            return _named[backend]
        except (KeyError, TypeError):  # not yet named, or not hashable, which resolve refuses
            spec = _named[backend] = pin(resolve(backend))
            return spec


def unload() -> None:
    """Free every model of this process and of its workers; the next use loads it again.

    Example:
        >>> unload()
    """
    _close_all()
    stop_processes()


def _close_all() -> None:
    with _lock:
        backends = [*_cached.values(), *_live.values()]
        for registered in (_cached, _live, _named):
            registered.clear()
    for backend in backends:
        backend.close()


def _forget_inherited() -> None:
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_live.values())
    for registered in (_cached, _live, _named):
        registered.clear()
