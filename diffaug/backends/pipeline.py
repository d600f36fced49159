"""Running a diffusion model on requests: grouping, batching, seeding, and what goes wrong."""

import gc
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from diffaug.ahead import map_ahead
from diffaug.backends.base import BATCH_SIZE, ModelBackend
from diffaug.backends.batch_sizes import choose_batch_size
from diffaug.backends.batches import (
    Batch,
    Job,
    Launched,
    Output,
    accepted,
    kind,
    launch,
    prepare,
    sized,
)
from diffaug.backends.devices import (
    choose_device,
    does_not_fit,
    free_unused,
    is_out_of_memory,
    is_slow,
    refuse_forked_cuda,
    settle_device,
)
from diffaug.backends.encodings import keep_encodings
from diffaug.backends.few_passes import use_few_passes
from diffaug.backends.graphs import Graphs, use_graphs, wants_graphs
from diffaug.backends.hub import pin
from diffaug.backends.loading import EDITORS, load_pipeline, quiet
from diffaug.backends.prompts import PromptReader
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.checked import checked
from diffaug.errors import GenerationError, RefusedError, first_line
from diffaug.seeds import MAX_SEED
from diffaug.switches import own_defaults, own_gradients, own_switches

_log = logging.getLogger("diffaug")

#: Images made for one request before the source is returned instead.
ATTEMPTS = 4
#: From this many images on, it is an error if not one of them is usable; fewer may be chance.
ENOUGH_TO_JUDGE = 4
#: Prompts that are remembered as checked.
MOST_CHECKED = 10_000


