"""Photographs that are hard to learn from a few, and models that are useless or perfect."""

from collections.abc import Callable
from pathlib import Path

import torch
from image_folders import save
from torch import nn

from diffaug import Generated, GenerationRequest, RecordingBackend
from diffaug.seeds import derive_seed

CLASSES = ("ant", "bee", "cat", "dog")
SIZE = 16


def photo(name: str, seed: int) -> torch.Tensor:
    """Return a photograph of a class: its pattern under much noise, uint8 (3, 16, 16)."""
    pattern = torch.Generator().manual_seed(derive_seed("pattern", name))
    blocks = torch.rand(3, 4, 4, generator=pattern).repeat_interleave(4, 1).repeat_interleave(4, 2)
    own = torch.Generator().manual_seed(derive_seed("photo", name, seed))
    noise = torch.randn(3, SIZE, SIZE, generator=own)
    return (255 * (0.5 + 0.25 * (blocks - 0.5) + 0.35 * noise).clamp(0, 1)).to(torch.uint8)


def photos(folder: Path, each: int, first: int = 0, names: tuple[str, ...] = CLASSES) -> Path:
    """Write photographs of each class; ``first`` numbers them apart from others."""
    for name in names:
        for number in range(first, first + each):
            save(folder / name / f"{number}.png", photo(name, number))
    return folder


def real(request: GenerationRequest, usual: Generated) -> Generated:
    """Answer with one more real photograph of the class in the prompt."""
    name = next(name for name in CLASSES if name in request.prompt)
    return Generated(photo(name, 10_000 + request.seed), request.seed)


def noise(request: GenerationRequest, usual: Generated) -> Generated:
    """Answer with nothing but noise."""
    generator = torch.Generator().manual_seed(request.seed)
    pixels = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator)
    return Generated(pixels.to(torch.uint8), request.seed)


def confused(request: GenerationRequest, usual: Generated) -> Generated:
    """Answer with a photograph of another class than the prompt's."""
    name = next(name for name in CLASSES if name in request.prompt)
    other = CLASSES[(CLASSES.index(name) + 1) % len(CLASSES)]
    return Generated(photo(other, 10_000 + request.seed), request.seed)


class Planted(RecordingBackend):
    """A model that answers in one of these ways, under a fingerprint of its own."""

    def __init__(self, answer: Callable[..., Generated]) -> None:
        super().__init__(SIZE, answer=answer)

    @property
    def fingerprint(self) -> str:
        return f"planted-{self.answer.__name__}"


def network(classes: int) -> nn.Module:
    """Return a classifier that trains in a second."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, classes),
    )  # fmt: skip


#: Settings that make a comparison of a second.
QUICK = {"classifier": network, "size": SIZE, "steps": 200, "device": "cpu", "per_image": 8}
