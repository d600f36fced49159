"""A set made on several devices, or by Ray, is the set that one process makes."""

import os
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from answers import raise_error
from image_folders import contents, save_photos
from model_processes import servers, wait_for
from tiny_pipelines import tiny_spec

from diffaug import (
    DiffMix,
    DiffusersBackend,
    FractalBank,
    FractalBlend,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
)
from diffaug.errors import GenerationError, MissingDependencyError, UnreadableImageError
from diffaug.offline.ray import _check_versions

TWO = "cpu:0,cpu:1"
pytestmark = pytest.mark.usefixtures("socket_folder")


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", [f"class {n % 3}/{n}.png" for n in range(6)], 40, 50)


@pytest.fixture(scope="module")
def cluster():
    """A cluster that was there before, with this module on its path."""
    path = {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2]))}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": path},
    )
    yield
    ray.shutdown()


def edit(**changes):
    return PromptEdit(backend=tiny_spec("edit", batch_size=2, **changes))


@pytest.mark.parametrize("engine", [{"devices": TWO}, {"engine": "ray"}])
def test_the_set_is_that_of_one_process_also_after_a_stop(photos, tmp_path, cluster, engine):
    augment_folder(photos, tmp_path / "whole", edit(), per_image=3, format="png")
    augment_folder(photos, tmp_path / "set", edit(), per_image=1, format="png")
    done = augment_folder(photos, tmp_path / "set", edit(), per_image=3, format="png", **engine)
    assert (12, 6) == (done.made, done.taken_over)
    assert contents(tmp_path / "whole") == contents(tmp_path / "set")
    assert wait_for(lambda: not servers())
    again = augment_folder(photos, tmp_path / "set", edit(), per_image=3, format="png", **engine)
    assert (0, 18) == (again.made, again.taken_over)


def test_ray_takes_parts_of_a_dataset_and_draws_pairs_as_one_process_does(tmp_path, cluster):
    data = [(torch.full((3, 20, 24), 20 * n, dtype=torch.uint8), n % 2) for n in range(8)]
    mix = DiffMix(["ant", "bee"], strength=[0.3, 0.9], backend=RecordingBackend(16))
    options = {"class_names": ["ant", "bee"], "per_image": 3, "format": "png"}
    augment_dataset(data, tmp_path / "whole", mix, **options)
    for share in ("2/2", "1/2"):
        augment_dataset(data, tmp_path / "set", mix, shard=share, engine="ray", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "set")


def test_ray_skips_what_is_damaged_and_with_strict_stops(photos, tmp_path, cluster):
    (photos / "class 1" / "9.png").write_bytes(b"no image")
    done = augment_folder(photos, tmp_path / "set", edit(), per_image=2, engine="ray")
    assert (12, ["class 1/9.png"]) == (done.made, [one.source for one in done.skipped])
    with pytest.raises(UnreadableImageError, match=r"9\.png' is not a readable image"):
        augment_folder(photos, tmp_path / "strict", edit(), engine="ray", strict=True)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("'prompt' must be short."), ValueError, "^'prompt' must be short."),
        (KeyError("weight"), GenerationError, "^'the transform' failed with KeyError: 'weight'"),
    ],
)
def test_an_error_in_the_cluster_arrives_in_one_line(
    photos,
    tmp_path,
    cluster,
    error,
    kind,
    message,
):
    backend = RecordingBackend(16, answer=partial(raise_error, error))
    with pytest.raises(kind, match=message):
        augment_folder(photos, tmp_path / "set", PromptEdit(backend=backend), engine="ray")
    assert not (tmp_path / "set").exists()


def test_what_generates_nothing_needs_no_devices(photos, tmp_path):
    blend = FractalBlend(fractals=FractalBank(2, 32))
    with pytest.raises(ValueError, match="^'devices' must not be given for FractalBlend with this"):
        augment_folder(photos, tmp_path / "set", blend, devices=TWO)
    assert not (tmp_path / "set").exists()


def test_a_backend_runs_where_it_is(photos, tmp_path):
    backend = DiffusersBackend(tiny_spec("edit"))
    with pytest.raises(ValueError, match="^'devices' must not be given for PromptEdit with this"):
        augment_folder(photos, tmp_path / "set", PromptEdit(backend=backend), devices=TWO)


def test_other_versions_in_a_cluster_are_refused(photos, tmp_path, monkeypatch):
    maker = SimpleNamespace(versions="torch 1.0")
    with pytest.raises(
        GenerationError, match=r"other versions \(diffaug .*than this one \(torch 1"
    ):
        _check_versions(maker)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "slurm"}, "'engine' must be local or ray, got 'slurm'"),
        ({"engine": "ray", "devices": "0"}, "'devices' must not be given with the engine ray"),
        ({"devices": "cpu,cpu"}, "'devices' must differ"),
        ({"devices": []}, "'devices' must name at least one"),
        ({"devices": "", "shard": "1/2"}, "'devices' must name at least one"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    photos,
    tmp_path,
    options,
    message,
):
    with pytest.raises(ValueError, match=message):
        augment_folder(photos, tmp_path / "set", edit(), **options)
    assert not (tmp_path / "set").exists()


def test_without_ray_it_says_how_to_install_it(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'diffaug\[ray\]'"):
        augment_folder(photos, tmp_path / "set", edit(), engine="ray")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1"])
def test_a_cluster_that_does_not_answer_is_said_in_seconds(photos, tmp_path, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("diffaug.offline.ray.ANSWERS_WITHIN", 0.1)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # a test before may have joined one
    message = rf"no Ray cluster answers at RAY_ADDRESS={re.escape(address)} \(.*\); start one, or"
    with pytest.raises(GenerationError, match=message):
        augment_folder(photos, tmp_path / "set", edit(), engine="ray")
