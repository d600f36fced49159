"""The benchmark of the cheap stages runs, and says what it says in a form that others can read."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import speed

    monkeypatch.setattr(speed, "CALLS", 1)
    return speed


def test_the_cheap_rows_are_measured_printed_and_written(speed, tmp_path, capsys):
    target = tmp_path / "new" / "speed.json"
    command = ["--repeats", "2", "--only", "arithmetic", "fractals", "--out", str(target)]
    rows = speed.main(command)
    groups = json.loads(target.read_text())["groups"]
    assert ["arithmetic", "fractals"] == list(groups)
    for group in groups.values():
        assert {"device", "threads", "versions", "repeats", "rows"} == set(group)
    written = [row for group in groups.values() for row in group["rows"]]
    assert len(rows) == len(written) >= 9
    for row in written:
        assert row["what"] and row["against"] and row["unit"]
        if "missing" not in row["detail"]:
            assert 2 == row["repeats"]
            for measured in ("ratio", "ours_seconds", "baseline_seconds"):
                low, middle, high = row[measured].values()
                assert 0 < low <= middle <= high
    table = capsys.readouterr().out
    assert all(row.what in table and row.goal in table for row in rows)


def test_a_group_takes_the_place_of_its_own_rows_alone(speed, monkeypatch, tmp_path):
    from pairs import Row

    row = Row("a", "b", "at most 1 s more", 0.0, [0.5], [2.0], [1.0], "unit", most_more=1.0)
    monkeypatch.setattr(speed, "GROUPS", dict.fromkeys(("x", "y", "z"), lambda repeats: [row]))
    target = tmp_path / "speed.json"
    speed.main(["--only", "z", "x", "--repeats", "1", "--out", str(target)])
    before = json.loads(target.read_text())["groups"]
    speed.main(["--only", "y", "z", "--repeats", "7", "--out", str(target)])
    after = json.loads(target.read_text())["groups"]
    assert ["x", "y", "z"] == list(after) and before["x"] == after["x"]
    assert [1, 7, 7] == [group["repeats"] for group in after.values()]
    assert 1.0 == after["z"]["rows"][0]["more_seconds"]["median"]


def test_ours_and_the_released_arithmetic_make_the_same_picture(speed):
    row = speed.mix_row(48, soft=True, fractal_size=48, repeats=1, goal=True)
    assert row.detail["largest_difference_in_levels"] <= 1
    assert row.detail["pixels_apart"] < 0.02


@pytest.mark.parametrize("side", ["right", "bottom"])
def test_the_baseline_is_the_published_formula(speed, side):
    levels = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
    mixed = speed.released_mix(*(Image.fromarray(pixels) for pixels in levels), side)
    start = (40 if side == "right" else 30) // 2 - 10
    weight = np.zeros(40 if side == "right" else 30)
    weight[start : start + 20] = np.arange(20) / 19
    weight[start + 20 :] = 1
    weight = weight[None, :, None] if side == "right" else weight[:, None, None]
    image, edited, fractal = levels.astype(float)
    joined = np.floor((1 - weight) * image + weight * edited + 1e-6)
    apart = np.abs(np.asarray(mixed) - np.floor(0.8 * joined + 0.2 * fractal))
    assert apart.max() <= 1 and (apart > 0).mean() < 0.15


def test_a_goal_is_met_by_the_median(speed):
    from pairs import Row

    def row(ours, baseline, **more):
        ratios = [slow / fast for fast, slow in zip(ours, baseline, strict=True)]
        goal = "twice" if ratios else ""
        return Row("a", "b", goal, 2.0, ratios, ours, baseline, **more)

    assert row([1.0, 1.0, 9.0], [2.0, 3.0, 2.0]).met
    assert not row([1.0, 1.0, 1.0], [1.9, 1.9, 9.0]).met
    assert row([1.05, 1.06], [1.0, 1.0], most_more=0.1).met
    assert not row([1.2, 1.3], [1.0, 1.0], most_more=0.1).met
    assert row([], []).met is None


def test_calls_are_timed_by_turns_after_one_unmeasured_call_of_each():
    sys.path.insert(0, str(BENCHMARKS))
    from pairs import compare

    seen = []
    ours, baseline = compare(lambda: seen.append("ours"), lambda: seen.append("baseline"), 3)
    assert ["ours", "baseline"] * 4 == seen
    assert 3 == len(ours) == len(baseline) and min(ours + baseline) > 0
