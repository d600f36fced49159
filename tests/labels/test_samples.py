"""Where a sample keeps its image and its label."""

from collections import OrderedDict, UserDict, namedtuple

import numpy as np
import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from diffaug import DiffMix, RecordingBackend
from diffaug.labels.label import class_number
from diffaug.labels.samples import check_getter, get, getters_in, image_place, label_place, put

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
        ({"image": 0, "y": 1}, "default", "got image, y; rename it, or give 'labels_getter'.$"),
        ({}, "default", "got none"),
        (("image", {"y": 1}), "default", "got y"),
        ({"image": 0}, "y", "'labels_getter' must be a place in every sample, got 'y', and"),
        (
            ("image", 1),
            "label",
            "'labels_getter' must be a place in every sample, got 'label', and",
        ),
        (("image", 1), 2, "'labels_getter' must be a place in every sample, got 2, and"),
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
        (
            {"x": 0},
            "keys image, img, pixel_values, got x; rename it, or give 'image_getter'.$",
        ),
    ],
)
def test_an_image_that_is_nowhere_is_one_clear_line(sample, message):
    with pytest.raises(TypeError, match=message):
        image_place(sample)


@pytest.mark.parametrize(
    "label",
    [
        *(3, np.int64(3), np.uint8(3), np.uint64(3), torch.tensor(3), torch.tensor([3])),
        *(np.array(3), np.array([3], dtype=np.uint64), [3], (3,), torch.int8, torch.uint16),
        *([0, 0, 0, 1], torch.eye(4)[3], np.eye(4, dtype=np.float16)[3]),
    ],
)
def test_a_class_number_is_an_integer_or_one_hot_whatever_holds_it(label):
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
        -1,
        [1, 1],
        [True],
        [0, True],
        torch.tensor([0.5, 0.5]),
        np.array(["3"]),
        1j,
        torch.tensor([3], dtype=torch.complex64),
        [],
    ],
)
def test_what_has_no_one_class_has_no_class_number(label):
    assert class_number(label) is None


def test_a_getter_says_where_another_image_is():
    sample = {"jpg": "image", "cls": 3}
    assert ("jpg",) == image_place(sample, "jpg")
    assert (1,) == image_place((3, "image"), 1) == image_place((3, "image"), lambda pair: pair[1])
    with pytest.raises(
        TypeError, match="'image_getter' must be a place in every sample, got 'png', and"
    ):
        image_place(sample, "png")
    with pytest.raises(
        TypeError, match="'image_getter' must return one value of the sample itself"
    ):
        image_place(sample, lambda sample: "another")


def test_an_error_names_the_argument_of_whoever_asks():
    with pytest.raises(TypeError, match="rename it, or give MixCollate its 'image_getter'.$"):
        image_place({"jpg": 0}, asker="MixCollate")
    with pytest.raises(TypeError, match="rename it, or give DiffMix its 'labels_getter'.$"):
        label_place({"jpg": 0}, asker="DiffMix")


@pytest.mark.parametrize("getter", ["key", -1, len])
def test_a_getter_is_a_key_an_index_or_a_callable(getter):
    assert getter == check_getter("image_getter", getter)


@pytest.mark.parametrize("getter", [None, 1.5, True, ("a", "b")])
def test_other_getters_are_refused(getter):
    with pytest.raises(TypeError, match="'image_getter' must be a key, an index or callable, got"):
        check_getter("image_getter", getter)


def test_getters_of_a_transform_are_found_at_any_depth():
    names, backend = ["a", "b"], RecordingBackend()
    mix = DiffMix(names, labels_getter="cls", image_getter="jpg", backend=backend)
    for transforms in (
        mix,
        v2.Compose([v2.Resize(4), mix]),
        v1.Compose([v2.RandomApply([v2.Compose([mix])])]),
        v2.RandomChoice([v2.Identity(), mix]),
    ):
        assert ("jpg", "cls") == getters_in(transforms)
    usual = DiffMix(names, backend=backend)
    for transforms in (v2.Compose([v2.Resize(4)]), usual, len, None):
        assert ("default", "default") == getters_in(transforms)
    first = DiffMix(names, labels_getter=len, backend=backend)
    assert ("default", len) == getters_in(v2.Compose([usual, first]))


def test_put_keeps_the_type_of_a_dict_and_shares_nothing_with_another_mapping():
    assert OrderedDict is type(put(OrderedDict(label=3), ("label",), 4))
    sample = UserDict(label=3)
    assert {"label": 4} == put(sample, ("label",), 4) and 3 == sample["label"]
