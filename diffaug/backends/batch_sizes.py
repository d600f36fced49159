"""How many images a model takes in one call: as many as the free memory of its device holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch

from diffaug.backends.base import BATCH_SIZE
from diffaug.backends.batches import Job, run_batch
from diffaug.backends.devices import is_out_of_memory
from diffaug.backends.loading import EDITORS
from diffaug.backends.request import GenerationRequest
from diffaug.backends.spec import ModelSpec

#: What is chosen from. Few numbers, so that a card gives the same one though other programs take a
#: little of its memory; up to 32, as more images at once are not faster (docs/benchmarks.md).
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
#: Images of the larger call that is measured.
FEW = 4
#: The share of the free memory that a call may take, since blocks of memory leave gaps.
SHARE = 0.8


class Memory(Protocol):
    """The memory of a device: CUDA's, or a fake in tests."""

    def free(self) -> int:
        """Return how many bytes nobody uses."""

    def peak_of(self, call: Callable[[], object]) -> int:
        """Make a call, and return how many bytes more were in use at its peak than before."""


class CudaMemory:
    """The memory of one GPU, as the driver and torch count it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """Return how many bytes nobody uses, in this process or in others."""
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def peak_of(self, call: Callable[[], object]) -> int:
        """Make a call, and return how many bytes more were in use at its peak than before."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        call()
        return int(torch.cuda.max_memory_allocated(self._device)) - before


def memory_of(device: torch.device) -> Memory | None:
    """Return the memory of a device; None where it cannot be measured."""
    return CudaMemory(device) if device.type == "cuda" else None


def choose_batch_size(pipe: Any, spec: ModelSpec, device: torch.device, *, copies: int = 1) -> int:
    """Return how many images of a loaded model fit into the memory that is free now.

    Two short calls are measured, of one image and of a few: an image takes what they differ by.
    Where memory cannot be measured, it is the number that specs have by default; so it is for an
    editor that takes one image a call.

    Args:
        pipe: the model on its device, without recordings.
        spec: how it will run.
        device: where it is.
        copies: how often what a call needs will be kept; 2 with recordings of calls.
    """
    memory = memory_of(device)
    if memory is None or type(pipe).__name__ in EDITORS:
        return BATCH_SIZE
    short = replace(spec, steps=min(spec.steps, 2))
    with _uncompiled(spec):
        return fitting(lambda count: run_batch(pipe, short, _jobs(spec, count)), memory, copies)


def fitting(run: Callable[[int], object], memory: Memory, copies: int = 1) -> int:
    """Return the largest of ``SIZES`` that fits, by the peaks of calls with one image and a few."""
    free = memory.free()
    if (first := _peak(run, memory, 1)) is None:
        return 1  # the first batch says that it does not fit
    for few in (FEW, 2):
        if (peak := _peak(run, memory, few)) is not None:
            of_an_image = max((peak - first) / (few - 1), 1.0)
            fits = 1 + (SHARE * free / copies - first) / of_an_image
            return max(size for size in SIZES if size <= max(fits, 1))
    return 1


def _peak(run: Callable[[int], object], memory: Memory, count: int) -> int | None:
    """Return what a call takes; None if there is not enough."""
    try:
        return memory.peak_of(lambda: run(count))
    except Exception as error:
        if not is_out_of_memory(error, count):
            raise
    # Here and not above, because the exception held tensors until now.
    torch.cuda.empty_cache()
    return None


def _jobs(spec: ModelSpec, count: int) -> list[Job]:
    """Return jobs that take the memory of real ones."""
    image = None
    if spec.task != "generate":
        image = torch.zeros(3, spec.side, spec.side, dtype=torch.uint8)
    strength = 1.0 if spec.task == "translate" else None
    request = GenerationRequest("a photo", 0, image, strength=strength)
    return [Job(index, request, image, index) for index in range(count)]


@contextmanager
def _uncompiled(spec: ModelSpec) -> Iterator[None]:
    """Compile nothing for shapes that will not occur again."""
    if not spec.compile:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
