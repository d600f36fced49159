"""Answers of a ``RecordingBackend`` that behaves as models sometimes do."""

import itertools
from collections.abc import Callable
from typing import NoReturn

from diffaug import Generated, GenerationRequest, RecordingBackend
from diffaug.errors import RefusedError


class CallCounting(RecordingBackend):
    """A recording backend that also remembers how many requests each call had."""

    def generate(self, requests):
        self.calls = [*getattr(self, "calls", []), len(requests)]
        return super().generate(requests)


def at(number: int, action: Callable[[], object]):
    """Answer as usual, but act before the answer of this number, counted from 0."""
    numbers = itertools.count()

    def answer(request: GenerationRequest, usual: Generated) -> Generated:
        if next(numbers) == number:
            action()
        return usual

    return answer


def raise_error(error: BaseException, *_: object) -> NoReturn:
    """Raise an error; a ``partial`` of this is an action and an answer that pickles."""
    raise error


def refused(request: GenerationRequest, usual: Generated) -> Generated:
    """Return the source, as the model was shown it, marked as a fallback."""
    return Generated(request.image, request.seed, 4, fallback=True)


def refuse(word: str, *, outright: bool = False):
    """Refuse the prompts with a word in them; ``outright``: with nothing instead of an image."""

    def answer(request: GenerationRequest, usual: Generated) -> Generated:
        if word not in request.prompt:
            return usual
        if outright:
            raise RefusedError("every attempt was blank")
        return refused(request, usual)

    return answer
