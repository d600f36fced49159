"""What every scorer is."""

from collections.abc import Sequence
from typing import Protocol

import torch

from diffaug.offline.manifest import Row


class Scorer(Protocol):
    """Judge images: what ``filter_set`` asks of any of ours, or of your own.

    A scorer may also have ``bounds``, a pair ``(low, high)``: then images whose score lies within
    are kept, whatever the others' scores; ``batch_size``, how many images it takes at once, 32 by
    default; and ``prepare(folder, rows)``, called once before, with the set's folder and all rows.

    Example:
        >>> import torch
        >>> class Brightness:
        ...     name = "brightness"
        ...
        ...     def score(self, images, rows):
        ...         return torch.stack([image.float().mean() for image in images])
    """

    @property
    def name(self) -> str:
        """Say how the columns of its verdict start, such as ``"clip"``."""

    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return one number for each image, higher for better ones, NaN for one it cannot judge.

        The images are uint8 ``(3, H, W)``, of any sizes, each with its row of the manifest.
        """
