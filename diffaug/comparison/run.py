"""The comparison itself: split, train, probe, generate, train again, compare."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from diffaug.comparison.results import Comparison
from diffaug.transforms.base import BackendLike

ARMS = (
    *("none", "randaugment", "mixup", "cutmix", "fractal"),
    *("diffusemix", "real-mix", "real-aug", "real-gen"),
)


def compare(
    source: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    folds: int | None = None,
    arms: Sequence[str] = ARMS,
    backend: BackendLike = "tiny-translate",
    editor: BackendLike = "tiny",
    shots: int | None = None,
    seeds: int | Sequence[int] | None = None,
    steps: int = 800,
    classifier: str | Callable[[int], nn.Module] = "small",
    weights: str | Path | None = None,
    strength: float = 0.7,
    p: float = 0.5,
    gamma: float = 0.8,
    per_image: int = 5,
    size: int = 64,
    batch_size: int | None = None,
    out: str | os.PathLike[str] = "runs/compare",
    device: str = "auto",
    jobs: int = 1,
    probe: bool = True,
    progress: bool = False,
) -> Comparison:
    """Compare augmentations on a folder of photographs."""
    raise NotImplementedError  # the next commit
