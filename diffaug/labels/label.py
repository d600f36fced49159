"""What a label is: a class number, or a weight for each class; and the label between classes."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot

from diffaug.arguments import MOST_CLASSES, shown, whole
from diffaug.checked import checked


@checked
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
    num_classes = whole("num_classes", num_classes, 1, MOST_CLASSES)
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
        raise TypeError(f"'gamma' must be a number, got {shown(gamma)}.")
    if not 0 <= float(gamma) < float("inf"):
        raise ValueError(f"'gamma' must be at least 0, got {gamma}.")
    return float(gamma)


def as_numbers(name: str, value: Any) -> torch.Tensor:
    """Return a number, or several, as a tensor."""
    try:  # numpy before 2.3 warns when torch reads its booleans
        numbers = torch.as_tensor(bool(value) if isinstance(value, np.bool_) else value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises each of them
        raise TypeError(f"'{name}' must hold numbers, got {shown(value)}.") from error
    if numbers.is_meta or numbers.layout != torch.strided:
        raise TypeError(f"'{name}' must hold numbers in a plain tensor, got {shown(value)}.")
    return numbers


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
    soft = label.as_subclass(torch.Tensor).detach().float()
    rows = soft.reshape(-1, soft.shape[-1])
    # Weights in half precision sum to 1 less exactly.
    rounding = torch.finfo(label.dtype).eps if label.is_floating_point() else 0.0
    fine = (rows >= 0).all(1) & ((rows.sum(1) - 1).abs() < max(1e-3, rounding))
    if not bool(fine.all()):
        wrong = rows[~fine][0]
        several = bool(((wrong == 0) | (wrong == 1)).all() and wrong.sum() > 1)
        raise ValueError(
            f"{what} must be weights that sum to 1, got a sum of {wrong.sum():.4g} and a least "
            f"weight of {wrong.min():.4g}"
            + (
                "; for several labels of an image, use DiffuseMix and PyTorch's own collate_fn."
                if several
                else "."
            )
        )
    return soft


def check_classes(name: str, labels: torch.Tensor, num_classes: int) -> None:
    """Raise unless every class number is in [0, num_classes)."""
    if labels.dtype == torch.bool:
        raise TypeError(_boolean(f"'{name}'", labels))
    if labels.is_floating_point():
        raise TypeError(f"'{name}' must hold integers, got {labels.dtype}.")
    labels = labels.long()  # torch compares no uint16
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.numel():
        raise ValueError(f"'{name}' must be in [0, {num_classes}), got {int(outside[0])}.")


def read_label(
    label: Any, num_classes: int | None = None, *, what: str = "the label", names: bool = False
) -> int | str | torch.Tensor:
    """Decide what one label is; every part that takes labels asks here.

    Args:
        label: an integer of any type, also as a tensor, an array or a list of one; weights that
            sum to 1, of any type, so one-hot vectors too; or a name.
        num_classes: C; None where it is not known.
        what: what errors call the label.
        names: whether a name is a label here.

    Returns:
        A class number as ``int``, a name as ``str``, or weights as float32 ``(C,)``. One integer is
        a class number and several are weights, also where the number of classes is not known.

    Raises:
        ValueError: it is none of these. Booleans and single floats are no class numbers: nobody
            can know whether ``True`` or ``0.9`` was meant as one.

    Example:
        >>> import numpy as np
        >>> read_label(np.array([2]), 3), read_label([0, 0, 1], 3)
        (2, tensor([0., 0., 1.]))
    """
    if type(label) is int or isinstance(label, np.integer):  # at once: there may be millions
        return _in_range(int(label), num_classes, what)
    if isinstance(label, str) and names:
        return str(label)
    array = _array(label)
    if array is not None and array.dtype == torch.bool:
        raise ValueError(_boolean(what, label))
    if array is not None and not array.is_complex():
        if num_classes == 1 and array.shape == (1,) and bool(array[0] == 1):
            return check_weights(what, array)  # the only label of one class
        if array.numel() == 1 and not array.is_floating_point():
            return _in_range(int(array.item()), num_classes, what)
        wide = array.ndim == 1 and array.numel() > 1
        if wide and num_classes in (None, len(array)):
            return check_weights(what, array)
    hint = ""
    if isinstance(label, str):
        hint = "; give the number of the name in the list of classes"
    elif array is not None and array.is_floating_point() and array.numel() == 1:
        hint = "; if it is a class, convert it to an integer"
    forms = ["a class number", *(["a name"] if names else [])]
    weights = "weights that sum to 1" if num_classes is None else f"{num_classes} weights"
    raise ValueError(f"{what} must be {', '.join(forms)} or {weights}, got {_shown(label)}{hint}.")


def class_number(label: Any) -> int | None:
    """Return the class of a label that has one class; None for any other label.

    Example:
        >>> class_number(3), class_number([0, 1, 0]), class_number([0.5, 0.5]), class_number(True)
        (3, 1, None, None)
    """
    try:
        return class_of(label)
    except ValueError:
        return None


def class_of(label: Any, num_classes: int | None = None, *, what: str = "the label") -> int:
    """Return the class of a label: a number, or that of a one-hot vector; or raise ValueError."""
    number = read_label(label, num_classes, what=what)
    if isinstance(number, torch.Tensor):
        if int((number > 0).sum()) > 1:
            raise ValueError(f"{what} must be of one class, got weights of several.")
        number = int(number.argmax())
    return int(number)


def as_probabilities(
    label: Any, num_classes: int, index: int | None = None, *, what: str | None = None
) -> torch.Tensor:
    """Return one label, hard or soft, as float32 (C,) that sums to 1; errors name its index."""
    if what is None:
        what = "the label" if index is None else f"the label of sample {index}"
    number = read_label(label, num_classes, what=what)
    if isinstance(number, torch.Tensor):
        return number
    return one_hot(torch.tensor(number), num_classes).float()


def labels_of(labels: Any, count: int, batched: bool) -> list[Any]:
    """Return the label of each image.

    The images decide how labels are read: beside one image, integers ``(C,)`` are one-hot, and
    beside a batch of C images, they are class numbers.

    Args:
        labels: one label, or several of them in a list, a tensor or an array.
        count: how many images there are.
        batched: whether they have a leading dimension, as in ``(B, C, H, W)``.

    Raises:
        ValueError: there is another number of labels than of images.
    """
    shape = tuple(getattr(labels, "shape", ()))
    if not batched:
        lone = isinstance(labels, (list, tuple)) and len(labels) == 1
        return [labels[0] if lone or (len(shape) == 2 and shape[0] == 1) else labels]
    # A scalar tensor has a length that raises, and the letters of a word are no labels.
    several = len(shape) > 0 or isinstance(labels, (list, tuple))
    rows = list(labels) if several else [labels]
    if len(rows) != count and count == 1:
        rows = [labels]
    if len(rows) != count:
        raise ValueError(
            f"labels must be one for each image, got {len(rows)} for {count}: pass (image, "
            "label), or (B, C, H, W) images with (B,) labels."
        )
    return rows


def labels_of_list(labels: Any, count: int, num_classes: int) -> list[Any] | None:
    """Return the label of each image of a list; None where one label is that of all.

    Hugging Face's batches are lists: ``{"image": [first, second], "label": [0, 1]}``. Views of one
    image are a list, too, and share a label.

    Raises:
        ValueError: nobody can know whether the labels are class numbers or a one-hot vector.
    """
    listed = isinstance(labels, (list, tuple))
    if not listed and not getattr(labels, "shape", ()):
        return None
    array = _array(labels)  # None for a list of vectors
    weights = array is not None and array.ndim == 1 and array.is_floating_point()
    if len(labels) != count or weights:
        return None
    if not listed and array is not None and array.ndim == 1 and 1 < count == num_classes:
        raise ValueError(
            f"labels of shape ({count},) beside a list of {count} images must be a list of labels, "
            f"for with {num_classes} classes they may also be one label; give labels.tolist()."
        )
    return list(labels)


def _in_range(number: int, num_classes: int | None, what: str) -> int:
    if number < 0 or (num_classes is not None and number >= num_classes):
        rule = "at least 0" if num_classes is None else f"in [0, {num_classes})"
        raise ValueError(f"{what} must be {rule}, got {number}.")
    return number


def _array(label: Any) -> torch.Tensor | None:
    """Return a label as a tensor; None if it holds no numbers."""
    if isinstance(label, (list, tuple)) and any(map(_is_boolean, label)):
        return torch.zeros(len(label), dtype=torch.bool)  # torch takes [True, 0] for integers
    try:
        return as_numbers("label", label)
    except TypeError:
        return None


def _is_boolean(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) is torch.bool


def _boolean(what: str, label: Any) -> str:
    return f"{what} must be numbers, and no booleans, got {_shown(label)}; convert it to integers."


def _shown(label: Any) -> str:
    shape = getattr(label, "shape", None)
    return f"shape {tuple(shape)}" if shape else f"{shown(label):.60}"
