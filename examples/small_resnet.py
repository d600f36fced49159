"""A ResNet-18 of half the width, which the examples train on a CPU.

    from small_resnet import SmallResNet, train

It has the standard stem: a convolution of stride 2, and a pooling. With this stem, two cores train
on hundreds of 64 px images per second.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class SmallResNet(nn.Module):
    """Classify float images (B, 3, H, W) in [0, 1]; logits (B, classes)."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]  # fmt: skip
        before = width
        for stage in range(4):
            after = width * 2**stage
            for block in range(2):
                stride = 2 if stage and not block else 1
                shortcut = None
                if stride != 1 or before != after:
                    shortcut = nn.Sequential(
                        nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
                    )
                layers.append(BasicBlock(before, after, stride, shortcut))
                before = after
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(before, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the head, (B, 8 * width)."""
        return self.body((images - 0.45) / 0.25)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def train(
    model: nn.Module,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
) -> nn.Module:
    """Train on float images with hard or soft labels; return the model in evaluation mode.

    ``batches`` returns the batch of a step. The optimiser is AdamW. The learning rate rises during
    a tenth of the steps, and then falls to zero as a cosine.
    """
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    model.train()
    for step in range(steps):
        done = step / steps
        rate = min(10 * done + 1 / steps, 0.5 + 0.5 * math.cos(math.pi * done))
        optimiser.param_groups[0]["lr"] = learning_rate * rate
        images, labels = batches(step)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, device: str = "cpu") -> Tensor:
    """Return the classes (N,) of uint8 images (N, 3, H, W)."""
    parts = [model(part.to(device).float() / 255).argmax(1).cpu() for part in images.split(256)]
    return torch.cat(parts)
