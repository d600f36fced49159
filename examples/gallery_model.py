"""Fine-tune the embedded translator for the gallery: it learns espresso and ladybug.

    python examples/gallery_model.py --data 'train/*.parquet' --out runs/gallery
    python examples/galleries.py --only strategies --tuned runs/gallery/tuned --out docs/images

`--data` are Parquet files or class folders, as for `train_tiny_translate.py`. It takes two minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tiny_data import load_labelled
from torchvision.utils import save_image

from diffaug import finetune

#: The base knows the first one, and not the second one.
CLASSES = ("espresso", "ladybug")


def main(data: str, out: str | Path, *, shots: int = 100, steps: int = 300) -> Path:
    """Learn from the first photographs of each class, and return the fine-tuned folder."""
    out = Path(out)
    images, labels, names = load_labelled(data, CLASSES)
    for number, name in enumerate(names):
        for place, image in enumerate(images[labels == number][:shots]):
            file = out / "photos" / name / f"{place:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_image(image / 255, file)
    done = finetune(
        out / "photos", out / "tuned", base="tiny-translate", steps=steps,
        learning_rate=1e-3, embedding_learning_rate=1e-2, progress=True,
    )  # fmt: skip
    return Path(done.folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="photographs to learn from")
    parser.add_argument("--out", required=True, help="folder for everything")
    options = vars(parser.parse_args())
    print(main(options["data"], options["out"]))
