"""Warming the cache: everything that can be asked for is there, and an epoch makes nothing."""

import threading

import pytest
import torch
from answers import refuse
from tiny_pipelines import tiny_spec
from torchvision.transforms import v2

from diffaug import (
    CachedBackend,
    DiffMix,
    DiffuseMix,
    FractalBank,
    FractalBlend,
    GenerationRequest,
    HalfConcat,
    ImageTransform,
    JointTransform,
    PromptEdit,
    RecordingBackend,
    backend_for,
    unload,
    warm_cache,
)
from diffaug.backends.base import BATCH_SIZE

BANK = FractalBank(2, 16)
NAMES = ["cat", "dog", "owl"]


def photos(count=5):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randint(0, 256, (3, 20, 24), generator=generator, dtype=torch.uint8), n % 3)
        for n in range(count)
    ]


@pytest.fixture
def backend(tmp_path):
    return CachedBackend(RecordingBackend(16), folder=tmp_path)


def transforms(backend):
    shared = {"backend": backend}
    return {
        "PromptEdit": (PromptEdit(["a", "b"], variants=3, p=0.5, **shared), 6),
        "HalfConcat": (HalfConcat(PromptEdit(["a", "b"], **shared)), 2),
        "DiffuseMix": (DiffuseMix(["a", "b"], variants=2, fractals=BANK, **shared), 4),
        "DiffMix": (DiffMix(NAMES, pool=4, strength="uniform", p=0.5, **shared), 4),
    }


@pytest.mark.parametrize("name", ["PromptEdit", "HalfConcat", "DiffuseMix", "DiffMix"])
def test_after_it_no_epoch_makes_anything(name, backend):
    transform, each = transforms(backend)[name]
    done = warm_cache(photos(), transform)
    assert (5 * each, 0, 0) == (done.made + done.cached, done.cached, done.refused)
    assert 5 * each == done.requests == len(backend.backend.requests)
    data = JointTransform(photos(), transform, seed=0)
    for epoch in range(20):
        data.set_epoch(epoch)
        for index in range(5):
            data[index]
    assert 5 * each == len(backend.backend.requests)

    again = warm_cache(photos(), transform)
    assert (0, 5 * each) == (again.made, again.cached)


class Sharpen(ImageTransform):
    """What someone else may write: it asks for one image and draws nothing."""

    def __init__(self, backend):
        super().__init__(p=1.0)
        self.backend = backend

    def requests(self, image, params):
        return [GenerationRequest("sharp", 1, source) for source in self.shrink(image)]


class SharpenSomehow(Sharpen):
    """Draws a seed for each image."""

    def draw(self, n, generator=None):
        seeds = torch.randint(3, (n,), generator=generator).tolist()
        return [{"seed": seed} for seed in seeds]


def test_a_transform_of_one_s_own_that_draws_nothing_is_warmed(backend):
    sharpen = Sharpen(backend)
    assert (5, 5) == ((done := warm_cache(photos(), sharpen)).requests, done.made)
    for image, _ in photos():
        sharpen(image)
    assert 5 == len(backend.backend.requests)


@pytest.mark.parametrize("wrap", [lambda inner: inner, HalfConcat])
def test_a_transform_of_one_s_own_that_draws_must_say_what(backend, wrap):
    message = "SharpenSomehow must override 'choices' to fill the cache: a method that lists all"
    with pytest.raises(TypeError, match=message):
        warm_cache(photos(), wrap(SharpenSomehow(backend)))
    assert [] == backend.backend.requests


def test_a_model_gets_full_batches_of_one_strength(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path))
    spec = tiny_spec("translate", batch_size=4)
    live = backend_for(spec)
    asked, generate = [], live.backend.generate
    monkeypatch.setattr(
        live.backend, "generate", lambda some: asked.append(list(some)) or generate(some)
    )
    mix = DiffMix(NAMES, strategy="real-mix", strength=[0.5, 1.0], pool=4, backend=spec)
    done = warm_cache(photos(6), mix)
    assert 24 == done.made == sum(map(len, asked))
    assert all(1 == len({request.strength for request in some}) for some in asked)
    assert len(asked) - 2 <= sum(4 == len(some) for some in asked)
    unload()


