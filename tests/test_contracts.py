"""The contract helpers find what is broken, and pass what is not."""

import itertools
import random
from functools import cached_property

import pytest
import torch
from contracts import check_backend, check_error, same_images

from diffaug import Generated, GenerationRequest, RecordingBackend
from diffaug.errors import DiffaugError

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


class TouchesTorch(RecordingBackend):
    def generate(self, requests):
        torch.rand(1)
        return super().generate(requests)


class TouchesRandom(RecordingBackend):
    def generate(self, requests):
        random.random()
        return super().generate(requests)


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
        made = super().generate(requests)
        return [Generated(one.image ^ len(made) * 8, one.seed) for one in made]


class DependsOnTime(RecordingBackend):
    def generate(self, requests):
        made = super().generate(requests)
        return [Generated(one.image ^ len(self.requests) * 8, one.seed) for one in made]


class AllTheSame(RecordingBackend):
    def generate(self, requests):
        return [Generated(torch.zeros(3, 64, 64, dtype=torch.uint8), r.seed) for r in requests]


class NewFingerprint(Strict):
    made = itertools.count()

    @cached_property
    def fingerprint(self):
        return str(next(self.made))


class WrongSize(RecordingBackend):
    def generate(self, requests):
        return [Generated(one.image[:, 1:], one.seed) for one in super().generate(requests)]


class RunsFirst(RecordingBackend):
    def generate(self, requests):
        made = super().generate(requests)
        if any(request.prompt == "bad" for request in requests):
            raise ValueError("'prompt' must be good, got 'bad'.")
        return made


class NamesNothing(Strict):
    def generate(self, requests):
        try:
            return super().generate(requests)
        except ValueError:
            raise ValueError("something is wrong") from None


class TakesAnything(RecordingBackend):
    pass


class TwoPartError(ValueError):
    def __init__(self, name, value):
        super().__init__(f"'{name}' must be good, got {value}.")


class ErrorDoesNotPickle(Strict):
    def generate(self, requests):
        try:
            return super().generate(requests)
        except ValueError:
            raise TwoPartError("prompt", "bad") from None


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
        (TouchesTorch, "torch's global random state"),
        (TouchesRandom, "random's global state"),
        (ForgetsOne, "not one image for each"),
        (NoEmptyList, "empty list"),
        (DependsOnCompany, "company"),
        (DependsOnTime, "order of the images|other images"),
        (AllTheSame, "requests must differ"),
        (NewFingerprint, "another fingerprint"),
        (WrongSize, "not of 'size'"),
        (RunsFirst, "the model ran"),
        (NamesNothing, "does not name 'prompt'"),
        (TakesAnything, "a bad 'prompt' was taken"),
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
    assert not same_images(image, many)
    assert not same_images(image, image[:, 1:])
    assert not same_images(image, image.float())
