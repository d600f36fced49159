"""The commands of Diff-Mix: fine-tune, augment, filter; and what belongs to which method."""

import json
import re
from dataclasses import fields, replace

import pytest
import tiny_pipelines
from PIL import Image
from test_commands import refused, run
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from diffaug import DiffMix, DiffusersBackend, JointTransform, ModelSpec, unload
from diffaug.backends.presets import PRESETS, resolve
from diffaug.cli.options import (
    METHOD_OF,
    METHODS,
    TransformOptions,
    number_or_range,
    read_prompts,
    strengths,
)


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


@pytest.mark.parametrize("pairs", [(), ("--pairs", "tail")])
def test_targets_are_only_among_the_classes_named(photos, tmp_path, model, pairs):
    names = sorted(folder.name for folder in photos.iterdir())
    command = ("augment", photos, tmp_path / "set", "--method", "diffmix", "--backend", model)
    done = run(*command, *pairs, "--strategy", "real-mix", "--targets", names[1], "--steps", 1)
    assert 0 == done.exit_code, done.output
    assert {names[1]} == {row["label"] for row in rows_of(tmp_path / "set")}


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


@pytest.mark.parametrize("size", ["24,20", "24x20", "24"])
def test_warming_stands_for_the_transform_that_it_prints(
    photos, model, tmp_path, monkeypatch, size
):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    unload()
    options = ("--method", "diff-mix", "--backend", model, "--strategy", "real_mix", "--steps", 1)
    done = run("warm", photos, *options, "--size", size, "--pool", 1)
    resize = 24 if size == "24" else (24, 20)
    shown = f"as in ImageFolder('{photos}', v2.Compose([v2.Resize({resize}), DiffMix(...)]))"
    assert shown == done.stdout.splitlines()[0] and "made 5" in done.stdout, done.output

    spec = replace(resolve(model), steps=1)
    mix = DiffMix(["a dog", "cat"], strategy="real-mix", pool=1, p=0.5, backend=spec)
    data = JointTransform(ImageFolder(photos), v2.Compose([v2.Resize(resize), mix]), seed=0)
    monkeypatch.setattr(DiffusersBackend, "generate", None)
    for epoch in range(4):
        data.set_epoch(epoch)
        assert 5 == len([data[index] for index in range(5)])
    unload()


