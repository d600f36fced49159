"""Generated images kept on disk: no model generates the same image twice.

An entry is one file, ``ab/abcdef....jpeg``: a line of text (format, checksum, where the image comes
from) and the image after it. An entry is written under another name and renamed, so processes share
a folder without a lock. An entry that does not match its checksum counts as absent.
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
from typing import Any, Literal, NamedTuple, get_args

import torch

from diffaug import images
from diffaug.arguments import whole
from diffaug.backends.base import Backend, answers_of
from diffaug.backends.request import Generated, GenerationRequest, check_rgb
from diffaug.checked import checked
from diffaug.errors import unwritable
from diffaug.files import cache_root, write_whole
from diffaug.untrusted import open_regular, parse_json

Format = Literal["jpeg", "raw"]

_log = logging.getLogger(__name__)

#: Raise it when entries are written in another way than before; old ones then count as absent.
_ENTRY_VERSION = 1
_START_BYTES = len(f"diffaug-{_ENTRY_VERSION} ") + 64 + 1
_OUR_NAME = re.compile(r"[0-9a-f]{64}\.(jpeg|raw)(\.[0-9a-f]{16}\.tmp)?")
_TOUCH_SECONDS = 600  # an entry used more recently is not marked as used again: it saves a write
_MOST_BYTES = 100_000_000  # of an entry
_STALE_SECONDS = 3600  # no write takes so long: the process that wrote was killed


@dataclass(frozen=True)
class CacheInfo:
    """Say what is in a cache folder, or what was removed from it.

    Args:
        folder: the cache folder.
        entries: number of images.
        bytes: their size on disk.
    """

    folder: Path
    entries: int
    bytes: int


class _File(NamedTuple):
    """An entry or a temporary file; the least recently used sort first."""

    used: float
    bytes: int
    path: str
    temporary: bool


@checked
class CachedBackend(Backend):
    """Keep what a backend generates on disk, and generate only what is not there.

    An image is always what its entry decodes to, even if it was generated a moment ago: a cache
    that is warm, cold or not writable gives the same pixels. Fallbacks are not kept. Any number of
    processes and threads may share a folder. A damaged entry is generated again.

    Args:
        backend: the backend that generates; what is missing of one call goes to it in one call.
        folder: where entries are kept; None is ``generated`` in ``DIFFAUG_CACHE`` or in the
            platform's folder for caches, looked up on first use.
        max_bytes: about how large all entries may be together; beyond that the least recently used
            are removed.
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
        if format not in get_args(Format):
            raise ValueError(f"'format' must be jpeg or raw, got {format!r}.")
        self.backend = backend
        given: Any = max_bytes
        plain = isinstance(given, float) and given.is_integer()  # such as 20e9
        self.max_bytes = whole("max_bytes", int(given) if plain else given, 1)
        self.format = format
        self._folder = folder
        self._warned = False

    @cached_property
    def folder(self) -> Path:
        """Folder that holds the entries."""
        return _absolute(self._folder)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the wrapped backend."""
        fingerprint = self.backend.fingerprint
        if not isinstance(fingerprint, str):
            raise TypeError(f"'backend' must have a text as its fingerprint, got {fingerprint!r}.")
        return fingerprint

    @property
    def size(self) -> int | None:
        """Working size of the wrapped backend."""
        return self.backend.size

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Return one image for each request, in order, from disk where it is there."""
        fingerprint = self.fingerprint
        names = [f"{request.key(fingerprint)}.{self.format}" for request in requests]
        answers: dict[str, Generated] = {}
        missing: dict[str, GenerationRequest] = {}
        for name, request in dict(zip(names, requests, strict=True)).items():
            if stored := self._read(name):
                answers[name] = stored
            else:
                missing[name] = request
        if missing:
            fresh = answers_of(self.backend, list(missing.values()))
            for name, generated in zip(missing, fresh, strict=True):
                answers[name] = self._keep(name, generated)
        if len(answers) == len(names):  # no request occurs twice
            return [answers[name] for name in names]
        # A copy for each request: changing one image in place must not reach its duplicates.
        return [replace(answers[name], image=answers[name].image.clone()) for name in names]

    def keep(self, request: GenerationRequest, generated: Generated) -> None:
        """Keep what the wrapped backend made of a request.

        Raises:
            DestinationError: it cannot be kept, as on a disk that is full. ``generate`` warns once
                and goes on instead, since its caller needs the image.
        """
        name = f"{request.key(self.fingerprint)}.{self.format}"
        try:
            self._write(name, _encode(name, generated, self.format))
        except OSError as error:
            raise unwritable(self.folder, error, "written to") from error

    def holds(self, request: GenerationRequest) -> bool:
        """Return whether a request has an entry; only reading shows whether that is whole."""
        # Unlike that of Path, it is False where the folder may not be read.
        return os.path.exists(self._path(f"{request.key(self.fingerprint)}.{self.format}"))

    def bytes_for(self, size: int) -> int:
        """Return about how many bytes an entry takes whose image has this side in pixels."""
        # Photographs at quality 95 take about 40 kB for 256 x 256.
        return 3 * size**2 if self.format == "raw" else round(0.6 * size**2) + 1000

    def close(self) -> None:
        """Close the wrapped backend; the entries stay."""
        self.backend.close()

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _read(self, name: str) -> Generated | None:
        try:
            path = os.path.join(self.folder, name[:2], name)  # a third of the time of Path
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                data = bytearray(min(status.st_size, _MOST_BYTES))
                file.readinto(data)
            stored = _decode(name, data)
        except OSError:
            return None
        except ValueError:
            _log.info("Cache entry %s is damaged; its image is generated again.", path)
            return None
        if time.time() - status.st_mtime > _TOUCH_SECONDS:
            with suppress(OSError):
                os.utime(path)
        return stored

    def _keep(self, name: str, generated: Generated) -> Generated:
        if generated.fallback:  # it may be the caller's own source, so it is copied
            return replace(generated, image=generated.image.clone())
        data = _encode(name, generated, self.format)
        try:
            self._write(name, data)
        except OSError as error:
            if not self._warned:
                self._warned = True
                with suppress(OSError):  # there is no home folder, as the error says
                    error = OSError(f"cannot write to '{self.folder}' ({error.strerror or error})")
                warnings.warn(
                    f"Generated images are not kept: {error}.",
                    RuntimeWarning,
                    stacklevel=3,
                )
        return _decode(name, data)

    def _write(self, name: str, data: bytearray) -> None:
        with suppress(FileNotFoundError):  # another process is clearing the cache
            write_whole(self._path(name), data)
        # Listing a large folder takes seconds, so it is done about once for each hundredth of the
        # cap that is written. A key is as good as a random number, so that holds for any number of
        # processes, however short they live. The cap is exceeded by about 1 %.
        if int(name[:8], 16) / 2**32 < 100 * len(data) / self.max_bytes:
            _evict(self.folder, self.max_bytes)


