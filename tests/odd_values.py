"""What people give to an argument by mistake, and what an argument should answer.

An answer to a wrong value is one line that diffaug raises on purpose. Whatever Python, torch or
Pillow raise amid our code says nothing to a user.
"""

import dis
import io
import traceback
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from PIL import Image

import diffaug
from diffaug.errors import DiffaugError

#: Makes each value afresh, since some are used up or changed by whoever takes them.
ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None, "True": lambda: True, "False": lambda: False,
    "0": lambda: 0, "1": lambda: 1, "2": lambda: 2, "-1": lambda: -1, "2**53": lambda: 2**53,
    "10**30": lambda: 10**30, "-(10**30)": lambda: -(10**30),
    "0.0": lambda: 0.0, "0.5": lambda: 0.5, "-0.5": lambda: -0.5, "1.0": lambda: 1.0,
    "1.5": lambda: 1.5, "1e300": lambda: 1e300, "1e-300": lambda: 1e-300,
    "nan": lambda: float("nan"), "inf": lambda: float("inf"), "-inf": lambda: float("-inf"),
    "1j": lambda: 1j, "Decimal": lambda: Decimal("0.5"), "Fraction": lambda: Fraction(1, 2),
    "''": lambda: "", "' '": lambda: " ", "'a'": lambda: "a", "'0.5'": lambda: "0.5",
    "'no'": lambda: "no", "'auto'": lambda: "auto", "NUL": lambda: "a\0b",
    "surrogate": lambda: "a\udc80", "tab": lambda: "a\tb", "'../x'": lambda: "../x",
    "'~nobody/x'": lambda: "~nobody/x", "100,000 letters": lambda: "x" * 100_000,
    "bytes": lambda: b"abc", "bytearray": lambda: bytearray(b"abc"),
    "memoryview": lambda: memoryview(b"abc"), "path": lambda: Path("a"),
    "[]": list, "[0]": lambda: [0], "[1, 2]": lambda: [1, 2], "[0.1, 0.9]": lambda: [0.1, 0.9],
    "[0.9, 0.1]": lambda: [0.9, 0.1], "[None]": lambda: [None], "['a']": lambda: ["a"],
    "['a', 'a']": lambda: ["a", "a"], "['']": lambda: [""], "[['a']]": lambda: [["a"]],
    "[nan]": lambda: [float("nan")], "()": tuple, "(1, 2, 3)": lambda: (1, 2, 3),
    "{}": dict, "{0: 1}": lambda: {0: 1}, "{'a': 'b'}": lambda: {"a": "b"},
    "{'cat': 1.5}": lambda: {"cat": 1.5}, "set()": set, "{'a', 'b'}": lambda: {"a", "b"},
    "{0, 1}": lambda: {0, 1}, "frozenset": lambda: frozenset({1}), "range": lambda: range(2),
    "generator": lambda: (one for one in (1, 2)), "iter": lambda: iter("ab"),
    "slice": lambda: slice(2), "object": object, "a class": lambda: Raising,
    "lambda": lambda: lambda *given: given[0], "raises": lambda: _raising,
    "module": lambda: dis,
    "exception": lambda: ValueError("x"), "np.int64": lambda: np.int64(1),
    "np.float32": lambda: np.float32(0.5), "np.bool": lambda: np.bool_(True),
    "np.str": lambda: np.str_("a"), "np zeros": lambda: np.zeros(3),
    "np empty": lambda: np.empty(0), "np objects": lambda: np.array(["a", None], dtype=object),
    "torch scalar": lambda: torch.tensor(1), "torch half": lambda: torch.tensor(0.5),
    "torch two": lambda: torch.tensor([0, 1]), "torch empty": lambda: torch.empty(0),
    "torch image": lambda: torch.zeros(3, 8, 8, dtype=torch.uint8),
    "torch floats": lambda: torch.full((3, 8, 8), float("nan")),
    "torch complex": lambda: torch.zeros(2, dtype=torch.complex64),
    "torch meta": lambda: torch.zeros(3, 8, 8, device="meta"),
    "torch sparse": lambda: torch.eye(3).to_sparse(), "PIL image": lambda: Image.new("RGB", (8, 8)),
    "Spiteful": lambda: Spiteful(), "Endless": lambda: Endless(), "mock": MagicMock,
    "datetime64": lambda: np.datetime64("2020-01-01"), "np record": lambda: np.zeros(2, "i4,f4"),
    "open file": lambda: io.BytesIO(b"abc"), "a folder's path": lambda: Path("."),
}  # fmt: skip

#: More would not be read, and would fill a terminal.
LONGEST = 1000


def _raising(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a function of the caller's")


class Raising:
    """Refuse to be made."""

    def __init__(self, *_: Any, **__: Any) -> None:
        _raising()


class Endless(list[Any]):
    """Have one more of its kind inside, as a dataset, a transform and a backend."""

    def __init__(self) -> None:
        super().__init__([(torch.zeros(3, 8, 8), 0)])

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "transform", "backend", "spec", "model", "root", "reader"):
            return Endless()
        raise AttributeError(name)


class Spiteful:
    """Take any call and give no end of nothing."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        return Spiteful()

    def __len__(self) -> int:
        return 3

    def __bool__(self) -> bool:
        return False


def fault_of(call: Callable[[], Any]) -> str | None:
    """Call something; say what is wrong with its answer, or None if it is taken or refused."""
    try:
        call()
    except Exception as error:
        return fault_in(error)
    return None


def fault_in(error: BaseException) -> str | None:
    """Say what is wrong with an error; None if we raised it on purpose, in one short line."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    where = f"{Path(frame.f_code.co_filename).name}:{line}"
    said = f"{type(error).__name__} at {where}: {str(error)[:150]!r}"
    if frame.f_code is _raising.__code__:  # a function of the caller's may raise what it likes
        return None
    if not _is_raised_by_us(error):
        return f"foreign: {said}"
    if not isinstance(error, (ValueError, TypeError, IndexError, DiffaugError)):
        return f"of a kind that we do not document: {said}"
    if "\n" in str(error) or len(str(error)) > LONGEST:
        return f"longer than one line: {said}"
    return None


def _is_raised_by_us(error: BaseException) -> bool:
    """Tell whether a ``raise`` of the package raised it, and not Python or a library amid it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if not Path(code.co_filename).is_relative_to(Path(diffaug.__file__).parent):
        return False
    return code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
