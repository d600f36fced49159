"""Sum up the units of `fewshot.py`: means over seeds, and paired differences with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffaug.comparison.advice import advise, on_passes
from diffaug.comparison.intervals import Marks
from diffaug.comparison.rows import Row
from diffaug.comparison.training import passes


def _array(bits: str) -> np.ndarray:
    return np.frombuffer(bits.encode(), dtype=np.uint8).astype(np.float64) - ord("0")


def summary(units: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each slice what its arms reached, over the seeds that are done."""
    by_slice: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for unit in units:
        by_slice[unit["slice"]].append(unit)
    return {name: _slice(name, parts) for name, parts in by_slice.items()}


def _slice(name: str, units: list[Mapping[str, Any]]) -> dict[str, Any]:
    units = sorted(units, key=lambda unit: unit["seed"])
    names = [arm for arm in units[0]["rows"] if all(arm in unit["rows"] for unit in units)]
    marks = _marks(units, names, lambda row: row["right"])
    rows = {}
    # A stop leaves some arms with fewer seeds: each arm is compared over the seeds that it has.
    for arm in dict.fromkeys(arm for unit in units for arm in unit["rows"]):
        own = [unit for unit in units if arm in unit["rows"]]
        beside = [other for other in own[0]["rows"] if all(other in u["rows"] for u in own)]
        rows[arm] = _row(arm, own, _marks(own, beside, lambda row: row["right"]))
        for attack in own[0]["rows"][arm].get("attacked", {}):
            hit = [n for n in beside if all("attacked" in unit["rows"][n] for unit in own)]
            under = _marks(own, hit, lambda row, attack=attack: row["attacked"][attack])
            rows[arm].setdefault("attacked", {})[attack] = _figures(arm, under)
    first = units[0]
    shown = comparison_rows({name: rows[name] for name in names}, first["shots"])
    often = passes(first["steps"], None, first["train_images"])
    pairs = {(a, b): marks.difference(a, b) for a in names for b in names if a != b}
    return {
        "name": name,
        **{key: first[key] for key in ("setting", "shots", "classifier", "tune_steps")},
        "seeds": [unit["seed"] for unit in units],
        "train_images": first["train_images"],
        "test_images": len(first["labels"]),
        "tuning_minutes": float(np.mean([unit["tuning_seconds"] for unit in units]) / 60),
        "steps": first["steps"],
        "guidance": first["guidance"],
        "advice": " ".join(
            filter(None, (advise(shown, pairs, {}, generating(names)), on_passes([often])))
        ),
        "passes": often,
        "best": _best({name: rows[name] for name in names}, marks),
        "machines": sorted({row["on"] for unit in units for row in unit["rows"].values()}),
        "rows": rows,
    }


def generating(names: Sequence[str]) -> set[str]:
    """Return the names of the arms that generate images."""
    words = ("real-", "diff-", "diffusemix", "edit")
    return {name for name in names if name.startswith(words)}


def comparison_rows(rows: Mapping[str, Mapping[str, Any]], shots: int | None) -> list[Row]:
    """Return rows as `diffaug.compare` has them, for its advice and its chart."""
    keys = ("mean", "interval", "difference", "difference_interval", "simultaneous")
    return [
        Row(arm, shots, (), **{key: row[key] for key in keys if key in row})
        for arm, row in rows.items()
    ]


def _best(rows: Mapping[str, Mapping[str, Any]], marks: Marks) -> dict[str, Any] | None:
    """Compare the best arm that generates with the best one that does not."""
    makes = generating(list(rows))
    if not makes or len(makes) == len(rows):
        return None
    one, other = (
        max(some, key=lambda name: rows[name]["mean"]) for some in (makes, set(rows) - makes)
    )
    found = marks.difference(one, other)
    return {
        "generating": one,
        "other": other,
        "difference": found.mean,
        "difference_interval": list(found.interval()),
    }


def _marks(units: list[Mapping[str, Any]], names: list[str], bits: Any) -> Marks:
    return Marks({arm: [_array(bits(unit["rows"][arm])) for unit in units] for arm in names}, True)


def _figures(arm: str, marks: Marks) -> dict[str, Any]:
    """Return the mean of an arm, and how far it is from `none` for the same seeds and images."""
    mean = marks.mean(arm)
    figures: dict[str, Any] = {"mean": mean.mean, "interval": list(mean.interval())}
    if arm == "none":
        return figures | {"difference": 0.0, "difference_interval": [0.0, 0.0]}
    found = marks.difference(arm, "none")
    return figures | {
        "difference": found.mean,
        "difference_interval": list(found.interval()),
        "simultaneous": list(found.interval(len(marks.right) - 1)),
    }


def _row(arm: str, units: list[Mapping[str, Any]], marks: Marks) -> dict[str, Any]:
    runs = [unit["rows"][arm] for unit in units]
    labels, classes = np.array(units[0]["labels"]), units[0]["classes"]
    right = np.mean([_array(run["right"]) for run in runs], 0)
    base = np.mean([_array(unit["rows"]["none"]["right"]) for unit in units], 0)
    means = {
        key: float(np.mean([run[key] for run in runs]))
        for key in ("generated", "generation_seconds", "training_seconds", "bytes")
        if all(key in run for run in runs)
    }
    return {
        **_figures(arm, marks),
        "seeds": [unit["seed"] for unit in units],
        "machines": sorted({run["on"] for run in runs}),
        "accuracies": [float(run.mean()) for run in marks.right[arm]],
        "recall": {n: float(right[labels == k].mean()) for k, n in enumerate(classes)},
        "recall_change": {
            n: float((right - base)[labels == k].mean()) for k, n in enumerate(classes)
        },
        **means,
    }
