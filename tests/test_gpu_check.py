"""The check for GPUs is rehearsed on the CPU, on tiny shapes: whatever fails there is its own."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module


def rehearse(folder, *sections):
    """Run sections as a user does; return what was printed and what was kept."""
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "gpu_check.py", "--out", folder),
            *("--work", folder / "work", "--only", *sections),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "gpu_check.json").read_text())


def test_sections_pass_and_add_up_over_calls(tmp_path):
    printed, _ = rehearse(tmp_path, "machine", "tensors", "parts")
    assert "PASS an image has one key wherever it lies" in printed
    printed, results = rehearse(tmp_path, "memory")
    assert "PASS a chosen batch size fits, 32 px  batch_size=8" in printed
    for card in ("8 GB", "6 GB, offloaded"):
        assert f"PASS batches of 8 on a card of {card}  images=24" in printed
    assert "peak memory, batch 8  gb=0.0  goal=6" in printed  # of a GPU, which is not there
    assert "machine" not in printed.split()
    assert ["machine", "tensors", "parts", "memory"] == list(results["sections"])
    assert "cpu" == results["machine"]["device"]
    for section in results["sections"].values():
        assert section["finished"] and section["rows"]
        assert not [row["check"] for row in section["rows"] if row["ok"] is False]


@pytest.mark.slow
def test_every_section_passes(tmp_path):
    sections = ["graphs", "speed", "same", "tuning", "works", "processes", "compiled"]
    _, results = rehearse(tmp_path, *sections)
    assert sections == list(results["sections"])
    checks = [row["check"] for row in results["sections"]["speed"]["rows"]]
    for how in ("", " at equal steps"):
        assert f"shipped defaults beside the released loop{how}, 32 px" in checks


def test_what_is_short_of_a_goal_fails(benchmark, tmp_path):
    models, speed = benchmark("gpu_models"), benchmark("gpu_speed")
    report = models.Report(tmp_path, 60, {})
    released = {(256, speed.RELEASED_STEPS): 0.5, (256, speed.STEPS): 2.0}
    for rate in (19.0, 21.0):
        with report.section(f"{rate} images/s"):
            speed.judge_speed(report, 256, rate, released)
    judged = [[row["ok"] for row in part["rows"]] for part in report.results["sections"].values()]
    assert [[True, False], [True, True]] == judged
    assert ["shipped defaults beside the released loop at equal steps, 256 px"] == report.failed


def test_a_section_that_fails_is_reported_and_the_others_run(benchmark, tmp_path, monkeypatch):
    check = benchmark("gpu_check")

    def fail(report, work):
        report.add("half of it", True)
        raise RuntimeError("broken")

    monkeypatch.setitem(check.SECTIONS, "same", fail)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    assert 1 == check.main(["--out", str(tmp_path), "--only", "same", "machine"])
    sections = json.loads((tmp_path / "gpu_check.json").read_text())["sections"]
    assert [True, False] == [row["ok"] for row in sections["same"]["rows"]]
    assert "RuntimeError: broken" == sections["same"]["rows"][1]["figures"]["error"]
    assert sections["machine"]["finished"]


def test_no_section_begins_when_the_time_is_over(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    check = benchmark("gpu_check")
    assert 0 == check.main(["--out", str(tmp_path), "--only", "speed", "--seconds", "0"])
    sections = json.loads((tmp_path / "gpu_check.json").read_text())["sections"]
    [row] = sections["speed"]["rows"]
    assert {"skipped": "no time is left"} == row["figures"]


def test_the_table_copes_with_missing_sections(benchmark):
    tables = benchmark("tables")
    machine = {"device": "A Card", "torch": "2.11"}
    assert "On A Card; torch 2.11." == tables.gpu({"machine": machine, "sections": {}})
    rows = [
        {"check": "edit", "ok": None, "figures": {"images_per_s": 7.5, "peak_gb": 6}},
        {"check": "goal", "ok": False, "figures": {"times": 9}},
    ]
    table = tables.gpu(
        {"machine": machine, "sections": {"speed": {"finished": False, "rows": rows}}}
    )
    assert "| edit | 7.5 |" in table and table.count("| 6 |") == 1
    assert "| speed | 0 | 1 | cut off |" in table
    assert "| speed | goal | **no** | times 9 |" in table


def test_the_work_around_a_free_model_is_timed_beside_that_of_other_versions(tmp_path):
    out = tmp_path / "overhead.json"
    script = [sys.executable, BENCHMARKS / "overhead.py", "--out", out, "--label", "now"]
    short = ["--sizes", "64", "--repeats", "2", "--rounds", "1"]
    other = ["--beside", f"before={BENCHMARKS.parents[1]}"]
    done = subprocess.run([*script, *short, *other], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    versions = json.loads(out.read_text())["versions"]
    assert ["before", "now"] == list(versions)
    [[before], [now]] = versions.values()
    assert 64 == now["size"] and now["ms_a_batch"] > 0 and len(now["images"]) == 16
    assert before["images"] == now["images"]
    parts = now["made_of"]
    # Samples of so short a run may miss any one part.
    assert len(parts) > 1 and abs(sum(parts.values()) - now["ms_a_batch"]) < 1
