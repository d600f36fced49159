"""Filling the cache before training, so that an epoch generates nothing."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from diffaug import images
from diffaug.ahead import map_ahead
from diffaug.backends.base import BATCH_SIZE, Backend, batch_size_of, spec_of
from diffaug.backends.batches import shape_of
from diffaug.backends.cache import CachedBackend
from diffaug.backends.compiling import warn_of_few
from diffaug.backends.prompts import check_prompts
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.checked import Items, checked
from diffaug.errors import RefusedError, UnreadableImageError, is_of_machine, one_line
from diffaug.labels import samples
from diffaug.labels.class_names import check_order
from diffaug.labels.map_style import check_dataset
from diffaug.labels.origins import image_paths
from diffaug.offline.sources import Skipped
from diffaug.offline.success import check_success
from diffaug.progress import progress_bar
from diffaug.switches import own_defaults
from diffaug.transforms.base import ImageTransform

#: Images that the steps before the transform run on twice, which shows whether these are random.
PROBES = 3
#: Draws for each of them, which must be among the transform's choices.
DRAWS = 8
#: Items in a row that cannot be read, before it is the dataset that cannot be read.
IN_A_ROW = 100


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
        skipped: what could not be read, by its path or its index, each with the reason.
    """

    requests: int
    cached: int
    made: int = 0
    refused: int = 0
    bytes: int = 0
    seconds: float = 0.0
    skipped: tuple[Skipped, ...] = ()


