"""What every backend is: the protocol, and what backends of one model share."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from typing_extensions import TypeIs

from diffaug.arguments import whole
from diffaug.backends.hub import pin
from diffaug.backends.request import Generated, GenerationRequest, check_rgb
from diffaug.backends.spec import ModelSpec
from diffaug.errors import GenerationError

#: Requests in one call of a backend that does not say how many it takes.
BATCH_SIZE = 8


@runtime_checkable
class Backend(Protocol):
    """Turn requests into images: a pure function of the requests and the fingerprint.

    ``generate`` keeps the order, takes an empty list, and raises before the model runs if a request
    is bad. ``close`` may be called twice. To change what a backend does, wrap it in another one; do
    not derive from it. Your own backend may inherit ``close`` and the ``with`` statement from this
    class.
    """

    @property
    def fingerprint(self) -> str:
        """Identify everything that changes a pixel, other than the request."""

    @property
    def size(self) -> int | None:
        """Side in pixels that the model works at; sources are shrunk to it. None: any."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Return one image for each request, in order."""

    def close(self) -> None:
        """Free what the backend holds; the next call may load it again."""

    def __enter__(self) -> Self:
        """Return the backend itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the backend."""
        self.close()


class ModelBackend(Backend):
    """Share what every backend of one model needs.

    Args:
        spec: the model and how to run it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._pinned: ModelSpec | None = None

    @property
    def fingerprint(self) -> str:
        """Identify the model and its settings; the revision is looked up on first use."""
        return self.pinned().fingerprint

    @property
    def size(self) -> int:
        """Side in pixels of the square that the model works at."""
        return self.spec.size or self.pinned().side

    def pinned(self) -> ModelSpec:
        """Return the spec with its revision, which is looked up once."""
        if self._pinned is None:
            self._pinned = pin(self.spec)
        return self._pinned


def answers_of(backend: Backend, requests: Sequence[GenerationRequest]) -> list[Generated]:
    """Ask a backend, which may be anyone's; refuse answers that are not one image a request.

    Raises:
        GenerationError: it breaks what :class:`Backend` promises.
    """
    given: Any = backend.generate(requests)
    name = type(backend).__name__
    if not isinstance(given, Iterable):
        raise GenerationError(f"{name}.generate must return a list of images, got {given!r:.60}.")
    answers = list(given)
    if len(answers) != len(requests):
        raise GenerationError(
            f"{name}.generate must return one image for each request, got {len(answers)} for "
            f"{len(requests)}."
        )
    for answer in answers:
        try:
            check_rgb(answer.image, "image")
            whole("seed", answer.seed, 0)
            whole("attempts", answer.attempts, 1)
        except (AttributeError, TypeError, ValueError) as error:
            raise GenerationError(f"{name}.generate must return images: {error}") from error
    return answers


def batch_size_of(backend: Any) -> int | None:
    """Return how many images a backend takes in one call of its model, however it is wrapped.

    Where the spec says ``"auto"``, the model is loaded to find out. None: there is no model.
    """
    while backend is not None:
        if choose := getattr(backend, "choose_batch_size", None):
            return int(choose())
        spec = getattr(backend, "spec", None)
        if isinstance(spec, ModelSpec) and spec.batch_size != "auto":
            return spec.batch_size
        backend = getattr(backend, "backend", None)
    return None


def is_backend(value: object) -> TypeIs[Backend]:
    """Return whether a value is a backend; its properties, which may ask the Hub, are not read."""
    return callable(getattr(type(value), "generate", None))


def spec_of(backend: Any) -> ModelSpec | None:
    """Return the spec of a model, or of a backend that has one, however it is wrapped."""
    while backend is not None and not isinstance(backend, ModelSpec):
        backend = getattr(backend, "spec", None) or getattr(backend, "backend", None)
    return backend
