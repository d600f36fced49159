"""One listing of a folder: which images and classes it has, and what is left out and why."""

import os
import socket

import pytest
from image_folders import save_photos
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from diffaug.errors import SourceError
from diffaug.folders import EXTENSIONS, LeftOut, list_folder, list_images


def touch(root, *names):
    """Make empty files, and folders where a name ends with a slash."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def kinds(listing):
    return {item.path: item.kind for item in listing.left_out}


def test_every_kind_of_file_that_imagefolder_reads_is_listed():
    assert {".gif"} == EXTENSIONS - set(IMG_EXTENSIONS)
    assert set() == set(IMG_EXTENSIONS) - EXTENSIONS


@pytest.mark.parametrize(
    "names",
    [
        ["b/1.JPG", "a/2.png", "a/10.png", "a/1.pgm"],
        ["a/v/0.jpg", "a/v-2/0.jpg", "a/v/w/0.jpg", "a/z.jpg", "a-b/0.jpg", "a b/0.jpg"],
        ["10/0.jpg", "2/0.jpg", "1/0.jpg"],
        ["B/0.jpg", "a/0.jpg", "Ä/0.jpg", "_/0.jpg", "%/0.jpg"],
    ],
)
def test_images_and_classes_are_numbered_as_imagefolder_numbers_them(tmp_path, names):
    listing = list_folder(touch(tmp_path, *names))
    real = ImageFolder(tmp_path)
    assert real.classes == listing.classes
    assert [path for path, _ in real.samples] == [str(tmp_path / key) for key in listing.keys]
    assert [] == listing.differences()


def test_a_class_folder_without_an_image_is_a_class(tmp_path):
    listing = list_folder(touch(tmp_path, "a/1.jpg", "b/", "c/notes.txt", "d/inside/"))
    assert ["a", "b", "c", "d"] == listing.classes
    assert listing.classes == ImageFolder(tmp_path, allow_empty=True).classes


def test_files_of_other_kinds_are_counted_by_kind(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/1.txt", "a/2.TXT", "a/3.heic", "LICENSE", "meta.csv")
    touch(tmp_path, "a/Thumbs.db", "a/.DS_Store", ".gitattributes")
    listing = list_folder(tmp_path)
    expected = {".txt": 2, ".heic": 1, "no extension": 1, ".csv": 1, ".db": 1}
    assert {**expected, ".DS_Store": 1, ".gitattributes": 1} == listing.counts
    assert [] == listing.faults


def test_what_is_hidden_is_left_out_and_said_to_be_in_imagefolder(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", "a/.thumbs/1.jpg", ".cache/1.jpg")
    listing = list_folder(tmp_path)
    assert (["a/1.jpg"], ["a"]) == (listing.keys, listing.classes)
    reason = "it is hidden, and torchvision's ImageFolder takes it; rename or remove it"
    assert LeftOut(".cache", "hidden", reason) == listing.left_out[0]
    assert {"hidden": 3} == listing.counts
    assert [".cache", "a"] == ImageFolder(tmp_path).classes
    [difference] = listing.differences()
    assert difference.startswith("takes '.cache' for a class, so it refuses the folder or")


def test_gif_is_read_here_and_not_by_imagefolder_which_is_said(tmp_path):
    listing = list_folder(touch(tmp_path, "a/1.gif", "a/2.jpg"))
    assert ["a/1.gif", "a/2.jpg"] == listing.keys
    assert ["does not read .gif (1 of 2 images)"] == listing.differences()


def test_an_image_beside_the_class_folders_has_no_class(tmp_path):
    listing = list_folder(touch(tmp_path, "a/1.jpg", "cover.jpg"))
    assert (["a/1.jpg"], ["cover.jpg"]) == (listing.keys, listing.beside)
    assert ["it lies beside the class folders; move it into one"] == [
        item.reason for item in listing.faults
    ]


def test_what_is_linked_twice_is_listed_twice(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "b/extra").symlink_to("../a")
    (tmp_path / "c").symlink_to("a")
    listing = list_folder(tmp_path)
    assert ["a/1.jpg", "b/2.jpg", "b/extra/1.jpg", "c/1.jpg"] == listing.keys
    assert [p for p, _ in ImageFolder(tmp_path).samples] == [
        str(tmp_path / key) for key in listing.keys
    ]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_a_link_to_a_folder_above_is_left_out(tmp_path, target):
    root = touch(tmp_path / "x/photos", "a/1.jpg")
    (root / "a/up").symlink_to(target)
    listing = list_folder(root)
    assert ["a/1.jpg"] == listing.keys
    assert {"a/up": "loop"} == kinds(listing)


def test_links_that_lead_round_through_each_other_end(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a/to").symlink_to("../b")
    (tmp_path / "b/to").symlink_to("../a")
    listing = list_folder(tmp_path)
    assert ["a/1.jpg", "a/to/2.jpg", "b/2.jpg", "b/to/1.jpg"] == listing.keys
    assert {"a/to/to": "loop", "b/to/to": "loop"} == kinds(listing)


def test_a_class_that_is_a_loop_is_one_for_imagefolder_which_is_said(tmp_path):
    touch(tmp_path, "m/1.jpg")
    (tmp_path / "again").symlink_to(".")
    listing = list_folder(tmp_path)
    assert ["m"] == listing.classes
    assert "takes 'again' for a class" in listing.differences()[0]


def test_links_that_lead_nowhere_are_named(tmp_path):
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a/gone.jpg").symlink_to("nothing")
    (tmp_path / "a/self.jpg").symlink_to("self.jpg")
    (tmp_path / "a/folder").symlink_to("nothing")
    (tmp_path / "a/gone.txt").symlink_to("nothing")
    listing = list_folder(tmp_path)
    assert ["a/1.jpg"] == listing.keys
    named = dict.fromkeys(["a/folder", "a/gone.jpg", "a/self.jpg"], "broken link")
    assert {**named, "a/gone.txt": ".txt"} == kinds(listing)


def test_what_is_no_regular_file_is_never_opened(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.jpg")
    os.mkfifo(tmp_path / "a/pipe.jpg")
    (tmp_path / "a/null.png").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path / "a")  # an address of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        listing = list_folder(tmp_path)
    assert ["a/1.jpg"] == listing.keys
    assert dict.fromkeys(["a/null.png", "a/pipe.jpg", "a/socket.png"], "no file") == kinds(listing)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.jpg", "a/locked/2.jpg", "b/3.jpg")
    scandir = os.scandir

    def locked(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)  # root may read whatever its mode is
    listing = list_folder(tmp_path)
    assert (["a/1.jpg", "b/3.jpg"], ["a", "b"]) == (listing.keys, listing.classes)
    assert {"a/locked": "unreadable folder"} == kinds(listing)
    (tmp_path / "b").rename(tmp_path / "b-locked")
    assert ["a", "b-locked"] == list_folder(tmp_path).classes  # its number stays
    with pytest.raises(SourceError, match="locked' cannot be listed .Permission denied"):
        list_folder(tmp_path / "a/locked")


def test_a_name_that_is_no_text_is_left_out_and_printable(tmp_path):
    try:
        touch(tmp_path, "a/1.jpg", "a/\udcff.jpg", "\udcfe/2.jpg")
    except OSError:
        pytest.skip("this file system takes text only")
    listing = list_folder(tmp_path)
    assert (["a/1.jpg"], ["a"]) == (listing.keys, listing.classes)
    assert {"\\udcfe": "name", "a/\\udcff.jpg": "name"} == kinds(listing)
    assert r"takes '\\udcfe' for a class" in listing.differences()[0]


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["train/cat/1.jpg", "val/cat/2.jpg"], "train"),
        (["train/cat/1.jpg"], "train"),
        (["Train/cat/1.jpg", "TEST/cat/1.jpg"], "Train"),
        (["train/cat/1.jpg", "val/1.jpg", "val/2.jpg"], "train"),  # as ImageNet is unpacked
        (["train2017/cat/1.jpg", "annotations/x.json"], "train2017"),
        (["training_set/cats/1.jpg", "test_set/cats/1.jpg"], "training_set"),
        (["val/cat/1.jpg", "test/cat/1.jpg"], "test"),
        (["train/1.jpg", "bus/1.jpg"], None),
        (["train/1.jpg", "test/1.jpg"], None),
        (["train/old/1.jpg", "bus/1.jpg"], None),
        (["trains/old/1.jpg"], None),
    ],
)
def test_splits_in_the_place_of_classes_are_noticed(tmp_path, names, split):
    assert split == list_folder(touch(tmp_path, *names)).split_folder()


@pytest.mark.parametrize(
    ("names", "lone"),
    [
        (["images/cat/1.jpg", "images/dog/1.jpg", "parts/parts.txt"], "images"),
        (["images/cat/1.jpg"], None),
        (["images/cat/1.jpg", "images/dog/1.jpg", "images/1.jpg"], None),
        (["images/cat/1.jpg", "images/dog/1.jpg", "more/1.jpg"], None),
    ],
)
def test_one_class_that_holds_only_folders_is_noticed(tmp_path, names, lone):
    assert lone == list_folder(touch(tmp_path, *names)).lone_folder()


@pytest.mark.parametrize(
    ("names", "repeated"),
    [
        (["fold1/cat/1.jpg", "fold1/dog/1.jpg", "fold2/cat/1.jpg", "fold2/dog/2.jpg"], "cat dog"),
        (["cat/left/1.jpg", "cat/right/1.jpg", "dog/left/1.jpg"], ""),
        (["cat/images/1.jpg", "dog/images/1.jpg"], ""),
        (["a/cat/1.jpg", "a/dog/1.jpg", "b/cat/1.jpg", "b/dog/1.jpg", "b/1.jpg"], ""),
        (["a/cat/1.jpg", "a/dog/1.jpg"], ""),
    ],
)
def test_the_same_folders_in_every_class_are_noticed(tmp_path, names, repeated):
    assert repeated.split() == list_folder(touch(tmp_path, *names)).repeated_folders()


def test_a_folder_that_need_not_have_classes_has_all_its_images(tmp_path):
    save_photos(tmp_path, ["b.png", "a/1.png", ".hidden.png"])
    assert [tmp_path / "a/1.png", tmp_path / "b.png"] == list_images(tmp_path)


def test_a_link_within_a_class_brings_in_no_folder_from_elsewhere(tmp_path):
    root, home = tmp_path / "photos", tmp_path / "home"
    for path in (root / "a/1.jpg", root / "b/in/2.jpg", home / "private/3.jpg", home / "c/4.jpg"):
        path.parent.mkdir(parents=True)
        path.touch()
    (home / "c/more").mkdir()
    (home / "c/more/5.jpg").touch()
    (root / "a/out").symlink_to(home / "private")
    (root / "a/in").symlink_to(root / "b/in")
    # A class that lies elsewhere, and single images from elsewhere, are how people make subsets.
    (root / "c").symlink_to(home / "c")
    (home / "c/again").symlink_to("more")
    (root / "a/6.jpg").symlink_to(home / "private/3.jpg")
    listing = list_folder(root)
    expected = ["a/1.jpg", "a/6.jpg", "a/in/2.jpg", "b/in/2.jpg", "c/4.jpg", "c/again/5.jpg"]
    assert [*expected, "c/more/5.jpg"] == listing.keys
    assert [("a/out", "outside")] == [(item.path, item.kind) for item in listing.faults]
    assert "outside the source; move or copy" in listing.faults[0].reason
