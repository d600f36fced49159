"""Labels: soft ones between two classes, other libraries' forms of them, and those of a dataset."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot
from torch.utils.data import ConcatDataset, Subset

from diffaug.arguments import whole
from diffaug.labels import samples
from diffaug.seeds import derive_seed


def soft_label(
    source: int | torch.Tensor,
    target: int | torch.Tensor,
    strength: float | torch.Tensor,
    gamma: float,
    num_classes: int,
) -> torch.Tensor:
    """Return the label of an image translated from one class to another; it sums to 1.

    ``(1 - strength ** gamma) source + strength ** gamma target``. At strength 0 nothing was
    translated, and the label is the source's, for gamma 0 too.

    Args:
        source: class of the image translated: a number, ``(B,)`` numbers, or ``(B, C)``
            probabilities.
        target: class it was translated to: a number or ``(B,)`` numbers.
        strength: how far it was translated, in [0, 1]: a number or ``(B,)``.
        gamma: at least 0; the smaller, the sooner the target takes over. 0.5 for few images, 0.8
            for many.
        num_classes: C.

    Shape:
        float32 ``(C,)`` for plain numbers, else ``(B, C)``.

    Raises:
        ValueError: a class, strength or gamma is outside its range.

    Example:
        >>> soft_label(0, 2, strength=0.7, gamma=0.5, num_classes=3)
        tensor([0.1633, 0.0000, 0.8367])

    Reference:
        Wang et al., Diff-Mix, CVPR 2024, arXiv 2403.19600, equation of the soft label.
    """
    num_classes = whole("num_classes", num_classes, 1)
    before = _probabilities("source", source, num_classes)
    after = _probabilities("target", target, num_classes)
    weight = target_weight(strength, gamma)[..., None].to(before.device)
    lengths = {len(one) for one in (before, after, weight) if one.ndim > 1} - {1}
    if len(lengths) > 1:
        raise ValueError(
            "'source', 'target' and 'strength' must have one length, got "
            f"{' and '.join(map(str, sorted(lengths)))}."
        )
    return (1 - weight) * before + weight * after.to(before.device)


def target_weight(strength: float | torch.Tensor, gamma: float) -> torch.Tensor:
    """Return how much the target class counts: ``strength ** gamma``, and 0 at strength 0.

    Raises:
        ValueError: a strength outside [0, 1], or gamma under 0.

    Example:
        >>> target_weight(0.7, gamma=0.8)
        tensor(0.7518)
    """
    gamma = check_gamma(gamma)
    strengths = as_numbers("strength", strength).float()
    outside = strengths[~((strengths >= 0) & (strengths <= 1))]  # a NaN too
    if outside.numel():
        raise ValueError(f"'strength' must be in [0, 1], got {outside[0]:.4g}.")
    return torch.where(strengths > 0, strengths**gamma, 0.0)


def check_gamma(gamma: Any) -> float:
    """Return gamma as a float, which is at least 0."""
    if isinstance(gamma, bool) or not isinstance(gamma, Real):
        raise TypeError(f"'gamma' must be a number, got {gamma!r}.")
    if not 0 <= float(gamma) < float("inf"):
        raise ValueError(f"'gamma' must be at least 0, got {gamma}.")
    return float(gamma)


def as_numbers(name: str, value: Any) -> torch.Tensor:
    """Return a number, or several, as a tensor."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises each of them
        raise TypeError(f"'{name}' must hold numbers, got {value!r}.") from error


def _probabilities(name: str, label: Any, num_classes: int) -> torch.Tensor:
    """Return class numbers as one-hot floats; let probabilities through."""
    labels = as_numbers(name, label)
    if labels.is_floating_point():
        if not labels.ndim or labels.shape[-1] != num_classes:
            raise ValueError(
                f"'{name}' must be class numbers or (..., {num_classes}) probabilities, got shape "
                f"{tuple(labels.shape)}."
            )
        return _soft(f"'{name}'", labels)
    check_classes(name, labels, num_classes)
    return one_hot(labels.long(), num_classes).float()


def _soft(what: str, label: torch.Tensor) -> torch.Tensor:
    """Return weights (..., C) as plain float32, if each label sums to 1."""
    soft = label.as_subclass(torch.Tensor).float()
    rows = soft.reshape(-1, soft.shape[-1])
    fine = (rows >= 0).all(1) & ((rows.sum(1) - 1).abs() < 1e-3)
    if not bool(fine.all()):
        wrong = rows[~fine][0]
        raise ValueError(
            f"{what} must be weights that sum to 1, got a sum of {wrong.sum():.4g} and a least "
            f"weight of {wrong.min():.4g}."
        )
    return soft


def check_classes(name: str, labels: torch.Tensor, num_classes: int) -> None:
    """Raise unless every class number is in [0, num_classes)."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"'{name}' must hold integers, got {labels.dtype}.")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.numel():
        raise ValueError(f"'{name}' must be in [0, {num_classes}), got {int(outside[0])}.")


def dataset_labels(dataset: Any) -> list[Any]:
    """Return every label of a dataset, without reading its images where it says them.

    Known are torchvision's ``targets`` and ``labels`` (and what a ``target_transform`` makes of
    them), a Hugging Face column, subsets, concatenations, and datasets around another of the same
    length; others are read item by item.
    """
    if isinstance(dataset, Subset):
        inside = dataset_labels(dataset.dataset)
        return [inside[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [label for part in dataset.datasets for label in dataset_labels(part)]
    for name in ("targets", "labels", "_labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, (torch.Tensor, np.ndarray)):
            found = found.tolist()
        if isinstance(found, (list, tuple)) and len(found) == len(dataset):
            change = getattr(dataset, "target_transform", None)
            return [change(label) for label in found] if change else list(found)
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
        ValueError: a label is no class number, or not below ``num_classes``.

    Example:
        >>> class_counts([("image", 0), ("image", 2), ("image", 2)])
        tensor([1, 0, 2])
    """
    least = 0 if num_classes is None else whole("num_classes", num_classes, 1)
    numbers = []
    for place, label in enumerate(dataset_labels(dataset)):
        number = samples.class_number(label)
        if number is None or number < 0:
            raise ValueError(f"the label of item {place} must be a class number, got {label!r}.")
        if number >= least > 0:
            raise ValueError(f"the label of item {place} must be in [0, {least}), got {number}.")
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.long).bincount(minlength=least)


