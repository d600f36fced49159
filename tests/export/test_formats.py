"""A set in another format has the same images, labels and sources."""

import errno
import glob
import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
import webdataset
from datasets import load_dataset, load_from_disk
from image_folders import contents

from diffaug import (
    DiffMix,
    GeneratedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    export_set,
    filter_set,
)
from diffaug.errors import DestinationError, SourceError
from diffaug.export import formats
from diffaug.images import read_image
from diffaug.offline import released

NAMES = ["a.b", "test", "train"]
DATA = [(torch.rand(3, 24, 32, generator=torch.manual_seed(n)), n % 3) for n in range(6)]
MIX = DiffMix(NAMES, strength=0.5, pairs="other", backend=RecordingBackend(16))


class Halves:
    """Score images by their place in the set."""

    name, bounds = "halves", (1, 10)

    def score(self, images, rows):
        return [int(row["file_name"].rpartition("__")[2].partition(".")[0]) % 2 for row in rows]


@pytest.fixture
def mixed(tmp_path):
    options = {"class_names": NAMES, "per_image": 2, "include_originals": True}
    augment_dataset(DATA, tmp_path / "set", MIX, **options)
    return tmp_path / "set"


def read_parquet(folder, tmp_path):
    data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    return _read_hugging_face(data)


def read_disk(folder, tmp_path):
    return _read_hugging_face(load_from_disk(str(folder)))


def _read_hugging_face(data):
    assert NAMES == data.features["label"].names
    data = data.cast_column("image", data.features["image"].__class__(decode=False))
    return [(row["image"]["bytes"], row["label"], row["soft_label"], row) for row in data]


def read_tars(folder, tmp_path):
    tars = sorted(glob.glob(f"{folder}/*.tar"))
    data = webdataset.WebDataset(tars, shardshuffle=False)
    parts = [(row["jpg"], int(row["cls"]), json.loads(row["json"])) for row in data]
    return [(image, label, about["soft_label"], about) for image, label, about in parts]


READERS = {"parquet": read_parquet, "hf": read_disk, "webdataset": read_tars}


@pytest.mark.parametrize("format", READERS)
def test_images_labels_and_sources_are_those_of_the_set(mixed, tmp_path, format, monkeypatch):
    monkeypatch.setattr(formats, "SHARD", 5)  # several files
    done = export_set(mixed, tmp_path / "out", format=format)
    ours = GeneratedDataset(mixed, originals=True)
    assert len(ours) == done.images == 18
    found = READERS[format](tmp_path / "out", tmp_path)
    assert len(ours) == len(found)
    for index, (image, label, soft, about) in enumerate(found):
        row = ours.rows[index]
        assert (mixed / row["file_name"]).read_bytes() == image
        assert ours.targets[index] == label
        assert torch.equal(ours.label(index), torch.tensor(soft))
        assert row["label"] == about["label_name"]
        shared = {name: row[name] for name in row if name not in ("file_name", "label")}
        assert shared == {name: about[name] for name in shared}


@pytest.mark.parametrize("format", READERS)
def test_what_a_filter_dropped_is_left_out(mixed, tmp_path, format):
    filter_set(mixed, Halves())
    kept = [r["source"] for r in GeneratedDataset(mixed, originals=True).rows]
    export_set(mixed, tmp_path / "out", format=format)
    found = READERS[format](tmp_path / "out", tmp_path)
    assert 0 < len(kept) < 18
    assert kept == [about["source"] for *_, about in found]


