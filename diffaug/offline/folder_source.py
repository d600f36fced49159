"""A class-per-folder tree of images as the source of an offline run."""

import os
import posixpath
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from diffaug.offline.lookalikes import refuse_lookalike
from diffaug.offline.sources import Skipped, Source, SourceImage
from diffaug.offline.trees import LocalTree, open_tree

#: A file's name has at most 255 bytes, and copies get a number and an extension.
LONGEST_NAME = 230


class FolderSource(Source):
    """A class-per-folder tree; an image's key is its path below the root.

    Args:
        folder: the root, or its address, such as ``s3://bucket/train``.
        only: keys to keep; None keeps all.

    Raises:
        ValueError: no such folder, no image in a class folder, or one of ``only`` is not there.
        MissingDependencyError: the package that reads such addresses is not installed.
        SourceError: the address cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str], only: Iterable[str] | None = None) -> None:
        self.files = open_tree(folder)
        if isinstance(self.files, LocalTree):
            refuse_lookalike(self.files.root)
        self.name, self.threads = self.files.name, self.files.threads
        paths = self.files.list()
        reasons = {path: reason for path in paths if (reason := _unfit(path))}
        self.keys = [path for path in paths if path not in reasons]
        self.skipped = [Skipped(_printable(path), reason) for path, reason in reasons.items()]
        if not self.keys:
            beside = f"'{self.skipped[0].source}' lies directly in it" if paths else "it has none"
            raise ValueError(
                f"'source' must hold images in one folder per class, and {beside}: '{folder}'; "
                "move them into a folder named after their class."
            )
        self._shared = _shared_stems(self.keys)
        # In ImageFolder's order, with the classes that 'only' leaves out.
        self.classes = sorted({_class_of(key) for key in self.keys})
        if only is not None:
            chosen = set(only)
            if missing := sorted(chosen.difference(self.keys)):
                raise ValueError(
                    f"'only' must name images of '{folder}', and {len(missing)} of {len(chosen)} "
                    f"are not there, such as '{missing[0]}'."
                )
            self.keys = [key for key in self.keys if key in chosen]

    def folder_of(self, label: str) -> str:
        return label  # the label is a folder's name

    def labels(self) -> list[str]:
        return [_class_of(key) for key in self.keys]

    def load(self, key: str) -> SourceImage:
        stem = _stem(key)
        base = key if stem in self._shared else stem
        return SourceImage(self.files.read(key)[None], _class_of(key), base)

    def may_be(self, name: str) -> bool:
        return name == self.name or not Path(name).exists()  # a folder may have been moved


def _class_of(key: str) -> str:
    return sys.intern(key.split("/", 1)[0])  # one string for a million images


def _stem(key: str) -> str:
    """Return a path without its extension."""
    return posixpath.splitext(key)[0]


def _shared_stems(keys: Sequence[str]) -> frozenset[str]:
    """Find the stems that several files have, in little memory.

    Next to "a.png", "a.jpg" keeps its whole name; then "a.jpg.png" cannot use "a.jpg".
    """
    hashes = np.fromiter((hash(name) for key in keys for name in {_stem(key), key}), np.int64)
    values, counts = np.unique(hashes, return_counts=True)
    doubtful = set(values[counts > 1].tolist())
    if not doubtful:
        return frozenset()
    taken = {key for key in keys if hash(key) in doubtful}
    stems = Counter(stem for key in keys if hash(stem := _stem(key)) in doubtful)
    return frozenset(stem for stem, count in stems.items() if count > 1 or stem in taken)


def _unfit(path: str) -> str | None:
    if "/" not in path:
        return "it lies beside the class folders; move it into one"
    if "//" in path or (os.sep != "/" and os.sep in path):  # on a store, or written on Windows
        return "its path has a slash that a name here cannot have; rename it"
    if _printable(path) != path:
        return "its name is not valid Unicode; rename it"
    if len(PurePosixPath(path).name.encode()) > LONGEST_NAME:
        return f"its name is longer than {LONGEST_NAME} bytes; shorten it"
    return None


def _printable(text: str) -> str:
    """Replace the bytes of a file's name that are not text."""
    return text.encode(errors="backslashreplace").decode()
