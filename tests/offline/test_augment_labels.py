"""Sets of datasets with any labels, or with none: what their rows, folders and warnings say."""

import warnings

import numpy as np
import pytest
import torch
from image_folders import picture
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from diffaug import (
    DiffMix,
    DiffuseMix,
    FractalBank,
    FractalBlend,
    GeneratedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
)
from diffaug.errors import SourceError
from diffaug.offline.manifest import read_manifest, read_run

NAMES = ["ant", "bee", "cat"]


def edit():
    return PromptEdit(["snowy"], backend=RecordingBackend(8))


def mixer(names=NAMES, **options):
    return DiffMix(names, **{"backend": RecordingBackend(8), **options})


def pairs(*labels):
    return [(picture(number), label) for number, label in enumerate(labels)]


def rows(folder):
    return [(row["file_name"], row["label"]) for row in read_manifest(folder)]


KINDS = {
    "several labels": ([np.array([0, 1, 1]), np.array([1, 0, 0])], [[0, 1, 1], [1, 0, 0]]),
    "weights": ([torch.tensor([0.25, 0.75]), torch.tensor([1.0, 0.0])], [[0.25, 0.75], [1, 0]]),
    "a measure": ([0.5, np.float32(2)], [0.5, 2.0]),
    "several measures": ([(0.5, -1.5), [3.0, 4.0]], [[0.5, -1.5], [3.0, 4.0]]),
    "nothing": ([None, None], [None, None]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "transform",
    [
        edit(),
        DiffuseMix(backend=RecordingBackend(8), fractals=FractalBank(2, 16)),
        FractalBlend(fractals=FractalBank(2, 16)),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_a_transform_that_keeps_the_label_keeps_any(tmp_path, transform, kind):
    labels, kept = KINDS[kind]
    done = augment_dataset(
        pairs(*labels), tmp_path / "set", transform, per_image=1, include_originals=True
    )
    assert (4, ()) == (done.made, done.skipped)
    names = ["000000__original", "000000__0", "000001__original", "000001__0"]
    expected = [(f"{name}.jpg", kept[number // 2]) for number, name in enumerate(names)]
    assert expected == rows(tmp_path / "set")
    assert all((tmp_path / "set" / name).is_file() for name, _ in expected)
    for item, label in zip(GeneratedDataset(tmp_path / "set"), kept, strict=True):
        given = None if isinstance(item, Image.Image) else torch.as_tensor(item[1]).tolist()
        assert pytest.approx(label) == given if label is not None else given is None
    with pytest.raises(FileNotFoundError, match="Couldn't find any class folder"):
        ImageFolder(tmp_path / "set")  # it does not take them for one class


def test_images_alone_make_a_set(tmp_path):
    for number, data in enumerate(
        (
            [picture(0), picture(1)],
            [Image.new("RGB", (8, 8)), Image.new("L", (8, 8))],
            TensorDataset(torch.rand(2, 3, 8, 8)),
            [{"image": picture(0)}, {"image": picture(1)}],
        )
    ):
        augment_dataset(data, tmp_path / str(number), edit())
        assert [("000000__0.jpg", None), ("000001__0.jpg", None)] == rows(tmp_path / str(number))


def test_classes_keep_their_folders_beside_images_without_a_class(tmp_path):
    augment_dataset(pairs(1, None, "ant"), tmp_path / "set", edit(), class_names=NAMES)
    expected = [("bee/000000__0.jpg", "bee"), ("000001__0.jpg", None), ("ant/000002__0.jpg", "ant")]
    assert expected == rows(tmp_path / "set")


def test_such_a_set_resumes_and_merges_from_shards(tmp_path):
    data = pairs([0, 1, 1], [1, 1, 0], None)
    augment_dataset(data, tmp_path / "whole", edit(), per_image=2)
    assert 0 == augment_dataset(data, tmp_path / "whole", edit(), per_image=2).made
    for share in ("1/2", "2/2"):
        augment_dataset(data, tmp_path / "parts", edit(), per_image=2, shard=share)
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    for name, _ in rows(tmp_path / "whole"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_hugging_face_reads_such_a_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    augment_dataset(pairs([0, 1, 1], [1, 0, 0]), tmp_path / "set", edit())
    read = datasets.load_dataset(
        "imagefolder",
        data_dir=str(tmp_path / "set"),
        data_files={"train": "**"},
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert [[0, 1, 1], [1, 0, 0]] == read["label"][:]
    assert (32, 24) == read[0]["image"].size


@pytest.mark.parametrize("label", [np.array([1]), torch.tensor([0, 1, 0]), np.uint8(1), [1]])
def test_diffmix_translates_labels_of_any_form(tmp_path, label):
    augment_dataset(pairs(label, 0), tmp_path / "set", mixer(), per_image=4)
    sources = {row["source"]: row["source_label"] for row in read_manifest(tmp_path / "set")}
    assert {"0": "bee", "1": "ant"} == sources


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1, 1]] * 2, "the label of item 0 must be weights that sum to 1, got a sum of 2 and"),
        ([[0.5, 0.5, 0]] * 2, "the label of item 0 must be of one class, got weights of several."),
        ([None] * 2, "the label of item 0 must be a class number or 3 weights, got None."),
        ([True] * 2, "the label of item 0 must be numbers, and no booleans, got True"),
        ([[0, 1]] * 2, r"the label of item 0 must be a class number or 3 weights, got \[0, 1\]."),
    ],
)
def test_diffmix_refuses_what_is_of_no_one_class_before_anything_is_made(tmp_path, labels, message):
    mix = mixer()
    with pytest.raises(ValueError, match=message):
        augment_dataset(pairs(*labels), tmp_path / "set", mix)
    assert not (tmp_path / "set").exists() and not mix.backend.requests


def test_one_bad_label_among_good_ones_is_named_and_left_out(tmp_path):
    done = augment_dataset(pairs(0, True, 2), tmp_path / "set", mixer(), per_image=4)
    [skipped] = set(done.skipped)
    assert "1" == skipped.source and "and no booleans, got True" in skipped.reason
    assert {"0", "2"} == {row["source"] for row in read_manifest(tmp_path / "set")}
    with pytest.raises(ValueError, match="the label of item 1 must be numbers, and no booleans"):
        augment_dataset(pairs(0, True, 2), tmp_path / "strict", mixer(), strict=True)


def test_without_names_of_its_own_a_dataset_has_those_of_the_transform(tmp_path):
    """Online, number 2 is the third name, too."""
    augment_dataset(pairs(2, 0), tmp_path / "set", mixer(), per_image=4)
    sources = {row["source"]: row["source_label"] for row in read_manifest(tmp_path / "set")}
    assert {"0": "cat", "1": "ant"} == sources
    assert NAMES == read_run(tmp_path / "set")["classes"]


class Keyed(list):
    """Samples as WebDataset has them."""

    def __init__(self, *labels):
        super().__init__({"__key__": "0", "jpg": picture(0), "cls": label} for label in labels)


def test_getters_are_given_or_those_of_the_transform(tmp_path):
    getters = {"image_getter": "jpg", "labels_getter": "cls"}
    augment_dataset(Keyed(0, 1), tmp_path / "given", edit(), **getters)
    assert [("0/000000__0.jpg", "0"), ("1/000001__0.jpg", "1")] == rows(tmp_path / "given")
    augment_dataset(Keyed(0, 1), tmp_path / "own", mixer(**getters), per_image=2)
    made = {(row["source"], row["source_label"]) for row in read_manifest(tmp_path / "own")}
    assert made <= {("0", "ant"), ("1", "bee")} and made
    message = "item 0: a sample must have its image .* or give augment_dataset its 'image_getter'"
    with pytest.raises(ValueError, match=message):
        augment_dataset(Keyed(0), tmp_path / "none", edit())


class Fashion(list):
    """The classes are in the dataset's order, which is not that of the alphabet."""

    classes = ["T-shirt/top", "Trouser", "Pullover"]

    def __init__(self):
        super().__init__(pairs(0, 1, 2))


def test_a_run_warns_where_folders_number_the_classes_otherwise(tmp_path):
    message = "'Pullover' is 2 in the dataset, and ImageFolder would make it 0. Read this set with"
    with pytest.warns(UserWarning, match=message) as told:
        augment_dataset(Fashion(), tmp_path / "set", edit())
    assert [__file__] == [one.filename for one in told]
    assert [0, 1, 2] == GeneratedDataset(tmp_path / "set").targets
    assert [2, 0, 1] != [0, 1, 2] == [label for _, label in Fashion()]
    assert {"Pullover": 0, "T-shirt%2Ftop": 1, "Trouser": 2} == (
        ImageFolder(tmp_path / "set").class_to_idx
    )


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (Subset(Fashion(), [0]), "'Pullover' is 2"),
        (ConcatDataset([Fashion(), Fashion()]), "'Pullover' is 2"),
        (pairs(*range(11)), "'10' is 10 in the dataset, and ImageFolder would make it 2"),
    ],
)
def test_it_warns_of_any_dataset_once(tmp_path, data, wrong):
    with pytest.warns(UserWarning, match=wrong) as told:
        augment_dataset(data, tmp_path / "set", edit())
    assert 1 == sum("the order of the class folders" in str(one.message) for one in told)


def test_numbers_with_gaps_are_warned_of_where_all_are_known(tmp_path):
    data = pairs(1, 2)
    known = TensorDataset(torch.stack([image for image, _ in data]), torch.tensor([1, 2]))
    with pytest.warns(
        UserWarning, match="'1' is 1 in the dataset, and ImageFolder would make it 0"
    ):
        augment_dataset(known, tmp_path / "set", edit())


@pytest.mark.parametrize("labels", [(0, 1, 2), ("b", "a"), ([0, 1], [1, 1]), (None, 0.5)])
def test_it_does_not_warn_where_nothing_is_numbered_otherwise(tmp_path, labels):
    class Known(list):
        targets = list(labels)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment_dataset(pairs(*labels), tmp_path / "unknown", edit())
        augment_dataset(Known(pairs(*labels)), tmp_path / "known", edit())


def test_one_item_that_raises_anything_is_left_out_and_the_rest_is_made(tmp_path):
    class Bomb(list):
        def __getitem__(self, index):
            if index == 1:
                raise Image.DecompressionBombError("too many pixels")
            return super().__getitem__(index)

    done = augment_dataset(Bomb(pairs(0, 0, 1)), tmp_path / "set", edit())
    assert [("1", "item 1 is not readable: too many pixels.")] == list(done.skipped)
    assert 2 == done.made
    again = augment_dataset(Bomb(pairs(0, 0, 1)), tmp_path / "set", edit())
    assert (0, done.skipped) == (again.made, again.skipped)


def test_a_dataset_of_which_nothing_can_be_read_is_an_error_and_leaves_no_folder(tmp_path):
    class Gone(list):
        def __getitem__(self, index):
            raise OSError("the disk is gone")

    with pytest.raises(SourceError, match="20 in a row, from item 0 on, cannot: .* disk is gone."):
        augment_dataset(Gone(range(90)), tmp_path / "set", edit())
    assert not (tmp_path / "set").exists()
