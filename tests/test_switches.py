"""What a training script sets for itself does not change what a model makes."""

import threading

import pytest
import torch
from ambient import AMBIENT, settings
from gpus import on_each_device
from image_folders import contents, save_photos
from tiny_pipelines import make_request, make_requests, tiny_spec
from torch.nn.attention import SDPBackend
from torchvision.transforms import v2

from diffaug import (
    CachedBackend,
    DiffMix,
    DiffuseMix,
    DiffusersBackend,
    FractalBank,
    HalfConcat,
    PromptEdit,
    RecordingBackend,
    augment_folder,
    preview,
    warm_cache,
)
from diffaug.images import read_image
from diffaug.switches import own_defaults, own_switches

CPU = torch.device("cpu")
in_each_state = pytest.mark.parametrize("state", AMBIENT)


@pytest.fixture
def training(monkeypatch):
    """Set what training scripts set."""
    precision = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", torch.bfloat16):
        yield
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("exact", [True, False])
def test_a_model_runs_under_settings_of_its_own_and_the_caller_s_come_back(training, exact):
    before = settings()
    with own_switches(CPU, exact):
        inside = settings()
    assert (True, False, True, not exact) == inside["cuDNN"]
    assert ("highest", False) == (inside["precision"], inside["autocast"][0])
    assert before == settings()


@pytest.mark.parametrize(
    ("gpu", "cudnn", "first"),
    [
        ((9, 0), 91900, "CUDNN"),
        ((9, 0), 90501, "FLASH"),
        ((8, 6), 91900, "FLASH"),
        (None, 91900, "FLASH"),
    ],
)
def test_attention_is_chosen_by_torch_s_rule_and_not_by_the_caller(monkeypatch, gpu, cudnn, first):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpu)
    before = torch._C._get_sdp_priority_order()
    device = torch.device("cuda", 0) if gpu else CPU
    with AMBIENT["an order of attention"](), own_switches(device, exact=False):
        inside = torch._C._get_sdp_priority_order()
    assert int(getattr(SDPBackend, f"{first}_ATTENTION")) == inside[0]
    assert before == torch._C._get_sdp_priority_order()


