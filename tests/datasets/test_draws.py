"""Seeded draws: another one each time that an item is asked for, whichever worker asks."""

import copy
import pickle
import threading
from collections import Counter

import pytest
import torch
from image_folders import picture
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, WeightedRandomSampler
from torchvision.transforms import v2

from diffaug import (
    DiffMix,
    JointTransform,
    MixCollate,
    MixedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
)
from diffaug.datasets import draws
from diffaug.datasets.draws import Draws
from diffaug.seeds import asking, derive_seed

NAMES = ["cat", "dog", "fox"]


class Photos(Dataset):
    """Six small photographs of three classes."""

    classes = NAMES

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return picture(index, 16, 16), index % 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "set"
    mix = DiffMix(NAMES, strategy="real-mix", pairs="other", backend=RecordingBackend(16))
    augment_dataset(Photos(), folder, mix, per_image=3, format="png")
    return folder


STEPS = v2.Compose([v2.ToImage(), v2.Resize((16, 16)), v2.RandomCrop(12), v2.ColorJitter(0.4)])


def joint(dataset):
    return JointTransform(dataset, STEPS, seed=0)


def mixed(dataset, folder):
    return MixedDataset(dataset, folder, p=0.5, seed=3)


KINDS = {
    "joint": lambda folder: joint(Photos()),
    "mixed": lambda folder: JointTransform(mixed(Photos(), folder), v2.ToImage()),
    "mixed in joint": lambda folder: joint(mixed(Photos(), folder)),
    "subset in joint": lambda folder: joint(Subset(mixed(Photos(), folder), [5, 5, 1, 0, 5, 2])),
    "joint in mixed": lambda folder: JointTransform(mixed(joint(Photos()), folder), v2.ToImage()),
}


def bag(data, workers, method=None, repeats=8):
    """Count the pictures of a loader that asks for each item several times."""
    order = [index for index in range(6) for _ in range(repeats)]
    loader = DataLoader(
        data,
        batch_size=1,
        sampler=order,
        num_workers=workers,
        multiprocessing_context=method,
        timeout=120 if workers else 0,
        collate_fn=list,
    )
    return Counter((image.numpy().tobytes(), str(label)) for [(image, label)] in loader)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_draw_what_one_process_draws(folder, kind):
    here, there = KINDS[kind](folder), KINDS[kind](folder)
    for data in (here, there):
        data.set_epoch(1)
    drawn = bag(here, 0)
    assert drawn == bag(there, 2, "fork")
    # Six real pictures and eighteen generated ones, which are cropped and coloured in a joint.
    assert len(drawn) > {"mixed": 12, "joint in mixed": 12}.get(kind, 40)
    for data in (here, there):
        data.set_epoch(1)
    assert drawn == bag(there, 0) == bag(here, 2, "fork")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_share_the_counts_too(folder, method):
    here, there = (KINDS["mixed in joint"](folder) for _ in range(2))
    assert bag(here, 0) == bag(there, 2, method)
    assert bag(here, 0) == bag(there, 2, "fork")  # a second time, in other workers


def test_rare_images_that_are_drawn_more_often_are_drawn_anew():
    labels = torch.tensor([0] * 18 + [1] * 2)
    photos = [(picture(0, 32, 32), label) for label in labels]
    crops = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.RandomCrop(8), v2.ColorJitter(1)])
    weights = (1 / torch.bincount(labels).double())[labels]
    for workers in (0, 2):
        data = JointTransform(photos, crops, seed=0)
        data.set_epoch(0)
        sampler = WeightedRandomSampler(weights, 40, generator=torch.Generator().manual_seed(1))
        loader = DataLoader(data, 8, sampler=sampler, num_workers=workers, collate_fn=MixCollate(2))
        rare = [
            image.numpy().tobytes()
            for images, soft in loader
            for image, label in zip(images, soft, strict=True)
            if label[1] == 1
        ]
        assert len(rare) > 10 and len(set(rare)) == len(rare)


