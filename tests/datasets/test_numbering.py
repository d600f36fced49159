"""A class has one number among real and generated images, or joining them is an error."""

import random
import warnings
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from image_folders import picture, save_photos
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, random_split
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.transforms import v2

from diffaug import (
    DiffuseMix,
    FractalBank,
    GeneratedDataset,
    JointTransform,
    MixedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
)
from diffaug.errors import DestinationError
from diffaug.labels.origins import image_paths

#: The order of folders is another than that of people: 'class10' comes before 'class2'.
CLASSES = sorted(f"class{number}" for number in range(1, 13))
NATURAL = [f"class{number}" for number in range(1, 13)]


def edit():
    return PromptEdit(["snowy"], backend=RecordingBackend(16))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photographs of each of twelve classes."""
    names = [f"{name}/{number}.png" for name in CLASSES for number in range(2)]
    return save_photos(tmp_path_factory.mktemp("joins") / "photos", names)


@pytest.fixture(scope="module")
def of_folder(photos):
    """A set that was made from the folder; do not change it."""
    augment_folder(photos, photos.parent / "of_folder", edit(), format="png")
    return photos.parent / "of_folder"


@pytest.fixture(scope="module")
def of_dataset(photos):
    """A set that was made from the folder as a dataset; do not change it."""
    augment_dataset(ImageFolder(photos), photos.parent / "of_dataset", edit(), format="png")
    return photos.parent / "of_dataset"


def load(path):
    return Image.open(path).convert("RGB")


class Timm(Dataset):
    """What timm's ImageDataset is: it has a reader, and no classes of its own."""

    def __init__(self, root, target_transform=None):
        numbers = {name: number for number, name in enumerate(NATURAL)}
        samples = [(str(p), numbers[p.parent.name]) for p in sorted(Path(root).glob("*/*.png"))]
        self.reader = SimpleNamespace(
            root=str(root),
            class_to_idx=numbers,
            samples=samples,
            filenames=lambda: [str(Path(path).relative_to(root)) for path, _ in samples],
        )
        self.target_transform = target_transform

    def __len__(self):
        return len(self.reader.samples)

    def __getitem__(self, index):
        path, label = self.reader.samples[index]
        return load(path), self.target_transform(label) if self.target_transform else label


class Backwards(DatasetFolder):
    """Classes in an order of its own."""

    def find_classes(self, directory):
        return CLASSES[::-1], {name: number for number, name in enumerate(CLASSES[::-1])}


class Grouped(DatasetFolder):
    """Folders whose names begin alike are one class."""

    def find_classes(self, directory):
        return ["one", "other"], {name: int(name > "class2") for name in CLASSES}


class Pairs(Dataset):
    """Images and labels of a dataset, and no more."""

    def __init__(self, inside, change=lambda label: label, **attributes):
        self.pairs = [(image, change(label)) for image, label in inside]
        vars(self).update(attributes)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


class Around(Dataset):
    """A dataset around another that changes its labels."""

    def __init__(self, dataset, change):
        self.dataset, self.change = dataset, change

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        return image, self.change(label)


def hugging_face(root):
    return datasets.load_dataset(
        "imagefolder",
        data_dir=str(root),
        data_files={"train": "**"},
        split="train",
        cache_dir=str(root.parent / "cache"),
    )


def halved(label):
    return label // 2


def hot(label):
    return torch.nn.functional.one_hot(torch.tensor(label), 12)


NUMBERED = {
    "ImageFolder": ImageFolder,
    "an order of its own": lambda root: Backwards(root, load, ("png",)),
    "groups": lambda root: Grouped(root, load, ("png",)),
    "target_transform": lambda root: ImageFolder(root, target_transform=halved),
    "timm": Timm,
    "timm with a target_transform": lambda root: Timm(root, halved),
    "Hugging Face": hugging_face,
    "Hugging Face, shuffled": lambda root: hugging_face(root).shuffle(seed=1),
    "a subset": lambda root: Subset(ImageFolder(root), range(24)),
    "a concatenation": lambda root: ConcatDataset(
        [Subset(ImageFolder(root), range(20)), Subset(ImageFolder(root), range(20, 24))]
    ),
    "a joint": lambda root: JointTransform(Timm(root), v2.Identity()),
    "a subset of a joint": lambda root: Subset(JointTransform(Timm(root), same), range(24)),
    "class_to_idx alone": lambda root: Pairs(
        Timm(root), class_to_idx={name: number for number, name in enumerate(NATURAL)}
    ),
    "classes alone": lambda root: Pairs(Timm(root), classes=NATURAL),
}


