"""A transform that stops where it needs images, so that several of them ask the model together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from diffaug.backends.base import Backend, answers_of
from diffaug.backends.request import Generated, GenerationRequest


class PausedError(BaseException):
    """A transform needs images; it is called again when they are there."""


class Pause:
    """What one call of a transform asks for, and later the answers, for the same call again."""

    def __init__(self) -> None:
        #: The backend; None until it is asked.
        self.backend: Any = None
        self.requests: list[GenerationRequest] = []
        self.answers: list[Generated] | None = None


_pause: ContextVar[Pause | None] = ContextVar("pause", default=None)


@contextmanager
def pausing(pause: Pause | None) -> Iterator[None]:
    """Let a transform that needs images raise PausedError, or use the answers that are there."""
    token = _pause.set(pause)
    try:
        yield
    finally:
        _pause.reset(token)


def is_again() -> bool:
    """Return whether a transform is called again, after a pause."""
    pause = _pause.get()
    return pause is not None and pause.answers is not None


def answers_here(backend: Backend, requests: list[GenerationRequest]) -> list[Generated]:
    """Return what a backend makes of requests, now or after a pause."""
    pause = _pause.get()
    if pause is not None and pause.backend is None:
        pause.backend, pause.requests = backend, requests
        raise PausedError
    if pause is not None and pause.answers and requests == pause.requests:
        answers, pause.answers = pause.answers, []  # of a sample's second image, nobody has any
        return answers
    return answers_of(backend, requests)


def answer(pauses: Sequence[Pause], most: int) -> None:
    """Ask each backend for all that the calls wait for, in calls of about so many requests."""
    waiting: dict[int, list[Pause]] = {}
    for pause in pauses:
        waiting.setdefault(id(pause.backend), []).append(pause)
    for group in waiting.values():
        while group:
            part = [group.pop(0)]
            count = len(part[0].requests)
            while group and count + len(group[0].requests) <= most:
                count += len(group[0].requests)
                part.append(group.pop(0))
            requests = [request for pause in part for request in pause.requests]
            answers = iter(answers_of(part[0].backend, requests))
            for pause in part:
                pause.answers = [next(answers) for _ in pause.requests]
