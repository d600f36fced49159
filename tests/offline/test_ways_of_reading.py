"""Every way to read a folder sees the same classes and images, or says what it sees otherwise."""

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from image_folders import picture, save_photos
from torchvision.datasets import ImageFolder

from diffaug import (
    GeneratedDataset,
    PromptEdit,
    RecordingBackend,
    SimilarityFilter,
    augment_folder,
    few_shot_subset,
    filter_set,
    preview,
)
from diffaug.finetuning.data import TrainingSet
from diffaug.folders import list_folder
from diffaug.images import encode_image
from diffaug.offline.folder_source import FolderSource
from diffaug.offline.manifest import read_manifest

EDIT = PromptEdit(["snowy"], backend=RecordingBackend(16))


@dataclass(frozen=True)
class Tree:
    """An odd tree, and what is right.

    Args:
        names: the images in it.
        change: makes it odd.
        classes: in the order of their numbers.
        keys: the images that are read; None for all names.
        hint: what is said, once, where ImageFolder sees other classes; or why the tree is refused.
        refused: by whom the tree is refused.
    """

    names: list[str]
    classes: list[str]
    change: Callable[[Path], object] = lambda root: None
    keys: list[str] | None = None
    hint: str = ""
    refused: set[str] = field(default_factory=set)

    @property
    def read(self):
        return sorted(self.names if self.keys is None else self.keys)


def link(path, target):
    return lambda root: (root / path).symlink_to(target)


def copy(path):
    """Write a picture under a name that says another format."""

    def write(root):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encode_image(picture(9), "png"))

    return write


AB = ["a/1.png", "b/2.png"]
TREES = {
    "plain": Tree(AB, ["a", "b"]),
    "nested": Tree(["a/v/0.png", "a/v-2/0.png", "a/z.png", "a-b/0.png"], ["a", "a-b"]),
    "numbers": Tree(["10/0.png", "2/0.png", "1/0.png"], ["1", "10", "2"]),
    "upper case": Tree(AB, ["a", "b"], copy("b/3.PNG"), [*AB, "b/3.PNG"]),
    "grey map": Tree(AB, ["A0", "a", "b"], copy("A0/1.pgm"), ["A0/1.pgm", *AB]),
    "linked class": Tree(AB, ["a", "b", "c"], link("c", "a"), [*AB, "c/1.png"]),
    "linked twice": Tree(AB, ["a", "b"], link("b/extra", "../a"), [*AB, "b/extra/1.png"]),
    "foreign": Tree(AB, ["a", "b"], copy("a/1.heic")),
    "hidden class": Tree(AB, ["a", "b"], copy(".c/1.png"), hint=r"takes '\.c' for a class"),
    "only gif": Tree(
        AB,
        ["a", "b", "c"],
        copy("c/3.gif"),
        [*AB, "c/3.gif"],
        hint=r"does not read \.gif \(1 of 3 images\)",
        refused={"imagefolder", "few shots"},
    ),
    "empty class": Tree(
        AB,
        ["a", "aa", "b"],
        lambda root: (root / "aa").mkdir(),
        hint="classes without images: aa|'aa' has none|classes aa",
        refused={"imagefolder", "finetune", "few shots"},
    ),
    "class of other files": Tree(
        AB,
        ["a", "aa", "b"],
        copy("aa/1.avif"),
        hint="classes without images: aa|'aa' has none|classes aa",
        refused={"imagefolder", "finetune", "few shots"},
    ),
    "train and val": Tree(
        ["train/a/1.png", "val/a/1.png"],
        [],
        hint="holds splits: give one of them, such as '.*/train'",
        refused={"augment", "finetune"},
    ),
    "one level too high": Tree(
        ["images/a/1.png", "images/b/1.png"],
        ["images"],
        hint="one class, 'images', which holds only folders; .* give '.*/images'",
    ),
}
#: What ImageFolder lists too, and fails on, or lists again and again; here it is named.
FAULTS = {
    "loop": Tree(AB, ["a", "b"], link("b/up", "..")),
    "pipe": Tree(AB, ["a", "b"], lambda root: os.mkfifo(root / "a/pipe.png")),
    "broken link": Tree(AB, ["a", "b"], link("a/gone.png", "nothing")),
    "beside": Tree(AB, ["a", "b"], copy("cover.png")),
}


def made(tree, tmp_path):
    root = save_photos(tmp_path / "photos", tree.names)
    tree.change(root)
    return root


def heard(told):
    return " | ".join(str(warning.message) for warning in told)


def with_warnings(function):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return function(), heard(told)


@pytest.mark.parametrize("name", TREES)
def test_a_listing_has_the_right_classes(name, tmp_path):
    tree = TREES[name]
    listing = list_folder(made(tree, tmp_path))
    if tree.classes:
        assert (tree.classes, tree.read) == (listing.classes, sorted(listing.keys))


