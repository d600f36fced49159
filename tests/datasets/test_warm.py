"""Warming the cache: everything that can be asked for is there, and an epoch makes nothing."""

import errno
import io
import os
import re
import threading

import pytest
import torch
from answers import refuse
from PIL import Image
from tiny_pipelines import tiny_spec
from torchvision.datasets import ImageFolder
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
from diffaug.backends import cache
from diffaug.backends.base import BATCH_SIZE
from diffaug.errors import DestinationError, GenerationError, UnreadableImageError

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


def test_a_disk_that_fills_ends_it_in_one_line_and_what_is_kept_stays(tmp_path, monkeypatch):
    cached = CachedBackend(RecordingBackend(16), folder=tmp_path)
    edit, kept, write = PromptEdit(["a", "b"], backend=cached), [], cache.write_whole

    def fills(path, data):
        if len(kept) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kept.append(path)
        write(path, data)

    monkeypatch.setattr(cache, "write_whole", fills)
    said = f"'{tmp_path}' could not be written to: No space left on device; once it can, run the"
    with pytest.raises(DestinationError, match=re.escape(said)):
        warm_cache(photos(), edit)
    monkeypatch.setattr(cache, "write_whole", write)
    done = warm_cache(photos(), edit)
    assert (10, 4, 6) == (done.requests, done.cached, done.made)


def test_to_compile_for_a_few_images_is_warned_of_where_the_caller_stands(tmp_path):
    model = RecordingBackend(16)
    model.spec = tiny_spec("edit", compile=True)
    edit = PromptEdit(["a"], backend=CachedBackend(model, folder=tmp_path))
    with pytest.warns(UserWarning, match="and 5 are to be made; set compile=False") as caught:
        warm_cache(photos(5), edit)
    assert [__file__] == [warning.filename for warning in caught]


def test_what_the_model_refuses_is_counted(tmp_path):
    model = RecordingBackend(16, answer=refuse("bad"))
    edit = PromptEdit(["good", "bad"], backend=CachedBackend(model, folder=tmp_path))
    done = warm_cache(photos(), edit)
    assert (5, 5) == (done.made, done.refused)


@pytest.mark.parametrize(("count", "outright"), [(5, False), (5, True), (1, False)])
def test_a_cache_that_holds_nothing_afterwards_is_no_success(tmp_path, count, outright):
    model = RecordingBackend(16, answer=refuse("bad", outright=outright))
    edit = PromptEdit(["bad"], backend=CachedBackend(model, folder=tmp_path))
    with pytest.raises(GenerationError, match=f"all {count} images that were made for the cache"):
        warm_cache(photos(count), edit)


def test_of_a_few_images_after_a_success_it_may_be_chance(tmp_path):
    model = RecordingBackend(16, answer=refuse("bad"))
    cached = CachedBackend(model, folder=tmp_path)
    warm_cache(photos(3), PromptEdit(["good"], backend=cached))
    both = PromptEdit(["good", "bad"], backend=cached)
    done = warm_cache(photos(3), both)
    assert (3, 0, 3) == (done.cached, done.made, done.refused)
    warm_cache(photos(5), PromptEdit(["good"], backend=cached))
    with pytest.raises(GenerationError, match="all 5 images that were made for the cache"):
        warm_cache(photos(5), both)


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


class Broken(list):
    """Samples of which some raise, as damaged files do in anyone's dataset."""

    errors = {1: OSError("image file is\n truncated"), 3: ValueError("embedded null byte")}

    def __getitem__(self, index):
        if index in self.errors:
            raise self.errors[index]
        return super().__getitem__(index)


def test_items_that_cannot_be_read_are_skipped_and_named(backend):
    done = warm_cache(Broken(photos(6)), PromptEdit(["a"], backend=backend))
    assert (4, 4) == (done.requests, done.made)
    expected = (("item 1", "image file is truncated"), ("item 3", "embedded null byte"))
    assert expected == done.skipped
    again = warm_cache(Broken(photos(6)), PromptEdit(["a"], backend=backend), dry_run=True)
    assert (expected, 4) == (again.skipped, again.cached)


