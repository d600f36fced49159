"""The commands that show something: a page, a grid of a setting's values, the demo."""

import re
from dataclasses import replace

import pytest
import tiny_pipelines
from image_folders import save_photos
from test_commands import refused, run

from diffaug import sample_photos, unload
from diffaug.backends.presets import PRESETS
from diffaug.images import read_image
from diffaug.offline.manifest import read_manifest


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", ["cat/1.png", "dog/1.png"])


def edits(*more):
    return ("--backend", tiny_pipelines.model_folder("edit"), "--steps", 1, *more)


def test_preview_writes_a_page_of_photographs_and_of_a_set(photos, tmp_path):
    page = tmp_path / "report.html"
    assert str(page) == run("preview", photos, page, *edits()).stdout.strip()
    assert "each augmented by DiffuseMix" in page.read_text()
    run("augment", photos, tmp_path / "set", *edits())
    assert 0 == run("preview", tmp_path / "set", page).exit_code
    assert "a generated set made from" in page.read_text()


def test_a_sweep_has_a_column_for_each_value(photos, tmp_path):
    model = tiny_pipelines.model_folder("edit")
    options = ("--backend", model, "--count", 1, "--tile", 64)
    assert (
        0
        == run(
            "preview", photos, tmp_path / "grid.png", *options, "--sweep", "steps=1,2,3"
        ).exit_code
    )
    assert read_image(tmp_path / "grid.png").shape[2] == 12 + 4 * (64 + 12)
    prompts = ("--sweep", "prompts=snowy,at sunset", "--steps", 1)
    run("preview", photos, tmp_path / "grid.html", *options, *prompts)
    assert '"prompts snowy"' in (tmp_path / "grid.html").read_text()
    assert '"prompts at sunset"' in (tmp_path / "grid.html").read_text()
    unload()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sweep", "strength"), "'--sweep' must be OPTION=VALUE,VALUE,..., got 'strength'"),
        (("--sweep", "alpha=,"), "'--sweep' must be OPTION=VALUE"),
        (("--sweep", "stepps=1,2"), "'--sweep' must be one of"),
        (
            ("--sweep", "steps=1,many"),
            "'--sweep' must hold values of 'steps', each int, got 'many'",
        ),
        (("--sweep", "alpha=0.1", "--alpha", "0.2"), "'--alpha' must not be given with --sweep"),
        (("--sweep", "strength=0.1,0.2"), "it belongs to --method diffmix"),
        (("--sweep", "alpha=0.1,1.2"), "'--alpha' must be in [0, 1], got 1.2"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_with_the_reason(photos, tmp_path, options, message):
    assert message in refused(2, "preview", photos, tmp_path / "grid.png", *options)
    assert not (tmp_path / "grid.png").exists()


def test_a_set_has_nothing_to_sweep(photos, tmp_path):
    run("augment", photos, tmp_path / "set", *edits())
    line = refused(2, "preview", tmp_path / "set", tmp_path / "a.html", "--sweep", "alpha=0,1")
    assert "'--sweep' must not be given with a generated set" in line


def test_the_demo_augments_the_samples_and_says_what_to_do_next(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    quick = replace(PRESETS["tiny-256"], spec=replace(PRESETS["tiny"].spec, size=32))
    monkeypatch.setitem(PRESETS, "tiny-256", quick)
    folder = tmp_path / "demo"
    done = run("demo", folder)
    assert 0 == done.exit_code, done.output
    assert 6 == len(read_manifest(folder / "augmented"))
    assert f"Open {folder / 'report.html'} in a browser" in done.stdout
    assert 3 == len(re.findall(r"^  diffaug (?:preview|augment) ", done.stdout, re.M))
    assert 6 == len({p.name for p in sample_photos().rglob("*.jpg")})
    assert "6 already there" in run("demo", folder).stdout
    unload()
