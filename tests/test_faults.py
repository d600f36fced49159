"""Nothing is lost: whatever is killed, full, gone or damaged, at whatever moment.

Faults of one module alone are tested with it; these here are of a whole run.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import at
from child_process import LIMIT, environment, run_program
from contracts import same_images
from image_folders import contents, picture, save_photos
from model_processes import Photos, servers, wait_for
from PIL import Image, ImageOps
from tiny_pipelines import make_requests, tiny_spec
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from diffaug import (
    CachedBackend,
    DiffuseMix,
    FractalBank,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
    unload,
)
from diffaug.backends import pipeline
from diffaug.backends.hub import pin
from diffaug.backends.process.client import WorkerBackend, _Address
from diffaug.errors import DestinationError
from diffaug.images import encode_image, read_image
from diffaug.offline import augment
from diffaug.offline.card import FILES
from diffaug.offline.destination import Destination
from diffaug.offline.manifest import read_manifest, read_run

ROOT = Path(__file__).parents[1]
#: A picture of each of two classes.
TWO = ["class 0/0.png", "class 1/1.png"]
#: Does nothing, in a mount that nobody else sees.
PRIVATE = ["unshare", "--user", "--map-root-user", "--mount", "true"]


def test_a_run_struck_at_any_change_to_the_disk_can_be_resumed_to_the_same_set(tmp_path):
    save_photos(tmp_path / "photos", TWO, 40, 50)
    results = json.loads(run_program("struck_runs", tmp_path))
    assert 14 == len(results)
    for result in results.values():
        assert [] == result["wrong"]
        assert result["points"] > 2


def test_a_full_and_a_read_only_disk_are_said_in_one_line_and_the_run_goes_on(tmp_path):
    if not shutil.which("unshare") or subprocess.run(PRIVATE, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own")
    save_photos(tmp_path / "photos", TWO, 40, 50)
    run_program("full_disk", tmp_path, before=PRIVATE[:-1])


def test_a_destination_taken_away_and_made_anew_by_another_is_left_to_them(tmp_path):
    save_photos(tmp_path / "photos", TWO, 40, 50)

    def swap():
        # The images of the first batch are written first.
        assert wait_for(lambda: len(contents(tmp_path / "set")) >= 11)
        (tmp_path / "set").rename(tmp_path / "taken")
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "theirs.txt").write_text("mine")

    backend = RecordingBackend(16, answer=at(8, swap))
    with pytest.raises(DestinationError, match="could not be written to: No such file"):
        augment_folder(
            tmp_path / "photos", tmp_path / "set", PromptEdit(backend=backend), per_image=8
        )
    assert b"mine" == contents(tmp_path / "set")["theirs.txt"]
    # What had been made is whole where it was taken.
    done = augment_folder(
        tmp_path / "photos",
        tmp_path / "taken",
        PromptEdit(backend=RecordingBackend(16)),
        per_image=8,
    )
    assert (8, 8) == (done.taken_over, done.made)


def bomb(path, side=20_000):
    """Write a PNG of one pixel that says it has many."""
    Image.new("L", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def save_odd_images(folder):
    """Write an image of every odd kind, and return the names of those that are not whole."""
    folder.mkdir(parents=True)
    colours = Image.fromarray(picture(1, 40, 50).permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    levels = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100
    transparent = colours.quantize(16)
    transparent.info["transparency"] = 3
    Image.fromarray(levels).save(folder / "16 bit.png")
    transparent.save(folder / "palette.png")
    colours.save(folder / "turned.jpg", exif=exif)
    colours.save(folder / "animated.gif", save_all=True, append_images=[colours.rotate(180)] * 2)
    for mode, name in (("CMYK", "print.jpg"), ("1", "bits.png"), ("LA", "grey alpha.png")):
        colours.convert(mode).save(folder / name)
    for name, size in (("pixel.png", (1, 1)), ("column.jpg", (1, 300)), ("row.png", (300, 1))):
        colours.resize(size).save(folder / name)
    colours.resize((20_000, 3)).save(folder / "wide.png")
    colours.resize((2, 20_000)).save(folder / "high.jpg")
    whole = (folder / "turned.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[:-200])
    (folder / "empty.png").touch()
    (folder / "text.webp").write_text("no image")
    bomb(folder / "bomb.png")
    return {"cut.jpg", "empty.png", "text.webp", "bomb.png"}


def upright(path):
    """Read an image the plain way, as the oracle."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
        if "transparency" in image.info:
            image = image.convert("RGBA")
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_odd_images_are_augmented_and_damaged_ones_named(tmp_path, format):
    broken = save_odd_images(tmp_path / "photos" / "odd ones")
    mix = DiffuseMix(fractals=FractalBank(count=2, size=32), backend=RecordingBackend(16))
    done = augment_folder(
        tmp_path / "photos", tmp_path / "set", mix, per_image=2, format=format,
        include_originals=True,
    )  # fmt: skip
    assert broken == {Path(skipped.source).name for skipped in done.skipped}
    assert not [skipped for skipped in done.skipped if "\n" in skipped.reason]
    rows = read_manifest(tmp_path / "set")
    assert 3 * 12 == len(rows) == done.made
    for row in rows:
        expected = upright(tmp_path / "photos" / row["source"])
        actual = read_image(tmp_path / "set" / row["file_name"])
        assert expected.shape == actual.shape
        if format == "png" and row["method"] == "original":
            assert torch.equal(expected, actual), row["source"]


