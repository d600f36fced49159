"""Making the images of a set: read their sources, draw, ask the model, finish, encode.

A copy's random numbers follow from the run's seed, its source and its number alone, and a model is
always called with full batches; so an image is the same, bit for bit, whatever else is made, in
whichever process and in whichever order.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import torch

from diffaug import images
from diffaug.backends import presets, registry
from diffaug.backends.base import BATCH_SIZE, Backend
from diffaug.backends.batches import schedule
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.errors import RefusedError, UnreadableImageError
from diffaug.functional import resize
from diffaug.offline.identity import versions_line
from diffaug.offline.manifest import Row
from diffaug.offline.options import Options
from diffaug.offline.plan import Planned
from diffaug.offline.sources import Skipped, Source, SourceImage
from diffaug.seeds import derive_seed
from diffaug.transforms.base import ImageTransform, Params


class Made(NamedTuple):
    """A finished image: its row, and the bytes of its file."""

    row: Row
    data: bytes


#: What takes finished images, a batch at a time.
Keep = Callable[[list[Made | Skipped]], None]


class _Draft(NamedTuple):
    """An image on its way; an original has neither params nor requests."""

    planned: Planned
    item: SourceImage
    params: Params | None
    requests: list[GenerationRequest]


class Maker:
    """Turn planned images into finished ones; it travels to other processes.

    Args:
        source: where the images come from.
        transform: what is done to them.
        spec: the model of the transform with its revision, None where it has none.
        options: of the run.
        recorded: what ``run.json`` says of the run so far, None for a new one.
    """

    def __init__(
        self,
        source: Source,
        transform: ImageTransform,
        spec: ModelSpec | None,
        options: Options,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        self.source, self.transform, self.options = source, transform, options
        own = spec.batch_size if spec else BATCH_SIZE
        self.batch_size: int = (recorded or {}).get("batch_size") or own
        # Padded: bit-equal pixels whatever is left to make, and in whatever company.
        self.spec = spec and replace(spec, batch_size=self.batch_size, pad=True)
        self.versions = versions_line()
        #: Asked instead of this process's own backend, with so many batches at once.
        self.backend: Backend | None = None
        self.at_once = 1

    def make(self, planned: Iterable[Planned], keep: Keep) -> None:
        """Make images and hand them over, while the next are read and the model works."""
        with ExitStack() as stack:
            encoders = stack.enter_context(ThreadPoolExecutor(4))
            readers = stack.enter_context(ThreadPoolExecutor(max(1, self.source.threads)))
            # One thread only: neither a dataset nor the global RNG is made for two.
            side = stack.enter_context(ThreadPoolExecutor(1))
            batches = self._batches(planned, readers)
            behind: Future[None] | None = None
            ahead: Future[list[_Draft | Skipped]] = side.submit(next, batches, [])
            while batch := ahead.result():
                ahead = side.submit(next, batches, [])
                drafts = [draft for draft in batch if isinstance(draft, _Draft)]
                generated = self._generate([ask for draft in drafts for ask in draft.requests])
                if behind:
                    behind.result()
                behind = side.submit(self._finish, batch, generated, encoders, keep)
            if behind:
                behind.result()

    def _batches(
        self, planned: Iterable[Planned], readers: ThreadPoolExecutor
    ) -> Iterator[list[_Draft | Skipped]]:
        """Ask for full batches.

        A model runs images of one strength together, so they are put together here.
        """
        full = self.batch_size * self.at_once
        waiting: dict[tuple[int, int], list[_Draft | Skipped]] = {}
        asked: dict[tuple[int, int], int] = {}
        for copies, item in self._read(planned, readers):
            for one in copies:
                draft = self._draft(one, item)
                kind = self._kind(draft)
                batch = waiting.setdefault(kind, [])
                batch.append(draft)
                asks = len(draft.requests) if isinstance(draft, _Draft) else 0
                asked[kind] = asked.get(kind, 0) + asks
                # Images that ask for nothing must not pile up either.
                if asked[kind] >= full or len(batch) >= 4 * full:
                    del asked[kind]
                    yield waiting.pop(kind)
        yield from waiting.values()

    def _read(
        self, planned: Iterable[Planned], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Planned], SourceImage | UnreadableImageError]]:
        """Read each source once for its copies in a row, ahead if it may be read in threads."""
        ahead: deque[tuple[list[Planned], Future[SourceImage | UnreadableImageError]]] = deque()
        for key, copies in groupby(planned, key=lambda one: one.source):
            if not self.source.threads:
                yield list(copies), self._load(key)
                continue
            ahead.append((list(copies), readers.submit(self._load, key)))
            if len(ahead) > 2 * self.source.threads:
                ready, item = ahead.popleft()
                yield ready, item.result()
        for ready, item in ahead:
            yield ready, item.result()

    def _load(self, key: str) -> SourceImage | UnreadableImageError:
        try:
            item = self.source.load(key)
        except UnreadableImageError as error:
            if self.options.strict:
                raise
            return error
        if (size := self.options.size) is None:
            return item
        height, width = item.pixels.shape[-2:]
        short = min(height, width)
        shape = (int(size * height / short), int(size * width / short))  # as in v2.Resize(size)
        return item._replace(pixels=resize(item.pixels, shape))

    def _draft(
        self, planned: Planned, item: SourceImage | UnreadableImageError
    ) -> _Draft | Skipped:
        if isinstance(item, UnreadableImageError):
            return Skipped(planned.source, str(item))
        if planned.copy is None:
            return _Draft(planned, item, None, [])
        seed = derive_seed(self.options.seed, planned.source, planned.copy)
        generator = torch.Generator().manual_seed(seed)
        drawn = self.transform.draw_copy(planned.copy, generator, item.label)
        return _Draft(planned, item, drawn, self.transform.requests(item.pixels, [drawn]))

    def _kind(self, draft: _Draft | Skipped) -> tuple[int, int]:
        """Return what drafts must have in common to run in one batch: the number of steps."""
        if self.spec is None or isinstance(draft, Skipped) or not draft.requests:
            return 0, 0
        return (
            (0, 0) if draft.requests[0].strength is None else schedule(self.spec, draft.requests[0])
        )

    def _generate(self, requests: list[GenerationRequest]) -> list[Generated | None]:
        """Ask the model; None for what it refused without an original to stand in."""
        if not requests:
            return []
        backend = self._live_backend()
        try:
            generated: list[Generated | None] = list(backend.generate(requests))
            # Smaller after a batch that did not fit: run.json says what made the images.
            self.batch_size = min(self.batch_size, getattr(backend, "batch_size", self.batch_size))
            return generated
        except RefusedError:
            if len(requests) == 1:
                return [None]
            half = len(requests) // 2
            return self._generate(requests[:half]) + self._generate(requests[half:])

    def _live_backend(self) -> Backend:
        if self.backend is not None:
            return self.backend
        if isinstance(self.transform.backend, ModelSpec) and self.spec:
            return registry.backend_for(self.spec, cache=False)
        return self.transform.live_backend()

    def _finish(
        self,
        batch: list[_Draft | Skipped],
        generated: list[Generated | None],
        encoders: ThreadPoolExecutor,
        keep: Keep,
    ) -> None:
        """Finish, encode and hand over the images of a batch."""
        answers = iter(generated)
        done: list[Future[Made | Skipped] | Skipped] = []
        for draft in batch:
            if isinstance(draft, Skipped):
                done.append(draft)
                continue
            made = [next(answers) for _ in draft.requests]
            whole = [one for one in made if one is not None]
            source, pixels = draft.planned.source, draft.item.pixels
            if len(whole) < len(made):
                reason = "the model refused it, or made it blank, each time"
                done.append(Skipped(source, reason))
                continue
            if draft.params is not None:
                moved = self.transform.label_of(draft.params, draft.item.label) != draft.item.label
                if moved and any(one.fallback for one in whole):
                    done.append(Skipped(source, "it came out blank or refused each time"))
                    continue
                pixels = self.transform.finish(pixels, whole, [draft.params])
            row = self._row(draft, whole)
            done.append(encoders.submit(self._encode, row, pixels[0]))
        keep([one if isinstance(one, Skipped) else one.result() for one in done])

    def _encode(self, row: Row, pixels: torch.Tensor) -> Made | Skipped:
        try:
            return Made(row, images.encode_image(pixels, self.options.format))
        except (OSError, ValueError) as error:  # a side longer than the format allows
            reason = f"it cannot be a {self.options.format} file: {error}"
            return Skipped(row["source"], reason)

    def _row(self, draft: _Draft, made: list[Generated]) -> Row:
        copy, item = draft.planned.copy, draft.item
        ask = draft.requests[0] if draft.requests else None
        drawn = {} if draft.params is None else self.transform.describe(draft.params)
        label = item.label
        if draft.params is not None:
            label = self.transform.label_of(draft.params, label)
        base = item.base
        if label != item.label:  # into the folder of the class that it shows
            base = f"{self.source.folder_of(label)}/{base.rpartition('/')[2]}"
        model = self.spec if ask else None
        tag = "original" if copy is None else copy
        return {
            "prompt": ask.prompt if ask else None,
            "strength": ask.strength if ask else None,
            **drawn,
            "file_name": f"{base}__{tag}.{self.options.format}",
            "source": draft.planned.source,
            "label": label,
            "method": "original" if copy is None else type(self.transform).__name__,
            "seed": made[0].seed if made else None,
            "attempts": made[0].attempts if made else None,
            "fallback": any(one.fallback for one in made),
            "model": model and presets.name_of(model.model),
            "revision": model and model.revision,
            "versions": self.versions,
        }


#: What makes planned images, in any order: ``Maker.make``, or many of it.
Engine = Callable[[Maker, Iterable[Planned], Keep], None]
