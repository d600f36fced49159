"""Where images come from: folders, datasets, and the names that classes get on disk."""

import json
import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset

from diffaug.errors import ModelError, SourceError, UnreadableImageError
from diffaug.folders import stem
from diffaug.offline.dataset_source import DatasetSource
from diffaug.offline.folder_source import FolderSource, _shared_stems
from diffaug.offline.sources import class_folder

ODD = st.text(st.sampled_from('%/\\.:_ "aF2é\0\n\ud800'), min_size=1, max_size=6)


@given(st.lists(ODD | st.text(min_size=1, max_size=25), unique=True, max_size=20))
def test_different_classes_have_different_and_harmless_folders(names):
    folders = [class_folder(name) for name in names]
    assert len(names) == len(set(folders))
    for folder in folders:
        assert not re.search(r'[\x00-\x1f<>:"/\\|?*]|^\.|^__|[. ]$', folder)
        folder.encode()


@given(ODD)
def test_a_class_folder_gives_its_name_back(name):
    codes = re.sub(
        "(%[0-9A-F]{2})+",
        lambda match: bytes.fromhex(match[0].replace("%", "")).decode(errors="surrogatepass"),
        class_folder(name),
    )
    assert name == codes


@pytest.mark.parametrize("name", ["golden retriever", "-x", "100%", "été", "a.b", "_", "50%2f"])
def test_ordinary_names_stay_as_they_are(name):
    assert name == class_folder(name)


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        class_folder("")


FILES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b/a", "a.jpg", "a__0", "a.b"]),
        st.sampled_from(["jpg", "png"]),
    ),
    unique=True,
)


@given(FILES)
def test_no_two_sources_start_their_copies_names_alike(files):
    keys = sorted(f"cat/{stem}.{extension}" for stem, extension in files)
    shared = _shared_stems(keys)
    bases = {key: key if stem(key) in shared else stem(key) for key in keys}
    assert len(keys) == len(set(bases.values()))
    assert all(key.startswith(base) for key, base in bases.items())