def test_warming_skips_and_names_what_cannot_be_read(photos, model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    unload()
    (photos / "cat" / "2.png").write_bytes(b"")
    (photos / "cat" / "again").symlink_to(photos)  # ImageFolder would read it forty times
    command = ("warm", photos, "--method", "diffmix", "--backend", model, "--strategy", "real-mix")
    command += ("--pool", 1, "--steps", 1, "--strength", 1)
    assert "cat/2.png" in refused(1, *command, "--strict")
    done = run(*command)
    assert 0 == done.exit_code and "made 4" in done.stdout, done.output
    assert 1 == done.stderr.count("skipped cat/2.png: ")
    (tmp_path / "none" / "cat").mkdir(parents=True)
    assert "'source' must hold images in one folder per class" in refused(
        2, "warm", tmp_path / "none"
    )
    unload()


def test_warming_says_where_the_loader_decides_what_an_image_is(photos, model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(photos / "cat" / "phone.jpg", exif=exif)
    command = ("warm", photos, "--backend", tiny_pipelines.model_folder("edit"), "--dry-run")
    done = run(*command)
    assert "sees files otherwise than ImageFolder's own loader (1 turned upright)" in (done.stderr)
    done = run(*command, "--load-image")
    assert "" == done.stderr and "loader=diffaug.load_image)" in done.stdout.splitlines()[0]


def test_words_come_from_a_file_and_names_stay_folders(photos, tmp_path, model):
    words = tmp_path / "words.csv"
    words.write_text('folder,words\ncat,"tabby, cat"\na dog,hound\nowl,owl\n')
    command = ("augment", photos, tmp_path / "set", "--method", "diffmix", "--backend", model)
    command += ("--strategy", "real-mix", "--steps", 1, "--multiplier", 2, "--metaclass", "pet")
    done = run(*command, "--class-names", words)
    assert 0 == done.exit_code, done.output
    rows = rows_of(tmp_path / "set")
    said = {"cat": "a photo of a tabby, cat pet", "a dog": "a photo of a hound pet"}
    assert 10 == len(rows)
    for row in rows:
        assert said[row["label"]] == row["prompt"]
        assert row["label"] == row["file_name"].split("/")[0]

    words.write_text("cats,tabby\n")
    assert "has none for 'a dog', 'cat'; add" in refused(2, *command, "--class-names", words)


def test_a_model_s_size_and_guidance_can_be_chosen(model):
    published = TransformOptions(
        backend="instruct-pix2pix", model_size="256", steps=100, guidance_scale=4.0
    )
    spec = replace(PRESETS["instruct-pix2pix-256"].spec, steps=100, guidance_scale=4.0)
    assert spec == published._model("sd15")
    image = TransformOptions(backend="tiny", image_guidance_scale=2, model_size="32x32")
    spec = image._model("sd15")
    assert (32, 2.0, 2.0) == (spec.size, spec.guidance_scale, spec.image_guidance_scale)


def test_the_files_of_a_model_can_be_chosen_wherever_one_is_given(tmp_path, monkeypatch):
    from diffaug.backends import hub
    from diffaug.finetuning import run as finetuning

    options = TransformOptions(
        variant="bf16", revision="main", adapter=["org/birds*0.5"], backend="instruct-pix2pix-lcm"
    )
    preset = PRESETS["instruct-pix2pix-lcm"].spec
    expected = replace(
        preset, variant="bf16", revision="main", adapters=(*preset.adapters, "org/birds*0.5")
    )
    assert expected == options._model("tiny")
    seen = []
    monkeypatch.setattr(hub, "downloaded", lambda spec: seen.append(spec) or True)
    files = ("--variant", "bf16", "--revision", "main")
    run("download", "instruct-pix2pix-lcm", *files, "--adapter", "org/birds*0.5")
    monkeypatch.setattr(finetuning, "finetune", lambda *_, base, **__: seen.append(base) or 1 / 0)
    run("finetune", tmp_path, tmp_path / "run", "--base", "sd15", *files)
    run("finetune", tmp_path, tmp_path / "run", "--base", "sd15")
    assert [
        expected,
        replace(PRESETS["sd15"].spec, variant="bf16", revision="main"),
        "sd15",
    ] == seen


def test_a_comma_without_a_space_may_have_been_meant_for_two_prompts(caplog):
    assert ["Autumn,snowy", "a, b"] == read_prompts(["Autumn,snowy", "a, b"])
    assert ["'Autumn,snowy' is one prompt; repeat --prompts for each of several"] == caplog.messages


def test_a_model_s_size_and_guidance_reach_a_set(photos, tmp_path, model):
    options = ("--method", "diffmix", "--backend", model, "--strategy", "real-mix")
    options += ("--steps", 1, "--model-size", 8, "--guidance-scale", 3)
    done = run("augment", photos, tmp_path / "set", *options, "--multiplier", 1)
    assert 0 == done.exit_code, done.output
    identity = json.loads((tmp_path / "set" / "run.json").read_text())["identity"]
    assert (8, 3.0) == (identity["model.size"], identity["model.guidance_scale"])


@pytest.mark.parametrize(
    ("size", "expected"), [("10", (13, 10)), ("10,12", (10, 12)), ("10X12", (10, 12))]
)
def test_sources_are_resized_to_a_shorter_side_or_to_a_height_and_width(
    photos, tmp_path, size, expected
):
    options = ("--backend", tiny_pipelines.model_folder("edit"), "--steps", 1, "--size", size)
    done = run("augment", photos, tmp_path / "set", *options)
    assert 0 == done.exit_code, done.output
    assert expected[::-1] == Image.open(tmp_path / "set" / "a dog" / "1__0.jpg").size
    again = run("augment", photos, tmp_path / "set", *options)
    assert "nothing to do" in again.stdout


@pytest.mark.parametrize("command", ["augment", "preview", "warm"])
def test_the_help_says_which_method_an_option_belongs_to(command):
    text = " ".join(run(command, "--help").stdout.split())
    options = dict(re.findall(r" --([a-z-]+)[ ,](.*?)(?= --[a-z-]+[ ,]|$)", text))
    assert {"method", "strategy", "prompts", "guidance-scale"} < set(options)
    for name, rest in options.items():
        owner = METHOD_OF.get(name.replace("-", "_"))
        marks = [method for method in METHODS if f"[{method}]" in rest]
        assert marks == ([] if owner is None else [owner]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--pool", "3"),
            "'--pool' must not be given with --method diffusemix, .* --method diffmix.",
        ),
        (
            ("--method", "diffmix", "--variants", "1"),
            "'--variants' must not be given with --method",
        ),
        (("--variants", "0"), "'--variants' must be at least 1, got 0"),
        (("--size", "64,64,64"), "'--size' must be N (the shorter side) or H,W in pixels, got"),
    ],
)
def test_a_wrong_option_of_warm_is_one_line(photos, options, message):
    line = refused(2, "warm", photos, *options)
    assert all(part in line for part in message.split(".*"))


