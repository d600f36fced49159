"""What a comparison found: a row for each arm, the verdict on the base, and the advice."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffaug.files import write_whole

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


@dataclass(frozen=True)
class Comparison:
    """Say which arm helps a classifier, and whether the base model knows the classes.

    Args:
        rows: one per arm, and per number of shots if there are several.
        advice: one sentence, which follows from the intervals.
        known: whether the base model knows each class; None where this cannot be judged; empty
            without a probe.
        method: how the intervals were computed.
        probe: the figures behind the verdict, by class.
        settings: what was compared, and on what.
        trained, found: how many classifiers this call trained, and how many were there.
        made: how many images this call generated.
    """

    rows: tuple[Row, ...]
    advice: str
    known: Mapping[str, bool | None] = field(default_factory=dict)
    probe: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    trained: int = 0
    found: int = 0
    made: int = 0

    def row(self, arm: str, shots: int | None = None) -> Row:
        """Return the row of an arm, with so many shots if there are several numbers of them."""
        found = [r for r in self.rows if r.arm == arm and shots in (None, r.shots)]
        if not found:
            raise KeyError(f"there is no row of the arm {arm!r} with shots={shots}.")
        return found[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        write_whole(Path(path).expanduser(), text.encode())

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the accuracy of each arm with its interval, as PNG."""
        from diffaug.comparison.chart import chart
        from diffaug.previews.drawing import write_picture

        write_picture(path, chart(self))
