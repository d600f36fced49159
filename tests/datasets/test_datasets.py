"""Generated sets as datasets: their labels at any gamma, and their place among real images."""

import json
import math
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from image_folders import picture, save, save_photos
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from diffaug import (
    ClassPairSampler,
    DiffMix,
    FractalBank,
    FractalBlend,
    GeneratedDataset,
    JointTransform,
    MixCollate,
    MixedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
)
from diffaug.errors import UnreadableImageError
from diffaug.images import read_image
from diffaug.offline.destination import rewriting
from diffaug.offline.manifest import read_manifest, write_manifest

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four images of ants, two of bees, one of a cat."""
    names = ["ant/1", "ant/2", "ant/3", "ant/4", "bee/1", "bee/2", "cat/1"]
    root = tmp_path_factory.mktemp("real") / "photos"
    return save_photos(root, [f"{name}.png" for name in names])


def mixer(names=NAMES, **options):
    return DiffMix(names, **{"backend": RecordingBackend(16), "strength": [0.2, 0.7], **options})


@pytest.fixture(scope="module")
def mixed_set(photos, tmp_path_factory):
    """Seventy images of DiffMix, and the seven originals; do not change it, copy it."""
    folder = tmp_path_factory.mktemp("mixed") / "set"
    augment_folder(photos, folder, mixer(), per_image=10, include_originals=True, format="png")
    return folder


@pytest.fixture
def own_set(mixed_set, tmp_path):
    return shutil.copytree(mixed_set, tmp_path / "own")


def formula(row, gamma, names=NAMES, width=None):
    """The soft label, from nothing but the row."""
    label = [0.0] * (width or len(names))
    weight = 1.0 if row["strength"] is None else row["strength"] ** gamma
    label[names.index(row["source_label"] or row["label"])] += 1 - weight
    label[names.index(row["label"])] += weight
    return torch.tensor(label)


# GeneratedDataset.


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_labels_are_computed_anew_at_any_gamma(mixed_set, gamma):
    data = GeneratedDataset(mixed_set, gamma=gamma)
    rows = [row for row in read_manifest(mixed_set) if row["method"] == "DiffMix"]
    assert (70, NAMES) == (len(data), data.classes)
    assert len({row["source_label"] != row["label"] for row in rows}) == 2
    for index, row in enumerate(rows):
        label = data.label(index)
        torch.testing.assert_close(formula(row, gamma), label)
        assert torch.float32 == label.dtype
    assert [NAMES.index(row["label"]) for row in rows] == data.targets


def test_gamma_is_a_half_unless_given(mixed_set):
    data, half = GeneratedDataset(mixed_set), GeneratedDataset(mixed_set, gamma=0.5)
    assert all(torch.equal(data.label(n), half.label(n)) for n in range(len(data)))


def test_an_item_is_the_image_of_its_row_as_the_transform_makes_it(mixed_set):
    data = GeneratedDataset(mixed_set)
    image, label = data[3]
    assert isinstance(image, Image.Image) and torch.equal(label, data.label(3))
    expected = read_image(mixed_set / data.rows[3]["file_name"])
    assert torch.equal(expected, v2.functional.pil_to_tensor(image))
    tensors = GeneratedDataset(mixed_set, transform=v2.PILToTensor())
    assert torch.equal(expected, tensors[3][0])
    assert torch.equal(tensors[len(tensors) - 1][0], tensors[-1][0])
    with pytest.raises(IndexError, match="'index' must be below 70, got 70"):
        tensors[70]


def test_originals_are_read_when_asked_for_and_are_of_one_class(mixed_set):
    data = GeneratedDataset(mixed_set, originals=True)
    assert 77 == len(data)
    originals = [n for n, row in enumerate(data.rows) if row["method"] == "original"]
    assert 7 == len(originals)
    for number in originals:
        expected = [float(name == data.rows[number]["label"]) for name in NAMES]
        assert expected == data.label(number).tolist()


def test_what_a_filter_dropped_is_left_out(own_set):
    with rewriting(own_set) as rows:
        for number, row in enumerate(rows):
            row["kept"] = [True, False, None][number % 3]
    expected = [r for r in read_manifest(own_set) if r["kept"] is not False and r["strength"]]
    assert expected == GeneratedDataset(own_set).rows
    with rewriting(own_set) as rows:
        for row in rows:
            row["kept"] = False
    with pytest.raises(ValueError, match="that are kept, and of 77 in .* none is"):
        GeneratedDataset(own_set)


def test_names_may_be_of_any_type_that_datasets_have(mixed_set):
    tuples = [("cat", "Felis"), ("ant",), ("crane", "bird"), ("bee",), ("crane", "machine")]
    data = GeneratedDataset(mixed_set, classes=tuples)
    assert ["cat", "ant", "crane (2)", "bee", "crane (4)"] == data.classes
    words = GeneratedDataset(mixed_set, classes=np.array(["cat", "ant", "bee"]))
    assert ["cat", "ant", "bee"] == words.classes
    assert [type(name) for name in words.classes] == [str] * 3


def test_a_set_may_be_moved(own_set, tmp_path):
    before = GeneratedDataset(own_set)
    image, label = before[5]
    own_set.rename(tmp_path / "elsewhere")
    moved = GeneratedDataset(str(tmp_path / "elsewhere"))
    assert image.tobytes() == moved[5][0].tobytes() and torch.equal(label, moved[5][1])


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")]
)
def test_a_lost_or_damaged_image_is_named_with_what_to_do(own_set, damage):
    data = GeneratedDataset(own_set)
    path = own_set / data.rows[4]["file_name"]
    damage(path)
    assert 2 == len(data[3])
    with pytest.raises(UnreadableImageError, match="run the same 'diffaug augment' again") as told:
        data[4]
    assert str(path) in str(told.value) and "\n" not in str(told.value)


def test_other_names_reorder_the_labels(mixed_set):
    names = ["cat", "dog", "ant", "bee"]
    for data in (
        GeneratedDataset(mixed_set, classes=names, gamma=0.3),
        GeneratedDataset(mixed_set, gamma=0.3).renumbered(names),
    ):
        assert (names, 4) == (data.classes, data.num_classes)
        for number in range(0, 70, 9):
            expected = formula(data.rows[number], 0.3, names)
            torch.testing.assert_close(expected, data.label(number))


def test_the_transform_s_order_of_classes_is_kept(photos, tmp_path):
    names = ["cat", "ant", "bee", "dog"]
    augment_folder(photos, tmp_path / "set", mixer(names), per_image=2)
    data = GeneratedDataset(tmp_path / "set")
    assert names == data.classes
    torch.testing.assert_close(formula(data.rows[0], 0.5, names), data[0][1])


def test_labels_may_be_wider(mixed_set):
    data = GeneratedDataset(mixed_set, num_classes=5)
    torch.testing.assert_close(formula(data.rows[0], 0.5, width=5), data[0][1])


@pytest.mark.parametrize(
    "transform",
    [
        PromptEdit(["snowy"], backend=RecordingBackend(16)),
        FractalBlend(fractals=FractalBank(2, 32)),
    ],
    ids=["PromptEdit", "FractalBlend"],
)
def test_sets_that_keep_the_label_give_it_one_hot(photos, tmp_path, transform):
    augment_folder(photos, tmp_path / "set", transform, include_originals=True)
    data = GeneratedDataset(tmp_path / "set", originals=True, gamma=0.1)
    assert (14, NAMES) == (len(data), data.classes)
    for number, row in enumerate(data.rows):
        expected = [float(name == row["source"].partition("/")[0]) for name in NAMES]
        assert expected == data.label(number).tolist()


def test_classes_are_numbered_as_the_source_numbers_them(tmp_path):
    """Not by the alphabet: 'dog' is 0 here, and '10' comes behind '9'."""
    edit = PromptEdit(["snowy"], backend=RecordingBackend(16))
    names = ["dog", "cat", "ant"]
    with pytest.warns(UserWarning, match="'ant' is 2 in the dataset, and ImageFolder would make"):
        augment_dataset([(picture(0), 1)], tmp_path / "named", edit, class_names=names)
    data = GeneratedDataset(tmp_path / "named")
    assert (["dog", "cat", "ant"], [1]) == (data.classes, data.targets)
    numbers = [11, 2, 10, 0]
    with pytest.warns(UserWarning, match="'11' is 11 in the dataset, and ImageFolder would make"):
        augment_dataset([(picture(n), n) for n in numbers], tmp_path / "numbers", edit)
    data = GeneratedDataset(tmp_path / "numbers")
    assert numbers == [data.targets[n] for n in range(4)] and 12 == data.num_classes


def test_only_some_images_still_number_all_classes(photos, tmp_path):
    edit = PromptEdit(["snowy"], backend=RecordingBackend(16))
    augment_folder(photos, tmp_path / "set", edit, only=["cat/1.png"])
    data = GeneratedDataset(tmp_path / "set")
    assert (NAMES, [2]) == (data.classes, data.targets)


def test_without_a_record_classes_are_sorted(own_set):
    (own_set / "run.json").unlink()
    assert NAMES == GeneratedDataset(own_set).classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["ant", "bee"]}, "'classes' must name every class of .* 'cat' is not among"),
        ({"classes": ["ant", "bee", "cat", "bee"]}, "'classes' must name each class once, got"),
        ({"gamma": -1}, "'gamma' must be at least 0, got -1."),
        ({"num_classes": 2}, "'num_classes' must be at least 3, got 2."),
    ],
)
def test_a_wrong_argument_is_named(mixed_set, options, message):
    with pytest.raises(ValueError, match=message):
        GeneratedDataset(mixed_set, **options)


def test_a_folder_without_a_set_is_named(photos, tmp_path):
    for folder in (photos, tmp_path / "nowhere"):
        with pytest.raises(
            ValueError, match="'folder' must hold a generated set, and .* has no meta"
        ):
            GeneratedDataset(folder)


def labelled(folder, labels):
    """Write a set with these labels, as an offline run does."""
    rows = []
    for number, label in enumerate(labels):
        save(folder / f"{number}.png", picture(number))
        rows.append({"file_name": f"{number}.png", "source": str(number), "label": label})
    write_manifest(folder, rows)
    return folder


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0, 1, 1], [1, 0, 0]], torch.tensor([[0, 1, 1], [1, 0, 0]])),
        ([[0.5, 0.25], [1.0, 0.0]], torch.tensor([[0.5, 0.25], [1.0, 0.0]])),
        ([0.5, 2.0], torch.tensor([0.5, 2.0], dtype=torch.float64)),
    ],
    ids=["several classes", "weights", "a number"],
)
def test_labels_that_are_no_classes_come_as_they_were(tmp_path, labels, expected):
    data = GeneratedDataset(labelled(tmp_path / "set", labels), transform=v2.ToImage())
    [(images, batch)] = DataLoader(data, 2)
    assert torch.equal(expected, batch) and expected.dtype == batch.dtype
    assert torch.equal(picture(1), images[1])
    assert labels == data.targets and not hasattr(data, "classes")


def test_images_without_labels_come_alone(tmp_path):
    data = GeneratedDataset(labelled(tmp_path / "set", [None, None]), transform=v2.ToImage())
    assert torch.equal(picture(1), data[1])
    [batch] = DataLoader(data, 2)
    assert (2, 3, 24, 32) == batch.shape


def test_a_set_has_classes_or_has_none(tmp_path):
    folder = labelled(tmp_path / "set", ["cat", None])
    with pytest.raises(ValueError, match="all have a class, or none has, and of 2 in .* 1 have no"):
        GeneratedDataset(folder)
    folder = labelled(tmp_path / "other", [[0, 1]])
    with pytest.raises(ValueError, match=r"must be None, for the labels .* such as \[0, 1\] of '0"):
        GeneratedDataset(folder, classes=NAMES)
    for option in ({"classes": NAMES}, {"gamma": 0.5}, {"num_classes": 2}, {"long_tail": True}):
        name = next(iter(option))
        with pytest.raises(ValueError, match=f"'{name}' must be None where the labels of the set"):
            MixedDataset([(picture(0), [0, 1])], folder, **option)


def test_real_and_generated_images_may_have_labels_that_are_no_classes(tmp_path):
    folder = labelled(tmp_path / "set", [[0, 1, 1], [1, 0, 0]])
    real = [(picture(8), np.array([0, 1, 1])), (picture(9), np.array([1, 0, 0]))]
    data = MixedDataset(real, folder, replacement="concat")
    batch = next(iter(DataLoader(Subset(data, range(4)), 4, collate_fn=lambda batch: batch)))
    assert [[0, 1, 1], [1, 0, 0]] * 2 == [label.tolist() for _, label in batch]
    assert all(isinstance(label, torch.Tensor) for _, label in batch)
    local = MixedDataset(real, folder, p=0.5, replacement="local", seed=1)
    assert [0, 1, 1] == local[0][1].tolist()


# MixedDataset.


class Reals(torch.utils.data.Dataset):
    """Real images that say which they are: of 1 x 1 pixels, where generated ones are larger."""

    def __init__(self, targets, classes=None):
        self.targets = list(targets)
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.new("RGB", (1, 1)), self.targets[index]


def is_real(image):
    return image.size == (1, 1)


def reals(count=600):
    return Reals([number % 3 for number in range(count)], NAMES)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_so_many_are_replaced_as_p_says_and_the_others_stay(mixed_set, p):
    data = MixedDataset(reals(), mixed_set, p=p, seed=1)
    found = [data[index] for index in range(len(data))]
    assert 600 == len(data)
    kept = [(n, label) for n, (image, label) in enumerate(found) if is_real(image)]
    assert all(label[n % 3] == 1 for n, label in kept)
    replaced = 600 - len(kept)
    assert abs(replaced - 600 * p) <= 4 * math.sqrt(600 * p * (1 - p))


def test_what_replaces_is_drawn_uniformly_from_the_whole_set(mixed_set):
    with pytest.warns(UserWarning, match="'p' is 1.0: above 0.5"):
        data = MixedDataset(reals(2100), mixed_set, p=1.0, seed=1)
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(data._choose(index, generator) for index in range(2100))
    assert set(range(70)) == set(drawn)
    assert sum((count - 30) ** 2 / 30 for count in drawn.values()) < 111.1  # chi-square(69), 99.9 %


def test_a_replaced_item_is_an_image_of_the_set_with_its_label(mixed_set):
    generated = GeneratedDataset(mixed_set, gamma=0.3)
    known = {generated.image(n).tobytes(): generated.label(n) for n in range(70)}
    data = MixedDataset(reals(40), generated, p=0.5, seed=0)
    made = [(image, label) for image, label in (data[n] for n in range(40)) if not is_real(image)]
    assert len(made) > 10
    for image, label in made:
        assert torch.equal(known[image.tobytes()], label)


def test_gamma_is_the_generated_set_s_own_unless_given(mixed_set):
    generated = GeneratedDataset(mixed_set, gamma=0.3)
    for gamma, expected in ((None, 0.3), (0.9, 0.9)):
        data = MixedDataset(Reals([0], NAMES), generated, gamma=gamma, replacement="concat")
        for number in range(0, 70, 11):
            label = data[1 + number][1]
            torch.testing.assert_close(formula(generated.rows[number], expected), label)
    assert torch.equal(formula(generated.rows[1], 0.3), generated.label(1))


def test_concat_puts_the_generated_behind_the_real(mixed_set):
    generated = GeneratedDataset(mixed_set)
    data = MixedDataset(reals(5), mixed_set, replacement="concat")
    assert 75 == len(data)
    assert [True] * 5 + [False] * 70 == [is_real(data[n][0]) for n in range(75)]
    for number in (0, 30, 69):
        image, label = generated[number]
        assert image.tobytes() == data[5 + number][0].tobytes()
        assert torch.equal(label, data[5 + number][1])
    assert torch.equal(data[-1][1], data[74][1])
    with pytest.raises(IndexError, match="below 75, got 75"):
        data[75]


def sources(photos):
    """What says of which source a generated image is: its row, by its pixels."""
    return lambda data: {
        data.generated.image(n).tobytes(): row["source"]
        for n, row in enumerate(data.generated.rows)
    }


@pytest.mark.parametrize("subset", [None, [6, 1, 4]])
def test_local_replaces_by_what_was_made_from_the_same_image(photos, mixed_set, subset):
    folder = ImageFolder(photos)
    paths = [f"{NAMES[target]}/{path.rpartition('/')[2]}" for path, target in folder.samples]
    places = range(7) if subset is None else subset
    real = folder if subset is None else Subset(folder, subset)
    data = MixedDataset(real, mixed_set, p=0.5, replacement="local", seed=0)
    by_pixels = sources(photos)(data)
    replaced = 0
    for epoch in range(12):
        data.set_epoch(epoch)
        for number, place in enumerate(places):
            pixels = data[number][0].tobytes()
            if pixels != real[number][0].tobytes():
                replaced += 1
                assert paths[place] == by_pixels[pixels]
    assert replaced > 5


def test_local_finds_images_by_index_where_the_set_was_made_from_a_dataset(photos, tmp_path):
    folder = ImageFolder(photos)
    augment_dataset(folder, tmp_path / "set", mixer(), per_image=3, format="png")
    data = MixedDataset(folder, tmp_path / "set", p=0.5, replacement="local", seed=0)
    for place, pool in enumerate(data._pools):
        assert {str(place)} >= {data.generated.rows[number]["source"] for number in pool}
    assert 21 == sum(map(len, data._pools))


def test_local_keeps_images_that_nothing_was_made_from(photos, tmp_path):
    only = ["ant/1.png", "bee/1.png"]
    augment_folder(photos, tmp_path / "set", mixer(), per_image=4, only=only)
    data = MixedDataset(ImageFolder(photos), tmp_path / "set", p=0.5, replacement="local", seed=3)
    changed = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        changed |= {n for n in range(7) if data[n][1].max() < 1}
    assert changed and changed <= {0, 4}


def test_local_without_any_such_image_is_an_error(mixed_set):
    with pytest.raises(
        ValueError, match="made from the images of 'dataset' for replacement='local"
    ):
        MixedDataset(reals(), mixed_set, replacement="local")


@pytest.fixture(scope="module")
def two_of_three(photos, tmp_path_factory):
    """A set whose targets are two of the three classes; its sources are of all."""
    folder = tmp_path_factory.mktemp("some") / "set"
    augment_folder(photos, folder, mixer(targets=NAMES[1:], strength=0.7), per_image=6)
    assert set(NAMES) == {row["source_label"] for row in read_manifest(folder)}
    return folder


@pytest.mark.parametrize("known", [True, False])
def test_class_replaces_by_images_of_the_same_class_and_keeps_the_others(two_of_three, known):
    real = TensorDataset(torch.zeros(180, 3, 1, 1), torch.arange(180) % 3) if known else reals(180)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no class becomes rarer
        data = MixedDataset(real, two_of_three, classes=NAMES, p=0.5, replacement="class", seed=0)
    assert known == (data._numbers is not None)
    items = [data[n] for n in range(180)]
    assert all(n % 3 == label.argmax() for n, (_, label) in enumerate(items))
    replaced = [
        n % 3
        for n, (image, _) in enumerate(items)
        if not isinstance(image, torch.Tensor) and not is_real(image)
    ]
    assert {1, 2} == set(replaced) and 40 < len(replaced) < 80


def test_global_warns_where_a_class_would_become_rarer(photos, two_of_three, mixed_set):
    real = ImageFolder(photos)
    with pytest.warns(UserWarning, match="of 2 of 3 classes, and none of 'ant': .*='class'"):
        MixedDataset(real, two_of_three, p=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MixedDataset(real, two_of_three, p=0.0)
        MixedDataset(real, mixed_set, p=0.3)
        kept = Subset(real, [n for n, target in enumerate(real.targets) if target])
        MixedDataset(kept, two_of_three, p=0.3, own_sources=False)


def test_class_is_refused_where_it_would_replace_nothing(photos, two_of_three, tmp_path):
    ants = Subset(ImageFolder(photos), range(4))
    with pytest.raises(ValueError, match="images of the classes of 'dataset' .* such as 'ant'"):
        MixedDataset(ants, two_of_three, replacement="class", own_sources=False)
    other = TensorDataset(torch.zeros(9, 3, 1, 1), torch.full((9,), 3))
    with pytest.raises(ValueError, match="images of the classes of 'dataset' .* such as 3"):
        MixedDataset(other, two_of_three, classes=NAMES, replacement="class", num_classes=4)
    with pytest.warns(UserWarning, match="of 0 of 1 classes, and none of 3: what it lacks"):
        MixedDataset(other, two_of_three, classes=NAMES, p=0.3, num_classes=4)
    folder = labelled(tmp_path / "set", [[0, 1]])
    with pytest.raises(ValueError, match=r"'replacement' must not be 'class' .* as \[0, 1\]; 'glo"):
        MixedDataset([(picture(0), [0, 1])], folder, replacement="class")


def test_a_long_tail_is_drawn_by_the_target_s_rarity(mixed_set):
    real = Reals([0] * 30 + [1] * 9 + [2], NAMES)
    data = MixedDataset(real, mixed_set, p=0.5, long_tail=True, seed=0)
    generator = torch.Generator().manual_seed(0)
    targets = data.generated.targets
    drawn = Counter(targets[data._choose(0, generator)] for _ in range(3000))
    weights = [1 / 31, 1 / 10, 1 / 2]
    expected = [3000 * weight / sum(weights) for weight in weights]
    found = sum((drawn[n] - expected[n]) ** 2 / expected[n] for n in range(3))
    assert found < 13.8  # chi-square(2), 99.9 %


def test_a_long_tail_passes_over_classes_that_nothing_was_made_of(photos, tmp_path):
    ring = ClassPairSampler(3, strategy=[[1, 1, 0]] * 3)
    augment_folder(photos, tmp_path / "set", mixer(pairs=ring), per_image=5)
    data = MixedDataset(reals(9), tmp_path / "set", p=0.5, long_tail=True, seed=0)
    targets = {data.generated.targets[data._choose(0, None)] for _ in range(100)}
    assert {0, 1} == targets


def test_classes_are_matched_by_name(photos, tmp_path):
    names = ["cat", "bee", "ant"]
    augment_folder(photos, tmp_path / "set", mixer(names), per_image=3)
    for generated in (tmp_path / "set", GeneratedDataset(tmp_path / "set")):
        data = MixedDataset(ImageFolder(photos), generated, replacement="concat")
        assert NAMES == data.generated.classes
        for number, row in enumerate(data.generated.rows):
            torch.testing.assert_close(formula(row, 0.5), data[7 + number][1])


def test_a_dataset_without_names_has_the_numbers_of_the_set(photos, tmp_path):
    names = ["cat", "bee", "ant"]
    augment_folder(photos, tmp_path / "set", mixer(names), per_image=3)
    with pytest.warns(UserWarning, match="assumes the order cat, bee, ant for its labels"):
        data = MixedDataset(Reals([0, 1, 2]), tmp_path / "set", replacement="concat")
    assert names == data.generated.classes == data.classes
    torch.testing.assert_close(formula(data.generated.rows[0], 0.5, names), data[3][1])


def test_two_classes_of_one_name_stay_two(tmp_path):
    """As ImageNet's cranes, the bird and the machine."""
    names = ["crane", "owl", "crane"]

    class Cranes(Reals):
        def __getitem__(self, index):
            return picture(index), self.targets[index]

    cranes = Cranes([0, 1, 2], [(name, "a synonym") for name in names])
    edit = PromptEdit(["snowy"], backend=RecordingBackend(16))
    with pytest.warns(UserWarning, match=r"'crane \(2\)' is 2 in the dataset, and ImageFolder wou"):
        augment_dataset(cranes, tmp_path / "set", edit)
    data = MixedDataset(cranes, tmp_path / "set", replacement="concat")
    assert [0, 1, 2] == [int(data[3 + number][1].argmax()) for number in range(3)]
    assert [0, 1, 2] == data.generated.targets


