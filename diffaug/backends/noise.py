"""Noise that is the same in every precision, drawn in float32 and rounded."""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Generator(torch.Generator):
    """A generator on the CPU whose noise in half precision is its noise in float32, rounded.

    In torch 2.14 its own noise is the same. In 2.11 it is another one, so that an image in half
    precision would have nothing in common with the image of its seed in float32.
    """

    @classmethod
    def seeded(cls, seed: int) -> "Generator":
        """Return a new generator of a seed."""
        generator = cls()
        generator.manual_seed(seed)
        return generator


def round_noise(pipe: Any) -> None:
    """Let the modules in which a pipeline draws noise ask our generators in float32.

    Diffusers' ``randn_tensor`` accepts only torch's generators as sources of noise. A function
    replaces it that differs for our generators only.
    """
    for name in _modules(pipe):
        module = sys.modules[name]
        draw = getattr(module, "randn_tensor", None)
        if draw is not None and not hasattr(draw, "__wrapped__"):
            module.randn_tensor = _rounding(draw)  # type: ignore[attr-defined]


def _modules(pipe: Any) -> Iterator[str]:
    """List the modules of a pipeline, of its scheduler, and of what an autoencoder samples from."""
    for kind in (type(pipe), type(getattr(pipe, "scheduler", None))):
        yield from (base.__module__ for base in kind.__mro__)
    package = type(getattr(pipe, "vae", None)).__module__.rpartition(".")[0]
    if package:
        yield from [name for name in sys.modules if name.startswith(f"{package}.")]


def _rounding(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(draw)
    def rounding(
        shape: Any,
        generator: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **settings: Any,
    ) -> torch.Tensor:
        first = generator[0] if isinstance(generator, list) else generator
        if not isinstance(first, Generator) or dtype not in (torch.float16, torch.bfloat16):
            return draw(shape, generator=generator, device=device, dtype=dtype, **settings)
        noise = draw(shape, generator=generator, device=device, dtype=torch.float32, **settings)
        return noise.to(dtype)

    return rounding
