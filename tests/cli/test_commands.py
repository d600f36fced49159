"""The command line: what it prints and writes, and one clear line for what is wrong."""

import json
import subprocess
import sys

import pytest
import tiny_pipelines
from image_folders import contents
from PIL import Image
from typer.testing import CliRunner

from diffaug.cli.commands import app

runner = CliRunner()


def run(*arguments):
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(code, *arguments):
    """Return the one line that a command which must fail prints."""
    result = run(*arguments)
    lines = result.stderr.strip().splitlines()
    assert code == result.exit_code and 1 == len(lines) and "Traceback" not in result.output
    assert lines[0].startswith("diffaug: error: ")
    return lines[0]


@pytest.fixture
def model():
    return tiny_pipelines.model_folder("edit")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for index, name in enumerate(("cat/1.png", "cat/2.png", "a dog/1.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + index, 30), "orange").save(folder / name)
    return folder


def test_augment_makes_a_set_and_then_has_nothing_to_do(photos, tmp_path, model):
    styles = ("--prompts", "snowy, at night", "--prompts", "sunset")
    command = (
        "augment", photos, tmp_path / "set", "--backend", model, "--steps", 1,
        "--per-image", 2, *styles, "--alpha", "0.1,0.3",
    )  # fmt: skip
    first = run(*command)
    assert 0 == first.exit_code and "made 6, 0 already there" in first.stdout
    rows = [json.loads(line) for line in (tmp_path / "set/metadata.jsonl").open()]
    assert 6 == len(rows) and {row["prompt"] for row in rows} <= {"snowy, at night", "sunset"}
    assert all(0.1 <= row["alpha"] <= 0.3 for row in rows)
    assert (22, 30) == Image.open(tmp_path / "set" / "a dog" / "1__0.jpg").size

    again = run(*command)
    assert 0 == again.exit_code and "made 0, 6 already there" in again.stdout
    assert "nothing to do" in again.stdout


def test_the_release_makes_an_image_for_every_prompt(photos, tmp_path, model):
    options = ("--backend", model, "--steps", 1, "--recipe", "release", "--prompts")
    (tmp_path / "styles.txt").write_text("a\n\nb, c\na\n")
    run("augment", photos, tmp_path / "set", *options, tmp_path / "styles.txt")
    rows = [json.loads(line) for line in (tmp_path / "set/metadata.jsonl").open()]
    assert 6 == len(rows) and {row["prompt"] for row in rows} == {"a", "b, c"}


def test_shares_are_merged_by_the_last_or_by_command(photos, tmp_path, model, monkeypatch):
    command = ("augment", photos, tmp_path / "set", "--backend", model, "--steps", 1)
    assert "made 2" in run(*command, "--shard", "1/2").stdout
    assert "lacks 1 finished parts (2/2)" in refused(1, "merge", tmp_path / "set")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "made 1" in run(*command).stdout
    assert 3 == len((tmp_path / "set/metadata.jsonl").read_text().splitlines())
    whole = contents(tmp_path / "set")
    run("merge", tmp_path / "set")  # once more changes nothing
    assert whole == contents(tmp_path / "set")
    assert "must be like 3/16" in refused(2, *command, "--shard", "3 of 16")


def test_a_dry_run_counts_and_writes_nothing(photos, tmp_path, model):
    result = run("augment", photos, tmp_path / "set", "--backend", model, "--dry-run")
    assert 0 == result.exit_code and "3 images planned" in result.stdout
    assert not (tmp_path / "set").exists()


def test_an_unreadable_image_is_skipped_by_name(photos, tmp_path, model):
    (photos / "cat" / "1.png").write_bytes(b"")
    command = ("augment", photos, tmp_path / "set", "--backend", model, "--steps", 1)
    assert "1.png" in refused(1, *command, "--strict")
    result = run(*command)
    assert 0 == result.exit_code and "made 2" in result.stdout
    assert "skipped cat/1.png: " in result.stderr


def test_a_set_of_which_nothing_could_be_made_fails(photos, tmp_path, model):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    result = run("augment", photos, tmp_path / "set", "--backend", model)
    assert 1 == result.exit_code and "no image could be made" in result.stderr
    assert not (tmp_path / "set").exists()


def test_preview_prints_the_path_of_the_sheet(photos, tmp_path, model):
    options = ("--backend", model, "--steps", 1, "--count", 2, "--tile", 64)
    result = run("preview", photos, tmp_path / "sheet.png", *options)
    assert 0 == result.exit_code and str(tmp_path / "sheet.png") == result.stdout.strip()
    assert Image.open(tmp_path / "sheet.png").width == 5 * 64 + 6 * 12


def test_fractals_writes_pictures(tmp_path):
    result = run("fractals", tmp_path / "new", "--count", 2, "--size", 32)
    assert 0 == result.exit_code and "2 fractals in" in result.stdout
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert ["fractal-0-0.png", "fractal-0-1.png"] == names


def test_backends_lists_every_preset_on_a_line_of_its_own():
    from diffaug.backends.presets import PRESETS

    lines = run("backends").stdout.strip().splitlines()
    assert list(PRESETS) == [line.split()[0] for line in lines[1:]]
    assert "10" in lines[1] and "none" in lines[1] and "yes" in lines[1]


def test_the_embedded_model_needs_no_download():
    assert "is here already" in run("download", "tiny").stdout


def test_a_download_without_network_says_what_to_do():
    assert "not on this machine" in refused(1, "download", "instruct-pix2pix")


def test_the_cache_is_shown_and_cleared(photos, tmp_path, model, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    from diffaug import unload

    unload()  # an earlier test's cached backend has looked its folder up already
    options = ("--backend", model, "--steps", 1, "--count", 1, "--tile", 64)
    run("preview", photos, tmp_path / "sheet.png", *options)
    assert run("cache").stdout.startswith("1 images")
    assert "removed from" in run("cache", "--clear").stdout
    assert run("cache").stdout.startswith("0 images")
    unload()


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        (2, ("--backend", "tinny"), "tinny"),
        (2, ("--backend", tiny_pipelines.model_folder("translate")), "for the task edit"),
        (2, ("--alpha", "2"), "'--alpha' must be in [0, 1], got 2.0"),
        (2, ("--alpha", "much"), "'--alpha' must be a number or LOW,HIGH, got 'much'"),
        (2, ("--prompts", " "), "'--prompts' must hold at least one string"),
        (2, ("--prompts", "no.txt"), "'--prompts' must be a style, or a text file with one"),
        (2, ("--masks", "diagonal"), "got 'diagonal'"),
        (2, ("--recipe", "poem"), "'--recipe' must be one of paper, release"),
        (2, ("--fractals", "nowhere"), "'--fractals' must be a folder of images, got 'nowhere'"),
        (2, ("--format", "gif"), "'--format' must be"),
        (2, ("--per-image", "0"), "'--per-image' must be at least 1, got 0"),
        (2, ("--steps", "0"), "'--steps' must be an integer of at least 1, got 0"),
        (2, ("--device", "abacus"), "'--device' must be"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_written(
    photos, tmp_path, model, code, options, message
):
    command = ("augment", photos, tmp_path / "set", "--backend", model, *options)
    assert message in refused(code, *command)
    assert not (tmp_path / "set").exists()


def test_wrong_folders_are_one_line(photos, tmp_path, model):
    def line(source, destination):
        result = run("augment", source, destination, "--backend", model)
        assert result.exit_code in (1, 2) and 1 == len(result.stderr.strip().splitlines())
        return result.stderr

    (tmp_path / "empty").mkdir()
    assert "must be an existing folder" in line(tmp_path / "nowhere", tmp_path / "set")
    assert "must hold images" in line(tmp_path / "empty", tmp_path / "set")
    assert "lies inside the source" in line(photos, photos / "set")
    assert "must be empty or of this run" in line(photos, photos.parent)


def test_a_different_run_in_the_destination_is_refused(photos, tmp_path, model):
    command = ("augment", photos, tmp_path / "set", "--backend", model, "--steps", 1)
    run(*command)
    assert "holds a different run: 'seed' is 0 there and 1 here" in refused(
        1, *command, "--seed", 1
    )


def test_debug_shows_the_traceback():
    result = runner.invoke(app, ["--debug", "download", "tinny"])
    assert isinstance(result.exception, ValueError)


def test_the_module_and_the_version_can_be_run():
    from diffaug import __version__

    command = [sys.executable, "-m", "diffaug", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"diffaug {__version__}" == done.stdout.strip()


def test_the_help_names_every_command():
    text = run("--help").stdout
    for command in ("augment", "preview", "fractals", "backends", "download", "cache"):
        assert command in text and 0 == run(command, "--help").exit_code
