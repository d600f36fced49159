"""Sum up the units of `fewshot.py`: means over seeds, and paired differences with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffaug.comparison.intervals import Marks

#: Photographs of a class in the long tail: many above the first, few below the last.
MANY, FEW = 50, 20


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
    # A stop leaves some seeds with fewer arms: these are left out, or else the arms that they lack.
    most = max(len(unit["rows"]) for unit in units)
    if (full := [unit for unit in units if len(unit["rows"]) == most]) and len(full) > 1:
        units = full
    names = [arm for arm in units[0]["rows"] if all(arm in unit["rows"] for unit in units)]
    marks = _marks(units, names, lambda row: row["right"])
    rows = {arm: _row(arm, units, marks) for arm in names}
    attacks = units[0]["rows"]["none"].get("attacked", {})
    for attack in attacks:
        under = _marks(units, names, lambda row, attack=attack: row["attacked"][attack])
        for arm in names:
            rows[arm].setdefault("attacked", {})[attack] = _figures(arm, under)
    first = units[0]
    return {
        "name": name,
        **{key: first[key] for key in ("setting", "shots", "classifier", "tune_steps")},
        "seeds": [unit["seed"] for unit in units],
        "train_images": first["train_images"],
        "test_images": len(first["labels"]),
        "tuning_minutes": float(np.mean([unit["tuning_seconds"] for unit in units]) / 60),
        "rows": rows,
    }


def _marks(units: list[Mapping[str, Any]], names: list[str], bits: Any) -> Marks:
    return Marks({arm: [_array(bits(unit["rows"][arm])) for unit in units] for arm in names}, True)


def _figures(arm: str, marks: Marks) -> dict[str, Any]:
    """Return the mean of an arm, and how far it is from `none` for the same seeds and images."""
    if arm == "none":
        return {"mean": marks.mean(arm).mean, "difference": 0.0, "difference_interval": [0.0, 0.0]}
    found = marks.difference(arm, "none")
    return {
        "mean": marks.mean(arm).mean,
        "difference": found.mean,
        "difference_interval": list(found.interval()),
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
        "accuracies": [float(run.mean()) for run in marks.right[arm]],
        "recall": {n: float(right[labels == k].mean()) for k, n in enumerate(classes)},
        "recall_change": {n: float((right - base)[labels == k].mean()) for k, n in enumerate(classes)},
        **means,
    }


def between(found: Mapping[str, Any], units: Sequence[Mapping[str, Any]], one: str, other: str) -> dict[str, Any]:
    """Return the paired difference of two arms of a slice with its 95 % interval."""
    own = sorted((u for u in units if u["slice"] == found["name"]), key=lambda u: u["seed"])
    marks = _marks(own, list(found["rows"]), lambda row: row["right"])
    difference = marks.difference(one, other)
    return {"difference": difference.mean, "interval": list(difference.interval())}
