"""The examples run as they stand, on their tiny defaults."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from diffaug import DiffusersBackend, GenerationRequest, ModelSpec
from diffaug.prompts import DIFFUSEMIX_PROMPTS

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
    assert image.size == originals[0][0].size and label == originals[0][1]
    assert f"made {len(augmented)}, taken over 0" in capsys.readouterr().out


def test_the_embedded_model_s_recipe_runs_in_slices_and_makes_a_pipeline(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    recipe, evaluation = load("train_tiny_edit"), load("evaluate_tiny_edit")
    photos = str(EXAMPLES / "photos")
    command = ["--data", photos, "--out", str(tmp_path), "--device", "cpu", "--photos", "7"]
    command += ["--batch-size", "2", "--widths", "8", "8", "16"]
    assert recipe.main([*command, "--steps", "2", "--slice-minutes", "0"]) is None
    folder = recipe.main([*command, "--steps", "2"])
    spec = ModelSpec(str(folder), size=64, steps=1, device="cpu")
    [made] = DiffusersBackend(spec).generate(
        [GenerationRequest("mosaic", seed=0, image=torch.full((3, 64, 64), 99, dtype=torch.uint8))]
    )
    assert (3, 64, 64) == tuple(made.image.shape)

    command = ["--data", photos, "--val", photos, "--run", str(tmp_path), "--model", str(folder)]
    figures = evaluation.main([*command, "--photos", "2", "--judge-steps", "1"])
    assert set(figures["prompts"]) == set(DIFFUSEMIX_PROMPTS)
    assert f"{figures['autoencoder_psnr']:.1f} dB" in (folder / "README.md").read_text()


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_says_what_it_does_and_how_to_run_it(example):
    lines = example.read_text().splitlines()
    assert lines[0].startswith('"""') and lines[0].endswith(".")
