"""The same set, bit for bit, however it came about: killed runs, a real model, refusals."""

import pytest
from answers import refuse
from child_process import run_program
from image_folders import contents, save_photos
from tiny_pipelines import tiny_spec

from diffaug import PromptEdit, RecordingBackend, augment_folder, unload
from diffaug.offline.manifest import read_manifest


@pytest.fixture
def photos(tmp_path):
    names = [f"class {number % 3}/{number}.png" for number in range(6)]
    return save_photos(tmp_path / "photos", names, 40, 50)


def test_a_run_killed_many_times_ends_with_the_set_of_an_undisturbed_one(photos, tmp_path):
    run_program("killed_runs", tmp_path, 7)


def test_a_real_model_gives_the_same_pixels_in_other_batches(photos, tmp_path):
    """6 x 3 images in batches of 4, against 6 x 1, then the rest, begun with batches of 4."""
    edit = PromptEdit(backend=tiny_spec("edit"))
    augment_folder(photos, tmp_path / "whole", edit, per_image=3, format="png")
    augment_folder(photos, tmp_path / "grown", edit, per_image=1, format="png")
    larger = PromptEdit(backend=tiny_spec("edit", batch_size=5))
    done = augment_folder(photos, tmp_path / "grown", larger, per_image=3, format="png")
    unload()
    assert (12, 6) == (done.made, done.taken_over)
    assert contents(tmp_path / "whole") == contents(tmp_path / "grown")
    row = read_manifest(tmp_path / "whole")[0]
    assert row["revision"].startswith("sha256:")


def test_a_refused_image_is_left_out_and_its_neighbours_are_not(photos, tmp_path):
    model = RecordingBackend(16, answer=refuse("rude", outright=True))
    edit = PromptEdit(["nice", "rude"], backend=model)
    done = augment_folder(photos, tmp_path / "set", edit, per_image=3)
    rows = read_manifest(tmp_path / "set")
    assert {"nice"} == {row["prompt"] for row in rows}
    assert 0 < done.made == len(rows) < 18
    assert all("refused" in skipped.reason for skipped in done.skipped)
