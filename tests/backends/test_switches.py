"""What a training script sets for itself does not change what a model makes."""

import pytest
import torch
from tiny_pipelines import make_requests, tiny_spec

from diffaug import DiffusersBackend
from diffaug.backends.switches import own_switches

CPU = torch.device("cpu")


def settings():
    cudnn = torch.backends.cudnn
    return (
        cudnn.enabled,
        cudnn.benchmark,
        cudnn.deterministic,
        cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled("cpu"),
    )


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
        assert (True, False, True, not exact, "highest", False) == settings()
    assert before == settings()


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


@pytest.mark.parametrize("task", ["edit", "translate"])
def test_autocast_around_a_model_changes_no_pixel(task, request):
    backend = DiffusersBackend(tiny_spec(task))
    expected = backend.generate(make_requests(task))
    request.getfixturevalue("training")
    made = backend.generate(make_requests(task))
    assert all(torch.equal(a.image, b.image) for a, b in zip(expected, made, strict=True))
