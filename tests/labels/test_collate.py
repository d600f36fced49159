"""MixCollate: every form of label in one batch, mixing, and what cannot be stacked."""

import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug import MixCollate

Named = namedtuple("Named", "image label path")

#: Each of class 2 of 3.
FORMS = {
    "int": 2,
    "numpy integer": np.int64(2),
    "0-d tensor": torch.tensor(2),
    "1-d tensor": torch.tensor([2]),
    "1-d array": np.array([2]),
    "integer one-hot": torch.tensor([0, 0, 1]),
    "float one-hot": torch.tensor([0.0, 0.0, 1.0]),
    "half": torch.tensor([0, 0, 1], dtype=torch.float16),
    "array": np.array([0.0, 0.0, 1.0]),
    "list": [0.0, 0.0, 1.0],
}
SOFT = torch.tensor([0.25, 0.0, 0.75])


def picture(number=0.0, size=(4, 5)):
    return torch.full((3, *size), float(number))


def pictured(classes):
    """Pictures whose mean colour is their label, with it."""
    eye = torch.eye(3)
    return [(eye[number][:, None, None].expand(3, 8, 8), number) for number in classes]


def test_every_form_of_label_goes_into_one_batch():
    batch = [(picture(place), label) for place, label in enumerate(FORMS.values())]
    images, labels = MixCollate(3)([*batch, (picture(9), SOFT)])
    count = len(FORMS) + 1
    assert ((count, 3, 4, 5), torch.float32) == (tuple(images.shape), images.dtype)
    assert [*range(count - 1), 9] == images[:, 0, 0, 0].tolist()
    expected = torch.tensor([[0.0, 0.0, 1.0]] * (count - 1) + [SOFT.tolist()])
    assert torch.equal(expected, labels)


@given(st.integers(1, 7), st.lists(st.booleans(), min_size=1, max_size=9))
def test_labels_stay_what_they_are_at_any_size(classes, hard):
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(len(hard), classes, generator=generator).softmax(1)
    numbers = torch.randint(classes, (len(hard),), generator=generator).tolist()
    batch = [
        (picture(), number if one else weights)
        for one, number, weights in zip(hard, numbers, soft, strict=True)
    ]
    images, labels = MixCollate(classes)(batch)
    assert (len(hard), (len(hard), classes)) == (len(images), tuple(labels.shape))
    for label, one, number, weights in zip(labels, hard, numbers, soft, strict=True):
        expected = torch.eye(classes)[number] if one else weights
        assert torch.equal(expected, label)


def test_a_batch_of_one_is_a_batch():
    images, labels = MixCollate(3)([(picture(), 1)])
    assert (1, 3, 4, 5) == tuple(images.shape)
    assert [[0, 1, 0]] == labels.tolist()


def test_dicts_keep_their_keys_and_the_rest_is_stacked():
    batch = [
        {"path": f"{number}.png", "img": picture(number), "label": number, "weight": 0.5}
        for number in range(3)
    ]
    made = MixCollate(3)(batch)
    assert ["path", "img", "label", "weight"] == list(made)
    assert [0, 1, 2] == made["img"][:, 0, 0, 0].tolist()
    assert torch.equal(torch.eye(3), made["label"])
    assert ["0.png", "1.png", "2.png"] == made["path"]
    assert [0.5, 0.5, 0.5] == made["weight"].tolist()


def test_longer_tuples_named_ones_and_lists_keep_the_rest():
    for kind in (tuple, list):
        samples = [kind([picture(), 0, "a"]), kind([picture(), 1, "b"])]
        made = MixCollate(2)(samples)
        assert (tuple, 3) == (type(made), len(made))
        assert [[1, 0], [0, 1]] == made[1].tolist()
        assert ("a", "b") == tuple(made[2])
    made = MixCollate(2)([Named(picture(), 0, "a"), Named(picture(), 1, "b")])
    assert Named is type(made)
    assert [[1, 0], [0, 1]] == made.label.tolist()
    assert ("a", "b") == tuple(made.path)


