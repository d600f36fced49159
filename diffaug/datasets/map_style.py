"""What a map-style dataset is, and which item an index means."""

import operator
from typing import Any


def position(index: Any, length: int) -> int:
    """Return the index of an item, counted from the front."""
    try:
        number = operator.index(index)
    except TypeError:
        number = None
    if number is None or isinstance(index, bool):
        raise TypeError(f"'index' must be an integer, got {index!r}.")
    if not -length <= number < length:
        raise IndexError(f"'index' must be below {length}, got {number}.")
    return number % length


def check_dataset(dataset: Any) -> None:
    """Raise unless a dataset is map-style."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"'dataset' must have a length and integer indices, got {type(dataset).__name__}."
        )
