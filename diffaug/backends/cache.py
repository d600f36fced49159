"""Generated images kept on disk: no model is asked twice for the same image.

An entry is one file, ``ab/abcdef....jpeg``: a line of text (format, checksum, where the image comes
from) and the image after it. Entries are written under another name and renamed, so processes share
a folder without a lock; one that does not match its checksum counts as absent.
"""

import hashlib
import io
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch

from diffaug import images
from diffaug.backends.base import Backend
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.files import cache_root, write_whole

Format = Literal["jpeg", "raw"]

_log = logging.getLogger(__name__)

_VERSION = 1
_START_BYTES = len(f"diffaug-{_VERSION} ") + 64 + 1
_OUR_NAME = re.compile(r"[0-9a-f]{64}\.(jpeg|raw)(\.[0-9a-f]{16}\.tmp)?")
_TOUCH_SECONDS = 600  # a hit on an entry used more recently spares the disk a write
_STALE_SECONDS = 3600  # no write takes so long: its process was killed


@dataclass(frozen=True)
class CacheInfo:
    """Say what lies in a cache folder, or what was removed from it.

    Args:
        folder: where the cache is.
        entries: number of images.
        bytes: their size on disk.
    """

    folder: Path
    entries: int
    bytes: int


class _File(NamedTuple):
    """A file of ours; the least recently used sort first."""

    used: float
    bytes: int
    path: str
    temporary: bool


class CachedBackend(Backend):
    """Keep what a backend generates on disk, and ask it only for what is not there.

    An image is what was read back from its entry, also when it has just been made: whether the
    cache is warm, cold or not writable never changes a pixel. Fallbacks are not kept. Any number of
    processes and threads may share a folder; a damaged entry is made again.

    Args:
        backend: the backend to ask; everything missing in one call goes to it in one call.
        folder: where entries are kept; None is ``generated`` in ``DIFFAUG_CACHE`` or in the
            platform's folder for caches, looked up on first use.
        max_bytes: size of all entries together, about; beyond it the least recently used go.
        format: ``"jpeg"`` at quality 95, about 40 kB for 256 x 256 pixels, or ``"raw"``: the exact
            pixels, 192 kB, read faster. Each format has its own entries.

    Raises:
        TypeError: ``backend`` has no ``generate``.
        ValueError: ``max_bytes`` is not positive, or ``format`` is unknown.

    Example:
        >>> import tempfile
        >>> from diffaug import CachedBackend, GenerationRequest, RecordingBackend
        >>> model, request = RecordingBackend(size=8), GenerationRequest("sunset", seed=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     backend = CachedBackend(model, folder=folder)
        ...     [first], [again] = backend.generate([request]), backend.generate([request])
        >>> bool((first.image == again.image).all()), len(model.requests)
        (True, 1)
    """

    def __init__(
        self,
        backend: Backend,
        *,
        folder: str | os.PathLike[str] | None = None,
        max_bytes: int = 20 * 10**9,
        format: Format = "jpeg",
    ) -> None:
        if not callable(getattr(backend, "generate", None)):
            raise TypeError(f"'backend' must be a backend, got {type(backend).__name__}.")
        if max_bytes <= 0:
            raise ValueError(f"'max_bytes' must be positive, got {max_bytes}.")
        if format not in get_args(Format):
            raise ValueError(f"'format' must be jpeg or raw, got {format!r}.")
        self.backend = backend
        self.max_bytes = max_bytes
        self.format = format
        self._asked_folder = folder
        self._warned = False

    @cached_property
    def folder(self) -> Path:
        """Folder that holds the entries."""
        return _absolute(self._asked_folder)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the backend that is asked."""
        return self.backend.fingerprint

    @property
    def size(self) -> int | None:
        """Working size of the backend that is asked."""
        return self.backend.size

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Return one image for each request, in order, from disk where it is there."""
        fingerprint = self.fingerprint
        names = [f"{request.key(fingerprint)}.{self.format}" for request in requests]
        found: dict[str, Generated] = {}
        missing: dict[str, GenerationRequest] = {}
        for name, request in dict(zip(names, requests, strict=True)).items():
            if stored := self._read(name):
                found[name] = stored
            else:
                missing[name] = request
        if missing:
            answers = self.backend.generate(list(missing.values()))
            for name, made in zip(missing, answers, strict=True):
                # A fallback may be the caller's own source.
                own = replace(made, image=made.image.clone()) if made.fallback else None
                found[name] = own or self._store(name, made)
        if len(found) == len(names):  # each was read for this request alone
            return list(map(found.__getitem__, names))
        # A copy for each request: changing one image in place must not reach its duplicates.
        return [replace(found[name], image=found[name].image.clone()) for name in names]

    def holds(self, request: GenerationRequest) -> bool:
        """Tell whether a request has an entry; whether that is whole, only reading shows."""
        return self._path(f"{request.key(self.fingerprint)}.{self.format}").exists()

    def bytes_for(self, size: int) -> int:
        """Return about how large an entry of a square of this side in pixels is."""
        # Photographs at quality 95 take about 40 kB for 256 x 256.
        return 3 * size**2 if self.format == "raw" else round(0.6 * size**2) + 1000

    def close(self) -> None:
        """Close the backend that is asked; the entries stay."""
        self.backend.close()

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _read(self, name: str) -> Generated | None:
        path = self._path(name)
        try:
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                data = bytearray(status.st_size)
                file.readinto(data)
            stored = _decode(name, data)
        except OSError:
            return None
        except ValueError:
            _log.info("Cache entry %s is damaged; its image is made again.", path)
            return None
        if time.time() - status.st_mtime > _TOUCH_SECONDS:
            with suppress(OSError):
                os.utime(path)
        return stored

    def _store(self, name: str, made: Generated) -> Generated:
        data = _encode(name, made, self.format)
        try:
            with suppress(FileNotFoundError):  # the cache is being cleared this moment
                write_whole(self._path(name), data)
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"Generated images are not kept: cannot write to '{self.folder}' ({error}).",
                    RuntimeWarning,
                    stacklevel=3,
                )
        else:
            # Looking through a large folder takes seconds. A key is as good as a random number, so
            # this does it about once for every hundredth of the cap that is written, however many
            # processes write it and however short they live: the overrun is about a per cent.
            if int(name[:8], 16) / 2**32 < 100 * len(data) / self.max_bytes:
                _evict(self.folder, self.max_bytes)
        return _decode(name, data)


