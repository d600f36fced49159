"""Which classes are paired: the sampler of Diff-Mix, and the soft labels of its pairs.

Draws take a ``torch.Generator``; None is torch's global one, as in torchvision's transforms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffaug.arguments import MOST_CLASSES, choice, whole
from diffaug.checked import checked
from diffaug.labels.label import (
    as_numbers,
    check_classes,
    class_of,
    soft_label,
    target_weight,
)
from diffaug.seeds import derive_seed

PAIRINGS = ("uniform", "other", "same", "tail")


@dataclass(frozen=True)
class ClassPairs:
    """Pairs of classes, and the label of an image between them.

    Args:
        source: ``(B,)`` class numbers of the images that are translated.
        target: ``(B,)`` class numbers that they are translated to.
        strength: ``(B,)`` in [0, 1].
        weight: ``(B,)`` the weight of the target in the label.
        soft_labels: ``(B, C)`` float32, each row summing to 1.
    """

    source: torch.Tensor
    target: torch.Tensor
    strength: torch.Tensor
    weight: torch.Tensor
    soft_labels: torch.Tensor


@checked
class ClassPairSampler:
    """Draw target classes for source classes, and the soft labels in between.

    Args:
        num_classes: C.
        strategy: how targets are drawn: ``"uniform"`` over all classes, the source's own among them
            (the paper's), ``"other"`` (uniform over the others), ``"same"`` (the source's own),
            ``"tail"`` (weight ``1 / (n_c + 1)``, for long tails; needs ``class_counts``), or a
            ``(C, C)`` matrix of weights, a row for each source class.
        class_counts: ``(C,)`` images of each class, for long tails; see :func:`class_counts`. The
            sources of a whole set are then drawn by image, and not by class.
        targets: the class numbers that a target may have, such as those of the classes that the
            model knows; None for all. Sources may be of any class.

    Raises:
        ValueError: the strategy is unknown, ``"other"`` has one class only, weights or counts do
            not fit, or a source class has no target.

    Example:
        >>> import torch
        >>> from diffaug import ClassPairSampler
        >>> sampler = ClassPairSampler(3, strategy="other")
        >>> pairs = sampler(torch.tensor([0, 1, 2]), strength=0.7, gamma=0.5)
        >>> bool((pairs.source != pairs.target).all()), pairs.soft_labels.sum(1)
        (True, tensor([1., 1., 1.]))

    Reference:
        Wang et al., Diff-Mix, CVPR 2024, arXiv 2403.19600, section 3.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        strategy: str | torch.Tensor | np.ndarray | Sequence[Sequence[float]] = "uniform",
        class_counts: torch.Tensor | Sequence[int] | None = None,
        targets: torch.Tensor | Sequence[int] | None = None,
    ) -> None:
        self.num_classes = whole("num_classes", num_classes, 1, MOST_CLASSES)
        self.class_counts = None if class_counts is None else self._counts(class_counts)
        self.weights: torch.Tensor | None = None
        if isinstance(strategy, str):
            strategy = choice("strategy", strategy, PAIRINGS, also=" or a matrix of weights")
            if strategy == "other" and self.num_classes < 2:
                raise ValueError("'strategy' other needs at least 2 classes, got 1.")
            if strategy == "tail" and self.class_counts is None:
                raise ValueError(
                    "'strategy' tail needs 'class_counts'; count them with class_counts(dataset)."
                )
            self.strategy = strategy
        else:
            self.strategy, self.weights = "weights", self._matrix(strategy)
        self.allowed = None if targets is None else self._allowed(targets)

    def _allowed(self, targets: Any) -> torch.Tensor:
        """Return which classes (C,) may be targets; each source class must have one of them."""
        numbers = as_numbers("targets", targets)
        if numbers.ndim != 1 or not len(numbers):
            raise ValueError(f"'targets' must be class numbers, at least one, got {targets!r}.")
        check_classes("targets", numbers, self.num_classes)
        if self.strategy == "same":
            raise ValueError(
                "'targets' must not be given with strategy same, whose targets are the sources; "
                "leave out the images of the other classes."
            )
        allowed = torch.zeros(self.num_classes, dtype=torch.bool)
        allowed[numbers.long()] = True
        stuck = torch.zeros_like(allowed)
        if self.strategy == "other" and int(allowed.sum()) == 1:
            stuck = allowed
        if self.weights is not None:
            stuck = ~((self.weights > 0) & allowed).any(1)
        if bool(stuck.any()):
            raise ValueError(
                f"'targets' must leave each class a target, got {_numbers(allowed)}, and class "
                f"{_numbers(stuck)[0]} has none; name more classes."
            )
        return allowed

    def _counts(self, counts: Any) -> torch.Tensor:
        counted = as_numbers("class_counts", counts)
        if counted.shape != (self.num_classes,):
            raise ValueError(
                f"'class_counts' must have one number for each of {self.num_classes} classes, got "
                f"shape {tuple(counted.shape)}."
            )
        if counted.is_floating_point() or counted.dtype == torch.bool:
            raise TypeError(f"'class_counts' must hold integers, got {counted.dtype}.")
        if bool((counted < 0).any()):
            raise ValueError(f"'class_counts' must be at least 0, got {counted.min().item()}.")
        if not bool(counted.any()):
            raise ValueError("'class_counts' must count at least one image, got none.")
        return counted.long()

    def _matrix(self, weights: Any) -> torch.Tensor:
        matrix = as_numbers("strategy", weights).double()
        shape = (self.num_classes, self.num_classes)
        if matrix.shape != shape:
            raise ValueError(
                f"'strategy' must be a {shape} matrix of weights, got shape {tuple(matrix.shape)}."
            )
        valid = bool(((matrix >= 0) & matrix.isfinite()).all())
        if not valid or not bool((matrix.sum(1) > 0).all()):
            raise ValueError(
                "'strategy' must hold weights of at least 0, some of them positive in each row."
            )
        return matrix

    def _classes(self, source: Any) -> torch.Tensor:
        """Return class numbers, of which each may be (1,) or one-hot, as int64."""
        numbers = as_numbers("source", source)
        if numbers.ndim == 2:
            rows = [
                class_of(row, self.num_classes, what=f"'source' of sample {index}")
                for index, row in enumerate(numbers)
            ]
            return torch.tensor(rows, dtype=torch.long)
        check_classes("source", numbers, self.num_classes)
        return numbers.long()

    def __repr__(self) -> str:
        among = "" if self.allowed is None else f", targets={_numbers(self.allowed)}"
        return f"ClassPairSampler({self.num_classes}, strategy={self.strategy!r}{among})"

    @property
    def fingerprint(self) -> str:
        """Identify how classes are paired, in a set's ``run.json``."""
        numbers = [
            None if tensor is None else tensor.tolist()
            for tensor in (self.class_counts, self.weights)
        ]
        if self.allowed is not None:
            numbers.append(_numbers(self.allowed))
        return f"{self.strategy} of {self.num_classes}, {derive_seed(*numbers):x}"

    @checked
    def targets(
        self, source: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Draw a target class ``(B,)`` for each source class ``(B,)``."""
        source = self._classes(source)
        shape, classes = source.shape, self.num_classes
        if self.strategy == "same":
            return source.clone()
        if self.allowed is None and self.strategy == "uniform":
            return torch.randint(classes, shape, generator=generator)
        if self.allowed is None and self.strategy == "other":
            drawn = torch.randint(classes - 1, shape, generator=generator)
            return drawn + (drawn >= source)
        return _draw(self._rows(source), generator)

    def _rows(self, source: torch.Tensor) -> torch.Tensor:
        """Return the weights (B, C) of the targets of source classes (B,)."""
        if self.weights is not None:
            rows = self.weights[source]
        elif self.strategy == "tail":
            rows = long_tail_weights(self.class_counts).expand(len(source), -1)
        else:
            rows = torch.ones(len(source), self.num_classes, dtype=torch.float64)
            if self.strategy == "other":
                rows[torch.arange(len(source)), source] = 0
        return rows if self.allowed is None else rows * self.allowed

    @checked
    def __call__(
        self,
        source: torch.Tensor,
        strength: float | torch.Tensor,
        *,
        gamma: float,
        generator: torch.Generator | None = None,
    ) -> ClassPairs:
        """Draw a pair for each source class.

        Args:
            source: ``(B,)`` or ``(B, 1)`` class numbers, or ``(B, C)`` one-hot.
            strength: in [0, 1], a number or ``(B,)``.
            gamma: as in :func:`soft_label`.
            generator: None for torch's global one.
        """
        source = self._classes(source)
        if source.ndim != 1:
            raise ValueError(f"'source' must have shape (B,), got {tuple(source.shape)}.")
        strengths = as_numbers("strength", strength).float()
        if strengths.shape not in ((), source.shape):
            raise ValueError(
                f"'strength' must be a number or one for each of {len(source)} sources, got shape "
                f"{tuple(strengths.shape)}."
            )
        strengths = strengths.expand(source.shape)
        weight = target_weight(strengths, gamma)
        target = self.targets(source, generator)
        labels = soft_label(source, target, strengths, gamma, self.num_classes)
        return ClassPairs(source, target, strengths, weight, labels)

    @checked
    def plan(
        self,
        n: int,
        strength: float | torch.Tensor,
        *,
        gamma: float,
        generator: torch.Generator | None = None,
    ) -> ClassPairs:
        """Draw ``n`` pairs, the source classes too: by class, or by image if counts are known.

        Example:
            >>> from diffaug import ClassPairSampler
            >>> ClassPairSampler(10).plan(50, strength=0.7, gamma=0.5).soft_labels.shape
            torch.Size([50, 10])
        """
        n = whole("n", n, 0, 10**8)
        if self.class_counts is None:
            source = torch.randint(self.num_classes, (n,), generator=generator)
        else:
            source = _draw(self.class_counts.double().expand(n, -1), generator)
        return self(source, strength, gamma=gamma, generator=generator)


def long_tail_weights(counts: Any) -> torch.Tensor:
    """Return the weights ``1 / (n_c + 1)`` that draw rare classes more often, float64 ``(C,)``."""
    return 1 / (torch.as_tensor(counts).double() + 1)


def _numbers(allowed: torch.Tensor) -> list[int]:
    return allowed.nonzero()[:, 0].tolist()


def _draw(rows: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Draw a column ``(B,)`` of each row of weights (B, C)."""
    if not len(rows):
        return torch.zeros(0, dtype=torch.long)
    return torch.multinomial(rows, 1, generator=generator)[:, 0]
