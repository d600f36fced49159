"""Seeds: whole numbers made from values and pixels, the same on every machine."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

#: Seeds stay below this, since JSON readers turn larger integers into floats.
MAX_SEED = 2**53

#: ``json.dumps`` would make an encoder for each value.
_as_json = json.JSONEncoder(sort_keys=True).encode

#: The item for which datasets are asked now: its index, and what tells this time from others.
_item: ContextVar[tuple[object, ...] | None] = ContextVar("item", default=None)


def derive_seed(*parts: object) -> int:
    """Hash plain values and uint8 tensors to a seed in [0, 2**53), the same on every machine."""
    return int.from_bytes(digest(parts)[:8], "big") % MAX_SEED


def digest(parts: Sequence[Any]) -> bytes:
    """Hash plain values and uint8 tensors to 32 bytes."""
    sha = hashlib.sha256()
    for part in parts:
        if hasattr(part, "contiguous"):  # a tensor; importing torch takes seconds
            sha.update(repr(tuple(part.shape)).encode())
            sha.update(part.cpu().contiguous().numpy().reshape(-1).data)  # without a copy
        else:
            sha.update(_as_json(part).encode())
        sha.update(b"\0")
    return sha.digest()


@contextmanager
def asking(index: int, *occurrence: object) -> Iterator[None]:
    """Let the seeded datasets within draw for this item, without counting that they were asked.

    Without an occurrence, they draw what they draw for an item that is asked for the first time.
    """
    token = _item.set((index, *occurrence))
    try:
        yield
    finally:
        _item.reset(token)


def asked() -> tuple[object, ...] | None:
    """Return the index and the occurrence of ``asking``; None outside it."""
    return _item.get()
