"""A random step before a transform, which makes the cache useless, is noticed; nothing else is."""

import pickle
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
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
from diffaug.images import to_pil
from diffaug.transforms import recurrence
from diffaug.transforms.recurrence import Recurrence

LENGTH = 40
MESSAGE = f"got {1.25 * LENGTH + 17:.0f} different images of a dataset of {LENGTH}: .* behind it"


@pytest.fixture
def backend(tmp_path):
    return CachedBackend(RecordingBackend(size=16), folder=tmp_path)


def picture(index):
    generator = torch.Generator().manual_seed(index)
    return torch.randint(0, 256, (3, 24, 24), generator=generator, dtype=torch.uint8)


class Photos(Dataset):
    """Pictures, with a transform as in ``ImageFolder``."""

    def __init__(self, transform, pil=False):
        self.transform, self.pil = transform, pil

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        image = picture(index)
        return self.transform(to_pil(image) if self.pil else image)


def read(loader, epochs):
    """Read a loader for some epochs, and return the warnings, of workers too."""
    for _ in range(epochs):
        for _ in loader:
            pass


def write_warnings(log):
    def show(message, *_):
        with log.open("a") as file:
            file.write(f"{message}\n")

    warnings.showwarning = show


def crops(mix):
    return v2.Compose([v2.RandomCrop(12), mix])


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("pil", [False, True])
def test_random_crops_before_a_transform_are_told_once_over_all_workers(backend, p, pil, tmp_path):
    mix = DiffuseMix(p=p, fractals=FractalBank(count=1, size=16), backend=backend)
    photos = Photos(v2.Compose([crops(mix), v2.ToImage()]), pil)
    log = tmp_path / "warnings"
    log.touch()
    loader = DataLoader(
        photos, 8, num_workers=2, multiprocessing_context="fork",
        worker_init_fn=lambda worker: write_warnings(log),
    )  # fmt: skip
    for _ in loader:
        pass
    assert "" == log.read_text()
    read(loader, 7)
    assert 1 == log.read_text().count("DiffuseMix got")
    assert f"different images of a dataset of {LENGTH}" in log.read_text()


def test_a_joint_transform_tells_it_in_the_process_itself(backend):
    mix = DiffMix(["cat", "dog"], strategy="real-mix", p=0.5, backend=backend)
    data = JointTransform([(picture(n), n % 2) for n in range(LENGTH)], crops(mix))
    with pytest.warns(UserWarning, match=f"^DiffMix {MESSAGE}"):
        read(data, 6)
    read(data, 2)


@pytest.mark.parametrize("before", [v2.CenterCrop(12), v2.RandomHorizontalFlip(0.1)])
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_images_that_come_back_are_not_told_however_many_prompts_there_are(backend, before, p):
    edit = PromptEdit(["snowy", "sunset"], variants=100, p=p, backend=backend)
    data = JointTransform([(picture(n), 0) for n in range(LENGTH)], v2.Compose([before, edit]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(data, 8)


@pytest.mark.parametrize(
    "changes", [{"cache": False}, {"variants": None}, {"backend": RecordingBackend(size=16)}]
)
def test_without_a_cache_nothing_is_told(backend, changes):
    edit = PromptEdit(["snowy"], **{"backend": backend, **changes})
    data = JointTransform([(picture(n), 0) for n in range(LENGTH)], crops(edit))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(data, 3)


def test_two_datasets_of_one_transform_are_told_apart():
    seen = Recurrence()
    for epoch in range(3):
        assert not any(seen.note(picture(n), 100) for n in range(100)), epoch
        assert not any(seen.note(picture(n), 20) for n in range(100, 120)), epoch


def test_of_a_large_dataset_a_share_of_the_images_is_enough(monkeypatch):
    monkeypatch.setattr(recurrence, "_MOST", 1024)

    def told(count, length):
        seen = Recurrence()
        images = torch.arange(3 * count, dtype=torch.int32).view(count, 3, 1, 1)
        return [n for n, image in enumerate(images) if seen.note(image, length)]

    length = 3 * 1024
    assert [] == told(length, length)
    [first] = told(round(1.5 * length), length)
    assert first == pytest.approx(1.25 * length, rel=0.1)


def test_it_pickles_as_nothing():
    seen = Recurrence()
    assert [17] == [n for n in range(40) if seen.note(picture(n), 1)]
    again = pickle.loads(pickle.dumps(seen))
    assert [17] == [n for n in range(40) if again.note(picture(n), 1)]
    assert len(pickle.dumps(seen)) < 100
