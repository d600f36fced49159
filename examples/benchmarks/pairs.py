"""Timing in pairs: ours and a baseline by turns in one process, so that a busy machine hits both.

A row's ratio says how many times the baseline's speed ours has, one for each repeat.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """One line of the table: what was measured against what, and what was hoped for.

    Args:
        what: ours, in the reader's words.
        against: the baseline, likewise.
        goal: the goal as shown; empty if there is none.
        goal_ratio: the median ratio that meets it.
        ratios: for each repeat, how many times the baseline's speed ours has.
        ours: seconds of each repeat; empty if a baseline was missing.
        baseline: likewise.
        unit: what a second is for: "image", "batch of 32 images", "epoch".
        detail: settings and further figures, plain JSON values.
        most_more: seconds that ours may take more than the baseline; then this is the goal.
    """

    what: str
    against: str
    goal: str
    goal_ratio: float
    ratios: list[float]
    ours: list[float]
    baseline: list[float]
    unit: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    most_more: float | None = None

    @property
    def ratio(self) -> float:
        """Median ratio; not a number if nothing was measured."""
        return quartiles(self.ratios)[1]

    @property
    def ratio_quartiles(self) -> tuple[float, float, float]:
        return quartiles(self.ratios)

    @property
    def ours_quartiles(self) -> tuple[float, float, float]:
        return quartiles(self.ours)

    @property
    def baseline_quartiles(self) -> tuple[float, float, float]:
        return quartiles(self.baseline)

    @property
    def more_quartiles(self) -> tuple[float, float, float]:
        """Seconds that ours takes more than the baseline, pair by pair."""
        pairs = zip(self.ours, self.baseline, strict=True)
        return quartiles([ours - baseline for ours, baseline in pairs])

    @property
    def more(self) -> float:
        """Median seconds that ours takes more than the baseline."""
        return self.more_quartiles[1]

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or without a measurement."""
        if not self.goal or not self.ratios:
            return None
        if self.most_more is not None:
            return self.more <= self.most_more
        return self.ratio >= self.goal_ratio

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values, quartiles instead of every repeat."""
        measured = {
            name: dict(zip(("lower_quartile", "median", "upper_quartile"), found, strict=True))
            for name, found in [
                ("ratio", self.ratio_quartiles),
                ("ours_seconds", self.ours_quartiles),
                ("baseline_seconds", self.baseline_quartiles),
                *([] if self.most_more is None else [("more_seconds", self.more_quartiles)]),
            ]
        }
        return {
            "what": self.what, "against": self.against, "unit": self.unit, "goal": self.goal,
            "met": self.met, "repeats": len(self.ratios), **(measured if self.ratios else {}),
            "detail": self.detail,
        }  # fmt: skip


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if not values:
        return (float("nan"),) * 3  # type: ignore[return-value]
    if len(values) == 1:
        return (values[0],) * 3  # type: ignore[return-value]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def compare(
    ours: Callable[[], Any],
    baseline: Callable[[], Any],
    repeats: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Time two calls by turns, after one unmeasured call of each; return seconds of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for call, found in zip((ours, baseline), seconds, strict=True):
            start = clock()
            call()
            if repeat:
                found.append(clock() - start)
    return seconds


def paired_row(
    what: str,
    against: str,
    ours: Callable[[], Any],
    baseline: Callable[[], Any],
    repeats: int = 20,
    *,
    goal: str = "",
    goal_ratio: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    **more: Any,
) -> Row:
    """Measure two calls by turns and make the row of it."""
    times = compare(ours, baseline, repeats, clock)
    ratios = [slow / fast for fast, slow in zip(*times, strict=True)]
    return Row(what, against, goal, goal_ratio, ratios, *times, **more)
