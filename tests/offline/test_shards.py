"""One set in several parts: the same as a single run's, whoever stops, and whoever is last."""

import filecmp
import multiprocessing
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from answers import at, raise_error
from image_folders import contents
from tiny_pipelines import tiny_spec
from torchvision.utils import save_image

from diffaug import DiffMix, PromptEdit, RecordingBackend, augment_dataset, augment_folder
from diffaug.errors import DestinationError
from diffaug.offline import shards
from diffaug.offline.augment import MERGED
from diffaug.offline.destination import Destination
from diffaug.offline.manifest import read_manifest, read_run
from diffaug.offline.shards import Shard, merge, shard_of_process


@pytest.fixture
def photos(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        for number in range(4):
            file = tmp_path / "photos" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_image(torch.rand(3, 18, 20, generator=generator), file)
    return tmp_path / "photos"


def edit():
    return PromptEdit(["snowy", "sunset"], variants=None, backend=RecordingBackend(16))


def mix():
    return DiffMix(["cat", "dog"], backend=RecordingBackend(16), strength=[0.5, 0.9])


def same(one, other):
    """Tell whether two sets are alike: names, bytes, rows, and nothing hidden."""
    names = [
        sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))
        for root in (one, other)
    ]
    files = [name for name in names[0] if (one / name).is_file()]
    return names[0] == names[1] and not filecmp.cmpfiles(one, other, files, shallow=False)[1]


@pytest.mark.parametrize("make", [edit, mix])
@pytest.mark.parametrize("originals", [False, True])
@pytest.mark.parametrize("total", [1, 2, 5, 20])
def test_parts_make_the_set_of_a_single_run(photos, tmp_path, make, originals, total):
    options = {"per_image": 2, "seed": 3, "include_originals": originals}
    augment_folder(photos, tmp_path / "one", make(), **options)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(total)).tolist()
    for place, number in enumerate(order):
        assert not (tmp_path / "parts" / "metadata.jsonl").exists()
        done = augment_folder(
            photos, tmp_path / "parts", make(), shard=f"{number + 1}/{total}", **options
        )
        assert tmp_path / "parts" == done.destination
        hidden = [name for name in os.listdir(tmp_path / "parts") if name.startswith(".")]
        assert place + 1 < total or [] == hidden
    assert same(tmp_path / "one", tmp_path / "parts")


def test_a_dataset_is_divided_too(tmp_path):
    data = [(torch.full((3, 8, 8), 20 * n, dtype=torch.uint8), n % 2) for n in range(11)]
    names = {"class_names": ["cat", "dog"], "per_image": 1}
    augment_dataset(data, tmp_path / "one", edit(), **names)
    for number in (1, 2, 3):
        augment_dataset(data, tmp_path / "parts", edit(), shard=f"{number}/3", **names)
    assert same(tmp_path / "one", tmp_path / "parts")
    sources = [row["source"] for row in read_manifest(tmp_path / "parts")]
    assert [str(n) for n in range(11)] == sources


def _run(photos, folder, shard):
    augment_folder(photos, folder, edit(), per_image=3, shard=shard)


