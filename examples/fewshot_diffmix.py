"""Run all of Diff-Mix on a CPU: fine-tune, generate, filter, train two classifiers, compare them.

    python examples/fewshot_diffmix.py
    python examples/fewshot_diffmix.py --train photos/train --test photos/test --shots 5 \
        --tune-steps 1000 --steps 600

Without `--train` and `--test`, it draws simple pictures of four classes, to show every step. These
classes differ in their outlines, which the embedded base model hardly learns. So expect no gain
from them. On a GPU, use `--base sd15`, thousands of steps, and photographs.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from small_resnet import SmallResNet, predict, train
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.utils import save_image

from diffaug import (
    DiffMix,
    GeneratedDataset,
    JointTransform,
    MixCollate,
    MixedDataset,
    SimilarityFilter,
    augment_folder,
    few_shot_subset,
    filter_set,
    finetune,
)
from diffaug.backends import finetuned

SHAPES = ("bar", "cross", "disc", "ring")


class Result(NamedTuple):
    """The accuracy on the test images, without and with generated images for training."""

    without: float
    with_generated: float
    kept: int
    generated: int
    seconds: float


def draw_shapes(folder: Path, each: int, seed: int, size: int = 64) -> None:
    """Write pictures of four shapes, with random colours, positions and sizes."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    for name in SHAPES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            draws = torch.rand(12, generator=generator)
            left, top = (draws[:2] - 0.5) * 0.8
            radius, angle = 0.35 + 0.3 * draws[2], math.pi * draws[3]
            dx, dy = x - left, y - top
            across = (dx * angle.cos() + dy * angle.sin()).abs()
            along = (dy * angle.cos() - dx * angle.sin()).abs()
            distance = dx.hypot(dy)
            thin, long = radius / 4, radius * 1.2
            bar = (across < thin) & (along < long)
            inside = {
                "bar": bar,
                "cross": bar | ((along < thin) & (across < long)),
                "disc": distance < radius,
                "ring": (distance < radius) & (distance > radius * 0.6),
            }[name]
            ground = draws[4:7, None, None] * 0.6 + 0.15 * (x * draws[7] + y * draws[8])
            shape = 0.4 + 0.6 * draws[9:12, None, None].expand(3, size, size)
            picture = torch.where(inside, shape, ground)
            picture += 0.03 * torch.randn(picture.shape, generator=generator)
            save_image(picture.clamp(0, 1), folder / name / f"{number:03d}.png")


def classify(
    data: Dataset, test: tuple[Tensor, Tensor], classes: int, size: int, steps: int, seed: int
) -> float:
    """Train a classifier for a number of steps; return its accuracy on the test images."""
    crops = v2.Compose(
        [
            v2.RandomResizedCrop((size, size), scale=(0.6, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    joint = JointTransform(data, crops, seed=seed)
    order = RandomSampler(joint, generator=torch.Generator().manual_seed(seed))
    each = min(16, len(joint))
    loader = DataLoader(joint, each, sampler=order, drop_last=True, collate_fn=MixCollate(classes))
    batches = iter(())
    epoch = 0

    def batch(step: int) -> tuple[Tensor, Tensor]:
        nonlocal batches, epoch
        images_and_labels = next(batches, None)
        if images_and_labels is None:
            joint.set_epoch(epoch)
            epoch += 1
            batches = iter(loader)
            images_and_labels = next(batches)
        return images_and_labels

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallResNet(classes)
    images, labels = test
    train(model, batch, steps=steps)
    return (predict(model, images) == labels).float().mean().item()


def main(
    train_folder: str | Path | None = None,
    test_folder: str | Path | None = None,
    work: str | Path | None = None,
    *,
    base: str = "tiny-translate",
    shots: int = 5,
    tune_steps: int = 300,
    strength: float = 0.7,
    multiplier: int = 5,
    p: float = 0.3,
    gamma: float = 0.5,
    steps: int = 200,
    size: int = 64,
    seed: int = 0,
) -> Result:
    """Run every step and print the comparison. Steps whose results are in `work` are skipped."""
    started = time.monotonic()
    work = Path(work or tempfile.mkdtemp(prefix="diffaug-"))
    if train_folder is None or test_folder is None:
        train_folder, test_folder = work / "shapes" / "train", work / "shapes" / "test"
        draw_shapes(train_folder, 20, seed=1, size=size)
        draw_shapes(test_folder, 50, seed=2, size=size)
    tuned, generated = work / "tuned", work / "generated"

    # 1. Teach the model a word for each class, and how the class looks, from a few images.
    finetune(
        train_folder, tuned, base=base, shots=shots, seed=seed, steps=tune_steps, progress=True,
        learning_rate=1e-3, embedding_learning_rate=1e-2,  # a small model takes large steps
    )  # fmt: skip

    # 2. Translate the same few images to other classes.
    photos = ImageFolder(train_folder)
    mix = DiffMix(photos.classes, backend=tuned, strength=strength, cache=False)
    few = finetuned.read(tuned).files
    augment_folder(
        train_folder, generated, mix, per_image=multiplier, seed=seed, only=few, progress=True
    )

    # 3. Filter out images that did not change, or that have nothing left of their source.
    judged = filter_set(generated, SimilarityFilter(train_folder, low=0.0, high=0.98))

    # 4. Train two classifiers. Only one of them sees the generated images.
    resize = v2.Compose([v2.Resize((size, size)), v2.PILToTensor()])
    held = ImageFolder(test_folder, transform=resize)
    test = torch.stack([image for image, _ in held]), torch.tensor(held.targets)
    real = Subset(photos, few_shot_subset(photos, shots, seed))
    mixed = MixedDataset(real, GeneratedDataset(generated), p=p, gamma=gamma)
    count = len(photos.classes)
    without = classify(real, test, count, size, steps, seed)
    with_generated = classify(mixed, test, count, size, steps, seed)
    seconds = time.monotonic() - started
    result = Result(without, with_generated, judged.kept, judged.scored, seconds)
    print(
        f"{len(few)} images of {count} classes, {result.kept} of {result.generated} generated kept"
    )
    print(f"accuracy on {len(held)} test images without generated images: {100 * without:.1f} %")
    print(f"accuracy with generated images: {100 * with_generated:.1f} %")
    print(f"{result.seconds / 60:.1f} minutes; all results are in {work}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", help="folder with a subfolder of images for each class")
    parser.add_argument("--test", help="such a folder with other images")
    parser.add_argument("--work", help="folder for all results [a new temporary one]")
    parser.add_argument("--base", default="tiny-translate")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--tune-steps", type=int, default=300)
    parser.add_argument("--strength", type=float, default=0.7)
    parser.add_argument("--multiplier", type=int, default=5)
    parser.add_argument("--p", type=float, default=0.3)
    parser.add_argument("--gamma", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    main(options.pop("train"), options.pop("test"), options.pop("work"), **options)
