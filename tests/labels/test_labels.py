"""Soft labels, the labels of datasets, and kornia's form of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from diffaug import JointTransform, class_counts, few_shot_subset, soft_label
from diffaug.labels.dataset import dataset_labels, renumbered
from diffaug.labels.kornia import from_kornia, to_kornia
from diffaug.labels.label import as_probabilities, target_weight

STRENGTHS = st.floats(0, 1, width=32, allow_subnormal=False)
GAMMAS = st.floats(0, 4, allow_subnormal=False)


def oracle(source, target, strength, gamma, num_classes):
    """The paper's label of one image, in double precision and with plain loops."""
    weight = strength**gamma if strength else 0.0
    label = [0.0] * num_classes
    label[source] += 1 - weight
    label[target] += weight
    return torch.tensor(label, dtype=torch.float64)


# Soft labels


@pytest.mark.parametrize(("gamma", "weight"), [(0.5, 0.837), (0.8, 0.752), (1, 0.7)])
def test_the_target_counts_as_in_the_paper_s_table(gamma, weight):
    label = soft_label(1, 3, strength=0.7, gamma=gamma, num_classes=5)
    assert weight == round(float(label[3]), 3)
    assert weight == round(float(target_weight(0.7, gamma)), 3)
    assert round(1 - weight, 3) == round(float(label[1]), 3)
    assert [0, 0, 0] == label[[0, 2, 4]].tolist()


@st.composite
def batches(draw):
    """Draw odd sizes of batches and labels, down to one class and no image."""
    classes, size = draw(st.integers(1, 9)), draw(st.integers(0, 7))
    several = st.lists(st.integers(0, classes - 1), min_size=size, max_size=size)
    strengths = draw(st.lists(STRENGTHS, min_size=size, max_size=size))
    source, target = (torch.tensor(draw(several), dtype=torch.long) for _ in range(2))
    return source, target, torch.tensor(strengths), classes


@given(batches(), GAMMAS)
def test_each_label_of_a_batch_is_the_formula_and_sums_to_1(batch, gamma):
    source, target, strength, classes = batch
    labels = soft_label(source, target, strength, gamma, classes)
    assert ((len(source), classes), torch.float32) == (tuple(labels.shape), labels.dtype)
    for row, *one in zip(labels, source, target, strength, strict=True):
        exact = oracle(*(part.item() for part in one), gamma, classes)
        torch.testing.assert_close(row.double(), exact, atol=1e-6, rtol=0)
    assert bool(((labels >= 0) & (labels <= 1)).all())
    torch.testing.assert_close(labels.sum(1), torch.ones(len(source)), atol=1e-6, rtol=0)


@given(batches(), GAMMAS)
def test_a_batch_is_its_samples_one_by_one(batch, gamma):
    source, target, strength, classes = batch
    labels = soft_label(source, target, strength, gamma, classes)
    for row, *one in zip(labels, source, target, strength, strict=True):
        single = soft_label(*(part.item() for part in one), gamma, classes)
        assert (classes,) == tuple(single.shape)
        torch.testing.assert_close(row, single)


@pytest.mark.parametrize("gamma", [0, 0.5, 3])
def test_at_strength_0_nothing_was_translated_and_at_1_everything(gamma):
    assert [1, 0] == soft_label(0, 1, 0.0, gamma, 2).tolist()
    assert [0, 1] == soft_label(0, 1, 1.0, gamma, 2).tolist()


@given(st.floats(0.01, 1), GAMMAS, GAMMAS)
def test_a_smaller_gamma_gives_the_target_more(strength, one, other):
    small, large = sorted([one, other])
    assert target_weight(strength, small) >= target_weight(strength, large)


def test_a_class_paired_with_itself_stays_one_hot():
    assert [0, 1, 0] == soft_label(1, 1, 0.7, 0.5, 3).tolist()


