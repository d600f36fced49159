"""Prompts and sources are encoded once, with the same images bit for bit."""

from dataclasses import replace

import pytest
import torch
from tiny_pipelines import SIZE, make_request, save_xl_pipeline, tiny_spec

from diffaug import DiffusersBackend, ModelSpec
from diffaug.backends import encodings, loading, pipeline


def requests_of(task, prompts):
    return [make_request(task, n, prompt=prompt) for n, prompt in enumerate(prompts)]


def count_encodings(backend):
    """Count the batches of prompts that a loaded backend encodes from now on."""
    batches = []
    table = backend._pipe.text_encoder.get_input_embeddings()
    table.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    return batches


@pytest.mark.parametrize("kind", ["edit", "translate", "xl"])
def test_kept_prompts_give_the_same_images(kind, tmp_path, monkeypatch):
    task = "translate" if kind == "xl" else kind
    spec = tiny_spec(task, pad=True, batch_size=3)
    if kind == "xl":
        folder = save_xl_pipeline(tmp_path / "model", task)
        spec = ModelSpec(folder, task=task, size=SIZE, steps=2, pad=True, batch_size=3)
    first, second = (
        requests_of(task, text.split()) for text in ("snowy sunset ukiyo", "ukiyo snowy")
    )
    backend = DiffusersBackend(spec)
    backend.generate(first)
    batches = count_encodings(backend)
    made = backend.generate(second)
    assert [] == batches
    monkeypatch.setattr(pipeline, "keep_encodings", lambda _: None)
    expected = DiffusersBackend(spec).generate(second)
    assert all(torch.equal(a.image, b.image) for a, b in zip(expected, made, strict=True))


def test_a_batch_of_another_size_is_encoded_anew():
    backend = DiffusersBackend(tiny_spec("edit"))
    backend.generate(requests_of("edit", ["snowy"]))
    batches = count_encodings(backend)
    backend.generate(requests_of("edit", ["snowy", "snowy"]))
    assert batches and {2} == set(batches)


def test_no_more_is_kept_than_fits(monkeypatch):
    monkeypatch.setattr(encodings, "KEPT_BYTES", 1)
    backend = DiffusersBackend(tiny_spec("edit", guidance_scale=1.0))
    backend.generate(requests_of("edit", ["snowy"]))
    batches = count_encodings(backend)
    backend.generate(requests_of("edit", ["snowy"]))
    assert [] == batches
    backend.generate(requests_of("edit", ["sunset"]))
    backend.generate(requests_of("edit", ["sunset"]))
    assert 2 <= len(batches)


def count_sources(backend):
    """Count the images that a loaded backend's autoencoder encodes from now on."""
    sizes = []
    encoder = backend._pipe.vae.encoder
    encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(*inputs)))
    return sizes


def copies_of_two():
    """Three prompts for one image, and one for another."""
    of_one = [make_request("edit", 0, prompt=prompt, seed=n) for n, prompt in enumerate("abc")]
    return [*of_one, make_request("edit", 1)]


@pytest.mark.parametrize("task", ["edit", "translate"])
@pytest.mark.parametrize("sliced", [True, False])
def test_a_source_is_encoded_once_for_all_its_copies(task, sliced, monkeypatch):
    monkeypatch.setattr(loading, "SLICING", SIZE if sliced else 512)
    strength = {"edit": None, "translate": 0.6}[task]
    requests = [replace(request, strength=strength) for request in copies_of_two()]
    spec = tiny_spec(task, pad=True)
    backend = DiffusersBackend(spec)
    backend.generate(requests[:1])
    sizes = count_sources(backend)
    made = backend.generate(requests)
    # An editor without slices encodes its batch at once, and then always whole.
    assert ([1] if sliced or task == "translate" else [4]) == sizes
    monkeypatch.setattr(pipeline, "keep_encodings", lambda _: None)
    expected = DiffusersBackend(spec).generate(requests)
    assert all(torch.equal(a.image, b.image) for a, b in zip(expected, made, strict=True))
