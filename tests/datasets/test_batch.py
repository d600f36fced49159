"""Batches augmented one ahead: the same draws, in order, and nothing of training's disturbed."""

import threading
import time

import pytest
import torch
from model_processes import wait_for
from torchvision.transforms import v2

from diffaug import BatchAugment, DiffMix, DiffuseMix, FractalBank, HalfConcat, RecordingBackend

BANK = FractalBank(2, 16)


def batches(count=4):
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(3, 3, 16, 16, generator=generator), torch.arange(3)) for _ in range(count)]


def mix(backend=None, **options):
    return DiffuseMix(p=1.0, backend=backend or RecordingBackend(16), fractals=BANK, **options)


def test_every_batch_comes_out_augmented_in_order_with_its_labels():
    made = list(BatchAugment(batches(), mix()))
    assert 4 == len(made) == len(BatchAugment(batches(), mix()))
    for (images, labels), (before, truth) in zip(made, batches(), strict=True):
        assert images.shape == before.shape and not torch.equal(images, before)
        assert torch.equal(truth, labels)
        # Half of each image is the photograph's own, but for the fractal.
        assert (images - before).abs().mean() < (images - batches()[0][0].flip(0)).abs().mean()


def test_draws_follow_the_seed_and_leave_training_its_own():
    torch.manual_seed(3)
    one = list(BatchAugment(batches(), mix()))
    state = torch.get_rng_state()
    torch.manual_seed(3)
    torch.randint(2**53, ())
    torch.randint(2**53, ())
    torch.randint(2**53, ())
    torch.randint(2**53, ())
    assert torch.equal(torch.get_rng_state(), state)  # one number a batch and nothing else
    torch.manual_seed(3)
    other = list(BatchAugment(batches(), mix()))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))


def test_the_next_batch_is_generated_while_one_is_trained_on():
    threads = set()

    def note_thread(request, usual):
        threads.add(threading.get_ident())
        return usual

    backend = RecordingBackend(16, answer=note_thread)
    for number, _ in enumerate(BatchAugment(batches(), mix(backend))):
        begun = 3 * min(number + 2, 4)
        assert wait_for(lambda begun=begun: len(backend.requests) >= begun)
        time.sleep(0.05)
        assert begun == len(backend.requests)  # one batch ahead and no more
    assert threads and threading.get_ident() not in threads


def test_the_thread_has_the_gpu_that_training_has_chosen(monkeypatch):
    chosen, seen = threading.local(), []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(chosen, "number", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: setattr(chosen, "number", number))
    torch.cuda.set_device(1)

    def note_gpu(request, usual):
        seen.append(torch.cuda.current_device())
        return usual

    list(BatchAugment(batches(1), mix(RecordingBackend(16, answer=note_gpu))))
    assert {1} == set(seen)


def test_labels_are_mixed_too():
    classes = DiffMix(["a", "b", "c"], p=0.5, backend=RecordingBackend(16))
    for images, labels in BatchAugment(batches(), classes):
        assert (3, 3, 16, 16) == images.shape and (3, 3) == labels.shape
        assert torch.allclose(torch.ones(3), labels.sum(1))


def test_without_a_model_there_is_no_thread():
    before = threading.active_count()
    iterator = iter(BatchAugment(batches(), HalfConcat(v2.RandomInvert(p=1))))
    next(iterator)
    assert before == threading.active_count()


def test_leaving_early_ends_the_thread():
    def slowly(request, usual):
        time.sleep(0.02)
        return usual

    before = threading.active_count()
    for _ in BatchAugment(batches(), mix(RecordingBackend(16, answer=slowly))):
        break
    assert before == threading.active_count()


def test_an_error_of_the_model_comes_out_where_its_batch_would():
    def fail(request, usual):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(BatchAugment(batches(), mix(RecordingBackend(16, answer=fail))))


def test_only_transforms_of_diffaug_are_taken():
    with pytest.raises(TypeError, match="'transform' must be one of diffaug's.*got RandomInvert"):
        BatchAugment(batches(), v2.RandomInvert())


def reversed_batches():
    return [{"cls": labels, "jpg": images} for images, labels in batches()]


def test_a_batch_may_have_its_labels_first():
    for images, labels in batches(1):
        for batch in ([labels, images], {"label": labels, "pixel_values": images}):
            [made] = BatchAugment([batch], mix())
            after = list(made.values()) if isinstance(made, dict) else made
            assert labels is after[0] and not torch.equal(images, after[1])


@pytest.mark.parametrize("own", [True, False])
def test_getters_say_where_images_and_labels_are(own):
    getters = {"image_getter": "jpg", "labels_getter": "cls"}
    backend = RecordingBackend(16)
    classes = DiffMix(["a", "b", "c"], p=0.5, backend=backend, **(getters if own else {}))
    made = list(BatchAugment(reversed_batches(), classes, **({} if own else getters)))
    for batch, before in zip(made, reversed_batches(), strict=True):
        assert (3, 3) == batch["cls"].shape and torch.allclose(torch.ones(3), batch["cls"].sum(1))
        changed = (batch["jpg"] != before["jpg"]).flatten(1).any(1)
        assert torch.equal(changed, (batch["cls"].amax(1) < 1) | changed)
    assert backend.requests


def test_getters_are_checked_and_named():
    with pytest.raises(
        TypeError, match="'image_getter' must be a key, an index or callable, got N"
    ):
        BatchAugment(batches(), mix(), image_getter=None)
    with pytest.raises(
        TypeError, match="'image_getter' must be a place in every sample, got 'png', and"
    ):
        list(BatchAugment(reversed_batches(), mix(), image_getter="png"))
    with pytest.raises(ValueError, match=r"'image' must have shape .*; this looks like a label"):
        list(BatchAugment(batches(), mix(), image_getter=1))
