"""Whether a file that a download left here is whole, and how to get it again if not."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from diffaug.backends.presets import name_of
from diffaug.untrusted import open_regular

#: Larger files are not hashed each time: their header says how long they are.
_SMALL = 16_000_000
_GIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def is_whole(file: Path) -> bool:
    """Return whether a file is here and as long as it says, or has the hash that it is stored by.

    A link that leads nowhere is no file. The cache of the Hub stores small files by git's hash of
    them, and others by their SHA-256.
    """
    try:
        with open_regular(file) as opened:
            size = os.fstat(opened.fileno()).st_size
        if file.suffix == ".safetensors":
            return _length(file) == size
        if size > _SMALL:
            return True
        content, stored = file.read_bytes(), file.resolve().name
        if _SHA256.fullmatch(stored):
            return hashlib.sha256(content).hexdigest() == stored
        if _GIT.fullmatch(stored):
            blob = b"blob %d\0" % size + content
            return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == stored
        if file.suffix == ".json":
            json.loads(content)
        return True
    except (OSError, ValueError):
        return False


def _length(file: Path) -> int:
    """Return how many bytes a safetensors file has by its header."""
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
        if not 0 < header < 100_000_000:  # more than the library itself would read
            return -1
        tensors = json.loads(opened.read(header))
    ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
    return 8 + header + max(ends, default=0)


def has_vocabulary(kind: str, names: Iterable[str]) -> bool:
    """Return whether a tokenizer's files hold its words; without them it reads all texts alike."""
    names = set(names)
    return (
        kind.startswith("ByT5")  # it reads bytes
        or {"vocab.json", "merges.txt"} <= names
        or bool(names & {"tokenizer.json", "vocab.txt", "tekken.json"})
        or any(name.endswith(".model") for name in names)
    )


def next_step(folder: Path) -> str:
    """Return what to do about a damaged part of a model."""
    for parent in folder.parents:
        kind, _, name = parent.name.partition("--")
        if kind == "models" and name:
            return f"run `diffaug download --force {name_of(name.replace('--', '/', 1))}`"
    return "get it again"