def test_a_soft_source_is_mixed_too():
    source = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    labels = soft_label(source, torch.tensor([2, 1]), 0.25, 0.5, 3)
    expected = torch.tensor([[0.1, 0.4, 0.5], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(expected, labels)
    torch.testing.assert_close(expected[0], soft_label(source[0], 2, 0.25, 0.5, 3))


def test_numbers_may_be_numpy_s_and_one_may_stand_for_all():
    labels = soft_label(np.array([0, 1, 2]), 2, np.float32(0.25), np.float32(0.5), np.int64(3))
    assert [[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]] == labels.tolist()
    strengths = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert [[1, 0], [0.5, 0.5], [0, 1]] == soft_label(0, 1, strengths, 0.5, 2).tolist()
    assert [[1, 0], [0.5, 0.5], [0, 1]] == soft_label([0], [1], strengths, 0.5, 2).tolist()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": 3}, ValueError, r"'source' must be in \[0, 3\), got 3\."),
        ({"source": -1}, ValueError, r"'source' must be in \[0, 3\), got -1"),
        ({"target": torch.tensor([0, 5, 9])}, ValueError, r"'target' must be in \[0, 3\), got 5"),
        ({"source": True}, TypeError, "'source' must be numbers, and no booleans, got"),
        ({"source": "cat"}, TypeError, "'source' must hold numbers, got 'cat'"),
        ({"source": None}, TypeError, "'source' must hold numbers, got None"),
        ({"source": 1.0}, ValueError, r"class numbers or \(..., 3\) probabilities, got shape \(\)"),
        ({"source": [0.5, 0.5]}, ValueError, r"probabilities, got shape \(2,\)"),
        ({"source": [0.5, 0.6, 0.0]}, ValueError, "'source' must be weights that sum to 1, got a"),
        ({"source": [[2.0, -1, 0]]}, ValueError, "a sum of 1 and a least weight of -1"),
        ({"strength": 1.4}, ValueError, r"'strength' must be in \[0, 1\], got 1.4\."),
        ({"strength": -0.1}, ValueError, r"'strength' must be in \[0, 1\], got -0.1"),
        ({"strength": float("nan")}, ValueError, r"'strength' must be in \[0, 1\], got nan"),
        ({"strength": torch.arange(99.0)}, ValueError, r"'strength' must be in \[0, 1\], got 2\."),
        ({"strength": "much"}, TypeError, "'strength' must hold numbers, got 'much'"),
        ({"gamma": -0.5}, ValueError, "'gamma' must be at least 0, got -0.5"),
        ({"gamma": float("nan")}, ValueError, "'gamma' must be at least 0, got nan"),
        ({"gamma": float("inf")}, ValueError, "'gamma' must be at least 0, got inf"),
        ({"gamma": "0.5"}, TypeError, "'gamma' must be a number, got '0.5'"),
        ({"gamma": True}, TypeError, "'gamma' must be a number, got True"),
        ({"num_classes": 0}, ValueError, "'num_classes' must be at least 1, got 0"),
        ({"num_classes": 3.0}, TypeError, "'num_classes' must be an integer, got 3.0"),
        (
            {"source": torch.zeros(2, dtype=torch.long), "strength": torch.ones(5)},
            ValueError,
            "'source', 'target' and 'strength' must have one length, got 2 and 5",
        ),
    ],
)
def test_wrong_arguments_of_a_soft_label_are_one_clear_line(changes, error, message):
    arguments = {"source": 0, "target": 1, "strength": 0.5, "gamma": 0.5, "num_classes": 3}
    with pytest.raises(error, match=message) as caught:
        soft_label(**{**arguments, **changes})
    assert "\n" not in str(caught.value)


# One label, hard or soft


@pytest.mark.parametrize(
    "label",
    [
        2,
        np.int64(2),
        torch.tensor(2),
        torch.tensor([2]),
        np.array([2]),
        [2],
        [0, 0, 1],
        torch.tensor([0, 0, 1]),
        np.array([0.0, 0.0, 1.0]),
        torch.tensor([0, 0, 1], dtype=torch.float16),
        (0.0, 0.0, 1.0),
    ],
)
def test_every_form_of_one_label_is_the_same_vector(label):
    made = as_probabilities(label, 3)
    assert (torch.Tensor, torch.float32) == (type(made), made.dtype)
    assert [0, 0, 1] == made.tolist()


