"""Soft labels in the form of kornia's mixing transforms, and back."""

import torch

from diffaug.arguments import MOST_CLASSES, whole
from diffaug.labels.label import as_weights, check_weights


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
    labels = check_weights("'labels'", labels)
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
    num_classes = whole("num_classes", num_classes, 1, MOST_CLASSES)
    first, second, lam = labels[:, 0].long(), labels[:, 1].long(), labels[:, 2:].float()
    if not bool(((lam >= 0) & (lam <= 1)).all()):
        raise ValueError("'labels' must hold lam in [0, 1] in its third column.")
    before = as_weights("labels", first, num_classes)
    return (1 - lam) * before + lam * as_weights("labels", second, num_classes)
