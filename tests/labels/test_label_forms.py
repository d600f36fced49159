"""Each form of a label in each part that takes labels: one answer, or one sentence."""

import re

import numpy as np
import pytest
import torch
from image_folders import save_photos

from diffaug import (
    BatchAugment,
    CachedBackend,
    DiffMix,
    JointTransform,
    MixCollate,
    MixedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
    class_counts,
    few_shot_subset,
    warm_cache,
)
from diffaug.labels.label import as_probabilities, class_number, class_of
from diffaug.offline.manifest import read_manifest

NAMES = ["ant", "bee", "cat"]
IMAGE = torch.zeros(3, 4, 4, dtype=torch.uint8)

#: Each of class 2 of 3.
HARD = {
    "int": 2,
    "np.int64": np.int64(2),
    "np.uint64": np.uint64(2),
    "0-d uint8 tensor": torch.tensor(2, dtype=torch.uint8),
    "0-d array": np.array(2),
    "(1,) array": np.array([2]),
    "(1,) uint8 array": np.array([2], dtype=np.uint8),
    "(1,) tensor": torch.tensor([2]),
    "list of one": [2],
    "one-hot int64": torch.tensor([0, 0, 1]),
    "one-hot uint8": np.array([0, 0, 1], dtype=np.uint8),
    "one-hot float32": torch.tensor([0.0, 0.0, 1.0]),
    "one-hot float16": np.array([0, 0, 1], dtype=np.float16),
    "one-hot bfloat16": torch.tensor([0, 0, 1]).bfloat16(),
    "one-hot list": [0, 0, 1],
}
SOFT = {
    "weights": torch.tensor([0.25, 0.0, 0.75]),
    "double weights": np.array([0.25, 0.0, 0.75]),
    "half weights": torch.tensor([0.25, 0.0, 0.75]).half(),
    "list of weights": [0.25, 0.0, 0.75],
}
BOOLEAN = "must be numbers, and no booleans, got "
NEITHER = "must be a class number or 3 weights, got "
WRONG = {
    "bool": (True, f"{BOOLEAN}True; convert it to integers."),
    "np.bool_": (np.True_, BOOLEAN),
    "bool tensor": (torch.tensor(True), BOOLEAN),
    "bool vector": (torch.tensor([False, False, True]), f"{BOOLEAN}shape (3,)"),
    "bool list": ([False, False, True], f"{BOOLEAN}[False, False, True]"),
    "bool among numbers": ([0, 0, True], f"{BOOLEAN}[0, 0, True]"),
    "None": (None, f"{NEITHER}None."),
    "half": (0.5, f"{NEITHER}0.5; if it is a class, convert it to an integer."),
    "whole float": (2.0, f"{NEITHER}2.0; if it is a class, convert"),
    "float array": (np.array([2.0]), f"{NEITHER}shape (1,); if it is a class, convert"),
    "bytes": (b"cat", f"{NEITHER}b'cat'."),
    "too short": ([0.5, 0.5], f"{NEITHER}[0.5, 0.5]."),
    "too long": (torch.ones(4) / 4, f"{NEITHER}shape (4,)."),
    "negative": (-1, "must be in [0, 3), got -1"),
    "too large": (3, "must be in [0, 3), got 3"),
    "sum of 2": ([1.0, 1.0, 0.0], "must be weights that sum to 1, got a sum of 2 and a"),
    "two classes": (np.array([0, 1, 1]), "0; for several labels of an image, use DiffuseMix and "),
    "NaN": ([float("nan"), 1.0, 0.0], "must be weights that sum to 1, got a sum of nan"),
}


def diffmix(p=0.0, **options):
    return DiffMix(NAMES, p=p, **{"backend": RecordingBackend(4), **options})


def alone(label, folder):
    return diffmix()((IMAGE, label))[1]


def in_a_batch(label, folder):
    return diffmix()(IMAGE.expand(2, -1, -1, -1), [label, 0])[1][0]


def in_a_dataset(label, folder):
    return JointTransform([(IMAGE, label)], diffmix())[0][1]


def behind_a_loader(label, folder):
    batch = {"labels": [label, 0], "pixel_values": IMAGE.expand(2, -1, -1, -1)}
    [made] = BatchAugment([batch], diffmix())
    return made["labels"][0]


def collated(label, folder):
    return MixCollate(3)([(IMAGE, label)])[1][0]


def among_generated(label, folder):
    photos = save_photos(folder / "photos", [f"{name}/1.png" for name in NAMES], 4, 4)
    augment_folder(photos, folder / "set", PromptEdit(["snowy"], backend=RecordingBackend(4)))
    data = [(IMAGE, label)]
    return MixedDataset(data, folder / "set", replacement="concat", classes=NAMES)[0][1]