def same(sample):
    return sample


def truth(dataset):
    """The number of each class, from the pixels of the photographs."""
    numbers = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        image, label = sample.values() if isinstance(sample, dict) else sample
        numbers.setdefault(np.asarray(image.convert("RGB")).tobytes(), int(label))
    by_class = {}
    for number, name in enumerate(CLASSES):
        pixels = picture(2 * number).permute(1, 2, 0).numpy().tobytes()
        by_class[name] = numbers[pixels]
    return by_class


@pytest.mark.parametrize("made_from", ["of_folder", "of_dataset"])
@pytest.mark.parametrize("kind", NUMBERED)
def test_generated_images_have_the_numbers_of_the_real_ones(photos, request, kind, made_from):
    real = NUMBERED[kind](photos)
    data = MixedDataset(real, request.getfixturevalue(made_from), replacement="concat")
    expected = truth(real)
    assert 48 == len(data)
    for index, row in enumerate(data.generated.rows):
        assert expected[row["label"]] == int(data[24 + index][1].argmax())
    if kind not in ("class_to_idx alone", "classes alone"):
        assert [int(data[index][1].argmax()) for index in range(48)] == data.targets


def test_without_names_the_images_that_both_know_are_compared(photos, of_folder, of_dataset):
    """A warning would be an error here."""
    unnamed = list(ImageFolder(photos))
    data = MixedDataset(unnamed, of_dataset, replacement="concat")
    assert CLASSES == data.classes
    contradicted = [
        (list(Pairs(ImageFolder(photos), lambda label: 11 - label)), of_dataset, "0"),
        (list(Pairs(Timm(photos))), of_dataset, "2"),
        (Pairs(Timm(photos), root=photos, samples=Timm(photos).reader.samples), of_folder, ".*"),
        (Around(ImageFolder(photos), halved), of_folder, "class10/0.png"),
        (Around(Timm(photos), halved), of_folder, ".*"),
        (ImageFolder(photos, target_transform=halved), of_folder, None),
    ]
    for real, folder, key in contradicted:
        if key is None:
            with pytest.raises(ValueError, match="'classes' says that 'class10' is 1, but item 2 "):
                MixedDataset(real, folder, classes=CLASSES)
            continue
        with pytest.raises(ValueError, match=rf"must number classes alike.*\({key}\) has the lab"):
            MixedDataset(real, folder)


def test_where_nothing_can_be_compared_the_order_is_said(photos, of_folder):
    unnamed = list(ImageFolder(photos))
    message = r"assumes the order class1, class10, .*, class6, \.\.\. for its labels; give classes="
    with pytest.warns(UserWarning, match=message) as told:
        MixedDataset(unnamed, of_folder)
    assert [__file__] == [warning.filename for warning in told]
    # Nothing is assumed where the caller says it.
    MixedDataset(unnamed, GeneratedDataset(of_folder, classes=CLASSES))
    data = MixedDataset(unnamed, of_folder, classes=NATURAL, replacement="concat")
    assert NATURAL == data.classes and 1 == int(data[24 + 8][1].argmax())  # class2


def test_names_that_are_numbers_are_no_assumption(photos, tmp_path):
    unnamed = list(Timm(photos))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the order of folders, for '10' comes before '2'
        augment_dataset(unnamed, tmp_path / "set", edit(), format="png")
    for real in (unnamed, Pairs(Timm(photos), classes=NATURAL)):
        data = MixedDataset(real, tmp_path / "set", replacement="concat")
        assert [label for _, label in unnamed] * 2 == data.generated.targets * 2
    with pytest.raises(
        ValueError, match=r"the set says that '0' is 0, but item 0 \(0\) has the la"
    ):
        MixedDataset(list(Pairs(Timm(photos), lambda label: 11 - label)), tmp_path / "set")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"classes": CLASSES, "class_to_idx": dict(zip(NATURAL, range(12), strict=True))},
            "'classes' and 'class_to_idx' of Pairs must agree",
        ),
        (
            {"classes": NATURAL, "target_transform": lambda label: [0.5, 0.5]},
            r"must make class numbers, .* makes \[0.5, 0.5\] of 0; give classes= with the number",
        ),
        (
            {"classes": NATURAL, "target_transform": {0: 1}.__getitem__},
            "must take every class number, and 1 gives KeyError: 1; give classes=",
        ),
        ({"classes": CLASSES[::-1]}, "the names of the dataset say that 'class1' is 11, but item"),
    ],
)
def test_a_dataset_that_contradicts_itself_is_refused(photos, of_dataset, attributes, message):
    with pytest.raises(ValueError, match=message):
        MixedDataset(Pairs(ImageFolder(photos), **attributes), of_dataset)


