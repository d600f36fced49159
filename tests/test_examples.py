"""The examples run as they stand, on their tiny defaults."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from diffaug import DiffusersBackend, GenerationRequest, ModelSpec
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_online_augmentation_prints_accuracy_and_speed(capsys):
    results = load("online_augmentation").main(epochs=1)
    assert ["flips and crops", "+ DiffuseMix"] == list(results)
    for result in results.values():
        assert 0 <= result.accuracy <= 1 and result.last_images_per_second > 0
    assert 2 == capsys.readouterr().out.count("images/s   last")


def test_augment_a_folder_gives_originals_and_augmented_together(tmp_path, capsys):
    together = load("augment_a_folder").main(destination=tmp_path / "augmented")
    originals, augmented = together.datasets
    assert len(originals) == len(augmented) and originals.classes == augmented.classes
    image, label = augmented[0]
    assert image.size == originals[0][0].size and label.argmax() == originals[0][1]
    assert f"{len(augmented)} made, 0 already there" in capsys.readouterr().out


def test_keep_aspect_shows_each_photograph_with_two_edits_of_each_style(tmp_path, capsys):
    from PIL import Image

    picture = load("keep_aspect").main(picture=tmp_path / "sheet.png", count=2)
    assert (5 * 268, 2 * 92) == Image.open(picture).size
    assert "at a square and at its own shape: snowy, sunset" in capsys.readouterr().out


def test_galleries_draws_every_picture_small_enough_for_a_page(tmp_path):
    from PIL import Image

    from diffaug import RecordingBackend

    galleries = load("galleries")
    models = {name: RecordingBackend(16) for name in ("editor", "translator", "tuned")}
    files = galleries.main(tmp_path, **models)
    assert list(galleries.GALLERIES) == [path.stem.removeprefix("gallery-") for path in files]
    docs = EXAMPLES.parent / "docs" / "images"
    for path in files:
        assert Image.open(path).size == Image.open(docs / path.name).size
        limit = 700_000 if path.name == "preview.png" else 400_000
        assert (docs / path.name).stat().st_size < limit


PHOTOS = str(EXAMPLES / "photos")


@pytest.fixture
def recipes(monkeypatch):
    """The folder of the recipes, on Python's path, as they import one another."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def recipe_command(folder, *options):
    """Return the arguments that train a recipe's model as small as can be."""
    command = ["--data", PHOTOS, "--out", str(folder), "--device", "cpu", "--batch-size", "2"]
    return [*command, "--widths", "8", "8", "16", *options]


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("train_tiny_edit", ["--photos", "2"]), ("train_tiny_translate", [])],
)
def test_a_recipe_makes_a_pipeline_that_loads(recipes, tmp_path, recipe, options):
    folder = load(recipe).main([*recipe_command(tmp_path, *options), "--steps", "1"])
    task = recipe.rpartition("_")[2]
    spec = ModelSpec(str(folder), task=task, size=64, steps=1, device="cpu")
    source = torch.full((3, 64, 64), 99, dtype=torch.uint8)
    strength = 1.0 if task == "translate" else None
    request = GenerationRequest("mosaic", seed=0, image=source, strength=strength)
    [answer] = DiffusersBackend(spec).generate([request])
    assert (3, 64, 64) == tuple(answer.image.shape)


