"""Train a small classifier on a folder of images, with and without DiffuseMix.

    python examples/online_augmentation.py --data photos/ --epochs 30 --workers 2

A quarter of each class, and at least one image, is held out for testing. The first epoch with
DiffuseMix generates the edits that it draws, and later epochs those that were not drawn before. The
last epoch finds most of them in the cache, so it shows the speed of training.
"""

import time
from pathlib import Path
from typing import NamedTuple

import torch
import typer
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from diffaug import DiffuseMix

PHOTOS = Path(__file__).parent / "photos"


class Result(NamedTuple):
    """The accuracy and the speed of one training."""

    accuracy: float
    first_images_per_second: float
    last_images_per_second: float


def classifier(classes: int) -> nn.Module:
    """Build a small convolutional network for images of 32 px or more."""
    layers: list[nn.Module] = []
    for before, after in [(3, 16), (16, 32), (32, 64), (64, 128)]:
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


def split(folder: ImageFolder) -> tuple[list[int], list[int]]:
    """Hold out a quarter of each class; return the indices for training and for testing."""
    train, test = [], []
    for label in range(len(folder.classes)):
        indices = [index for index, target in enumerate(folder.targets) if target == label]
        held_out = max(1, len(indices) // 4)
        train += indices[:-held_out]
        test += indices[-held_out:]
    return train, test


def train(loader: DataLoader, model: nn.Module, epochs: int) -> tuple[float, float]:
    """Train, and return the images per second of the first and of the last epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    speeds = []
    for _ in range(epochs):
        start, images = time.perf_counter(), 0
        for image, label in loader:
            loss = nn.functional.cross_entropy(model(image), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(image)
        speeds.append(images / (time.perf_counter() - start))
    return speeds[0], speeds[-1]


@torch.inference_mode()
def accuracy(loader: DataLoader, model: nn.Module) -> float:
    """Return the share of test images that the model classifies correctly."""
    model.eval()
    hits = [(model(image).argmax(1) == label).float() for image, label in loader]
    return torch.cat(hits).mean().item()


def run(
    data: Path, augment: list[nn.Module], *, epochs: int, batch_size: int, workers: int, size: int
) -> Result:
    """Train a new model with these transforms before the usual flip and crop, and test it."""
    head: list[nn.Module] = [v2.Resize((size, size)), *augment]
    tail: list[nn.Module] = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    usual = [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=size // 8)]
    augmented = ImageFolder(data, v2.Compose(head + usual + tail))
    plain = ImageFolder(data, v2.Compose([v2.Resize((size, size)), *tail]))
    train_indices, test_indices = split(plain)
    torch.manual_seed(0)
    model = classifier(len(plain.classes))
    loader = DataLoader(
        Subset(augmented, train_indices), batch_size, shuffle=True, num_workers=workers
    )
    speeds = train(loader, model, epochs)
    return Result(accuracy(DataLoader(Subset(plain, test_indices), batch_size), model), *speeds)


def main(
    data: Path = PHOTOS,
    backend: str = "tiny",
    epochs: int = 2,
    batch_size: int = 8,
    workers: int = 0,
    size: int = 64,
) -> dict[str, Result]:
    """Train on a folder of classes, with and without DiffuseMix, and print both results."""
    mix = DiffuseMix(backend=backend, p=0.5)
    results = {}
    for name, augment in {"flips and crops": [], "+ DiffuseMix": [mix]}.items():
        results[name] = result = run(
            data, augment, epochs=epochs, batch_size=batch_size, workers=workers, size=size
        )
        print(
            f"{name:16} accuracy {result.accuracy:.2f}   "
            f"first epoch {result.first_images_per_second:6.1f} images/s   "
            f"last epoch {result.last_images_per_second:6.1f} images/s"
        )
    return results


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app()
