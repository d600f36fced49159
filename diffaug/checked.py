"""What every public callable does with its arguments before it starts, by their annotations.

A flag is True or False, a path is a path, a function can be called. What else an argument must be,
its owner says. Where no owner foresaw a value, Python's own words say nothing to a user; then the
argument that is not what its annotation says is named instead.
"""

import functools
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from diffaug.arguments import encodable, flag, path_like, shown


class _Items(Protocol):
    """What has items: a list, a dataset, a loader."""


#: A dataset may be anything that has items; its methods differ, so that no type describes it.
Items = Annotated[Any, _Items]

_T = TypeVar("_T", bound=Callable[..., Any])

#: Messages of ours begin with the name of an argument or of a file.
_OURS = re.compile(r"'|[a-z]")
#: A longer message would fill a terminal with a value.
_LONGEST = 800
_NAMES: dict[Any, str] = {
    bool: "True or False", int: "an integer", float: "a number", str: "a string",
    Sequence: "several values in an order", Iterable: "several values", Mapping: "a dict",
    Callable: "callable", type(None): "None", _Items: "a dataset, or several values",
}  # fmt: skip


def checked(public: _T) -> _T:
    """Check the arguments of a public function, or of a class, by their annotations.

    Example:
        >>> @checked
        ... def load(path: str | os.PathLike[str], *, strict: bool = False): ...
        >>> load("photos", strict="no")
        Traceback (most recent call last):
        TypeError: 'strict' must be True or False, got 'no'.
    """
    if inspect.isclass(public):
        setattr(public, "__init__", _edge(public.__init__))  # noqa: B010  (mypy knows no other way)
        return public
    return typing.cast(_T, _edge(public))


def _edge(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:
        # Looked up at the first call: the modules that annotations name may import this one.
        return typing.get_type_hints(function, include_extras=True)

    @functools.wraps(function)
    def edge(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        kinds = {name: _members(hints().get(name, Any)) for name in bound.arguments}
        try:
            for name, members in kinds.items():
                bound.arguments[name] = _plain(name, bound.arguments[name], members)
            return function(*bound.args, **bound.kwargs)
        except RecursionError as error:  # a dataset around itself, a Compose in itself
            names = [repr(n) for n, v in bound.arguments.items() if _may_hold_itself(n, v)]
            if not names:
                raise
            raise ValueError(
                f"{' or '.join(names)} must come to an end, and holds itself, or one in another "
                "without an end."
            ) from error
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, OSError) as error:
            _name_misfit(error, bound.arguments, kinds)
            raise
        except (TypeError, ValueError) as error:
            _name_misfit(error, bound.arguments, kinds)
            _shorten(error)
            raise

    return edge


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the kinds that an annotation allows, without what stands in their brackets."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(hint) for member in _members(part))
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)[1:2]
    if typing.get_origin(hint) is typing.Literal:
        return tuple({type(value) for value in typing.get_args(hint)})
    return (typing.get_origin(hint) or hint,)


def _plain(name: str, value: Any, members: tuple[Any, ...]) -> Any:
    """Return a flag, a path or a function as it is used; leave the rest to its owner."""
    kinds = {*members} - {type(None)}
    if value is None and type(None) in members:
        return value
    if kinds == {bool}:
        return flag(name, value)
    if kinds == {int} and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)  # numpy's have no JSON
    if kinds == {Callable} and not callable(value):
        raise TypeError(f"'{name}' must be callable, got {shown(value)}.")
    if kinds == {str} and isinstance(value, str) and not value.isascii():
        return encodable(name, value)
    if kinds == {Iterable} and not (isinstance(value, Iterable) and _has_items(value)):
        raise TypeError(f"'{name}' must be iterable, got {shown(value)}.")
    if kinds <= {str, Path, os.PathLike} and kinds != {str}:
        return path_like(name, value)
    if kinds & {Path, os.PathLike} and isinstance(value, (str, os.PathLike)):
        return path_like(name, value)
    return value


def _name_misfit(
    error: Exception, arguments: Mapping[str, Any], kinds: Mapping[str, tuple[Any, ...]]
) -> None:
    """Raise an error about the first argument that is not what its annotation says, if any is.

    Raises:
        TypeError: there is one, and the error does not name an argument itself.
    """
    if any(f"'{name}'" in str(error) for name in arguments):
        return
    for name, value in arguments.items():
        if name != "self" and not any(_fits(value, kind) for kind in kinds[name]):
            wanted = " or ".join(dict.fromkeys(map(_name, kinds[name])))
            raise TypeError(f"'{name}' must be {wanted}, got {shown(value)}.") from error


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of a kind, as far as that can be seen."""
    if kind is Any:
        return True
    # A tensor without values here, or with few of them, is none that can be calculated with.
    if getattr(value, "is_meta", False) is True or getattr(value, "is_sparse", False) is True:
        return False
    if kind is _Items:
        unfit = (str, bytes, bytearray, type, Mapping)
        return not isinstance(value, unfit) and hasattr(value, "__getitem__") and _has_items(value)
    if kind in (bool, int, float):
        number = {bool: bool, int: Integral, float: Real}[kind]
        return isinstance(value, number) and (kind is bool or not isinstance(value, bool))
    if kind is Callable:
        return callable(value)
    if kind in (Sequence, Iterable):
        plain = not isinstance(value, (bytes, bytearray, memoryview))
        return plain and (kind is Iterable or hasattr(value, "__getitem__")) and _has_items(value)
    if getattr(kind, "_is_protocol", False):
        methods = [name for name, member in vars(kind).items() if inspect.isfunction(member)]
        return all(hasattr(value, name) for name in methods if not name.startswith("_"))
    return not inspect.isclass(kind) or isinstance(value, kind)


def _may_hold_itself(name: str, value: Any) -> bool:
    plain = (str, bytes, Real, Path, type(None), types.FunctionType)
    return name != "self" and not isinstance(value, plain)


def _has_items(value: Any) -> bool:
    # A tensor or an array of one number has the methods, and they raise.
    return (hasattr(value, "__iter__") or hasattr(value, "__len__")) and getattr(
        value, "ndim", 1
    ) != 0


def _name(kind: Any) -> str:
    return _NAMES.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def _shorten(error: Exception) -> None:
    """Bring a message of ours that shows a long value, such as a tensor, to one line."""
    text = str(error)
    if error.args == (text,) and _OURS.match(text) and ("\n" in text or len(text) > _LONGEST):
        line = " ".join(text.split())
        error.args = (line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...",)
