"""The files that the items of a dataset come from."""

import os
from pathlib import Path
from typing import Any

from torch.utils.data import Subset


def image_paths(dataset: Any) -> list[str] | None:
    """Return each image's path below the root of an ImageFolder; None for other datasets."""
    if isinstance(dataset, Subset):
        inside = image_paths(dataset.dataset)
        return inside and [inside[index] for index in dataset.indices]
    files, root = getattr(dataset, "samples", None), getattr(dataset, "root", None)
    if files and root and len(files) == len(dataset):
        return [Path(os.path.relpath(path, root)).as_posix() for path, *_ in files]
    return None