def counted(label, folder):
    return int(class_counts([(IMAGE, label)], 3).argmax())


def counted_of_a_list(label, folder):
    class Known(list):
        targets = (label,)

    return int(class_counts(Known([None]), 3).argmax())


def warmed(label, folder):
    backend = RecordingBackend(4)
    cached = CachedBackend(backend, folder=folder)
    warm_cache([(IMAGE, label)], diffmix(pairs="same", pool=1, backend=cached))
    return NAMES.index(backend.requests[0].prompt.removeprefix("a photo of a "))


def translated_offline(label, folder):
    augment_dataset([(IMAGE, label)], folder, diffmix(), per_image=1)
    return NAMES.index(read_manifest(folder)[0]["source_label"])


def edited_offline(label, folder):
    """The row says a class by its name, and other labels by their numbers."""
    edit = PromptEdit(["snowy"], backend=RecordingBackend(4))
    augment_dataset([(IMAGE, label)], folder, edit, class_names=NAMES)
    kept = read_manifest(folder)[0]["label"]
    return as_probabilities(NAMES.index(kept) if isinstance(kept, str) else kept, 3)


WEIGHING = [alone, in_a_batch, in_a_dataset, behind_a_loader, collated, among_generated]
OF_THE_LIKELIEST = [warmed]
OF_ONE_CLASS = [counted, counted_of_a_list, translated_offline]
#: Of these, numbers that are no label are refused only where somebody reads them as one.
KEEPING = [edited_offline]


@pytest.mark.parametrize("form", HARD)
@pytest.mark.parametrize("part", WEIGHING + OF_THE_LIKELIEST + OF_ONE_CLASS + KEEPING)
def test_every_part_takes_every_form_of_a_class(part, form, tmp_path):
    answer = part(HARD[form], tmp_path / "set")
    expected = [0.0, 0.0, 1.0]
    assert (answer == 2) if isinstance(answer, int) else (expected == answer.tolist())


@pytest.mark.parametrize("form", SOFT)
@pytest.mark.parametrize("part", WEIGHING + OF_THE_LIKELIEST + KEEPING)
def test_every_part_that_can_takes_every_form_of_weights(part, form, tmp_path):
    answer = part(SOFT[form], tmp_path / "set")
    expected = [0.25, 0.0, 0.75]
    assert (answer == 2) if isinstance(answer, int) else (expected == answer.tolist())


@pytest.mark.parametrize("form", SOFT)
@pytest.mark.parametrize("part", OF_ONE_CLASS)
def test_parts_that_need_one_class_say_so(part, form, tmp_path):
    with pytest.raises(ValueError, match="must be of one class, got weights of several."):
        part(SOFT[form], tmp_path / "set")


@pytest.mark.parametrize("form", WRONG)
@pytest.mark.parametrize("part", WEIGHING + OF_THE_LIKELIEST + OF_ONE_CLASS)
def test_every_part_refuses_what_is_no_label_by_the_same_sentence(part, form, tmp_path):
    label, sentence = WRONG[form]
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        part(label, tmp_path / "set")
    assert "\n" not in str(caught.value) and "the label" in str(caught.value)


@pytest.mark.parametrize("form", [form for form in WRONG if "bool" in form] + ["too large"])
@pytest.mark.parametrize("part", KEEPING)
def test_a_part_that_keeps_labels_refuses_booleans_and_numbers_without_a_name(part, form, tmp_path):
    label, sentence = WRONG[form]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        part(label, tmp_path / "set")


@pytest.mark.parametrize("part", WEIGHING + OF_THE_LIKELIEST + [counted, counted_of_a_list])
def test_a_name_is_no_label_where_there_are_no_names(part, tmp_path):
    with pytest.raises(ValueError, match=f"{NEITHER}'cat'."):
        part("cat", tmp_path / "set")


def test_a_name_is_a_label_of_a_set(tmp_path):
    assert 2 == translated_offline("cat", tmp_path / "one")
    assert [0, 0, 1] == edited_offline(np.str_("cat"), tmp_path / "two").tolist()


@pytest.mark.parametrize("form", HARD)
def test_few_shots_are_of_the_same_classes(form):
    others = [0, 0, 1, 1]
    assert few_shot_subset([*others, 2], 1) == few_shot_subset([*others, HARD[form]], 1)
    assert 2 == class_number(HARD[form]) == class_of(HARD[form], 3)


@pytest.mark.parametrize("form", [form for form in WRONG if form != "too large"])
def test_few_shots_are_of_no_class_where_others_find_none(form):
    with pytest.raises(TypeError, match="'labels' must be all class numbers or all names, got "):
        few_shot_subset([0, WRONG[form][0]], 1)
