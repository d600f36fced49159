"""Where images come from: folders, datasets, and the names that classes get on disk."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug.errors import UnreadableImageError
from diffaug.folders import stem
from diffaug.offline.dataset_source import DatasetSource
from diffaug.offline.folder_source import FolderSource, _shared_stems
from diffaug.offline.sources import class_folder

ODD = st.text(st.sampled_from('%/\\.:_ "aF2é\0\n\ud800'), min_size=1, max_size=6)


@given(st.lists(ODD | st.text(min_size=1), unique=True, max_size=20))
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
    assert "12" == DatasetSource([(IMAGE, 12)], None).load("0").label


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            (IMAGE, -1),
            "label of item 0 must be below the 2 class names, got -1; give 'class_names'",
        ),
        ((IMAGE, 2), "label of item 0 must be below the 2 class names, got 2"),
        ((IMAGE, 0.5), "label of item 0 must be a class number or name, got float"),
        ((IMAGE, torch.ones(2) / 2), "label of item 0 must be a class number or name"),
        ((IMAGE, True), "label of item 0 must be a class number or name, got bool"),
        ((IMAGE, torch.tensor(True)), "label of item 0 must be a class number or name, got Tensor"),
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
        DatasetSource([item], ["a", "b"]).load("0")


def test_an_item_whose_file_is_damaged_is_unreadable():
    class Broken(list):
        def __getitem__(self, index):
            raise OSError("image file is truncated")

    with pytest.raises(UnreadableImageError, match="item 0 is not readable: image file is trunc"):
        DatasetSource(Broken([1]), None).load("0")


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
