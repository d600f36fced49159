"""The contract helpers find what is broken, and pass what is not."""

import itertools
import random
from functools import cached_property, partial

import numpy as np
import pytest
import torch
from contracts import check_backend, check_error, same_images

from diffaug import Generated, GenerationRequest, RecordingBackend
from diffaug.errors import DiffaugError

TIMES = itertools.count()
REQUESTS = [GenerationRequest("a", 1), GenerationRequest("b", 2), GenerationRequest("c", 300)]


class Strict(RecordingBackend):
    """A recording backend that refuses the prompt 'bad'."""

    def generate(self, requests):
        if any(request.prompt == "bad" for request in requests):
            raise ValueError("'prompt' must be good, got 'bad'.")
        return super().generate(requests)


class OrderSwapped(RecordingBackend):
    def generate(self, requests):
        return super().generate(requests)[::-1]


def touch_torch(request, usual):
    torch.rand(1)
    return usual


def touch_random(request, usual):
    random.random()
    return usual


def touch_numpy(request, usual):
    np.random.random()
    return usual


class ClosesOnce(Strict):
    def close(self):
        if getattr(self, "closed", False):
            raise RuntimeError("closed already")
        self.closed = True


class ForgetsOne(RecordingBackend):
    def generate(self, requests):
        return super().generate(requests)[1:]


class NoEmptyList(RecordingBackend):
    def generate(self, requests):
        return super().generate(requests) or None


class DependsOnCompany(RecordingBackend):
    def generate(self, requests):
        answers = super().generate(requests)
        return [Generated(usual.image ^ len(answers) * 8, usual.seed) for usual in answers]


def depend_on_time(request, usual):
    return Generated(usual.image ^ next(TIMES) % 32 * 8, usual.seed)


def answer_alike(request, usual):
    return Generated(torch.zeros_like(usual.image), usual.seed)


class NewFingerprint(Strict):
    numbers = itertools.count()

    @cached_property
    def fingerprint(self):
        return str(next(self.numbers))


def crop(request, usual):
    return Generated(usual.image[:, 1:], usual.seed)


def refuse_late(request, usual):
    if request.prompt == "bad":
        raise ValueError("'prompt' must be good, got 'bad'.")
    return usual


class NamesNothing(Strict):
    def generate(self, requests):
        try:
            return super().generate(requests)
        except ValueError:
            raise ValueError("something is wrong") from None


class TwoPartError(ValueError):
    def __init__(self, name, value):
        super().__init__(f"'{name}' must be good, got {value}.")


class ErrorDoesNotPickle(Strict):
    def generate(self, requests):
        try:
            return super().generate(requests)
        except ValueError:
            raise TwoPartError("prompt", "bad") from None


def answering(answer):
    return partial(RecordingBackend, answer=answer)


def check(make_backend):
    check_backend(
        make_backend,
        REQUESTS,
        bad={"prompt": GenerationRequest("bad", 4)},
        runs=lambda backend: len(backend.requests),
        exact=True,
    )


def test_a_good_backend_passes():
    check(Strict)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (OrderSwapped, "'seed' is not|order"),
        (answering(touch_torch), "torch's global random state"),
        (answering(touch_random), "^random's global state"),
        (answering(touch_numpy), "numpy's global state"),
        (ForgetsOne, "not one image for each"),
        (NoEmptyList, "empty list"),
        (DependsOnCompany, "company"),
        (answering(depend_on_time), "order of the images|other images"),
        (answering(answer_alike), "requests must differ"),
        (NewFingerprint, "another fingerprint"),
        (answering(crop), "not of 'size'"),
        (answering(refuse_late), "the model ran"),
        (NamesNothing, "does not name 'prompt'"),
        (RecordingBackend, "a bad 'prompt' was taken"),
    ],
)
def test_a_broken_backend_fails_with_what_is_broken(broken, message):
    with pytest.raises(AssertionError, match=message):
        check(broken)


def test_an_error_that_cannot_travel_is_found():
    with pytest.raises((AssertionError, TypeError)):
        check(ErrorDoesNotPickle)


def test_close_that_fails_the_second_time_is_found():
    with pytest.raises(RuntimeError, match="closed already"):
        check(ClosesOnce)


def test_something_without_the_protocols_members_is_found():
    class NoClose:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    with pytest.raises(AssertionError, match="absent"):
        check(NoClose)


def test_errors_of_our_tree_travel():
    check_error(DiffaugError("one message"))


def test_same_images_allows_one_level_in_a_thousandth_unless_exact():
    image = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    nearly, off = image.clone(), image.clone()
    nearly[0, 0, :4] += 1
    off[0, 0, 0] += 2
    many = image + (torch.arange(40) < 10).to(torch.uint8)
    assert same_images(image, image.clone(), exact=True)
    assert same_images(image, nearly) and not same_images(image, nearly, exact=True)
    assert not same_images(image, off)
    small, pixel = image[:, :4, :4], nearly[:, :4, :4]  # one row of four values is too much of it
    assert not same_images(small, pixel)
    assert same_images(small[:, :, 1:], pixel[:, :, 1:])
    assert not same_images(image, many)
    assert not same_images(image, image[:, 1:])
    assert not same_images(image, image.float())