@given(arrays.arrays(np.float32, st.integers(2, 9), elements=st.floats(0, 1, width=32)))
def test_a_soft_label_stays_what_it_is(weights):
    soft = (weights + 0.01) / (weights + 0.01).sum()
    np.testing.assert_array_equal(soft, as_probabilities(soft, len(soft)).numpy())


@pytest.mark.parametrize(
    ("label", "got"),
    [
        (None, "None"),
        ("cat", "'cat'; give the number of the name in the list of classes"),
        (b"\x01", r"b'\\x01'"),
        (2.0, "2.0; if it is a class, convert it to an integer"),
        (torch.tensor(1.0), r"tensor\(1.\); if it is a class, convert it to an integer"),
        ({"a": 1}, "{'a': 1}"),
        (["a", "b", "c"], r"\['a', 'b', 'c'\]"),
        ([[0, 1], [2]], r"\[\[0, 1\], \[2\]\]"),
        (torch.ones(4) / 4, r"shape \(4,\)"),
        (np.ones((1, 3)) / 3, r"shape \(1, 3\)"),
    ],
)
def test_what_is_no_label_is_named_with_its_sample(label, got):
    message = rf"the label of sample 4 must be a class number or 3 weights, got {got}\."
    with pytest.raises(ValueError, match=message):
        as_probabilities(label, 3, 4)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (3, r"the label must be in \[0, 3\), got 3"),
        (-1, r"the label must be in \[0, 3\), got -1"),
        ([0.5, 0.4, 0.0], "weights that sum to 1, got a sum of 0.9 and a least weight of 0"),
        ([1.5, -0.5, 0.0], "weights that sum to 1, got a sum of 1 and a least weight of -0.5"),
        ([float("nan"), 1, 0], "weights that sum to 1, got a sum of nan"),
        ([0, 1, 2], "weights that sum to 1, got a sum of 3"),
    ],
)
def test_a_label_outside_its_range_is_named(label, message):
    with pytest.raises(ValueError, match=message):
        as_probabilities(label, 3)


# The labels of a dataset