def cache_info(folder: str | os.PathLike[str] | None = None) -> CacheInfo:
    """Count the images in a cache folder.

    Args:
        folder: as for ``CachedBackend``; one that does not exist is empty.

    Example:
        >>> from diffaug import cache_info
        >>> cache_info("no/such/folder").entries
        0
    """
    root = _absolute(folder)
    return _count(root, _files(root))


def clear_cache(folder: str | os.PathLike[str] | None = None) -> CacheInfo:
    """Remove every entry and temporary file of a cache; other files stay. Return what went.

    Args:
        folder: as for ``CachedBackend``. Processes may be using it.

    Example:
        >>> from diffaug.backends.cache import clear_cache
        >>> clear_cache("no/such/folder").bytes
        0
    """
    root = _absolute(folder)
    removed = [file for file in _files(root) if _remove(file.path)]
    return _count(root, removed)


def _count(root: Path, files: Iterable[_File]) -> CacheInfo:
    sizes = [file.bytes for file in files if not file.temporary]
    return CacheInfo(root, entries=len(sizes), bytes=sum(sizes))


def _absolute(folder: str | os.PathLike[str] | None) -> Path:
    chosen = cache_root() / "generated" if folder is None else Path(folder).expanduser()
    return chosen.absolute()


def _encode(name: str, made: Generated, format: Format) -> bytearray:
    image = made.image
    content = images.encode_image(image, "jpg") if format == "jpeg" else image.numpy().tobytes()
    about = {"format": format, "shape": image.shape, "seed": made.seed, "attempts": made.attempts}
    body = json.dumps(about).encode() + b"\n" + content
    return bytearray(_start(name, body) + body)


def _decode(name: str, data: bytearray) -> Generated:
    """Read an entry, or raise ValueError if it is damaged or belongs elsewhere."""
    if data[:_START_BYTES] != _start(name, memoryview(data)[_START_BYTES:]):
        raise ValueError("checksum does not match")
    end = data.index(b"\n")
    about = json.loads(data[_START_BYTES:end])
    if about["format"] == "jpeg":
        image = images.read_image(io.BytesIO(memoryview(data)[end + 1 :]))
    else:
        image = torch.frombuffer(data, dtype=torch.uint8, offset=end + 1).view(about["shape"])
    return Generated(image, seed=about["seed"], attempts=about["attempts"])


def _start(name: str, body: bytes | memoryview) -> bytes:
    # With the name in the checksum, an entry copied to another's place is noticed too.
    sha = hashlib.sha256(name.encode())
    sha.update(body)
    return f"diffaug-{_VERSION} {sha.hexdigest()} ".encode()


def _files(root: Path) -> Iterator[_File]:
    """Yield entries and temporary files; other processes may remove them meanwhile."""
    for prefix in range(256):
        with suppress(OSError):
            # A list, since some file systems skip names when others are removed during the scan.
            for found in list(os.scandir(root / f"{prefix:02x}")):
                with suppress(FileNotFoundError):
                    if match := _OUR_NAME.fullmatch(found.name):
                        status = found.stat(follow_symlinks=False)
                        yield _File(status.st_mtime, status.st_size, found.path, bool(match[2]))


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def _evict(root: Path, max_bytes: int) -> None:
    """Remove abandoned temporary files and, beyond the cap, the least recently used entries."""
    total = 0
    for file in _files(root):
        if not file.temporary:
            total += file.bytes
        elif time.time() - file.used > _STALE_SECONDS:
            _remove(file.path)
    if total <= max_bytes:
        return
    # Only now: the list of a million entries takes a few hundred megabytes.
    for file in sorted(file for file in _files(root) if not file.temporary):
        # Not much at once: a slow disk takes milliseconds for each file, and a caller is waiting.
        if total <= 0.98 * max_bytes:
            break
        _remove(file.path)
        total -= file.bytes
