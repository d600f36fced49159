"""A class-per-folder tree of images as the source of an offline run."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from diffaug.arguments import whole
from diffaug.folders import COMPANIONS, Listing, class_of, stem
from diffaug.offline.lookalikes import refuse_lookalike
from diffaug.offline.sources import LONGEST_FOLDER, Skipped, Source, SourceImage
from diffaug.offline.trees import LocalTree, RemoteTree, open_tree

#: A file's name has at most 255 bytes, and copies get a number and an extension.
LONGEST_NAME = 230
#: Of a path on most systems, with room for the folder of the set.
LONGEST_PATH = 3000
#: Pixels of an image that is read alone: 100 MB once it is read, and several times that meanwhile.
LARGE = 32_000_000


class FolderSource(Source):
    """A class-per-folder tree; an image's key is its path below the root.

    Args:
        folder: the root, or its address, such as ``s3://bucket/train``.
        only: keys to keep; None keeps all. The classes are those of all images, also then.
        white: the value that is white in files of 16 bits; None where there are none.

    Raises:
        ValueError: no such folder, no image in a class folder, splits in the place of classes, or
            one of ``only`` is not there.
        MissingDependencyError: the package that reads such addresses is not installed.
        SourceError: the address cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        only: Iterable[str] | None = None,
        white: int | None = None,
    ) -> None:
        self.files = open_tree(folder)
        if isinstance(self.files, LocalTree):
            refuse_lookalike(self.files.root)
        self.name, self.threads = self.files.name, self.files.threads
        self.white = None if white is None else whole("white", white, 1)
        listing = self.files.list()
        reasons = {key: reason for key in listing.keys if (reason := _unfit(key))}
        # By path, so that a set has the order that its manifest has, whatever made it.
        self.keys = sorted(key for key in listing.keys if key not in reasons)
        self.skipped = [Skipped(item.path, item.reason) for item in listing.faults]
        self.skipped += [Skipped(key, reason) for key, reason in reasons.items()]
        self.left_out = listing.counts
        # A class of an archive whose folder no disk takes is none that ImageFolder could number.
        fits = (len(name.encode()) <= LONGEST_FOLDER for name in listing.classes)
        self.classes = list(compress(listing.classes, fits))
        shown = self.name if isinstance(self.files, RemoteTree) else folder  # without a password
        _check(listing, os.fspath(shown), bool(self.keys))
        self._shared = _shared_stems(self.keys)
        if only is not None:
            only = only if isinstance(only, str) else list(only)
            if isinstance(only, str) or not all(isinstance(path, str) for path in only):
                raise TypeError(
                    f"'only' must be several paths below the source, got {only!r:.200}."
                )
            if not (chosen := set(only)):
                raise ValueError("'only' must name at least one image, or be None, got none.")
            if missing := sorted(chosen.difference(self.keys)):
                raise ValueError(
                    f"'only' must name images of '{folder}', and {len(missing)} of {len(chosen)} "
                    f"are not there, such as '{missing[0]}'."
                )
            self.keys = [key for key in self.keys if key in chosen]

    def folder_of(self, label: str) -> str:
        return label  # the label is a folder's name

    def class_of(self, key: str) -> str:
        return class_of(key)

    def labels(self) -> list[str]:
        return [class_of(key) for key in self.keys]

    def load(self, key: str) -> SourceImage:
        return self._load(key)

    def open(self, key: str) -> tuple[Callable[[], SourceImage], bool]:
        file, pixels = self.files.open(key)
        return partial(self._load, key, file), pixels > LARGE

    def _load(self, key: str, file: Any = None) -> SourceImage:
        base = key if stem(key) in self._shared else stem(key)
        photo = self.files.read(key, file, self.white)
        return SourceImage(photo.pixels[None], class_of(key), base, photo.differs)

    def may_be(self, name: str) -> bool:
        return name == self.name or not Path(name).exists()  # a folder may have been moved


def _check(listing: Listing, folder: str, any_fit: bool) -> None:
    """Refuse a tree without images or of splits; warn where ImageFolder's numbers are others."""
    if not any_fit:
        found = f"'{listing.beside[0]}' lies directly in it" if listing.beside else "it has none"
        others = {kind: n for kind, n in listing.counts.items() if kind not in COMPANIONS}
        if others and not listing.beside:
            kinds = ", ".join(f"{kind} {count}" for kind, count in others.items())
            found = f"it has only files that are not read ({kinds})"
        raise ValueError(
            f"'source' must hold images in one folder per class, and {found}: '{folder}'; "
            "move them into a folder named after their class"
            + (", or give the folder above if this one is a class." if listing.beside else ".")
        )
    if (split := listing.split_folder()) is not None:
        raise ValueError(
            f"'source' must hold one folder per class, and '{folder}' holds splits: give one of "
            f"them, such as '{folder.rstrip('/')}/{split}'."
        )
    if (lone := listing.lone_folder()) is not None:
        warnings.warn(
            f"all images of '{folder}' are of one class, {lone!r}, which holds only folders; if "
            f"these are the classes, give '{folder.rstrip('/')}/{lone}'.",
            UserWarning,
            stacklevel=5,
        )
    if inside := listing.repeated_folders():
        some = ", ".join(inside[:4]) + ", ..." * (len(inside) > 4)
        first = listing.keys[0].partition("/")[0]
        warnings.warn(
            f"every class of '{folder}' holds the same folders ({some}); if these are the classes, "
            f"give one of the folders above them, such as '{folder.rstrip('/')}/{first}'.",
            UserWarning,
            stacklevel=5,
        )
    if differences := listing.differences():
        warnings.warn(
            f"torchvision's ImageFolder reads '{folder}' otherwise: it "
            f"{', and it '.join(differences)}; remove or rename what it should not take, and "
            "convert what it should.",
            UserWarning,
            stacklevel=5,
        )


def _shared_stems(keys: Sequence[str]) -> frozenset[str]:
    """Find the stems that several files have, in little memory.

    Next to "a.png", "a.jpg" keeps its whole name; then "a.jpg.png" cannot use "a.jpg".
    """
    hashes = np.fromiter((hash(name) for key in keys for name in {stem(key), key}), np.int64)
    values, counts = np.unique(hashes, return_counts=True)
    doubtful = set(values[counts > 1].tolist())
    if not doubtful:
        return frozenset()
    taken = {key for key in keys if hash(key) in doubtful}
    stems = Counter(name for key in keys if hash(name := stem(key)) in doubtful)
    return frozenset(name for name, count in stems.items() if count > 1 or name in taken)


def _unfit(path: str) -> str | None:
    if "//" in path or (os.sep != "/" and os.sep in path):  # on a store, or written on Windows
        return "its path has a slash that a name here cannot have; rename it"
    *folders, name = path.split("/")
    if len(name.encode()) > LONGEST_NAME:
        return f"its name is longer than {LONGEST_NAME} bytes; shorten it"
    if any(len(folder.encode()) > LONGEST_FOLDER for folder in folders):  # in an archive
        return f"the name of its folder is longer than {LONGEST_FOLDER} bytes; shorten it"
    if len(path.encode()) > LONGEST_PATH:
        return f"its path is longer than {LONGEST_PATH:,} bytes; shorten it"
    return None
