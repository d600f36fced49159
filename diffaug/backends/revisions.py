"""How the version of a model or an adapter is written, and which hash the files of one have."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from diffaug.backends.checkpoints import LORA
from diffaug.backends.model_files import TEXT, needed_files, read_index, variant_of
from diffaug.backends.presets import HUB_ID
from diffaug.backends.spec import ModelSpec
from diffaug.errors import ModelError, one_line
from diffaug.untrusted import open_regular

_HUB_FILE = re.compile(rf"(?P<repository>{HUB_ID.pattern})/(?P<file>[\w./-]+\.safetensors)")
_WEIGHT = re.compile(r"\*(\d+(?:\.\d+)?)$")


def split_file(adapter: str) -> tuple[str, str | None]:
    """Split ``"org/name/file.safetensors"`` of the Hub; what exists on disk is a path."""
    reference, _ = split_revision(adapter)
    match = _HUB_FILE.fullmatch(reference)
    if match is None or Path(reference).expanduser().exists():
        return reference, None
    return match["repository"], match["file"]


def weight_of(adapter: str) -> float:
    """Return how strongly an adapter is applied: the number after a ``*``, otherwise 1."""
    match = _WEIGHT.search(adapter)
    return float(match[1]) if match else 1.0


def split_revision(adapter: str) -> tuple[str, str | None]:
    """Split ``"name@revision"``; the revision may be absent. A weight is left out."""
    adapter = _WEIGHT.sub("", adapter)
    reference, at, revision = adapter.rpartition("@")
    hub = HUB_ID.fullmatch(reference) or _HUB_FILE.fullmatch(reference)
    known = revision.startswith("sha256:") or hub
    return (reference, revision) if at and known else (adapter, None)


def only_file(names: Iterable[str], adapter: str) -> str | None:
    """Return which of a folder's files is the adapter; of several without a known name, none is."""
    files = sorted(names)
    if LORA in files:
        return LORA
    if len(files) > 1:
        reference, _ = split_revision(adapter)
        raise ModelError(
            f"the adapter '{reference}' must be one file, and the folder holds {len(files)}: "
            f"{', '.join(files[:6])}{', ...' if len(files) > 6 else ''}; name one, as "
            f"'{reference}/{files[-1]}'."
        )
    return files[0] if files else None


def hash_files(path: Path, spec: ModelSpec | None) -> str:
    """Hash what loading reads of a model folder, or of an adapter.

    Raises:
        ModelError: a file cannot be read, as one of another user, or one that never ends.
    """
    try:
        return _hash_read(path, spec)
    except OSError as error:
        raise ModelError(
            f"'{error.filename or path}' of a model or adapter could not be read "
            f"({error.strerror or one_line(error)}); mend it, or get it again."
        ) from error


def _hash_read(path: Path, spec: ModelSpec | None) -> str:
    if spec is not None and (path / "model_index.json").is_file():
        names = [file.relative_to(path).as_posix() for file in path.glob("*/*")]
        return _hash(path, map(path.joinpath, needed_files(names, read_index(path), spec)))
    if spec is None and path.is_dir():
        chosen = only_file((file.name for file in path.glob("*.safetensors")), str(path))
        path = path / chosen if chosen else path
    return _hash(path, _files_of(path))


def other_hashes(path: Path, spec: ModelSpec | None) -> Iterator[str]:
    """Yield other hashes of the same files: of other variants, and of all, as older folders say."""
    if spec is not None and path.is_dir():
        variants = {variant_of(file.name) for file in path.glob("*/*.safetensors")}
        for variant in variants | {None}:
            for checks in (False, True):
                with suppress(ModelError):  # there may be no whole set of weights
                    other = replace(spec, variant=variant, safety_checker=checks)
                    yield hash_files(path, other)
    yield _hash(path, _files_of(path))


def _files_of(path: Path) -> list[Path]:
    return [
        file
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.suffix in {".safetensors", *TEXT}
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]


def _hash(path: Path, files: Iterable[Path]) -> str:
    sha = hashlib.sha256()
    for file in sorted(set(files)):
        sha.update(file.relative_to(path).as_posix().encode() + b"\0")
        stat = file.stat()
        sha.update(_hash_file(file, stat.st_size, stat.st_mtime_ns))
    return f"sha256:{sha.hexdigest()}"


@lru_cache(maxsize=1024)
def _hash_file(file: Path, size: int, changed: int) -> bytes:
    with open_regular(file) as opened:
        return hashlib.file_digest(opened, "sha256").digest()
