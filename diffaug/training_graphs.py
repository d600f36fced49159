"""CUDA graphs for training: the kernels of a forward and a backward pass, launched at once."""

import logging
import os
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffaug.errors import first_line

_log = logging.getLogger("diffaug")


def are_wanted() -> bool:
    """Return whether calls may be recorded: on NVIDIA's GPUs, unless ``DIFFAUG_GRAPHS=never``."""
    return os.environ.get("DIFFAUG_GRAPHS") != "never" and not torch.version.hip


class Recorded:
    """Call a module that learns; on a GPU, from recordings of its two passes.

    A small model leaves a GPU idle between the launches of its kernels. The first call records, and
    later calls of the same shapes repeat that; all others, and those on a CPU, run the module as it
    is. Where recording fails, everything runs as it is. ``DIFFAUG_GRAPHS=never`` turns it off.

    Gradients may lie in memory that the next backward pass overwrites, so they must be used, and
    dropped by ``zero_grad(set_to_none=True)``, before it.

    Args:
        module: gets tensors by place, and returns one.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._kind: Any = None
        self._repeat: Callable[..., Tensor] | None = None
        self._wanted = are_wanted()

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self._wanted and inputs[0].is_cuda and torch.is_grad_enabled():
            self._wanted = False
            self._record(inputs)
        if self._repeat is not None and self._kind == _kind(inputs):
            return self._repeat(*inputs)
        output: Tensor = self.module(*inputs)
        return output

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        # Recording runs the module a few times, and what it counts on the way must not change.
        buffers = {buffer: buffer.clone() for buffer in self.module.buffers()}
        samples = tuple(
            tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in inputs
        )
        try:
            with torch.random.fork_rng(devices=[inputs[0].device]):
                self._repeat = record(_Alone(self.module), samples)
            self._kind = _kind(inputs)
        except Exception as error:  # whatever it is, the module itself can still run
            _log.info("training uses no CUDA graphs: %s", first_line(error))
            torch.cuda.synchronize()
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)


class _Alone(nn.Module):
    """A module that passes its calls on, since recording replaces the ``forward`` it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.module(*inputs)
        return output


def record(module: nn.Module, samples: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """Return what repeats both passes of a module."""
    # A part of a model may learn nothing, so some weights have no gradient.
    made = torch.cuda.make_graphed_callables(module, samples, allow_unused_input=True)
    return cast("Callable[..., Tensor]", made)


def _kind(inputs: tuple[Tensor, ...]) -> Any:
    """Return what calls must have in common to be one recording."""
    return [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in inputs]
