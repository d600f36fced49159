"""Compiling: block by block, into diffaug's cache, and only where something can compile."""

from dataclasses import replace

import pytest
import torch
from gpus import CUDA
from image_folders import save_photos
from tiny_pipelines import make_requests, save_klein, tiny_spec

from diffaug import DiffusersBackend, ModelSpec, PromptEdit, augment_folder
from diffaug.backends import compiling, loading
from diffaug.backends.loading import load_pipeline
from diffaug.errors import MissingDependencyError


@pytest.fixture
def eager(monkeypatch):
    """Let torch.compile note what it gets, and run it as it is."""
    noted = []

    def note(function, **settings):
        noted.append((function, settings))
        return function

    monkeypatch.setattr(torch, "compile", note)
    return noted


def test_blocks_of_one_kind_are_compiled_once_for_fixed_shapes(eager):
    pipe = load_pipeline(tiny_spec("edit", compile=True))
    blocks = [
        block
        for part in (pipe.unet, pipe.vae)
        for block in part.modules()
        if type(block).__name__ in ("ResnetBlock2D", "Transformer2DModel")
    ]
    assert len(blocks) > len(eager) > 2
    assert {str(settings) for _, settings in eager} == {"{'dynamic': False}"}
    functions = {block.forward.__func__ for block in blocks}
    assert functions == {function for function, _ in eager}
    # Torch counts the versions of a function by its code.
    assert len({id(function.__code__) for function in functions}) == len(functions)


def test_other_denoisers_are_compiled_by_their_own_blocks_or_whole(eager, tmp_path):
    spec = ModelSpec(save_klein(tmp_path / "klein"), size=64, device="cpu")
    pipe = load_pipeline(spec)
    compiling.compile_blocks(pipe)
    names = {function.__qualname__ for function, _ in eager}
    assert 2 <= len(eager) and "Flux2Transformer2DModel.forward" not in names

    class Denoiser(torch.nn.Linear):
        pass

    eager.clear()
    whole = type("Pipe", (), {"transformer": Denoiser(1, 1)})()
    assert 1 == compiling.compile_blocks(whole)


def test_the_cache_is_diffaugs_unless_the_caller_has_named_one(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    spec, cpu = tiny_spec("edit", compile=True), torch.device("cpu")
    monkeypatch.setattr(compiling, "find_compiler", lambda device: None)

    def folder():
        compiling.prepare_compiler(spec, cpu)
        return compiling.os.environ["TORCHINDUCTOR_CACHE_DIR"]

    assert str(tmp_path / "compiled") == folder()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    assert "/mine" == folder()


def test_without_a_compiler_nothing_is_loaded(monkeypatch):
    from torch._inductor import cpp_builder, exc

    def find():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", find)
    with pytest.raises(MissingDependencyError, match=r"install g\+\+, or set compile=False"):
        load_pipeline(tiny_spec("edit", compile=True))


def test_a_run_of_too_few_images_is_told_that_they_do_not_repay_it(eager, monkeypatch, tmp_path):
    photos = save_photos(tmp_path / "photos", ["a/0.png", "a/1.png"], 20, 20)
    edit = PromptEdit(backend=tiny_spec("edit", steps=1, compile=True))
    monkeypatch.setattr(loading, "prepare_compiler", lambda spec, device: None)
    message = "which some 1,000 images repay, and 4 are to be made; set compile=False for so few"
    with pytest.warns(UserWarning, match=message) as warned:
        augment_folder(photos, tmp_path / "set", edit, per_image=2, include_originals=True)
    assert __file__ == warned[0].filename
    augment_folder(photos, tmp_path / "set", edit, per_image=2, include_originals=True)  # is done
    monkeypatch.setattr(compiling, "REPAID", 2)
    augment_folder(photos, tmp_path / "two", edit, per_image=1)
    plain = PromptEdit(backend=tiny_spec("edit", steps=1))
    augment_folder(photos, tmp_path / "plain", plain, per_image=1)


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), CUDA])
def test_compiled_images_are_those_of_the_model_to_a_level(device):
    requests = make_requests(count=6)
    spec = tiny_spec("edit", device=device, dtype="float32", pad=True)
    expected = DiffusersBackend(spec).generate(requests)
    made = DiffusersBackend(replace(spec, compile=True)).generate(requests)
    for one, other in zip(expected, made, strict=True):
        assert (one.image.int() - other.image.int()).abs().max() <= 1
