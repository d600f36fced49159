"""Write an augmented copy of a class-per-folder tree, look at it, and load it for training.

python examples/augment_a_folder.py --source photos/ --destination augmented/ --per-image 2
"""

from pathlib import Path

import typer
from torch.utils.data import ConcatDataset
from torchvision.datasets import ImageFolder

from diffaug import DiffuseMix, augment_folder

PHOTOS = Path(__file__).parent / "photos"


def main(
    source: Path = PHOTOS,
    destination: Path = Path("runs/augmented"),
    backend: str = "tiny",
    per_image: int = 1,
    seed: int = 0,
) -> ConcatDataset:
    """Augment every image, print what was made, and return originals and augmented together."""
    transform = DiffuseMix(
        ["snowy", "sunset"],  # the authors advise to start with two styles
        backend=backend,
        variants=None,  # a fresh edit for every copy
        cache=False,  # the destination itself keeps the images
    )
    summary = augment_folder(source, destination, transform, per_image=per_image, seed=seed)
    print(f"made {summary.made}, taken over {summary.taken_over}, in {summary.destination}")
    for name, reason in summary.skipped:
        print(f"skipped {name}: {reason}")
    # the papers train on the originals and the augmented images together
    together = ConcatDataset([ImageFolder(source), ImageFolder(destination)])
    print(f"{len(together)} images to train on")
    return together


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app()
