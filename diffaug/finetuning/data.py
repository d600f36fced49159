"""The images that a model learns from: list them, draw one, crop a square from it."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from diffaug import images
from diffaug.errors import UnreadableImageError
from diffaug.file_warnings import naming_files, reading
from diffaug.folders import class_of
from diffaug.functional import resize
from diffaug.labels.class_names import twins
from diffaug.labels.few_shot import few_shot_paths
from diffaug.labels.words import spelling
from diffaug.offline.folder_source import FolderSource
from diffaug.offline.sources import Skipped
from diffaug.offline.trees import LocalTree


@dataclass(frozen=True)
class ImageSampler:
    """Draw training images, each as a square.

    Args:
        paths: of the images.
        labels: the class of each.
        size: side of the squares in pixels.
        balanced: draw each class as often as any other.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    size: int
    balanced: bool

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, int]:
        """Draw an image, its square, and whether it is flipped; return pixels and label."""
        indices: Sequence[int] = range(len(self.paths))
        if self.balanced:
            # A class, then one of its images: the same as to weigh each image with 1/n_c.
            indices = self._indices_by_class[_draw_index(len(self._indices_by_class), generator)]
        index = indices[_draw_index(len(indices), generator)]
        right, down, flip = torch.rand(3, generator=generator).tolist()
        with reading(self.paths[index]):
            pixels = images.read_image(self.paths[index])
        pixels = square(pixels, self.size, right, down)
        return (pixels.flip(-1) if flip < 0.5 else pixels), self.labels[index]

    @cached_property
    def _indices_by_class(self) -> Mapping[int, Sequence[int]]:
        indices = defaultdict(list)
        for index, label in enumerate(self.labels):
            indices[label].append(index)
        return indices


class TrainingSet:
    """The images of a class-per-folder tree that a model learns from, class by class.

    Args:
        source: the tree.
        shots: images of each class; None for all.
        seed: of their choice.

    Raises:
        ValueError: there is no such tree, a class folder is empty, a class has fewer images than
            shots, or two classes have one name.
    """

    def __init__(
        self, source: str | os.PathLike[str], shots: int | None = None, seed: int = 0
    ) -> None:
        self.source = FolderSource(source)
        if not isinstance(self.source.files, LocalTree):
            raise ValueError(
                f"'source' must be a folder on this machine, got '{source}': every image is read "
                "many times; copy it here."
            )
        self.root = self.source.files.root
        self.names = self.source.classes
        counts = Counter(map(class_of, self.source.keys))
        self._check_names(counts)
        keys = sorted(self.source.keys, key=lambda key: (class_of(key), key))
        if shots is not None:
            keys = few_shot_paths(keys, [class_of(key) for key in keys], shots, seed)
        self.keys = keys

    def _check_names(self, counts: Counter[str]) -> None:
        if empty := next((name for name in self.names if not counts[name]), None):
            raise ValueError(
                f"'source' must hold images in every class folder, and '{empty}' has none; fill or "
                "remove it."
            )
        for earlier, later in twins(self.names, spelling):
            raise ValueError(
                f"'source' must hold classes of different names, and {self.names[earlier]!r} and "
                f"{self.names[later]!r} read the same; rename or merge them."
            )

    def unreadable(self, strict: bool = False) -> list[Skipped]:
        """Read every image once and list those that cannot be read.

        Raises:
            UnreadableImageError: with ``strict``, for the first of them.
            ValueError: a class has no other image.
        """
        with naming_files(), ThreadPoolExecutor(4) as readers:
            skipped = [problem for problem in readers.map(self._problem, self.keys) if problem]
        if skipped and strict:
            raise UnreadableImageError(skipped[0].reason)
        lost = Counter(class_of(image.source) for image in skipped)
        for name, count in Counter(map(class_of, self.keys)).items():
            if lost[name] == count:
                reason = next(item.reason for item in skipped if class_of(item.source) == name)
                raise ValueError(
                    f"'source' must hold a readable image of every class, and of {name!r} there is "
                    f"none among {count} ({reason}) Replace it."
                )
        return skipped

    def _problem(self, key: str) -> Skipped | None:
        try:
            with reading(self.root / key):
                images.read_image(self.root / key)
        except UnreadableImageError as error:
            return Skipped(key, str(error))
        return None

    def sampler(self, skipped: Sequence[Skipped], size: int, balanced: bool) -> ImageSampler:
        """Return what draws the images that are not skipped, as squares of a size in pixels."""
        left_out = {image.source for image in skipped}
        keys = [key for key in self.keys if key not in left_out]
        label_of = {name: label for label, name in enumerate(self.names)}
        labels = [label_of[class_of(key)] for key in keys]
        return ImageSampler([self.root / key for key in keys], labels, size, balanced)


def square(pixels: torch.Tensor, size: int, right: float = 0.5, down: float = 0.5) -> torch.Tensor:
    """Resize (3, H, W) to a shorter side of ``size`` and cut out a square; by default its middle.

    ``right`` and ``down`` in [0, 1] say where.
    """
    height, width = pixels.shape[-2:]
    scale = size / min(height, width)
    pixels = resize(pixels, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (
        min(int(share * (side - size + 1)), side - size)
        for share, side in zip((down, right), pixels.shape[-2:], strict=True)
    )
    return pixels[:, top : top + size, left : left + size]


def _draw_index(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
