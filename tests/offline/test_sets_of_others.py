"""A set that others made, or half made, touches and shows nothing outside itself."""

import errno
import fcntl
import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from image_folders import contents, save_photos

from diffaug import (
    CachedBackend,
    FractalBank,
    FractalBlend,
    GeneratedDataset,
    GenerationRequest,
    PromptEdit,
    RecordingBackend,
    SimilarityFilter,
    augment_folder,
    export_set,
    filter_set,
    import_set,
    merge,
)
from diffaug.errors import DestinationError, GenerationError, UnreadableImageError
from diffaug.offline.destination import Destination
from diffaug.offline.manifest import read_manifest, read_run, write_manifest

BLEND = FractalBlend(fractals=FractalBank(2, 32))


@pytest.fixture
def finished(tmp_path):
    """Return the folder of a small set, beside a picture of somebody's."""
    save_photos(tmp_path, ["src/cat/a.png", "src/dog/b.png", "home/mine.png"])
    augment_folder(tmp_path / "src", tmp_path / "set", BLEND, per_image=2, format="png")
    return tmp_path / "set"


def change_row(folder, **values):
    rows = read_manifest(folder)
    rows[0].update(values)
    write_manifest(folder, rows)


@pytest.fixture
def parts(tmp_path):
    """Return a destination of which one part is ours, and the other came from elsewhere."""
    save_photos(tmp_path, ["src/cat/a.png", "src/cat/b.png", "home/mine.png"])
    augment_folder(tmp_path / "src", tmp_path / "set", BLEND, shard="1/2", per_image=1)
    theirs = tmp_path / "set/.diffaug.parts-of-2/2"
    shutil.copytree(theirs.with_name("1"), theirs)
    run = read_run(theirs)
    run["identity"]["shard"] = "2/2"
    (theirs / "run.json").write_text(json.dumps(run))
    return tmp_path / "set", theirs


@pytest.mark.parametrize(
    "name", ["../../../home/mine.png", "/tmp/x.png", ".diffaug.lock", "run.json", "d/../../x.png"]
)
def test_a_part_with_a_name_that_leads_out_is_refused(tmp_path, parts, name):
    folder, theirs = parts
    change_row(theirs, file_name=name)
    before = contents(tmp_path / "home")
    with pytest.raises(ValueError, match="line 1, is not a row with a 'file_name' below the set"):
        merge(folder)
    assert before == contents(tmp_path / "home")


def test_a_part_with_a_link_that_leads_out_takes_and_overwrites_nothing(tmp_path, parts):
    folder, theirs = parts
    before = contents(tmp_path / "home")
    (theirs / "out").symlink_to(tmp_path / "home")
    change_row(theirs, file_name="out/mine.png", source="z")
    with pytest.raises(DestinationError, match="is no part that diffaug made.*leads elsewhere"):
        merge(folder)
    assert before == contents(tmp_path / "home")
    # Also where it is the set itself that has the link.
    (theirs / "out").unlink()
    (theirs / "out").mkdir()
    (theirs / "out/mine.png").write_text("evil")
    (folder / "out").rmdir()
    (folder / "out").symlink_to(tmp_path / "home")
    with pytest.raises(DestinationError, match="leads elsewhere"):
        merge(folder)
    assert before == contents(tmp_path / "home")


def test_a_part_that_is_a_link_is_refused(tmp_path, parts):
    folder, theirs = parts
    os.rename(theirs, tmp_path / "elsewhere")
    theirs.symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    with pytest.raises(DestinationError, match="must be a folder, and a link leads elsewhere"):
        merge(folder)
    assert before == contents(tmp_path / "elsewhere")


def test_two_whole_parts_are_merged_as_ever(tmp_path):
    save_photos(tmp_path, ["src/cat/a.png", "src/dog/b.png"])
    (tmp_path / "link").symlink_to(tmp_path)  # whoever's home is a link
    for share in ("1/2", "2/2"):
        augment_folder(tmp_path / "src", tmp_path / "link/set", BLEND, shard=share, per_image=1)
    augment_folder(tmp_path / "src", tmp_path / "whole", BLEND, per_image=1)
    assert contents(tmp_path / "whole").keys() == contents(tmp_path / "set").keys()


@pytest.mark.parametrize("name", ["../home/mine.png", "{root}/home/mine.png", "nul\0.png"])
def test_a_manifest_that_names_pictures_elsewhere_is_refused_at_once(tmp_path, finished, name):
    change_row(finished, file_name=name.format(root=tmp_path))
    for read in (GeneratedDataset, lambda f: filter_set(f, SimilarityFilter()), read_manifest):
        with pytest.raises(ValueError, match="line 1, is not a row with a 'file_name' below"):
            read(finished)


def test_a_link_in_a_set_shows_no_picture_elsewhere(tmp_path, finished):
    name = read_manifest(finished)[0]["file_name"]
    (finished / name).unlink()
    (finished / name).symlink_to(tmp_path / "home/mine.png")
    with pytest.raises(ValueError, match="leads elsewhere"):
        GeneratedDataset(finished)[0]
    exported = export_set(finished, tmp_path / "release")
    assert [name] == [skipped.source for skipped in exported.skipped]
    judged = filter_set(finished, SimilarityFilter(low=-1, high=1))
    assert [name] == [skipped.source for skipped in judged.unreadable]


def test_a_similarity_to_a_picture_elsewhere_is_not_told(tmp_path, finished):
    change_row(finished, source="../home/mine.png")
    judged = filter_set(finished, SimilarityFilter(low=-1, high=1))
    assert ["cat/a__0.png"] == [skipped.source for skipped in judged.unreadable]


