"""A set describes itself, to people and to other programs."""

import json
import shutil
from zlib import crc32

import pytest
import torch
from answers import refused
from tiny_pipelines import TOKENS, save_learned, save_pipeline

from diffaug import (
    DiffMix,
    GeneratedDataset,
    ModelSpec,
    PromptEdit,
    RecordingBackend,
    SimilarityFilter,
    augment_dataset,
    augment_folder,
    filter_set,
    merge,
)
from diffaug.errors import GenerationError
from diffaug.images import encode_image
from diffaug.offline.card import OURS
from diffaug.offline.manifest import read_manifest, read_run
from diffaug.offline.places import found, told

#: Names that readers of image folders take for splits, or that break tables and YAML.
NAMES = ['a|b: "c"\\', "test", "train"]
DATA = [(torch.rand(3, 24, 32, generator=torch.manual_seed(n)), n % 3) for n in range(6)]
EDIT = PromptEdit(["snowy"], backend=RecordingBackend(16))


def make(folder, transform=EDIT, **options):
    options = {"per_image": 2, "class_names": NAMES, **options}
    return augment_dataset(DATA, folder, transform, **options)


def described(folder):
    """Return the two files of a card."""
    return [(folder / name).read_bytes() for name in ("README.md", "croissant.json")]


def python_of(folder):
    """Return the lines of Python that a card shows."""
    text = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    return text.replace("path/of/this/folder", str(folder))


