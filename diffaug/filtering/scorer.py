"""What every scorer is: the protocol."""

from collections.abc import Sequence
from typing import Protocol

import torch

from diffaug.offline.manifest import Row


class Scorer(Protocol):
    """Judge images: what ``filter_set`` needs of a scorer, ours or your own.

    A scorer may also have three things more. ``bounds``, a pair ``(low, high)``: images whose score
    is within are kept, whatever the others' scores are. ``batch_size``: how many images it takes at
    once, 32 by default. ``prepare(folder, rows)``: called once before any image is scored, with the
    set's folder and all its rows.

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
        """Start of the names of the scorer's columns, such as ``"clip"``."""

    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return one number for each image: higher is better, NaN if it cannot be judged.

        The images are uint8 ``(3, H, W)``, of any sizes, each with its row of the manifest.
        """
