"""The small classifier of `diffaug compare`, which the examples train on a CPU.

    from small_resnet import SmallResNet, predict, train

It is a ResNet-18 of half the width with the standard stem: a convolution of stride 2, and a
pooling. With this stem, two cores train on hundreds of 64 px images per second.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffaug.comparison import training
from diffaug.comparison.networks import SmallResNet

__all__ = ["SmallResNet", "predict", "train"]


def train(
    model: nn.Module,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float = training.RATES[0],
) -> nn.Module:
    """Train on float images with hard or soft labels, by the recipe of `diffaug compare`.

    ``batches`` returns the batch of a step. The model comes back in evaluation mode.
    """
    training.train(model, map(batches, range(steps)), steps=steps, rate=learning_rate)
    return model


def predict(model: nn.Module, images: Tensor, device: str = "cpu") -> Tensor:
    """Return the classes (N,) of uint8 images (N, 3, H, W)."""
    return training.predict(model, images, torch.device(device)).argmax(1)
