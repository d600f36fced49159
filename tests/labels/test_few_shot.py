"""A few images of each class of a dataset: by their files, or by their places."""

import pytest
import torch
from image_folders import save_photos
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from diffaug import few_shot_subset

NAMES = [f"{name}/{number}.png" for name in ("ant", "bee") for number in range(6)]


@pytest.fixture
def photos(tmp_path):
    return ImageFolder(save_photos(tmp_path / "photos", NAMES))


def files(dataset, indices):
    return {dataset.samples[index][0] for index in indices}


def test_a_dataset_of_files_has_so_many_of_each_class_whatever_its_order(photos):
    for seed in range(5):
        chosen = few_shot_subset(photos, 2, seed)
        assert [0, 0, 1, 1] == [photos.targets[index] for index in chosen]
        backwards = Subset(photos, range(11, -1, -1))
        assert chosen == sorted(11 - index for index in few_shot_subset(backwards, 2, seed))
    assert len({tuple(few_shot_subset(photos, 2, seed)) for seed in range(5)}) > 1


def test_a_file_more_in_one_class_changes_no_choice_of_another(photos):
    before = files(photos, few_shot_subset(photos, 3))
    save_photos(photos.root, ["ant/0-more.png"])
    more = ImageFolder(photos.root)
    after = files(more, few_shot_subset(more, 3))
    assert len(before - after) <= 1
    assert {path for path in before if "bee" in path} <= after


def test_a_picture_that_is_there_twice_is_no_second_picture(photos):
    twice = Subset(photos, [0, 0, 1, 6, 7, 7])
    for seed in range(10):
        chosen = few_shot_subset(twice, 2, seed)
        assert {0, 1, 6, 7} == {twice.indices[index] for index in chosen}


def test_one_name_in_two_folders_is_two_pictures(photos, tmp_path):
    other = ImageFolder(save_photos(tmp_path / "other", NAMES))
    assert 4 == len(few_shot_subset(ConcatDataset([photos, other]), 2))
    assert 24 == len(few_shot_subset(ConcatDataset([photos, other]), 12))


def test_labels_that_a_target_transform_merges_are_one_class(photos):
    photos.target_transform = lambda label: 0
    assert 3 == len(few_shot_subset(photos, 3))


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(torch.zeros(6, 1), torch.tensor([0, 0, 0, 1, 1, 1])),
        [("image", label) for label in [0, 0, 0, 1, 1, 1]],
        [{"image": None, "label": label} for label in [0, 0, 0, 1, 1, 1]],
    ],
)
def test_a_dataset_without_files_chooses_as_its_labels_do(dataset):
    assert few_shot_subset([0, 0, 0, 1, 1, 1], 2) == few_shot_subset(dataset, 2)


def test_a_class_with_too_few_images_is_named(photos):
    with pytest.raises(ValueError, match="got 7 and class 0 has 6"):
        few_shot_subset(photos, 7)
