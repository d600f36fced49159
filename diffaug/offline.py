"""How a set is made: plan its images, make those that are missing, write the manifest.

A copy's random numbers follow from the run's seed, its source and its number alone, and a model is
always called with full batches; so the set is the same, bit for bit, however often the run was
stopped, and whatever else is made.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffaug import images, presets, registry
from diffaug.errors import RefusedError, UnreadableImageError
from diffaug.functional import resize
from diffaug.generation import Generated, GenerationRequest, ModelSpec, derive_seed
from diffaug.image_transform import ImageTransform, Params
from diffaug.manifest import Destination, Row
from diffaug.pipelines import real_steps
from diffaug.provenance import versions
from diffaug.sources import Item, Skipped, Source

#: Images in one call of a backend that does not say how many it takes.
BATCH_SIZE = 8


@dataclass(frozen=True)
class Summary:
    """Say what a run did.

    Args:
        destination: the set's folder.
        planned: images that the set has if nothing is skipped.
        made: images made by this run.
        taken_over: images that were there.
        retried: images made at the second attempt or later, after a blank or refused one.
        fallbacks: images whose original stands in, every attempt having been blank or refused.
        skipped: sources left out, each with the reason.
        seconds: how long it took.
    """

    destination: Path
    planned: int
    made: int = 0
    taken_over: int = 0
    retried: int = 0
    fallbacks: int = 0
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0


class Planned(NamedTuple):
    """An image to make: the key of its source, and the number of the copy (None: the original)."""

    source: str
    copy: int | None


def plan(
    sources: Iterable[str], per_image: int, *, include_originals: bool = False
) -> Iterator[Planned]:
    """List every image of a set, in the order of its manifest.

    Args:
        sources: keys of the source images: paths below a folder, or indices in a dataset.
        per_image: augmented copies of each.
        include_originals: put each original before its copies.

    Example:
        >>> from diffaug.augment import plan
        >>> [f"{one.source} {one.copy}" for one in plan(["cat/1.jpg"], 2)]
        ['cat/1.jpg 0', 'cat/1.jpg 1']
    """
    for source in sources:
        if include_originals:
            yield Planned(source, None)
        for copy in range(per_image):
            yield Planned(source, copy)


@dataclass(frozen=True)
class Options:
    """What a run was asked for, checked; ``augment_folder`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    per_image: int | None
    seed: int
    size: int | None
    format: str
    include_originals: bool
    strict: bool
    dry_run: bool
    progress: bool

    def __post_init__(self) -> None:
        for name in ("per_image", "size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"'{name}' must be at least 1, got {value}.")
        if self.format not in images.FORMATS:
            raise ValueError(
                f"'format' must be one of {', '.join(images.FORMATS)}, got {self.format!r}."
            )

    def identity(self) -> dict[str, Any]:
        """Return the options that make a set what it is; more copies of it may be made later."""
        names = ("seed", "size", "format", "include_originals")
        return {name: getattr(self, name) for name in names}


def pairs_up(transform: ImageTransform) -> bool:
    """Tell whether a transform chooses the sources of a set, for which it must know classes."""
    return transform.pair_up([], [], 0, 0) is not None


class _Job(NamedTuple):
    """An image on its way; an original has neither params nor requests."""

    planned: Planned
    item: Item
    params: Params | None
    requests: list[GenerationRequest]


class Run:
    """One run: one thread reads ahead and writes behind while the model works in the caller's."""

    def __init__(
        self,
        source: Source,
        place: Destination,
        transform: ImageTransform,
        spec: ModelSpec | None,
        options: Options,
        *,
        takes: Callable[[int], bool] = lambda number: True,
        there: Iterable[Row] = (),
    ) -> None:
        self.started = time.monotonic()
        self.takes = takes
        self.source, self.place, self.transform, self.options = source, place, transform, options
        self.copies = transform.copies if options.per_image is None else options.per_image
        self.done = {_planned(row) for row in chain(place.rows(), there)}
        recorded = place.recorded() or {}
        self.batch_size = recorded.get("batch_size") or (spec.batch_size if spec else BATCH_SIZE)
        # Padded: bit-equal pixels whatever is left to make, and in whatever company.
        self.spec = spec and replace(spec, batch_size=self.batch_size, pad=True)
        self.versions = ", ".join(" ".join(pair) for pair in versions().items())
        self.made = self.retried = self.fallbacks = 0
        self.skipped = list(source.skipped)
        self.labels = source.labels() if pairs_up(transform) else []
        self.bar: Any = None

    def go(self) -> Summary:
        """Make what is missing."""
        with ExitStack() as stack:
            self.bar = stack.enter_context(self._progress())
            self.encoders = stack.enter_context(ThreadPoolExecutor(4))
            # One thread only: neither a dataset nor the global RNG is made for two.
            side = stack.enter_context(ThreadPoolExecutor(1))
            batches = self._batches()
            behind: Future[None] | None = None
            ahead: Future[list[_Job]] = side.submit(next, batches, [])
            while batch := ahead.result():
                ahead = side.submit(next, batches, [])
                generated = self._generate([ask for job in batch for ask in job.requests])
                if behind:
                    behind.result()
                behind = side.submit(self._store, batch, generated)
            if behind:
                behind.result()
        self.place.finish(self._record(), order)
        return self.summary()

    def begin(self) -> None:
        """Record the run before there is an image, so that an empty part is one, too."""
        self.place.begin(self._record())

    def summary(self) -> Summary:
        """Say what has been done so far."""
        return Summary(
            destination=self.place.folder,
            planned=sum(1 for _ in self._plan()),
            made=self.made,
            taken_over=sum(1 for one in self._plan() if one in self.done),
            retried=self.retried,
            fallbacks=self.fallbacks,
            skipped=tuple(dict.fromkeys(self.skipped)),
            seconds=time.monotonic() - self.started,
        )

    def _plan(self) -> Iterator[Planned]:
        keys, originals = self.source.keys, self.options.include_originals
        share = [key for number, key in enumerate(keys) if self.takes(number)]
        paired = self.transform.pair_up(keys, self.labels, self.copies, self.options.seed)
        if paired is None:
            return plan(share, self.copies, include_originals=originals)
        alone = plan(share if originals else (), 0, include_originals=True)
        return chain(alone, (Planned(*one) for one in paired if self.takes(one[1])))

    def _progress(self) -> AbstractContextManager[Any]:
        if not self.options.progress:
            return nullcontext()
        from tqdm import tqdm

        so_far = self.summary()
        bar: AbstractContextManager[Any] = tqdm(
            total=so_far.planned, initial=so_far.taken_over, unit="image", delay=1
        )
        return bar

    def _batches(self) -> Iterator[list[_Job]]:
        """Read what is missing, sources in a row once, and ask for full batches.

        A model runs images of one strength together, so they are put together here.
        """
        missing = (one for one in self._plan() if one not in self.done)
        waiting: dict[int, list[_Job]] = {}
        for key, copies in groupby(missing, key=lambda one: one.source):
            try:
                item = self._load(key)
            except UnreadableImageError as error:
                if self.options.strict:
                    raise
                for _ in copies:
                    self._skip(key, str(error))
                continue
            for one in copies:
                job = self._job(one, item)
                kind = self._kind(job)
                batch = waiting.setdefault(kind, [])
                batch.append(job)
                asked = sum(len(other.requests) for other in batch)
                # Images that ask for nothing must not pile up either.
                if asked >= self.batch_size or len(batch) >= 4 * self.batch_size:
                    yield waiting.pop(kind)
        yield from waiting.values()

    def _kind(self, job: _Job) -> int:
        """Return what jobs must have in common to run in one batch: the number of steps."""
        if self.spec is None or not job.requests or job.requests[0].strength is None:
            return 0
        return real_steps(self.spec, job.requests[0])

    def _load(self, key: str) -> Item:
        item, size = self.source.load(key), self.options.size
        if size is None:
            return item
        height, width = item.pixels.shape[-2:]
        short = min(height, width)
        shape = (int(size * height / short), int(size * width / short))  # as in v2.Resize(size)
        return item._replace(pixels=resize(item.pixels, shape))

    def _job(self, planned: Planned, item: Item) -> _Job:
        if planned.copy is None:
            return _Job(planned, item, None, [])
        seed = derive_seed(self.options.seed, planned.source, planned.copy)
        generator = torch.Generator().manual_seed(seed)
        drawn = self.transform.draw_copy(planned.copy, generator, item.label)
        return _Job(planned, item, drawn, self.transform.requests(item.pixels, [drawn]))

    def _generate(self, requests: list[GenerationRequest]) -> list[Generated | None]:
        """Ask the model; None for what it refused without an original to stand in."""
        if not requests:
            return []
        own = isinstance(self.transform.backend, ModelSpec) and self.spec
        backend = registry.backend_for(own, cache=False) if own else self.transform.live_backend()
        try:
            return list(backend.generate(requests))
        except RefusedError:
            if len(requests) == 1:
                return [None]
            return [made for request in requests for made in self._generate([request])]

    def _store(self, batch: list[_Job], generated: list[Generated | None]) -> None:
        """Finish, encode and write the images of a batch."""
        answers = iter(generated)
        finished: list[tuple[_Job, list[Generated], torch.Tensor]] = []
        for job in batch:
            made = [next(answers) for _ in job.requests]
            whole = [one for one in made if one is not None]
            if len(whole) < len(made):
                self._skip(job.planned.source, "the model refused it, or made it blank, each time")
                continue
            pixels = job.item.pixels
            if job.params is not None:
                moved = self.transform.label_of(job.params, job.item.label) != job.item.label
                if moved and any(one.fallback for one in whole):
                    self._skip(job.planned.source, "it came out blank or refused each time")
                    continue
                pixels = self.transform.finish(pixels, whole, [job.params])
            finished.append((job, whole, pixels[0]))
        files = self.encoders.map(self._encode, [pixels for _, _, pixels in finished])
        for (job, whole, _), data in zip(finished, files, strict=True):
            if isinstance(data, Exception):
                self._skip(job.planned.source, f"it cannot be a {self.options.format} file: {data}")
                continue
            if not self.place.begun:
                self.place.begin(self._record())
            self.place.add(self._row(job, whole), data)
            self._count(whole)

    def _encode(self, pixels: torch.Tensor) -> bytes | Exception:
        try:
            return images.encode_image(pixels, self.options.format)
        except (OSError, ValueError) as error:  # a side longer than the format allows
            return error

    def _row(self, job: _Job, made: list[Generated]) -> Row:
        copy, item = job.planned.copy, job.item
        ask = job.requests[0] if job.requests else None
        drawn = {} if job.params is None else self.transform.describe(job.params)
        label = item.label
        if job.params is not None:
            label = self.transform.label_of(job.params, label)
        base = item.base
        if label != item.label:  # into the folder of the class that it shows
            base = f"{self.source.folder_of(label)}/{base.rpartition('/')[2]}"
        model = self.spec if ask else None
        return {
            "prompt": ask.prompt if ask else None,
            "strength": ask.strength if ask else None,
            **drawn,
            "file_name": f"{base}__{_tag(copy)}.{self.options.format}",
            "source": job.planned.source,
            "label": label,
            "method": "original" if copy is None else type(self.transform).__name__,
            "seed": made[0].seed if made else None,
            "attempts": made[0].attempts if made else None,
            "fallback": any(one.fallback for one in made),
            "model": model and presets.name_of(model.model),
            "revision": model and model.revision,
            "versions": self.versions,
        }

    def _count(self, made: list[Generated]) -> None:
        fallback = any(one.fallback for one in made)
        self.made += 1
        self.fallbacks += fallback
        self.retried += not fallback and any(one.attempts > 1 for one in made)
        self._advance()

    def _skip(self, source: str, reason: str) -> None:
        self.skipped.append(Skipped(source, reason))
        self._advance()

    def _advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def _record(self) -> dict[str, Any]:
        """What ``run.json`` says beside the identity; it may change from one resume to the next."""
        return {
            "per_image": self.copies,
            "batch_size": self.batch_size,
            "source": self.source.name,
            "classes": self.source.classes,
            "versions": self.versions,
            "skipped": [one._asdict() for one in sorted(set(self.skipped))],
        }


def order(row: Row) -> tuple[int, str, int]:
    """Sort rows as planned: by path or index of the source, then by the number of the copy."""
    source, copy = _planned(row)
    return int(source) if source.isdecimal() else 0, source, -1 if copy is None else copy


def _tag(copy: int | None) -> str:
    return "original" if copy is None else str(copy)


def _planned(row: Row) -> Planned:
    """Return what a row is of: the number of its copy ends its file's name."""
    tag = Path(row["file_name"]).stem.rpartition("__")[2]
    return Planned(str(row.get("source")), int(tag) if tag.isdecimal() else None)
