"""A set whose batch size the model chooses: the number is recorded, and a resumed run keeps it."""

import json

import pytest
from image_folders import contents, save_photos
from tiny_pipelines import make_requests, tiny_spec
from typer.testing import CliRunner

from diffaug import (
    CachedBackend,
    DiffusersBackend,
    PromptEdit,
    augment_folder,
    unload,
    warm_cache,
)
from diffaug.backends import pipeline
from diffaug.backends.base import BATCH_SIZE
from diffaug.cli.app import app
from diffaug.errors import GenerationError
from diffaug.offline.manifest import read_manifest

AUTO = {"batch_size": "auto"}
pytestmark = pytest.mark.usefixtures("socket_folder")


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", [f"{n % 2}/{n}.png" for n in range(7)], 40, 50)


@pytest.fixture
def fits(monkeypatch):
    """Let a number of images fit; what is measured is that alone."""

    def choose(pipe, spec, device, copies):
        return chosen[0]

    chosen = [3]
    monkeypatch.setattr("diffaug.backends.pipeline.choose_batch_size", choose)
    yield chosen
    unload()


def edit(**changes):
    return PromptEdit(backend=tiny_spec("edit", **changes))


def recorded(folder):
    return json.loads((folder / "run.json").read_text())["batch_size"]


def test_the_set_is_that_of_the_number_which_is_recorded(photos, tmp_path, fits):
    augment_folder(photos, tmp_path / "set", edit(**AUTO), format="png", per_image=2)
    augment_folder(photos, tmp_path / "fixed", edit(batch_size=3), format="png", per_image=2)
    assert 3 == recorded(tmp_path / "set")
    assert contents(tmp_path / "fixed") == contents(tmp_path / "set")


def test_a_resumed_run_keeps_the_number_whatever_fits_now(photos, tmp_path, fits, monkeypatch):
    augment_folder(photos, tmp_path / "set", edit(**AUTO), format="png", per_image=1)
    unload()
    fits[0] = 5
    sizes = []
    inner = pipeline.launch
    monkeypatch.setattr(
        pipeline,
        "launch",
        lambda pipe, spec, batch: sizes.append(len(batch.jobs)) or inner(pipe, spec, batch),
    )
    augment_folder(photos, tmp_path / "set", edit(**AUTO), format="png", per_image=2)
    assert (3, {3}) == (recorded(tmp_path / "set"), {*sizes})
    augment_folder(photos, tmp_path / "fixed", edit(batch_size=3), format="png", per_image=2)
    assert contents(tmp_path / "fixed") == contents(tmp_path / "set")


def test_the_model_is_loaded_once(photos, tmp_path, fits, monkeypatch):
    loaded = []
    inner = pipeline.load_pipeline
    monkeypatch.setattr(pipeline, "load_pipeline", lambda spec: loaded.append(spec) or inner(spec))
    augment_folder(photos, tmp_path / "set", edit(**AUTO), per_image=2)
    assert 1 == len(loaded)


def test_a_backend_of_the_caller_s_own_chooses_too(photos, tmp_path, fits):
    backend = CachedBackend(DiffusersBackend(tiny_spec("edit", **AUTO)), folder=tmp_path / "cache")
    augment_folder(photos, tmp_path / "set", PromptEdit(backend=backend), per_image=1)
    assert 3 == recorded(tmp_path / "set")


def test_a_dry_run_makes_a_batch_of_that_size(photos, tmp_path, fits):
    done = augment_folder(photos, tmp_path / "set", edit(**AUTO), per_image=2, dry_run=True)
    assert done.estimate.images == 14 and done.estimate.seconds > 0
    assert not (tmp_path / "set").exists()


def test_devices_agree_on_one_number(photos, tmp_path):
    options = {"format": "png", "per_image": 2}
    augment_folder(photos, tmp_path / "set", edit(**AUTO), devices="cpu:0,cpu:1", **options)
    augment_folder(photos, tmp_path / "fixed", edit(batch_size=BATCH_SIZE), **options)
    assert BATCH_SIZE == recorded(tmp_path / "set")
    assert contents(tmp_path / "fixed") == contents(tmp_path / "set")


@pytest.mark.parametrize("options", [{"shard": "1/2"}, {"engine": "ray"}])
def test_machines_that_make_one_set_need_a_number(photos, tmp_path, options):
    message = r"'batch_size' must be a number where several machines make one set, got 'auto'; give"
    with pytest.raises(ValueError, match=message):
        augment_folder(photos, tmp_path / "set", edit(**AUTO), **options)
    assert not (tmp_path / "set").exists()


def test_a_model_that_does_not_fit_at_all_ends_the_run_before_anything_is_written(
    photos, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise RuntimeError("the kernel is not there")

    monkeypatch.setattr("diffaug.backends.pipeline.choose_batch_size", fail)
    with pytest.raises(GenerationError, match="failed with RuntimeError: the kernel is not there"):
        augment_folder(photos, tmp_path / "set", edit(**AUTO))
    assert not list((tmp_path / "set").glob("**/*.jpg"))


def test_a_cache_is_warmed_in_batches_of_that_size(tmp_path, fits, monkeypatch):
    sizes = []
    inner = DiffusersBackend.generate
    monkeypatch.setattr(
        DiffusersBackend,
        "generate",
        lambda self, requests: sizes.append(len(requests)) or inner(self, requests),
    )
    backend = CachedBackend(DiffusersBackend(tiny_spec("edit", **AUTO)), folder=tmp_path / "cache")
    data = [(request.image, 0) for request in make_requests(count=4)]
    warm_cache(data, PromptEdit(["snowy"], variants=2, backend=backend))
    assert {3} == {*sizes[:-1]} and sizes[-1] <= 3


def test_the_command_takes_a_number_or_auto(photos, tmp_path, fits):
    from tiny_pipelines import model_folder

    def run(size, folder):
        command = ["augment", photos, tmp_path / folder, "--backend", model_folder("edit")]
        more = ["--steps", 1, "--batch-size", size, "--per-image", 1]
        return CliRunner().invoke(app, [str(part) for part in (*command, *more)])

    assert 0 == run("auto", "set").exit_code
    assert 3 == recorded(tmp_path / "set")
    assert 0 == run("2", "two").exit_code
    assert 2 == recorded(tmp_path / "two")
    for wrong in ("0", "many", "1.5"):
        result = run(wrong, "none")
        assert 2 == result.exit_code
        assert "must be an integer of at least 1 or 'auto', got" in result.stderr
    assert 7 == len(read_manifest(tmp_path / "two"))