def test_parts_that_number_a_class_in_two_ways_are_refused(photos, of_folder):
    parts = ConcatDataset([ImageFolder(photos), Timm(photos)])
    with pytest.raises(ValueError, match="parts .* alike, and 'class2' is 4 in one and 1 in anoth"):
        MixedDataset(parts, of_folder)


def test_parts_that_give_one_number_to_two_classes_are_refused(photos, of_folder, tmp_path):
    others = ImageFolder(save_photos(tmp_path / "others", ["ant/0.png", "bee/0.png"]))
    message = "must number classes alike, and 0 is 'class1' in one and 'ant' in another; give one"
    with pytest.raises(ValueError, match=message):
        MixedDataset(ConcatDataset([ImageFolder(photos), Subset(others, [0])]), of_folder)
    others.target_transform = lambda number: number + len(CLASSES)
    for parts in ([ImageFolder(photos), others], [others, ImageFolder(photos)]):
        data = MixedDataset(ConcatDataset(parts), of_folder, replacement="concat")
        assert [*CLASSES, "ant", "bee"] == data.classes
        made = [int(data[26 + n][1].argmax()) for n in range(24)]
        assert [data.class_to_idx[row["label"]] for row in data.generated.rows] == made


def test_the_caller_may_give_the_number_of_each_class(photos, of_folder):
    numbers = {name: int(name > "class2") for name in CLASSES}
    real = ImageFolder(photos, target_transform=lambda label: int(CLASSES[label] > "class2"))
    for data in (
        MixedDataset(real, of_folder, classes=numbers, replacement="concat"),
        MixedDataset(real, of_folder, replacement="concat"),
    ):
        assert 2 == data.num_classes and numbers == data.class_to_idx
        assert "class1, class10, class11, class12, class2" == data.classes[0]
        made = [int(data[24 + n][1].argmax()) for n in range(24)]
        assert [numbers[row["label"]] for row in data.generated.rows] == made
    with pytest.raises(TypeError, match="'classes' must be an integer, got 'x'"):
        GeneratedDataset(of_folder, classes=dict.fromkeys(CLASSES, "x"))