def test_a_file_that_cannot_be_read_is_named_by_its_path(tmp_path, backend):
    for name in ("cat/1.png", "cat/2.png", "owl/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), "orange").save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "cat" / "2.png").write_bytes(b"")
    done = warm_cache(ImageFolder(tmp_path / "photos"), PromptEdit(["a"], backend=backend))
    assert ["cat/2.png"] == [skipped.source for skipped in done.skipped]


def test_strict_stops_at_the_first_item_that_cannot_be_read(backend):
    with pytest.raises(UnreadableImageError, match="item 1 could not be read: image file is tr"):
        warm_cache(Broken(photos(6)), PromptEdit(["a"], backend=backend), strict=True)
    assert [] == backend.backend.requests


def test_an_image_that_pillow_reads_late_is_skipped_too(backend):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(file, "png")
    data = [(Image.open(io.BytesIO(file.getvalue()[:1000])), 0), *photos(2)]
    edit = v2.Compose([v2.Resize((12, 12)), PromptEdit(["a"], backend=backend)])
    done = warm_cache(data, edit)
    assert (2, ["item 0"]) == (done.made, [skipped.source for skipped in done.skipped])


class Gone:
    """A dataset whose disk is gone."""

    def __init__(self, length):
        self.length, self.reads = length, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads += 1
        raise OSError("input/output error")


def test_a_dataset_of_which_nothing_can_be_read_is_an_error(backend):
    edit = PromptEdit(["a"], backend=backend)
    with pytest.raises(UnreadableImageError, match="none of the 5 items .* first is item 0: input"):
        warm_cache(Gone(5), edit)
    gone = Gone(10**6)
    with pytest.raises(
        UnreadableImageError, match="100 items in a row could not be read; the last"
    ):
        warm_cache(gone, edit)
    assert gone.reads < 300


def test_an_empty_dataset_and_a_stream_are_named(backend):
    edit = PromptEdit(["a"], backend=backend)
    with pytest.raises(ValueError, match="'dataset' must hold images, and it is empty"):
        warm_cache([], edit)
    with pytest.raises(TypeError, match="'dataset' must have a length and integer indices"):
        warm_cache(iter(photos()), edit)


def test_labels_are_not_asked_for_where_none_is_needed(backend):
    alone = [image for image, _ in photos(3)]
    assert 3 == warm_cache(alone, PromptEdit(["a"], backend=backend)).made
    pairs = [{"image": image, "boxes": None} for image in alone]
    assert 3 == warm_cache(pairs, PromptEdit(["a"], backend=backend)).cached


def test_image_and_label_are_where_getters_say(backend):
    data = [{"__key__": "x", "jpg": image, "cls": label} for image, label in photos()]
    mix = DiffMix(NAMES, pool=2, labels_getter="cls", p=0.5, backend=backend)
    done = warm_cache(data, v2.Compose([v2.Resize((16, 16)), mix]), image_getter="jpg")
    assert 10 == done.made
    data = [{**sample, "image": sample["jpg"]} for sample in data]
    plain = DiffMix(NAMES, pool=2, p=0.5, backend=backend)
    small = v2.Compose([v2.Resize((16, 16)), plain])
    assert 10 == warm_cache(data, small, labels_getter=lambda sample: sample["cls"]).cached
    with pytest.raises(
        TypeError, match="under one of the keys label, .* or give warm_cache its 'la"
    ):
        warm_cache(data, plain)


class Silent(SharpenSomehow):
    """Lists nothing, although it draws."""

    def choices(self, image, label):
        return iter([])


class Forgetful(SharpenSomehow):
    """Lists less than it draws."""

    def requests(self, image, params):
        return [
            GenerationRequest("sharp", drawn["seed"], source)
            for source, drawn in zip(self.shrink(image), params, strict=True)
        ]

    def choices(self, image, label):
        return iter([{"seed": 0}, {"seed": 1}])


class Heavier(PromptEdit):
    """Draws what its base does not list."""

    def draw(self, n, generator=None):
        return [{"prompt": "b", "variant": 0} for _ in range(n)]


class Mute(Sharpen):
    """Asks for nothing."""

    def requests(self, image, params):
        return []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            Silent,
            r"'choices' of Silent must list all params .* its 0 requests lack that of {'seed'",
        ),
        (Forgetful, "'choices' of Forgetful must list all params .* its 2 requests lack that of"),
        (lambda b: Heavier(["a"], backend=b), "'choices' of Heavier .* its 1 requests lack that"),
        (Mute, "must ask for images, and Mute asks for none for any of the 5 items"),
    ],
)
def test_choices_that_lack_what_is_drawn_are_an_error(make, message, backend):
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        warm_cache(photos(), make(backend))
    assert torch.equal(before, torch.get_rng_state())
    assert [] == backend.backend.requests


def test_classes_in_another_order_than_the_dataset_s_are_an_error(backend):
    class Named(list):
        classes = ["owl", "cat", "dog"]

    mapping = {"cat": "a cat", "dog": "a dog", "owl": "an owl"}
    mix = DiffMix(mapping, p=0.5, backend=backend)
    with pytest.raises(ValueError, match="'owl' is class 0 there and class 2 in DiffMix"):
        warm_cache(Named(photos()), mix)
    mix = DiffMix({name: mapping[name] for name in Named.classes}, p=0.5, backend=backend)
    assert 25 == warm_cache(Named(photos()), mix).made
