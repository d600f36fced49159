"""The labels of a whole dataset: listed, counted, and a few of each class chosen."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from diffaug.arguments import whole
from diffaug.labels import samples
from diffaug.labels.label import class_number
from diffaug.seeds import derive_seed


def dataset_labels(dataset: Any, labels_getter: samples.Getter = "default") -> list[Any]:
    """Return every label of a dataset, without reading its images where that is possible.

    Labels that ``known_labels`` does not find are read item by item.
    """
    listed = known_labels(dataset, labels_getter)
    if listed is not None:
        return listed
    if isinstance(dataset, Subset):
        inside = dataset_labels(dataset.dataset, labels_getter)
        return [inside[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [label for part in dataset.datasets for label in dataset_labels(part, labels_getter)]
    inner = _wrapped(dataset)
    if inner is not None:
        return dataset_labels(inner, labels_getter)
    items = (dataset[index] for index in range(len(dataset)))
    return [samples.get(item, samples.label_place(item, labels_getter)) for item in items]


def known_labels(dataset: Any, labels_getter: samples.Getter = "default") -> list[Any] | None:
    """Return every label of a dataset, without reading its images; None where that is impossible.

    It uses torchvision's ``targets`` and ``labels``, timm's reader (after the
    ``target_transform``), or a Hugging Face column, also inside subsets, concatenations, and
    datasets that wrap another of the same length.
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
            return list(dataset[key])
    if labels_getter == "default" and (listed := _listed(dataset)) is not None:
        return listed
    inner = _wrapped(dataset)
    return None if inner is None else known_labels(inner, labels_getter)


def _changed(dataset: Any, labels: Sequence[Any]) -> list[Any]:
    change = getattr(dataset, "target_transform", None)
    return [change(label) for label in labels] if change else list(labels)


def _wrapped(dataset: Any) -> Any:
    """Return the dataset that one wraps item by item; None where there is none."""
    inner: Any = getattr(dataset, "dataset", None)
    return inner if hasattr(inner, "__len__") and len(inner) == len(dataset) else None


def _listed(dataset: Any) -> list[Any] | None:
    """Return the labels that a dataset itself lists."""
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if isinstance(labels, (torch.Tensor, np.ndarray)):
            labels = labels.tolist()
        if isinstance(labels, (list, tuple)) and len(labels) == len(dataset):
            return _changed(dataset, labels)
    pairs = getattr(getattr(dataset, "reader", None), "samples", None)  # timm's
    if isinstance(pairs, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        return _changed(dataset, [label for _, label in pairs])
    return None


def class_counts(
    dataset: Any, num_classes: int | None = None, *, labels_getter: samples.Getter = "default"
) -> torch.Tensor:
    """Count the images of each class of a dataset.

    Args:
        dataset: map-style, with class numbers as labels.
        num_classes: C; None for the largest number found, plus one.
        labels_getter: where a sample has its label: a key, an index or a callable; by default
            second in a tuple, or under ``label`` or ``labels``.

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
    for index, label in enumerate(dataset_labels(dataset, labels_getter)):
        number = class_number(label)
        if number is None or number < 0:
            raise ValueError(f"the label of item {index} must be a class number, got {label!r}.")
        if number >= least > 0:
            raise ValueError(f"the label of item {index} must be in [0, {least}), got {number}.")
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.long).bincount(minlength=least)


def few_shot_subset(labels: Sequence[Any], shots: int, seed: int = 0) -> list[int]:
    """Choose a few images of each class, the same for fine-tuning, generation and training.

    Args:
        labels: the label of every image, in the dataset's order: all numbers, or all names.
        shots: images of each class, at least 1.
        seed: another seed chooses others.

    Returns:
        Indices, sorted; for ``torch.utils.data.Subset``.

    Raises:
        ValueError: a class has fewer images.
        TypeError: a label is neither a number nor a name.

    Example:
        >>> few_shot_subset([0, 0, 0, 1, 1, 1], shots=1)
        [0, 4]
    """
    shots, seed = whole("shots", shots, 1), whole("seed", seed, 0)
    by_class: dict[Any, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        # As a plain number: two tensors that hold the same number are different keys of a dict.
        name = label if isinstance(label, str) else class_number(label)
        if name is None or isinstance(name, str) != isinstance(next(iter(by_class), name), str):
            raise TypeError(
                f"'labels' must be all class numbers or all names, got {label!r} at place {index}."
            )
        by_class[name].append(index)
    chosen: list[int] = []
    # The seed follows from the rank of the class, which is the same for numbers and folder names.
    for rank, name in enumerate(sorted(by_class)):
        indices = by_class[name]
        if len(indices) < shots:
            raise ValueError(
                f"'shots' must be at most the images of each class, got {shots} and class "
                f"{name!r} has {len(indices)}."
            )
        generator = torch.Generator().manual_seed(derive_seed("few-shot", seed, rank))
        order = torch.randperm(len(indices), generator=generator).tolist()
        chosen += [indices[place] for place in order[:shots]]
    return sorted(chosen)
