"""Write an augmented copy of a folder of classes, and load it for training.

python examples/augment_a_folder.py --source photos/ --destination augmented/ --per-image 2
"""

from pathlib import Path

import typer
from torchvision.datasets import ImageFolder

from diffaug import DiffuseMix, MixedDataset, augment_folder

PHOTOS = Path(__file__).parent / "photos"


def main(
    source: Path = PHOTOS,
    destination: Path = Path("runs/augmented"),
    backend: str = "tiny",
    per_image: int = 1,
    seed: int = 0,
) -> MixedDataset:
    """Augment every image, print a summary, and return originals and augmented images together."""
    transform = DiffuseMix(
        ["snowy", "sunset"],  # the authors advise starting with two styles
        backend=backend,
        variants=None,  # a new edit for every copy
        cache=False,  # the destination keeps the images anyway
    )
    summary = augment_folder(source, destination, transform, per_image=per_image, seed=seed)
    print(f"{summary.made} made, {summary.taken_over} already there, in {summary.destination}")
    for name, reason in summary.skipped:
        print(f"skipped {name}: {reason}")
    # The paper trains on the originals and the augmented images together.
    together = MixedDataset(ImageFolder(source), destination, replacement="concat")
    print(f"{len(together)} images to train on")
    return together


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app()