def test_labels_may_be_soft_or_in_dicts_and_wider(mixed_set):
    image = Image.new("RGB", (1, 1))
    real = [
        {"img": image, "fine_label": 2},
        {"img": image, "fine_label": np.array([0.5, 0.5, 0, 0, 0])},
    ]
    data = MixedDataset(real, mixed_set, classes=NAMES, p=0.0, num_classes=5)
    assert [[0, 0, 1, 0, 0], [0.5, 0.5, 0, 0, 0]] == [data[n][1].tolist() for n in range(2)]
    assert data[0][0] is image


def items(data, workers=0):
    loader = DataLoader(data, batch_size=None, num_workers=workers, shuffle=False)
    return [(np.asarray(image).tobytes(), label.tolist()) for image, label in loader]


def test_seeded_draws_do_not_depend_on_workers_and_differ_by_epoch(mixed_set):
    def data():
        return MixedDataset(reals(40), mixed_set, p=0.5, seed=7)

    first = items(data())
    assert first == items(data(), workers=2)
    later = data()
    later.set_epoch(1)
    second = items(later)
    later.set_epoch(1)
    assert first != second == items(later, workers=2)
    assert second != items(later)  # asked for again, each item is drawn anew
    torch.manual_seed(1234)
    assert first == items(data())
    other = MixedDataset(reals(40), mixed_set, p=0.5, seed=8)
    assert first != items(other)


