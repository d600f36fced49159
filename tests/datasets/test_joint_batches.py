"""JointTransform in batches: the images of a batch are generated together, and are the same."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import transforms as v1
from torchvision.transforms import v2

from diffaug import (
    CachedBackend,
    DiffMix,
    DiffuseMix,
    FractalBank,
    JointTransform,
    PromptEdit,
    RecordingBackend,
)

BANK = FractalBank(count=2, size=16)


class Photos:
    """Photographs of two classes; how often each was read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.read.append(index)
        image = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(index))
        return image + 0 * torch.rand(()), index % 2


class Counting(RecordingBackend):
    """Note how many requests each call has."""

    def __init__(self):
        super().__init__(16)
        self.calls = []

    def generate(self, requests):
        self.calls.append(len(requests))
        return super().generate(requests)


def edit(backend):
    return DiffuseMix(["snowy", "sunset"], p=1.0, backend=backend, fractals=BANK, variants=None)


def joint(transform, **settings):
    return JointTransform(Photos(), transform, **{"seed": 3, **settings})


def same(first, second):
    return all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def crops(*inside):
    return [v2.RandomCrop(18), *inside, v2.RandomHorizontalFlip(), v2.RandomCrop(14)]


@pytest.mark.parametrize("compose", [v1.Compose, v2.Compose])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_a_batch_is_what_its_items_are_one_by_one(compose, p):
    def made(backend):
        mix = DiffMix(["cat", "dog"], backend=backend, p=0.5, pool=None)
        mix.p = p  # above 0.5 it warns
        return joint(compose(crops(v2.Compose([edit(backend)]), mix)))

    together, alone = Counting(), Counting()
    batch = made(together).__getitems__([3, 1, 3, 8])
    data = made(alone)
    assert same([data[n] for n in (3, 1, 3, 8)], batch)
    assert sum(alone.calls) == sum(together.calls) and 1 == max(alone.calls)
    assert len(together.calls) == 2  # one for each transform


def test_each_item_is_read_once_and_all_are_asked_for_at_once():
    backend = Counting()
    data = joint(v2.Compose(crops(edit(backend))))
    list(DataLoader(data, 6, shuffle=True))
    assert [6, 6] == backend.calls
    assert list(range(12)) == sorted(data.dataset.read)


def test_a_large_batch_is_asked_for_in_parts(monkeypatch):
    monkeypatch.setattr("diffaug.datasets.joint.MOST_AT_ONCE", 5)
    backend = Counting()
    joint(edit(backend)).__getitems__(range(12))
    assert [5, 5, 2] == backend.calls


def test_a_loader_s_workers_do_not_change_a_batch():
    expected = list(DataLoader(joint(edit(RecordingBackend(16))), 4))
    for workers in (1, 2):
        loader = DataLoader(joint(edit(RecordingBackend(16))), 4, num_workers=workers)
        assert same(expected, list(loader))


def test_a_subset_asks_for_its_batch_at_once():
    backend = Counting()
    list(DataLoader(Subset(joint(edit(backend)), [5, 7, 9]), 3))
    assert [3] == backend.calls


def test_without_a_seed_a_batch_follows_from_torch_s_generator_and_items_differ():
    backend = Counting()
    data = joint(v2.Compose([PromptEdit(["snowy"], backend=backend, variants=None)]), seed=None)
    batches = []
    for _ in range(2):
        torch.manual_seed(5)
        batches.append(data.__getitems__([2, 2, 4]))
    assert same(*batches)
    assert not torch.equal(batches[0][0][0], batches[0][1][0])
    assert [3, 3] == backend.calls


def test_the_generators_are_left_as_they_were():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    data = joint(edit(RecordingBackend(16)), then=lambda image: image * np.random.rand())
    batch = data.__getitems__([1, 2, 3])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()
    again = joint(edit(RecordingBackend(16)), then=lambda image: image * np.random.rand())
    assert same([again[n] for n in (1, 2, 3)], batch)


def test_while_it_is_off_nothing_is_generated_and_the_rest_is_drawn_alike():
    backend = Counting()
    data = joint(v2.Compose(crops(edit(backend))))
    data.enabled = False
    batch = data.__getitems__([0, 1])
    again = joint(v2.Compose(crops(edit(backend))))
    again.enabled = False
    assert same([again[0], again[1]], batch)
    assert not backend.calls


def test_what_the_cache_has_is_not_asked_for(tmp_path):
    backend = Counting()
    cached = CachedBackend(backend, folder=tmp_path)
    mix = DiffuseMix(["snowy"], p=1.0, backend=cached, fractals=BANK)
    joint(mix)[0]
    joint(mix).__getitems__([0, 1, 2, 2])
    assert [1, 2] == backend.calls


def test_a_dataset_of_one_s_own_below_keeps_its_own_items():
    class Mine(JointTransform):
        def __getitem__(self, index):
            return index

    assert [4, 2] == Mine(Photos(), edit(Counting())).__getitems__([4, 2])


def test_an_error_of_one_item_is_the_error_of_the_batch():
    def fail(image):
        raise RuntimeError("no such crop")

    with pytest.raises(RuntimeError, match="no such crop"):
        joint(v2.Compose([edit(Counting()), fail])).__getitems__([0, 1])