def test_a_label_within_a_dict_beside_the_image_is_found():
    batch = [(picture(), {"label": number, "id": 7 + number}) for number in range(2)]
    images, rest = MixCollate(2)(batch)
    assert [[1, 0], [0, 1]] == rest["label"].tolist()
    assert [7, 8] == rest["id"].tolist()


def test_samples_are_not_changed():
    sample = {"image": picture(), "label": 1}
    MixCollate(2)([sample, sample])
    assert 1 == sample["label"] and (3, 4, 5) == tuple(sample["image"].shape)


@pytest.mark.parametrize(
    ("image", "dtype"),
    [
        (tv_tensors.Image(torch.zeros(3, 4, 5)), torch.float32),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), torch.uint8),
        (np.zeros((3, 4, 5), dtype=np.float32), torch.float32),
        (torch.zeros(1, 4, 5, dtype=torch.float16), torch.float16),
    ],
)
def test_images_keep_their_dtype_and_come_out_plain(image, dtype):
    images, _ = MixCollate(2)([(image, 0), (image, 1)])
    assert (torch.Tensor, dtype) == (type(images), images.dtype)
    assert (2, *image.shape) == tuple(images.shape)


# Mixing


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("mixing", [v2.CutMix, v2.MixUp])
@pytest.mark.parametrize("declared", [3, None])
def test_torchvision_s_mixing_gives_labels_of_what_is_in_the_images(mixing, declared, size):
    collate = MixCollate(3, mix=mixing(num_classes=declared))
    images, labels = collate(pictured(number % 3 for number in range(size)))
    assert ((size, 3), torch.float32) == (tuple(labels.shape), labels.dtype)
    torch.testing.assert_close(images.mean((2, 3)), labels)
    torch.testing.assert_close(torch.ones(size), labels.sum(1))
    if size > 1:
        assert bool((labels.amax(1) < 1).any())


def test_soft_labels_are_mixed_further():
    batch = [(SOFT[:, None, None].expand(3, 8, 8), SOFT), *pictured([0, 1])]
    images, labels = MixCollate(3, mix=v2.MixUp(num_classes=3))(batch)
    torch.testing.assert_close(images.mean((2, 3)), labels)


def test_dicts_are_mixed_too():
    batch = [{"image": image, "label": label} for image, label in pictured([0, 1, 2])]
    made = MixCollate(3, mix=v2.CutMix(num_classes=3))(batch)
    torch.testing.assert_close(made["image"].mean((2, 3)), made["label"])


@pytest.mark.parametrize(("mix_p", "least", "most"), [(0, 0, 0), (0.3, 60, 120), (1, 300, 300)])
def test_mix_p_is_the_share_of_batches_that_are_mixed(mix_p, least, most):
    calls = []

    def mix(images, labels):
        calls.append(len(images))
        return images, labels

    collate = MixCollate(2, mix=mix, mix_p=mix_p)
    for _ in range(300):
        collate([(picture(size=(1, 1)), 0)])
    assert least <= len(calls) <= most


def test_mixing_follows_torch_s_global_seed():
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(MixCollate(3, mix=v2.MixUp(num_classes=3))(pictured([0, 1, 2]))[1])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_images_of_integers_are_cut_and_where_they_cannot_be_blended_the_way_out_is_said():
    batch = [(image.to(torch.uint8), label) for image, label in pictured([0, 1, 2])]
    images, labels = MixCollate(3, mix=v2.CutMix(num_classes=3))(batch)
    assert torch.uint8 == images.dtype
    torch.testing.assert_close(images.float().mean((2, 3)), labels)
    message = r"'mix' could not mix images of torch.uint8 .*; put v2.ToDtype\(torch.float32, scale"
    with pytest.raises(TypeError, match=message):
        MixCollate(3, mix=v2.MixUp(num_classes=3))(batch)


