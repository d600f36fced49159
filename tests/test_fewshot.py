"""The few-shot benchmark runs, resumes, sums up, and attacks what it trained."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from PIL import Image
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import fewshot  # noqa: E402
import fewshot_data  # noqa: E402
import fewshot_pages  # noqa: E402
import fewshot_robust  # noqa: E402
import fewshot_tables  # noqa: E402
from fewshot_plan import Slice, Unit, arms, plan  # noqa: E402

pyarrow = pytest.importorskip("pyarrow")

KNOWN, NEW = ("CD player", "bee", "bison"), ("brown bear", "ice cream", "obelisk")
COLOURS = dict(zip(KNOWN + NEW, [(200, 30, 30), (30, 200, 30), (30, 30, 200)] * 2, strict=True))


def write_parquet(path, numbers, classes=KNOWN + NEW):
    import pyarrow.parquet

    rows = []
    for number in numbers:
        for name in classes:
            file = io.BytesIO()
            colour = tuple(channel + number for channel in COLOURS[name])
            Image.new("RGB", (64, 64), colour).save(file, "JPEG")
            rows.append({"image": {"bytes": file.getvalue(), "path": None}, "label": name})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    return (
        write_parquet(folder / "train.parquet", range(6)),
        write_parquet(folder / "test.parquet", range(10, 12)),
    )


def command(parquet, work, *more):
    train, test = parquet
    models = ("--base", tiny_pipelines.model_folder("translate"),
              "--editor", tiny_pipelines.model_folder("edit"))  # fmt: skip
    every = ("--train", train, "--test", test, "--work", work, *models, "--steps", 2)
    return [str(part) for part in (*every, "--tune-steps", 1, *more)]


def test_each_setting_has_its_own_classes_and_the_long_tail_falls(parquet, tmp_path):
    train, test = parquet
    classes = fewshot_data.write_folders([train], [test], tmp_path)
    assert sorted(KNOWN) == classes["drawn"] == classes["seen"]
    assert sorted(NEW) == classes["new"] == classes["tail"]
    assert sorted(KNOWN + NEW) == classes["mixed"]
    assert 6 == len(list((tmp_path / "drawn" / "train" / "bee").iterdir()))
    assert 2 == len(list((tmp_path / "new" / "test" / "obelisk").iterdir()))
    counts = sorted(fewshot_data.tail_counts(NEW).values())
    assert [5, 22, 100] == counts
    tail = {f.name: len(list(f.iterdir())) for f in (tmp_path / "tail" / "train").iterdir()}
    assert {name: min(6, count) for name, count in fewshot_data.tail_counts(NEW).items()} == tail


def test_what_is_packed_gives_the_same_folders(parquet, tmp_path):
    train, test = parquet
    fewshot_data.pack([train], [test], tmp_path / "packed")
    packed = [[tmp_path / "packed" / f"{part}.parquet"] for part in ("train", "test")]
    for name, files in (("all", ([train], [test])), ("few", packed)):
        fewshot_data.write_folders(*files, tmp_path / name)
    everything, few = (
        {str(f.relative_to(tmp_path / n)): f.read_bytes() for f in (tmp_path / n).rglob("*.jpg")}
        for n in ("all", "few")
    )
    assert everything and everything == few


@pytest.mark.parametrize("size", ["quick", "cpu", "gpu"])
def test_no_two_slices_of_a_plan_share_a_name_and_all_have_a_baseline(size):
    slices = plan({name: ["a", "b"] for name in fewshot_data.SETTINGS}, size)
    assert len(slices) == len({part.name for part in slices})
    assert all("none" in {arm.name for arm in part.arms} for part in slices)
    units = list(fewshot.units_of(slices))
    first = sum(part.seeds for part in slices)
    assert all(unit.seed < unit.slice.seeds for unit in units[:first])
    assert first + sum(part.more for part in slices) == len({unit.name for unit in units})


def test_a_unit_writes_which_test_images_each_classifier_named_rightly(parquet, tmp_path):
    train, test = parquet
    fewshot_data.write_folders([train], [test], tmp_path)
    part = Slice(
        "few", "new", arms("none", "diff-mix"), shots=2, robust=True,
        filters={"diff-mix, best half": "half"},
    )  # fmt: skip
    models = (str(tiny_pipelines.model_folder(task)) for task in ("translate", "edit"))
    run = fewshot.Run(tmp_path, *models, "cpu", steps=2, per_image=1, tune=1, batch=4)
    assert not run.is_done(Unit(part, 0))
    fewshot.do(Unit(part, 0), run)
    assert run.is_done(Unit(part, 0))
    found = json.loads(run.result(Unit(part, 0)).read_text())
    assert ["none", "diff-mix", "diff-mix, best half"] == list(found["rows"])
    assert all(6 == len(row["right"]) for row in found["rows"].values())
    assert [0, 0, 1, 1, 2, 2] == found["labels"] and 6 == found["train_images"]
    assert 6 == found["rows"]["diff-mix"]["generated"]
    assert 6 == len(found["rows"]["diff-mix"]["attacked"]["fgsm 4/255"])
    # A filter that comes to a unit later needs the model that its images were made by.
    more = replace(part, filters={**part.filters, "diff-mix, weighted": "weights"})
    fewshot.do(Unit(more, 0), run)
    assert "diff-mix, weighted" in json.loads(run.result(Unit(part, 0)).read_text())["rows"]


def test_a_slice_may_have_its_own_steps_and_guidance(parquet, tmp_path):
    train, test = parquet
    fewshot_data.write_folders([train], [test], tmp_path)
    part = Slice("few", "drawn", arms("none", "real-mix"), shots=2, steps=2)
    models = (str(tiny_pipelines.model_folder(task)) for task in ("translate", "edit"))
    run = fewshot.Run(tmp_path, *models, "cpu", steps=None, per_image=1, tune=1, batch=4)
    own = replace(part, name="few-steps-3-guidance-9", steps=3, guidance=9)
    for unit in (Unit(part, 0), Unit(own, 0)):
        fewshot.do(unit, run)
    plain, other = (json.loads(run.result(Unit(p, 0)).read_text()) for p in (part, own))
    assert [2, 3] == [plain["steps"], other["steps"]]
    assert 9 == other["guidance"] != plain["guidance"]
    folder = tmp_path / "compared" / "drawn"
    assert 4 == len(list((folder / "classifiers").glob("*.safetensors")))  # nothing was shared
    assert 2 == len(list((folder / "sets").iterdir()))


@pytest.mark.slow
def test_the_benchmark_runs_and_a_second_run_does_nothing_again(parquet, tmp_path, monkeypatch):
    only = ("--only", "new-5", "drawn-5-filters")
    figures = fewshot.main(command(parquet, tmp_path, *only, "--collect", tmp_path / "all"))
    assert not figures["failed"]
    assert {"new-5", "drawn-5-filters"} == set(figures["slices"])
    row = figures["slices"]["new-5"]["rows"]["diff-mix"]
    assert 3 == len(row["accuracies"]) and set(NEW) == set(row["recall"])
    assert row["attacked"]["fgsm 2/255"]["difference_interval"]
    assert "real-mix, best half" in figures["slices"]["drawn-5-filters"]["rows"]
    stored = json.loads((tmp_path / "all" / "units.json").read_text())
    assert fewshot_tables.summary(stored) == figures["slices"]

    monkeypatch.setattr(fewshot, "do", lambda unit, run: pytest.fail("done again"))
    assert figures["slices"] == fewshot.main(command(parquet, tmp_path, *only))["slices"]


def unit(seed, **right):
    """Make what a seed of a slice writes, with the test images that each arm named rightly."""
    rows = {name: {"right": bits, "on": f"machine {seed}"} for name, bits in right.items()}
    return {
        "slice": "s", "setting": "new", "shots": 5, "classifier": "scratch", "seed": seed,
        "tune_steps": None, "steps": 2, "guidance": 4.5, "train_images": 10,
        "labels": [0, 0, 1, 1], "classes": ["a", "b"],
        "tuning_seconds": 0.0, "rows": rows,
    }  # fmt: skip


def test_the_same_arms_in_more_steps_stand_beside_the_usual_ones():
    usual = [unit(seed, none="1100", mixup="1110") for seed in range(2)]
    more = [{**unit(0, none="1100", mixup="1111"), "slice": "s-steps-6", "steps": 6}]
    other = [{**unit(0, none="1100", mixup="1111"), "slice": "s-steps-6-tune-9", "steps": 6}]
    found = {"slices": fewshot_tables.summary([*usual, *more, *other])}
    titles, _, none, mixup = fewshot_pages.longer(found).splitlines()
    assert titles == "| table | arm | 2 steps | 6 steps |"
    assert none == "| `s` | none | 50.0 % | 50.0 % |"
    assert mixup.count("+25.0 (") == mixup.count(", 2 seeds") == 1
    assert mixup.count("+50.0 (") == mixup.count(", 1 seed |") == 1
    assert "" == fewshot_pages.longer({"slices": fewshot_tables.summary(usual)})


def test_a_sum_is_over_seeds_and_paired():
    units = [unit(0, none="1000", better="1110"), unit(1, none="0010", better="1011")]
    found = fewshot_tables.summary(units)["s"]
    assert [0, 1] == found["seeds"]
    assert (0.25, 0.75) == tuple(found["rows"][name]["mean"] for name in ("none", "better"))
    assert 0.5 == found["rows"]["better"]["difference"]
    assert {"a": 0.75, "b": 0.75} == found["rows"]["better"]["recall"]
    assert {"a": 0.5, "b": 0.5} == found["rows"]["better"]["recall_change"]
    low, high = found["rows"]["better"]["difference_interval"]
    assert low < 0.5 < high


def test_an_arm_with_fewer_seeds_is_compared_over_the_seeds_that_it_has():
    units = [unit(0, none="1000", late="1100", all="1110"), unit(1, none="0000", all="1000")]
    found = fewshot_tables.summary(units)["s"]
    assert (0.25, [0]) == (found["rows"]["late"]["difference"], found["rows"]["late"]["seeds"])
    assert (0.375, [0, 1]) == (found["rows"]["all"]["difference"], found["rows"]["all"]["seeds"])
    assert ["machine 0", "machine 1"] == found["machines"]


class Brightest(nn.Module):
    """Name the channel that is brightest in the mean."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        return self.gain * images.mean((-1, -2))


def test_an_attack_in_the_gradient_s_direction_fools_where_noise_does_not():
    images = torch.full((3, 3, 16, 16), 100, dtype=torch.uint8)
    images[range(3), range(3)] += 3
    found = fewshot_robust.attacked(Brightest(), images, torch.arange(3))
    assert [True] * 3 == found["pixelated"].tolist() == found["bright"].tolist()
    assert [False] * 3 == found["fgsm 2/255"].tolist() == found["fgsm 4/255"].tolist()


def test_a_corruption_is_the_same_each_time_and_keeps_shape_and_range():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, change in fewshot_robust.CORRUPTIONS.items():
        changed = change(images, 0)
        assert torch.equal(changed, change(images, 0)), name
        assert images.shape == changed.shape and 0 <= changed.min() and changed.max() <= 1
        assert not torch.equal(images, changed), name


def test_units_of_one_seed_share_a_lane():
    slices = plan({"drawn": ["a", "b"]}, "gpu")
    first = {unit.lane for unit in (Unit(part, 0) for part in slices if part.shots == 5)}
    assert {("drawn", 5, 0)} == first
    tail = Slice("tail", "tail", arms("none"), shots=None)
    assert Unit(tail, 0).lane == Unit(tail, 1).lane
