"""Recorded calls give the pixels of the calls themselves, or else nothing is recorded.

A fake records on the CPU: to repeat a call, it runs the call again, on the inputs that were kept.
"""

import logging
import weakref

import pytest
import torch
from tiny_pipelines import make_requests, save_learned, save_xl_pipeline, tiny_spec

from diffaug import DiffusersBackend, ModelSpec
from diffaug.backends import graphs, pipeline
from diffaug.backends.graphs import Graphs, repeat_calls

CPU = torch.device("cpu")


def parts_of(output):
    return output if isinstance(output, tuple) else (output,)


class FakeRecorder:
    """Count what is recorded and repeated."""

    def __init__(self):
        self.recorded = self.repeated = 0

    def rehearse(self, call):
        return call()

    def record(self, call):
        self.recorded += 1
        output = call()

        def repeat():
            self.repeated += 1
            for part, again in zip(parts_of(output), parts_of(call()), strict=True):
                part.copy_(again)

        return repeat, output


@pytest.fixture
def recorder(monkeypatch):
    """Let backends record on the CPU."""
    fake = FakeRecorder()

    def use(pipe, spec, device):
        return repeat_calls(pipe, Graphs(device, fake))

    monkeypatch.setattr(pipeline, "use_graphs", use)
    return fake


def images_of(backend, requests):
    return torch.stack([answer.image for answer in backend.generate(requests)])


def eager_images(spec, requests, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "use_graphs", lambda *_: None)
        return images_of(DiffusersBackend(spec), requests)