class Watched(list):
    """Samples that say when the last one of them is read."""

    def __init__(self, samples):
        super().__init__(samples)
        self.reads, self.read_again = 0, threading.Event()

    def __getitem__(self, index):
        if index == len(self) - 1:
            self.reads += 1
            if self.reads == 4:  # twice to look for chance, once to count, once to warm
                self.read_again.set()
        return super().__getitem__(index)


def test_images_are_read_while_the_model_runs(tmp_path):
    data = Watched(photos(2 * BATCH_SIZE))

    def wait(request, usual):
        assert data.read_again.wait(60), "the model waited for the images of the next batch"
        return usual

    backend = CachedBackend(RecordingBackend(16, answer=wait), folder=tmp_path)
    assert 2 * BATCH_SIZE == warm_cache(data, PromptEdit(["a"], backend=backend)).made


def test_an_image_that_occurs_twice_is_generated_once(backend):
    done = warm_cache(photos(3) * 4, PromptEdit(["a"], backend=backend))
    assert 3 == done.made == len(backend.backend.requests)


def test_what_stands_before_is_part_of_what_is_asked_for(backend):
    edit = PromptEdit(["a"], backend=backend)
    compose = v2.Compose([v2.Resize((12, 12)), edit, v2.RandomHorizontalFlip()])
    assert 5 == warm_cache(photos(), compose).made
    for image, _ in photos():
        compose(image)
    assert 5 == len(backend.backend.requests)


def test_a_random_step_before_is_found_out_and_the_cure_told(backend):
    compose = v2.Compose([v2.RandomCrop(8), PromptEdit(["a"], backend=backend)])
    with pytest.raises(ValueError, match="must not be random before PromptEdit.* Put random crops"):
        warm_cache(photos(), compose)
    assert [] == backend.backend.requests


def test_a_dry_run_counts_and_makes_nothing(backend):
    edit = PromptEdit(["a", "b"], backend=backend)
    done = warm_cache(photos(), edit, dry_run=True)
    assert (10, 0, 0) == (done.requests, done.cached, done.made) and done.bytes > 0
    assert [] == backend.backend.requests


def test_more_than_the_cache_takes_is_refused_before_anything_is_made(tmp_path):
    small = CachedBackend(RecordingBackend(64), folder=tmp_path, max_bytes=20_000)
    with pytest.raises(ValueError, match="'max_bytes' must be at least .* for the 45 images"):
        warm_cache(photos(), DiffuseMix(backend=small, fractals=BANK))
    assert [] == small.backend.requests


def test_what_the_model_refuses_is_counted(tmp_path):
    model = RecordingBackend(16, answer=refuse("bad"))
    edit = PromptEdit(["good", "bad"], backend=CachedBackend(model, folder=tmp_path))
    done = warm_cache(photos(), edit)
    assert (5, 5) == (done.made, done.refused)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda b: FractalBlend(fractals=BANK), TypeError, "must have one transform that gen.* 0"),
        (
            lambda b: v2.Compose([PromptEdit(backend=b), PromptEdit(backend=b)]),
            TypeError,
            "must have one transform that generates.* got 2",
        ),
        (
            lambda b: PromptEdit(backend=RecordingBackend()),
            ValueError,
            "keeps nothing",
        ),
        (lambda b: PromptEdit(variants=None, backend=b), ValueError, "'variants' must be a number"),
        (lambda b: DiffMix(NAMES, pool=None, backend=b), ValueError, "'pool' must be a number"),
    ],
)
def test_what_cannot_be_warmed_is_told(make, error, message, backend):
    with pytest.raises(error, match=message):
        warm_cache(photos(), make(backend))