def test_a_link_in_a_released_folder_is_not_copied(tmp_path):
    save_photos(tmp_path, ["release/data/cat/dog-000000-0.7.png", "home/mine.png"])
    (tmp_path / "release/data/cat/dog-000001-0.7.png").symlink_to(tmp_path / "home/mine.png")
    done = import_set(tmp_path / "release", tmp_path / "set")
    assert (1, ["cat/dog-000001-0.7.png"]) == (done.images, [s.source for s in done.skipped])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"strength": "0.7"}, r"'strength' must be a number in \[0, 1\], got '0.7'"),
        ({"strength": float("nan")}, "'strength' must be a number"),
        ({"strength": 7}, "'strength' must be a number"),
        ({"strength": True}, "'strength' must be a number"),
        ({"label": {"a": 1}}, "'label' must be a name, a number or several numbers"),
        ({"kept": "no"}, "'kept' must be true, false or null, got 'no'"),
        ({"source": 5}, "'source' must be a text, got 5"),
        ({"source_label": ["cat"]}, "'source_label' must be a text"),
    ],
)
def test_values_that_no_row_of_ours_has_are_said_at_the_door(finished, values, said):
    change_row(finished, **values)
    with pytest.raises(ValueError, match=f"line 1: {said}"):
        GeneratedDataset(finished)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"file_name": "' + "a" * 2_000_000, "\xff", "5"])
def test_a_line_that_is_no_row_is_named(finished, text):
    lines = (finished / "metadata.jsonl").read_text().splitlines()
    (finished / "metadata.jsonl").write_text("\n".join([lines[0], text]))
    with pytest.raises(ValueError, match="line 2, is not a row"):
        read_manifest(finished)


@pytest.mark.parametrize("text", ["[" * 100_000, "5", "[]", "{}", '{"identity": 5}'])
def test_a_record_that_is_none_is_one_line(tmp_path, finished, text):
    (finished / "run.json").write_text(text)
    with pytest.raises(DestinationError, match=r"run.json' (could not be read|is not diffaug's)"):
        augment_folder(tmp_path / "src", finished, BLEND, per_image=2, format="png")


def test_an_image_of_a_set_that_is_a_fifo_is_said_at_once(finished):
    name = read_manifest(finished)[0]["file_name"]
    (finished / name).unlink()
    os.mkfifo(finished / name)
    with pytest.raises(UnreadableImageError, match="it is no regular file"):
        GeneratedDataset(finished)[0]
    assert 1 == len(filter_set(finished, SimilarityFilter(low=-1, high=1)).unreadable)


def test_on_a_disk_without_locks_a_file_stands_in_and_keeps_a_second_run_out(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    save_photos(tmp_path, ["src/cat/a.png"])
    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    with pytest.warns(UserWarning, match="has no locks, and '.*soft-lock' is there instead"):
        augment_folder(tmp_path / "src", tmp_path / "set", BLEND, per_image=1)
    assert not [name for name in contents(tmp_path / "set") if "lock" in name]
    with (
        pytest.warns(UserWarning, match="has no locks"),
        Destination(tmp_path / "set", {}),
        pytest.raises(DestinationError, match="by another run; .* if it was killed, remove '"),
    ):
        augment_folder(tmp_path / "src", tmp_path / "set", BLEND, per_image=2)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_whatever_a_disk_without_locks_says_a_second_run_is_kept_out(tmp_path, monkeypatch, code):
    def no_locks(*_):
        raise OSError(code, os.strerror(code))

    save_photos(tmp_path, ["src/cat/a.png"])
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.warns(UserWarning, match="has no locks|flock not supported"),
        Destination(tmp_path / "set", {}),
        pytest.raises(DestinationError, match="is being written to by another run"),
    ):
        augment_folder(tmp_path / "src", tmp_path / "set", BLEND, per_image=1)
    assert not (tmp_path / "set").exists()


def test_a_lock_that_fails_for_another_reason_leaves_no_trace(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    save_photos(tmp_path, ["src/cat/a.png"])
    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(DestinationError, match="could not be written to: Invalid argument"):
        augment_folder(tmp_path / "src", tmp_path / "set", BLEND, per_image=1)
    assert not (tmp_path / "set").exists()


class Odd(RecordingBackend):
    """A backend that breaks its promise in one way."""

    def generate(self, requests):
        answers = super().generate(requests)
        if self.way == "few":
            return answers[1:]
        if self.way == "many":
            return [*answers, *answers]
        if self.way == "nothing":
            return None
        if self.way == "seeds":
            return [replace(answer, seed="x") for answer in answers]
        if self.way == "none":
            return [None for _ in answers]
        return [replace(answer, image=answer.image / 255) for answer in answers]


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("few", "must return one image for each request, got 1 for 2"),
        ("many", "must return one image for each request, got 4 for 2"),
        ("nothing", "must return a list of images, got None"),
        ("seeds", "must return images: 'seed' must be an integer, got 'x'"),
        ("none", "must return images: 'NoneType' object"),
        ("floats", "must return images: 'image' must be a uint8 tensor, got torch.float32"),
    ],
)
def test_a_backend_that_breaks_its_promise_is_named(tmp_path, way, said):
    save_photos(tmp_path, ["src/cat/a.png"])
    backend = Odd(16)
    backend.way = way
    edit = PromptEdit(backend=backend)
    requests = [GenerationRequest("a", 1), GenerationRequest("b", 2)]
    for call in (
        lambda: augment_folder(tmp_path / "src", tmp_path / "set", edit, per_image=2),
        lambda: edit(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)),
        lambda: CachedBackend(backend, folder=tmp_path / "cache").generate(requests),
    ):
        with pytest.raises(GenerationError, match=f"Odd.generate {said}"):
            call()
