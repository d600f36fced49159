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
    """Return a photograph, uint8 (3, 16, 16): its texture says the class, its colours do not."""
    own = torch.Generator().manual_seed(derive_seed("photo", name, seed))
    paper, ink = torch.rand(2, 3, 1, 1, generator=own)
    down, across = torch.randint(4, (2,), generator=own).tolist()
    rows = ((torch.arange(SIZE) + down) % 4 < 2)[:, None]
    columns = ((torch.arange(SIZE) + across) % 4 < 2)[None]
    textures = {
        "ant": rows & (columns | True),
        "bee": columns & (rows | True),
        "cat": rows ^ columns,
        "dog": torch.rand(SIZE, SIZE, generator=own) < 0.5,
    }
    picture = torch.where(textures[name], ink, paper)
    noise = 0.1 * torch.randn(picture.shape, generator=own)
    return (255 * (picture + noise).clamp(0, 1)).to(torch.uint8)


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
        nn.Conv2d(3, 32, 5, 1, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )  # fmt: skip


#: Settings that make a comparison of a second.
QUICK = {"classifier": network, "size": SIZE, "steps": 100, "device": "cpu", "per_image": 8}