def test_unseeded_draws_follow_torch_s_global_seed_and_differ_each_time(mixed_set):
    data = MixedDataset(reals(40), mixed_set, p=0.5)
    found = []
    for seed in (1, None, 1):
        if seed:
            torch.manual_seed(seed)
        found.append([data[n][1].tolist() for n in range(40)])
    assert found[0] == found[2] != found[1]


def test_a_seeded_draw_leaves_the_global_stream_alone(mixed_set):
    data = MixedDataset(reals(20), mixed_set, p=0.5, seed=7)
    before = torch.get_rng_state()
    for index in range(20):
        data[index]
    assert torch.equal(before, torch.get_rng_state())


def test_the_epoch_reaches_the_dataset_inside(photos, mixed_set):
    inside = JointTransform(ImageFolder(photos), v2.Compose([v2.RandomCrop(4)]), seed=0)
    data = MixedDataset(inside, mixed_set, p=0.0, seed=0)
    crops = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JointTransform's, of an item asked for twice in an epoch
        for epoch in range(3):
            data.set_epoch(epoch)
            crops.append(tuple(data[n][0].tobytes() for n in range(7)))
    assert 3 == len(set(crops))


class Told(Dataset):
    """A dataset that keeps a list of the epochs that it is told."""

    def __init__(self, inside):
        self.inside, self.epochs = inside, []

    def __len__(self):
        return len(self.inside)

    def __getitem__(self, index):
        return self.inside[index]

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


