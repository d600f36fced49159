"""What a comparison found: a row for each arm, the verdict on the base, and the advice."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffaug.comparison.chart import by_gain, chart
from diffaug.comparison.curves import curves
from diffaug.comparison.rows import Row
from diffaug.files import write_whole
from diffaug.previews.drawing import write_picture


@dataclass(frozen=True)
class Comparison:
    """Say which arm helps a classifier, and whether the base model knows the classes.

    Args:
        rows: one per arm, and per number of shots if there are several.
        advice: a sentence or a few, which follow from the intervals.
        known: whether the base model knows each class; None where this cannot be judged; empty
            without a probe.
        method: how the intervals were computed.
        probe: the figures behind the verdict, by class.
        settings: what was compared, and on what.
        trained, found: how many classifiers this call trained, and how many were there.
        made: how many images this call generated.

    Example:
        >>> from diffaug import Comparison
        >>> Comparison(rows=(), advice="No arm is better.").advice
        'No arm is better.'
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

    def _passes(self) -> dict[int | None, float]:
        """Return how often each photograph came in a training, by the number of shots."""
        settings = self.settings
        return dict(zip(settings.get("shots", ()), settings.get("passes", ()), strict=True))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the accuracy of each arm with its interval, the best ones first, as PNG.

        With several numbers of shots, the accuracy against that number is above it.
        """
        picture = chart(by_gain(self.rows), self.advice)
        if len({row.shots for row in self.rows}) > 1:
            picture = torch.cat([curves(self.rows, self._passes()), picture], 1)
        write_picture(path, picture)
