"""Which GPU is a process's own: it says so itself, the process whose worker it is, or a launcher.

Torch is not imported here: who has not imported it uses no GPU.
"""

import os
import sys
from typing import NamedTuple

#: Where launchers say which of the processes on this machine this is: torchrun, Slurm, Open MPI,
#: Intel MPI and MPICH, MVAPICH.
LAUNCHERS = (
    "LOCAL_RANK",
    "SLURM_LOCALID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
)
#: What decides which GPUs a process sees, and so which one a number means: NVIDIA's and AMD's.
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
#: Modules that start processes; the second one is what ``datasets.map(num_proc=...)`` uses.
MULTIPROCESSING = ("multiprocessing", "multiprocess")


class Choice(NamedTuple):
    """A GPU by its number, and the GPUs that its process sees."""

    gpu: int
    visible: tuple[str | None, ...]


#: What the process whose worker this is had chosen when it started this one. It is here and not in
#: the registry, because a spec brings it along, which knows no registry.
_inherited: Choice | None = None


def visible_gpus() -> tuple[str | None, ...]:
    """Return what the environment says about which GPUs this process sees."""
    return tuple(map(os.environ.get, VISIBLE))


def local_rank() -> int:
    """Return this process's number among those on this machine that train together, or else 0.

    Raises:
        ValueError: a launcher's variable is not a number.
    """
    for name in LAUNCHERS:
        value = os.environ.get(name)
        if value is None:
            continue
        if not value.isdecimal():
            raise ValueError(
                f"'{name}' must be the number of a process on this machine, got {value!r}; unset "
                "it, or start with torchrun, which sets it."
            )
        return int(value)
    return 0


def chosen_gpu() -> int:
    """Return the GPU that this process, or the one whose worker it is, trains on; 0 if none."""
    choice = _choice()
    return choice.gpu if choice and choice.visible == visible_gpus() else 0


def choice_for_child() -> Choice | None:
    """Return what a child should inherit, while one is started that is not forked; or else None.

    What is pickled for anything else, such as a file or a hash, says nothing of this process.
    """
    contexts = [sys.modules.get(f"{name}.context") for name in MULTIPROCESSING]
    is_starting = any(context and context.get_spawning_popen() for context in contexts)
    return _choice() if is_starting else None


def inherit(choice: Choice | None) -> None:
    """Remember what the process that started this one has chosen."""
    global _inherited
    _inherited = choice


def _choice() -> Choice | None:
    """Return what this process has chosen; or else, as long as it uses no GPU, what it inherited.

    CUDA is never started for it, which a later fork would not survive.
    """
    cuda = sys.modules.get("torch.cuda")
    if cuda is not None and getattr(cuda, "is_initialized", bool)():
        return Choice(cuda.current_device(), visible_gpus())
    return _inherited


if hasattr(os, "register_at_fork"):  # not on Windows
    # A forked process cannot ask CUDA, so its parent notes the answer before each fork.
    os.register_at_fork(before=lambda: inherit(_choice()))
