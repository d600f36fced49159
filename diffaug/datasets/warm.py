"""Filling the cache before training, so that an epoch generates nothing."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from diffaug import images
from diffaug.ahead import map_ahead
from diffaug.backends.base import BATCH_SIZE, Backend, spec_of
from diffaug.backends.cache import CachedBackend
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.errors import RefusedError
from diffaug.labels import samples
from diffaug.progress import progress_bar
from diffaug.switches import own_defaults
from diffaug.transforms.base import ImageTransform

#: Images that the steps before the transform run on twice, which shows whether these are random.
PROBES = 3


@dataclass(frozen=True)
class WarmSummary:
    """Say what there was to generate, and what was done.

    Args:
        requests: different images that the transform can ask for.
        cached: how many of them were already there.
        made: how many were made now.
        refused: how many came out blank or refused; their originals will be used instead.
        bytes: about how large all of them are on disk.
        seconds: how long it took.
    """

    requests: int
    cached: int
    made: int = 0
    refused: int = 0
    bytes: int = 0
    seconds: float = 0.0


@own_defaults()
def warm_cache(
    dataset: Any,
    transform: Any,
    *,
    dry_run: bool = False,
    progress: bool = False,
) -> WarmSummary:
    """Generate everything that a transform can ever ask for about a dataset, in full batches.

    Afterwards an epoch generates nothing, and trains at the speed of the disk. Run it again after
    an interruption, and it makes what is missing.

    Args:
        dataset: map-style, of ``(image, label)`` or of dicts, without random transforms.
        transform: :class:`DiffuseMix`, :class:`DiffMix`, one of your own, or a ``Compose`` with one
            of them; the steps before it must not be random.
        dry_run: count, generate nothing.
        progress: show a bar on stderr.

    Raises:
        TypeError: there is not exactly one transform that generates, or it is one of your own that
            draws and has no ``choices``.
        ValueError: the transform has nothing to cache (``variants=None``, ``cache=False``), a step
            before it is random, or the cache is too small.
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
    cached = [backend.holds(request) for request in _requests(dataset, before, ours)]
    expected = len(cached) * backend.bytes_for(backend.size or 256)
    if expected > backend.max_bytes:
        raise ValueError(
            f"'max_bytes' must be at least {expected:,} for the {len(cached)} images that this "
            f"transform can ask for, got {backend.max_bytes:,}; give a larger CachedBackend, or "
            "fewer prompts, 'variants' or 'pool'."
        )
    counts = WarmSummary(len(cached), sum(cached), bytes=expected)
    if dry_run or all(cached):
        return replace(counts, seconds=time.monotonic() - started)
    made = refused = 0
    pending: set[GenerationRequest] = set()
    batches = _batches(backend, _requests(dataset, before, ours), pending)
    with (
        progress_bar(progress, len(cached) - sum(cached)) as bar,
        ThreadPoolExecutor(1) as model,  # the model runs while images are read and kept
    ):
        for answers in map_ahead(partial(_generate, backend.backend), batches, model, count=1):
            for request, generated in answers:
                if generated is not None and not generated.fallback:
                    backend.keep(request, generated)
                    made += 1
                else:
                    refused += 1
                pending.remove(request)
            if bar is not None:
                bar.update(len(answers))
    return replace(counts, made=made, refused=refused, seconds=time.monotonic() - started)


def _split(transform: Any) -> tuple[list[Any], ImageTransform]:
    """Return the steps before the one transform that generates, and that transform."""
    steps = list(_steps(transform))
    indices = [
        index
        for index, step in enumerate(steps)
        if isinstance(step, ImageTransform) and step.backend is not None
    ]
    if len(indices) != 1:
        raise TypeError(
            f"'transform' must have one transform that generates, such as DiffuseMix, got "
            f"{len(indices)}."
        )
    return steps[: indices[0]], steps[indices[0]]


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
    """Return one image (1, 3, H, W) as the transform will get it, and its label."""
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
        first, second = (_sample(dataset, index, before)[0] for _ in range(2))
        if first.shape != second.shape or not torch.equal(ours.shrink(first), ours.shrink(second)):
            raise ValueError(
                f"'transform' must not be random before {type(ours).__name__}, and item {index} "
                "came out differently the second time: every epoch would ask for other images. "
                "Put random crops and flips behind it."
            )


def _requests(
    dataset: Any, before: Sequence[Any], ours: ImageTransform
) -> Iterator[GenerationRequest]:
    for index in range(len(dataset)):
        image, label = _sample(dataset, index, before)
        for params in ours.choices(image, label):
            yield from ours.requests(image, [params])


def _batches(
    backend: CachedBackend, requests: Iterator[GenerationRequest], pending: set[GenerationRequest]
) -> Iterator[list[GenerationRequest]]:
    """Group the requests that are missing into batches, each of one strength.

    Requests that are not kept yet are in ``pending``, so that none is generated twice.
    """
    spec = spec_of(backend)
    batch_size = spec.batch_size if spec else BATCH_SIZE
    waiting: dict[float | None, list[GenerationRequest]] = {}
    for request in requests:
        if request in pending or backend.holds(request):
            continue
        pending.add(request)
        batch = waiting.setdefault(request.strength, [])
        batch.append(request)
        if len(batch) >= batch_size:
            yield waiting.pop(request.strength)
    yield from waiting.values()


def _generate(
    backend: Backend, batch: list[GenerationRequest]
) -> list[tuple[GenerationRequest, Generated | None]]:
    """Generate a batch; None where the model refused and there is no original."""
    try:
        return list(zip(batch, backend.generate(batch), strict=True))
    except RefusedError:
        if len(batch) == 1:
            return [(batch[0], None)]
        return [answer for request in batch for answer in _generate(backend, [request])]
