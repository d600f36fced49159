"""What a dataset is made of, and the files that its items come from."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from diffaug.checked import Items, checked

#: No dataset has it.
_NOBODY_S = "an attribute of no dataset"
#: Where torchvision's datasets keep the paths of their images, also beside labels.
FILES = ("samples", "_samples", "_image_files", "_images", "image_files")


@checked
def image_paths(dataset: Items) -> list[str] | None:
    """Return each image's path below its dataset's root, as ``augment_folder(only=...)`` takes it.

    It knows torchvision's ``ImageFolder`` and its like, timm's ``ImageDataset`` and image folders
    of Hugging Face, also inside subsets, concatenations and datasets around one of equal length.

    Args:
        dataset: map-style, such as the training part of a split.

    Returns:
        Paths with slashes, in the order of the dataset; None where one is not known.

    Example:
        >>> from torch.utils.data import Subset
        >>> class Folder(list):  # as ImageFolder
        ...     root, samples = "photos", [("photos/cat/1.jpg", 0), ("photos/dog/2.jpg", 1)]
        >>> image_paths(Subset(Folder([0, 1]), [1]))
        ['dog/2.jpg']
    """
    paths = known_paths(dataset)
    if paths is None or any(path is None for path in paths):
        return None
    return [str(path) for path in paths]


def known_paths(dataset: Any) -> list[str | None] | None:
    """Return each image's path as ``image_paths``, with None for items whose path is not known."""
    paths = _listed_paths(dataset)
    if paths is not None:
        return paths
    return through(dataset, known_paths)


def parts_of(dataset: Any) -> list[Any]:
    """Return what a dataset consists of: those of a concatenation, or the one inside it."""
    if hasattr(dataset, _NOBODY_S):  # whatever it is asked for, it has, as a mock
        return []
    parts = getattr(dataset, "datasets", None)
    if isinstance(parts, (list, tuple)):
        return list(parts)
    inside = getattr(dataset, "dataset", None)
    return [] if inside is None else [inside]


def chain_of(dataset: Any) -> Iterator[Any]:
    """Yield a dataset and what is inside it, up to a concatenation."""
    yield dataset
    if len(parts := parts_of(dataset)) == 1:
        yield from chain_of(parts[0])


def through(dataset: Any, keys_of: Any) -> list[Any] | None:
    """Return what belongs to each item, from what belongs to those of the datasets inside."""
    parts = parts_of(dataset)
    if isinstance(getattr(dataset, "datasets", None), (list, tuple)):
        if sum(map(len, parts)) != len(dataset):
            return None
        lists = [keys_of(part) for part in parts]
        if all(keys is None for keys in lists):
            return None
        return [
            key
            for part, keys in zip(parts, lists, strict=True)
            for key in ([None] * len(part) if keys is None else keys)
        ]
    for part in parts:
        indices = places_in(dataset, part)
        keys = None if indices is None else keys_of(part)
        if keys is not None and indices is not None:
            return [keys[index] for index in indices]
    return None


def places_in(dataset: Any, inside: Any) -> Sequence[int] | None:
    """Return the index of each item in the one dataset inside; None where that is not known."""
    indices: Any = getattr(dataset, "indices", None)
    listed = hasattr(indices, "__len__") and len(indices) == len(dataset)
    if isinstance(dataset, Subset) or listed:
        return [int(index) for index in indices]
    if hasattr(inside, "__len__") and len(inside) == len(dataset):
        return range(len(inside))
    return None


def rooted(dataset: Any) -> tuple[str, list[int]] | None:
    """Return the innermost dataset, by type and length, and the index in it of each item.

    None where that is not known, as in a dataset around another of another length.
    """
    rows: Any = getattr(dataset, "_indices", None)  # a selected dataset of Hugging Face
    if hasattr(rows, "column"):
        return f"{type(dataset).__name__} of {len(dataset.data)}", rows.column(0).to_pylist()
    parts = parts_of(dataset)
    if len(parts) != 1:
        return f"{type(dataset).__name__} of {len(dataset)}", list(range(len(dataset)))
    places, inside = places_in(dataset, parts[0]), rooted(parts[0])
    if places is None or inside is None:
        return None
    return inside[0], [inside[1][place] for place in places]


def as_ranges(places: Sequence[int]) -> str:
    """Write indices in their order, those that follow each other as one.

    Example:
        >>> as_ranges([8, 9, 10, 3]), from_ranges("8-10,3")
        ('8-10,3', [8, 9, 10, 3])
    """
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def from_ranges(text: str) -> list[int]:
    """Read what ``as_ranges`` has written."""
    pairs = (run.partition("-") for run in text.split(","))
    return [place for a, _, b in pairs for place in range(int(a), int(b or a) + 1)]


def root_of(dataset: Any) -> str | None:
    """Return the folder that the paths of a dataset start in; None where there is none."""
    for node in chain_of(dataset):
        root = getattr(node, "root", None) or getattr(getattr(node, "reader", None), "root", None)
        if isinstance(root, (str, os.PathLike)):
            return os.fspath(root)
    return None


def _listed_paths(dataset: Any) -> list[str | None] | None:
    """Return the paths that a dataset itself lists."""
    reader = getattr(dataset, "reader", None)
    if callable(getattr(reader, "filenames", None)):  # timm's
        names = [Path(name).as_posix() for name in reader.filenames()]  # type: ignore[union-attr]
        return list(names) if len(names) == len(dataset) else None
    root = getattr(dataset, "root", None)
    for name in FILES:
        listed = getattr(dataset, name, None)
        if not root or not isinstance(listed, (list, tuple)) or len(listed) != len(dataset):
            continue
        files = [item[0] if isinstance(item, (list, tuple)) and item else item for item in listed]
        if all(isinstance(file, (str, os.PathLike)) for file in files):
            return _below(os.fspath(root), [os.fspath(file) for file in files])
    return _arrow_paths(dataset)


def _below(root: str, files: Sequence[str]) -> list[str | None]:
    """Return paths below a root, with slashes."""
    start = os.path.join(root, "")
    names = [
        # What both begin with is cut off, which takes a tenth of the time: there may be millions.
        file[len(start) :] if file.startswith(start) else os.path.relpath(file, root)
        for file in files
    ]
    return [name.replace(os.sep, "/") for name in names]


def _arrow_paths(dataset: Any) -> list[str | None] | None:
    """Return the paths that a Hugging Face dataset has beside its images, without reading these."""
    features, table = getattr(dataset, "features", None), getattr(dataset, "data", None)
    if not isinstance(features, Mapping) or not hasattr(table, "column"):
        return None
    column = next((key for key in ("image", "img", "pixel_values") if key in features), None)
    if column is None or type(features[column]).__name__ != "Image":
        return None
    files = [
        path
        for chunk in table.column(column).chunks  # type: ignore[union-attr]
        for path in chunk.field("path").to_pylist()
    ]
    if not files or not all(isinstance(file, str) and os.path.isabs(file) for file in files):
        return None
    # Each class has a folder, and the root is above these.
    folders = {os.path.dirname(file) for file in files}
    root = os.path.commonpath(folders) if len(folders) > 1 else os.path.dirname(folders.pop())
    names = _below(root, files)
    rows = getattr(dataset, "_indices", None)  # of a shuffled or selected dataset
    if rows is None:
        return names if len(names) == len(dataset) else None
    return [names[row] for row in rows.column(0).to_pylist()]