@pytest.mark.parametrize("name", TREES)
def test_imagefolder_agrees_or_refuses_or_the_difference_is_said(name, tmp_path):
    tree = TREES[name]
    root = made(tree, tmp_path)
    if "imagefolder" in tree.refused:
        with pytest.raises(FileNotFoundError, match="no valid file for the classes"):
            ImageFolder(root)
        return
    listing, real = list_folder(root), ImageFolder(root)
    same = [os.path.relpath(path, root) for path, _ in real.samples] == listing.keys
    assert (same and real.classes == listing.classes) or listing.differences()


@pytest.mark.parametrize("name", TREES)
def test_a_set_has_the_classes_and_images_of_its_source(name, tmp_path):
    tree = TREES[name]
    root = made(tree, tmp_path)
    if "augment" in tree.refused:
        with pytest.raises(ValueError, match=tree.hint):
            augment_folder(root, tmp_path / "set", EDIT)
        return
    done, told = with_warnings(lambda: augment_folder(root, tmp_path / "set", EDIT))
    assert re.search(tree.hint, told) if tree.hint else told == ""
    data = GeneratedDataset(done.destination)
    assert tree.classes == data.classes == list(done.classes)
    assert tree.read == [row["source"] for row in data.rows]
    numbers = [tree.classes.index(key.split("/")[0]) for key in tree.read]
    assert numbers == data.targets
    real = ImageFolder(done.destination, allow_empty=True)
    assert (tree.classes, sorted(numbers)) == (real.classes, real.targets)


@pytest.mark.parametrize("name", TREES)
def test_a_filter_finds_every_source(name, tmp_path):
    tree = TREES[name]
    root = made(tree, tmp_path)
    if "augment" in tree.refused:
        return
    with_warnings(lambda: augment_folder(root, tmp_path / "set", EDIT))
    done = filter_set(tmp_path / "set", SimilarityFilter(low=-1, high=1))
    assert (len(tree.read), ()) == (done.kept, done.unreadable)


@pytest.mark.parametrize("name", TREES)
def test_a_preview_shows_the_images_of_the_listing(name, tmp_path, monkeypatch):
    tree = TREES[name]
    root = made(tree, tmp_path)
    shown = []
    monkeypatch.setattr(
        type(EDIT), "draw_copy", lambda self, n, *a: shown.append(n) or self.draw(1)[0]
    )
    assert [] == preview(root, tmp_path / "sheet.png", EDIT, count=99, tile=32)
    assert len(list_folder(root).keys) == len(shown)


@pytest.mark.parametrize("name", TREES)
def test_finetune_learns_the_same_classes(name, tmp_path):
    tree = TREES[name]
    root = made(tree, tmp_path)
    if "finetune" in tree.refused:
        with pytest.raises(ValueError, match=tree.hint):
            TrainingSet(root)
        return
    images, told = with_warnings(lambda: TrainingSet(root))
    assert (tree.classes, tree.read) == (images.names, sorted(images.keys))
    labels = [tree.classes.index(key.split("/")[0]) for key in images.keys]
    assert labels == images.sampler([], 16, False).labels
    assert re.search(tree.hint, told) if tree.hint else told == ""


@pytest.mark.parametrize("name", TREES)
def test_the_few_shots_of_imagefolder_are_those_of_finetune(name, tmp_path):
    tree = TREES[name]
    root = made(tree, tmp_path)
    if tree.refused & {"finetune", "few shots"} or name == "hidden class":
        return
    data = ImageFolder(root)
    for seed in range(5):
        chosen = [data.samples[index][0] for index in few_shot_subset(data, 1, seed)]
        trained, _ = with_warnings(lambda seed=seed: TrainingSet(root, shots=1, seed=seed))
        assert [str(root / key) for key in trained.keys] == chosen
        only, _ = with_warnings(lambda keys=trained.keys: FolderSource(root, keys))
        assert sorted(trained.keys) == only.keys


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_read_is_named_by_a_run_and_no_other_class_is_lost(name, tmp_path):
    tree = FAULTS[name]
    root = made(tree, tmp_path)
    done, told = with_warnings(lambda: augment_folder(root, tmp_path / "set", EDIT))
    assert (AB, 1, "") == (
        [row["source"] for row in read_manifest(tmp_path / "set")],
        len(done.skipped),
        told,
    )
    assert tree.classes == list(done.classes) == TrainingSet(root).names
    assert ImageFolder(tmp_path / "set").class_to_idx == {"a": 0, "b": 1}
    assert [] == preview(root, tmp_path / "sheet.png", EDIT, count=99, tile=32)


def test_one_file_more_changes_one_choice_at_most(tmp_path):
    names = [f"{name}/{number}.png" for name in ("ant", "bee") for number in range(6)]
    root = save_photos(tmp_path, names)
    for seed in range(20):
        before = set(TrainingSet(root, shots=3, seed=seed).keys)
        save_photos(root, ["ant/0-more.png"])
        after = set(TrainingSet(root, shots=3, seed=seed).keys)
        (root / "ant/0-more.png").unlink()
        assert len(before - after) <= 1
        assert {key for key in after if key.startswith("bee")} <= before
