"""Training from recordings: the same weights as without, and nothing lost where it fails."""

import copy

import pytest
import torch
from torch import nn

from diffaug import training_graphs
from diffaug.comparison.networks import SmallResNet
from diffaug.comparison.training import train
from diffaug.switches import own_switches
from diffaug.training_graphs import Recorded


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU, which lets a CPU take that path."""

    is_cuda = True


@pytest.fixture
def rehearsed(monkeypatch):
    """Record as CUDA does: run the module first, and replace its ``forward``."""
    made = []

    def record(module, samples):
        for _ in range(3):
            module(*samples)
        forward = module.forward
        made.append(module)
        module.forward = lambda *inputs: forward(*inputs)
        return module

    monkeypatch.setattr(training_graphs, "record", record)
    monkeypatch.setattr(torch.random, "fork_rng", _no_fork)
    return made


class _no_fork:
    def __init__(self, devices=()):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def on_gpu(*shape, seed=0):
    images = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return images.as_subclass(OnGpu)


def test_recording_leaves_no_trace_in_the_module(rehearsed):
    model = SmallResNet(3, width=4).train()
    before = copy.deepcopy(model.state_dict())
    call = Recorded(model)
    call._record((on_gpu(2, 3, 32, 32),))
    assert len(rehearsed) == 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert "forward" not in vars(model)


def test_calls_of_another_shape_run_as_they_are(rehearsed):
    model = nn.Linear(4, 2)
    call = Recorded(model)
    first, other = on_gpu(3, 4), on_gpu(5, 4)
    assert call(first).shape == (3, 2)
    repeated = []
    call._repeat = lambda *inputs: repeated.append(inputs) or model(*inputs)
    call(other)
    assert not repeated
    call(first)
    assert len(repeated) == 1


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch, caplog):
    def record(module, samples):
        module(*samples)
        raise RuntimeError("no graphs\nhere")

    monkeypatch.setattr(training_graphs, "record", record)
    monkeypatch.setattr(torch.random, "fork_rng", _no_fork)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    model = nn.BatchNorm1d(4).train()
    call = Recorded(model)
    with caplog.at_level("INFO", logger="diffaug"):
        assert call(on_gpu(3, 4)).shape == (3, 4)
    assert "training uses no CUDA graphs: no graphs" in caplog.text
    assert model.num_batches_tracked == 1  # of the call alone


def test_a_cpu_and_a_user_who_does_not_want_it_record_nothing(rehearsed, monkeypatch):
    Recorded(nn.Linear(4, 2))(torch.zeros(1, 4))
    monkeypatch.setenv("DIFFAUG_GRAPHS", "never")
    Recorded(nn.Linear(4, 2))(on_gpu(1, 4))
    assert not rehearsed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_from_recordings_gives_the_same_weights(monkeypatch):
    states = []
    for wanted in ("never", "auto"):
        monkeypatch.setenv("DIFFAUG_GRAPHS", wanted)
        torch.manual_seed(0)
        model = SmallResNet(3).cuda()
        draws = torch.Generator().manual_seed(1)
        labels = torch.eye(3)[[0, 1, 2, 0] * 4].cuda()
        images = torch.rand(20, 16, 3, 64, 64, generator=draws).cuda()
        batches = [(part, labels) for part in images]
        with own_switches(torch.device("cuda"), exact=False, learn=True):
            train(model, batches, steps=20, rate=1e-3)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