HOSTILE = [
    *("a b", "a/b", "a\\b", "..", "../../up", ".hidden", "-rf", "--help", "~", "*", "con.", "a."),
    *("été", "名前", 'x"y', "%2F", "a%2Fb", "__", "a__0", "line\nbreak", "nul\0", " ", "🙂"),
]


def test_classes_of_any_name_stay_inside_the_set_and_keep_their_names(tmp_path):
    data = [(picture(number, 40, 50), number) for number in range(len(HOSTILE))]
    edit = PromptEdit(backend=RecordingBackend(16))
    with pytest.warns(UserWarning, match="the order of the class folders is not that of the datas"):
        augment_dataset(data, tmp_path / "in" / "set", edit, per_image=1, class_names=HOSTILE)
    rows = read_manifest(tmp_path / "in" / "set")
    assert HOSTILE == [row["label"] for row in rows]
    assert len(HOSTILE) == len(ImageFolder(tmp_path / "in" / "set").classes)
    assert ["in"] == os.listdir(tmp_path) and ["set"] == os.listdir(tmp_path / "in")
    assert {row["file_name"] for row in rows} | FILES == set(contents(tmp_path / "in" / "set"))


def test_folders_of_any_name_are_classes(tmp_path):
    names = [name for name in HOSTILE if not re.search(r"^\.|[/\0]", name)]
    for number, name in enumerate(names):
        path = tmp_path / "photos" / name / f"-{name}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_image(picture(number, 40, 50), "png"))
    edit = PromptEdit(backend=RecordingBackend(16))
    done = augment_folder(tmp_path / "photos", tmp_path / "set", edit, per_image=1)
    assert (len(names), ()) == (done.made, done.skipped)
    assert sorted(names) == sorted({row["label"] for row in read_manifest(tmp_path / "set")})
    assert sorted(names) == ImageFolder(tmp_path / "set").classes


