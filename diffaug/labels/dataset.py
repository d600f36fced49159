"""The labels of a whole dataset: listed and counted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from diffaug.arguments import whole
from diffaug.labels import samples
from diffaug.labels.label import class_number


def dataset_labels(dataset: Any) -> list[Any]:
    """Return every label of a dataset, without reading its images where that is possible.

    It uses torchvision's ``targets`` and ``labels`` (after the ``target_transform``), or a Hugging
    Face column, also inside subsets, concatenations, and datasets that wrap another of the same
    length. Other datasets are read item by item.
    """
    if isinstance(dataset, Subset):
        inside = dataset_labels(dataset.dataset)
        return [inside[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [label for part in dataset.datasets for label in dataset_labels(part)]
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if isinstance(labels, (torch.Tensor, np.ndarray)):
            labels = labels.tolist()
        if isinstance(labels, (list, tuple)) and len(labels) == len(dataset):
            change = getattr(dataset, "target_transform", None)
            return [change(label) for label in labels] if change else list(labels)
    if isinstance(features := getattr(dataset, "features", None), Mapping):
        key = next((key for key in samples.LABEL_KEYS if key in features), None)
        if key is not None:
            return list(dataset[key])
    inner = getattr(dataset, "dataset", None)
    if inner is not None and hasattr(inner, "__len__") and len(inner) == len(dataset):
        return dataset_labels(inner)
    items = (dataset[index] for index in range(len(dataset)))
    return [samples.get(item, samples.label_place(item)) for item in items]


def class_counts(dataset: Any, num_classes: int | None = None) -> torch.Tensor:
    """Count the images of each class of a dataset.

    Args:
        dataset: map-style, with class numbers as labels.
        num_classes: C; None for the largest number found, plus one.

    Shape:
        int64 ``(C,)``.

    Raises:
        ValueError: a label is not a class number, or not below ``num_classes``.

    Example:
        >>> class_counts([("image", 0), ("image", 2), ("image", 2)])
        tensor([1, 0, 2])
    """
    least = 0 if num_classes is None else whole("num_classes", num_classes, 1)
    numbers = []
    for index, label in enumerate(dataset_labels(dataset)):
        number = class_number(label)
        if number is None or number < 0:
            raise ValueError(f"the label of item {index} must be a class number, got {label!r}.")
        if number >= least > 0:
            raise ValueError(f"the label of item {index} must be in [0, {least}), got {number}.")
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.long).bincount(minlength=least)
