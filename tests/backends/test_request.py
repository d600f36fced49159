"""Specs, requests and keys: what determines an image, and what must not."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from contracts import check_backend
from gpus import on_each_device
from hypothesis import given
from hypothesis import strategies as st

from diffaug import GenerationRequest, ModelSpec, PromptEdit, RecordingBackend
from diffaug.seeds import MAX_SEED, derive_seed

IMAGE = torch.arange(60, dtype=torch.uint8).reshape(3, 4, 5)


def test_the_recording_backend_keeps_the_contract():
    check_backend(
        RecordingBackend,
        [GenerationRequest("a", n, image=IMAGE, strength=0.5) for n in (1, 20, 300)],
        exact=True,
    )


def test_the_recording_backend_gives_the_answers_of_its_function():
    requests = [GenerationRequest("a", 1, image=IMAGE), GenerationRequest("b", 2)]
    usual = RecordingBackend(size=7).generate(requests)
    backend = RecordingBackend(
        size=7, answer=lambda request, usual: dataclasses.replace(usual, seed=request.seed + 5)
    )
    generated = backend.generate(requests)
    assert [6, 7] == [answer.seed for answer in generated] and requests == backend.requests
    assert all(torch.equal(a.image, b.image) for a, b in zip(usual, generated, strict=True))


def test_the_recording_backend_remembers_requests_and_takes_any_size():
    backend = RecordingBackend(size=7)
    requests = [GenerationRequest("a", 1, image=IMAGE), GenerationRequest("b", 2)]
    generated = backend.generate(requests)
    assert backend.requests == requests
    assert [tuple(answer.image.shape) for answer in generated] == [(3, 7, 7)] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "'model' must be a model id or a folder, got ''."),
        ({"task": "paint"}, "'task' must be one of edit, translate, generate, got 'paint'."),
        ({"dtype": "int8"}, "'dtype' must be auto, float32, float16 or bfloat16, got 'int8'."),
        ({"steps": 0}, "'steps' must be an integer of at least 1, got 0."),
        ({"batch_size": 0}, "'batch_size' must be an integer of at least 1 or 'auto', got 0."),
        (
            {"batch_size": "most"},
            "'batch_size' must be an integer of at least 1 or 'auto', got 'most'.",
        ),
        (
            {"compile": True, "offload": True},
            "'compile' must be False with offload=True, got True: .*",
        ),
        ({"steps": True}, "'steps' must be an integer of at least 1, got True."),
        ({"guidance_scale": "7"}, "'guidance_scale' must be a number, got '7'."),
        ({"guidance_scale": True}, "'guidance_scale' must be a number, got True."),
        ({"all_steps": "no"}, "'all_steps' must be True or False, got 'no'."),
        ({"offload": 1}, "'offload' must be True or False, got 1."),
        ({"size": 100}, "'size' must be a positive multiple of 8, got 100."),
        ({"guidance_scale": -1.0}, "'guidance_scale' must be at least 0, got -1.0."),
        ({"image_guidance_scale": 0.9}, "'image_guidance_scale' must be at least 1, got 0.9."),
    ],
)
def test_a_spec_names_the_argument_that_is_wrong(changes, message):
    kind = TypeError if "True or False" in message else ValueError
    with pytest.raises(kind, match=f"^{message}$"):
        ModelSpec(**{"model": "org/name", **changes})


def test_a_spec_is_hashable_pickles_and_is_plain_json():
    spec = ModelSpec("org/name", adapters=["a", "b"], revision="c" * 40)
    assert hash(spec) == hash(dataclasses.replace(spec))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert ModelSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


OTHER = {
    "model": "org/other",
    "task": "translate",
    "revision": "b" * 40,
    "variant": "fp16",
    "size": 256,
    "steps": 3,
    "all_steps": True,
    "guidance_scale": 1.0,
    "image_guidance_scale": 2.0,
    "scheduler": "DDIMScheduler",
    "adapters": ("lora",),
    "safety_checker": True,
    "dtype": "float16",
    "device": "cpu",
    "batch_size": 3,
    "pad": True,
    "compile": True,
    "offload": True,
    "keep_aspect": True,
    "fuse_adapters": False,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ModelSpec)])
def test_the_fingerprint_takes_in_what_changes_a_pixel_and_nothing_else(name):
    spec = ModelSpec("org/name")
    changed = dataclasses.replace(spec, **{name: OTHER[name]})
    # Without adapters, there is nothing to fuse.
    harmless = name in ("device", "batch_size", "pad", "compile", "offload", "fuse_adapters")
    assert (changed.fingerprint == spec.fingerprint) is harmless


def test_fusing_adapters_is_part_of_the_fingerprint_and_not_fusing_is_as_it_always_was():
    fused = ModelSpec("org/name", adapters=("lora",))
    beside = dataclasses.replace(fused, fuse_adapters=False)
    assert fused.fingerprint != beside.fingerprint
    assert fused.identity()["fuse_adapters"] is True
    assert "fuse_adapters" not in beside.identity()


@on_each_device
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_an_image_has_one_key_wherever_it_lies(device, dtype):
    """Or else a cache that was filled from files is never hit by images on a GPU."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 40, 50), generator=generator, dtype=torch.uint8)
    if dtype.is_floating_point:
        image = (image / 255).to(dtype)
    keys = []
    for place in ("cpu", device):
        backend = RecordingBackend(size=16)  # images are resized first
        edited = PromptEdit(["snowy"], backend=backend)(image.to(place))
        assert (place, dtype) == (edited.device.type, edited.dtype)
        keys += [request.key("") for request in backend.requests]
    assert 2 == len(keys) and 1 == len(set(keys))


