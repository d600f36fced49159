"""One arm of a comparison, and the trainings behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Interval = tuple[float, float]


@dataclass(frozen=True)
class Training:
    """One classifier, trained and tested.

    Args:
        seed: of the few-shot subset, of the first weights and of every draw.
        fold: which part of the photographs it was tested on; None if there is a test folder.
        accuracy: on the test images, in [0, 1].
        difference: to the classifier ``none`` of the same seed and fold.
        minutes: how long it was trained.
        file: its weights, below the output folder.
    """

    seed: int
    fold: int | None
    accuracy: float
    difference: float
    minutes: float
    file: str


@dataclass(frozen=True)
class Row:
    """One arm.

    Args:
        arm: its name.
        shots: images of each class that it learned from; None for all.
        runs: its classifiers, by seed and fold.
        mean: mean accuracy in [0, 1].
        interval: 95 % interval of the mean.
        difference: mean paired difference to ``none``.
        difference_interval: its 95 % interval.
        simultaneous: its interval for the advice, which holds for all arms at once.
        classes: how much the recall of each class changes, by name.
        generated: how many generated images each classifier could draw from, on average.
        generation_minutes: for all of them; of an earlier call, too.
        training_minutes: for all its classifiers.
        bytes: what its generated images need on disk.
    """

    arm: str
    shots: int | None
    runs: tuple[Training, ...]
    mean: float
    interval: Interval
    difference: float = 0.0
    difference_interval: Interval = (0.0, 0.0)
    simultaneous: Interval = (0.0, 0.0)
    classes: Mapping[str, float] = field(default_factory=dict)
    generated: int = 0
    generation_minutes: float = 0.0
    training_minutes: float = 0.0
    bytes: int = 0

    @property
    def accuracies(self) -> list[float]:
        """The accuracy of each classifier."""
        return [run.accuracy for run in self.runs]