def test_parts_at_the_same_time_in_processes_of_their_own(photos, tmp_path):
    augment_folder(photos, tmp_path / "one", edit(), per_image=3)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_run, args=(photos, tmp_path / "parts", f"{n}/3")) for n in (1, 2, 3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [0, 0, 0] == [process.exitcode for process in processes]
    assert same(tmp_path / "one", tmp_path / "parts")


def test_a_real_model_makes_the_same_pixels_in_parts(photos, tmp_path):
    transform = DiffMix(["cat", "dog"], strategy="real-mix", backend=tiny_spec("translate"))
    augment_folder(photos, tmp_path / "one", transform, per_image=1)
    for number in (2, 1):
        augment_folder(photos, tmp_path / "parts", transform, per_image=1, shard=f"{number}/2")
    assert same(tmp_path / "one", tmp_path / "parts")


class _Stopped(Exception):
    pass


def test_a_part_that_was_stopped_goes_on(photos, tmp_path):
    second_batch = at(8, partial(raise_error, _Stopped()))
    options = {"per_image": 4, "seed": 1}
    augment_folder(photos, tmp_path / "one", edit(), **options)
    backend = RecordingBackend(16, answer=second_batch)
    broken = PromptEdit(["snowy", "sunset"], variants=None, backend=backend)
    augment_folder(photos, tmp_path / "parts", edit(), shard="2/2", **options)
    with pytest.raises(_Stopped):
        augment_folder(photos, tmp_path / "parts", broken, shard="1/2", **options)
    with pytest.raises(DestinationError, match=r"lacks 1 finished parts \(1/2\)"):
        merge(tmp_path / "parts")
    done = augment_folder(photos, tmp_path / "parts", edit(), shard="1/2", **options)
    assert 0 < done.taken_over and done.taken_over + done.made == done.planned
    assert same(tmp_path / "one", tmp_path / "parts")


def test_a_merge_that_was_stopped_goes_on(photos, tmp_path, monkeypatch):
    augment_folder(photos, tmp_path / "one", edit(), per_image=2)
    taken, take = [], Destination.take

    def stop(self, file, row):
        take(self, file, row)
        taken.append(row)
        if len(taken) == 5:
            raise _Stopped

    augment_folder(photos, tmp_path / "parts", edit(), per_image=2, shard="1/2")
    monkeypatch.setattr(Destination, "take", stop)
    with pytest.raises(_Stopped):
        augment_folder(photos, tmp_path / "parts", edit(), per_image=2, shard="2/2")
    monkeypatch.undo()
    assert 16 == merge(tmp_path / "parts")
    assert same(tmp_path / "one", tmp_path / "parts")


def test_a_merged_set_is_known_to_its_parts_and_grows(photos, tmp_path):
    for number in (1, 2):
        augment_folder(photos, tmp_path / "parts", edit(), per_image=1, shard=f"{number}/2")
    again = augment_folder(photos, tmp_path / "parts", edit(), per_image=1, shard="1/2")
    assert (0, 4) == (again.made, again.taken_over)
    assert [] == [name for name in os.listdir(tmp_path / "parts") if name.startswith(".")]
    for number in (1, 2):
        more = augment_folder(photos, tmp_path / "parts", edit(), per_image=2, shard=f"{number}/2")
        assert (4, 4) == (more.made, more.taken_over)
    augment_folder(photos, tmp_path / "one", edit(), per_image=2)
    assert same(tmp_path / "one", tmp_path / "parts")


def test_parts_without_an_image_do_not_hold_a_growing_set_up(photos, tmp_path):
    for per_image in (1, 2):
        for number in range(1, 10):
            share = f"{number}/9"
            augment_folder(photos, tmp_path / "parts", edit(), per_image=per_image, shard=share)
        assert 8 * per_image == len(read_manifest(tmp_path / "parts"))


def test_what_was_skipped_in_any_part_is_recorded(photos, tmp_path):
    (photos / "cat" / "1.png").write_bytes(b"")
    for number in (1, 2, 3):
        augment_folder(photos, tmp_path / "parts", edit(), per_image=1, shard=f"{number}/3")
    assert ["cat/1.png"] == [one["source"] for one in read_run(tmp_path / "parts")["skipped"]]


def test_a_single_run_and_another_division_are_refused_while_there_are_parts(photos, tmp_path):
    augment_folder(photos, tmp_path / "parts", edit(), per_image=1, shard="1/2")
    with pytest.raises(DestinationError, match="holds parts, such as 1/2; finish these"):
        augment_folder(photos, tmp_path / "parts", edit(), per_image=1)
    with pytest.raises(DestinationError, match="holds parts of another division than 1/3"):
        augment_folder(photos, tmp_path / "parts", edit(), per_image=1, shard="1/3")
    with pytest.raises(DestinationError, match="'seed' is 0 there and 9 here"):
        augment_folder(photos, tmp_path / "parts", edit(), per_image=1, seed=9, shard="1/2")


def test_parts_of_different_runs_are_not_merged(photos, tmp_path):
    augment_folder(photos, tmp_path / "parts", edit(), per_image=1, shard="1/2")
    other = tmp_path / "other"
    augment_folder(photos, other, edit(), per_image=1, seed=5, shard="2/2")
    shutil.move(Shard(2, 2).folder(other), Shard(2, 2).folder(tmp_path / "parts"))
    with pytest.raises(DestinationError, match="holds parts of different runs"):
        merge(tmp_path / "parts")


def test_a_merge_that_was_stopped_as_it_tidied_up_is_whole_and_tidied_the_next_time(
    photos, tmp_path
):
    for share in ("1/2", "2/2"):
        augment_folder(photos, tmp_path / "set", edit(), per_image=1, shard=share)
    before = contents(tmp_path / "set")
    left = tmp_path / "set" / ".diffaug.0123456789abcdef.tmp"
    (left / "1" / "cat").mkdir(parents=True)
    assert len(read_manifest(tmp_path / "set")) == merge(tmp_path / "set")
    assert before == contents(tmp_path / "set") and not left.exists()


def test_where_there_are_no_parts_there_is_nothing_to_merge(tmp_path):
    with pytest.raises(ValueError, match="must hold parts of a set, and .* has none"):
        merge(tmp_path)


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_share_is_from_1_to_the_total(text, photos, tmp_path):
    with pytest.raises(ValueError, match="'shard' must be like 3/16, from 1/16 to 16/16, got"):
        augment_folder(photos, tmp_path / "set", edit(), shard=text)


def test_a_dry_run_of_a_part_writes_nothing(photos, tmp_path):
    done = augment_folder(photos, tmp_path / "set", edit(), per_image=1, shard="1/2", dry_run=True)
    assert 4 == done.planned and not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "0", "WORLD_SIZE": "4"}, Shard(1, 4)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, Shard(4, 4)),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
            Shard(2, 2),
        ),
    ],
)
def test_launchers_say_which_share_a_process_has(environment, share):
    assert share == shard_of_process(environment)