def test_names_that_are_no_text_are_skipped(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/good.jpg").touch()
    try:
        (tmp_path / "cat/\udcff.jpg").touch()
    except OSError:
        pytest.skip("this file system takes text only")
    source = FolderSource(tmp_path)
    assert ["cat/good.jpg"] == source.keys
    assert [("cat/\\udcff.jpg", "its name is not valid Unicode; rename it")] == source.skipped


def test_hidden_folders_are_no_classes(tmp_path):
    for name in (".cache/1.jpg", "cat/1.jpg", "cat/.2.jpg", "cat/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"ImageFolder reads .* otherwise: it takes '\.cache'"):
        source = FolderSource(tmp_path)
    assert (["cat/1.jpg"], []) == (source.keys, source.skipped)
    assert {"hidden": 2, ".txt": 1} == source.left_out


IMAGE = torch.zeros(3, 4, 5, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("item", "label"),
    [
        ((IMAGE, 1), "b"),
        ((IMAGE, torch.tensor(0), "more"), "a"),
        ({"image": IMAGE, "label": 1, "id": 7}, "b"),
        ({"img": IMAGE, "fine_label": 0, "coarse_label": 5}, "a"),
        ({"image": IMAGE, "labels": "cat/dog"}, "cat/dog"),
    ],
)
def test_items_are_pairs_or_dicts(item, label):
    loaded = DatasetSource([item], ["a", "b"]).load("0")
    assert ((1, 3, 4, 5), label) == (tuple(loaded.pixels.shape), loaded.label)


def test_a_label_may_lie_in_a_dict_beside_the_image():
    item = DatasetSource([(IMAGE, {"label": 1, "id": 7})], ["cat", "dog"]).load("0")
    assert ("dog", "dog/000000") == (item.label, item.base)


def test_labels_without_names_are_numbers():
    assert "9" == DatasetSource([(IMAGE, 9)], None).load("0").label


def test_numbers_whose_folders_are_sorted_otherwise_are_warned_of_once():
    source = DatasetSource([(IMAGE, 12)] * 2, None)
    message = "'12' is 12 in the dataset, and ImageFolder would make it 2. Read this set with Gener"
    with pytest.warns(UserWarning, match=message) as told:
        assert "12" == source.load("0").label == source.load("1").label
    assert 1 == len(told)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((IMAGE, -1), "the label of item 0 must be in [0, 2), got -1."),
        ((IMAGE, 2), "the label of item 0 must be in [0, 2), got 2; give 'class_names'."),
        ((IMAGE, 0.5), "the label of item 0 must be a class number or 2 weights, got 0.5; if"),
        ((IMAGE, torch.ones(2) / 2), "the label of item 0 must be of one class, got weights of se"),
        ((IMAGE, torch.eye(3)[0]), "item 0 must be a class number or 2 weights, got shape (3,)."),
        ((IMAGE, True), "the label of item 0 must be numbers, and no booleans, got True; convert"),
        ((IMAGE, torch.tensor(True)), "must be numbers, and no booleans, got tensor(True); conver"),
        (
            {"pixels": IMAGE, "label": 1},
            "item 0: a sample must have its image under one of the keys image, img, pixel_values",
        ),
        (
            {"image": IMAGE},
            "item 0: a sample must have its label under one of the keys label",
        ),
        (IMAGE, "item 0: a sample must be (image, label) or a dict of them, got Tensor"),
        (
            (IMAGE[None].expand(2, -1, -1, -1), 0),
            "item 0 must hold one image, got shape (2, 3",
        ),
    ],
)
def test_what_is_wrong_with_an_item_is_said(item, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DatasetSource([item], ["a", "b"], needs_class=True).load("0")


class Faulty(list):
    """Items of which some raise what is there in place of the item."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        if isinstance(item, BaseException):
            raise item
        return item


FAULTS = [
    OSError("image file is truncated"),
    Image.DecompressionBombError("too large"),
    EOFError(),
    struct.error("unpack requires a buffer of 4 bytes"),
    ValueError("embedded null byte"),
    KeyError("no such file"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_an_item_raises_is_its_own_fault(fault):
    source = DatasetSource(Faulty([(IMAGE, 0), fault]), None)
    with pytest.raises(UnreadableImageError, match="^item 1 is not readable: "):
        source.load("1")
    assert "0" == source.load("0").label


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), SystemExit(), ModelError("no such model")])
def test_what_is_not_an_item_s_fault_passes(fault):
    with pytest.raises(type(fault)):
        DatasetSource(Faulty([(IMAGE, 0), fault]), None).load("1")


def load_all(source):
    """Return the keys that cannot be read."""
    bad = []
    for key in source.keys:
        try:
            source.load(key)
        except UnreadableImageError:
            bad.append(key)
    return bad


def test_many_bad_items_in_a_row_end_the_run_if_no_other_can_be_read_any_more():
    source = DatasetSource(Faulty([(IMAGE, 0)] * 5 + [OSError("gone")] * 60), None)
    source.load("0")
    source.dataset[:5] = [OSError("the disk is gone")] * 5
    message = "can be used, and 20 in a row, from item 0 on, cannot: item 0 is .*: the disk is gone"
    with pytest.raises(SourceError, match=message):
        load_all(source)


def test_a_long_block_of_bad_items_among_good_ones_is_left_out():
    source = DatasetSource(Faulty([(IMAGE, 0)] + [OSError("gone")] * 50 + [(IMAGE, 0)]), None)
    assert [str(number) for number in range(1, 51)] == load_all(source)


def test_a_dataset_of_bad_items_alone_is_an_error():
    message = "and 3 in a row, from item 0 on, cannot: item 0 is not readable: gone."
    with pytest.raises(SourceError, match=message):
        load_all(DatasetSource(Faulty([OSError("gone")] * 3), None))
    message = "3 in a row, from item 0 on, cannot: the label of item 0 must be numbers, and no bool"
    with pytest.raises(ValueError, match=message):
        load_all(DatasetSource([(IMAGE, True)] * 3, None))


def test_bad_labels_are_left_out_before_any_image_is_read():
    class Known(Faulty):
        targets = [0, True, 1, None]

    items = [AssertionError("read"), (IMAGE, True), AssertionError("read"), (IMAGE, None)]
    source = DatasetSource(Known(items), ["a", "b"], needs_class=True)
    assert (["0", "2"], ["a", "b"]) == (source.keys, source.labels())
    assert [
        ("1", "the label of item 1 must be numbers, and no booleans, got True; convert it to inte"),
        ("3", "the label of item 3 must be a class number or 2 weights, got None."),
    ] == [(key, reason[:82]) for key, reason in source.skipped]
    with pytest.raises(UnreadableImageError, match="the label of item 1 must be numbers"):
        DatasetSource(Known(items), ["a", "b"], needs_class=True, strict=True)


def test_a_class_number_without_a_name_is_an_error_before_any_image_is_read():
    class Known(list):
        targets = [0, 5]

    with pytest.raises(ValueError, match=r"item 1 must be in \[0, 2\), got 5; give 'class_names'"):
        DatasetSource(Known([(IMAGE, 0), (IMAGE, 5)]), ["a", "b"])


KEPT = [
    (np.array([0, 1, 1]), [0, 1, 1]),
    (torch.tensor([0.25, 0.75]), [0.25, 0.75]),
    (torch.tensor([0, 1, 0]), [0, 1, 0]),
    ([1.5, 2.5], [1.5, 2.5]),
    (0.5, 0.5),
    (np.float32(0.5), 0.5),
    (torch.tensor(2.0), 2.0),
    (np.array([0.5]), [0.5]),
    (None, None),
]


@pytest.mark.parametrize(("label", "kept"), KEPT)
def test_a_label_of_no_one_class_is_kept_as_plain_json_in_no_class_s_folder(label, kept):
    loaded = DatasetSource([(IMAGE, label)], None).load("0")
    assert (kept, "000000") == (loaded.label, loaded.base)
    assert kept == json.loads(json.dumps(loaded.label))


@pytest.mark.parametrize("item", [IMAGE, Image.new("L", (4, 5)), (IMAGE,), [IMAGE], {"img": IMAGE}])
def test_images_alone_have_no_label(item):
    loaded = DatasetSource([item], None).load("0")
    assert (None, "000000", (1, 3)) == (loaded.label, loaded.base, tuple(loaded.pixels.shape[:2]))


def test_a_dict_with_more_than_its_image_and_no_label_is_warned_of():
    source = DatasetSource([{"image": IMAGE, "y": 1}] * 2, None)
    message = "made without labels.* they have image, y; if one .* give augment_dataset its 'labels"
    with pytest.warns(UserWarning, match=message) as told:
        assert source.load("0").label is source.load("1").label is None
    assert 1 == len(told)
    assert "1" == DatasetSource([{"image": IMAGE, "y": 1}], None, labels_getter="y").load("0").label


@pytest.mark.parametrize(
    ("label", "got"),
    [
        (["cat", "dog"], "list"),
        ({"boxes": 1}, None),
        (float("nan"), "float"),
        ([0.5, float("inf")], "list"),
        (torch.zeros(2, 2), "Tensor"),
        ([], "list"),
        (b"cat", "bytes"),
    ],
)
def test_a_label_that_json_cannot_keep_is_refused(label, got):
    message = f"one or several finite numbers, got {got}" if got else "its label under one of the k"
    with pytest.raises(ValueError, match=message):
        DatasetSource([(IMAGE, label)], None).load("0")


def test_names_in_the_order_before_a_target_transform_are_refused():
    class Birds(list):
        classes = ["beagle", "poodle", "tabby"]
        target_transform = staticmethod(lambda number: number // 2)

    message = "'class_names' must be given, .* the dataset turns class 1 into 0, and its names are"
    for data in (Birds([(IMAGE, 1)]), ConcatDataset([Birds([(IMAGE, 1)])])):
        with pytest.raises(ValueError, match=message):
            DatasetSource(data, None)
    assert "cat" == DatasetSource(Birds([(IMAGE, 1)]), ["dog", "cat"]).load("0").label
    Birds.target_transform = staticmethod(lambda number: torch.tensor(number))
    assert "poodle" == DatasetSource(Birds([(IMAGE, 1)]), None).load("0").label


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (iter([]), TypeError, "must have a length and integer indices"),
        ({"train": [1]}, TypeError, "pass one of its splits"),
        ([], ValueError, "at least one image"),
    ],
)
def test_what_is_no_map_style_dataset_is_refused(dataset, error, message):
    with pytest.raises(error, match=message):
        DatasetSource(dataset, None)