def test_a_fine_tuned_model_and_a_fractal_are_squares(photos, tmp_path):
    command = ("finetune", photos, tmp_path / "tuned", "--size")
    assert "must be the side of a square in pixels, got '16,24'" in refused(2, *command, "16,24")
    assert "must be the side of a square" in refused(2, "fractals", tmp_path, "--size", "3,4")
    assert 0 == run("fractals", tmp_path / "new", "--count", 1, "--size", "16x16").exit_code
    assert (16, 16) == Image.open(tmp_path / "new" / "fractal-0-0.png").size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "mixup"), "'--method' must be one of diffusemix, diffmix, got 'mixup'"),
        (("--method", "diffmix", "--prompts", "snowy"), "'--prompts' must not be given with"),
        (("--pairs", "tail"), "'--pairs' must not be given with --method diffusemix"),
        (("--strategy", "diff-mix"), "got 'diff-mix'; it belongs to --method diffmix."),
        (("--strength", "0.7"), "'--strength' must not be given with --method diffusemix"),
        (("--class-names", "words.csv"), "'--class-names' must not be given with --method diffu"),
        (("--method", "diffmix", "--recipe", "paper"), "it belongs to --method diffusemix."),
        (
            ("--method", "diffmix", "--alpha", "0.2"),
            "'--alpha' must not be given with --method dif",
        ),
        (
            ("--method", "diffmix", "--image-guidance-scale", "2"),
            "'--image-guidance-scale' must not",
        ),
        (
            ("--backend", "flux2-klein-4b", "--image-guidance-scale", "2"),
            "and 'flux2-klein-4b' has",
        ),
        (("--model-size", "100"), "'--model-size' must be a positive multiple of 8, got 100."),
        (("--model-size", "64,32"), "'--model-size' must be the side of a square in pixels, got"),
        (("--guidance-scale", "nan"), "'--guidance-scale' must be at least 0, got nan."),
        (("--size", "64,"), "'--size' must be N (the shorter side) or H,W in pixels, got '64,'."),
        (("--size", "0x64"), "'--size' must be at least 1, got 0."),
        (
            ("--method", "diffmix", "--strategy", "real_gen", "--strength", "0.5"),
            "'--strength' must not be given with strategy real-gen",
        ),
        (
            ("--method", "diffmix", "--strategy", "real-aug", "--pairs", "uniform"),
            "'--pairs' must be 'same' for a strategy that keeps the class",
        ),
        (
            ("--method", "diffmix", "--class-names", "words.csv"),
            "with --strategy diff-mix, whose model has learned its own words, got 'words.csv'; use",
        ),
        (
            ("--method", "diffmix", "--strategy", "real-mix", "--class-names", "none.csv"),
            "'--class-names' must be a file that can be read, got 'none.csv'",
        ),
        (("--method", "diffmix", "--strength", "strong"), "'--strength' must be a number, several"),
        (("--method", "diffmix", "--strength", "2"), "'--strength' must be in [0, 1], got 2.0"),
        (("--method", "diffmix", "--strategy", "mix"), "'--strategy' must be one of diff-mix"),
        (("--method", "diffmix", "--backend", "tiny"), "must be a model that translates"),
    ],
)
def test_a_wrong_option_is_one_line(photos, tmp_path, options, message):
    assert message in refused(2, "augment", photos, tmp_path / "set", *options)
    assert not (tmp_path / "set").exists()


def test_diffmix_takes_an_id_of_the_hub():
    options = TransformOptions(method="diffmix", backend="org/name", steps=10)
    assert ModelSpec("org/name", task="translate", steps=10) == options._model("sd15")
    edit = TransformOptions(backend="org/name")._model("sd15")
    assert ModelSpec("org/name", task="edit") == edit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scorer", "taste"), "'--scorer' must be one of clip, similarity, got 'taste'"),
        (("--scorer", "similarity", "--metaclass", "pet"), "given with --scorer similarity, which"),
        (
            ("--metaclass", "pet", "--class-names", "no.csv"),
            "must be a file that can be read",
        ),
        (
            ("--scorer", "similarity", "--class-names", "w.csv"),
            "'--class-names' must not be given w",
        ),
        (
            ("--scorer", "similarity", "--device", "cpu"),
            "'--device' must not be given with --scorer",
        ),
        (("--scorer", "similarity", "--keep", "0.5"), "'--keep' must be None for 'similarity'"),
        (
            ("--scorer", "similarity", "--revision", "abc"),
            "'--revision' must not be given with --scorer similarity",
        ),
        (
            ("--low", "0", "--metaclass", "pet"),
            "'--low' must not be given with --scorer clip, which",
        ),
        ((), "'--metaclass' must say what all classes are"),
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
