"""Which images a set has, in which order, and which of them are already there."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffaug.offline.manifest import Row


class Planned(NamedTuple):
    """An image to make: the key of its source, and the number of the copy (None: the original)."""

    source: str
    copy: int | None


def plan(
    sources: Iterable[str], per_image: int, *, include_originals: bool = False
) -> Iterator[Planned]:
    """List every image of a set, in the order of its manifest.

    Args:
        sources: keys of the source images: paths below a folder, or indices in a dataset.
        per_image: augmented copies of each.
        include_originals: put each original before its copies.

    Example:
        >>> from diffaug.offline.plan import plan
        >>> [f"{image.source} {image.copy}" for image in plan(["cat/1.jpg"], 2)]
        ['cat/1.jpg 0', 'cat/1.jpg 1']
    """
    for source in sources:
        if include_originals:
            yield Planned(source, None)
        for copy in range(per_image):
            yield Planned(source, copy)


def planned_of(row: Row) -> Planned:
    """Return the planned image of a row; its file's name ends with the number of the copy."""
    tag = Path(row["file_name"]).stem.rpartition("__")[2]
    return Planned(str(row.get("source")), int(tag) if tag.isdecimal() else None)


def order(row: Row) -> tuple[int, str, int]:
    """Sort rows as planned: by path or index of the source, then by the number of the copy."""
    source, copy = planned_of(row)
    return int(source) if source.isdecimal() else 0, source, -1 if copy is None else copy


class There:
    """The planned images that are already there, in eight bytes each.

    It keeps their hashes. Of a million images, two share a hash once in thirty million runs.
    """

    def __init__(self, planned: Iterable[Planned]) -> None:
        self._hashes = np.unique(np.fromiter(map(hash, planned), np.int64))

    def __contains__(self, planned: Planned) -> bool:
        number = hash(planned)
        index = int(self._hashes.searchsorted(number))
        return index < len(self._hashes) and int(self._hashes[index]) == number
