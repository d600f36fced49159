"""Train the classifier that judges what `tiny-translate` makes, on photographs alone.

    python examples/tiny_judge.py --data 'train/*.parquet' --val 'val/*.parquet' \
        --out runs/judge.safetensors --steps 4000 --batch-size 256

It reads class names from the data and keeps them in the file, beside its accuracy on `--val`.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_resnet import SmallResNet, predict, train
from tiny_data import load_labelled
from torch import Generator, Tensor
from torch.nn.functional import pad

log = logging.getLogger("tiny")
MARGIN = 6  # pixels by which a crop may be off the middle


def train_judge(
    images: Tensor,
    labels: Tensor,
    classes: int,
    *,
    steps: int,
    batch_size: int = 64,
    device: str = "cpu",
    seed: int = 0,
) -> SmallResNet:
    """Train the classifier on crops and flips of uint8 photographs (N, 3, H, W)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = SmallResNet(classes).to(device)
    height, width = images.shape[-2:]
    images, labels = pad(images, (MARGIN,) * 4).to(device), labels.to(device)
    generator = Generator(device)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        generator.manual_seed(seed * 1_000_003 + step)
        drawn = {"generator": generator, "device": generator.device}
        index = torch.randint(len(labels), (batch_size,), **drawn)
        top, left = torch.randint(2 * MARGIN + 1, (2, batch_size, 1), **drawn)
        rows = top + torch.arange(height, device=generator.device)
        columns = left + torch.arange(width, device=generator.device)
        mirrored = torch.rand(batch_size, 1, **drawn) < 0.5
        columns = torch.where(mirrored, columns.flip(-1), columns)
        # Indexing moves the channels last: (B, H, W, 3).
        batch = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return batch.permute(0, 3, 1, 2).float() / 255, labels[index]

    return train(judge, batches, steps=steps)


def save_judge(judge: SmallResNet, names: Sequence[str], accuracy: float, path: Path) -> None:
    """Write the classifier, its classes and its accuracy on other photographs."""
    metadata = {"classes": json.dumps(list(names)), "accuracy": str(accuracy)}
    save_file({k: v.contiguous().cpu() for k, v in judge.state_dict().items()}, path, metadata)


def read_judge(path: Path, device: str = "cpu") -> tuple[SmallResNet, list[str], float]:
    """Read what `save_judge` wrote: the classifier, its classes and its accuracy."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    names = json.loads(metadata["classes"])
    judge = SmallResNet(len(names))
    judge.load_state_dict(load_file(path))
    return judge.to(device).eval(), names, float(metadata["accuracy"])


def main(argv: list[str] | None = None) -> float:
    """Train from the command line and return the accuracy on other photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Parquet files, or class folders of images")
    parser.add_argument("--val", required=True, help="other photographs of the same classes")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--classes", nargs="+", help="names of those to tell apart [all]")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    images, labels, names = load_labelled(args.data, args.classes)
    others, truths, _ = load_labelled(args.val, names)
    judge = train_judge(
        images, labels, len(names),
        steps=args.steps, batch_size=args.batch_size, device=args.device,
    )  # fmt: skip
    accuracy = (predict(judge, others, args.device) == truths).float().mean().item()
    log.info("the judge names %.1f %% of other photographs", 100 * accuracy)
    save_judge(judge, names, accuracy, args.out)
    return accuracy


if __name__ == "__main__":
    main()
