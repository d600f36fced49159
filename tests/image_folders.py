"""Pictures, folders of them, and what a folder holds."""

from collections.abc import Iterable
from pathlib import Path

import torch

from diffaug.functional import resize
from diffaug.images import encode_image


def picture(seed: int, height: int = 24, width: int = 32) -> torch.Tensor:
    """Draw a smooth picture, uint8 (3, height, width), that no other seed draws."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (3, 4, 4), generator=generator).to(torch.uint8)
    return resize(small, (height, width))


def save(path: Path, pixels: torch.Tensor) -> None:
    """Write a picture in the format of its name, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(pixels, path.suffix[1:]))


def save_photos(folder: Path, names: Iterable[str], height: int = 24, width: int = 32) -> Path:
    """Write a picture of its own under each name below a folder, and return the folder."""
    for number, name in enumerate(names):
        save(folder / name, picture(number, height, width))
    return folder


def contents(folder: str | Path) -> dict[str, bytes]:
    """Return every file of a folder, hidden ones too, with its bytes."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
