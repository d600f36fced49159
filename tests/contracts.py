"""What every backend promises, as checks that any test can call on its own implementation."""

import itertools
import pickle
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from diffaug.backends.base import Backend, spec_of
from diffaug.backends.batches import shape_of
from diffaug.backends.request import Generated, GenerationRequest

#: Away from bit-equality: levels of 255 a value may be off, and how many values may be off at all.
LEVELS = 1
SHARE = 0.001


def same_images(a: torch.Tensor, b: torch.Tensor, *, exact: bool = False) -> bool:
    """Tell whether two uint8 images count as the same; the only place that knows.

    Exact is for a constant batch size, one kind of device and one thread setting. Otherwise no
    value may be more than 1 level of 255 off, and no more than 0.1 % of them off at all, or those
    of one pixel if the image is small.
    """
    if a.shape != b.shape or a.dtype != torch.uint8 or b.dtype != torch.uint8:
        return False
    if exact:
        return torch.equal(a, b)
    apart = (a.int() - b.int()).abs()
    return int(apart.max()) <= LEVELS and int((apart > 0).sum()) <= max(SHARE * apart.numel(), 3)


def check_backend(
    make_backend: Callable[[], Backend],
    requests: Sequence[GenerationRequest],
    bad: Mapping[str, GenerationRequest] | None = None,
    *,
    runs: Callable[[Backend], int] | None = None,
    exact: bool = False,
) -> None:
    """Check what the Backend protocol promises.

    Args:
        make_backend: makes a fresh backend; two of them must agree on fingerprint and images.
        requests: at least three, all asking for different images.
        bad: requests that must be refused, by the name of the field at fault.
        runs: how often the backend's model has run; needed to see that a bad request stops it.
        exact: images are bit-equal whatever the company (constant batch size).
    """
    assert len(requests) >= 3, "give at least three requests: order cannot be seen in fewer"
    with make_backend() as backend:
        assert isinstance(backend, Backend), "a member of the protocol is absent"
        assert backend.size is None or backend.size >= 1, "'size' is neither None nor positive"
        fingerprint = backend.fingerprint
        assert fingerprint and isinstance(fingerprint, str), "'fingerprint' is not a text"
        assert backend.generate([]) == [], "an empty list does not give an empty list"
        answers = _generate_purely(backend, requests)
        _check_answers(backend, requests, answers)
        assert backend.fingerprint == fingerprint, "'fingerprint' changed by generating"

        for first, second in itertools.combinations(answers, 2):
            assert not torch.equal(first.image, second.image), "requests must differ in image"
        backwards = _generate_purely(backend, list(reversed(requests)))[::-1]
        _check_same(answers, backwards, "reversed, the order of the images is another", exact)
        alone = [_generate_purely(backend, [request])[0] for request in requests]
        _check_same(answers, alone, "an image depends on its company", exact)
        twice = _generate_purely(backend, [requests[0]] * 2)
        _check_same([answers[0]] * 2, twice, "the same request gives other images", exact)

        for name, request in (bad or {}).items():
            _check_refusal(backend, [*requests, request], name, runs)
        backend.close()
        backend.close()
        again = _generate_purely(backend, requests)
        _check_same(answers, again, "after close, images are others", exact)
    with make_backend() as other:
        assert other.fingerprint == fingerprint, "a second backend has another fingerprint"
        _check_same(answers, other.generate(requests), "a second backend: other images", exact)


def _generate_purely(backend: Backend, requests: Sequence[GenerationRequest]) -> list[Generated]:
    """Generate, and check that no global random state and no request was touched."""
    keys = [request.key("") for request in requests]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    answers = backend.generate(requests)
    assert torch.equal(torch.get_rng_state(), before[0]), "torch's global random state was touched"
    assert random.getstate() == before[1], "random's global state was touched"
    assert (np.random.get_state()[1] == before[2]).all(), "numpy's global state was touched"
    assert [request.key("") for request in requests] == keys, "a request was changed"
    return answers


def _check_answers(
    backend: Backend, requests: Sequence[GenerationRequest], answers: list[Generated]
) -> None:
    assert len(answers) == len(requests), "not one image for each request"
    for request, answer in zip(requests, answers, strict=True):
        assert answer.image.dtype == torch.uint8 and answer.image.ndim == 3, "not a uint8 image"
        if backend.size is not None:
            spec = spec_of(backend)
            keeps = spec is not None and spec.keep_aspect
            shape = shape_of(spec, request) if keeps else (backend.size, backend.size)
            assert tuple(answer.image.shape) == (3, *shape), "not of 'size'"
        assert answer.attempts >= 1, "'attempts' is under 1"
        assert answer.fallback or answer.seed >= request.seed, "'seed' is not the one asked for"


def _check_same(
    expected: Sequence[Generated], actual: Sequence[Generated], message: str, exact: bool
) -> None:
    assert len(expected) == len(actual), message
    for before, after in zip(expected, actual, strict=True):
        assert same_images(before.image, after.image, exact=exact), message
        assert (before.seed, before.fallback) == (after.seed, after.fallback), message


def _check_refusal(
    backend: Backend,
    requests: Sequence[GenerationRequest],
    name: str,
    runs: Callable[[Backend], int] | None,
) -> None:
    before = runs(backend) if runs else 0
    try:
        backend.generate(requests)
    except (TypeError, ValueError) as error:
        assert f"'{name}'" in str(error), f"the error does not name '{name}': {error}"
        check_error(error)
    else:
        raise AssertionError(f"a request with a bad '{name}' was taken")
    assert (runs(backend) if runs else 0) == before, "the model ran before a bad request was seen"


def check_error(error: BaseException) -> None:
    """Check that an error is made from one message and survives the way between processes."""
    assert len(error.args) == 1 and isinstance(error.args[0], str), "not made from one message"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error), "does not survive pickling"
