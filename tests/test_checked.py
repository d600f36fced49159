"""What every public callable does with its arguments at its door."""

import inspect
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from diffaug import (
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    class_counts,
    class_names_of,
    image_paths,
    warm_cache,
)
from diffaug.checked import checked


@checked
def door(
    path: str | os.PathLike[str] = "a",
    *,
    strict: bool = False,
    then: Callable[[int], int] | None = None,
    names: Sequence[str] = (),
    count: int = 1,
):
    return path, strict, len(names), then(count) if then else count


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"strict": 1}, TypeError, "'strict' must be True or False, got 1."),
        ({"strict": None}, TypeError, "'strict' must be True or False, got None."),
        ({"path": 5}, TypeError, "'path' must be a path, got 5."),
        ({"path": b"a"}, TypeError, "'path' must be a path, got b'a'."),
        ({"path": ""}, ValueError, "'path' must be a path, got ''."),
        ({"path": "a\0b"}, ValueError, "'path' must be a path, got 'a\\x00b'."),
        ({"then": 3}, TypeError, "'then' must be callable, got 3."),
        ({"names": 7}, TypeError, "'names' must be several values in an order, got 7."),
    ],
)
def test_an_argument_is_what_its_annotation_says(given, error, message):
    with pytest.raises(error) as caught:
        door(**given)
    assert message == str(caught.value)


def test_numbers_and_flags_of_numpy_become_those_of_python():
    answer = door(strict=np.bool_(True), count=np.int64(3))
    assert ("a", True, 0, 3) == answer
    assert [bool, int] == [type(answer[1]), type(answer[3])]


def test_an_error_of_the_callers_own_function_stays_as_it_is():
    def fails(number):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        door(then=fails)


def test_a_message_with_a_large_value_is_one_line():
    with pytest.raises(TypeError) as caught:
        door(strict=np.zeros((50, 50)))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@checked
@dataclass(frozen=True)
class Point:
    size: int
    fine: bool = True


def test_a_class_keeps_its_signature_and_pickles():
    assert Point(1) == pickle.loads(pickle.dumps(Point(1)))
    with pytest.raises(TypeError, match="'fine' must be True or False, got 'no'"):
        Point(1, "no")
    assert ["size", "fine"] == list(inspect.signature(Point).parameters)


class Endless(list):
    """Have a dataset inside, which has one inside, and so on, as a mock of a test has."""

    @property
    def dataset(self):
        return Endless(self)


def test_what_holds_itself_without_an_end_is_named(tmp_path):
    data, steps = Endless([(torch.zeros(3, 8, 8), 0)]), v2.Compose([v2.Identity()])
    steps.transforms.append(steps)
    edit = PromptEdit(["snowy"], backend=RecordingBackend(8))
    for call, name in (
        (lambda: augment_dataset(data, tmp_path / "set", edit), "dataset"),
        (lambda: image_paths(data), "dataset"),
        (lambda: class_names_of(data), "dataset"),
        (lambda: class_counts(data), "dataset"),
        (lambda: warm_cache([(torch.zeros(3, 8, 8), 0)], steps), "transform"),
    ):
        with pytest.raises(ValueError, match=f"'{name}'.* must come to an end, and holds itself"):
            call()
    assert not (tmp_path / "set").exists()
