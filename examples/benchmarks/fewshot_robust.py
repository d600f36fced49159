"""What a classifier still names after its test images were attacked or corrupted.

    attacked(model, images, labels)  # {"fgsm 2/255": Tensor of booleans, ..., "jpeg": ...}

The corruptions are six common ones in one strength each, made for 64 px; they are a small copy of
the idea of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261), and not its numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as v2

AT_ONCE = 256
#: The fast gradient sign method (Goodfellow et al., arXiv 1412.6572), in levels of 255.
LEVELS = (2, 4)


def noise(images: Tensor, seed: int) -> Tensor:
    """Add Gaussian noise of 10 % of the range; a seed makes it the same for every classifier."""
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + 0.1 * drawn.to(images.device)).clamp(0, 1)


def jpeg(images: Tensor, seed: int) -> Tensor:
    """Compress strongly; the codec works on the CPU."""
    levels = images.mul(255).round().to(torch.uint8).cpu()
    return torch.stack([v2.jpeg(one, 12) for one in levels]).to(images.device).float() / 255


def pixelate(images: Tensor, seed: int) -> Tensor:
    """Make blocks of two by two pixels of one colour."""
    half = nn.functional.avg_pool2d(images, 2)
    return half.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., : images.shape[-2], :]


CORRUPTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "noise": noise,
    "blur": lambda images, _: v2.gaussian_blur(images, [7, 7], [1.2, 1.2]),
    "low contrast": lambda images, _: v2.adjust_contrast(images, 0.35),
    "bright": lambda images, _: (images + 0.25).clamp(0, 1),
    "pixelated": pixelate,
    "jpeg": jpeg,
}


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, level: int) -> Tensor:
    """Move each pixel of float images by a level in the direction that raises the loss most."""
    images = images.detach().clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(images), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return (images + level / 255 * gradient.sign()).clamp(0, 1).detach()


def attacked(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return which of uint8 images (N, 3, H, W) are named rightly under each attack, on the CPU."""
    device = next(model.parameters()).device
    right: dict[str, list[Tensor]] = {}
    for place, (part, truth) in enumerate(
        zip(images.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
    ):
        pixels, truth = part.to(device).float() / 255, truth.to(device)
        changed = {f"fgsm {level}/255": fgsm(model, pixels, truth, level) for level in LEVELS}
        changed |= {name: change(pixels, place) for name, change in CORRUPTIONS.items()}
        for name, batch in changed.items():
            with torch.inference_mode():
                named = model(batch).argmax(1)
            right.setdefault(name, []).append((named == truth).cpu())
    return {name: torch.cat(parts) for name, parts in right.items()}