class Unreadable:
    """Say the labels of three images that cannot be read."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise AssertionError("an image was read to learn its label")


class Inside:
    """A dataset around another, as JointTransform is."""

    def __init__(self, dataset, length=None):
        self.dataset = dataset
        self.length = len(dataset) if length is None else length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return ("image", 1)


class Remapped(Inside):
    """A dataset around another that changes its class numbers."""

    def __getitem__(self, index):
        image, label = self.dataset[index]
        return image, label // 2


@pytest.mark.parametrize("name", ["targets", "labels", "_labels"])
@pytest.mark.parametrize("form", [list, tuple, torch.tensor, np.array])
def test_labels_that_a_dataset_says_are_taken_without_reading_images(name, form):
    assert [2, 0, 2] == dataset_labels(Unreadable(**{name: form([2, 0, 2])}))


def test_a_dataset_s_transform_of_its_labels_is_followed():
    dataset = Unreadable(targets=[2, 0, 2], target_transform=lambda label: label + 1)
    assert [3, 1, 3] == dataset_labels(dataset)
    assert [2, 0, 2] == dataset_labels(Unreadable(targets=[2, 0, 2], target_transform=None))


def test_attributes_of_another_length_are_no_labels_of_items():
    pairs = Inside([("image", 0)], length=2)
    pairs.targets = ["cat", "dog", "fox"]
    assert [1, 1] == dataset_labels(pairs)


def test_subsets_concatenations_and_datasets_around_others_are_seen_through():
    said = Unreadable(targets=[2, 0, 1])
    assert [1, 2] == dataset_labels(Subset(said, [2, 0]))
    assert [1, 2] == dataset_labels(Subset(said, torch.tensor([2, 0])))
    assert [2, 0, 1, 1] == dataset_labels(ConcatDataset([said, Subset(said, [2])]))
    assert [2, 0, 1] == dataset_labels(JointTransform(said, len))
    assert [0, 1] == dataset_labels(JointTransform(JointTransform(Subset(said, [1, 2]), len), len))


def known(labels):
    class Known(list):
        targets = labels

    return Known(("image", label) for label in labels)


def test_a_dataset_around_another_that_changes_the_numbers_is_read_itself():
    dataset = known([0, 1, 2, 3, 3])
    assert [0, 0, 1, 1, 1] == dataset_labels(Remapped(dataset))
    assert [2, 3] == class_counts(Remapped(dataset)).tolist()
    assert (1, 0) == renumbered(Remapped(dataset), 4)
    assert (1, 0) == renumbered(Subset(Remapped(dataset), [0]), 4)
    assert (1, 0) == renumbered(ConcatDataset([dataset, Remapped(dataset)]), 4)


def test_a_dataset_around_another_of_the_same_numbers_is_seen_through():
    class Cropped(Inside):
        def __getitem__(self, index):
            if index == 1:
                raise OSError("damaged")
            return self.dataset[index]

    dataset = Cropped(known([0, 1, 2]))
    assert [0, 1, 2] == dataset_labels(dataset)
    assert renumbered(dataset, 3) is None
    assert renumbered(JointTransform(known([0, 1]), lambda pair: (pair[0], 1)), 2) is None


@pytest.mark.parametrize(
    ("change", "pair"),
    [
        (lambda number: number // 2, (1, 0)),
        (lambda number: 9 - number, (0, 9)),
        ({0: 0, 1: 1, 2: 5}.__getitem__, (2, 5)),
        (lambda number: torch.eye(3)[number], None),
        (lambda number: ["ant", "bee", "cat"][number], None),
        (lambda vector: vector[0], None),
        (None, None),
    ],
)
def test_a_target_transform_that_changes_numbers_is_found(change, pair):
    dataset = known([0])
    dataset.target_transform = change
    assert pair == renumbered(dataset, 3) == renumbered(Subset(dataset, [0]), 3)


def test_other_datasets_are_read_item_by_item():
    assert [4, 1] == dataset_labels([("image", 4), ("image", 1)])
    assert [4, 1] == dataset_labels([{"img": 0, "label": 4}, {"img": 0, "fine_label": 1}])
    tensors = TensorDataset(torch.zeros(2, 3, 4, 4), torch.tensor([4, 1]))
    assert [4, 1] == dataset_labels(tensors)


def test_a_hugging_face_dataset_is_read_by_its_column():
    datasets = pytest.importorskip("datasets")
    columns = {"image": ["not an image"] * 3, "label": [2, 0, 2]}
    dataset = datasets.Dataset.from_dict(columns)
    assert [2, 0, 2] == dataset_labels(dataset)
    assert [1, 0, 2] == class_counts(dataset).tolist()
    assert [2, 2] == dataset_labels(dataset.select([0, 2]))


@given(st.lists(st.integers(0, 8), min_size=1), st.integers(9, 12))
def test_counts_are_those_of_each_class(labels, num_classes):
    dataset = [("image", label) for label in labels]
    counts = class_counts(dataset, num_classes)
    assert [labels.count(number) for number in range(num_classes)] == counts.tolist()
    assert torch.int64 == counts.dtype
    assert counts[: max(labels) + 1].tolist() == class_counts(dataset).tolist()


def test_no_image_counts_to_nothing():
    assert [] == class_counts([]).tolist()
    assert [0, 0] == class_counts([], 2).tolist()


@pytest.mark.parametrize(
    ("label", "num_classes", "error", "message"),
    [
        (3, 3, ValueError, r"the label of item 1 must be in \[0, 3\), got 3"),
        (-1, None, ValueError, "the label of item 1 must be at least 0, got -1"),
        ("cat", None, ValueError, "item 1 must be a class number or weights that .*, got 'cat'"),
        (1.5, 3, ValueError, "the label of item 1 must be a class number or 3 weights, got 1.5"),
        (True, None, ValueError, "the label of item 1 must be numbers, and no booleans, got True"),
        ([0.5, 0.5], None, ValueError, "the label of item 1 must be of one class, got weights of"),
        (0, 0, ValueError, "'num_classes' must be at least 1, got 0"),
        (0, 2.5, TypeError, "'num_classes' must be an integer, got 2.5"),
    ],
)
def test_labels_that_cannot_be_counted_are_named(label, num_classes, error, message):
    with pytest.raises(error, match=message):
        class_counts([("image", 0), ("image", label)], num_classes)


# Few shots


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(0, 2**40),
)
def test_a_few_shot_subset_has_so_many_of_each_class_and_is_the_same_again(labels, shots, seed):
    if min(labels.count(label) for label in labels) < shots:
        with pytest.raises(ValueError, match="'shots' must be at most the images of each class"):
            few_shot_subset(labels, shots, seed)
        return
    chosen = few_shot_subset(labels, shots, seed)
    assert sorted(set(chosen)) == chosen
    assert dict.fromkeys(labels, shots) == {
        label: sum(labels[index] == label for index in chosen) for label in set(labels)
    }
    assert chosen == few_shot_subset(labels, shots, seed)


def test_names_numbers_tensors_and_arrays_choose_the_same_images():
    labels = [number // 7 for number in range(35)]
    chosen = few_shot_subset(labels, 3)
    forms = [
        ["ant", "bee", "cat", "dog", "eel"],
        list(np.arange(5)),
        list(torch.arange(5)),
        np.array(["ant", "bee", "cat", "dog", "eel"]),
    ]
    for names in forms:
        assert chosen == few_shot_subset([names[label] for label in labels], 3)
    assert chosen == few_shot_subset(torch.tensor(labels), 3)
    assert chosen == few_shot_subset(np.array(labels), 3)


def test_every_image_is_as_likely_to_be_chosen():
    chosen = [few_shot_subset([0] * 10, 2, seed) for seed in range(1000)]
    counts = torch.tensor(chosen).flatten().bincount(minlength=10)
    assert 130 < counts.min() and counts.max() < 270  # 200 each, by 5.5 standard deviations


def test_classes_do_not_choose_alike():
    first = [few_shot_subset([0] * 50 + [1] * 50, 5, seed) for seed in range(20)]
    assert any([index + 50 for index in chosen[:5]] != chosen[5:] for chosen in first)


def test_one_more_shot_keeps_the_images_chosen_before():
    labels = [number % 3 for number in range(60)]
    for shots in (1, 5, 9):
        assert set(few_shot_subset(labels, shots)) < set(few_shot_subset(labels, shots + 1))


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ([0, 0, 1], {"shots": 2}, ValueError, "of each class, got 2 and class 1 has 1"),
        (["a", "b", "b"], {"shots": 2}, ValueError, "got 2 and class 'a' has 1"),
        ([0], {"shots": 0}, ValueError, "'shots' must be at least 1, got 0"),
        ([0], {"shots": 1.0}, TypeError, "'shots' must be an integer, got 1.0"),
        ([0], {"shots": 1, "seed": -1}, ValueError, "'seed' must be at least 0, got -1"),
        ([0, "a"], {"shots": 1}, TypeError, "all class numbers or all names, got 'a' at place 1"),
        (["a", 0], {"shots": 1}, TypeError, "all class numbers or all names, got 0 at place 1"),
        ([0.5], {"shots": 1}, TypeError, "all class numbers or all names, got 0.5 at place 0"),
        ([[1, 1]], {"shots": 1}, TypeError, r"all names, got \[1, 1\] at place 0"),
    ],
)
def test_a_subset_that_cannot_be_chosen_is_one_clear_line(labels, options, error, message):
    with pytest.raises(error, match=message):
        few_shot_subset(labels, **options)


# kornia


def kornia_loss(logits, y):
    """The loss that kornia's documentation gives for its rows."""
    loss_a = cross_entropy(logits, y[:, 0].long(), reduction="none")
    loss_b = cross_entropy(logits, y[:, 1].long(), reduction="none")
    return ((1 - y[:, 2]) * loss_a + y[:, 2] * loss_b).mean()


