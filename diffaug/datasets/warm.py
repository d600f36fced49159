"""Filling the cache before training, so that an epoch generates nothing."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from diffaug import images
from diffaug.backends.base import BATCH_SIZE, spec_of
from diffaug.backends.cache import CachedBackend
from diffaug.backends.request import GenerationRequest
from diffaug.errors import RefusedError
from diffaug.labels import samples
from diffaug.progress import progress_bar
from diffaug.transforms.base import ImageTransform

#: Images that the part before ours is run on twice, to see whether it is random.
PROBES = 3


@dataclass(frozen=True)
class WarmSummary:
    """Say what there was to generate, and what was done.

    Args:
        requests: different images that the transform can ask for.
        cached: how many of them were there.
        made: how many were made now.
        refused: how many came out blank or refused; the originals will stand in.
        bytes: about how large all of them are on disk.
        seconds: how long it took.
    """

    requests: int
    cached: int
    made: int = 0
    refused: int = 0
    bytes: int = 0
    seconds: float = 0.0


def warm_cache(
    dataset: Any,
    transform: Any,
    *,
    dry_run: bool = False,
    progress: bool = False,
) -> WarmSummary:
    """Generate everything that a transform can ever ask for about a dataset, in full batches.

    After it, an epoch generates nothing and trains at the speed of the disk. Run again after an
    interruption, it makes what is missing.

    Args:
        dataset: map-style, of ``(image, label)`` or of dicts, without random transforms.
        transform: :class:`DiffuseMix`, :class:`DiffMix`, one of your own, or a ``Compose`` with one
            of them; what stands before it must not be random.
        dry_run: count, generate nothing.
        progress: show a bar on stderr.

    Raises:
        TypeError: no transform of diffaug's that generates, or more than one; or one of your own
            that draws and has no ``choices``.
        ValueError: nothing that a cache could keep (``variants=None``, ``cache=False``), what
            stands before is random, or the cache's cap is too small.
        DiffaugError: the model cannot be loaded or run.

    Example:
        >>> import tempfile, torch
        >>> from diffaug import CachedBackend, DiffuseMix, RecordingBackend, warm_cache
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     backend = CachedBackend(RecordingBackend(), folder=folder)
        ...     mix = DiffuseMix(["snowy", "sunset"], backend=backend)
        ...     warm_cache([(torch.rand(3, 32, 32), 0)], mix).made
        2
    """
    started = time.monotonic()
    before, ours = _split(transform)
    backend = _cached(ours)
    _check_stable(dataset, before, ours)
    asked = [backend.holds(request) for request in _requests(dataset, before, ours)]
    expected = len(asked) * backend.bytes_for(backend.size or 256)
    if expected > backend.max_bytes:
        raise ValueError(
            f"'max_bytes' must be at least {expected:,} for the {len(asked)} images that this "
            f"transform can ask for, got {backend.max_bytes:,}; give a larger CachedBackend, or "
            "fewer prompts, 'variants' or 'pool'."
        )
    counts = WarmSummary(len(asked), sum(asked), bytes=expected)
    if dry_run or all(asked):
        return replace(counts, seconds=time.monotonic() - started)
    made = refused = 0
    with progress_bar(progress, len(asked) - sum(asked)) as bar:
        for batch in _batches(backend, _requests(dataset, before, ours)):
            failed = _refused(backend, batch)
            made, refused = made + len(batch) - failed, refused + failed
            if bar is not None:
                bar.update(len(batch))
    return replace(counts, made=made, refused=refused, seconds=time.monotonic() - started)


def _split(transform: Any) -> tuple[list[Any], ImageTransform]:
    """Return what stands before the one transform that generates, and that."""
    steps = list(_steps(transform))
    places = [
        place
        for place, step in enumerate(steps)
        if isinstance(step, ImageTransform) and step.backend is not None
    ]
    if len(places) != 1:
        raise TypeError(
            f"'transform' must have one transform that generates, such as DiffuseMix, got "
            f"{len(places)}."
        )
    return steps[: places[0]], steps[places[0]]


def _steps(transform: Any) -> Iterator[Any]:
    inside = getattr(transform, "transforms", None)
    if isinstance(inside, (list, tuple, nn.ModuleList)):
        for step in inside:
            yield from _steps(step)
    else:
        yield transform


def _cached(ours: ImageTransform) -> CachedBackend:
    backend = ours.live_backend()
    if not isinstance(backend, CachedBackend):
        raise ValueError(
            f"{type(ours).__name__} keeps nothing in the cache; set cache=True and a number of "
            "'variants' or 'pool', or give a CachedBackend."
        )
    return backend


def _sample(dataset: Any, index: int, before: Sequence[Any]) -> tuple[torch.Tensor, Any]:
    """Return one image (1, 3, H, W) as ours will see it, and its label."""
    sample = dataset[index]
    label = samples.get(sample, samples.label_place(sample))
    image = samples.get(sample, samples.image_place(sample))
    for step in before:
        image = step(image)
    images.check_image(image)
    return images.unpack(image)[0], label


def _check_stable(dataset: Any, before: Sequence[Any], ours: ImageTransform) -> None:
    count = min(PROBES, len(dataset))
    for index in range(0, len(dataset), max(1, len(dataset) // max(1, count))):
        once, again = (_sample(dataset, index, before)[0] for _ in range(2))
        if once.shape != again.shape or not torch.equal(ours.shrink(once), ours.shrink(again)):
            raise ValueError(
                f"'transform' must not be random before {type(ours).__name__}, and item {index} "
                "came out differently twice: every epoch would ask for other images. Put random "
                "crops and flips behind it."
            )


def _requests(
    dataset: Any, before: Sequence[Any], ours: ImageTransform
) -> Iterator[GenerationRequest]:
    for index in range(len(dataset)):
        image, label = _sample(dataset, index, before)
        for params in ours.choices(image, label):
            yield from ours.requests(image, [params])


def _batches(
    backend: CachedBackend, requests: Iterator[GenerationRequest]
) -> Iterator[list[GenerationRequest]]:
    """Put together what is missing and runs together: requests of one strength."""
    spec = spec_of(backend)
    enough = spec.batch_size if spec else BATCH_SIZE
    waiting: dict[float | None, list[GenerationRequest]] = {}
    for request in requests:
        if backend.holds(request):
            continue
        batch = waiting.setdefault(request.strength, [])
        batch.append(request)
        if len(batch) >= enough:
            yield waiting.pop(request.strength)
    yield from waiting.values()


def _refused(backend: CachedBackend, batch: list[GenerationRequest]) -> int:
    """Generate a batch; return how many came out blank or refused."""
    try:
        return sum(made.fallback for made in backend.generate(batch))
    except RefusedError:
        if len(batch) == 1:
            return 1
        return sum(_refused(backend, [request]) for request in batch)
