"""The images and classes that a model learns from are checked before it is loaded."""

import pytest
from tiny_pipelines import save_classes
from torchvision.datasets import ImageFolder

from diffaug.errors import UnreadableImageError
from diffaug.finetuning.data import TrainingSet
from diffaug.labels.few_shot import few_shot_subset


def test_classes_and_images_are_in_one_order(tmp_path):
    # By path alone "a b/" would come before "a/", and by class it does not.
    save_classes(tmp_path, **{"a b": 1, "a": 2, "ünï_code": 1, "AC%2FDC": 1})
    images = TrainingSet(tmp_path)
    assert ["AC%2FDC", "a", "a b", "ünï_code"] == images.names
    assert ["AC%2FDC/0.png", "a/0.png", "a/1.png", "a b/0.png", "ünï_code/0.png"] == images.keys
    assert [0, 1, 1, 2, 3] == images.sampler([], 16, False).labels


def test_the_few_shots_are_those_that_every_other_part_chooses(tmp_path):
    save_classes(tmp_path, a=5, b=4)
    chosen = few_shot_subset(ImageFolder(tmp_path), shots=2, seed=7)
    keys = TrainingSet(tmp_path).keys
    assert [keys[index] for index in chosen] == TrainingSet(tmp_path, shots=2, seed=7).keys


@pytest.mark.parametrize(
    ("names", "shots", "message"),
    [
        (["a", "b"], 3, "'shots' must be at most the images of each class, got 3 and class 'a'"),
        (["Black_Tern", "black  tern"], None, "'Black_Tern' and 'black  tern' read the same"),
    ],
)
def test_classes_that_cannot_be_learned_are_named(tmp_path, names, shots, message):
    save_classes(tmp_path, **dict.fromkeys(names, 2))
    with pytest.raises(ValueError, match=message):
        TrainingSet(tmp_path, shots)


def test_an_empty_class_folder_is_an_error_and_a_hidden_folder_is_ignored(tmp_path):
    save_classes(tmp_path, a=1)
    (tmp_path / "a" / ".cache").mkdir()
    assert ["a"] == TrainingSet(tmp_path).names
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="images in every class folder, and 'empty' has none"):
        TrainingSet(tmp_path)


def test_no_folder_and_no_class_folder_are_errors(tmp_path):
    with pytest.raises(ValueError, match="'source' must be an existing folder"):
        TrainingSet(tmp_path / "absent")
    with pytest.raises(ValueError, match="'source' must hold images in one folder per class"):
        TrainingSet(tmp_path)


def test_an_unreadable_image_is_left_out_and_with_strict_an_error(tmp_path):
    save_classes(tmp_path, a=2, b=1)
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    images = TrainingSet(tmp_path)
    [skipped] = images.unreadable()
    assert "a/1.png" == skipped.source and "is not a readable image" in skipped.reason
    assert [0, 1] == images.sampler([skipped], 16, False).labels
    with pytest.raises(UnreadableImageError, match=r"1\.png' is not a readable image"):
        images.unreadable(strict=True)
    (tmp_path / "b" / "0.png").write_bytes(b"")
    message = r"of every class, and of 'b' there is none among 1 \('.*/b/0\.png' is not a readable"
    with pytest.raises(ValueError, match=message):
        images.unreadable()
