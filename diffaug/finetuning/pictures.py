"""The training images as squares: which one is drawn, and what is cut from it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from diffaug import images
from diffaug.functional import resize


@dataclass(frozen=True)
class Pictures:
    """The training images: files by class, and how one is drawn."""

    files: Sequence[Path]
    labels: Sequence[int]
    size: int
    balanced: bool

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, int]:
        """Draw an image uniformly, or with weight 1/n_c; its square, and whether it is flipped."""
        among: Sequence[int] = range(len(self.files))
        if self.balanced:
            # A class, then one of its images: the same as the weight.
            among = self._classes[_draw(len(self._classes), generator)]
        place = among[_draw(len(among), generator)]
        right, down, flip = torch.rand(3, generator=generator).tolist()
        pixels = square(images.read_image(self.files[place]), self.size, right, down)
        return (pixels.flip(-1) if flip < 0.5 else pixels), self.labels[place]

    @cached_property
    def _classes(self) -> Mapping[int, Sequence[int]]:
        """The images of each class."""
        places = defaultdict(list)
        for place, label in enumerate(self.labels):
            places[label].append(place)
        return places


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def square(pixels: torch.Tensor, size: int, right: float = 0.5, down: float = 0.5) -> torch.Tensor:
    """Resize (3, H, W) to a shorter side of ``size`` and cut out a square; by default its middle.

    ``right`` and ``down`` in [0, 1] say where.
    """
    height, width = pixels.shape[-2:]
    scale = size / min(height, width)
    pixels = resize(pixels, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (
        min(int(share * (side - size + 1)), side - size)
        for share, side in zip((down, right), pixels.shape[-2:], strict=True)
    )
    return pixels[:, top : top + size, left : left + size]
