"""Seeds: whole numbers made from values and pixels, the same on every machine."""

import hashlib
import json
from collections.abc import Sequence

import torch

#: Seeds stay below this, since JSON readers turn larger integers into floats.
MAX_SEED = 2**53


def derive_seed(*parts: object) -> int:
    """Hash plain values and uint8 tensors to a seed in [0, 2**53), the same on every machine."""
    return int.from_bytes(digest(parts)[:8], "big") % MAX_SEED


def digest(parts: Sequence[object]) -> bytes:
    """Hash plain values and uint8 tensors to 32 bytes."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            sha.update(repr(tuple(part.shape)).encode())
            sha.update(part.cpu().contiguous().numpy().reshape(-1).data)  # without a copy
        else:
            sha.update(json.dumps(part, sort_keys=True).encode())
        sha.update(b"\0")
    return sha.digest()
