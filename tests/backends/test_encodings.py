"""Prompts are encoded once, with the same images bit for bit."""

import pytest
import torch
from tiny_pipelines import SIZE, make_request, save_xl_pipeline, tiny_spec

from diffaug import DiffusersBackend, ModelSpec
from diffaug.backends import encodings, pipeline


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
