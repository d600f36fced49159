"""Photographs and generated sets as one tensor each, in a file that every training maps."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffaug import functional, images
from diffaug.errors import UnreadableImageError
from diffaug.file_warnings import naming_files, reading
from diffaug.files import write_whole

#: Images that are decoded at the same time.
THREADS = 4


@dataclass(frozen=True)
class Pictures:
    """Images as squares, and what is known of each.

    Args:
        images: uint8 (N, 3, size, size).
        columns: a tensor of N values each, such as ``"label"``.
        facts: what else was noted, in plain values.
    """

    images: Tensor
    columns: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def square(pixels: Tensor, size: int) -> Tensor:
    """Resize uint8 (3, H, W) to its shorter side, and cut the centre out."""
    height, width = pixels.shape[-2:]
    short = min(height, width)
    shape = (max(size, round(size * height / short)), max(size, round(size * width / short)))
    resized = functional.resize(pixels, shape)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return resized[:, top : top + size, left : left + size]


def read_squares(
    root: Path, keys: Sequence[str], size: int
) -> tuple[list[Tensor], list[int], dict[str, str]]:
    """Read images; return their squares, their places, and why others cannot be read."""

    def read(key: str) -> Tensor | str:
        try:
            with reading(root / key):
                return square(images.read_image(root / key), size)
        except UnreadableImageError as error:
            return str(error)

    with naming_files(), ThreadPoolExecutor(THREADS) as pool:
        read_ones = list(pool.map(read, keys))
    squares, places, skipped = [], [], {}
    for place, (key, result) in enumerate(zip(keys, read_ones, strict=True)):
        if isinstance(result, str):
            skipped[key] = result
        else:
            squares.append(result)
            places.append(place)
    return squares, places, skipped


def short_hash(*parts: object) -> str:
    """Hash plain values to ten characters."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def digest_of_files(root: Path, keys: Sequence[str]) -> str:
    """Hash which files these are: path, size and time, without reading them."""
    stats = [(key, (root / key).stat()) for key in keys]
    return short_hash(str(root), [(key, s.st_size, s.st_mtime_ns) for key, s in stats])


def photographs_file(
    folder: Path, root: Path, keys: Sequence[str], labels: Sequence[int], size: int
) -> Path:
    """Return the file with the tensor of these photographs; it is written if it is not there."""
    path = folder / f"photos-{short_hash(digest_of_files(root, keys), size)}.safetensors"

    def make() -> Pictures:
        squares, places, skipped = read_squares(root, keys, size)
        if not squares:
            raise UnreadableImageError(next(iter(skipped.values())))
        return Pictures(
            torch.stack(squares),
            {"label": torch.tensor([labels[place] for place in places])},
            {"keys": [keys[place] for place in places], "skipped": skipped},
        )

    return stored(path, make)


def stored(path: Path, make: Callable[[], Pictures]) -> Path:
    """Return the path of a file of pictures; what is not there is made."""
    if not path.is_file():
        write(path, make())
    return path


def write(path: Path, pictures: Pictures) -> None:
    """Write pictures to a file, whole or not at all."""
    from safetensors.torch import save

    tensors = {"images": pictures.images.contiguous()}
    tensors |= {f"column.{n}": column.contiguous() for n, column in pictures.columns.items()}
    facts = json.dumps(pictures.facts, ensure_ascii=False)
    write_whole(path, save(tensors, metadata={"facts": facts}))


def read(path: Path) -> Pictures:
    """Read a file of pictures."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("column.")]  # noqa: SIM118
        return Pictures(
            file.get_tensor("images"),
            {name.removeprefix("column."): file.get_tensor(name) for name in names},
            json.loads(file.metadata()["facts"]),
        )


def facts(path: Path) -> dict[str, Any]:
    """Read what is noted in a file of pictures, without the pictures."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        noted: dict[str, Any] = json.loads(file.metadata()["facts"])
        return noted
