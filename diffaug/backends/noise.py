"""Noise that is the same in every precision, drawn in float32 and rounded."""

import functools
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

#: Torch makes normal numbers in blocks of so many: only whole blocks can be drawn ahead.
_BLOCK = 16


class Generator(torch.Generator):
    """A generator on the CPU whose noise in half precision is its noise in float32, rounded.

    In torch 2.14 its own noise is the same. In 2.11 it is another one, so that an image in half
    precision would have nothing in common with the image of its seed in float32.
    """

    #: How many draws of one shape are made at once, from the second one on.
    ahead = 1
    #: What the first generator of a batch has drawn for the batch.
    drawn: "_Drawn | None" = None

    @classmethod
    def seeded(cls, seed: int, ahead: int = 1) -> "Generator":
        """Return a new generator of a seed; its noise is the same however much is drawn ahead."""
        generator = cls()
        generator.manual_seed(seed)
        generator.ahead = ahead
        return generator


@dataclass(eq=False)
class _Drawn:
    """Draws of one kind for a batch of generators, and what remains of those made ahead."""

    #: Weak, or else a cycle would keep noise on a GPU until Python looks for cycles.
    generators: "list[weakref.ref[Generator]]"
    kind: tuple[Any, ...]
    noise: list[torch.Tensor]
    states: list[torch.Tensor]
    count: int = 0

    def undo(self) -> None:
        """Bring the generators back to where they are without the draws that remain."""
        if self.noise:
            shape = self.kind[0]
            for reference, state in zip(self.generators, self.states, strict=True):
                generator = reference()
                if generator is None:
                    continue
                generator.set_state(state)
                for _ in range(self.count - len(self.noise)):
                    torch.randn(shape[1:], generator=generator)
            self.noise = []


def _draw(generators: Sequence[Generator], kind: tuple[Any, ...], count: int) -> list[torch.Tensor]:
    """Draw noise for a batch, several times at once; copy it while the GPU works."""
    shape, device, dtype = kind
    drawn = [torch.randn((count, 1, *shape[1:]), generator=one) for one in generators]
    noise = torch.cat(drawn, dim=1).to(dtype)  # (count, B, ...)
    if device.type == "cuda":
        noise = noise.pin_memory().to(device, non_blocking=True)
    return list(noise.to(device).unbind())


def _noise(
    generators: list[Generator], shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Return the next noise of a batch; from the second time on, it has been drawn ahead."""
    first, kind = generators[0], (shape, device, dtype)
    last = first.drawn
    references = list(map(weakref.ref, generators))
    same = last is not None and last.kind == kind and last.generators == references
    if same and last is not None and last.noise:
        return last.noise.pop(0)
    for generator in generators:
        if generator.drawn is not None:
            generator.drawn.undo()
    in_blocks = torch.Size(shape[1:]).numel() % _BLOCK == 0
    count = first.ahead if same and in_blocks else 1
    states = [generator.get_state() for generator in generators] if count > 1 else []
    noise = _draw(generators, kind, count)
    drawn = _Drawn(references, kind, noise[1:], states, count)
    for generator in generators:
        generator.drawn = drawn
    return noise[0]


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
        generators = generator if isinstance(generator, list) else [generator]
        ours = all(isinstance(one, Generator) for one in generators)
        known = dtype in (None, torch.float16, torch.bfloat16, torch.float32) and not settings
        if not (ours and known and len(generators) == shape[0]):
            return draw(shape, generator=generator, device=device, dtype=dtype, **settings)
        place = torch.device(device or "cpu")
        return _noise(generators, tuple(shape), place, dtype or torch.float32)

    return rounding
