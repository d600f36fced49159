"""A few images of each class, the same for fine-tuning, generation and training."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from diffaug.arguments import shown, whole
from diffaug.checked import Items, checked
from diffaug.labels.dataset import dataset_labels
from diffaug.labels.label import class_number
from diffaug.labels.origins import image_paths
from diffaug.seeds import derive_seed


@checked
def few_shot_subset(labels: Items, shots: int, seed: int = 0) -> list[int]:
    """Choose a few images of each class, the same for fine-tuning, generation and training.

    Give the dataset itself where its images are files, as those of ``ImageFolder`` are. Then the
    choice follows from the path of each image alone. It is that of ``finetune(shots=...)``, and one
    file more or less changes one choice at most.

    Args:
        labels: the dataset; or the label of every image, in the dataset's order, all numbers or all
            names. Without files the choice follows from the places of the images.
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
    if not _is_dataset(labels):
        return _chosen(labels, None, shots, seed)
    return _chosen(dataset_labels(labels), image_paths(labels), shots, seed)


def few_shot_paths(paths: Sequence[str], labels: Sequence[str], shots: int, seed: int) -> list[str]:
    """Choose as ``few_shot_subset`` does for a dataset of these files; the order stays."""
    return [paths[index] for index in _chosen(labels, paths, shots, seed)]


def _is_dataset(data: Any) -> bool:
    """Return whether this is a dataset, and not the labels of one."""
    if isinstance(data, Dataset) or isinstance(getattr(data, "features", None), Mapping):
        return True
    if not isinstance(data, (list, tuple)):
        return image_paths(data) is not None
    first = data[0] if data else None
    if isinstance(first, (list, tuple)):  # else a label may be a list of weights
        return len(first) > 1 and not isinstance(first[0], (int, float))
    return isinstance(first, Mapping)


def _chosen(labels: Any, paths: Sequence[str] | None, shots: int, seed: int) -> list[int]:
    by_class: dict[Any, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        # As a plain number: two tensors that hold the same number are different keys of a dict.
        name = label if isinstance(label, str) else class_number(label)
        if name is None or isinstance(name, str) != isinstance(next(iter(by_class), name), str):
            raise TypeError(
                f"'labels' must be all class numbers or all names, got {shown(label)} at place "
                f"{index}."
            )
        by_class[name].append(index)
    chosen: list[int] = []
    # The seed follows from the rank of the class, which is the same for numbers and folder names.
    for rank, name in enumerate(sorted(by_class)):
        indices = by_class[name]
        if paths is not None:
            order = _ordered_by_path(indices, paths, seed)
        else:
            generator = torch.Generator().manual_seed(derive_seed("few-shot", seed, rank))
            shuffled = torch.randperm(len(indices), generator=generator).tolist()
            order = [indices[place] for place in shuffled]
        if len(order) < shots:
            raise ValueError(
                f"'shots' must be at most the images of each class, got {shots} and class "
                f"{name!r} has {len(order)}."
            )
        chosen += order[:shots]
    return sorted(chosen)


def _ordered_by_path(indices: Sequence[int], paths: Sequence[str], seed: int) -> list[int]:
    """Order images by a hash of their path; a path that is there again comes after all others."""
    seen = Counter[str]()
    keys = {}
    for index in indices:
        keys[index] = (seen[paths[index]], derive_seed("shot", seed, paths[index]))
        seen[paths[index]] += 1
    return sorted(indices, key=lambda index: keys[index])
