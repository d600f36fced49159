"""What a map-style dataset is, and which item an index means."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset

from diffaug.arguments import shown

ITERATED = "map the transform over what can only be iterated: dataset.map(mix)"


def position(index: Any, length: int) -> int:
    """Return the index of an item, counted from the front."""
    boolean = isinstance(index, bool) or getattr(index, "dtype", None) is torch.bool
    try:
        number = operator.index(index)
    except TypeError:
        number = None
    if number is None or boolean:
        raise TypeError(f"'index' must be an integer, got {shown(index)}.")
    if not -length <= number < length:
        raise IndexError(f"'index' must be below {length}, got {number}.")
    return number % length


def check_dataset(dataset: Any, advice: str = ITERATED) -> None:
    """Raise unless a dataset is map-style; the advice is for what can only be iterated."""
    map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    # Those of torch inherit a method that raises, and may have a length.
    iterable = isinstance(dataset, IterableDataset)
    if map_style and not iterable and not isinstance(dataset, Mapping):
        return
    hint = ""
    if isinstance(dataset, Mapping):
        hint = "; pass one of its splits"
    elif iterable or hasattr(dataset, "__iter__"):
        hint = f"; {advice}"
    raise TypeError(
        f"'dataset' must have a length and integer indices, got {type(dataset).__name__}{hint}."
    )
