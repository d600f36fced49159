"""What an offline run knows of its images: keys, classes, pixels, reasons for what is left out."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

LONGEST_FOLDER = 255


class Skipped(NamedTuple):
    """A source that is not in the set, or one of its copies is not, and the reason."""

    source: str
    reason: str


class SourceImage(NamedTuple):
    """A source image.

    Args:
        pixels: uint8 (1, 3, H, W).
        label: its class.
        base: the start of its copies' names.
        differs: how torchvision's ImageFolder sees other pixels; None if it sees these.
    """

    pixels: torch.Tensor
    label: Any
    base: str
    differs: str | None = None


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
    #: How many files are no images, by kind.
    left_out: Mapping[str, int] = {}
    #: Which items of which dataset the source is, where it is a part of one.
    part: Mapping[str, str] = {}
    #: The value that is white in files of 16 bits, if it was given.
    white: int | None = None

    def folder_of(self, label: str) -> str:
        """Name the folder that copies of this class go to."""

    def labels(self) -> list[str]:
        """Name the class of every key."""

    def load(self, key: str) -> SourceImage:
        """Read one image, or raise UnreadableImageError."""

    def open(self, key: str) -> tuple[Callable[[], SourceImage], bool]:
        """Return what reads one image, and whether it is so large that it must be read alone.

        What is cheap is done before: the file is fetched, and its size is read.
        """
        return partial(self.load, key), False

    def class_of(self, key: str) -> str | None:
        """Name the class of an image without reading it; None where that needs the image."""
        return None

    def may_be(self, name: str) -> bool:
        """Return whether a run whose source has this name may have begun with this source."""
        return name == self.name

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "keys": []}


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