@checked
class DiffusersBackend(ModelBackend):
    """Generate with a diffusers pipeline, loaded on the first request.

    Sources are resized to the model's square, or with ``spec.keep_aspect`` to their working shape;
    what comes back has that size. Each image has its own random generator, so with ``spec.pad`` it
    is the same, bit for bit, whatever is generated with it. A batch that does not fit into memory
    is halved, for the rest of the backend's life. Blank and refused outputs are made again with the
    next seed, three times; then the source is returned instead. An image that overflows in half
    precision is decoded again in float32. The backend pickles as its spec and may be used from
    several threads, one at a time.

    Args:
        spec: the model and how to run it.

    Raises:
        ValueError: (``generate``) a request does not suit the task, or has an unknown ``<token>``.
        ModelError: (on first use) the model cannot be used; the message says why.
        GenerationError: the model fails, not even one image fits into memory, or all the first
            images are not a number.
        RefusedError: every attempt at a text-to-image request was blank or refused.

    Example:
        >>> from diffaug import DiffusersBackend, ModelSpec
        >>> backend = DiffusersBackend(ModelSpec("org/editor", size=256))  # loads nothing
        >>> backend.size
        256
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        #: How many requests got their source back because every attempt was blank or refused.
        self.fallbacks = 0
        self._pipe: Any = None
        self._graphs: Graphs | None = None
        self._reader: PromptReader | None = None
        #: Chosen as the model is loaded: then CUDA is in use, and "auto" might be another GPU.
        self._device = torch.device("cpu")
        #: None until it is chosen, when the model is loaded.
        self._batch_size = None if spec.batch_size == "auto" else spec.batch_size
        #: The most that others, which make the same set, can take.
        self._most: int | None = None
        self._warned: set[str] = set()
        #: Prompts that were checked, which takes as long as to encode them.
        self._checked: set[str] = set()
        #: Whether an image was ever usable, and how many were not a number before.
        self._succeeded = False
        self._no_numbers = 0
        # By process: a fork may copy a lock while a thread of the parent holds it.
        self._locks: dict[int, threading.RLock] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return DiffusersBackend, (self.spec,)

    @property
    def batch_size(self) -> int:
        """Images in one call of the model: the spec's number, or less where that did not fit.

        Where the spec says ``"auto"``, it is a guess until the model is loaded.
        """
        size = BATCH_SIZE if self._batch_size is None else self._batch_size
        return size if self._most is None else min(size, self._most)

    def choose_batch_size(self) -> int:
        """Return ``batch_size``; where the spec says ``"auto"``, load the model to choose it."""
        if self._batch_size is None:
            with self._lock, own_defaults(), own_gradients(False), quiet():
                self._loaded()
        return self.batch_size

    def limit_batch_size(self, most: int) -> None:
        """Take no more images in one call of the model, for the rest of the backend's life."""
        self._most = most if self._most is None else min(most, self._most)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Return one image for each request, in order."""
        requests = check_requests(requests, self.spec)
        if not requests:
            return []
        with self._lock, own_defaults(), own_gradients(False), quiet():
            pipe = self._loaded()
            self._check_prompts(pipe, requests)
            with own_switches(self._device, exact=pipe.dtype == torch.float32):
                return self._generate(pipe, requests)

    def close(self) -> None:
        """Free the model; the next call of ``generate`` loads it again."""
        with self._lock:
            if self._pipe is None:
                return
            if self.fallbacks:
                _log.warning(
                    "'%s': %d originals were used instead of images, in all",
                    self.spec.model,
                    self.fallbacks,
                )
            self._pipe = self._graphs = self._reader = None
            gc.collect()  # offloading and compiling leave cycles behind
            free_unused()

    @property
    def _lock(self) -> threading.RLock:
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def _loaded(self) -> Any:
        refuse_forked_cuda(self.spec.device)
        if self._pipe is None:
            self._pinned = pin(self.spec)
            self.spec = replace(self.spec, size=self._pinned.size)
            self._device = device = choose_device(self.spec.device)
            pipe = load_pipeline(replace(self._pinned, device=str(device)))
            keep_encodings(pipe)
            use_few_passes(pipe)
            if not self.spec.offload:
                settle_device(pipe)
            if self._batch_size is None:
                self._batch_size = self._fitting(pipe, device)
            self._graphs = use_graphs(pipe, self.spec, device)
            tokenizer = getattr(pipe, "tokenizer", None)
            self._reader = tokenizer and PromptReader(self.spec.model, tokenizer)
            self._pipe = pipe
            if is_slow(pipe, device):
                self._warn(
                    "cpu",
                    f"'{self.spec.model}' runs on the CPU: expect minutes an image; "
                    "use backend='tiny' or a GPU.",
                )
        return self._pipe

    def _fitting(self, pipe: Any, device: torch.device) -> int:
        """Return how many images fit into one call of the model."""
        copies = 2 if wants_graphs(pipe, self.spec, device) else 1
        try:
            with own_switches(device, exact=pipe.dtype == torch.float32):
                return choose_batch_size(pipe, self._pinned or self.spec, device, copies=copies)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> GenerationError:
        return GenerationError(
            f"'{self.spec.model}' failed with {type(error).__name__}: {first_line(error)}"
        )

    def _check_prompts(self, pipe: Any, requests: list[GenerationRequest]) -> None:
        """Raise for what the text encoder would silently ignore; warn of what it cuts off."""
        if "negative_prompt" not in accepted(pipe) and any(r.negative_prompt for r in requests):
            raise ValueError(
                f"'negative_prompt' must be empty: {type(pipe).__name__} takes none, "
                f"got {next(r.negative_prompt for r in requests if r.negative_prompt)!r}."
            )
        if self._reader is None:
            return
        prompts = dict.fromkeys(r.prompt for r in requests)
        texts = {*prompts, *(r.negative_prompt for r in requests)}
        if not texts - self._checked:
            return
        self._reader.check_words(texts)
        if long := self._reader.cut(texts):
            self._warn("long", long)
        if same := self._reader.twins(prompts):
            self._warn("same", f"{same}.")
        if len(self._checked) > MOST_CHECKED:
            self._checked.clear()
        self._checked |= texts

    def _generate(self, pipe: Any, requests: list[GenerationRequest]) -> list[Generated]:
        results: dict[int, Generated] = {}
        jobs = []
        for index, request in enumerate(requests):
            if request.strength == 0 and (source := sized(self.spec, request)) is not None:
                results[index] = Generated(source, request.seed)
            else:
                jobs.append(Job(index, request, None, request.seed))

        # The next seed overflows like this one, so these are not made again.
        no_numbers: list[Job] = []
        refused = 0
        for attempt in range(1, ATTEMPTS + 1):
            failed, refused = [], 0
            for job, output in self._run(pipe, jobs):
                if output.no_number:
                    no_numbers.append(job)
                elif output.refused or output.blank:
                    failed.append(replace(job, seed=(job.seed + 1) % MAX_SEED))
                    refused += output.refused
                else:
                    results[job.index] = Generated(output.image, job.seed, attempts=attempt)
                    self._succeeded = True
            jobs = failed
        if no_numbers:
            self._use_sources(pipe, no_numbers, results, len(requests))

        kinds = ["blank"] * (refused < len(jobs)) + ["refused by its safety checker"] * bool(
            refused
        )
        fault = " or ".join(kinds)
        for job in jobs:
            if job.source is None:
                raise RefusedError(
                    f"every image for {job.request.prompt!r} (seed {job.request.seed}) was {fault},"
                    f" {ATTEMPTS} times; change the prompt or the seed."
                )
            results[job.index] = Generated(
                job.source, job.request.seed, attempts=ATTEMPTS, fallback=True
            )
        self.fallbacks += len(jobs)
        if jobs:
            self._warn(
                "fallback",
                f"{len(jobs)} of {len(requests)} generated images were {fault}, {ATTEMPTS} times; "
                "their originals are used (later ones are counted in 'fallbacks').",
            )
        return [results[index] for index in range(len(requests))]

    def _use_sources(
        self, pipe: Any, jobs: list[Job], results: dict[int, Generated], count: int
    ) -> None:
        """Return sources for images that are not a number; raise if all images so far are such."""
        precision = "half precision" if pipe.dtype != torch.float32 else "float32"
        step = "set dtype='float32'" if precision == "half precision" else "set another scheduler"
        if damaged := next((n for n, part in pipe.components.items() if _is_damaged(part)), None):
            step = f"weights of its {damaged} are not numbers: get the model again"
        what = f"not a number in {precision}; {step}"
        self._no_numbers += len(jobs)
        if self._no_numbers >= ENOUGH_TO_JUDGE and not self._succeeded:
            raise GenerationError(
                f"'{self.spec.model}': the first {self._no_numbers} images are {what}."
            )
        for job in jobs:
            if job.source is None:
                raise RefusedError(
                    f"the image for {job.request.prompt!r} (seed {job.request.seed}) is {what}."
                )
            results[job.index] = Generated(job.source, job.request.seed, fallback=True)
        self.fallbacks += len(jobs)
        self._warn(
            "number",
            f"{len(jobs)} of {count} generated images are {what}; their originals are used (later "
            "ones are counted in 'fallbacks').",
        )

    def _run(self, pipe: Any, jobs: list[Job]) -> Iterator[tuple[Job, Output]]:
        """Yield each job with the output of the model.

        The next batch is prepared, and the last one is fetched, while the model runs.
        """
        groups: dict[tuple[int, ...], list[Job]] = {}
        for job in jobs:
            groups.setdefault(kind(self.spec, job.request), []).append(job)
        if len(groups) <= 1 and len(jobs) <= self.batch_size:  # a thread would only cost time
            for part in self._parts(pipe, jobs):
                for launched in self._launch(pipe, self._prepare(pipe, part)):
                    yield from _fetched(launched)
            return
        with ThreadPoolExecutor(2) as side:
            parts = (part for group in groups.values() for part in self._parts(pipe, group))
            batches = map_ahead(partial(self._prepare, pipe), parts, side, 1)
            running = (launched for batch in batches for launched in self._launch(pipe, batch))
            for fetched in map_ahead(_fetched, running, side, 1):
                yield from fetched

    def _parts(self, pipe: Any, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        """Cut jobs into batches, by the size that fits at the time; editors get one image each."""
        while jobs:
            size = self.batch_size if _takes_batches(pipe) else 1
            yield jobs[:size]
            jobs = jobs[size:]

    def _prepare(self, pipe: Any, jobs: Sequence[Job]) -> Batch:
        is_batched = _takes_batches(pipe)
        size = self.batch_size if (self.spec.pad or self.spec.compile) and is_batched else 1
        on_cuda = self._device.type == "cuda"
        return prepare(self.spec, jobs, size, pinned=is_batched and on_cuda)

    def _launch(self, pipe: Any, batch: Batch, *, again: bool = False) -> Iterator[Launched]:
        """Run a batch; if it does not fit into memory, run smaller ones in its place.

        One image is tried twice, the second time (``again``) after memory was freed.
        """
        size = len(batch.jobs)
        launched = self._try(pipe, batch, again) if size <= self.batch_size else None
        if launched is not None:
            yield launched
            return
        for part in self._parts(pipe, batch.jobs[: batch.count]):
            yield from self._launch(pipe, self._prepare(pipe, part), again=size == 1)

    def _try(self, pipe: Any, batch: Batch, again: bool) -> Launched | None:
        """Run one batch; if it does not fit into memory, make room and return None.

        Graphs go first. Without any, later batches are half as large.
        """
        size = len(batch.jobs)
        try:
            return launch(pipe, self.spec, batch)
        except Exception as error:
            if not is_out_of_memory(error, size):
                raise self._failure(error) from error
        # Here and not above, because the exception held tensors until now.
        had_graphs = self._graphs is not None and self._graphs.stop()
        free_unused()
        if hasattr(pipe, "vae") and hasattr(pipe, "unet"):
            # SDXL decodes in float32 and casts back afterwards, which an error skips.
            torch.nn.Module.to(pipe.vae, pipe.unet.dtype)
        if had_graphs:  # their memory may be what was missing
            return None
        if size > 1:
            self._batch_size = size // 2
            self._warn("memory", does_not_fit(size))
        elif again:
            can_move = self._device.type == "cuda" and not self.spec.offload
            raise GenerationError(
                f"'{self.spec.model}' does not have the memory for one image of {self.size} px; "
                f"{'set offload=True, or ' * can_move}choose a smaller 'size' or model."
            )
        return None

    def _warn(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            warnings.warn(message, UserWarning, stacklevel=1)


def check_requests(
    requests: Sequence[GenerationRequest], spec: ModelSpec
) -> list[GenerationRequest]:
    """Return requests as a list; raise unless each suits the task of a model."""
    requests = list(requests)
    for request in requests:
        _check_request(request, spec)
    return requests


def _check_request(request: GenerationRequest, spec: ModelSpec) -> None:
    if not isinstance(request, GenerationRequest):
        raise TypeError(
            f"'requests' must hold GenerationRequest objects, got {type(request).__name__}."
        )
    wanted = {"image": spec.task != "generate", "strength": spec.task == "translate"}
    for name, needed in wanted.items():
        value = getattr(request, name)
        if (value is not None) != needed:
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else value
            raise ValueError(
                f"'{name}' must be {'given' if needed else 'None'} for task {spec.task!r}, "
                f"got {got}."
            )


def _takes_batches(pipe: Any) -> bool:
    return type(pipe).__name__ not in EDITORS


def _is_damaged(part: Any) -> bool:
    """Return whether weights of a part are no numbers, so that no setting can help."""
    module = isinstance(part, torch.nn.Module)
    return module and not all(bool(p.isfinite().all()) for p in part.parameters())


def _fetched(launched: Launched) -> list[tuple[Job, Output]]:
    """Wait for a batch, and return its jobs, without those that fill it, with their outputs."""
    jobs = launched.batch.jobs[: launched.batch.count]
    return list(zip(jobs, launched.outputs(), strict=False))