def test_reading_labels_leaves_no_trace(photos, of_folder):
    backend = RecordingBackend(16)
    mix = DiffuseMix(["snowy"], p=1.0, fractals=FractalBank(2, 16), backend=backend)
    inside = ImageFolder(photos, transform=mix)
    seeded = JointTransform(Around(inside, int), v2.RandomCrop(8), seed=0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    MixedDataset(seeded, of_folder)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert [] == backend.requests
    assert 0 == int(seeded._draws._counts.sum())
    seeded[0]
    assert 1 == len(backend.requests)


def test_images_that_cannot_be_read_say_nothing(photos, of_dataset):
    class Damaged(Pairs):
        def __getitem__(self, index):
            raise OSError("damaged")

    with pytest.warns(UserWarning, match="assumes the order"):
        MixedDataset(Damaged(ImageFolder(photos)), of_dataset)


# Sources


HELD_OUT = "{} of 24 generated images were made from images that are not in 'dataset', such as"


def halves(dataset):
    return random_split(dataset, [18, 6], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("made_from", ["of_folder", "of_dataset"])
@pytest.mark.parametrize(
    "kind",
    {
        "ImageFolder": lambda root: halves(ImageFolder(root)),
        "timm": lambda root: halves(Timm(root)),
        "nested": lambda root: halves(Subset(JointTransform(ImageFolder(root), same), range(24))),
        "inside": lambda root: [JointTransform(part, same) for part in halves(ImageFolder(root))],
        "Hugging Face": lambda root: list(hugging_face(root).train_test_split(6, seed=0).values()),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_was_made_from_other_images_is_left_out(photos, request, kind, made_from):
    train, held = kind[1](photos)
    folder = request.getfixturevalue(made_from)
    with pytest.warns(UserWarning, match=HELD_OUT.format(6)) as told:
        data = MixedDataset(train, folder, replacement="concat")
    assert [__file__] == [warning.filename for warning in told]
    pixels = {np.asarray(_image(held, index)).tobytes() for index in range(6)}
    files = {picture(n).permute(1, 2, 0).numpy().tobytes(): n for n in range(24)}
    outside = {files[image] for image in pixels}
    names = [f"{CLASSES[n // 2]}/{n % 2}.png" for n in range(24)]
    order = {str(n): n for n in range(24)} | {name: n for n, name in enumerate(names)}
    assert set(range(24)) - outside == {order[row["source"]] for row in data.generated.rows}
    with pytest.warns(UserWarning, match=HELD_OUT.format(6)):
        tail = MixedDataset(train, folder, long_tail=True, p=0.5)
    assert 18 == len(tail.generated) == sum(map(len, tail._pools))
    kept = MixedDataset(train, folder, replacement="concat", own_sources=False)
    assert 18 + 24 == len(kept)


def _image(dataset, index):
    sample = dataset[index]
    return (sample["image"] if isinstance(sample, dict) else sample[0]).convert("RGB")


def test_a_folder_of_which_a_dataset_takes_a_part_counts_too(photos, of_folder):
    first = ImageFolder(photos, is_valid_file=lambda path: path.endswith("0.png"))
    with pytest.warns(UserWarning, match=HELD_OUT.format(12)):
        assert 24 == len(MixedDataset(first, of_folder, replacement="concat"))


def test_a_set_of_held_out_images_alone_is_refused(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", edit(), only=["class1/0.png", "class2/1.png"])
    train = Subset(ImageFolder(photos), range(2, 8))
    with pytest.raises(ValueError, match="all 2 were made from others beside them, such as 'clas"):
        MixedDataset(train, tmp_path / "set")
    assert 2 == len(MixedDataset(train, tmp_path / "set", own_sources=False).generated)


def test_a_part_that_does_not_say_which_is_warned_of(photos, of_dataset, tmp_path):
    augment_dataset(Pairs(ImageFolder(photos), classes=CLASSES), tmp_path / "set", edit())
    part = Pairs(list(ImageFolder(photos))[:18], classes=CLASSES)
    with pytest.warns(UserWarning, match="made from a Pairs of 24, and 'dataset' seems to be"):
        assert 24 == len(MixedDataset(part, tmp_path / "set").generated)
    MixedDataset(part, tmp_path / "set", own_sources=False)
    assert 24 == len(MixedDataset(part, of_dataset).generated)  # another kind of dataset


def test_another_part_of_the_same_length_is_noticed(photos, tmp_path):
    full = ImageFolder(photos)
    augment_dataset(Subset(full, range(12)), tmp_path / "set", edit())
    other = Subset(full, range(12, 24))
    with pytest.raises(ValueError, match="all 12 were made from others .*; own_sources=False"):
        MixedDataset(other, tmp_path / "set")
    data = MixedDataset(other, tmp_path / "set", replacement="concat", own_sources=False)
    assert [n // 2 for n in range(12, 24)] + [n // 2 for n in range(12)] == data.targets


def test_a_set_of_the_folder_of_another_split_is_warned_of(tmp_path):
    names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(2)]
    for split in ("train", "val", "photos"):
        save_photos(tmp_path / split, names)
    augment_folder(tmp_path / "val", tmp_path / "set", edit())
    train = ImageFolder(tmp_path / "train")
    with pytest.warns(UserWarning, match="was made from '.*val', and the images of .*train': a v"):
        MixedDataset(Subset(train, range(4)), tmp_path / "set")
    MixedDataset(train, tmp_path / "set", own_sources=False)
    for same in ("val", "photos"):
        assert 4 == len(MixedDataset(ImageFolder(tmp_path / same), tmp_path / "set").generated)


def test_names_that_look_alike_are_told_apart(tmp_path):
    save_photos(tmp_path / "composed", ["caf\u00e9/0.png", "dog/0.png"])
    save_photos(tmp_path / "decomposed", ["cafe\u0301/0.png", "dog/0.png"])
    augment_folder(tmp_path / "composed", tmp_path / "set", edit())
    message = r"it has 'cafe\\u0301', not 'caf\\xe9': rename one"
    with pytest.raises(ValueError, match=message):
        MixedDataset(ImageFolder(tmp_path / "decomposed"), tmp_path / "set")
    with pytest.raises(TypeError, match="got ConcatDataset; for two sets, put a MixedDataset aro"):
        MixedDataset(ImageFolder(tmp_path / "composed"), ConcatDataset([[1]]))


def test_parts_of_one_dataset_are_compared_item_by_item(photos, tmp_path):
    full = ImageFolder(photos)
    items = [5, 0, 3, 8]
    augment_dataset(Subset(full, items), tmp_path / "set", edit())
    fold = Subset(Subset(full, range(1, 24)), [3, 0, 2, 8])  # 4, 1, 3 and 9 of the whole
    assert [full.targets[n] for n in items] == [fold[n][1] for n in range(4)]
    with pytest.warns(UserWarning, match="^3 of 4 generated images were made from images that are"):
        data = MixedDataset(fold, tmp_path / "set", replacement="concat")
    assert ["2"] == [row["source"] for row in data.generated.rows]
    assert full.targets[3] == int(data[4][1].argmax())
    others = Subset(full, [4, 1, 2, 9])
    with pytest.raises(ValueError, match="all 4 were made from others beside them, such as '0'"):
        MixedDataset(others, tmp_path / "set")
    with pytest.raises(DestinationError, match="made from other items of an ImageFolder of 24; ch"):
        augment_dataset(others, tmp_path / "set", edit())
    for more in (full, Subset(full, range(10)), JointTransform(Subset(full, [8, 5, 3, 0]), same)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = MixedDataset(more, tmp_path / "set", replacement="local", p=0.5)
        made_from = [[int(data.generated.rows[n]["source"]) for n in pool] for pool in data._pools]
        assert [0, 1, 2, 3] == sorted(source for pool in made_from for source in pool)
        for index, pool in enumerate(made_from):
            assert all(full.targets[items[n]] == more[index][1] for n in pool)
    columns = hugging_face(photos)
    augment_dataset(columns.select(items), tmp_path / "rows", edit())
    with pytest.warns(UserWarning, match="^1 of 4 generated"):
        MixedDataset(columns.select([8, 3, 5, 1]), tmp_path / "rows")


def test_a_set_of_other_photographs_stays_whole(of_folder, tmp_path):
    names = [f"{name}/other{number}.png" for name in CLASSES for number in range(2)]
    data = MixedDataset(ImageFolder(save_photos(tmp_path / "others", names)), of_folder)
    assert 24 == len(data.generated)


@pytest.mark.parametrize("made_from", ["of_folder", "of_dataset"])
@pytest.mark.parametrize(
    "around",
    [
        lambda full: Subset(full, [5, 3, 1]),
        lambda full: Subset(Subset(full, [9, 1, 3, 5]), [3, 2, 1]),
        lambda full: ConcatDataset([Subset(full, [5]), JointTransform(Subset(full, [3, 1]), same)]),
    ],
)
def test_local_follows_the_indices_of_subsets(photos, request, around, made_from):
    real = around(ImageFolder(photos))
    data = MixedDataset(real, request.getfixturevalue(made_from), p=0.5, replacement="local")
    order = ["5", "3", "1"]
    if made_from == "of_folder":
        order = ["class11/1.png", "class10/1.png", "class1/1.png"]
    found = [[data.generated.rows[n]["source"] for n in pool] for pool in data._pools]
    assert [[key] for key in order] == found


def test_paths_are_those_below_the_root(photos):
    names = [f"{name}/{number}.png" for name in CLASSES for number in range(2)]
    full = ImageFolder(photos)
    assert (
        names == image_paths(full) == image_paths(Timm(photos)) == image_paths(hugging_face(photos))
    )
    assert names[5:7] == image_paths(hugging_face(photos).select([5, 6]))
    assert names[5:7] == image_paths(JointTransform(Subset(full, [5, 6]), same))
    assert names[:1] * 2 == image_paths(ConcatDataset([Subset(full, [0]), Subset(full, [0])]))
    assert image_paths(ConcatDataset([full, list(full)])) is None
    assert image_paths([1, 2]) is None


def test_a_set_of_sets_knows_its_sources(photos, of_folder, of_dataset):
    train, _ = halves(ImageFolder(photos))
    with pytest.warns(UserWarning, match="6 of 24"):
        first = MixedDataset(train, of_folder, replacement="concat")
    with pytest.warns(UserWarning, match="6 of 24"):
        both = MixedDataset(first, of_folder, replacement="concat")
    assert 18 * 3 == len(both) and CLASSES == both.classes


# As datasets


def test_a_mixture_takes_no_transform_of_a_trainer(photos, of_folder):
    data = MixedDataset(ImageFolder(photos), of_folder)
    assert not hasattr(data, "transform")
    with pytest.raises(AttributeError, match="JointTransform.mixed, v2.Identity.., then=transform"):
        data.transform = v2.Identity()


def test_a_mixture_has_classes_and_targets(photos, of_folder):
    data = MixedDataset(Timm(photos), of_folder)
    assert (NATURAL, 1) == (data.classes, data.class_to_idx["class2"])
    assert [label for _, label in Timm(photos).reader.samples] == data.targets
    assert not hasattr(MixedDataset(list(Timm(photos)), of_folder, classes=NATURAL), "targets")


def test_image_and_label_may_be_elsewhere(photos, of_folder):
    rows = [{"jpg": image, "cls": label} for image, label in ImageFolder(photos)]
    getters = {"classes": CLASSES, "image_getter": "jpg", "labels_getter": "cls"}
    data = MixedDataset(rows, of_folder, p=0.0, **getters)
    image, label = data[5]
    assert image is rows[5]["jpg"] and 2 == int(label.argmax())
    with pytest.raises(
        TypeError, match="'labels_getter' must be a place in every sample, got 'cls', and"
    ):
        MixedDataset(
            list(ImageFolder(photos)), of_folder, classes=CLASSES, p=0.0, labels_getter="cls"
        )[0]
    tail = MixedDataset(rows, of_folder, p=0.5, long_tail=True, **getters)
    torch.testing.assert_close(
        torch.full((12,), 1 / 12), tail._weights / tail._weights.sum(), check_dtype=False
    )


def test_a_column_of_another_name_has_names_and_numbers_of_its_own(photos, of_folder):
    real = hugging_face(photos).rename_column("label", "cls")
    names = datasets.ClassLabel(names=["x"])
    real = real.add_column("label", [0] * 24).cast_column("label", names)
    data = MixedDataset(real, of_folder, replacement="concat", labels_getter="cls")
    assert CLASSES == data.classes
    assert [n // 2 for n in range(24)] * 2 == data.targets


def test_timm_s_loader_sets_what_comes_then(photos):
    timm = pytest.importorskip("timm.data")
    data = JointTransform(timm.create_dataset("", root=str(photos)), same, seed=0)
    loader = timm.create_loader(
        data, (3, 16, 16), 4, is_training=True, use_prefetcher=False, num_workers=0,
        persistent_workers=False,
    )  # fmt: skip
    images, labels = next(iter(loader))
    assert (4, 3, 16, 16) == images.shape and torch.float32 == images.dtype
    assert (4,) == labels.shape


def test_the_strings_of_a_set_become_the_source_s_numbers_in_hugging_face(photos, of_dataset):
    """As docs/offline.md says."""
    data = GeneratedDataset(of_dataset)
    loaded = hugging_face(of_dataset)
    assert isinstance(loaded[0]["label"], str)
    numbers = loaded.cast_column("label", datasets.ClassLabel(names=data.classes))["label"]
    assert [data.class_to_idx[name] for name in loaded["label"]] == list(numbers)


def test_names_may_be_an_array(photos, of_dataset):
    real = Pairs(Timm(photos), classes=np.array(NATURAL))
    assert NATURAL == MixedDataset(real, of_dataset).classes


def test_transforms_that_change_the_label_are_noticed(photos, of_folder):
    changed = JointTransform(ImageFolder(photos), lambda sample: (sample[0], 11 - sample[1]))
    with pytest.raises(ValueError, match="the names of the dataset say that 'class1' is 0, but"):
        MixedDataset(changed, of_folder)
    assert 12 == MixedDataset(changed, of_folder, classes=CLASSES[::-1]).num_classes


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ([*CLASSES, "class1"], ValueError, "'classes' must name each class once"),
        (CLASSES[1:], ValueError, "'classes' must name every class of .* 'class1' is not among"),
        ("class1", TypeError, "'classes' must be several names in order, got 'class1'"),
    ],
)
def test_wrong_classes_are_named(photos, of_folder, classes, error, message):
    with pytest.raises(error, match=message):
        MixedDataset(list(ImageFolder(photos)), of_folder, classes=classes)
