"""The commands of Diff-Mix: fine-tune, augment, filter; and what belongs to which method."""

import json
from dataclasses import fields, replace

import pytest
import tiny_pipelines
from PIL import Image
from test_commands import refused, run
from torchvision.datasets import ImageFolder

from diffaug import DiffMix, DiffusersBackend, JointTransform, unload
from diffaug.backends.presets import resolve
from diffaug.cli.options import TransformOptions, number_or_range, strengths


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for index, name in enumerate(
        ["cat/1.png", "cat/2.png", "cat/3.png", "a dog/1.png", "a dog/2.png"]
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + index, 30), (40 * index, 90, 160)).save(folder / name)
    return folder


@pytest.fixture
def model():
    return tiny_pipelines.model_folder("translate")


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").open()]


def test_fine_tune_then_augment_then_filter(photos, tmp_path, model):
    tuned, generated = tmp_path / "tuned", tmp_path / "set"
    options = ("--base", model, "--metaclass", "pet", "--shots", 1, "--steps", 1, "--size", 16)
    done = run("finetune", photos, tuned, *options)
    assert 0 == done.exit_code, done.output
    assert "1 steps, 1 in all, on 2 images of 2 classes" in done.stdout
    assert "nothing to do" in run("finetune", photos, tuned, *options).stdout

    command = ("augment", photos, generated, "--method", "diffmix", "--backend", tuned)
    done = run(*command, "--steps", 2, "--multiplier", 3, "--strength", "0.5,1", "--pairs", "other")
    assert 0 == done.exit_code, done.output
    assert "made 6" in done.stdout
    assert f"from the 2 images that '{tuned}' was fine-tuned on" in done.stderr
    rows = rows_of(generated)
    assert {0.5, 1.0} >= {row["strength"] for row in rows}
    for row in rows:
        assert row["source_label"] != row["label"] == row["file_name"].split("/")[0]
        assert row["prompt"].startswith("a photo of a <") and row["prompt"].endswith("> pet")

    done = run("filter", generated, "--scorer", "similarity", "--low", -1, "--high", 1)
    assert 0 == done.exit_code and "kept 6 of 6" in done.stdout
    assert all(row["kept"] for row in rows_of(generated))


def test_the_long_tail_draws_ten_times_from_all_images(photos, tmp_path, model):
    command = ("augment", photos, tmp_path / "set", "--method", "diffmix", "--backend", model)
    done = run(*command, "--strategy", "real-mix", "--long-tail", "--dry-run")
    assert "50 images planned" in done.stdout
    assert 0 == run(*command, "--strategy", "real-mix", "--pairs", "tail", "--dry-run").exit_code


def test_a_preview_shows_translations(photos, tmp_path, model):
    sheet = tmp_path / "sheet.png"
    options = ("--method", "diffmix", "--backend", model, "--strategy", "real-mix", "--tile", 64)
    assert 0 == run("preview", photos, sheet, *options, "--count", 2, "--steps", 1).exit_code
    assert Image.open(sheet).width > 128


def test_warming_counts_first_and_then_leaves_nothing_to_make(photos, model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    unload()
    command = ("warm", photos, "--method", "diffmix", "--backend", model, "--strategy", "real-mix")
    command += ("--pool", 2, "--steps", 1)
    assert (
        "10 images can be asked for, 0 of them already there" in run(*command, "--dry-run").stdout
    )
    done = run(*command)
    assert 0 == done.exit_code and "made 10" in done.stdout, done.output
    assert "10 of them already there, 0 to make" in run(*command).stdout

    # What training then asks for is there.
    mix = DiffMix(
        ["a dog", "cat"],
        strategy="real-mix",
        pool=2,
        p=0.5,
        backend=replace(resolve(model), steps=1),
    )
    data = JointTransform(ImageFolder(photos), mix, seed=0)
    monkeypatch.setattr(DiffusersBackend, "generate", None)
    for epoch in range(5):
        data.set_epoch(epoch)
        assert 5 == len([data[index] for index in range(5)])
    unload()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "mixup"), "'method' must be diffusemix or diffmix, got 'mixup'"),
        (("--method", "diffmix", "--prompts", "snowy"), "'prompts' must not be given with"),
        (("--pairs", "tail"), "'pairs' must not be given with --method diffusemix"),
        (("--method", "diffmix", "--strength", "strong"), "'strength' must be a number, several"),
        (("--method", "diffmix", "--strength", "2"), "'strength' must be in [0, 1], got 2.0"),
        (("--method", "diffmix", "--strategy", "mix"), "'strategy' must be one of diff-mix"),
        (("--method", "diffmix", "--backend", "tiny"), "must be a model that translates"),
    ],
)
def test_a_wrong_option_is_one_line(photos, tmp_path, options, message):
    assert message in refused(2, "augment", photos, tmp_path / "set", *options)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scorer", "taste"), "'scorer' must be clip or similarity, got 'taste'"),
        (("--scorer", "similarity", "--metaclass", "pet"), "given with --scorer similarity, which"),
        (("--low", "0", "--metaclass", "pet"), "'low' must not be given with --scorer clip, which"),
        ((), "'metaclass' must say what all classes are"),
    ],
)
def test_a_wrong_option_of_a_filter_is_one_line(tmp_path, options, message):
    assert message in refused(2, "filter", tmp_path, *options)


@pytest.mark.parametrize(
    ("command", "left_out"),
    [
        ("augment", set()),
        ("preview", {"long_tail", "batch_size"}),
        ("warm", {"long_tail", "alpha", "masks", "fractals"}),
    ],
)
def test_a_command_has_the_options_of_a_transform_that_it_can_use(command, left_out):
    text = run(command, "--help").stdout
    names = {field.name for field in fields(TransformOptions)}
    assert left_out == {name for name in names if f"--{name.replace('_', '-')} " not in text}


def test_numbers_are_read():
    assert 0.2 == number_or_range("0.2") and (0.1, 0.3) == number_or_range("0.1, 0.3")
    assert 0.7 == strengths("0.7") and [0.5, 0.9] == strengths("0.5,0.9")
    assert "uniform" == strengths("uniform")