@pytest.mark.parametrize("format", READERS)
def test_an_export_tells_no_folder_of_this_machine(mixed, tmp_path, format):
    export_set(mixed, tmp_path / "out", format=format)
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path
    assert not list((tmp_path / "out").glob(".diffaug.*"))


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_stopped_export_is_resumed_to_the_same_bytes(mixed, tmp_path, format, monkeypatch):
    monkeypatch.setattr(formats, "SHARD", 5)
    export_set(mixed, tmp_path / "whole", format=format)
    write, pattern = formats._WRITERS[format]

    def stop_at_the_third(records, start, stop, path):
        write(records, start, stop, path)
        if start == 10:
            raise KeyboardInterrupt

    monkeypatch.setitem(formats._WRITERS, format, (stop_at_the_third, pattern))
    with pytest.raises(KeyboardInterrupt):
        export_set(mixed, tmp_path / "stopped", format=format)
    assert not (tmp_path / "stopped" / "README.md").exists()
    monkeypatch.setitem(formats._WRITERS, format, (write, pattern))
    export_set(mixed, tmp_path / "stopped", format=format)
    for path in (tmp_path / "whole").rglob("*"):
        other = tmp_path / "stopped" / path.relative_to(tmp_path / "whole")
        assert path.is_dir() or path.read_bytes() == other.read_bytes(), path


def test_a_set_that_has_changed_is_not_mixed_with_its_older_export(mixed, tmp_path):
    export_set(mixed, tmp_path / "out", format="parquet")
    filter_set(mixed, Halves())
    with pytest.raises(DestinationError, match="holds a different run: 'set' is"):
        export_set(mixed, tmp_path / "out", format="parquet")


@pytest.mark.parametrize("labels", [[0.5, 1.5], [[0, 1], [1, 1]], [[0.25, 1.0], [2.5, 0.0]]])
@pytest.mark.parametrize("format", READERS)
def test_labels_that_are_no_classes_come_as_they_are(tmp_path, format, labels):
    edit = PromptEdit(["snowy"], backend=RecordingBackend(16))
    data = [(image, label) for (image, _), label in zip(DATA, labels, strict=False)]
    augment_dataset(data, tmp_path / "set", edit, per_image=1)
    expected = [row["label"] for row in GeneratedDataset(tmp_path / "set").rows]
    export_set(tmp_path / "set", tmp_path / "out", format=format)
    if format == "webdataset":
        rows = webdataset.WebDataset(
            glob.glob(f"{tmp_path}/out/*.tar"), shardshuffle=False
        ).decode()
        found = [row["json"]["label"] for row in rows]
    elif format == "hf":
        found = load_from_disk(str(tmp_path / "out"))["label"][:]
    else:
        [path] = glob.glob(f"{tmp_path}/out/data/*.parquet")
        found = pyarrow.parquet.read_table(path)["label"].to_pylist()
    assert expected == found


def test_the_same_set_is_the_same_dataset_each_time(mixed, tmp_path):
    for name in ("one", "two"):
        export_set(mixed, tmp_path / name, format="hf")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("format", ["parquet", "webdataset", "hf", "diffmix"])
def test_what_the_machine_cannot_read_now_is_not_left_out(mixed, tmp_path, monkeypatch, format):
    read, opened = Path.read_bytes, released.open_regular

    def no_descriptors(path):
        if path.suffix in (".jpg", ".png"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return (read if format != "diffmix" else opened)(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", no_descriptors)
        patch.setattr(released, "open_regular", no_descriptors)
        with pytest.raises(SourceError, match="could not be read: .*Too many open files"):
            export_set(mixed, tmp_path / "out", format=format)
    assert not export_set(mixed, tmp_path / "out", format=format).skipped


def test_an_image_that_is_gone_is_skipped_and_named(mixed, tmp_path):
    first = GeneratedDataset(mixed, originals=True).rows[0]["file_name"]
    (mixed / first).unlink()
    done = export_set(mixed, tmp_path / "out", format="webdataset")
    assert (17, [first]) == (done.images, [entry.source for entry in done.skipped])
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        data = tar.extractfile("000000000.jpg").read()
    second = GeneratedDataset(mixed, originals=True).rows[1]["file_name"]
    assert torch.equal(read_image(mixed / second), read_image(io.BytesIO(data)))


def test_a_format_that_is_not_known_is_refused(mixed, tmp_path):
    with pytest.raises(ValueError, match="'format' must be one of diffmix, parquet, webdataset, h"):
        export_set(mixed, tmp_path / "out", format="zip")
    assert not (tmp_path / "out").exists()