@pytest.mark.parametrize("wrap", [lambda told: told, lambda told: Subset(told, [0, 1])])
def test_the_epoch_reaches_the_dataset_inside_once(mixed_set, wrap):
    told = Told(reals(3))
    data = MixedDataset(wrap(told), mixed_set, classes=NAMES)
    data.set_epoch(1)
    data.set_epoch(2)
    assert [1, 2] == told.epochs


def test_a_replacement_is_found_however_it_is_spelt(photos, mixed_set):
    assert (
        "concat" == MixedDataset(ImageFolder(photos), mixed_set, replacement="Concat").replacement
    )


def test_it_trains_through_joint_transform_and_collate(photos, mixed_set):
    steps = v2.Compose([v2.ToImage(), v2.Resize((8, 8)), v2.ToDtype(torch.float32, scale=True)])
    real = ImageFolder(photos)
    joint = JointTransform(MixedDataset(real, mixed_set, p=0.5, seed=0), steps, seed=0)
    loader = DataLoader(joint, batch_size=4, collate_fn=MixCollate(3, mix=v2.MixUp(num_classes=3)))
    for epoch in range(2):
        joint.set_epoch(epoch)
        for images, labels in loader:
            assert (3, 8, 8) == tuple(images.shape[1:]) and len(images) == len(labels)
            torch.testing.assert_close(torch.ones(len(labels)), labels.sum(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.1}, r"'p' must be in \[0, 1\], got 1.1."),
        ({"p": 0.3, "replacement": "concat"}, "'p' must be None where nothing is replaced .* 0.3"),
        (
            {"replacement": "all"},
            "'replacement' must be one of global, class, local, concat, got 'all'.",
        ),
        ({"replacement": "local", "long_tail": True}, "'long_tail' must be False where"),
        ({"replacement": "concat", "long_tail": True}, "'long_tail' must be False where"),
        ({"gamma": -1}, "'gamma' must be at least 0, got -1."),
        ({"num_classes": 2}, "'num_classes' must be at least 3, got 2."),
        ({"seed": -1}, "'seed' must be at least 0, got -1."),
    ],
)
def test_wrong_arguments_of_a_mixture_are_named(mixed_set, options, message):
    with pytest.raises(ValueError, match=message):
        MixedDataset(reals(3), mixed_set, **options)


def test_datasets_that_do_not_fit_are_named(mixed_set, tmp_path):
    with pytest.raises(
        ValueError, match="'classes' must name every class of .* 'cat' is not among"
    ):
        MixedDataset(Reals([0], ["ant", "bee"]), mixed_set)
    with pytest.raises(TypeError, match="'dataset' must have a length and integer indices, got"):
        MixedDataset(iter([]), mixed_set)
    with pytest.raises(ValueError, match=r"the label must be in \[0, 3\), got 7"):
        MixedDataset(Reals([7], NAMES), mixed_set, p=0.0)[0]
    with pytest.raises(ValueError, match="has no metadata.jsonl"):
        MixedDataset(reals(), tmp_path)


def test_a_p_above_a_half_is_warned_of_where_the_caller_stands(mixed_set):
    with pytest.warns(UserWarning, match="'p' is 0.6: above 0.5") as told:
        MixedDataset(reals(3), mixed_set, p=0.6)
    assert [__file__] == [one.filename for one in told]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MixedDataset(reals(3), mixed_set, p=0.5)
        MixedDataset(reals(3), mixed_set, replacement="concat")


def test_the_record_says_the_classes(mixed_set):
    assert NAMES == json.loads((mixed_set / "run.json").read_text())["classes"]
