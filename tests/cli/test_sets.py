"""The commands about sets: preview one, read and write the authors' formats."""

import pytest
from image_folders import save_photos
from test_commands import refused, run

from diffaug import PromptEdit, RecordingBackend, augment_folder
from diffaug.images import read_image


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", ["cat/1.png", "dog/1.png"])


@pytest.fixture
def generated(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", PromptEdit(["snowy"], backend=RecordingBackend(16)))
    return tmp_path / "set"


def test_preview_shows_a_set_without_a_model(generated, tmp_path):
    done = run("preview", generated, tmp_path / "sheet.png", "--tile", 64, "--count", 1)
    assert 0 == done.exit_code and str(tmp_path / "sheet.png") == done.stdout.strip()
    assert read_image(tmp_path / "sheet.png").shape[1] > 64


@pytest.mark.parametrize(
    "option",
    [("--method", "diffmix"), ("--method", "diffusemix"), ("--backend", "tiny"), ("--steps", 3)],
)
def test_options_of_a_transform_are_refused_with_a_set(generated, tmp_path, option):
    line = refused(2, "preview", generated, tmp_path / "sheet.png", *option)
    assert f"'{option[0]}' must not be given with a generated set" in line
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("command", ["augment", "finetune", "warm"])
def test_commands_that_want_photographs_say_what_a_set_is(generated, photos, tmp_path, command):
    destination = [] if command == "warm" else [tmp_path / "new"]
    model = [] if command == "finetune" else ["--backend", "tiny"]
    line = refused(2, command, generated, *destination, *model)
    assert f"'{generated}' is a generated set made from '{photos}' by PromptEdit" in line
    assert "give its source" in line and not (tmp_path / "new").exists()


def test_diffmix_on_a_set_says_so_before_it_looks_for_a_model(generated, tmp_path):
    line = refused(2, "augment", generated, tmp_path / "new", "--method", "diffmix")
    assert "is a generated set" in line


def test_filter_on_photographs_says_what_it_wants(photos):
    assert "must hold a generated set" in refused(2, "filter", photos, "--scorer", "similarity")


def test_a_release_is_imported_and_a_set_exported(generated, tmp_path):
    done = run("export", generated, tmp_path / "release")
    assert 0 == done.exit_code, done.output
    assert f"2 images of 2 classes (cat, dog)\nin {tmp_path / 'release'}\n" == done.stdout
    (tmp_path / "release/data/cat/cat-000000-1.0.jpg").unlink()
    done = run("import", tmp_path / "release", tmp_path / "again")
    assert f"1 images of 2 classes (cat, dog)\nin {tmp_path / 'again'}\n" == done.stdout
    assert "skipped cat/cat-000000-1.0.jpg: it is not there" in done.stderr


def test_the_authors_filter_is_counted(generated, tmp_path):
    run("export", generated, tmp_path / "release")
    table = tmp_path / "release/meta.csv"
    lines = table.read_text().splitlines(keepends=True)
    (tmp_path / "release/remained_meta.csv").write_text("".join(lines[:2]))
    done = run("import", tmp_path / "release", tmp_path / "again", "--filtered")
    assert "2 images of 2 classes (cat, dog), 1 of them rejected" in done.stdout


def test_a_folder_of_photographs_is_no_release(photos, tmp_path):
    assert "has neither layout" in refused(2, "import", photos, tmp_path / "again")


@pytest.mark.parametrize("format", ["parquet", "webdataset", "hf"])
def test_a_set_is_exported_to_other_formats(generated, tmp_path, format):
    done = run("export", generated, tmp_path / "out", "--format", format)
    assert 0 == done.exit_code
    assert "images of 2 classes (cat, dog)" in done.stdout
    again = run("export", generated, tmp_path / "out", "--format", format)
    assert done.stdout == again.stdout
    line = refused(2, "export", generated, tmp_path / "other", "--format", "zip")
    assert "'--format' must be one of diffmix, parquet, webdataset, hf, got 'zip'" in line


def test_no_mark_leaves_the_mark_out_of_the_files(photos, tmp_path):
    for name, option in (("marked", "--mark"), ("plain", "--no-mark")):
        run("augment", photos, tmp_path / name, "--backend", "tiny", "--steps", 1, option)
        files = list((tmp_path / name / "cat").glob("*.jpg"))
        marked = [b"DigitalSourceType" in path.read_bytes() for path in files]
        assert marked and {name == "marked"} == set(marked)
