"""Folders of another user: each works, or is named in one line, and nothing is left half done."""

import os
import shutil
import tempfile
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from image_folders import picture, save_photos
from tiny_pipelines import model_folder

from diffaug import (
    CachedBackend,
    GenerationRequest,
    ModelSpec,
    PromptEdit,
    RecordingBackend,
    augment_folder,
)
from diffaug.backends.hub import pin
from diffaug.backends.presets import resolve

pytestmark = pytest.mark.skipif(
    not hasattr(os, "setresuid") or os.geteuid() != 0,
    reason="only root can become another user",
)
NOBODY = 65534


@pytest.fixture
def shared():
    """A folder that every user can look into; that of pytest is its user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="diffaug-shared-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(call):
    """Return what a function returns, or the error that it raises, as another user."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            said = str(call())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException:
            said = traceback.format_exc()
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as opened:
        said = opened.read()
    os.waitpid(child, 0)
    return said


def own(folder):
    """Make a folder of the other user."""
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder


def edit():
    return PromptEdit(["snowy"], backend=RecordingBackend(8))


def photos(shared):
    root = save_photos(shared / "photos", ["cat/1.png", "cat/2.png", "dog/1.png"])
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return root


def test_a_source_that_may_only_be_read_is_augmented(shared):
    source, mine = photos(shared), own(shared / "mine")
    assert "3" == as_nobody(lambda: augment_folder(source, mine / "set", edit()).made)
    before = {path.name for path in (mine / "set").iterdir()}
    assert {"cat", "dog", "metadata.jsonl", "run.json"} <= before


def test_a_destination_of_another_user_is_named_and_stays_as_it_is(shared):
    source = photos(shared)
    augment_folder(source, shared / "set", edit())
    before = {path: path.stat().st_mtime_ns for path in shared.rglob("*")}
    for name in ("set", "new", "photos-of-mine/set"):
        said = as_nobody(lambda name=name: augment_folder(source, shared / name, edit()))
        assert said.startswith("DestinationError: ") and "Permission denied" in said, said
    assert before == {path: path.stat().st_mtime_ns for path in shared.rglob("*")}


def test_an_image_that_may_not_be_read_stops_the_run_and_is_not_left_out(shared):
    source, mine = photos(shared), own(shared / "mine")
    (source / "cat/2.png").chmod(0o000)
    said = as_nobody(lambda: augment_folder(source, mine / "set", edit()))
    assert said.startswith("SourceError: ") and "cat/2.png' could not be read" in said
    (source / "cat/2.png").chmod(0o444)
    done = as_nobody(lambda: (lambda s: (s.made + s.taken_over, s.skipped))(
        augment_folder(source, mine / "set", edit())))  # fmt: skip
    assert "(3, ())" == done


def test_a_class_that_may_not_be_read_is_named_and_keeps_its_number(shared):
    source, mine = photos(shared), own(shared / "mine")
    (source / "dog").chmod(0o700)
    said = as_nobody(lambda: (lambda s: (s.made, s.classes, s.skipped))(
        augment_folder(source, mine / "set", edit())))  # fmt: skip
    assert said.startswith("(2, ('cat', 'dog'), (Skipped(source='dog', reason='"), said


def test_a_source_that_may_not_be_read_is_named(shared):
    source, mine = photos(shared), own(shared / "mine")
    source.chmod(0o700)
    said = as_nobody(lambda: augment_folder(source, mine / "set", edit()))
    assert f"SourceError: '{source}' cannot be listed (Permission denied); give yourself" in said


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_cache_of_another_user_is_not_used_and_not_in_the_way(shared, mode):
    (shared / "cache").mkdir(mode=mode)
    request = GenerationRequest("a", 1, picture(1, 8, 8))

    def asked():
        cached = CachedBackend(RecordingBackend(8), folder=shared / "cache")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            images = [cached.generate([request])[0].image for _ in range(2)]
        return cached.holds(request), torch.equal(*images), len(told), str(told[0].message)

    said = as_nobody(asked)
    assert said.startswith("(False, True, 1, \"Generated images are not kept: cannot write to '")


def shared_model(shared):
    model = shutil.copytree(model_folder("edit"), shared / "model")
    for path in [model, *model.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return model


@pytest.mark.parametrize(
    "part", ["", "unet", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
)
def test_a_part_of_a_model_that_may_not_be_read_is_named(shared, part):
    model = shared_model(shared)
    (model / part).chmod(0o000)
    for use in (lambda: pin(resolve(model)), lambda: pin(ModelSpec(model))):
        said = as_nobody(use)
        assert said.startswith("ModelError: '") and part in said, said
        assert "could not be read" in said and "Permission denied" in said


def test_a_model_that_may_only_be_read_is_used(shared):
    model = shared_model(shared)
    assert "sha256:" in as_nobody(lambda: pin(resolve(model)).revision)
