"""Plain arguments are taken in their proper type, or refused in one line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.arguments import texts, unit, unit_range, whole


@given(st.floats(0, 1))
def test_numbers_in_range_come_back_as_they_are(value):
    assert value == unit("p", value) == unit("p", np.float64(value))
    assert (value, value) == unit_range("alpha", value)
    assert (value, 1.0) == unit_range("alpha", np.array([value, 1.0]))


def test_integers_of_numpy_become_python_s():
    assert type(whole("seed", np.int64(3), 0)) is int


def test_strings_are_stripped():
    assert ("a b",) == texts("prompts", " a b ")
    assert ("a", "b") == texts("prompts", ("a", " b"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: unit("p", "0.5"), TypeError, r"'p' must be a number in \[0, 1\], got '0.5'"),
        (lambda: unit("p", None), TypeError, "got None"),
        (lambda: unit("p", True), TypeError, "got True"),
        (lambda: unit("p", float("nan")), ValueError, "got nan"),
        (lambda: unit("p", 1.5), ValueError, r"'p' must be in \[0, 1\], got 1.5"),
        (lambda: unit_range("alpha", (0.1, 0.2, 0.3)), ValueError, "a range"),
        (lambda: unit_range("alpha", (0.2, 0.1)), ValueError, "a range"),
        (lambda: unit_range("alpha", "0.1"), TypeError, "got '0.1'"),
        (lambda: whole("variants", 1.5, 1), TypeError, "must be an integer, got 1.5"),
        (lambda: whole("variants", True, 1), TypeError, "must be an integer, got True"),
        (lambda: whole("variants", 0, 1), ValueError, "must be at least 1, got 0"),
        (lambda: texts("masks", 3), TypeError, "'masks' must be a string or several, got 3"),
        (lambda: texts("prompts", None), TypeError, "got None"),
        (lambda: texts("prompts", []), ValueError, "at least one string, got none"),
        (lambda: texts("prompts", ["a", ""]), ValueError, "non-empty strings, got ''"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
