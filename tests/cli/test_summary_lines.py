"""What commands print of a run: the summary once, and no warning beside it."""

from shutil import copytree

import pytest
from image_folders import save_photos
from typer.testing import CliRunner

from diffaug.cli.commands import app
from diffaug.cli.summary import estimate_line, speed_of
from diffaug.offline.summary import Estimate

LEFT_OUT = "left out: 1 file of kinds that are not read (.txt 1)"
EMPTY = (
    "classes without images: cow; torchvision's ImageFolder refuses the set: use GeneratedDataset, "
    "or ImageFolder(..., allow_empty=True)"
)


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert 0 == result.exit_code, result.output
    return result


@pytest.fixture
def photos(tmp_path):
    root = save_photos(tmp_path / "photos", ["bird/1.png", "cat/1.png", "dog/1.png"])
    (root / "cow").mkdir()
    (root / "cat/notes.txt").touch()
    return root


def test_a_run_and_its_dry_run_end_with_the_same_lines(photos, tmp_path):
    command = ("augment", photos, tmp_path / "set", "--backend", "tiny", "--steps", 1)
    dry, done = run(*command, "--dry-run"), run(*command)
    lines = ["3 images of 4 classes (bird, cat, cow, dog)", LEFT_OUT, EMPTY]
    assert lines == dry.stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:]
    assert "disk: about " in dry.stdout and "time: about " in dry.stdout
    assert "warning" not in done.stderr
    assert lines == run(*command).stdout.splitlines()[-3:]  # nothing to do


def test_a_dry_run_of_unreadable_images_alone_says_that_none_can_be_made(tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    for number in range(22):
        (tmp_path / f"photos/cat/{number}.png").touch()
    for words, options in (("can", ["--dry-run"]), ("could", [])):
        command = ["augment", tmp_path / "photos", tmp_path / "set", "--backend", "tiny", *options]
        result = CliRunner().invoke(app, list(map(str, command)))
        assert (1, 20) == (result.exit_code, result.stderr.count("is not a readable image"))
        assert ["skipped 22 in all", f"diffaug: error: no image {words} be made."] == (
            result.stderr.splitlines()[-2:]
        )


def test_warming_says_what_it_left_out_and_which_class_has_no_image(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    lines = run("warm", photos, "--backend", "tiny", "--dry-run").stdout.splitlines()
    assert lines[0].endswith(", allow_empty=True)")
    assert [LEFT_OUT, "classes without images: cow"] == lines[1:3]


def test_merge_prints_the_summary_of_the_whole_set(photos, tmp_path):
    command = ("augment", photos, tmp_path / "set", "--backend", "tiny", "--steps", 1)
    run(*command, "--shard", "1/2")
    parts = tmp_path / "set/.diffaug.parts-of-2"
    copytree(parts, tmp_path / "parts")
    last = run(*command, "--shard", "2/2").stdout.splitlines()
    lines = ["3 images of 4 classes (bird, cat, cow, dog)", LEFT_OUT, EMPTY]
    assert lines == last[-3:]
    # As if the last share had been stopped before it could merge.
    copytree(tmp_path / "parts", tmp_path / "one/.diffaug.parts-of-1")
    lines[0] = "2 images of 4 classes (bird, cat, cow, dog)"
    merged = run("merge", tmp_path / "one").stdout.splitlines()
    assert [*lines[:2], EMPTY.replace("cow", "cat, cow")] == merged[-3:]


@pytest.mark.parametrize(
    ("estimate", "line"),
    [
        (Estimate(400, 0.2), "disk: about 1 kB; time: about 1 seconds on this machine"),
        (Estimate(2_340_000, 90), "disk: about 2.3 MB; time: about 90 seconds on this machine"),
        (Estimate(5 * 10**9, 9000), "disk: about 5.0 GB; time: about 2.5 hours on this machine"),
        (Estimate(5 * 10**9, None), "disk: about 5.0 GB; time: unknown, since the model"),
        (Estimate(None, None), "disk: unknown; time: unknown"),
        (
            Estimate(400, absent="sd15"),
            "disk: about 1 kB; time: unknown, and the prompts were not read, since the model is "
            "not here: run `diffaug download sd15` first",
        ),
    ],
)
def test_an_estimate_has_the_unit_of_its_size(estimate, line):
    assert estimate_line(estimate).startswith(line)


def test_a_slow_run_has_a_speed_that_says_something():
    assert ["0.021 images/s", "1.0 images/s", "12.3 images/s"] == [
        speed_of(6, 280), speed_of(3, 3), speed_of(123, 10)
    ]  # fmt: skip


def test_a_share_of_few_images_may_have_none(photos, tmp_path):
    command = (
        "augment",
        photos,
        tmp_path / "set",
        "--backend",
        "tiny",
        "--steps",
        1,
        "--per-image",
        1,
    )
    done = [run(*command, "--shard", f"{n}/4") for n in (1, 2, 3, 4)]
    assert [0, 1, 1, 1] == sorted(int(one.stdout.split()[1].strip(",")) for one in done)
    assert 1 == sum("nothing to do" in one.stdout for one in done)
    assert (tmp_path / "set" / "metadata.jsonl").exists()
