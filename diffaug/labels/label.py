"""What a label is: a class number, or a weight for each class; and the label between classes."""

import operator
from numbers import Real
from typing import Any

import torch
from torch.nn.functional import one_hot

from diffaug.arguments import whole


def soft_label(
    source: int | torch.Tensor,
    target: int | torch.Tensor,
    strength: float | torch.Tensor,
    gamma: float,
    num_classes: int,
) -> torch.Tensor:
    """Return the label of an image translated from one class to another; it sums to 1.

    ``(1 - strength ** gamma) source + strength ** gamma target``. At strength 0 nothing was
    translated, and the label is that of the source, also for gamma 0.

    Args:
        source: class of the image translated: a number, ``(B,)`` numbers, or ``(B, C)``
            probabilities.
        target: class it was translated to: a number or ``(B,)`` numbers.
        strength: how far it was translated, in [0, 1]: a number or ``(B,)``.
        gamma: at least 0; a smaller gamma gives the target more weight. 0.5 for few images, 0.8 for
            many.
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
    before = as_weights("source", source, num_classes)
    after = as_weights("target", target, num_classes)
    weight = target_weight(strength, gamma)[..., None].to(before.device)
    lengths = {len(rows) for rows in (before, after, weight) if rows.ndim > 1} - {1}
    if len(lengths) > 1:
        raise ValueError(
            "'source', 'target' and 'strength' must have one length, got "
            f"{' and '.join(map(str, sorted(lengths)))}."
        )
    return (1 - weight) * before + weight * after.to(before.device)


def target_weight(strength: float | torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the weight of the target class: ``strength ** gamma``, and 0 at strength 0.

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


def as_weights(name: str, label: Any, num_classes: int) -> torch.Tensor:
    """Return class numbers as one-hot floats; let probabilities through."""
    labels = as_numbers(name, label)
    if labels.is_floating_point():
        if not labels.ndim or labels.shape[-1] != num_classes:
            raise ValueError(
                f"'{name}' must be class numbers or (..., {num_classes}) probabilities, got shape "
                f"{tuple(labels.shape)}."
            )
        return check_weights(f"'{name}'", labels)
    check_classes(name, labels, num_classes)
    return one_hot(labels.long(), num_classes).float()


def check_weights(what: str, label: torch.Tensor) -> torch.Tensor:
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


def class_number(label: Any) -> int | None:
    """Return a class number as an integer, whatever its type; None if the label is no number."""
    if isinstance(label, bool) or getattr(label, "dtype", None) is torch.bool:
        return None
    try:
        return operator.index(label)
    except TypeError:
        return None


def as_probabilities(label: Any, num_classes: int, index: int | None = None) -> torch.Tensor:
    """Return one label, hard or soft, as float32 (C,) that sums to 1; errors name its index."""
    where = "" if index is None else f" of sample {index}"
    number = class_number(label)
    if number is None:
        weights = _array(label)
        if weights is not None and weights.shape == (num_classes,):
            return check_weights(f"the label{where}", weights)
        if weights is not None and weights.numel() == 1:
            number = class_number(weights.squeeze())
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
    """Return a label as a tensor of numbers; None if it holds no numbers."""
    try:
        array = as_numbers("label", label)
    except TypeError:
        return None
    return None if array.dtype == torch.bool else array
