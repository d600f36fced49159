"""Plain arguments are taken in their proper type, or refused in one line."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_folders import contents, save_photos
from torchvision.transforms import v2

from diffaug import (
    DiffMix,
    FractalBank,
    FractalBlend,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
)
from diffaug.arguments import (
    choice,
    image_size,
    resized_shape,
    same_name,
    square_side,
    texts,
    unit,
    unit_range,
    whole,
)
from diffaug.datasets.generated import numbers_of


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


@pytest.mark.parametrize("spelt", ["diff-mix", "Diff_Mix", " DIFF mix", "diffmix", "diff__mix"])
def test_a_name_is_found_however_it_is_spelt(spelt):
    assert "diff-mix" == same_name(spelt, ["diff-aug", "diff-mix"])
    assert "diff-mix" == choice("strategy", spelt, {"diff-aug": 1, "diff-mix": 2})


@pytest.mark.parametrize("other", ["diff-mi", "", None, 3, ["diff-mix"], "diff.mix"])
def test_another_name_is_none_of_them(other):
    assert same_name(other, ["diff-mix"]) is None
    with pytest.raises(ValueError, match="'strategy' must be one of diff-mix or another, got"):
        choice("strategy", other, ["diff-mix"], also=" or another")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *((given, 64) for given in (64, "64", " 64 ", np.int64(64), [64])),
        *(
            (given, (64, 48))
            for given in ("64,48", "64x48", "64 X 48", "64×48", (64, 48), [64, 48])
        ),
        ("64,64", (64, 64)),
    ],
)
def test_a_size_is_a_shorter_side_or_height_and_width(given, expected):
    size = image_size("size", given)
    assert expected == size and type(expected) is type(size)


@pytest.mark.parametrize("size", [7, 40, (7, 9), (33, 2)])
@pytest.mark.parametrize("shape", [(20, 30), (31, 17), (5, 5)])
def test_a_size_resizes_as_torchvision_s_does(shape, size):
    assert v2.Resize(size)(torch.zeros(3, *shape)).shape[1:] == resized_shape(shape, size)


def test_a_square_has_one_side():
    assert [64] * 4 == [square_side("size", given) for given in (64, "64", "64,64", (64, 64))]


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
        *(
            (
                lambda text=text: image_size("size", text),
                ValueError,
                r"N \(the shorter side\) or H,W",
            )
            for text in ("", "64,", "64,64,64", "big", "64.5", "64;64", "x64")
        ),
        (lambda: image_size("size", (1, 2, 3)), ValueError, r"in pixels, got \(1, 2, 3\)"),
        (lambda: image_size("size", "0"), ValueError, "'size' must be at least 1, got 0"),
        (lambda: image_size("size", "64,-1"), ValueError, "'size' must be at least 1, got -1"),
        (lambda: image_size("size", 64.0), TypeError, "'size' must be an integer, got 64.0"),
        (lambda: image_size("size", True), TypeError, "'size' must be an integer, got True"),
        (lambda: image_size("size", (64, 4.5)), TypeError, "'size' must be an integer, got 4.5"),
        (
            lambda: square_side("size", "64,48"),
            ValueError,
            "the side of a square in pixels, got '64",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("value", [{"cat", "dog"}, frozenset({"cat"})])
def test_a_set_is_refused_where_order_counts(value, tmp_path):
    data = [(torch.zeros(3, 16, 16, dtype=torch.uint8), 0)]
    blend = FractalBlend(fractals=FractalBank(2, 16))
    for call in (
        lambda: augment_dataset(data, tmp_path, blend, class_names=value),
        lambda: PromptEdit(value, backend=RecordingBackend()),
        lambda: DiffMix(value, backend=RecordingBackend()),
        lambda: numbers_of(value),
        lambda: unit_range("strength", {0.1, 0.4}),
        lambda: image_size("size", {16, 32}),
    ):
        with pytest.raises(
            TypeError, match="'.*' must be (in an order|several names in the order)"
        ):
            call()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"per_image": 1.5}, "'per_image' must be an integer, got 1.5"),
        ({"per_image": 0}, "'per_image' must be at least 1, got 0"),
        ({"seed": float("nan")}, "'seed' must be an integer, got nan"),
        ({"seed": None}, "'seed' must be an integer, got None"),
        ({"seed": True}, "'seed' must be an integer, got True"),
        ({"seed": "x"}, "'seed' must be an integer, got 'x'"),
        ({"include_originals": "no"}, "'include_originals' must be True or False, got 'no'"),
        ({"strict": 1}, "'strict' must be True or False, got 1"),
        ({"shard": True}, "'shard' must be like '3/16', got True"),
        ({"only": []}, "'only' must name at least one image, or be None, got none"),
        ({"only": "a/1.png"}, "'only' must be several paths below the source"),
    ],
)
def test_an_option_of_a_run_that_is_none_is_said_before_anything_is_made(tmp_path, options, said):
    save_photos(tmp_path / "photos", ["a/1.png"])
    edit = PromptEdit(backend=RecordingBackend())
    with pytest.raises((TypeError, ValueError), match=said):
        augment_folder(tmp_path / "photos", tmp_path / "set", edit, **options)
    assert not (tmp_path / "set").exists()


def test_numbers_of_numpy_are_numbers(tmp_path):
    save_photos(tmp_path / "photos", ["a/1.png"])
    edit = PromptEdit(backend=RecordingBackend())
    odd = {"per_image": np.int64(2), "seed": np.uint8(3), "size": np.int32(16)}
    augment_folder(tmp_path / "photos", tmp_path / "a", edit, strict=np.bool_(False), **odd)
    augment_folder(tmp_path / "photos", tmp_path / "b", edit, per_image=2, seed=3, size=16)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
