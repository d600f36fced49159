"""The device that a model runs on: which one, why none, and whether its memory is full."""

import errno
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from diffaug.backends.ranks import chosen_gpu, local_rank
from diffaug.errors import DiffaugError, GenerationError, first_line

Item = TypeVar("Item")

#: What to do where torch cannot use a GPU.
REPAIR = "update its driver, or install the torch that goes with it (pytorch.org)"
#: From this many parameters on, a CPU takes minutes for an image.
MOST_FOR_CPU = 100_000_000
#: How it is said that the memory of the machine is full, and not that of a GPU.
_NO_MACHINE_MEMORY = re.compile(
    r"(can't|cannot) allocate memory"  # of torch for the CPU, and of the system
    r"|defaultcpuallocator|not enough memory",
    re.IGNORECASE,
)
#: How libraries say that there is no memory left.
_NO_MEMORY = re.compile(
    r"out[ _]?of[ _]?(device[ _]|host[ _])?memory"  # also hipErrorOutOfMemory
    r"|alloc(ation_)?_?failed"  # CUBLAS_STATUS_, CUDNN_STATUS_, miopenStatus
    r"|cudaErrorMemoryAllocation|rocblas_status_memory_error"
    r"|failed to create (\w+ )*buffer|invalid buffer size: "  # of MPS
    # CUDA's allocator, where it cannot even ask how full the memory is.
    r"|nvml_success == .*internal assert failed.*cachingallocator",
    re.IGNORECASE | re.DOTALL,
)
#: What they say if their own workspace did not fit, and for other reasons, too.
_PERHAPS_NO_MEMORY = re.compile(
    r"(cu|hip)blas_status_(not_initialized|internal_error|execution_failed)"
    r"|cudnn_status_(not_initialized|internal_error|execution_failed)"
    r"|unable to find an engine|no execution plans support the graph",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException, images: int = 1) -> bool:
    """Return whether an error means that so many images do not fit into memory.

    Some errors have it as their usual cause. With more than one image, it is assumed: if the cause
    is another one, the error occurs again with fewer images, in the end with one.
    """
    return any(
        isinstance(cause, (torch.OutOfMemoryError, MemoryError))
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or (
            isinstance(cause, (RuntimeError, OSError))
            and (
                _NO_MEMORY.search(str(cause))
                or _NO_MACHINE_MEMORY.search(str(cause))
                or (images > 1 and _PERHAPS_NO_MEMORY.search(str(cause)))
            )
        )
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from.

    Where a file cannot be read, diffusers raises another error while it handles the first.
    """
    cause: BaseException | None = error
    reads = False
    while cause is not None:
        yield cause
        reads = reads or isinstance(cause, OSError)
        cause = cause.__cause__ or (cause.__context__ if reads else None)


def no_room(
    what: str, device: torch.device, error: BaseException, smaller: str, step: str | None = None
) -> GenerationError:
    """Say that something does not fit into the memory of a device, or of the machine.

    Args:
        what: it does not fit.
        device: where it was to be.
        error: of torch, or of the system.
        smaller: what to choose instead, such as "choose a smaller model".
        step: what else helps on a device; None if nothing does but to free it.
    """
    of_machine = device.type == "cpu" or any(
        isinstance(cause, (MemoryError, OSError)) or _NO_MACHINE_MEMORY.search(str(cause))
        for cause in _causes(error)
    )
    if of_machine:
        return GenerationError(
            f"{what} does not fit into the memory of this machine; end other programs, or "
            f"{smaller}."
        )
    step = f"{step}, or free the device" if step else f"free the device, or {smaller}"
    return GenerationError(f"{what} does not fit on {device}; {step}.")


@contextmanager
def fitting(
    what: str, device: torch.device, smaller: str, step: str | None = None
) -> Iterator[None]:
    """Raise ``no_room``, which explains the arguments, for whatever runs out of memory in here."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiffaugError) or not is_out_of_memory(error):
            raise
        raise no_room(what, device, error, smaller, step) from error


class AsManyAsFit:
    """Give a model as many images at a time as fit into memory, from then on.

    Args:
        model: what errors call it.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.most: int | None = None

    def __call__(
        self,
        call: Callable[[Sequence[Item]], torch.Tensor],
        items: Sequence[Item],
        device: torch.device,
    ) -> torch.Tensor:
        """Return what a call gives for all items, on the CPU; it is made with parts of them.

        Raises:
            GenerationError: not even one fits.
        """
        parts: list[torch.Tensor] = []
        while items:
            size = min(len(items), self.most or len(items))
            try:
                parts.append(call(items[:size]).cpu())
                items = items[size:]
                continue
            except Exception as error:
                if not is_out_of_memory(error, size):
                    raise
                if size == 1:
                    what = f"one image for {self.model}"
                    raise no_room(what, device, error, "choose a smaller model") from error
            # Here and not above, because the exception held tensors until now.
            free_unused()
            if self.most is None:
                warnings.warn(does_not_fit(size), UserWarning, stacklevel=1)
            self.most = size // 2
        return torch.cat(parts)


def does_not_fit(size: int) -> str:
    """Say that a batch of so many images is halved."""
    return (
        f"a batch of {size} does not fit into memory; later ones have {size // 2} (halved again if "
        "that is too many)."
    )


def has_lost_cuda() -> bool:
    """Return whether this process was forked from one that uses CUDA, and so cannot use it."""
    # Private, but there is no public way to ask. Torch calls a fork bad even if the parent only
    # looked for a GPU, so look whether there is one.
    in_bad_fork = getattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    return bool(in_bad_fork() and torch.cuda.device_count())


def refuse_forked_cuda(device: str) -> None:
    """Raise if CUDA is lost: a GPU that this process cannot use would fail in the middle."""
    if device.startswith(("auto", "cuda")) and has_lost_cuda():
        raise GenerationError(
            "CUDA cannot be used in a forked process; give the DataLoader "
            "multiprocessing_context='spawn' or num_workers=0."
        )


def free_unused() -> None:
    """Give the memory that torch keeps for later back to the GPU; nothing where none was used."""
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def why_no_gpu() -> str:
    """Return why torch cannot use the GPU of this machine; '' if it can, or there is no GPU."""
    if torch.cuda.is_available():
        return ""
    if torch.cuda.device_count():  # by the driver alone, which works with a torch too new for it
        try:
            torch.cuda.init()
        except (AssertionError, RuntimeError) as error:
            return first_line(error)
        return "CUDA does not start"
    built_for_gpus = torch.version.cuda or torch.version.hip
    if not built_for_gpus and Path("/dev/nvidia0").exists():
        return "this torch was built for CPUs"
    return ""


def is_slow(pipe: Any, device: torch.device) -> bool:
    """Return whether a pipeline is so large that a CPU takes minutes for an image."""
    if device.type != "cpu":
        return False
    modules = (part for part in pipe.components.values() if isinstance(part, torch.nn.Module))
    return sum(weight.numel() for part in modules for weight in part.parameters()) > MOST_FOR_CPU


def settle_device(pipe: Any) -> None:
    """Let a loaded pipeline whose weights stay where they are know its device.

    Otherwise diffusers asks every module for hooks that move weights, many times in each call.
    """
    kind = type(pipe)
    if isinstance(getattr(kind, "_execution_device", None), property):
        settled = {"_execution_device": pipe.device, "__module__": kind.__module__}
        pipe.__class__ = type(kind.__name__, (kind,), settled)


def choose_device(device: str) -> torch.device:
    """Turn ``"auto"`` into a device that is there: this rank's GPU, the first one, MPS, the CPU.

    A rank's GPU is the one that it trains on, or else its number by torchrun (``LOCAL_RANK``),
    Slurm or MPI. A worker's is that of the process whose worker it is. It warns of a GPU that torch
    cannot use, so ask once for a model.

    Raises:
        GenerationError: a GPU that is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            # A process that has chosen its GPU for training generates on that one.
            number = chosen_gpu() or local_rank()
            device = f"cuda:{number if number < torch.cuda.device_count() else 0}"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
        if device == "cpu" and (reason := why_no_gpu()):
            warnings.warn(
                "diffaug runs on the CPU: torch cannot use the GPU of this machine "
                f"({reason}); {REPAIR}.",
                UserWarning,
                stacklevel=1,
            )
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise GenerationError(
            f"'device' is {device!r}, but torch sees {torch.cuda.device_count()} CUDA devices"
            f"{f' ({reason})' if (reason := why_no_gpu()) else ''}; set device='auto' or 'cpu'."
        )
    if chosen.type == "cuda" and (reason := why_no_gpu()):
        raise GenerationError(
            f"'device' is {device!r}, but torch cannot use the GPU ({reason}); {REPAIR}."
        )
    return chosen
