"""Check plain arguments: return the value in its proper type, or raise one clear line."""

import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any


def unit(name: str, value: Any) -> float:
    """Return a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"'{name}' must be a number in [0, 1], got {value!r}.")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"'{name}' must be in [0, 1], got {value}.")
    return float(value)


def unit_range(name: str, value: Any) -> tuple[float, float]:
    """Return a range within [0, 1]; a single number is both its ends."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (unit(name, value), unit(name, value))
    bounds = tuple(unit(name, bound) for bound in value)
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"'{name}' must be a number or a range (low, high), got {bounds}.")
    return bounds


def whole(name: str, value: Any, least: int) -> int:
    """Return an integer that is at least ``least``; numpy's are accepted, True is not."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"'{name}' must be an integer, got {value!r}.")
    if number < least:
        raise ValueError(f"'{name}' must be at least {least}, got {number}.")
    return number


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Return one or more non-empty strings, stripped; a single string needs no list."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Iterable):
        raise TypeError(f"'{name}' must be a string or several, got {value!r}.")
    listed = tuple(value)
    if not listed:
        raise ValueError(f"'{name}' must hold at least one string, got none.")
    for text in listed:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"'{name}' must hold non-empty strings, got {text!r}.")
    return tuple(text.strip() for text in listed)