def test_a_hashed_folder_has_one_fingerprint_wherever_it_lies():
    here, there = (ModelSpec(model, revision="sha256:ab") for model in ("/here", "/there"))
    assert here.fingerprint == there.fingerprint
    lora = [dataclasses.replace(here, adapters=(f"{at}/lora@sha256:cd",)) for at in ("/a", "/b")]
    assert lora[0].fingerprint == lora[1].fingerprint != here.fingerprint


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompt": 3}, TypeError, "'prompt' must be a string, got int."),
        ({"negative_prompt": None}, TypeError, "'negative_prompt' must be a string, got NoneType"),
        ({"seed": 1.0}, TypeError, "'seed' must be an integer, got float."),
        ({"seed": True}, TypeError, "'seed' must be an integer, got bool."),
        ({"seed": -1}, ValueError, r"'seed' must be in \[0, 2\*\*53\), got -1."),
        ({"seed": 2**53}, ValueError, r"'seed' must be in \[0, 2\*\*53\), got 9007199254740992."),
        ({"strength": 1.4}, ValueError, r"'strength' must be in \[0, 1\], got 1.4."),
        ({"image": IMAGE.float()}, TypeError, "'image' must be a uint8 tensor, got torch.float32."),
        ({"image": "cat.png"}, TypeError, "'image' must be a uint8 tensor, got str."),
        (
            {"image": IMAGE[:1]},
            ValueError,
            r"'image' must have shape \(3, H, W\), got \(1, 4, 5\).",
        ),
        ({"image": IMAGE[:, :0]}, ValueError, r"must have shape \(3, H, W\), got \(3, 0, 5\)."),
    ],
)
def test_a_request_names_the_field_that_is_wrong(changes, error, message):
    with pytest.raises(error, match=message):
        GenerationRequest(**{"prompt": "a", "seed": 1, **changes})


BASE = GenerationRequest("a", 1, image=IMAGE, strength=0.5)


def test_equal_requests_are_equal_have_one_key_and_hash_alike():
    other = GenerationRequest("a", 1, image=IMAGE.clone(), strength=0.5)
    assert other == BASE and hash(other) == hash(BASE) and other.key("x") == BASE.key("x")
    assert BASE != "a" and len(BASE.key("x")) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "b"},
        {"seed": 2},
        {"negative_prompt": "b"},
        {"strength": 0.6},
        {"strength": None},
        {"image": None},
        {"image": IMAGE + 1},
        {"image": IMAGE.reshape(3, 5, 4)},
    ],
)
def test_each_field_and_the_fingerprint_change_the_key(changes):
    changed = dataclasses.replace(BASE, **changes)
    assert changed != BASE and changed.key("x") != BASE.key("x")
    assert BASE.key("x") != BASE.key("y")


def test_a_key_does_not_depend_on_how_the_image_lies_in_memory():
    turned = IMAGE.transpose(1, 2).contiguous().transpose(1, 2)
    assert dataclasses.replace(BASE, image=turned).key("x") == BASE.key("x")


def test_keys_and_seeds_never_change_between_versions():
    """A change here would make every cache and every plan worthless: raise FORMAT_VERSION."""
    assert GenerationRequest("a", 1).key("x").startswith(FROZEN_KEY)
    assert derive_seed("a", 1, 0.5, None) == FROZEN_SEED


FROZEN_KEY = "788045ebe44bce69"
FROZEN_SEED = 5384075502537496


@given(st.lists(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.none())))
def test_a_derived_seed_is_in_range_and_a_function_of_its_parts(parts):
    assert 0 <= derive_seed(*parts) < MAX_SEED
    assert derive_seed(*parts) == derive_seed(*parts)
    assert derive_seed(*parts) != derive_seed(*parts, 0)


@pytest.mark.parametrize("few", [False, True])
def test_a_real_strength_runs_the_same_steps_and_is_its_own(few):
    for steps in (1, 2, 4, 10, 25, 29, 100):
        spec = ModelSpec("org/name", task="translate", steps=steps, all_steps=few)
        assert 0 == spec.real_strength(0)
        for strength in (n / 500 for n in range(1, 501)):
            real = spec.real_strength(strength)
            scheduler_steps, steps_run = spec.schedule(strength)
            assert (scheduler_steps, steps_run) == spec.schedule(real), (steps, strength)
            assert real == pytest.approx(steps_run / scheduler_steps) and real <= 1
            assert real == spec.real_strength(real)


def test_numbers_of_numpy_are_numbers():
    plain = ModelSpec("org/name", size=64, steps=3, guidance_scale=2.0, all_steps=True)
    spec = ModelSpec(
        "org/name",
        size=np.int64(64),
        steps=np.int32(3),
        guidance_scale=np.float32(2),
        all_steps=np.True_,
    )
    assert plain == spec and plain.fingerprint == spec.fingerprint
    request = GenerationRequest("a", np.int64(1), strength=np.float64(0.5))
    assert GenerationRequest("a", 1, strength=0.5) == request
    assert type(request.seed) is int and type(request.strength) is float
    with pytest.raises(TypeError, match="'strength' must be a number, got True"):
        GenerationRequest("a", 1, strength=True)
