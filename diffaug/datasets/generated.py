"""An offline set as a dataset."""

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from diffaug import images
from diffaug.arguments import MOST_CLASSES, in_order, whole
from diffaug.checked import checked
from diffaug.errors import UnreadableImageError
from diffaug.labels.class_names import distinct
from diffaug.labels.label import check_gamma, soft_label
from diffaug.labels.map_style import position
from diffaug.labels.words import spelling
from diffaug.offline.contents import own_classes
from diffaug.offline.manifest import read_manifest, read_run, source_label
from diffaug.untrusted import path_below


@checked
class GeneratedDataset(Dataset):
    """Read an offline set: each generated image with its soft label.

    The manifest keeps strengths, not weights, so you can try any gamma. Images that a filter
    dropped are left out. So are the copies of originals, unless ``originals`` is set.

    The set alone does not know which of its sources are in your training split. Join it to your
    images by :class:`MixedDataset`, which does, and which compares the class numbers, too.

    Args:
        folder: a finished set of ``augment_folder`` or ``diffaug augment``, moved or not.
        classes: names in the order of the labels, or the number of each name; None for those of
            the set itself, in the order its transform or its source had them.
        gamma: at least 0, as in :func:`soft_label`; None gives 0.5 to sets of :class:`DiffMix`.
        num_classes: width of the labels; None for as many as there are classes.
        transform: of the image alone.
        originals: read the copies of sources, too.

    Shape:
        ``(image, label)``: a PIL image, or what ``transform`` makes of it; float32 ``(C,)``. Where
        the labels are no classes, they come as the source had them: several numbers as a tensor,
        one as a number. Images without labels come alone.

    Raises:
        ValueError: there is no manifest, it has no images left, or ``classes`` misses a class; (on
            access) a link leads to an image elsewhere.
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
        classes: Sequence[str] | Mapping[str, int] | None = None,
        gamma: float | None = None,
        num_classes: int | None = None,
        transform: Callable[[Any], Any] | None = None,
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
        run = read_run(self.folder) or {"identity": {}}
        #: What the set was made from: a folder, or a dataset's type and length.
        self.source: str | None = run.get("source")
        #: Which items of which dataset these were, where the source was a part of it.
        self.part: Mapping[str, str] | None = run.get("part")
        #: The value that is white in the source's files of 16 bits.
        self.white: int | None = run["identity"].get("white")
        names = [isinstance(row.get("label"), str) for row in self.rows]
        #: Whether the labels are classes; else they are as the source had them.
        self.has_classes = all(names)
        #: Whether the caller said which class has which number.
        self.is_numbered = classes is not None
        if self.has_classes:
            self._number(self._own_classes(run) if classes is None else classes, num_classes)
        elif any(names):
            row = self.rows[names.index(False)]
            raise ValueError(
                f"'folder' must hold a set whose images all have a class, or none has, and of "
                f"{len(names)} in '{folder}' {names.count(False)} have none, such as "
                f"'{row['file_name']}'; make a set of each kind."
            )
        elif classes is not None or num_classes is not None or gamma is not None:
            raise ValueError(
                "'classes', 'num_classes' and 'gamma' must be None, for the labels of "
                f"'{folder}' are no "
                f"classes, such as {self.rows[0].get('label')!r} of '{self.rows[0]['file_name']}'."
            )

    def _own_classes(self, run: Mapping[str, Any]) -> list[str]:
        names = (name for row in self.rows for name in (row["label"], source_label(row)))
        return own_classes(run, names)

    def _number(
        self, classes: Sequence[str] | Mapping[str, int], num_classes: int | None = None
    ) -> None:
        numbers = numbers_of(classes)
        #: The number of each class.
        self.class_to_idx = numbers
        #: The names of the classes in the order of their numbers; those of one number together.
        self.classes = _by_number(numbers)
        self.num_classes = len(self.classes)
        if num_classes is not None:
            self.num_classes = whole("num_classes", num_classes, self.num_classes, MOST_CLASSES)
        for row in self.rows:
            for name in (row["label"], source_label(row)):
                if name not in numbers:
                    alike = next((n for n in numbers if spelling(n) == spelling(name)), None)
                    hint = "" if alike is None else f"; it has {alike!a}, not {name!a}: rename one"
                    raise ValueError(
                        f"'classes' must name every class of '{self.folder}', and {name!r} is not "
                        f"among the {len(numbers)}{hint}."
                    )

    def renumbered(self, classes: Sequence[str] | Mapping[str, int]) -> "GeneratedDataset":
        """Return the same images with labels in the order of other names, or of other numbers."""
        other = copy.copy(self)
        other._number(classes)
        other.is_numbered = True
        return other

    def selected(self, indices: Iterable[int]) -> "GeneratedDataset":
        """Return some of the images, with the same numbers of classes."""
        other = copy.copy(self)
        other.rows = [self.rows[index] for index in indices]
        return other

    def __len__(self) -> int:
        return len(self.rows)

    @checked
    def __getitem__(self, index: int) -> Any:
        index = position(index, len(self))
        image, label = self.image(index), self.label(index)
        return image if label is None else (image, label)

    def image(self, index: int) -> Any:
        """Read one image."""
        try:
            path = path_below(self.folder, self.rows[index]["file_name"])
            image = images.to_pil(images.read_image(path))
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error} It is listed in {self.folder / 'metadata.jsonl'}; run the same "
                "'diffaug augment' again to make it again."
            ) from error
        return image if self.transform is None else self.transform(image)

    def label(self, index: int, gamma: float | None = None, num_classes: int | None = None) -> Any:
        """Return one soft label, at another gamma or width if given."""
        row = self.rows[index]
        if not self.has_classes:
            label = row.get("label")
            return torch.tensor(label) if isinstance(label, list) else label
        target, source = self.class_to_idx[row["label"]], self.class_to_idx[source_label(row)]
        gamma = self.gamma if gamma is None else gamma
        # An image made from text has no strength: it keeps nothing of its source.
        strength = 1.0 if row.get("strength") is None else row["strength"]
        return soft_label(source, target, strength, gamma, num_classes or self.num_classes)

    @property
    def targets(self) -> list[Any]:
        """The target class of every image, as torchvision's datasets have it."""
        if not self.has_classes:
            return [row.get("label") for row in self.rows]
        return [self.class_to_idx[row["label"]] for row in self.rows]


def numbers_of(classes: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    """Return the number of each class, of names in order or of a table."""
    if isinstance(classes, Mapping):
        return {str(name): whole("classes", number, 0) for name, number in classes.items()}
    if isinstance(classes, str):
        raise TypeError(f"'classes' must be several names in order, got {classes!r}.")
    in_order("classes", classes)
    if any(isinstance(name, tuple) for name in classes):  # as torchvision's ImageNet has them
        names = distinct(classes)
    else:
        names = [str(name) for name in classes]
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        raise ValueError(f"'classes' must name each class once, got {names}.")
    return numbers


def _by_number(numbers: Mapping[str, int]) -> list[str]:
    names: dict[int, list[str]] = {}
    for name, number in numbers.items():
        names.setdefault(number, []).append(name)
    count = max(names, default=-1) + 1
    return [", ".join(names.get(number, [str(number)])) for number in range(count)]
