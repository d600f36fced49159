"""How training loads the files of a folder, and where diffaug sees other pixels in them."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from diffaug import images
from diffaug.datasets.generated import GeneratedDataset
from diffaug.errors import UnreadableImageError
from diffaug.labels.origins import known_paths, parts_of, root_of
from diffaug.offline.folder_source import FolderSource
from diffaug.offline.sources import Skipped
from diffaug.offline.trees import LocalTree

#: Packages whose datasets open files with Pillow alone, where they take no loader.
PLAIN = {"torchvision", "timm"}
#: Files that are looked at for pixels that other loaders see otherwise.
LOOKED_AT = 100
#: Grey levels by which two readings of a photograph differ on average, if not in their decoders.
LEVELS = 4


def warn_of_other_pixels(dataset: Any, generated: GeneratedDataset, stacklevel: int) -> None:
    """Warn where a dataset sees other pixels in a file than the run that made a set from it.

    Phone photographs say which side is up. The set has them upright, and torchvision's own loader
    has them as they lie, so that a classifier would see both.

    Args:
        dataset: the real images.
        generated: the set; its rows say of which files it has other pixels than that loader.
        stacklevel: of the warning.
    """
    differing = {
        str(row["source"]): str(row["differs"])
        for row in generated.rows
        if row.get("differs") and row.get("source") is not None
    }
    if not differing:
        return
    for part in _with_files(dataset):
        white = generated.white
        files = _files(part, differing)
        if not files or not _sees_others(part, files[0], white):
            continue
        loader = "load_image" if white is None else f"functools.partial(load_image, white={white})"
        kinds = ", ".join(sorted(set(differing.values())))
        count = f"{len(differing)} image{'s' if len(differing) > 1 else ''}"
        warnings.warn(
            f"'dataset' sees other pixels than 'generated' in {count} ({kinds}), such as "
            f"'{files[0]}'; give it diffaug's loader: ImageFolder(root, loader={loader}).",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
        return


def image_folder(
    source: str | os.PathLike[str], *, load_image: bool = False
) -> tuple[ImageFolder, list[Skipped], Mapping[str, int]]:
    """Return a folder as training has it, what of it no command reads, and what else is left out.

    Classes have the numbers that ``ImageFolder`` gives them. A pipe with the name of an image, or a
    link in a loop, is left out.

    Args:
        source: a folder with one folder per class.
        load_image: load files as diffaug does, and not as ``ImageFolder`` does by itself.

    Raises:
        ValueError: no such folder, or no image in a class folder.
    """
    tree = FolderSource(source)
    if not isinstance(tree.files, LocalTree):
        raise ValueError(f"'source' must be a local folder, as for ImageFolder, got '{source}'.")
    root = tree.files.root
    readable = {str(root / key) for key in tree.keys if key.lower().endswith(IMG_EXTENSIONS)}
    loader: dict[str, Any] = {"loader": images.load_image} if load_image else {}
    photos = ImageFolder(root, is_valid_file=readable.__contains__, allow_empty=True, **loader)
    return photos, tree.skipped, tree.left_out


def loaded_otherwise(files: Sequence[str]) -> Counter[str]:
    """Count the files that ImageFolder's own loader and ``diffaug.load_image`` see differently.

    Of many files, some are looked at. What differs is the key, such as "turned upright".
    """
    differences: Counter[str] = Counter()
    for file in files[:: max(1, len(files) // LOOKED_AT)]:
        try:
            differs = images.read_photo(file).differs
        except UnreadableImageError:
            continue
        if differs:
            differences[differs] += 1
    return differences


def _with_files(dataset: Any) -> Iterator[Any]:
    """Yield the innermost datasets, which open files."""
    parts = parts_of(dataset)
    if not parts:
        yield dataset
    for part in parts:
        yield from _with_files(part)


def _files(dataset: Any, sources: Any) -> list[Path]:
    """Return the files of a dataset that are among sources; the set may be of another folder."""
    root = root_of(dataset)
    if root is None:
        return []
    # The set may have been made from a folder below the root.
    known = [path for path in known_paths(dataset) or () if path is not None]
    return [
        Path(root, path)
        for path in known
        if path in sources or any(rest in sources for rest in _endings(path))
    ]


def _endings(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _sees_others(dataset: Any, file: Path, white: int | None) -> bool:
    """Return whether a dataset's loader sees other pixels in a file than diffaug does."""
    loader = getattr(dataset, "loader", None)
    if loader is None:
        return type(dataset).__module__.partition(".")[0] in PLAIN
    try:
        expected = images.load_image(file, white=white)
        # A loader of the user's own may shrink images, or decode them by another library.
        seen = loader(os.fspath(file)).convert("RGB").resize(expected.size)
    except Exception:  # the loader may raise anything, or return no image of Pillow: none can tell
        return False
    return bool(np.abs(np.asarray(seen, float) - np.asarray(expected, float)).mean() > LEVELS)
