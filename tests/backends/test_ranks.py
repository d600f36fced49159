"""A process's own GPU: chosen by itself, by the process whose worker it is, or by a launcher."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from fake_cuda import train_on

from diffaug import ModelSpec
from diffaug.backends import ranks
from diffaug.backends.devices import choose_device
from diffaug.backends.ranks import Choice, chosen_gpu, inherit, local_rank

pytestmark = pytest.mark.usefixtures("no_launcher")


@pytest.mark.parametrize("name", ranks.LAUNCHERS)
def test_every_launcher_says_which_rank_this_is(monkeypatch, name):
    assert 0 == local_rank()
    monkeypatch.setenv(name, "3")
    assert 3 == local_rank()


@pytest.mark.parametrize("value", ["", "first", "-1"])
def test_a_rank_that_is_no_number_is_one_line(monkeypatch, value):
    monkeypatch.setenv("LOCAL_RANK", value)
    with pytest.raises(ValueError, match=f"'LOCAL_RANK' must be .*, got '{value}'; unset it, or"):
        local_rank()


def test_a_worker_s_own_model_is_on_the_gpu_of_its_parent_until_it_uses_one_itself(monkeypatch):
    train_on(monkeypatch, 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert torch.device("cuda:0") == choose_device("auto")
    inherit(Choice(3, ranks.visible_gpus()))
    assert torch.device("cuda:3") == choose_device("auto")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert torch.device("cuda:2") == choose_device("auto")


def test_a_number_means_nothing_where_other_gpus_are_seen(monkeypatch):
    inherit(Choice(1, ranks.visible_gpus()))
    assert 1 == chosen_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # to keep the workers off the GPUs
    assert 0 == chosen_gpu()


def test_a_spec_says_nothing_of_its_process_but_to_a_child_that_is_started(monkeypatch):
    spec = ModelSpec("my/model", size=64)
    before = pickle.dumps(spec)
    train_on(monkeypatch, 1)
    assert before == pickle.dumps(spec)
    monkeypatch.setattr(ranks, "_inherited", None)
    for copied in (pickle.loads(before), copy.deepcopy(spec)):
        assert spec == copied and hash(spec) == hash(copied)
        assert spec.fingerprint == copied.fingerprint
    assert ranks._inherited is None


def test_to_look_for_a_rank_s_gpu_neither_imports_torch_nor_starts_cuda():
    code = (
        "import sys; from diffaug.backends.ranks import chosen_gpu; "
        "print(chosen_gpu(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "0 False" == done.stdout.strip()