@pytest.mark.slow
def test_the_recipe_of_the_editing_model_runs_in_slices_and_is_measured(recipes, tmp_path):
    recipe, evaluation = load("train_tiny_edit"), load("evaluate_tiny_edit")
    command = recipe_command(tmp_path, "--photos", "7", "--steps", "2")
    assert recipe.main([*command, "--slice-minutes", "0"]) is None
    folder = recipe.main(command)
    command = ["--data", PHOTOS, "--val", PHOTOS, "--run", str(tmp_path), "--model", str(folder)]
    figures = evaluation.main([*command, "--photos", "2", "--judge-steps", "1"])
    assert set(figures["prompts"]) == set(DIFFUSEMIX_PROMPTS)
    assert f"{figures['autoencoder_psnr']:.1f} dB" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_the_recipe_of_the_translating_model_runs_in_slices_and_is_measured(recipes, tmp_path):
    recipe, evaluation = load("train_tiny_translate"), load("evaluate_tiny_translate")
    command = recipe_command(tmp_path, "--steps", "2")
    assert recipe.main([*command, "--slice-minutes", "0"]) is None
    folder = recipe.main(command)
    again = ["--init", str(folder), "--export", str(tmp_path / "more"), "--steps", "1"]
    assert tmp_path / "more" == recipe.main([*command, *again, "--out", str(tmp_path / "again")])

    command = ["--data", PHOTOS, "--val", PHOTOS, "--run", str(tmp_path), "--model", str(folder)]
    judge = tmp_path / "judge.safetensors"
    trained = ["--data", PHOTOS, "--val", PHOTOS, "--out", str(judge), "--device", "cpu"]
    assert 0 <= load("tiny_judge").main([*trained, "--steps", "1", "--batch-size", "2"]) <= 1
    command += ["--each", "2", "--moves", "3", "--judge", str(judge), "--device", "cpu"]
    figures = evaluation.main([*command, "--sheet", str(tmp_path / "sheet.png")])
    assert ["animal", "space", "travel"] == figures["classes"] == list(figures["per_class"])
    assert 0 <= figures["judge_on_samples"] <= 1 and (tmp_path / "sheet.png").stat().st_size
    card = (folder / "README.md").read_text()
    assert f"{figures['frechet_samples']:.1f}" in card and "CPU core" in card
    kept = list(figures["layout_kept"].values())
    assert 5 == len(kept) and sorted(kept, reverse=True) == kept


def test_photographs_of_named_classes_are_read(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    load_labelled = load("tiny_data").load_labelled
    images, labels, names = load_labelled(EXAMPLES / "photos", ("space",))
    assert ["space"] == names and len(images) == len(labels) and not labels.any()
    with pytest.raises(FileNotFoundError, match="zebra"):
        load_labelled(EXAMPLES / "photos", ("space", "zebra"))


def test_few_shot_diff_mix_goes_from_folder_to_comparison(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = load("fewshot_diffmix")
    result = example.main(work=tmp_path, shots=2, tune_steps=2, multiplier=1, steps=2)
    assert 8 == result.generated and result.kept <= 8
    assert 0 <= result.without <= 1 and 0 <= result.with_generated <= 1
    assert "accuracy with generated images" in capsys.readouterr().out
    assert {"bar", "cross", "disc", "ring"} >= {
        path.name for path in (tmp_path / "generated").iterdir() if path.is_dir()
    }


def test_odd_arguments_are_counted_by_how_they_are_answered(tmp_path):
    load("benchmarks/bad_inputs").main(["--one-in", "500", "--out", str(tmp_path / "bad.json")])
    found = json.loads((tmp_path / "bad.json").read_text())
    for way in found["ways"].values():
        assert [] == way["faults"]
        assert sum(way["answers"].values()) == way["calls"] > 0


@pytest.mark.slow
def test_the_gain_of_fine_tuning_is_measured_before_and_after(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    small = {"steps": 1, "each": 2, "judge_steps": 1, "draws": 1, "held_out": 2}
    figures = load("benchmarks/finetune_gain").main(
        EXAMPLES / "photos", EXAMPLES / "photos", work=tmp_path, sheet=tmp_path / "s.png", **small
    )
    assert ["animal", "space", "travel"] == figures["classes"]
    for when in ("before", "after"):
        assert figures[when]["held_out_loss"] > 0
        assert 0 <= figures[when]["translated"]["named"] <= 1
    assert (tmp_path / "s.png").stat().st_size


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_says_what_it_does_and_how_to_run_it(example):
    lines = example.read_text().splitlines()
    assert lines[0].startswith('"""') and lines[0].endswith(".")