def few_shot_subset(labels: Sequence[Any], shots: int, seed: int = 0) -> list[int]:
    """Choose the same few images of each class everywhere: tuning, generation and training.

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
    places: dict[Any, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        # Tensors of one number are no equal keys.
        name = label if isinstance(label, str) else samples.class_number(label)
        if name is None or isinstance(name, str) != isinstance(next(iter(places), name), str):
            raise TypeError(
                f"'labels' must be all class numbers or all names, got {label!r} at place {place}."
            )
        places[name].append(place)
    chosen: list[int] = []
    # By the rank of the class, which its number and its folder's name share.
    for rank, label in enumerate(sorted(places)):
        found = places[label]
        if len(found) < shots:
            raise ValueError(
                f"'shots' must be at most the images of each class, got {shots} and class "
                f"{label!r} has {len(found)}."
            )
        generator = torch.Generator().manual_seed(derive_seed("few-shot", seed, rank))
        order = torch.randperm(len(found), generator=generator).tolist()
        chosen += [found[index] for index in order[:shots]]
    return sorted(chosen)


def as_probabilities(label: Any, num_classes: int, place: int | None = None) -> torch.Tensor:
    """Return one label, hard or soft, as float32 (C,) that sums to 1."""
    where = "" if place is None else f" of sample {place}"
    number = samples.class_number(label)
    if number is None:
        weights = _array(label)
        if weights is not None and weights.shape == (num_classes,):
            return _soft(f"the label{where}", weights)
        if weights is not None and weights.numel() == 1:
            number = samples.class_number(weights.squeeze())
    if number is None:
        shape = getattr(label, "shape", None)
        got = f"shape {tuple(shape)}" if shape else repr(label)
        raise ValueError(
            f"the label{where} must be a class number or {num_classes} weights, got {got}."
        )
    if not 0 <= number < num_classes:
        raise ValueError(f"the label{where} must be in [0, {num_classes}), got {number}.")
    return one_hot(torch.tensor(number), num_classes).float()


def _array(label: Any) -> torch.Tensor | None:
    """Return a label as a tensor of numbers; None if it is none."""
    try:
        array = as_numbers("label", label)
    except TypeError:
        return None
    return None if array.dtype == torch.bool else array


def to_kornia(labels: torch.Tensor) -> torch.Tensor:
    """Turn soft labels of at most two classes into kornia's rows ``[y, y', lam]``.

    kornia's loss is ``(1 - lam) CE(y) + lam CE(y')``.

    Shape:
        ``(B, C)`` weights in, float32 ``(B, 3)`` out.

    Raises:
        ValueError: more than two classes in one label, or weights that do not sum to 1.

    Example:
        >>> import torch
        >>> to_kornia(torch.tensor([[0.25, 0.0, 0.75]]))
        tensor([[2.0000, 0.0000, 0.2500]])
    """
    if labels.ndim != 2:
        raise ValueError(f"'labels' must have shape (B, C), got {tuple(labels.shape)}.")
    labels = _soft("'labels'", labels)
    most = int((labels > 0).sum(1).max()) if len(labels) else 0
    if most > 2:
        raise ValueError(f"'labels' must be of at most two classes each, got one of {most}.")
    weights, classes = labels.topk(min(2, labels.shape[1]), dim=1)
    lam = weights[:, -1] if labels.shape[1] > 1 else torch.zeros_like(weights[:, 0])
    return torch.stack([classes[:, 0].float(), classes[:, -1].float(), lam], 1)


def from_kornia(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Turn kornia's rows ``[y, y', lam]`` into soft labels.

    ``lam`` is the weight of ``y'``. Of ``RandomCutMixV2``, pass one mix, ``labels[0]``, and leave
    its ``use_correct_lambda`` off: on, its ``lam`` is the weight of ``y``.

    Shape:
        ``(B, 3)`` in, float32 ``(B, C)`` out.

    Raises:
        ValueError: another shape, or a class or ``lam`` outside its range.

    Example:
        >>> import torch
        >>> from_kornia(torch.tensor([[2.0, 0.0, 0.25]]), num_classes=3)
        tensor([[0.2500, 0.0000, 0.7500]])
    """
    if labels.ndim != 2 or labels.shape[1] != 3:
        hint = "; pass one mix at a time, labels[0]" if labels.ndim == 3 else ""
        raise ValueError(f"'labels' must have shape (B, 3), got {tuple(labels.shape)}{hint}.")
    num_classes = whole("num_classes", num_classes, 1)
    first, second, lam = labels[:, 0].long(), labels[:, 1].long(), labels[:, 2:].float()
    if not bool(((lam >= 0) & (lam <= 1)).all()):
        raise ValueError("'labels' must hold lam in [0, 1] in its third column.")
    before = _probabilities("labels", first, num_classes)
    return (1 - lam) * before + lam * _probabilities("labels", second, num_classes)