def test_the_first_time_the_seed_is_that_of_seed_epoch_and_index():
    kept = Draws("sample", 7, 5)
    assert derive_seed("sample", 7, 0, 3) == kept.seed_of(3)
    kept.set_epoch(2, 5)
    assert derive_seed("sample", 7, 2, 3) == kept.seed_of(3)
    assert derive_seed("sample", 7, 2, 3, 1) == kept.seed_of(3)
    assert derive_seed("sample", 7, 2, 4) == kept.seed_of(4)


def test_within_an_outer_item_nothing_is_counted():
    kept = Draws("sample", 7, 5)
    with asking(3):
        assert [derive_seed("sample", 7, 0, 3)] * 2 == [kept.seed_of(3), kept.seed_of(3)]
    with asking(3, 1):
        assert derive_seed("sample", 7, 0, 3, 1) == kept.seed_of(3)
        assert len({kept.seed_of(4), derive_seed("sample", 7, 0, 4, 3, 1), kept.seed_of(2)}) == 3
    assert derive_seed("sample", 7, 0, 3) == kept.seed_of(3)


def test_one_dataset_twice_in_another_draws_twice():
    inner = joint(Photos())
    data = JointTransform(ConcatDataset([inner, inner]), v2.Identity(), seed=1)
    assert not torch.equal(data[0][0], data[6][0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_a_copy_counts_on_alone(copied):
    kept = Draws("sample", 0, 4)
    kept.seed_of(1)
    other = copied(kept)
    assert derive_seed("sample", 0, 0, 1, 1) == other.seed_of(1) == kept.seed_of(1)
    other.set_epoch(0, 4)
    assert derive_seed("sample", 0, 0, 1) == other.seed_of(1)
    assert derive_seed("sample", 0, 0, 1, 2) == kept.seed_of(1)


def test_a_pickle_of_a_large_dataset_is_small_after_an_epoch():
    data = JointTransform(range(200_000), v2.Identity(), seed=0)
    data._draws._counts.fill_(1)
    assert len(pickle.dumps(data)) < 4096 + len(pickle.dumps(v2.Identity()))


def test_threads_are_told_apart():
    kept, seeds = Draws("sample", 0, 1), []
    kept.set_epoch(0, 1)
    ask = [
        threading.Thread(target=lambda: seeds.extend(kept.seed_of(0) for _ in range(200)))
        for _ in range(4)
    ]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join()
    assert 800 == len(set(seeds))


def test_a_worker_that_was_killed_with_the_lock_stops_nobody(monkeypatch):
    monkeypatch.setattr(draws, "PATIENCE", 0.01)
    kept = Draws("sample", 0, 2)
    kept._lock._lock.acquire()
    assert derive_seed("sample", 0, 0, 1) == kept.seed_of(1)
    monkeypatch.setattr(draws, "PATIENCE", 60.0)
    assert derive_seed("sample", 0, 0, 1, 1) == kept.seed_of(1)  # and the lock is free again


def test_a_set_on_disk_has_what_is_drawn_the_first_time(tmp_path):
    backend = RecordingBackend(16)
    edit = PromptEdit(["snowy"], backend=backend)
    data = joint(Photos())
    expected = [joint(Photos())[index][0] for index in range(6)]
    data[0]
    for name in ("set", "again"):
        augment_dataset(data, tmp_path / name, edit, per_image=2, class_names=NAMES)
    images = [request.image.numpy().tobytes() for request in backend.requests]
    assert 24 == len(images)
    assert {image.numpy().tobytes() for image in expected} == set(images)


@pytest.mark.timeout(120)
def test_an_epoch_may_begin_while_workers_read():
    data = joint(Photos())
    loader = DataLoader(data, 1, sampler=[0, 1, 2] * 20, num_workers=2, collate_fn=list)
    for number, _ in enumerate(loader):
        if number % 10 == 0:
            data.set_epoch(number)
    assert 59 == number
