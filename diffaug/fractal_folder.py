"""Pictures from a folder to blend in instead of rendered fractals."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from diffaug import functional, images
from diffaug.arguments import whole
from diffaug.checked import checked
from diffaug.errors import UnreadableImageError
from diffaug.folders import list_images

#: How many unreadable pictures a warning names.
SHOWN = 5


@checked
class FractalFolder:
    """Read fractals, or any other pictures to blend in, from a folder of images.

    A picture that cannot be read is left out with a warning: the next one in the folder takes its
    place. So the numbers of the others do not depend on it, and a run can be resumed.

    Args:
        folder: it is searched with its subfolders, in a fixed order.
        size: side in pixels. A picture is cropped to its central square and resized to it.

    Shape:
        As for :class:`FractalBank`.

    Raises:
        ValueError: the folder does not exist or holds no image.
        UnreadableImageError: on use, none of its images can be read.

    Example:
        >>> from diffaug.fractal_folder import FractalFolder
        >>> FractalFolder("no/such/folder")
        Traceback (most recent call last):
            ...
        ValueError: 'fractals' must be a folder of images, got 'no/such/folder'.
    """

    def __init__(self, folder: str | os.PathLike[str], size: int = 256) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.size = whole("size", size, 1)
        if not self.folder.is_dir():
            raise ValueError(f"'fractals' must be a folder of images, got '{folder}'.")
        self._paths = list_images(self.folder)
        if not self._paths:
            raise ValueError(f"'fractals' must be a folder of images, and '{folder}' holds none.")
        self._faults: dict[int, str] = {}  # of the pictures that this process could not read

    def __reduce__(self) -> tuple[Any, ...]:
        return FractalFolder, (self.folder, self.size)

    def __len__(self) -> int:
        return len(self._paths)

    def check(self) -> None:
        """Read every picture once, and warn of those that cannot be read.

        Raises:
            UnreadableImageError: none of them can be read.
        """
        unknown = [index for index in range(len(self)) if index not in self._faults]
        with ThreadPoolExecutor(4) as readers:
            self._leave_out(dict(zip(unknown, readers.map(self._fault, unknown), strict=True)))
        self._usable(0)

    def name(self, index: int) -> str:
        """Name a picture by its path below the folder; for one left out, the one in its place."""
        return self._name(self._usable(index))

    def contents(self) -> list[tuple[str, int]]:
        """Return every file's name and size in bytes, to compare two folders by."""
        return [(self._name(i), path.stat().st_size) for i, path in enumerate(self._paths)]

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return several pictures, (N, 3, size, size)."""
        return torch.stack([self[index] for index in indices])

    def __getitem__(self, index: int) -> torch.Tensor:
        while True:
            usable = self._usable(index)
            try:
                pixels = images.read_image(self._paths[usable])
                break
            except UnreadableImageError as error:
                self._leave_out({usable: str(error)})
        side = min(pixels.shape[1:])
        top, left = ((length - side) // 2 for length in pixels.shape[1:])
        square = pixels[:, top : top + side, left : left + side]
        return functional.resize(square, (self.size, self.size))

    def _name(self, index: int) -> str:
        return self._paths[index].relative_to(self.folder).as_posix()

    def _usable(self, index: int) -> int:
        """Return the number of a picture, or of the next one that is not known as unreadable."""
        index = range(len(self))[index]
        for number in (*range(index, len(self)), *range(index)):
            if number not in self._faults:
                return number
        raise UnreadableImageError(
            f"'fractals' must be a folder of images, and none of the {len(self)} in "
            f"'{self.folder}' can be read: {self._faults[0]}"
        )

    def _fault(self, index: int) -> str | None:
        try:
            images.read_image(self._paths[index])
        except UnreadableImageError as error:
            return str(error)
        return None

    def _leave_out(self, faults: dict[int, str | None]) -> None:
        """Remember the pictures that cannot be read, and name them in one warning."""
        new = {index: fault for index, fault in faults.items() if fault}
        self._faults |= new
        if new and len(self._faults) < len(self):  # else an error follows
            listed = list(new.values())
            more = f" (and {len(listed) - SHOWN} more)" if len(listed) > SHOWN else ""
            warnings.warn(
                f"{len(listed)} of {len(self)} pictures to blend in cannot be read, and the next "
                f"one takes the place of each: {' '.join(listed[:SHOWN])}{more}",
                UserWarning,
                stacklevel=3,
            )