def pictured(classes):
    """Paint each image in the colour of its class: the mean colour of a mixture is its label."""
    return one_hot(classes, 3).float()[:, :, None, None].expand(-1, -1, 16, 16).contiguous()


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_labels_of_kornia_s_mixup_are_what_is_in_its_images(size, p):
    kornia = pytest.importorskip("kornia.augmentation")
    classes = torch.arange(size) % 3
    mixup = kornia.RandomMixUpV2(p=p, data_keys=["input", "class"])
    images, rows = mixup(pictured(classes), classes)
    labels = from_kornia(rows, 3)
    torch.testing.assert_close(images.mean((2, 3)), labels)
    logits = torch.randn(size, 3)
    torch.testing.assert_close(kornia_loss(logits, rows), cross_entropy(logits, labels))


@pytest.mark.filterwarnings("ignore:RandomCutMixV2 currently uses:DeprecationWarning")
@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_labels_of_kornia_s_cutmix_are_what_is_in_its_images(size, p):
    kornia = pytest.importorskip("kornia.augmentation")
    classes = torch.arange(size) % 3
    cutmix = kornia.RandomCutMixV2(p=p, data_keys=["input", "class"])
    images, rows = cutmix(pictured(classes), classes)
    torch.testing.assert_close(images.mean((2, 3)), from_kornia(rows[0], 3))


