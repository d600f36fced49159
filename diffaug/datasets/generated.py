"""An offline set as a dataset."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from diffaug import images
from diffaug.arguments import whole
from diffaug.datasets.map_style import position
from diffaug.errors import UnreadableImageError
from diffaug.labels.label import check_gamma, soft_label
from diffaug.offline.manifest import Row, read_manifest, read_run


class GeneratedDataset(Dataset):
    """Read an offline set: each generated image with its soft label.

    The manifest keeps strengths, not weights, so you can try any gamma. Images that a filter
    dropped are left out. So are the copies of originals, unless ``originals`` is set.

    Args:
        folder: a finished set of ``augment_folder`` or ``diffaug augment``, moved or not.
        classes: names in the order of the labels; None for those of the set itself, in the order
            its transform or its source had them.
        gamma: at least 0, as in :func:`soft_label`; None gives 0.5 to sets of :class:`DiffMix`.
        num_classes: width of the labels; None for as many as there are classes.
        transform: of the image alone.
        originals: read the copies of sources, too.

    Shape:
        ``(image, label)``: a PIL image, or what ``transform`` makes of it; float32 ``(C,)``.

    Raises:
        ValueError: there is no manifest, it has no images left, or ``classes`` misses a class.
        UnreadableImageError: (on access) an image is gone or damaged.

    Example:
        >>> import tempfile, torch
        >>> from diffaug import DiffMix, GeneratedDataset, RecordingBackend, augment_dataset
        >>> photos = [(torch.rand(3, 32, 32), 0), (torch.rand(3, 32, 32), 1)]
        >>> mix = DiffMix(["cat", "dog"], strength=0.5, backend=RecordingBackend())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = augment_dataset(photos, folder, mix, class_names=["cat", "dog"])
        ...     image, label = GeneratedDataset(folder, gamma=1.0)[0]
        >>> float(label.sum())
        1.0
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        gamma: float | None = None,
        num_classes: int | None = None,
        transform: Any = None,
        originals: bool = False,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.gamma = check_gamma(0.5 if gamma is None else gamma)
        self.transform = transform
        rows = read_manifest(self.folder)
        self.rows = [
            row
            for row in rows
            if row.get("kept") is not False and (originals or row.get("method") != "original")
        ]
        if not self.rows:
            raise ValueError(
                f"'folder' must hold generated images that are kept, and of {len(rows)} in "
                f"'{folder}' none is."
            )
        unnamed = [row["file_name"] for row in self.rows if not isinstance(row.get("label"), str)]
        if unnamed:
            raise ValueError(
                f"'folder' must hold a set whose images have a label, and '{unnamed[0]}' in "
                f"'{folder}' has none; make one with augment_folder or 'diffaug augment'."
            )
        self._number(self._own_classes() if classes is None else classes, num_classes)

    def _own_classes(self) -> list[str]:
        run = read_run(self.folder) or {"identity": {}}
        if names := run["identity"].get("transform.class_names") or run.get("classes"):
            return list(names)
        names = {name for row in self.rows for name in (row["label"], source_label(row))}
        if "classes" in run and all(name.isdecimal() for name in names):
            # The classes of the dataset are numbers: '2' comes before '10'.
            return [str(number) for number in range(max(map(int, names)) + 1)]
        return sorted(names)

    def _number(self, classes: Sequence[str], num_classes: int | None = None) -> None:
        self.classes = list(classes)
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"'classes' must name each class once, got {self.classes}.")
        self.num_classes = len(self.classes)
        if num_classes is not None:
            self.num_classes = whole("num_classes", num_classes, self.num_classes)
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        for row in self.rows:
            for name in (row["label"], source_label(row)):
                if name not in self._numbers:
                    raise ValueError(
                        f"'classes' must name every class of '{self.folder}', and {name!r} is not "
                        f"among the {len(self.classes)}."
                    )

    def renumbered(self, classes: Sequence[str]) -> "GeneratedDataset":
        """Return the same images with labels in the order of other names."""
        other = copy.copy(self)
        other._number(classes)
        return other

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        index = position(index, len(self))
        return self.image(index), self.label(index)

    def image(self, index: int) -> Any:
        """Read one image."""
        path = self.folder / self.rows[index]["file_name"]
        try:
            image = images.to_pil(images.read_image(path))
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error} It is listed in {self.folder / 'metadata.jsonl'}; run the same "
                "'diffaug augment' again to make it again."
            ) from error
        return image if self.transform is None else self.transform(image)

    def label(
        self, index: int, gamma: float | None = None, num_classes: int | None = None
    ) -> torch.Tensor:
        """Return one soft label, at another gamma or width if given."""
        row = self.rows[index]
        target, source = self._numbers[row["label"]], self._numbers[source_label(row)]
        gamma = self.gamma if gamma is None else gamma
        # An image made from text has no strength: it keeps nothing of its source.
        strength = 1.0 if row.get("strength") is None else row["strength"]
        return soft_label(source, target, strength, gamma, num_classes or self.num_classes)

    @property
    def targets(self) -> list[int]:
        """The target class of every image, as torchvision's datasets have it."""
        return [self._numbers[row["label"]] for row in self.rows]


def source_label(row: Row) -> str:
    """Return the class of the image that a row was made from; by default that of the row."""
    return str(row.get("source_label") or row["label"])