def test_other_errors_of_the_mixing_stay_what_they_are():
    def broken(images, labels):
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="^out of ideas$"):
        MixCollate(3, mix=broken)(pictured([0, 1]))


def as_timm_s_mixup(images, labels):
    """Take labels for class numbers, as timm does, and make a row of each."""
    return images, torch.nn.functional.one_hot(labels.long().view(-1), 3).float()


@pytest.mark.parametrize(
    ("mix", "error", "message"),
    [
        (
            as_timm_s_mixup,
            ValueError,
            r"'mix' returned labels of shape \(12, 3\) for 4 images of 3 classes; timm's Mixup "
            r"takes class numbers: use v2.MixUp\(num_classes=3\).",
        ),
        (
            lambda images, labels: (images[:2], labels),
            ValueError,
            r"returned images of shape \(2, ",
        ),
        (lambda images, labels: (images, labels.argmax(1)), ValueError, r"labels of shape \(4,\)"),
        (lambda images, labels: (images, labels.long()), ValueError, "floats, got torch.int64"),
        (lambda images, labels: images, TypeError, "images and one of labels, got Tensor."),
        (lambda images, labels: (images, labels, 0.3), TypeError, r"got \(Tensor, Tensor, float\)"),
        (lambda images, labels: (images, labels.tolist()), TypeError, r"got \(Tensor, list\)"),
    ],
)
def test_what_mix_returns_must_fit_the_batch(mix, error, message):
    with pytest.raises(error, match=message):
        MixCollate(3, mix=mix)(pictured([0, 1, 2, 0]))


# Other places


def test_getters_say_where_image_and_label_are():
    batch = [{"cls": number, "jpg": picture(number)} for number in range(2)]
    made = MixCollate(2, image_getter="jpg", labels_getter="cls")(batch)
    assert [[1, 0], [0, 1]] == made["cls"].tolist()
    assert [0, 1] == made["jpg"][:, 0, 0, 0].tolist()
    label, image = MixCollate(2, image_getter=1, labels_getter=0)([(1, picture(7))])
    assert [[0, 1]] == label.tolist() and 7 == image[0, 0, 0, 0]


# Travelling