def test_kornia_s_correct_lambda_is_the_weight_of_the_first_class():
    kornia = pytest.importorskip("kornia.augmentation")
    classes = torch.arange(7) % 3
    cutmix = kornia.RandomCutMixV2(p=1.0, data_keys=["input", "class"], use_correct_lambda=True)
    images, [rows] = cutmix(pictured(classes), classes)
    rows[:, 2] = 1 - rows[:, 2]
    torch.testing.assert_close(images.mean((2, 3)), from_kornia(rows, 3))


@given(batches(), GAMMAS)
def test_to_kornia_and_back_is_the_same_label_and_the_same_loss(batch, gamma):
    labels = soft_label(*batch[:3], gamma, batch[3])
    rows = to_kornia(labels)
    assert ((len(labels), 3), torch.float32) == (tuple(rows.shape), rows.dtype)
    torch.testing.assert_close(labels, from_kornia(rows, batch[3]), atol=1e-6, rtol=0)
    if len(labels):
        logits = torch.randn(labels.shape, generator=torch.Generator().manual_seed(0))
        expected = cross_entropy(logits, labels)
        torch.testing.assert_close(expected, kornia_loss(logits, rows), atol=1e-5, rtol=1e-5)


def test_the_first_class_of_a_row_is_the_heavier():
    rows = to_kornia(torch.tensor([[0.1, 0.0, 0.9], [0.6, 0.4, 0.0]]))
    torch.testing.assert_close(torch.tensor([[2, 0, 0.1], [0, 1, 0.4]]), rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_kornia(torch.ones(3) / 3), r"'labels' must have shape \(B, C\), got \(3,\)"),
        (lambda: to_kornia(torch.ones(1, 3) / 3), "at most two classes each, got one of 3"),
        (lambda: to_kornia(torch.ones(1, 2)), "must be weights that sum to 1, got a sum of 2"),
        (lambda: to_kornia(torch.zeros(1, 2)), "must be weights that sum to 1, got a sum of 0"),
        (lambda: from_kornia(torch.zeros(2, 2), 3), r"must have shape \(B, 3\), got \(2, 2\)\.$"),
        (
            lambda: from_kornia(torch.zeros(1, 2, 3), 3),
            r"got \(1, 2, 3\); pass one mix at a time, labels\[0\]",
        ),
        (lambda: from_kornia(torch.tensor([[0, 1, 1.5]]), 3), r"lam in \[0, 1\] in its third"),
        (lambda: from_kornia(torch.tensor([[0, 1, -0.1]]), 3), r"lam in \[0, 1\] in its third"),
        (lambda: from_kornia(torch.tensor([[0, 3, 0.1]]), 3), r"'labels' must be in \[0, 3\), g"),
        (lambda: from_kornia(torch.tensor([[0, 1, 0.1]]), 0), "'num_classes' must be at least 1"),
    ],
)
def test_labels_that_cannot_be_converted_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Side effects


def test_labels_leave_global_random_state_alone():
    before = torch.get_rng_state()
    few_shot_subset([0] * 9, 3)
    soft_label(0, 1, 0.5, 0.5, 2)
    to_kornia(torch.eye(3))
    assert torch.equal(before, torch.get_rng_state())
