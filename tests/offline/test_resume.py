"""The same set, bit for bit, however it came about: killed runs, a real model, refusals."""

import subprocess
import sys

import pytest
from answers import refuse
from image_folders import contents, save_photos
from tiny_pipelines import tiny_spec

from diffaug import PromptEdit, RecordingBackend, augment_folder, unload
from diffaug.offline.manifest import read_manifest

# One process imports everything once, and forks a run for each kill before it has any thread.
DRIVER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from diffaug import HalfConcat, PromptEdit, RecordingBackend, augment_folder

torch.set_num_threads(1)

class Slow(RecordingBackend):
    def generate(self, requests):
        time.sleep(0.01)
        return super().generate(requests)

def start(destination):
    child = os.fork()
    if child:
        return child
    try:
        transform = HalfConcat(PromptEdit(backend=Slow(16)))
        augment_folder("photos", destination, transform, per_image=10, format="png")
        os._exit(0)
    finally:
        os._exit(1)

def contents(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}

os.chdir(sys.argv[1])
began = time.monotonic()
assert os.waitpid(start("whole"), 0)[1] == 0
seconds = time.monotonic() - began
chance, kills, made = random.Random(int(sys.argv[2])), 0, set()
while kills < 12:
    child = start("set")
    time.sleep(chance.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        assert contents("whole") == contents("set")
        shutil.rmtree("set")
        continue
    kills += 1
    made.add(sum(1 for _ in Path("set").glob("*/*")))
assert os.waitpid(start("set"), 0)[1] == 0
assert contents("whole") == contents("set")
assert len(contents("whole")) == 62
print(kills, sorted(made))
"""


@pytest.fixture
def photos(tmp_path):
    names = [f"class {number % 3}/{number}.png" for number in range(6)]
    return save_photos(tmp_path / "photos", names, 40, 50)


def test_a_run_killed_many_times_ends_with_the_set_of_an_undisturbed_one(photos, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), "7"],
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == process.returncode, process.stderr


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
