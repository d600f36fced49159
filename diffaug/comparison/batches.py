"""The batches of one training: drawn once, in advance, and made on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from diffaug import functional
from diffaug.comparison.arms import Arm
from diffaug.fractals import FractalBank
from diffaug.seeds import derive_seed

#: Share of an image's area that a crop keeps, and how much wider or higher it may become.
LEAST_AREA, LONGEST = 0.6, 1.2
#: Weight of a fractal, as in DiffuseMix.
ALPHA = 0.2
#: Images that RandAugment changes alike.
ALIKE = 4


@dataclass(frozen=True)
class Data:
    """What a classifier is trained on.

    Args:
        images: uint8 (N, 3, size, size), the photographs.
        labels: float32 (N, C).
        pool: uint8 (M, 3, size, size), what was generated; None if nothing was.
        pool_labels: float32 (M, C).
        own: for each photograph the places in the pool of what may replace it, or it stays if there
            is none; None if all may.
    """

    images: Tensor
    labels: Tensor
    pool: Tensor | None = None
    pool_labels: Tensor | None = None
    own: Sequence[Sequence[int]] | None = None

    def to(self, device: torch.device) -> "Data":
        """Return everything on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return Data(**moved)


class Batches:
    """Yield the batches of a training, float32 (B, 3, size, size) in [0, 1] and (B, C).

    Every number is drawn before the first batch. So no step waits for a GPU, and the order, the
    crops and the flips of a seed are the same for all arms.
    """

    def __init__(self, data: Data, arm: Arm, *, steps: int, batch: int, seed: int) -> None:
        self.data, self.arm, self.seed = data, arm, seed
        self.steps, self.batch = steps, batch
        self.device = data.images.device
        self._draw_shared()
        self._draw_own()

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed("compare", purpose, self.seed))

    def _draw_shared(self) -> None:
        """Draw what all arms share: the order, the crops and the flips."""
        generator, shape = self._generator("order"), (self.steps, self.batch)
        epochs = -(-self.steps * self.batch // len(self.data.images))
        orders = [torch.randperm(len(self.data.images), generator=generator) for _ in range(epochs)]
        order = torch.cat(orders)[: self.steps * self.batch]
        self.order = order.view(shape).to(self.device)
        area, ratio, across, down, flip = torch.rand(5, *shape, generator=self._generator("crop"))
        side = (LEAST_AREA + (1 - LEAST_AREA) * area).sqrt()
        stretch = LONGEST ** (2 * ratio - 1)
        wide, high = (side * stretch.sqrt()).clamp(max=1), (side / stretch.sqrt()).clamp(max=1)
        maps = torch.zeros(*shape, 2, 3)
        maps[..., 0, 0] = torch.where(flip < 0.5, -wide, wide)
        maps[..., 1, 1] = high
        maps[..., 0, 2] = (1 - wide) * (2 * across - 1)
        maps[..., 1, 2] = (1 - high) * (2 * down - 1)
        self.maps = maps.to(self.device)

    def _draw_own(self) -> None:
        """Draw what the arm adds."""
        generator, shape = self._generator("arm"), (self.steps, self.batch)
        gate = torch.rand(*shape, generator=generator) < (self.arm.p or 0.0)
        picks = torch.randint(2**31, shape, generator=generator)
        if self.data.own is not None:
            picks, found = _among(self.data.own, self.order.cpu(), picks)
            gate &= found
        elif self.data.pool is not None:
            picks %= len(self.data.pool)
        self.picks = picks.to(self.device)
        self.gate = gate[..., None, None, None].to(self.device)
        self.shares = torch.rand(self.steps, generator=generator).tolist()
        self.corners = torch.rand(self.steps, 2, generator=generator).tolist()
        size = self.data.images.shape[-1]
        if self.arm.halves:
            self.sides = torch.randint(4, shape, generator=generator).to(self.device)
            masks = [functional.half_mask(n, (size, size)) for n in functional.MASK_SETS["paper"]]
            whole = [mask.expand(size, size) for mask in masks]
            self.masks = torch.stack(whole)[:, None].to(self.device) > 0.5
        if self.arm.fractal:
            bank = FractalBank()
            fractals = functional.resize(bank.batch(range(len(bank))), (size, size))
            self.fractals = fractals.to(self.device)
            chosen = torch.randint(len(bank), shape, generator=generator)
            self.which = chosen.to(self.device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        augment = v2.RandAugment() if self.arm.randaugment else None
        for step in range(self.steps):
            images, labels = self._chosen(step)
            if augment is not None:
                images = torch.cat([augment(few) for few in images.split(ALIKE)])
            crops = self._cropped(images, step)
            yield self._mixed(crops, labels, step) if self.arm.mix else (crops, labels)

    def _chosen(self, step: int) -> tuple[Tensor, Tensor]:
        """Return uint8 images of a step, generated ones among them, and their labels."""
        data, order, gate = self.data, self.order[step], self.gate[step]
        images, labels = data.images[order], data.labels[order]
        changed = images
        if data.pool is not None and data.pool_labels is not None:
            picked = self.picks[step]
            changed = data.pool[picked]
            labels = torch.where(gate[:, 0, 0], data.pool_labels[picked], labels)
            if self.arm.halves:
                changed = torch.where(self.masks[self.sides[step]], changed, images)
        if self.arm.fractal:
            fractals = self.fractals[self.which[step]].float()
            blended = torch.lerp(changed.float(), fractals, ALPHA)
            changed = blended.round().to(torch.uint8)
        return torch.where(gate, changed, images), labels

    def _cropped(self, images: Tensor, step: int) -> Tensor:
        """Crop and flip, each image in its own way; return floats in [0, 1]."""
        grid = torch.nn.functional.affine_grid(
            self.maps[step], list(images.shape), align_corners=False
        )
        return torch.nn.functional.grid_sample(
            images.float() / 255, grid, padding_mode="reflection", align_corners=False
        )

    def _mixed(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mix each image with its neighbour, by MixUp or CutMix with a uniform share."""
        share = self.shares[step]
        others, other_labels = images.roll(1, 0), labels.roll(1, 0)
        if self.arm.mix == "mixup":
            return torch.lerp(others, images, share), torch.lerp(other_labels, labels, share)
        size = images.shape[-1]
        side = (1 - share) ** 0.5 * size / 2
        bounds = []
        for centre in self.corners[step]:
            middle = int(centre * size)
            bounds.append((max(0, int(middle - side)), min(size, int(middle + side))))
        (top, bottom), (left, right) = bounds
        images = images.clone()
        images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / size**2
        return images, torch.lerp(other_labels, labels, kept)


def _among(own: Sequence[Sequence[int]], order: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each photograph of an order one of its own places, and whether it has any."""
    counts = torch.tensor([len(places) for places in own])
    table = torch.zeros(len(own), max(1, int(counts.max())), dtype=torch.long)
    for row, places in zip(table, own, strict=True):
        row[: len(places)] = torch.tensor(places)
    return table[order, picks % counts[order].clamp(min=1)], counts[order] > 0