@pytest.fixture
def edited(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    make(tmp_path / "set")
    return tmp_path / "set"


def test_a_set_loads_whole_by_its_path_and_by_the_lines_of_its_card(edited):
    from datasets import load_dataset

    ours = GeneratedDataset(edited)
    assert NAMES == ours.classes
    whole = load_dataset(str(edited))
    assert ["train"] == list(whole)  # not one split for each class
    assert 12 == len(whole["train"])
    lines: dict = {}
    exec(python_of(edited), lines)
    assert NAMES == lines["data"].features["label"].names
    numbers = {
        (row["source"], row["variant"]): number
        for row, number in zip(ours.rows, ours.targets, strict=True)
    }
    assert 12 == len(lines["data"])
    for row in lines["data"]:
        assert numbers[row["source"], row["variant"]] == row["label"]
        assert (32, 24) == row["image"].size


def test_a_set_of_one_image_is_a_set_of_images(tmp_path):
    from datasets import load_dataset

    augment_dataset(DATA[:1], tmp_path / "set", EDIT, per_image=1, class_names=NAMES[:1])
    loaded = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert NAMES[:1] == loaded["label"][:]
    assert "image" in loaded.column_names


def test_the_description_is_croissant_and_reads_every_row(edited):
    import mlcroissant

    dataset = mlcroissant.Dataset(edited / "croissant.json")
    assert not dataset.metadata.issues.errors
    records = list(dataset.records("images"))
    rows = read_manifest(edited)
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        text = {name: value.encode() for name, value in row.items() if isinstance(value, str)}
        read = {name.removeprefix("images/"): value for name, value in record.items()}
        assert row | text == read


def test_a_card_counts_classes_and_prompts_and_explains_every_column(edited):
    text = (edited / "README.md").read_text()
    for number, shown in enumerate(['a\\|b: "c"\\\\', "test", "train"]):
        assert f"| {number} | {shown} | 4 |" in text
    assert "| snowy | 12 |" in text
    assert "Do not evaluate on this set." in text
    for column in read_manifest(edited)[0]:
        assert f"| `{column}` | " in text


def test_a_filter_writes_the_card_anew(edited):
    rows = read_manifest(edited)
    before = described(edited)
    filter_set(edited, Halves(), keep=0.5)
    assert before != described(edited)
    text = (edited / "README.md").read_text()
    assert f"A filter has dropped {len(rows) // 2} of them" in text
    assert "`halves_score` | how the filter `halves` scored it" in text
    lines: dict = {}
    exec(python_of(edited), lines)
    assert len(rows) // 2 == len(lines["data"])


class Halves:
    """Score images by their names."""

    name = "halves"

    def score(self, images, rows):
        return [crc32(row["file_name"].encode()) / 2**32 for row in rows]  # no two are equal


def test_parts_have_no_card_and_the_merged_set_has_the_same_as_one_run(edited, tmp_path):
    for share in ("1/2", "2/2"):
        make(tmp_path / "parts", shard=share)
    assert described(edited) == described(tmp_path / "parts")


@pytest.mark.parametrize("lost", ["README.md", "croissant.json"])
def test_a_set_without_its_card_gets_it_from_the_next_run(edited, lost):
    before = described(edited)
    (edited / lost).unlink()
    make(edited)
    assert before == described(edited)


def test_a_run_that_was_killed_before_its_card_writes_the_same_one(edited, monkeypatch):
    before = described(edited)
    make(edited, per_image=1)
    shutil.rmtree(edited)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diffaug.offline.card.card", killed)
        with pytest.raises(KeyboardInterrupt):
            make(edited)
    assert not (edited / "README.md").exists()
    make(edited)
    assert before == described(edited)


def test_a_card_that_the_user_wrote_stays(edited):
    (edited / "README.md").write_text("# My birds\n")
    make(edited, per_image=3)
    assert "# My birds\n" == (edited / "README.md").read_text()
    assert 18 == len(read_manifest(edited))
    assert OURS not in (edited / "README.md").read_text()


def test_a_set_whose_labels_are_no_classes_has_a_card_without_classes(tmp_path):
    data = [(image, 0.5 * number) for number, (image, _) in enumerate(DATA)]
    augment_dataset(data, tmp_path / "set", EDIT, per_image=1)
    text = (tmp_path / "set" / "README.md").read_text()
    assert "## Classes" not in text
    assert "ClassLabel" not in text


def test_a_set_of_soft_labels_says_so(tmp_path):
    mix = DiffMix(NAMES, strength=0.5, pairs="other", backend=RecordingBackend(16))
    make(tmp_path / "set", mix)
    assert "Labels here are soft" in (tmp_path / "set" / "README.md").read_text()


def test_a_class_cannot_be_called_as_a_file_of_every_set_is(tmp_path):
    with pytest.raises(ValueError, match="a class must not be called 'README.md'"):
        make(tmp_path / "set", class_names=["README.md", "b", "c"])


@pytest.fixture
def photos(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        data = encode_image(torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8), "png")
        (tmp_path / "photos" / name / "1.png").write_bytes(data)
    (tmp_path / "photos" / "cat" / "damaged.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_no_file_of_a_set_tells_the_path_of_its_source(tmp_path, photos):
    augment_folder(photos, tmp_path / "set", EDIT)
    with pytest.raises(GenerationError, match="copies of their originals"):
        augment_folder(
            photos, tmp_path / "refused",
            PromptEdit(["snowy"], backend=RecordingBackend(16, answer=refused)),
        )  # fmt: skip
    for name in ("set", "refused"):
        for path in (tmp_path / name).rglob("*"):
            if path.is_file():
                assert str(tmp_path).encode() not in path.read_bytes(), path
        assert str(photos) == read_run(tmp_path / name)["source"]


def test_a_set_that_moves_with_its_source_knows_it(tmp_path, photos):
    (tmp_path / "a").mkdir()
    photos.rename(tmp_path / "a" / "photos")
    augment_folder(tmp_path / "a" / "photos", tmp_path / "a" / "set", EDIT)
    (tmp_path / "a").rename(tmp_path / "b")
    assert str(tmp_path / "b" / "photos") == read_run(tmp_path / "b" / "set")["source"]
    filter_set(tmp_path / "b" / "set", SimilarityFilter(low=-1, high=1))


def test_shares_know_their_source(tmp_path, photos):
    for share in ("1/2", "2/2"):
        augment_folder(photos, tmp_path / "x" / "set", EDIT, shard=share)
    assert str(photos) == read_run(tmp_path / "x" / "set")["source"]
    merge(tmp_path / "x" / "set")  # once more changes nothing
    assert str(photos) == read_run(tmp_path / "x" / "set")["source"]


def test_a_path_that_shares_nothing_with_the_set_is_remembered_by_this_machine(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    name = told("/elsewhere/secret/photos", tmp_path)
    assert name.startswith("photos#")
    assert "secret" not in name
    assert "/elsewhere/secret/photos" == found(name, tmp_path)
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "other"))
    assert ".../photos" == found(name, tmp_path)


def test_a_set_names_the_model_in_a_folder_and_not_the_folder(tmp_path):
    folder = save_pipeline(tmp_path / "secret" / "my birds", "edit")
    spec = ModelSpec(folder, task="edit", device="cpu", steps=2, size=16)
    make(tmp_path / "set", PromptEdit(["snowy"], backend=spec), per_image=1)
    for row in read_manifest(tmp_path / "set"):
        assert "my birds" == row["model"] and row["revision"].startswith("sha256:")
    files = [path for path in (tmp_path / "set").iterdir() if path.is_file()]
    assert 4 == len(files)
    assert not any("secret" in path.read_text() for path in files)
    assert "- `my birds`; licence: see its card" in (tmp_path / "set" / "README.md").read_text()


def test_a_set_does_not_tell_where_learned_words_lie(tmp_path):
    learned = save_learned(tmp_path / "secret" / "birds")
    mix = DiffMix(list(TOKENS), strength=0.5, backend=learned)
    photos = [(image, label % 2) for image, label in DATA]
    augment_dataset(photos, tmp_path / "set", mix, per_image=1, class_names=list(TOKENS))
    files = [path for path in (tmp_path / "set").iterdir() if path.is_file()]
    assert not any("secret" in path.read_text() for path in files)


@pytest.mark.parametrize(
    ("place", "way"),
    [("a/photos", "../photos"), ("a/set/in", "./in"), ("a", "../"), ("b", "../../b")],
)
def test_a_place_is_told_by_the_way_to_it(tmp_path, place, way):
    assert way == told(str(tmp_path / place), tmp_path / "a" / "set")
    assert str(tmp_path / place) == found(way, tmp_path / "a" / "set")


@pytest.mark.parametrize("name", ["CIFAR10 of 50000", "s3://bucket/train", "list of 4", "a#b"])
def test_what_is_no_path_is_told_as_it_is(tmp_path, name):
    assert name == told(name, tmp_path) == found(name, tmp_path)


def test_the_card_is_valid_json_and_has_the_digest_of_the_manifest(edited):
    import hashlib

    stated = json.loads((edited / "croissant.json").read_text())["distribution"][0]["sha256"]
    assert hashlib.sha256((edited / "metadata.jsonl").read_bytes()).hexdigest() == stated
