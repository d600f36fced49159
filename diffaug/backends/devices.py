"""The device that a model runs on: which one, why none, and whether its memory is full."""

from pathlib import Path
from typing import Any

import torch

from diffaug.backends.ranks import chosen_gpu, local_rank
from diffaug.errors import GenerationError, first_line

#: What to do where torch cannot use a GPU.
REPAIR = "update its driver, or install the torch that goes with it (pytorch.org)"
#: How libraries say that there is no memory left.
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_
)
#: What they say if their own workspace did not fit, and for other reasons, too.
_PERHAPS_NO_MEMORY = (
    "cublas_status_not_initialized",
    "cudnn_status_internal_error",
    "cudnn_status_not_initialized",
    "unable to find an engine",
)


def is_out_of_memory(error: BaseException, images: int = 1) -> bool:
    """Return whether an error of torch means that so many images do not fit into memory.

    Some errors have it as their usual cause. With more than one image, it is assumed: if the cause
    is another one, the error occurs again with fewer images, in the end with one.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    phrases = _NO_MEMORY + (_PERHAPS_NO_MEMORY if images > 1 else ())
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in phrases)


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
    Slurm or MPI. A worker's is that of the process whose worker it is.

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