@pytest.mark.parametrize("mix", [None, v2.CutMix(num_classes=3), v2.MixUp(num_classes=3)])
def test_it_pickles(mix):
    collate = pickle.loads(pickle.dumps(MixCollate(3, mix=mix)))
    images, labels = collate(pictured([0, 1]))
    torch.testing.assert_close(images.mean((2, 3)), labels)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_takes_it_and_the_last_batch_may_be_odd(workers):
    loader = DataLoader(
        pictured([0, 1, 2, 0, 1]),
        batch_size=2,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        collate_fn=MixCollate(3, mix=v2.MixUp(num_classes=3)),
    )
    batches = list(loader)
    assert [2, 2, 1] == [len(images) for images, _ in batches]
    for images, labels in batches:
        torch.testing.assert_close(images.mean((2, 3)), labels)


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "'num_classes' must be at least 1, got 0"),
        ({"num_classes": "3"}, TypeError, "'num_classes' must be an integer, got '3'"),
        ({"mix": "cutmix"}, TypeError, "'mix' must be callable, got 'cutmix'"),
        ({"mix_p": 1.5}, ValueError, r"'mix_p' must be in \[0, 1\], got 1.5"),
        ({"mix_p": None}, TypeError, r"'mix_p' must be a number in \[0, 1\], got None"),
    ],
)
def test_wrong_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        MixCollate(**{"num_classes": 3, **options})


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([], ValueError, "'batch' must hold at least one sample, got none"),
        (
            [(Image.new("RGB", (4, 4)), 0)],
            TypeError,
            r"must be tensors to be collated, got Image; put v2.ToImage\(\) and v2.ToDtype\(torch",
        ),
        ([(picture(), 0), ("cat.png", 1)], TypeError, "must be tensors to be collated, got str"),
        (
            [(picture(), 0), (picture(), 0), (picture(size=(5, 4)), 1)],
            ValueError,
            r"must have one size to be collated, got \(3, 4, 5\) and, at place 2, \(3, 5, 4\); put",
        ),
        (
            [(picture(), 0), (picture()[:1], 1)],
            ValueError,
            r"as many channels .* got \(3, 4, 5\) and, at place 1, \(1, 4, 5\); put v2.RGB\(\) in",
        ),
        (
            [(picture(), 0), (torch.zeros(4, 4, 5), 1)],
            ValueError,
            r"and, at place 1, \(4, 4, 5\); put v2.RGB\(\) in front of the transforms, before v2.",
        ),
        (
            [{"image": picture(), "label": 0, "box": box} for box in (1, None)],
            TypeError,
            "the field 'box' of sample 1 must be a tensor, .* to be collated, got None; convert it",
        ),
        (
            [(picture(), 0, Image.new("L", (2, 2)))] * 2,
            TypeError,
            "the field 2 of sample 0 must be a tensor, .* to be collated, got Image; convert it",
        ),
        (
            [(picture(), {"label": 0, "boxes": [box]}) for box in (1, None)],
            TypeError,
            "the field 1 of sample 1 must be a tensor, .* to be collated, got None; convert it",
        ),
        (
            [{"image": picture(), "label": 0, "boxes": [1] * count} for count in (1, 2)],
            TypeError,
            "the field 'boxes' cannot be collated: each element in list of batch should be of equ",
        ),
        (
            [{"image": picture(), "label": 0, "id": 7}, {"image": picture(), "label": 0}],
            TypeError,
            "sample 1 has no field 'id', and sample 0 has one; add it.",
        ),
        (
            [{"label": 0}],
            TypeError,
            "give MixCollate its 'image_getter'. Hugging Face's Trainer drops columns: set remove_"
            "unused_columns=False, or call the columns pixel_values and labels.",
        ),
        (
            [(0, picture())],
            TypeError,
            "images must be tensors to be collated, got int",
        ),
        (
            [(picture(), 0), (picture().to(torch.uint8), 1)],
            ValueError,
            "one dtype to be collated, got torch.float32 and, at place 1, torch.uint8; put v2.ToD",
        ),
        ([(picture(), 0), (picture(), 3)], ValueError, r"label of sample 1 must be in \[0, 3\), g"),
        ([(picture(), -1)], ValueError, r"label of sample 0 must be in \[0, 3\), got -1"),
        ([(picture(), "cat")], ValueError, "sample 0 must be a class number or 3 weights, got 'c"),
        ([(picture(), 1.0)], ValueError, "sample 0 must be a class number or 3 weights, got 1.0"),
        ([(picture(), None)], ValueError, "sample 0 must be a class number or 3 weights, got None"),
        ([(picture(), torch.ones(4) / 4)], ValueError, r"or 3 weights, got shape \(4,\)"),
        ([(picture(), torch.ones(3))], ValueError, "sample 0 must be weights that sum to 1, got a"),
        ([picture(), picture()], TypeError, r"must be \(image, label\) or a dict of them, got Ten"),
        ([(picture(), 0), (picture(),)], TypeError, r"must be \(image, label\) or a dict of them"),
        ([{"image": picture(), "y": 0}], TypeError, "label under one of the keys .*, got image, y"),
        ([{"x": picture(), "label": 0}], TypeError, "image under one of the keys .*, got x, label"),
        (
            [(picture(), 0), {"image": picture(), "label": 1}],
            TypeError,
            r"alike, got tuple with its label at \(1,\) and, at place 1, dict with its label at",
        ),
    ],
)
def test_what_cannot_be_collated_is_one_clear_line(batch, error, message):
    with pytest.raises(error, match=message) as caught:
        MixCollate(3)(batch)
    assert "\n" not in str(caught.value)