@checked
def cache_info(folder: str | os.PathLike[str] | None = None) -> CacheInfo:
    """Count the images in a cache folder.

    Args:
        folder: as for ``CachedBackend``; a folder that does not exist is empty.

    Example:
        >>> from diffaug import cache_info
        >>> cache_info("no/such/folder").entries
        0
    """
    root = _absolute(folder)
    return _count(root, _files(root))


def clear_cache(folder: str | os.PathLike[str] | None = None) -> CacheInfo:
    """Remove every entry and temporary file of a cache, and return what was removed; others stay.

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


def _encode(name: str, generated: Generated, format: Format) -> bytearray:
    image = generated.image
    content = images.encode_image(image, "jpg") if format == "jpeg" else image.numpy().tobytes()
    about = {
        "format": format,
        "shape": image.shape,
        "seed": generated.seed,
        "attempts": generated.attempts,
    }
    body = json.dumps(about).encode() + b"\n" + content
    return bytearray(_start(name, body) + body)


def _decode(name: str, data: bytearray) -> Generated:
    """Read an entry, or raise ValueError if it is damaged or belongs elsewhere."""
    if data[:_START_BYTES] != _start(name, memoryview(data)[_START_BYTES:]):
        raise ValueError("checksum does not match")
    end = data.index(b"\n")
    about = parse_json(data[_START_BYTES:end])
    try:  # a checksum says that it is whole, and not who wrote it
        if about["format"] == "jpeg":
            image = images.read_image(io.BytesIO(memoryview(data)[end + 1 :]))
        else:
            image = torch.frombuffer(data, dtype=torch.uint8, offset=end + 1).view(about["shape"])
        check_rgb(image, "image")
        seed, attempts = whole("seed", about["seed"], 0), whole("attempts", about["attempts"], 1)
    except (LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"it is not as diffaug writes it: {error}") from error
    return Generated(image, seed=seed, attempts=attempts)


def _start(name: str, body: bytes | memoryview) -> bytes:
    # The name is in the checksum, so an entry copied to another name is noticed, too.
    sha = hashlib.sha256(name.encode())
    sha.update(body)
    return f"diffaug-{_ENTRY_VERSION} {sha.hexdigest()} ".encode()


def _files(root: Path) -> Iterator[_File]:
    """Yield entries and temporary files; other processes may remove them meanwhile."""
    for prefix in range(256):
        with suppress(OSError):
            # A list, since some file systems skip names when others are removed during the scan.
            for file in list(os.scandir(root / f"{prefix:02x}")):
                with suppress(FileNotFoundError):
                    if match := _OUR_NAME.fullmatch(file.name):
                        status = file.stat(follow_symlinks=False)
                        yield _File(status.st_mtime, status.st_size, file.path, bool(match[2]))


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
    # The list is made only now, since that of a million entries takes a few hundred megabytes.
    for file in sorted(file for file in _files(root) if not file.temporary):
        # Only a little: a slow disk takes milliseconds for each file, and a caller is waiting.
        if total <= 0.98 * max_bytes:
            break
        _remove(file.path)
        total -= file.bytes
