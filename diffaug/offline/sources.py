"""Where an offline run's images come from: a class-per-folder tree, or a map-style dataset."""

import os
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from diffaug import images
from diffaug.errors import UnreadableImageError, one_line
from diffaug.labels import samples
from diffaug.labels.class_names import class_names_of, distinct
from diffaug.labels.dataset import dataset_labels
from diffaug.labels.label import class_number
from diffaug.offline.trees import open_tree

#: A file's name has at most 255 bytes, and copies get a number and an extension.
LONGEST_NAME = 230
LONGEST_FOLDER = 255


class Skipped(NamedTuple):
    """A source that is not in the set, or one of its copies is not, and the reason."""

    source: str
    reason: str


class SourceImage(NamedTuple):
    """A source image: uint8 pixels (1, 3, H, W), its class, and the start of its copies' names."""

    pixels: torch.Tensor
    label: str
    base: str


class Source(Protocol):
    """Images by key, in a fixed order; a copy's random numbers depend on the key alone.

    It is pickled to other processes without its list of keys.
    """

    name: str
    keys: list[str]
    skipped: list[Skipped]
    #: Every class in the order of the labels; None where they are plain numbers or names.
    classes: list[str] | None
    #: How many threads may read at once; 0 for the caller's only.
    threads: int

    def folder_of(self, label: str) -> str:
        """Name the folder that copies of this class go to."""

    def labels(self) -> list[str]:
        """Name the class of every key."""

    def load(self, key: str) -> SourceImage:
        """Read one image, or raise UnreadableImageError."""

    def may_be(self, name: str) -> bool:
        """Return whether a run whose source has this name may have begun with this source."""
        return name == self.name

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "keys": []}


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


class DatasetSource(Source):
    """A map-style dataset of ``(image, label)`` pairs or of dicts; an image's key is its index.

    Raises:
        TypeError: no length, or no integer index.
        ValueError: no items.
    """

    threads = 0

    def __init__(self, dataset: Any, class_names: Sequence[str] | None) -> None:
        map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if not map_style or isinstance(dataset, Mapping):
            hint = "pass one of its splits" if isinstance(dataset, Mapping) else "wrap it in a list"
            raise TypeError(
                "'dataset' must have a length and integer indices, "
                f"got {type(dataset).__name__}; {hint}."
            )
        if not len(dataset):
            raise ValueError("'dataset' must hold at least one image, got none.")
        self.dataset = dataset
        self.name = f"{type(dataset).__name__} of {len(dataset)}"
        self.keys = [str(index) for index in range(len(dataset))]
        self.skipped = []
        self._class_names = class_names
        self._known: dict[str | None, list[str] | None] = {}
        self.classes = self._names(self._label_key())

    def load(self, key: str) -> SourceImage:
        index = int(key)
        try:
            item = self.dataset[index]
            image_at, label_at = _places(item, index)
            image = samples.get(item, image_at)
            if image is None:
                raise UnreadableImageError(f"item {index} holds no image.")
            count = _check(image, index)
            pixels = images.to_uint8(images.unpack(image)[0])  # (1, 3, H, W)
        except (OSError, SyntaxError) as error:  # what Pillow raises on a damaged file
            raise UnreadableImageError(
                f"item {index} is not readable: {one_line(error)}."
            ) from error
        if count != 1:
            raise ValueError(f"item {index} must hold one image, got shape {tuple(image.shape)}.")
        column = label_at[0] if isinstance(label_at[0], str) else None
        name = self._class_name(samples.get(item, label_at), column, index)
        return SourceImage(pixels, name, f"{self.folder_of(name)}/{index:06d}")

    def folder_of(self, label: str) -> str:
        return class_folder(label)

    def labels(self) -> list[str]:
        key = self._label_key()
        try:
            labels = dataset_labels(self.dataset)
        except (OSError, SyntaxError) as error:  # labels come with images, and one is damaged
            raise UnreadableImageError(
                f"'dataset' could not be asked for every label: {one_line(error)}; give it "
                "'targets', a list of its labels."
            ) from error
        return [self._class_name(label, key, index) for index, label in enumerate(labels)]

    def _label_key(self) -> str | None:
        features = getattr(self.dataset, "features", None) or {}
        return next((key for key in samples.LABEL_KEYS if key in features), None)

    def _names(self, label_key: str | None) -> list[str] | None:
        if label_key not in self._known:
            given = self._class_names
            names = distinct(given) if given else class_names_of(self.dataset, label_key)
            for name in names or ():
                class_folder(name)  # a wrong name is an error now, and not in the middle of a run
            self._known[label_key] = names
        return self._known[label_key]

    def _class_name(self, label: Any, label_key: str | None, index: int) -> str:
        if isinstance(label, str):
            return label
        number = class_number(label)
        if number is None:
            raise ValueError(
                f"the label of item {index} must be a class number or name, "
                f"got {type(label).__name__}."
            )
        names = self._names(label_key)
        if names is None:
            return str(number)
        if not 0 <= number < len(names):
            raise ValueError(
                f"the label of item {index} must be below the {len(names)} class names, "
                f"got {number}; give 'class_names'."
            )
        return names[number]


def class_folder(name: str) -> str:
    """Turn a class's name into a folder's name, a different one for each class.

    Characters that file systems or readers of image folders do not accept are written as in a web
    address: separators, control characters, a leading dot or double underscore.

    Raises:
        ValueError: the name is empty, or longer than a folder's may be.

    Example:
        >>> from diffaug.offline.sources import class_folder
        >>> class_folder("AC/DC, 100%"), class_folder("..")
        ('AC%2FDC, 100%', '%2E%2E')
    """
    if not name:
        raise ValueError("a class's name must not be empty; give 'class_names'.")
    # A percent sign is replaced only where it could be one of ours, so that names stay readable.
    odd = r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]|%(?=[0-9A-F]{2})|^\.|^_(?=_)|[. ]$'
    folder = re.sub(odd, lambda match: _percent(match[0]), name)
    if len(folder.encode()) > LONGEST_FOLDER:
        raise ValueError(
            f"a class's name must take at most {LONGEST_FOLDER} bytes as a folder's, got "
            f"'{name:.40}...'; give shorter 'class_names'."
        )
    return folder


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


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


def _places(item: Any, index: int) -> tuple[samples.Place, samples.Place]:
    """Return where an item keeps its image and its label; an error says which item it is."""
    try:
        return samples.image_place(item), samples.label_place(item)
    except TypeError as error:
        raise ValueError(f"item {index}: {error}") from error


def _check(image: Any, index: int) -> int:
    """Count the images of an item; an error says which item it is."""
    try:
        return images.check_image(image)
    except (TypeError, ValueError) as error:
        raise type(error)(f"item {index}: {error}") from error
