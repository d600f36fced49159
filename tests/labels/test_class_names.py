"""The names that a dataset gives its classes, as every part takes them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from diffaug import DiffMix, JointTransform, RecordingBackend, class_names_of
from diffaug.labels.class_names import distinct, twins


class Named(list):
    """A dataset of three items with attributes."""

    def __init__(self, **attributes):
        super().__init__([0, 1, 2])
        vars(self).update(attributes)


IMAGENET = [("tench", "Tinca tinca"), ("crane", "a bird"), ("crane", "a machine")]
TWINS = ["tench", "crane (1)", "crane (2)"]
OWL = ["crane", "owl"]


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        (Named(classes=OWL), OWL),
        (Named(classes=tuple(OWL)), OWL),
        (Named(classes=np.array(OWL)), OWL),
        (Named(classes=IMAGENET), TWINS),
        (Named(classes=IMAGENET, class_to_idx={"tench": 0, "Tinca tinca": 0, "crane": 2}), TWINS),
        (Named(class_to_idx={"owl": 1, "crane": 0}), OWL),
        (Named(reader=SimpleNamespace(class_to_idx={"owl": 1, "crane": 0})), OWL),
        (Named(features={"label": SimpleNamespace(names=OWL)}), OWL),
        (Named(features={"image": 0, "label": SimpleNamespace()}), None),
        (Named(classes=[]), None),
        (Named(class_to_idx={"owl": 1, "crane": 5}), None),
        (Named(class_to_idx={"owl": 0, "crane": 0}), None),
        (Named(), None),
        ([], None),
        (TensorDataset(torch.zeros(2)), None),
        (Subset(Named(classes=OWL), [1]), OWL),
        (JointTransform(Subset(Named(classes=OWL), [1]), len), OWL),
        (ConcatDataset([Named(classes=OWL), Subset(Named(classes=OWL), [1])]), OWL),
        (ConcatDataset([Named(classes=OWL), Named()]), OWL),
        (ConcatDataset([Named(), Named()]), None),
    ],
)
def test_names_are_found_wherever_a_dataset_has_them(dataset, names):
    assert names == class_names_of(dataset)


def test_the_column_of_the_labels_says_which_names():
    features = {"label": SimpleNamespace(names=OWL), "coarse": SimpleNamespace(names=["bird"])}
    assert ["bird"] == class_names_of(Named(features=features), "coarse")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            ConcatDataset([Named(classes=["cat", "dog"]), Named(classes=["ant", "cat"])]),
            r"must name their classes alike, got \['cat', 'dog'\] and \['ant', 'cat'\]: their num",
        ),
        (
            ConcatDataset([Named(classes=OWL), Subset(Named(classes=[*OWL, "tit"]), [0])]),
            r"got \['crane', 'owl'\] and \['crane', 'owl', 'tit'\]",
        ),
        (
            Named(classes=OWL, class_to_idx={"crane": 1, "owl": 0}),
            "'classes' and 'class_to_idx' of Named must agree, got 0 and 1 for 'crane'",
        ),
    ],
)
def test_two_answers_that_contradict_each_other_are_an_error(dataset, message):
    with pytest.raises(ValueError, match=message):
        class_names_of(dataset)


def test_a_second_name_that_is_another_class_s_first_is_no_contradiction():
    """ImageNet's 'missile' is a class, and a second name of 'projectile'."""
    classes = [("missile",), ("projectile", "missile")]
    numbers = {"projectile": 1, "missile": 1}
    assert ["missile", "projectile"] == class_names_of(Named(classes=classes, class_to_idx=numbers))


def test_a_number_that_is_there_already_does_not_make_new_twins():
    names = distinct(["crane", "crane", "crane (0)"])
    assert 3 == len(set(names)) and "crane (1)" == names[1]


def test_twins_are_listed_by_their_places():
    assert [(0, 2), (0, 3)] == list(twins(["A", "b", "a", "A"], str.lower))
    assert [(0, 3)] == list(twins(["A", "b", "a", "A"]))


def test_diffmix_takes_the_names_of_any_dataset():
    mix = DiffMix(class_names_of(Named(classes=IMAGENET)), backend=RecordingBackend())
    assert tuple(TWINS) == mix.class_names