def test_the_caller_s_settings_come_back_after_an_error(training):
    before = settings()
    with pytest.raises(ZeroDivisionError), own_switches(CPU, True):
        1 / 0  # noqa: B018
    assert before == settings()


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch has one interface")
def test_the_newer_interface_of_torch_is_respected(monkeypatch):
    """It must be read and set by itself: the older one raises once it was used."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        matmul.fp32_precision, conv.fp32_precision = "tf32", "ieee"
        with own_switches(CPU, exact=False):
            assert ("ieee", "tf32") == (matmul.fp32_precision, conv.fp32_precision)
        assert ("tf32", "ieee") == (matmul.fp32_precision, conv.fp32_precision)
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


@in_each_state
def test_a_model_runs_as_in_a_fresh_process_and_the_caller_s_state_comes_back(state):
    with own_switches(CPU, exact=True):
        fresh = settings()
    with AMBIENT[state]():
        before = settings()
        with own_switches(CPU, exact=True):
            inside = settings()
        assert before == settings()
    for name in fresh.keys() - {"anomalies", "numpy"}:
        assert fresh[name] == inside[name], name


@on_each_device
@in_each_state
@pytest.mark.parametrize("task", ["edit", "translate"])
def test_a_model_makes_the_same_images_and_leaves_the_state_alone(task, state, device):
    requests, spec = make_requests(task), tiny_spec(task, device=device, pad=True)
    expected = DiffusersBackend(spec).generate(requests)
    backend = DiffusersBackend(spec)
    with AMBIENT[state]():
        before = settings()
        made = backend.generate(requests)  # loads, too
        assert before == settings()
    for a, b in zip(expected, made, strict=True):
        assert torch.equal(a.image, b.image)
        b.image.add_(1)  # which an inference tensor refuses
    again = backend.generate(requests[:1])  # a model loaded meanwhile is as good
    assert torch.equal(expected[0].image, again[0].image)


def _augmented(images):
    """Return what each transform makes of images, and the keys of what it asks for."""
    backend, bank = RecordingBackend(size=24), FractalBank(count=2, size=16)
    results = []
    for transform in (
        DiffuseMix(p=0.5, alpha=(0.1, 0.3), masks="genmix", fractals=bank, backend=backend),
        DiffuseMix(recipe="release", p=1.0, fractals=bank, backend=backend),
        PromptEdit(backend=backend),
        HalfConcat(v2.RandomInvert(p=0.5)),
        DiffMix(["cat", "dog"], strategy="real-mix", backend=backend),
    ):
        torch.default_generator.manual_seed(0)
        for image in images:
            inputs = ((image, 1),) if isinstance(transform, DiffMix) else (image,)
            result = transform(*inputs)
            results += [result] if torch.is_tensor(result) else result
    return results, [request.key("") for request in backend.requests]


@in_each_state
def test_transforms_ask_for_the_same_and_give_the_same(state):
    levels = make_request(n=9).image
    images = [levels, levels / 255, (levels / 255).half(), levels[:1] / 255]
    expected, keys = _augmented(images)
    with AMBIENT[state]():
        results, asked = _augmented(images)
    assert keys == asked
    for a, b in zip(expected, results, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@in_each_state
def test_fractals_that_all_processes_share_are_rendered_the_same(state, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "plain"))
    expected = FractalBank(count=1, size=32)[0]
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / state))
    with AMBIENT[state]():
        assert expected.tolist() == FractalBank(count=1, size=32)[0].tolist()


@pytest.mark.parametrize("state", ["autocast", "float64", "bfloat16", "another device"])
def test_an_offline_set_a_preview_and_a_warm_cache_are_the_same(state, tmp_path):
    folder = save_photos(tmp_path / "photos", ["cat/0.png", "dog/1.png"])
    mix = DiffuseMix(
        alpha=(0.1, 0.3), masks="genmix", fractals=FractalBank(count=2, size=16),
        backend=CachedBackend(RecordingBackend(size=16), folder=tmp_path / "cache"),
    )  # fmt: skip
    pairs = DiffMix(["cat", "dog"], strategy="real-mix", backend=RecordingBackend(size=16))
    for name, transform in (("mix", mix), ("pairs", pairs)):
        augment_folder(folder, tmp_path / name, transform, seed=0)
    preview(folder, tmp_path / "mix" / "sheet.png", mix, tile=32)
    made = warm_cache([(read_image(folder / "cat/0.png"), 0)], mix).made
    with AMBIENT[state]():
        for name, transform in (("mix", mix), ("pairs", pairs)):
            augment_folder(folder, tmp_path / state / name, transform, seed=0)
        preview(folder, tmp_path / state / "mix" / "sheet.png", mix, tile=32)
        again = warm_cache([(read_image(folder / "cat/0.png"), 0)], mix)
    assert made > 0 and (0, 9) == (again.made, again.cached)
    for name in ("mix", "pairs"):
        expected, found = contents(tmp_path / name), contents(tmp_path / state / name)
        assert expected.keys() == found.keys()
        assert [] == [key for key in expected if key != "run.json" and expected[key] != found[key]]


def test_a_default_device_that_a_fork_has_lost_is_set_aside(monkeypatch):
    def fail(*sizes):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")

    monkeypatch.setattr(torch, "empty", fail)
    with torch.device("meta"), own_defaults():
        assert "cpu" == torch.rand(1).device.type


def test_gradients_pass_through_what_a_transform_calculates():
    image = torch.full((3, 8, 8), 0.5, requires_grad=True)
    mix = DiffuseMix(p=1.0, fractals=FractalBank(count=1, size=16), backend=RecordingBackend())
    with own_defaults():
        mix(image).sum().backward()
    assert image.grad.count_nonzero()


def test_two_threads_do_not_restore_the_switches_under_each_other():
    torch.backends.cudnn.benchmark = True
    try:
        entered, seen = threading.Event(), []

        def run():
            entered.set()
            with own_switches(CPU, exact=False):
                seen.append(torch.backends.cudnn.allow_tf32)

        with own_switches(CPU, exact=True):
            thread = threading.Thread(target=run)
            thread.start()
            entered.wait()
            assert not seen and not torch.backends.cudnn.allow_tf32
        thread.join()
        assert [True] == seen and torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False
