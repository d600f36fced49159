"""Images go in and out without detours, the next batch while the model runs: at equal bits."""

import threading
from dataclasses import replace

import pytest
import torch
from tiny_pipelines import SIZE, make_requests, save_xl_pipeline, tiny_spec

from diffaug import DiffusersBackend, ModelSpec
from diffaug.backends import pipeline
from diffaug.errors import GenerationError


def images_of(spec, requests):
    return torch.stack([made.image for made in DiffusersBackend(spec).generate(requests)])


@pytest.mark.parametrize("task", ["edit", "translate", "generate"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fewer_passes_give_the_same_images(task, dtype, monkeypatch):
    spec, requests = tiny_spec(task, pad=True, dtype=dtype), make_requests(task, 3)
    made = images_of(spec, requests)
    monkeypatch.setattr(pipeline, "use_few_passes", lambda pipe: None)
    assert torch.equal(images_of(spec, requests), made)


def test_the_larger_sibling_has_the_same_images_too(tmp_path, monkeypatch):
    folder = save_xl_pipeline(tmp_path / "model", "translate")
    spec = ModelSpec(folder, task="translate", size=SIZE, steps=2, pad=True, device="cpu")
    made = images_of(spec, make_requests("translate", 3))
    monkeypatch.setattr(pipeline, "use_few_passes", lambda pipe: None)
    assert torch.equal(images_of(spec, make_requests("translate", 3)), made)


@pytest.mark.parametrize("task", ["edit", "translate"])
def test_a_model_takes_and_gives_images_without_the_passes_of_diffusers(task, monkeypatch):
    from diffusers.image_processor import VaeImageProcessor

    backend, passes = DiffusersBackend(tiny_spec(task)), []
    for name in ("normalize", "denormalize", "resize"):
        monkeypatch.setattr(VaeImageProcessor, name, lambda *_, name=name: passes.append(name))
    assert 3 == len(backend.generate(make_requests(task, 3)))
    assert [] == passes


def test_images_in_other_ways_still_take_the_way_of_diffusers():
    backend = DiffusersBackend(tiny_spec("edit"))
    backend.generate(make_requests(count=1))
    processor = backend._pipe.image_processor
    fresh = type(processor)(**processor.config)
    image = torch.rand(2, 3, 16, 16)
    expected = fresh.preprocess(image.clone(), height=8, width=8)
    assert torch.equal(expected, processor.preprocess(image.clone(), height=8, width=8))
    latents = torch.rand(1, 4, 2, 2)
    assert processor.preprocess(latents) is latents or torch.equal(
        latents, processor.preprocess(latents)
    )
    decoded = torch.rand(2, 3, 8, 8) * 4 - 2
    for settings in (
        {"output_type": "pt", "do_denormalize": [True, False]},
        {"output_type": "pt", "do_denormalize": [True, True]},
        {"output_type": "pt"},
        {"output_type": "np"},
    ):
        first, second = (one.postprocess(decoded.clone(), **settings) for one in (fresh, processor))
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))


@pytest.fixture
def backend():
    """A loaded model that takes two images at once."""
    backend = DiffusersBackend(tiny_spec("edit", batch_size=2, pad=True))
    backend.generate(make_requests(count=1))
    return backend


def test_the_next_batch_is_prepared_and_the_last_one_fetched_while_the_model_runs(
    backend, monkeypatch
):
    here = threading.get_ident()
    prepared = [threading.Event() for _ in range(4)]
    fetched = [threading.Event() for _ in range(4)]
    counts = {"prepare": 0, "fetch": 0, "launch": 0}
    in_other_threads = []
    inner = pipeline.prepare, pipeline.launch, pipeline._fetched

    def prepare(*arguments, **settings):
        batch = inner[0](*arguments, **settings)
        in_other_threads.append(threading.get_ident() != here)
        prepared[counts["prepare"]].set()
        counts["prepare"] += 1
        return batch

    def launch(*arguments):
        number = counts["launch"]
        counts["launch"] += 1
        launched = inner[1](*arguments)
        # The model still runs: by then the next batch is ready, and the last one is here.
        assert number == 3 or prepared[number + 1].wait(30)
        assert number == 0 or fetched[number - 1].wait(30)
        assert threading.get_ident() == here
        return launched

    def fetch(launched):
        outputs = inner[2](launched)
        in_other_threads.append(threading.get_ident() != here)
        fetched[counts["fetch"]].set()
        counts["fetch"] += 1
        return outputs

    requests = make_requests(count=7)
    one_by_one = [backend.generate([request])[0] for request in requests]
    for name, function in (("prepare", prepare), ("launch", launch), ("_fetched", fetch)):
        monkeypatch.setattr(pipeline, name, function)
    together = backend.generate(requests)
    assert {"prepare": 4, "fetch": 4, "launch": 4} == counts and all(in_other_threads)
    assert all(torch.equal(a.image, b.image) for a, b in zip(one_by_one, together, strict=True))


def test_one_batch_needs_no_other_thread(backend, monkeypatch):
    monkeypatch.setattr(pipeline, "ThreadPoolExecutor", None)
    assert 2 == len(backend.generate(make_requests(count=2)))


def test_a_failure_in_a_later_batch_ends_the_call_and_no_thread_stays(backend, monkeypatch):
    inner, count = pipeline.launch, []

    def launch(*arguments):
        count.append(1)
        if len(count) == 3:
            raise RuntimeError("the kernel failed")
        return inner(*arguments)

    monkeypatch.setattr(pipeline, "launch", launch)
    threads = threading.active_count()
    with pytest.raises(GenerationError, match="the kernel failed"):
        backend.generate(make_requests(count=8))
    assert threads == threading.active_count()
    assert 1 == len(backend.generate(make_requests(count=1)))


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_ends_a_call_at_once(backend, monkeypatch, interrupt):
    def launch(*_):
        raise interrupt

    monkeypatch.setattr(pipeline, "launch", launch)
    threads = threading.active_count()
    with pytest.raises(interrupt):
        backend.generate(make_requests(count=8))
    assert threads == threading.active_count()


def test_batches_of_several_kinds_and_of_blank_images_come_back_in_order(monkeypatch):
    spec = tiny_spec("translate", batch_size=2, pad=True, steps=4)
    requests = [
        replace(request, strength=strength)
        for request in make_requests("translate", 3)
        for strength in (0.0, 0.3, 0.6, 0.9)
    ]
    backend = DiffusersBackend(spec)
    expected = [backend.generate([request])[0] for request in requests]
    made = backend.generate(requests)
    assert all(torch.equal(a.image, b.image) for a, b in zip(expected, made, strict=True))
    assert [request.seed for request in requests] == [answer.seed for answer in made]