def test_shares_take_every_number_once():
    for total in (1, 3, 7):
        taken = [n for share in range(total) for n in range(50) if Shard(share + 1, total).takes(n)]
        assert list(range(50)) == sorted(taken)
    assert shards.parts_of("no/such/folder") == []


def test_a_share_asked_for_again_makes_nothing_though_a_source_is_damaged(photos, tmp_path):
    next(photos.rglob("*.png")).write_bytes(b"no image")
    for share in ("1/2", "2/2", "1/2"):
        done = augment_folder(photos, tmp_path / "parts", edit(), per_image=2, shard=share)
    assert 0 == done.made
    assert not [name for name in os.listdir(tmp_path / "parts") if name.startswith(".")]


def test_a_share_of_a_merged_set_names_what_the_set_lacks_although_it_was_mended(photos, tmp_path):
    key, image = "dog/1.png", (photos / "dog/1.png").read_bytes()
    (photos / key).write_bytes(b"no image")
    for share in ("1/2", "2/2"):
        augment_folder(photos, tmp_path / "parts", edit(), per_image=2, shard=share)
    (photos / key).write_bytes(image)
    again = [
        augment_folder(photos, tmp_path / "parts", edit(), per_image=2, shard=share)
        for share in ("1/2", "2/2")
    ]
    assert [(key, MERGED)] == [tuple(skipped) for done in again for skipped in done.skipped]
    assert 2 == augment_folder(photos, tmp_path / "parts", edit(), per_image=2).made


def test_shares_of_other_counts_do_not_become_one(photos, tmp_path):
    augment_folder(photos, tmp_path / "parts", edit(), per_image=2, shard="1/2")
    with pytest.raises(DestinationError, match="holds parts of different runs"):
        augment_folder(photos, tmp_path / "parts", edit(), per_image=3, shard="2/2")


def test_a_destination_elsewhere_is_refused(photos):
    for destination in ("s3://bucket/out", Path("s3://bucket/out")):
        with pytest.raises(ValueError, match="'destination' must be a local folder, got 's3:/"):
            augment_folder(photos, destination, edit())
