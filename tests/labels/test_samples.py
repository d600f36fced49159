"""Where a sample keeps its image and its label."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch

from diffaug.labels.label import class_number
from diffaug.labels.samples import get, image_place, label_place, put

Named = namedtuple("Named", "image label path")

SAMPLES = {
    "tuple": (("image", 3), (0,), (1,)),
    "list": (["image", 3, "more"], (0,), (1,)),
    "named tuple": (Named("image", 3, "a.png"), (0,), (1,)),
    "dict": ({"label": 3, "image": "image"}, ("image",), ("label",)),
    "Hugging Face's dict": ({"img": "image", "fine_label": 3}, ("img",), ("fine_label",)),
    "dict of batches": ({"pixel_values": "image", "labels": 3}, ("pixel_values",), ("labels",)),
    "dict beside the image": (("image", {"labels": 3}), (0,), (1, "labels")),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_image_and_label_are_found_by_place(kind):
    sample, image_at, label_at = SAMPLES[kind]
    assert (image_at, label_at) == (image_place(sample), label_place(sample))
    assert ("image", 3) == (get(sample, image_at), get(sample, label_at))


@pytest.mark.parametrize("kind", SAMPLES)
def test_put_changes_one_place_of_a_copy_of_the_same_type(kind):
    sample, image_at, label_at = SAMPLES[kind]
    made = put(sample, label_at, 9)
    assert (type(sample), len(sample)) == (type(made), len(made))
    assert ("image", 9) == (get(made, image_at), get(made, label_at))
    assert 3 == get(sample, label_at)
    assert sample == put(made, label_at, 3)


def test_put_shares_what_it_does_not_change():
    boxes = [1, 2]
    sample = ("image", {"label": 3, "boxes": boxes})
    assert put(sample, (1, "label"), 4)[1]["boxes"] is boxes


def test_put_keeps_the_order_of_keys():
    sample = OrderedDict(label=3, image="image")
    assert ["label", "image"] == list(put(sample, ("label",), 4))


def test_put_at_no_place_is_the_value_itself():
    assert 4 == put(("image", 3), (), 4)


@pytest.mark.parametrize(
    ("sample", "getter", "place"),
    [
        (("image", "path", 7), 2, (2,)),
        (("image", "path", 7), -1, (-1,)),
        ({"image": 0, "species": 7}, "species", ("species",)),
        ({"image": "i", "meta": {"y": 7}}, lambda sample: sample["meta"]["y"], ("meta", "y")),
        (("i", ["path", 7]), lambda sample: sample[1][1], (1, 1)),
    ],
)
def test_a_getter_says_where_another_label_is(sample, getter, place):
    assert place == label_place(sample, getter)
    assert 7 == get(sample, place)


def test_a_callable_s_label_is_found_although_an_equal_one_is_elsewhere():
    label, other = torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5])
    assert (2,) == label_place(("image", other, label), lambda sample: sample[2])


@pytest.mark.parametrize(
    ("sample", "getter", "message"),
    [
        ("image", "default", r"must be \(image, label\) or a dict of them, got str"),
        (torch.zeros(3), "default", "or a dict of them, got Tensor"),
        (("image",), "default", "or a dict of them, got tuple"),
        ({"image": 0, "y": 1}, "default", "its label under one of the keys label, labels, fine_la"),
        ({"image": 0, "y": 1}, "default", "got image, y; rename it."),
        ({}, "default", "got none"),
        (("image", {"y": 1}), "default", "got y"),
        ({"image": 0}, "y", "'labels_getter' is 'y', and a sample has no such place"),
        (("image", 1), "label", "'labels_getter' is 'label', and a sample has no such place"),
        (("image", 1), 2, "'labels_getter' is 2, and a sample has no such place"),
        (("image", 3, 3), lambda sample: sample[1], "there 2 times; give a key or an index instea"),
        (("image", [0.5]), lambda sample: sum(sample[1]), "there 0 times; give a key or an index"),
    ],
)
def test_a_label_that_is_nowhere_is_one_clear_line(sample, getter, message):
    with pytest.raises(TypeError, match=message) as caught:
        label_place(sample, getter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (torch.zeros(3, 4, 4), r"a sample must be \(image, label\) or a dict of them, got Tensor"),
        ((), "got tuple"),
        ({"x": 0}, "its image under one of the keys image, img, pixel_values, got x; rename it.$"),
    ],
)
def test_an_image_that_is_nowhere_is_one_clear_line(sample, message):
    with pytest.raises(TypeError, match=message):
        image_place(sample)


@pytest.mark.parametrize(
    "label",
    [3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3]), np.array(3), torch.int8],
)
def test_a_class_number_is_an_integer_whatever_holds_it(label):
    label = torch.tensor(3, dtype=label) if isinstance(label, torch.dtype) else label
    number = class_number(label)
    assert 3 == number and type(number) is int


@pytest.mark.parametrize(
    "label",
    [
        True,
        np.True_,
        torch.tensor(True),
        3.0,
        torch.tensor(3.0),
        np.float32(3),
        "3",
        None,
        [3],
        torch.tensor([0, 1]),
        torch.tensor([0.5, 0.5]),
    ],
)
def test_what_is_no_integer_is_no_class_number(label):
    assert class_number(label) is None
