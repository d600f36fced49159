"""Making the images of a set: read their sources, draw, ask the model, finish, encode.

The random numbers of a copy follow from the run's seed, its source and its number alone, and a
model is always called with full batches. So an image is the same, bit for bit, whatever else the
run makes, in every process and in every order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import groupby, repeat, takewhile
from typing import Any, NamedTuple, NoReturn

import torch

from diffaug import images
from diffaug.ahead import map_ahead
from diffaug.arguments import resized_shape
from diffaug.backends import registry
from diffaug.backends.base import BATCH_SIZE, Backend, answers_of, batch_size_of
from diffaug.backends.batches import schedule, shape_of
from diffaug.backends.prompts import check_prompts
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.errors import RefusedError, UnreadableImageError
from diffaug.functional import resize
from diffaug.offline import marks, places
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


#: The function that finished images are passed to, a batch at a time.
Keep = Callable[[list[Made | Skipped]], None]


class _Draft(NamedTuple):
    """A planned image before its requests are answered; an original has no params and requests."""

    planned: Planned
    image: SourceImage
    params: Params | None
    requests: list[GenerationRequest]


class _Pixels(NamedTuple):
    """An image that is finished, but not encoded: its row, and its pixels (3, H, W)."""

    row: Row
    pixels: torch.Tensor


class _Waiting:
    """Drafts that wait for a full batch, and what they need."""

    def __init__(self) -> None:
        self.drafts: list[_Draft | Skipped] = []
        self.requests = self.pixels = 0

    def add(self, draft: _Draft | Skipped) -> None:
        """Add a draft; the copies of one source share its pixels."""
        if isinstance(draft, _Draft):
            self.requests += len(draft.requests)
            last = self.drafts[-1] if self.drafts else None
            if not isinstance(last, _Draft) or last.image is not draft.image:
                self.pixels += draft.image.pixels[0, 0].numel()
        self.drafts.append(draft)


#: Reads a source when it is called.
_Later = Callable[[], SourceImage | UnreadableImageError]
#: Pixels for each place of a batch: one that holds more in all, 100 MB a place, is not filled up.
PIXELS = 32_000_000


def _check_alone(options: Options) -> None:
    """Raise where several machines make one set, each with a memory of its own."""
    if options.shard is not None or options.engine == "ray":
        raise ValueError(
            "'batch_size' must be a number where several machines make one set, got 'auto'; give "
            "one that fits on all of them, such as 16."
        )


def _raise(error: Exception) -> NoReturn:
    raise error


class Maker:
    """Turn planned images into finished ones; it can be pickled to other processes.

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
        size = (recorded or {}).get("batch_size") or (spec.batch_size if spec else BATCH_SIZE)
        if size == "auto":
            _check_alone(options)
        # Padded, so that the pixels of an image do not depend on the others of its batch.
        self.spec = spec and replace(spec, batch_size=size, pad=True)
        #: A guess until ``settle`` where the spec says ``"auto"``.
        self.batch_size: int = BATCH_SIZE if size == "auto" else size
        self.versions = versions_line()
        #: If set, it replaces the backend of this process, and gets ``at_once`` batches at once.
        self.backend: Backend | None = None
        self.at_once = 1
        self._prompts_checked = False

    def make(self, planned: Iterable[Planned], keep: Keep) -> None:
        """Make images and pass them to ``keep``; read and finish others while the model works."""
        self.settle()
        with ExitStack() as stack:
            encoders = stack.enter_context(ThreadPoolExecutor(4))
            readers = stack.enter_context(ThreadPoolExecutor(max(1, self.source.threads)))
            # One thread only: neither datasets nor the global random state work with two.
            side = stack.enter_context(ThreadPoolExecutor(1))

            def finish(answered: tuple[list[_Draft | Skipped], list[Generated | None]]) -> None:
                keep(list(encoders.map(self._encode, self._finished(*answered))))

            drafted = self._batches(planned, readers)
            batches = takewhile(bool, map_ahead(lambda _: next(drafted, []), repeat(None), side, 1))
            answered = ((batch, self._answers(batch)) for batch in batches)
            for _ in map_ahead(finish, answered, side, 1):
                pass

    def settle(self) -> None:
        """Let the model choose its batch size, where it may; the set is made with that number."""
        if self.spec is None or self.spec.batch_size != "auto":
            return
        self._check_prompts()
        self.backend = self._live_backend()
        self.batch_size = batch_size_of(self.backend) or BATCH_SIZE
        self.spec = replace(self.spec, batch_size=self.batch_size)

    def _batches(
        self, planned: Iterable[Planned], readers: ThreadPoolExecutor
    ) -> Iterator[list[_Draft | Skipped]]:
        """Group drafts into full batches.

        A model runs images with the same number of steps together, so a batch holds only these.
        """
        full = self.batch_size * self.at_once
        waiting: dict[tuple[int, ...], _Waiting] = {}
        for copies, image in self.read(planned, readers):
            for copy in copies:
                draft = self._draft(copy, image)
                kind = self._kind(draft)
                batch = waiting.setdefault(kind, _Waiting())
                batch.add(draft)
                # A batch of images that need no requests must not grow without a limit either.
                if batch.requests >= full or len(batch.drafts) >= 4 * full:
                    yield waiting.pop(kind).drafts
                elif sum(batch.pixels for batch in waiting.values()) > PIXELS * full:
                    # The model pads a batch that is not full, so no image changes.
                    yield waiting.pop(max(waiting, key=lambda kind: waiting[kind].pixels)).drafts
        yield from (batch.drafts for batch in waiting.values())

    def read(
        self, planned: Iterable[Planned], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Planned], SourceImage | UnreadableImageError]]:
        """Read each source once for all of its copies; in threads, if the source allows it."""
        groups = (list(copies) for _, copies in groupby(planned, key=lambda copy: copy.source))
        if self.source.threads:
            opened = map_ahead(self._open, groups, readers, 2 * self.source.threads)
        else:
            opened = map(self._open, groups)
        for copies, image in opened:
            yield copies, image() if callable(image) else image

    def _open(
        self, copies: list[Planned]
    ) -> tuple[list[Planned], "SourceImage | UnreadableImageError | _Later"]:
        """Read the source that these copies have in common; a large one later, alone."""
        try:
            read, large = self.source.open(copies[0].source)
        except UnreadableImageError as error:
            read, large = partial(_raise, error), False
        later = partial(self._load, read)
        return copies, later if large else later()

    def _load(self, read: Callable[[], SourceImage]) -> SourceImage | UnreadableImageError:
        """Read a source in the size of the run."""
        try:
            image = read()
        except UnreadableImageError as error:
            if self.options.strict:
                raise
            return error
        return self.sized(image)

    def sized(self, image: SourceImage) -> SourceImage:
        """Return an image in the size of the run."""
        if (size := self.options.size) is not None:
            shape = resized_shape(image.pixels.shape[-2:], size)
            image = image._replace(pixels=resize(image.pixels, shape))
        return image

    def _draft(
        self, planned: Planned, image: SourceImage | UnreadableImageError
    ) -> _Draft | Skipped:
        """Draw for a planned image, and list its requests."""
        if isinstance(image, UnreadableImageError):
            return Skipped(planned.source, str(image))
        if planned.copy is None:
            return _Draft(planned, image, None, [])
        seed = derive_seed(self.options.seed, planned.source, planned.copy)
        generator = torch.Generator().manual_seed(seed)
        drawn = self.transform.draw_copy(planned.copy, generator, image.label)
        return _Draft(planned, image, drawn, self.transform.requests(image.pixels, [drawn]))

    def _kind(self, draft: _Draft | Skipped) -> tuple[int, ...]:
        """Return what drafts must have in common to run in one batch: steps, and shape."""
        if self.spec is None or isinstance(draft, Skipped) or not draft.requests:
            return 0, 0
        request = draft.requests[0]
        steps = (0, 0) if request.strength is None else schedule(self.spec, request)
        return steps if not self.spec.keep_aspect else (*steps, *shape_of(self.spec, request))

    def _answers(self, batch: list[_Draft | Skipped]) -> list[Generated | None]:
        """Ask the model for all that the drafts of a batch need."""
        drafts = [draft for draft in batch if isinstance(draft, _Draft)]
        return self._generate([request for draft in drafts for request in draft.requests])

    def _generate(self, requests: list[GenerationRequest]) -> list[Generated | None]:
        """Ask the model; None where it refused and there is no original to fall back on."""
        if not requests:
            return []
        self._check_prompts()
        backend = self._live_backend()
        try:
            generated: list[Generated | None] = [*answers_of(backend, requests)]
            # It is smaller after a batch that did not fit; run.json records what made the images.
            self.batch_size = min(self.batch_size, getattr(backend, "batch_size", self.batch_size))
            return generated
        except RefusedError:
            if len(requests) == 1:
                return [None]
            half = len(requests) // 2
            return self._generate(requests[:half]) + self._generate(requests[half:])

    def _check_prompts(self) -> None:
        """Read all prompts of the run once, before its first image."""
        if not self._prompts_checked and isinstance(self.transform.backend, ModelSpec):
            check_prompts(self.spec, self.transform.all_prompts())
        self._prompts_checked = True

    def _live_backend(self) -> Backend:
        if self.backend is not None:
            return self.backend
        if isinstance(self.transform.backend, ModelSpec) and self.spec:
            return registry.backend_for(self.spec, cache=False)
        return self.transform.live_backend()

    def _finished(
        self, batch: list[_Draft | Skipped], generated: list[Generated | None]
    ) -> Iterator[_Pixels | Skipped]:
        """Finish the images of a batch, one by one."""
        answers = iter(generated)
        for draft in batch:
            if isinstance(draft, Skipped):
                yield draft
            else:
                yield self._finish(draft, [next(answers) for _ in draft.requests])

    def _finish(self, draft: _Draft, answers: list[Generated | None]) -> _Pixels | Skipped:
        """Finish one image, and write its row."""
        generated = [answer for answer in answers if answer is not None]
        source, pixels, params = draft.planned.source, draft.image.pixels, draft.params
        if len(generated) < len(answers):
            return Skipped(source, "the model refused it, or made it blank, each time")
        if params is not None:
            moved = self.transform.label_of(params, draft.image.label) != draft.image.label
            if moved and any(answer.fallback for answer in generated):
                return Skipped(source, "it came out blank or refused each time")
            pixels, [params] = self.transform.finish(pixels, generated, [params])
        return _Pixels(self._row(draft, params, generated), pixels[0])

    def _encode(self, finished: _Pixels | Skipped) -> Made | Skipped:
        if isinstance(finished, Skipped):
            return finished
        try:
            mark = marks.xmp(finished.row[marks.SOURCE_TYPE]) if self.options.mark else None
            data = images.encode_image(finished.pixels, self.options.format, xmp=mark)
        except (OSError, ValueError) as error:  # a side longer than the format allows
            reason = f"it cannot be a {self.options.format} file: {error}"
            return Skipped(finished.row["source"], reason)
        return Made(finished.row, data)

    def _row(self, draft: _Draft, applied: Params | None, generated: list[Generated]) -> Row:
        copy, image = draft.planned.copy, draft.image
        request = draft.requests[0] if draft.requests else None
        described = {} if applied is None else self.transform.describe(applied)
        label = image.label if applied is None else self.transform.label_of(applied, image.label)
        base = image.base
        if label != image.label:  # it goes to the folder of the class that it shows
            base = f"{self.source.folder_of(label)}/{base.rpartition('/')[2]}"
        model = self.spec if request else None
        fallback = any(answer.fallback for answer in generated)
        source_type = marks.source_type(
            generated=request is not None,
            fallback=fallback,
            from_text=request is not None and request.image is None,
        )
        tag = "original" if copy is None else copy
        return {
            "prompt": request.prompt if request else None,
            "strength": request.strength if request else None,
            **described,
            "file_name": f"{base}__{tag}.{self.options.format}",
            "source": draft.planned.source,
            "label": label,
            "method": "original" if copy is None else type(self.transform).__name__,
            # In ordinary sets no row has it, and then the manifest has no such column.
            **({"differs": image.differs} if image.differs else {}),
            "seed": generated[0].seed if generated else None,
            "attempts": generated[0].attempts if generated else None,
            "fallback": fallback,
            "model": model and places.told_model(model),
            "revision": model and model.revision,
            "versions": self.versions,
            **marks.columns(source_type),
        }


#: The function that makes planned images, in any order: ``Maker.make``, in one process or many.
Engine = Callable[[Maker, Iterable[Planned], Keep], None]