def test_a_run_short_of_memory_makes_the_same_images_and_goes_on_after_a_stop(
    tmp_path, monkeypatch
):
    save_photos(tmp_path / "photos", TWO, 40, 50)
    edit = PromptEdit(backend=tiny_spec("edit", batch_size=4))
    options = {"per_image": 4, "format": "png"}
    augment_folder(tmp_path / "photos", tmp_path / "ample", edit, **options)
    run, calls = pipeline.launch, []

    def short(pipe, spec, batch):
        calls.append(len(batch.jobs))
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        if len(batch.jobs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(pipe, spec, batch)

    monkeypatch.setattr(pipeline, "launch", short)
    said = "a batch of 4 does not fit into memory; later ones have 2"
    for folder, stop_at in (("whole", 0), ("stopped", 4)):
        unload()
        calls.clear()
        with (
            pytest.warns(UserWarning, match=said),
            pytest.raises(KeyboardInterrupt) if stop_at else nullcontext(),
        ):
            augment_folder(tmp_path / "photos", tmp_path / folder, edit, **options)
    unload()
    stop_at = 0
    # Now it knows what fits, so nothing fails and nothing is said.
    augment_folder(tmp_path / "photos", tmp_path / "stopped", edit, **options)
    unload()
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")
    assert 2 == read_run(tmp_path / "whole")["batch_size"]
    ample, short = contents(tmp_path / "ample"), contents(tmp_path / "whole")
    assert ample.keys() == short.keys()
    for name in (name for name in ample if name.endswith(".png")):
        images = [read_image(tmp_path / folder / name) for folder in ("ample", "whole")]
        assert same_images(*images)


def test_a_model_killed_while_four_workers_ask_it_comes_back_and_no_image_is_lost(
    socket_folder, monkeypatch
):
    edit = PromptEdit(["snowy"], backend=tiny_spec("edit"), cache=False)
    data = Photos(edit)
    expected = [data[index] for index in range(8)]
    unload()
    monkeypatch.setenv("DIFFAUG_WORKER", "process")
    killed = []

    def kill():
        # From when it listens, the workers ask it; its model is not loaded yet.
        assert wait_for(lambda: list(socket_folder.rglob("*.sock")))
        killed.extend(servers())
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    loader = DataLoader(data, 1, num_workers=4, prefetch_factor=1)
    images = torch.cat(list(loader))
    killer.join()
    assert 1 == len(killed) and killed != servers()
    assert all(same_images(a, b) for a, b in zip(expected, images, strict=True))


def test_a_model_process_killed_before_its_socket_has_its_name_is_no_hindrance(socket_folder):
    spec = tiny_spec("edit")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{_Address(pin(spec)).path}.new")
    assert 1 == len(WorkerBackend(spec).generate(make_requests(count=1)))


def run_script(name, *arguments):
    """Run a benchmark of faults, which forks, in a process of its own; return what it prints."""
    process = subprocess.run(
        [sys.executable, ROOT / "examples" / "benchmarks" / f"{name}.py", *map(str, arguments)],
        env=environment(),
        timeout=LIMIT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == process.returncode, process.stdout + process.stderr[-2000:]
    return process.stdout


def test_the_script_kills_runs_resumes_them_and_finds_the_same_files(tmp_path):
    save_photos(tmp_path / "photos", TWO, 40, 50)
    out, ways = tmp_path / "faults.json", ["local", "finetune", "warm"]
    told = run_script(
        "faults", "--ways", *ways, "--kills", 2, "--images", 8, "--source", tmp_path / "photos",
        "--fractals", tmp_path / "photos", "--out", out,
    )  # fmt: skip
    results = json.loads(out.read_text())["ways"]
    assert ways == list(results)
    for name, result in results.items():
        assert [] == result["problems"]
        assert {"process": 1, "group": 1} == result["kills"] and result["sets"] >= 1
        assert f"{name:10}   2 kills" in told


def test_the_script_fills_a_disk_and_finds_a_clear_end_and_the_same_files(tmp_path):
    if not shutil.which("unshare") or subprocess.run(PRIVATE, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own")
    save_photos(tmp_path / "photos", TWO, 40, 50)
    out, commands = tmp_path / "faults.json", ["warm", "merge", "export webdataset"]
    run_script(
        "faults_disk", "--commands", *commands, "--sizes", 3, "--source", tmp_path / "photos",
        "--out", out,
    )  # fmt: skip
    results = json.loads(out.read_text())["disk"]
    assert commands == list(results)
    for result in results.values():
        assert [] == result["problems"]
        assert 3 == result["identical_afterwards"] == result["clear_ends"] + result["enough_room"]
        assert result["clear_ends"]


def load_jobs():
    path = ROOT / "examples" / "benchmarks" / "faults_jobs.py"
    spec = importlib.util.spec_from_file_location("faults_jobs", path)
    script = importlib.util.module_from_spec(spec)
    sys.modules["faults_jobs"] = script  # where dataclasses look for their module
    spec.loader.exec_module(script)
    return script


def test_the_script_sees_half_images_lost_images_and_rows_there_twice(tmp_path):
    script = load_jobs()
    augment_job = script.JOBS["augment"]
    save_photos(tmp_path / "photos", TWO, 40, 50)
    edit = PromptEdit(backend=RecordingBackend(16))
    augment_folder(tmp_path / "photos", tmp_path / "set", edit, per_image=2)
    assert script.Left((), 4, 0) == augment_job.look(tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "bad")
    half, lost, *_ = sorted((tmp_path / "bad").rglob("*.jpg"))
    half.write_bytes(half.read_bytes()[:300])
    lost.unlink()
    manifest = tmp_path / "bad" / "metadata.jsonl"
    manifest.write_bytes(manifest.read_bytes() + manifest.read_bytes().splitlines(True)[-1])
    left = augment_job.look(tmp_path / "bad")
    assert (3, 3, 0) == (len(left.problems), left.made, left.alone)
    text = " ".join(left.problems)
    assert "is half written" in text and "has two rows" in text and "a row and no image" in text
    (tmp_path / "bad" / ".diffaug.lock").touch()
    lines = script.differences(tmp_path / "set", tmp_path / "bad")
    assert 4 == len(lines)
    assert {"is missing", "is left over", "differs"} == {line.rpartition("' ")[2] for line in lines}


def test_the_script_sees_a_half_written_entry_of_a_cache_and_half_written_weights(tmp_path):
    script = load_jobs()
    backend = CachedBackend(RecordingBackend(16), folder=tmp_path / "cache")
    backend.generate(make_requests(count=2))
    assert script.Left((), 2, 0) == script.JOBS["warm"].look(tmp_path / "cache")
    entry = next(path for path in (tmp_path / "cache").rglob("*.jpeg"))
    entry.write_bytes(entry.read_bytes()[:-1])
    weights = tmp_path / "model" / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"0" * 20)
    for job, folder in (("warm", "cache"), ("finetune", "model")):
        [problem] = script.JOBS[job].look(tmp_path / folder).problems
        assert "is half written" in problem


def overtaken(monkeypatch, other):
    """Let another run come and go after a run has looked at its folder, and before it has it."""
    enter = Destination.__enter__

    def late(self):
        monkeypatch.setattr(Destination, "__enter__", enter)
        other()
        return enter(self)

    monkeypatch.setattr(Destination, "__enter__", late)


def test_a_run_overtaken_by_a_different_one_does_not_add_to_its_set(tmp_path, monkeypatch):
    save_photos(tmp_path / "photos", TWO, 40, 50)
    edit = PromptEdit(backend=RecordingBackend(16))
    overtaken(
        monkeypatch,
        lambda: augment_folder(tmp_path / "photos", tmp_path / "set", edit, per_image=1, seed=1),
    )
    with pytest.raises(DestinationError, match="'seed' is 1 there and 0 here"):
        augment_folder(tmp_path / "photos", tmp_path / "set", edit, per_image=2)
    assert 2 == len(read_manifest(tmp_path / "set"))


def test_a_run_overtaken_by_its_like_takes_over_what_that_made(tmp_path, monkeypatch):
    save_photos(tmp_path / "photos", TWO, 40, 50)
    edit = PromptEdit(backend=RecordingBackend(16))
    augment_folder(tmp_path / "photos", tmp_path / "alone", edit, per_image=2)
    overtaken(
        monkeypatch,
        lambda: augment_folder(tmp_path / "photos", tmp_path / "set", edit, per_image=1),
    )
    done = augment_folder(tmp_path / "photos", tmp_path / "set", edit, per_image=2)
    assert (2, 2) == (done.taken_over, done.made)
    assert contents(tmp_path / "alone") == contents(tmp_path / "set")


def test_of_two_last_parts_that_end_together_neither_fails(tmp_path, monkeypatch):
    save_photos(tmp_path / "photos", TWO, 40, 50)
    edit = PromptEdit(backend=RecordingBackend(16))
    augment_folder(tmp_path / "photos", tmp_path / "alone", edit, per_image=1)
    look = augment.unfinished

    def late(destination):
        left = look(destination)
        if not left:  # the other has seen the same, and is faster
            monkeypatch.setattr(augment, "unfinished", look)
            augment.join(destination)
        return left

    monkeypatch.setattr(augment, "unfinished", late)
    for share in ("1/2", "2/2"):
        augment_folder(tmp_path / "photos", tmp_path / "set", edit, per_image=1, shard=share)
    assert contents(tmp_path / "alone") == contents(tmp_path / "set")
