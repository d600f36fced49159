"""The strategies and settings published with Diff-Mix, as data, and the strengths to draw from."""

import logging
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args, get_type_hints

import numpy as np
import torch

from diffaug.arguments import choice, same_name, unit, unit_range
from diffaug.backends.presets import name_of
from diffaug.backends.spec import ModelSpec

_log = logging.getLogger("diffaug")


class Strategy(NamedTuple):
    """How the published strategies differ.

    Args:
        model: which fine-tuned parts are used: all of them (``"all"``), the learned embeddings
            alone (``"embeddings"``), or none (``"none"``: class names are words).
        target: ``"any"`` class, as ``pairs`` says, or the image's ``"own"``.
        start: translate the ``"image"``, or make a new one from ``"text"``.
    """

    model: Literal["all", "embeddings", "none"]
    target: Literal["any", "own"]
    start: Literal["image", "text"]

    def __str__(self) -> str:
        """Show a published strategy by its name."""
        return next((name for name, known in STRATEGIES.items() if known == self), repr(self))


#: The eight strategies that Diff-Mix (arXiv 2403.19600) compares, by name. ``real-aug`` is Real
#: Guidance (2210.07574), ``ti-aug`` the generator of DA-Fusion (2302.07944).
STRATEGIES: dict[str, Strategy] = {
    "diff-mix": Strategy("all", "any", "image"),
    "diff-aug": Strategy("all", "own", "image"),
    "diff-gen": Strategy("all", "any", "text"),
    "real-mix": Strategy("none", "any", "image"),
    "real-aug": Strategy("none", "own", "image"),
    "real-gen": Strategy("none", "any", "text"),
    "ti-mix": Strategy("embeddings", "any", "image"),
    "ti-aug": Strategy("embeddings", "own", "image"),
}

#: The strengths that the published uniform pools were made at.
UNIFORM_STRENGTHS = (0.3, 0.5, 0.7, 0.9)

#: The authors' settings by situation; ``p`` of few shots is by images of a class.
SETTINGS: dict[str, dict[str, Any]] = {
    "full-shot": {"strength": 0.7, "gamma": 0.8, "p": 0.1, "pool": 5},
    "few-shot": {"strength": (0.7, 0.9), "gamma": 0.5, "pool": 5},
    "long-tail": {"strength": 0.7, "gamma": 0.5, "p": 0.3, "pool": 10},
}
#: How far the strength that a model runs, in whole steps, may be from a number that was given.
TOLERANCE = 0.05
FEW_SHOT_P = {1: 0.5, 5: 0.3, 10: 0.1}
#: The largest share of translated images that the authors' results support. They trained on CUB, 5
#: images a class (arXiv 2403.19600): a share of 0.5 gave an accuracy of 57.9 %, of 1 36.7 %.
LARGEST_P = 0.5


@dataclass(frozen=True)
class Strengths:
    """The strengths to draw from: several, or all within a range."""

    values: tuple[float, ...]
    is_range: bool = False

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a number, a list of numbers, a range ``(low, high)`` or ``"uniform"``."""
        if isinstance(value, (np.ndarray, torch.Tensor)):
            value = value.tolist()
        if isinstance(value, (str, set, frozenset)):
            if same_name(value, ["uniform"]):
                return cls(UNIFORM_STRENGTHS)
            raise ValueError(
                f"'strength' must be a number, a list, a range (low, high) or 'uniform', "
                f"got {value!r}."
            )
        if isinstance(value, list):
            if not value:
                raise ValueError("'strength' must hold at least one number, got none.")
            return cls(tuple(unit("strength", number) for number in value))
        low, high = unit_range("strength", value)
        return cls((low,)) if low == high else cls((low, high), is_range=True)

    @classmethod
    def of(cls, strategy: Strategy, value: Any) -> Self:
        """Read the strengths for a strategy; None is 0.7, or 1 for images from text alone."""
        if strategy.start == "image":
            return cls.parse(0.7 if value is None else value)
        whole_way = cls.parse(1.0)  # nothing is left of a source
        if value is not None and cls.parse(value) != whole_way:
            raise ValueError(
                f"'strength' must not be given with strategy {strategy}, which makes images from "
                f"text alone and gives them the label of the target, got {value!r}."
            )
        return whole_way

    def runs(self, drawn: float, spec: ModelSpec | None) -> float:
        """Return the strength for the model and the label: the one that really runs.

        A model runs whole steps: four of them at 0.7 are two, the picture of 0.5. What is drawn
        from a range becomes what runs; a number that is given stays if it is within ``TOLERANCE``.
        """
        if spec is None:
            return drawn
        real = spec.real_strength(drawn)
        near = abs(real - drawn) <= TOLERANCE + 1e-9
        return drawn if near and not self.is_range else real

    def say(self, spec: ModelSpec) -> None:
        """Log which of the strengths given a model runs as others."""
        if self.is_range:
            return
        model, real = name_of(spec.model), [self.runs(value, spec) for value in self.values]
        if moved := [
            f"{value:g} as {other:.3g}"
            for value, other in zip(self.values, real, strict=True)
            if other != value
        ]:
            grid = sorted({spec.real_strength(n / 1000) for n in range(1, 1001)})
            few = ", ".join(f"{value:.3g}" for value in grid) if len(grid) <= 12 else "more"
            _log.warning(
                "'%s' runs whole steps, here %d: of 'strength' it runs %s, and labels follow; it "
                "can run %s.",
                *(model, spec.steps, " and ".join(moved), few),
            )
        elif len({spec.real_strength(value) for value in self.values}) < len(set(self.values)):
            _log.warning(
                "'%s' runs some of 'strength' %s alike, in %d steps.", model, self, spec.steps
            )

    def __str__(self) -> str:
        """Show them as the argument is written."""
        if len(self.values) == 1:
            return str(self.values[0])
        return str(self.values if self.is_range else list(self.values))

    def draw(self, generator: torch.Generator) -> float:
        """Draw one strength."""
        if not self.is_range:
            return self.values[int(torch.randint(len(self.values), (), generator=generator))]
        low, high = self.values
        share = torch.rand((), generator=generator, dtype=torch.float64).item()
        return low + (high - low) * share


def warn_of_large_p(p: float, extreme: str, stacklevel: int) -> None:
    """Warn if ``p`` is so large that the authors lost accuracy; ``extreme`` says what 1 means."""
    if p > LARGEST_P:
        warnings.warn(
            f"'p' is {p}: above {LARGEST_P} the authors of Diff-Mix lost accuracy, down to 37 % "
            f"from 58 % {extreme}.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def find_strategy(strategy: Any) -> Strategy:
    """Return the strategy of a name; a :class:`Strategy` comes back checked."""
    if isinstance(strategy, Strategy):
        for name, kinds in get_type_hints(Strategy).items():
            if getattr(strategy, name) not in get_args(kinds):
                raise ValueError(
                    f"'{name}' of a Strategy must be one of {', '.join(get_args(kinds))}, got "
                    f"{getattr(strategy, name)!r}."
                )
        return strategy
    return STRATEGIES[choice("strategy", strategy, STRATEGIES)]