@pytest.mark.parametrize("task", ["edit", "translate", "generate"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_repeated_calls_give_the_pixels_of_the_model_itself(task, dtype, recorder, monkeypatch):
    spec = tiny_spec(task, pad=True, steps=4, dtype=dtype)
    requests = make_requests(task, 11)
    expected = eager_images(spec, requests, monkeypatch)
    backend = DiffusersBackend(spec)
    assert torch.equal(expected, images_of(backend, requests))
    # One kind of call of each part; the autoencoder encodes if there is a source.
    assert recorder.recorded == (2 if task == "generate" else 3)
    repeated = recorder.repeated
    assert torch.equal(expected, images_of(backend, requests))
    # Three batches, and not one call of the model; the copy that fills the last is not encoded.
    calls = {"edit": 3 * (4 + 2), "translate": 3 * (2 + 4 + 1) - 1, "generate": 3 * (4 + 1)}[task]
    assert recorder.repeated - repeated == calls


def test_the_larger_sibling_is_recorded_with_its_added_conditions(tmp_path, recorder, monkeypatch):
    folder = str(save_xl_pipeline(tmp_path, "translate"))
    spec = ModelSpec(
        folder, task="translate", size=16, steps=4, batch_size=2, device="cpu", pad=True
    )
    requests = make_requests("translate", 5)
    expected = eager_images(spec, requests, monkeypatch)
    assert torch.equal(expected, images_of(DiffusersBackend(spec), requests))
    assert recorder.repeated > 10


def test_a_learned_adapter_is_part_of_what_is_recorded(tmp_path, recorder, monkeypatch):
    adapter = save_learned(tmp_path / "learned") / "adapters" / "pytorch_lora_weights.safetensors"
    spec = tiny_spec("translate", pad=True, adapters=(f"{adapter}*0.5",))
    requests = make_requests("translate", 9)
    expected = eager_images(spec, requests, monkeypatch)
    assert torch.equal(expected, images_of(DiffusersBackend(spec), requests))
    assert recorder.repeated > 0


def test_what_a_call_returns_is_not_overwritten_by_the_next():
    module = torch.nn.Linear(2, 2).requires_grad_(False)
    Graphs(CPU, FakeRecorder()).add(module)
    with torch.no_grad():
        inputs = torch.arange(8.0).view(4, 1, 2)
        outputs = [module(row) for row in inputs]
    for row, output in zip(inputs, outputs, strict=True):
        assert torch.equal(row @ module.weight.T + module.bias, output)


def test_other_arguments_and_shapes_are_recorded_for_themselves_up_to_a_number():
    class Scaled(torch.nn.Module):
        def forward(self, inputs, *, scale=1.0, options=None):
            return inputs * scale, inputs + len(options or {})

    module, fake = Scaled(), FakeRecorder()
    Graphs(CPU, fake).add(module)
    with torch.no_grad():
        for _ in range(3):
            for scale in range(graphs.MOST_GRAPHS + 3):
                product, total = module(torch.ones(2), scale=scale, options={"a": None})
                assert product.tolist() == [scale] * 2
                assert total.tolist() == [2.0] * 2
    assert fake.recorded == graphs.MOST_GRAPHS


def test_moved_weights_are_recorded_anew_and_not_forever():
    module, fake = torch.nn.Linear(2, 2).requires_grad_(False), FakeRecorder()
    Graphs(CPU, fake).add(module)
    with torch.no_grad():
        for number in range(3 * graphs.MOST_MOVES):
            module.weight.data = torch.full((2, 2), float(number))
            for _ in range(4):
                expected = 2.0 * number + module.bias
                assert torch.equal(expected, module(torch.ones(2)))
    assert fake.recorded == graphs.MOST_MOVES + 1


def test_weights_changed_in_place_need_no_new_recording():
    module, fake = torch.nn.Linear(2, 2).requires_grad_(False), FakeRecorder()
    Graphs(CPU, fake).add(module)
    with torch.no_grad():
        for number in range(5):
            module.weight.fill_(number)
            assert torch.equal(2.0 * number + module.bias, module(torch.ones(2)))
    assert fake.recorded == 1


@pytest.mark.parametrize("fault", ["raises", "differs", "has no memory"])
def test_what_cannot_be_recorded_runs_as_always_and_is_said_once_in_the_log(
    fault, recorder, monkeypatch, caplog
):
    def record(call):
        if fault == "raises":
            raise RuntimeError("operation not permitted when stream is capturing")
        if fault == "has no memory":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        output = call()
        return lambda: output[0].add_(1), output

    spec, requests = tiny_spec("edit", pad=True), make_requests("edit", 9)
    expected = eager_images(spec, requests, monkeypatch)
    monkeypatch.setattr(recorder, "record", record)
    caplog.set_level(logging.INFO, "diffaug")
    backend = DiffusersBackend(spec)
    assert torch.equal(expected, images_of(backend, requests))
    assert torch.equal(expected, images_of(backend, requests))
    assert [line for line in caplog.messages if "no CUDA graphs" in line] == [
        "no CUDA graphs are used from now on: "
        + {
            "raises": "RuntimeError: operation not permitted when stream is capturing",
            "differs": "RuntimeError: a repeated call differs from the call itself",
            "has no memory": "OutOfMemoryError: CUDA out of memory.",
        }[fault]
    ]
    assert backend.batch_size == spec.batch_size


def test_what_is_not_a_number_repeats_exactly():
    module, fake = torch.nn.Linear(2, 2).requires_grad_(False), FakeRecorder()
    module.weight.fill_(torch.nan)
    Graphs(CPU, fake).add(module)
    with torch.no_grad():
        for _ in range(3):
            assert module(torch.ones(2)).isnan().all()
    assert fake.recorded == 1


def test_memory_of_recordings_is_given_up_before_the_batch_is_halved(recorder, monkeypatch):
    spec, requests = tiny_spec("edit", pad=True), make_requests("edit", 4)
    backend = DiffusersBackend(spec)
    expected = images_of(backend, requests)
    run, failures = pipeline.launch, []

    def launch(*arguments):
        if not failures:
            failures.append(recorder.repeated)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(*arguments)

    monkeypatch.setattr(pipeline, "launch", launch)
    assert torch.equal(expected, images_of(backend, requests))
    assert backend.batch_size == spec.batch_size
    assert recorder.repeated == failures[0]  # and none was made since


@pytest.mark.parametrize("recorded", [True, False])
def test_to_close_frees_the_model_and_its_recordings_and_gives_the_memory_back(
    recorded, recorder, monkeypatch
):
    if not recorded:
        monkeypatch.setattr(pipeline, "use_graphs", lambda *_: None)
    given_back = []
    backend = DiffusersBackend(tiny_spec("edit", pad=True))
    images_of(backend, make_requests("edit", 9))
    assert recorded == (recorder.recorded > 0)
    parts = [weakref.ref(backend._pipe.unet), weakref.ref(backend._pipe.vae)]
    # By then nothing may hold the memory that is to be given back.
    monkeypatch.setattr(
        pipeline, "free_unused", lambda: given_back.append([part() for part in parts])
    )
    backend.close()
    assert [[None, None]] == given_back


def test_gradients_are_never_recorded():
    module, fake = torch.nn.Linear(2, 2), FakeRecorder()
    Graphs(CPU, fake).add(module)
    for _ in range(3):
        assert module(torch.ones(2)).requires_grad
    assert fake.recorded == 0


def test_a_precise_decoding_leaves_the_recordings_right(recorder, monkeypatch):
    """A decoder that overflows moves its weights to float32 and back, in each batch."""
    spec, requests = tiny_spec("edit", pad=True, dtype="bfloat16"), make_requests("edit", 4)

    def overflow(backend):
        backend.generate(requests[:1])

        def hook(_, inputs, decoded):
            if inputs[0].dtype == torch.bfloat16:
                decoded[1] = torch.nan
            return decoded

        backend._pipe.vae.decoder.register_forward_hook(hook)
        return torch.stack([images_of(backend, requests) for _ in range(8)])

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "use_graphs", lambda *_: None)
        expected = overflow(DiffusersBackend(spec))
    assert torch.equal(expected, overflow(DiffusersBackend(spec)))


@pytest.mark.parametrize("reason", ["the CPU", "offload", "no U-Net", "the environment"])
def test_nothing_is_recorded_where_that_cannot_help(reason, monkeypatch):
    spec = tiny_spec("edit", offload=reason == "offload")
    device = torch.device("cpu" if reason == "the CPU" else "cuda")
    pipe = object()
    if reason != "no U-Net":
        pipe = type("Pipe", (), {"unet": torch.nn.Linear(1, 1)})()
    if reason == "the environment":
        monkeypatch.setenv("DIFFAUG_GRAPHS", "never")
    assert graphs.use_graphs(pipe, spec, device) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_repeated_calls_give_the_pixels_of_the_model_itself(monkeypatch):
    spec = tiny_spec("edit", pad=True, steps=4, device="cuda", dtype="float16")
    requests = make_requests("edit", 11)
    expected = eager_images(spec, requests, monkeypatch)
    backend = DiffusersBackend(spec)
    assert torch.equal(expected, images_of(backend, requests))
    assert backend._graphs.stop()