@own_defaults()
@checked
def warm_cache(
    dataset: Items,
    transform: Any,
    *,
    image_getter: samples.Getter = "default",
    labels_getter: samples.Getter = "default",
    strict: bool = False,
    dry_run: bool = False,
    progress: bool = False,
) -> WarmSummary:
    """Generate everything that a transform can ever ask for about a dataset, in full batches.

    Afterwards an epoch generates nothing, and trains at the speed of the disk. Run it again after
    an interruption, and it makes what is missing.

    Args:
        dataset: map-style, of ``(image, label)`` or of dicts, without random transforms. Items that
            cannot be read are skipped.
        transform: :class:`DiffuseMix`, :class:`DiffMix`, one of your own, or a ``Compose`` with one
            of them; the steps before it must not be random.
        image_getter: where a sample's image is: a key, an index or a callable. By default where the
            transform's own getter says, or in the usual places.
        labels_getter: the same for its label.
        strict: stop at the first item that cannot be read.
        dry_run: count, generate nothing.
        progress: show a bar on stderr.

    Raises:
        TypeError: there is not exactly one transform that generates, or it is one of your own that
            draws and has no ``choices``.
        ValueError: the transform has nothing to cache (``variants=None``, ``cache=False``), its
            ``choices`` lack what it draws, a step before it is random, or the cache is too small.
        UnreadableImageError: nothing could be read; or, with ``strict``, an item could not.
        DestinationError: the cache cannot be written to, as on a full disk; what it holds stays.
        GenerationError: everything that was made came out blank or refused, in four images or
            more, or in fewer if the cache holds none for this transform.
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
    check_dataset(dataset)
    before, ours = _split(transform)
    backend = _cached(ours)
    check_order(dataset, ours)
    items = _Items(dataset, before, ours, image_getter, labels_getter, strict)
    for index, image, label in items.probes():
        if again := items.read(index):
            _check_stable(index, image, again[0], ours)
        _check_choices(image, label, ours)
    cached = [backend.holds(request) for request in _requests(items, ours)]
    if not cached:
        items.check_any()
        raise ValueError(
            f"'transform' must ask for images, and {type(ours).__name__} asks for none for any of "
            f"the {len(dataset)} items: see its 'choices' and 'requests'."
        )
    expected = len(cached) * backend.bytes_for(backend.size or 256)
    if expected > backend.max_bytes:
        raise ValueError(
            f"'max_bytes' must be at least {expected:,} for the {len(cached)} images that this "
            f"transform can ask for, got {backend.max_bytes:,}; give a larger CachedBackend, or "
            "fewer prompts, 'variants' or 'pool'."
        )
    counts = WarmSummary(len(cached), sum(cached), bytes=expected, skipped=items.skipped)
    if dry_run or all(cached):
        return replace(counts, seconds=time.monotonic() - started)
    if isinstance(ours.backend, ModelSpec):
        check_prompts(spec_of(backend), ours.all_prompts())
    warn_of_few(spec_of(backend), range(cached.count(False)), stacklevel=4)
    made = refused = 0
    pending: set[GenerationRequest] = set()
    batches = _batches(backend, _requests(items, ours), pending)
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
    check_success(
        "the cache",
        now=made + refused,
        originals=refused,
        generated=counts.cached + made,
        all_originals=refused,
        instead="none of them is kept; see the warnings, and choose another model or "
        "dtype='float32'.",
    )
    counts = replace(counts, made=made, refused=refused, skipped=items.skipped)
    return replace(counts, seconds=time.monotonic() - started)


def _split(transform: Any) -> tuple[list[Any], ImageTransform]:
    """Return the steps before the one transform that generates, and that transform."""
    steps = [step for step in samples.steps_of(transform) if not samples.steps_inside(step)]
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


def _cached(ours: ImageTransform) -> CachedBackend:
    backend = ours.live_backend()
    if not isinstance(backend, CachedBackend):
        raise ValueError(
            f"{type(ours).__name__} keeps nothing in the cache; set cache=True and a number of "
            "'variants' or 'pool', or give a CachedBackend."
        )
    return backend


class _Items:
    """The items of a dataset as the transform will get them; what cannot be read is skipped.

    Args:
        dataset: map-style.
        before: the steps before the transform.
        ours: the transform.
        image_getter, labels_getter: as for :func:`warm_cache`.
        strict: raise for what cannot be read.
    """

    def __init__(
        self,
        dataset: Any,
        before: Sequence[Any],
        ours: ImageTransform,
        image_getter: samples.Getter,
        labels_getter: samples.Getter,
        strict: bool,
    ) -> None:
        inside = samples.getters_in(ours)
        self._image_getter = inside[0] if image_getter == "default" else image_getter
        self._labels_getter = inside[1] if labels_getter == "default" else labels_getter
        self._dataset, self._before, self._strict = dataset, before, strict
        self._needs_label = ours.needs_label
        self._reasons: dict[int, Exception] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        in_a_row = 0
        for index in range(len(self)):
            item = self.read(index)
            in_a_row = 0 if item else in_a_row + 1
            if in_a_row == IN_A_ROW:
                raise UnreadableImageError(
                    f"{IN_A_ROW} items in a row could not be read; the last is "
                    f"{self._name(index)}: {one_line(self._reasons[index])}"
                ) from self._reasons[index]
            if item:
                yield item

    def read(self, index: int) -> tuple[torch.Tensor, Any] | None:
        """Return an image (1, 3, H, W) and its label; None for what cannot be read."""
        if index in self._reasons:
            return None
        try:
            sample = self._dataset[index]
        except Exception as error:  # a damaged file may fail in any way, in anyone's dataset
            if is_of_machine(error):
                raise
            self._skip(index, error)
            return None
        image, label = self._parts(sample)
        try:  # Pillow may read an image only when it is used
            for step in self._before:
                image = step(image)
            images.check_image(image)
            return images.unpack(image)[0], label
        except (OSError, SyntaxError, UnreadableImageError) as error:
            if is_of_machine(error):
                raise
            self._skip(index, error)
            return None

    def _parts(self, sample: Any) -> tuple[Any, Any]:
        """Return image and label; None for a label that is not needed."""
        label = None
        if self._needs_label:
            place = samples.label_place(sample, self._labels_getter, asker="warm_cache")
            label = samples.get(sample, place)
        if not isinstance(sample, (tuple, list, Mapping)) and self._image_getter == "default":
            return sample, label  # a dataset of images alone
        place = samples.image_place(sample, self._image_getter, asker="warm_cache")
        return samples.get(sample, place), label

    def _skip(self, index: int, error: Exception) -> None:
        if self._strict:
            if isinstance(error, UnreadableImageError):
                raise error
            raise UnreadableImageError(
                f"{self._name(index)} could not be read: {one_line(error)}"
            ) from error
        self._reasons[index] = error

    def _name(self, index: int) -> str:
        paths = image_paths(self._dataset)
        return paths[index] if paths else f"item {index}"

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was skipped so far, in the order of the dataset."""
        paths = image_paths(self._dataset) if self._reasons else None
        return tuple(
            Skipped(paths[index] if paths else f"item {index}", one_line(self._reasons[index]))
            for index in sorted(self._reasons)
        )

    def check_any(self) -> None:
        """Raise if there is nothing, or nothing that can be read."""
        if not len(self):
            raise ValueError("'dataset' must hold images, and it is empty.")
        if len(self._reasons) == len(self):
            first = self.skipped[0]
            raise UnreadableImageError(
                f"none of the {len(self)} items could be read; the first is {first.source}: "
                f"{first.reason}"
            ) from self._reasons[0]

    def probes(self) -> Iterator[tuple[int, torch.Tensor, Any]]:
        """Yield some items with their index, spread over the dataset."""
        for index in range(0, len(self), max(1, len(self) // PROBES)):
            if item := self.read(index):
                yield index, *item


def _check_stable(
    index: int, first: torch.Tensor, second: torch.Tensor, ours: ImageTransform
) -> None:
    if first.shape != second.shape or not torch.equal(ours.shrink(first), ours.shrink(second)):
        raise ValueError(
            f"'transform' must not be random before {type(ours).__name__}, and item {index} "
            "came out differently the second time: every epoch would ask for other images. "
            "Put random crops and flips behind it."
        )


def _check_choices(image: torch.Tensor, label: Any, ours: ImageTransform) -> None:
    """Raise where a transform draws something for which its ``choices`` list no request."""
    if ours.needs_label:
        return  # what it draws is the number of a choice
    listed = {
        request
        for params in ours.choices(image, label)
        for request in ours.requests(image, [params])
    }
    with torch.random.fork_rng(devices=[]):  # someone's 'draw' may ignore the generator
        drawn = [ours.draw(1, torch.Generator().manual_seed(seed))[0] for seed in range(DRAWS)]
    for params in drawn:
        if not listed.issuperset(ours.requests(image, [params])):
            raise ValueError(
                f"'choices' of {type(ours).__name__} must list all params that its 'draw' can "
                f"return, and its {len(listed)} requests lack that of {params}; an epoch would "
                "still generate."
            )


def _requests(items: _Items, ours: ImageTransform) -> Iterator[GenerationRequest]:
    for image, label in items:
        for params in ours.choices(image, label):
            yield from ours.requests(image, [params])


def _batches(
    backend: CachedBackend, requests: Iterator[GenerationRequest], pending: set[GenerationRequest]
) -> Iterator[list[GenerationRequest]]:
    """Group the requests that are missing into batches, each of one strength and shape.

    Requests that are not kept yet are in ``pending``, so that none is generated twice.
    """
    spec = spec_of(backend)
    spec = spec and replace(spec, size=backend.size)
    batch_size = batch_size_of(backend) or BATCH_SIZE
    waiting: dict[object, list[GenerationRequest]] = {}
    for request in requests:
        if request in pending or backend.holds(request):
            continue
        pending.add(request)
        group = (request.strength, spec and shape_of(spec, request))
        batch = waiting.setdefault(group, [])
        batch.append(request)
        if len(batch) >= batch_size:
            yield waiting.pop(group)
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
