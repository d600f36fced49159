"""Check plain arguments: return the value in its proper type, or raise one clear line."""

import operator
import os
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

#: The largest integer that JSON readers, torch and numpy take alike.
MOST = 2**53 - 1
#: A soft label has a number for each class, and more of them take all memory.
MOST_CLASSES = 10**7
#: As Linux has it, the system with the longest ones.
_LONGEST_PATH = 4096
#: Of an image, in pixels: a larger one takes all memory.
_LARGEST_SIDE = 1 << 15
#: The most letters of a value in a message.
_MOST_SHOWN = 200


def shown(value: Any) -> str:
    """Return a value as an error shows it: on one line that a terminal holds.

    Example:
        >>> shown("snowy"), shown([0] * 100)[-6:]
        ("'snowy'", ', 0...')
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def unit(name: str, value: Any) -> float:
    """Return a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"'{name}' must be a number in [0, 1], got {shown(value)}.")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"'{name}' must be in [0, 1], got {value}.")
    return float(value)


def unit_range(name: str, value: Any) -> tuple[float, float]:
    """Return a range within [0, 1]; a single number is both its ends."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (unit(name, value), unit(name, value))
    bounds = tuple(unit(name, bound) for bound in in_order(name, value))
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"'{name}' must be a number or a range (low, high), got {bounds}.")
    return bounds


def whole(name: str, value: Any, least: int, most: int = MOST) -> int:
    """Return an integer in a range; numpy's are accepted, True is not."""
    try:  # numpy before 2.3 gives its booleans a number
        number = None if _is_boolean(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"'{name}' must be an integer, got {shown(value)}.")
    if number < least:
        raise ValueError(f"'{name}' must be at least {least}, got {number}.")
    if number > most:
        raise ValueError(f"'{name}' must be at most {most:,}, got {number}.")
    return number


def _is_boolean(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's have one name or the other


def in_order(name: str, value: Any) -> Any:
    """Return several values as they are; refuse a set, whose order differs from run to run."""
    if isinstance(value, (set, frozenset)):
        raise TypeError(f"'{name}' must be in an order, and a set has none, got {shown(value)}.")
    return value


def flag(name: str, value: Any) -> bool:
    """Return True or False; numpy's are accepted, and nothing else."""
    if not _is_boolean(value):
        raise TypeError(f"'{name}' must be True or False, got {shown(value)}.")
    return bool(value)


def encodable(name: str, value: str) -> str:
    """Return a text that is valid Unicode, as tokenizers and files need it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"'{name}' must be valid Unicode, got {shown(value)}.") from error
    return value


def path_like(name: str, value: Any) -> Any:
    """Return a path as it is, if it can be one."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(f"'{name}' must be a path, got {shown(value)}.")
    text = os.fspath(value)
    if not text.strip() or "\0" in text:
        raise ValueError(f"'{name}' must be a path, got {shown(text)}.")
    if len(os.fsencode(text)) > _LONGEST_PATH:
        raise ValueError(
            f"'{name}' must be a path of at most {_LONGEST_PATH:,} bytes, got {shown(text)}."
        )
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Return one or more non-empty strings, stripped; a single string needs no list."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Iterable):
        raise TypeError(f"'{name}' must be a string or several, got {shown(value)}.")
    listed = tuple(in_order(name, value))
    if not listed:
        raise ValueError(f"'{name}' must hold at least one string, got none.")
    for text in listed:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"'{name}' must hold non-empty strings, got {shown(text)}.")
    return tuple(text.strip() for text in listed)


def same_name(given: Any, known: Iterable[str]) -> str | None:
    """Return the name that is meant; case, dashes, underscores and spaces do not count.

    Example:
        >>> same_name("TI_Mix", ["diff-mix", "ti-mix"])
        'ti-mix'
    """
    if not isinstance(given, str):
        return None
    names = list(known)
    if given in names:
        return given
    return {_plain(name): name for name in names}.get(_plain(given))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


def choice(name: str, value: Any, known: Iterable[str], also: str = "") -> str:
    """Return one of several names, however it is spelt; ``also`` says what else there may be."""
    names = list(known)
    if (found := same_name(value, names)) is None:
        raise ValueError(f"'{name}' must be one of {', '.join(names)}{also}, got {shown(value)}.")
    return found


def image_size(name: str, value: Any) -> int | tuple[int, int]:
    """Return the size to resize images to, as ``v2.Resize`` takes it.

    A number is the shorter side; two are height and width. Text may give either, as ``"64"``,
    ``"64,48"`` or ``"64x48"``.

    Example:
        >>> image_size("size", 64), image_size("size", "64,48"), image_size("size", [64, 48])
        (64, (64, 48), (64, 48))
    """
    sides = value
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[+-]?\d+\s*([,xX×]\s*[+-]?\d+\s*)?", value):
            raise ValueError(
                f"'{name}' must be N (the shorter side) or H,W in pixels, got {shown(value)}."
            )
        sides = [int(side) for side in re.split("[,xX×]", value)]
    if not isinstance(sides, Iterable):
        return whole(name, sides, 1, _LARGEST_SIDE)
    sides = tuple(whole(name, side, 1, _LARGEST_SIDE) for side in in_order(name, sides))
    if len(sides) not in (1, 2):
        raise ValueError(
            f"'{name}' must be N (the shorter side) or H,W in pixels, got {shown(value)}."
        )
    return sides if len(sides) == 2 else sides[0]


def resized_shape(shape: Sequence[int], size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width after ``v2.Resize(size)``.

    Example:
        >>> resized_shape((20, 30), 40), resized_shape((20, 30), (40, 40))
        ((40, 60), (40, 40))
    """
    if not isinstance(size, int):
        return size
    height, width = shape
    short = min(height, width)
    return (int(size * height / short), int(size * width / short))


def square_side(name: str, value: Any) -> int:
    """Return the side of a square, given as ``image_size`` takes it.

    Example:
        >>> square_side("size", "64"), square_side("size", "64x64")
        (64, 64)
    """
    size = image_size(name, value)
    if isinstance(size, int):
        return size
    if size[0] != size[1]:
        raise ValueError(f"'{name}' must be the side of a square in pixels, got {shown(value)}.")
    return size[0]
