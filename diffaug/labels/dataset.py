"""The labels of a whole dataset: listed and counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from diffaug.arguments import MOST_CLASSES, whole
from diffaug.checked import Items, checked
from diffaug.labels import samples
from diffaug.labels.label import class_number, class_of
from diffaug.labels.origins import parts_of
from diffaug.seeds import asking

#: Items of a dataset around another that are compared with those inside.
PROBES = 8


def dataset_labels(
    dataset: Any, labels_getter: samples.Getter = "default", *, asker: str = ""
) -> list[Any]:
    """Return every label of a dataset, without reading its images where that is possible.

    Datasets whose labels :func:`known_labels` does not find are read item by item.
    """
    known = known_labels(dataset, labels_getter)
    if known is not None:
        return known
    return [_label_of(dataset, index, labels_getter, asker=asker) for index in range(len(dataset))]


def known_labels(dataset: Any, labels_getter: samples.Getter = "default") -> list[Any] | None:
    """Return every label of a dataset if that needs no images; else None.

    It uses torchvision's ``targets`` and ``labels`` (after the ``target_transform``), a Hugging
    Face column, or timm's reader; also inside subsets, concatenations, and datasets that wrap
    another of the same length, if a few items agree. With a getter, only a column is sure to
    be what it means.
    """
    if isinstance(dataset, Subset):
        inside = known_labels(dataset.dataset, labels_getter)
        return inside and [inside[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part, labels_getter) for part in dataset.datasets]
        if any(part is None for part in parts):
            return None
        return [label for part in parts for label in part or ()]
    if isinstance(features := getattr(dataset, "features", None), Mapping):
        keys = samples.LABEL_KEYS if labels_getter == "default" else (labels_getter,)
        key = next((key for key in keys if key in features), None)
        if key is not None:
            # Without its transform, which may want the images.
            plain = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
            return list(plain[key])
    if labels_getter == "default":
        change = getattr(dataset, "target_transform", None)
        for labels in _label_lists(dataset):
            if len(labels) == len(dataset):
                return [change(label) for label in labels] if change else list(labels)
    inner = _inside(dataset)
    known = None if inner is None else known_labels(inner, labels_getter)
    if known is not None and _changed_item(dataset, known.__getitem__, labels_getter):
        return None
    return known


def renumbered(
    dataset: Any, count: int, labels_getter: samples.Getter = "default"
) -> tuple[int, int] | None:
    """Return a class number that a dataset changes on its way out, and what it becomes.

    Then its names, which are in the order of the numbers before, are not those of its labels. A
    ``target_transform`` is asked about all ``count`` numbers. A dataset around another of the same
    length may change them, too, and shows it by a few items.
    """
    change = getattr(dataset, "target_transform", None)
    if callable(change):
        for number in range(count):
            with suppress(Exception):  # it wants something else than a class number
                changed = class_number(change(number))
                if changed is not None and changed != number:
                    return number, changed
    if (inner := _inside(dataset)) is not None:
        before = partial(_label_of, inner, labels_getter=labels_getter)
        if (pair := _changed_item(dataset, before, labels_getter)) is not None:
            return pair
    pairs = (renumbered(part, count, labels_getter) for part in parts_of(dataset))
    return next((pair for pair in pairs if pair is not None), None)


def _label_of(dataset: Any, index: int, labels_getter: samples.Getter, *, asker: str = "") -> Any:
    """Read an item for its label, without counting that a seeded dataset was asked for it."""
    with asking(index):
        item = dataset[index]
    return samples.get(item, samples.label_place(item, labels_getter, asker=asker))


def _inside(dataset: Any) -> Any:
    """Return the dataset of the same length that a dataset wraps; None if there is none."""
    parts = parts_of(dataset)
    inner = parts[0] if len(parts) == 1 else None
    if inner is None or isinstance(dataset, (Subset, ConcatDataset)):
        return None
    if not hasattr(inner, "__len__"):
        return None
    return inner if len(inner) == len(dataset) else None


def _changed_item(
    dataset: Any, before: Callable[[int], Any], labels_getter: samples.Getter
) -> tuple[int, int] | None:
    """Compare the classes of a few items with those that the dataset inside has for them."""
    if type(dataset).__module__.startswith("diffaug."):
        return None  # ours mix labels, and do not renumber classes
    for index in range(0, len(dataset), max(1, len(dataset) // PROBES)):
        with suppress(Exception):  # an item that cannot be read says nothing
            outer = class_number(_label_of(dataset, index, labels_getter))
            inner = class_number(before(index))
            if inner is not None and outer is not None and inner != outer:
                return inner, outer
    return None


def _label_lists(dataset: Any) -> Iterator[Sequence[Any]]:
    """List what may be the labels of a dataset."""
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if isinstance(labels, (torch.Tensor, np.ndarray)):
            labels = labels.tolist()
        if isinstance(labels, (list, tuple)):
            yield labels
    tensors = getattr(dataset, "tensors", None)  # of a TensorDataset
    if isinstance(tensors, tuple) and len(tensors) > 1:
        yield tensors[1].tolist()
    files = getattr(getattr(dataset, "reader", None), "samples", None)
    if isinstance(files, (list, tuple)) and all(
        isinstance(file, (list, tuple)) and len(file) == 2 for file in files
    ):
        yield [label for _, label in files]


@checked
def class_counts(
    dataset: Items, num_classes: int | None = None, *, labels_getter: samples.Getter = "default"
) -> torch.Tensor:
    """Count the images of each class of a dataset.

    Args:
        dataset: map-style, with class numbers or one-hot vectors as labels.
        num_classes: C; None for the largest number found, plus one.
        labels_getter: where a sample has its label: a key, an index or a callable; by default
            second in a tuple, or under ``label`` or ``labels``.

    Shape:
        int64 ``(C,)``.

    Raises:
        ValueError: a label is not of one class, or not below ``num_classes``.

    Example:
        >>> class_counts([("image", 0), ("image", 2), ("image", 2)])
        tensor([1, 0, 2])
    """
    least = None if num_classes is None else whole("num_classes", num_classes, 1, MOST_CLASSES)
    getter = samples.check_getter("labels_getter", labels_getter)
    numbers = [
        class_of(label, least, what=f"the label of item {index}")
        for index, label in enumerate(dataset_labels(dataset, getter, asker="class_counts"))
    ]
    return torch.tensor(numbers, dtype=torch.long).bincount(minlength=least or 0)
