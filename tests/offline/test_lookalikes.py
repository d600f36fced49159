"""Folders that look like one folder per class, and are something else, are refused with advice."""

import shutil

import pytest
from image_folders import save_photos
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import ImageFolder

from diffaug import (
    GeneratedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
    finetune,
    preview,
)
from diffaug.offline.lookalikes import refuse_lookalike
from diffaug.offline.manifest import is_set

EDIT = PromptEdit(["snowy"], backend=RecordingBackend(16))


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", ["cat/1.png", "dog/1.png"])


@pytest.fixture
def generated(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", EDIT)
    return tmp_path / "set"


def test_a_set_is_one_without_its_run_file_too(photos, generated):
    assert is_set(generated) and not is_set(photos)
    (generated / "run.json").unlink()
    assert is_set(generated)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "cat/1.png", "text": "a cat"}\n'),
        ("metadata.jsonl", "no json"),
        ("metadata.jsonl", ""),
        ("run.json", '{"epochs": 3}'),
        ("run.json", "no json"),
    ],
)
def test_files_of_others_make_no_set(photos, name, text):
    (photos / name).write_text(text)
    assert not is_set(photos)


@pytest.mark.parametrize("shard", [None, "1/2"])
def test_a_set_that_was_stopped_or_has_parts_is_one(photos, tmp_path, shard):
    def stop(request, usual):
        raise KeyboardInterrupt

    edit = PromptEdit(["snowy"], backend=RecordingBackend(16, answer=None if shard else stop))
    try:
        augment_folder(photos, tmp_path / "set", edit, shard=shard)
    except KeyboardInterrupt:
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set/.diffaug.journal.jsonl").touch()
    assert is_set(tmp_path / "set") and not (tmp_path / "set/metadata.jsonl").exists()


def test_augmenting_a_set_says_what_it_is_and_writes_nothing(photos, generated, tmp_path):
    message = (
        f"'source' must hold photographs in one folder per class, and '{generated}' is a generated "
        f"set made from '{photos}' by PromptEdit; give its source, or look at it with "
        f"'diffaug preview {generated} sheet.png'."
    )
    with pytest.raises(ValueError) as caught:
        augment_folder(generated, tmp_path / "new", EDIT)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "new").exists()


def test_its_class_folders_alone_are_a_source(generated, tmp_path):
    """As the message advises."""
    for name in ("cat", "dog"):
        shutil.copytree(generated / name, tmp_path / "copies" / name)
    assert 2 == augment_folder(tmp_path / "copies", tmp_path / "new", EDIT).made


def test_fine_tuning_on_a_set_is_refused_too(generated, tmp_path):
    with pytest.raises(ValueError, match="is a generated set made from"):
        finetune(generated, tmp_path / "tuned", base="tiny-translate")


def test_a_class_folder_of_a_set_is_part_of_it(generated, tmp_path):
    with pytest.raises(ValueError, match=r"cat' is part of '.*set', a generated set made from"):
        preview(generated / "cat", tmp_path / "sheet.png", EDIT)


def test_a_dataset_of_a_sets_folders_is_refused_too(photos, generated, tmp_path):
    data = ImageFolder(generated)
    joined = ConcatDataset([ImageFolder(photos), data])
    for dataset in (data, Subset(data, [0]), joined, GeneratedDataset(generated)):
        with pytest.raises(ValueError, match="'dataset' must hold photographs .* generated set"):
            augment_dataset(dataset, tmp_path / "new", EDIT)
    assert 2 == augment_dataset(ImageFolder(photos), tmp_path / "new", EDIT).made


def test_a_set_among_the_class_folders_is_refused(photos, generated, tmp_path):
    shutil.move(generated, photos / "augmented")
    with pytest.raises(
        ValueError, match=r"augmented' is a generated set .* would count as a class"
    ):
        augment_folder(photos, tmp_path / "new", EDIT)


def test_the_stages_of_diffusemix_are_no_classes(tmp_path):
    stages = ("original_resized", "generated", "fractal", "concatenated", "blended")
    save_photos(tmp_path / "result", [f"{stage}/cat/1.jpg" for stage in stages])
    for refused in (lambda f: augment_folder(f, tmp_path / "new", EDIT),
                    lambda f: preview(f, tmp_path / "sheet.png", EDIT)):  # fmt: skip
        with pytest.raises(ValueError, match=r"stages, and no classes; give '.*result/blended'"):
            refused(tmp_path / "result")
    assert 1 == augment_folder(tmp_path / "result/blended", tmp_path / "new", EDIT).made


def test_a_data_set_with_classes_of_such_names_is_none(tmp_path):
    save_photos(tmp_path / "photos", ["generated/1.jpg", "fractal/1.jpg", "blended/1.jpg"])
    refuse_lookalike(tmp_path / "photos")
    save_photos(tmp_path / "data", ["generated/a/1.jpg", "photograph/a/1.jpg"])
    refuse_lookalike(tmp_path / "data")


def test_a_released_set_of_diff_mix_is_refused_with_the_way_to_read_it(tmp_path):
    save_photos(tmp_path / "released", ["data/cat/dog-000000-0.7.png"])
    header = "First Directory,Second Directory,Number,Strength,Path\n"
    (tmp_path / "released/meta.csv").write_text(header)
    for folder in (tmp_path / "released", tmp_path / "released/data"):
        with pytest.raises(ValueError, match=r"read it with 'diffaug import"):
            augment_folder(folder, tmp_path / "new", EDIT)


def test_a_folder_called_data_beside_a_table_of_others_is_a_class(tmp_path):
    save_photos(tmp_path / "photos", ["data/1.jpg"])
    (tmp_path / "photos/metadata.csv").write_text("file_name,label\ndata/1.jpg,cat\n")
    refuse_lookalike(tmp_path / "photos")


def test_a_folder_that_is_not_there_is_left_to_others(tmp_path):
    refuse_lookalike(tmp_path / "nowhere")
