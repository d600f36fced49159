"""Does it help a classifier? The papers' few-shot setting, small, on photographs of 64 px.

    python examples/benchmarks/fewshot.py --train 'data/*-train*.parquet' \
        --test 'data/*-val.parquet' --work runs/fewshot --json docs/benchmarks/fewshot.json

Two settings are always apart: classes that the base knows, and classes that are new to it. A run
that was stopped resumes. `--quick` takes 20 minutes on two cores, `--minutes 240` keeps the full
plan to four hours of a CPU, and `--gpu` runs it on a GPU in many processes, which is several times
as fast where NVIDIA's MPS is started before (`nvidia-cuda-mps-control -d`). Whatever is done when
the time is over counts; the plan begins with what matters most.

Beware: the base has seen photographs of the classes that it knows, and the classifier has not. That
is the papers' setting, too: Stable Diffusion has seen everything.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from fewshot_data import SETTINGS, files_of, tail_counts, write_folders
from fewshot_filters import filtered
from fewshot_plan import SHARED, Slice, Unit, plan
from fewshot_robust import attacked
from fewshot_tables import summary

from diffaug import compare, finetune
from diffaug.backends.presets import resolve
from diffaug.comparison import pictures
from diffaug.comparison.networks import build
from diffaug.comparison.rows import Row
from diffaug.comparison.split import Photographs, photographs
from diffaug.files import write_whole
from diffaug.folders import class_of

log = logging.getLogger("fewshot")
BACKBONE = Path(__file__).with_name("backbone.safetensors")
SIZE = 64
#: Arms after which a unit writes what is done.
AT_ONCE = 3


@dataclass(frozen=True)
class Run:
    """What all units share.

    Args:
        work: the folder for everything.
        base, editor: models.
        device: of everything.
        steps: of each classifier, if it is to be another number than the plan's.
        per_image: generated images for each photograph.
        tune: steps of fine-tuning, if it is to be another number than the plan's.
        batch: images in one call of a model.
        arms: names of those to do now; none for all.
    """

    work: Path
    base: str
    editor: str
    device: str
    steps: int | None
    per_image: int
    tune: int | None
    batch: int
    arms: tuple[str, ...] = ()

    def is_done(self, unit: Unit) -> bool:
        """Tell whether all arms of a unit were done that are to be done now."""
        file = self.result(unit)
        if not file.is_file():
            return False
        wanted = {arm.name for arm in unit.slice.arms} | set(unit.slice.filters)
        wanted &= {*self.arms, "none"} if self.arms else wanted
        return wanted <= set(json.loads(file.read_text())["rows"])

    def result(self, unit: Unit) -> Path:
        """Return the file that says what came out of a unit."""
        return self.work / "units" / f"{unit.name}.json"


def tuned(run: Run, part: Slice, seed: int) -> Path:
    """Fine-tune the base on the few photographs of a seed, or find where that is done."""
    steps = part.tune if run.tune is None else run.tune
    folder = run.work / "tuned" / f"{part.setting}-{part.shots or 'all'}-{seed}-{steps}"
    finetune(
        run.work / part.setting / "train", folder, base=run.base, shots=part.shots, seed=seed,
        steps=steps, device=run.device, mixed_precision="no", balanced=part.shots is None,
        learning_rate=1e-3, embedding_learning_rate=1e-2,  # a small model takes large steps
    )  # fmt: skip
    return folder


def do(unit: Unit, run: Run) -> str:
    """Generate, train and test one seed of a slice, and write down what each classifier named.

    It writes after every few arms, so what a stop leaves behind is a part of the slice.
    """
    part, seed = unit
    run = replace(run, steps=part.steps if run.steps is None else run.steps)
    started = time.monotonic()
    done = json.loads(run.result(unit).read_text())["rows"] if run.result(unit).is_file() else {}
    others = [arm for arm in part.arms if arm.name not in {"none", *done}]
    others = [arm for arm in others if not run.arms or arm.name in run.arms]
    filters = {name: kind for name, kind in part.filters.items() if name not in done}
    if run.arms:
        filters = {}
    # Filters choose among the images of the last arm.
    learned = any(arm.learned for arm in (*others, *(part.arms[-1:] if filters else ())))
    base = tuned(run, part, seed) if learned else run.base
    tuning = time.monotonic() - started
    backend = replace(resolve(base, "translate"), batch_size=run.batch, device=run.device)
    if part.guidance is not None:
        backend = replace(backend, guidance_scale=part.guidance)
    editor = replace(resolve(run.editor, "edit"), batch_size=run.batch, device=run.device)
    source, test = (run.work / part.setting / name for name in ("train", "test"))
    out = run.work / "compared" / part.setting
    photos = photographs(source, test)
    number = {name: place for place, name in enumerate(photos.classes)}
    truth = torch.tensor([number[class_of(key)] for key in photos.test_keys])
    facts: dict[str, Any] = {
        "setting": part.setting, "slice": part.name, "seed": seed, "shots": part.shots,
        "classifier": part.classifier, "classes": list(photos.classes),
        "steps": run.steps, "guidance": backend.guidance_scale,
        "train_images": len(next(iter(photos.parts(part.shots, [seed]))).train),
        "labels": truth.tolist(), "tune_steps": None, "tuning_seconds": tuning, "rows": done,
    }  # fmt: skip
    if any(arm.learned for arm in part.arms):
        facts["tune_steps"] = part.tune if run.tune is None else run.tune
    for place in range(0, len(others), AT_ONCE):
        found = compare(
            source, test=test, arms=others[place : place + AT_ONCE], backend=backend,
            editor=editor, shots=part.shots, seeds=[seed], steps=run.steps,
            weights=None if part.classifier == "scratch" else BACKBONE,
            **{**SHARED, "per_image": run.per_image}, size=SIZE, out=out, device=run.device,
            probe=False,
        )  # fmt: skip
        for row in found.rows:
            if row.arm not in facts["rows"]:
                facts["rows"][row.arm] = _row(row, out, photos, truth, part.robust, run.device)
        _write(unit, run, facts, started)
    for name, kind in filters.items():
        right = filtered(kind, part.arms[-1], unit, run, backend, editor) == truth
        facts["rows"][name] = {"right": _bits(right), "on": machine(run.device)}
        _write(unit, run, facts, started)
    return unit.name


def _write(unit: Unit, run: Run, facts: dict[str, Any], started: float) -> None:
    facts = {**facts, "seconds": time.monotonic() - started}
    run.result(unit).parent.mkdir(parents=True, exist_ok=True)
    write_whole(run.result(unit), json.dumps(facts).encode())


def _row(
    row: Row, out: Path, photos: Photographs, truth: torch.Tensor, robust: bool, device: str
) -> dict[str, Any]:
    """Return what a classifier named rightly, and what it cost."""
    file = out / row.runs[0].file
    predicted = torch.tensor(json.loads(file.with_suffix(".json").read_text())["predicted"])
    facts = {
        "right": _bits(predicted == truth),
        "generated": row.generated,
        "generation_seconds": 60 * row.generation_minutes,
        "training_seconds": 60 * row.training_minutes,
        "bytes": row.bytes,
        "on": machine(device),
    }
    if robust:
        squares, _, _ = pictures.read_squares(photos.test_root, photos.test_keys, SIZE)
        model = classifier(file, len(photos.classes)).to(device)
        found = attacked(model, torch.stack(squares), truth)
        facts["attacked"] = {name: _bits(right) for name, right in found.items()}
    return facts


def classifier(file: Path, classes: int) -> torch.nn.Module:
    """Load a classifier that was trained."""
    from safetensors.torch import load_file

    model = build("small", classes)
    own = model.state_dict()
    model.load_state_dict({n: t.to(own[n].dtype) for n, t in load_file(file).items()})
    return model.eval()


def _bits(right: torch.Tensor) -> str:
    return "".join("1" if value else "0" for value in right.tolist())


def work_off(units: Sequence[Unit], run: Run, workers: int, ends: float) -> list[str]:
    """Do units in processes, the first ones first, one of a lane at a time, until time is over.

    Returns:
        The names of those that failed, each with its error.
    """
    waiting = [unit for unit in units if not run.is_done(unit)]
    busy: dict[Future[str], Unit] = {}
    failed: list[str] = []
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
    try:
        while waiting or busy:
            lanes = {unit.lane for unit in busy.values()}
            for unit in list(waiting):
                if len(busy) < workers and unit.lane not in lanes:
                    waiting.remove(unit)
                    lanes.add(unit.lane)
                    busy[pool.submit(do, unit, run)] = unit
            done, _ = wait(busy, min(60.0, max(0.0, ends - time.monotonic())), FIRST_COMPLETED)
            for future in done:
                unit = busy.pop(future)
                if error := future.exception():
                    failed.append(f"{unit.name}: {type(error).__name__}: {error}")
                    log.warning("failed %s", failed[-1])
                else:
                    log.info("done %s, %d wait", unit.name, len(waiting))
            if time.monotonic() >= ends:
                log.info("time is over: %d units run, %d wait", len(busy), len(waiting))
                break
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
    return failed


def _begin() -> None:
    torch.set_num_threads(1)


def units_of(slices: Sequence[Slice]) -> Iterator[Unit]:
    """Yield the units of slices: of neighbours that differ in setting alone, seed by seed.

    Once all slices have had their seeds, those follow that have more.
    """
    groups = [list(group) for _, group in groupby(slices, lambda part: part.kind)]
    for seeds_of in (lambda part: range(part.seeds), lambda part: part.later):
        for group in groups:
            for seed in sorted({seed for part in group for seed in seeds_of(part)}):
                yield from (Unit(part, seed) for part in group if seed in seeds_of(part))


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Run what the command line asks for; print the tables and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", required=True, help="Parquet files, or patterns")
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/fewshot"))
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one seed, short, few arms")
    parser.add_argument("--gpu", action="store_true", help="five seeds, on a GPU")
    parser.add_argument("--minutes", type=float, help="stop then; what is done counts")
    parser.add_argument("--workers", type=int, help="processes [one, or 15 with --gpu]")
    parser.add_argument("--steps", type=int, help="of a classifier [the plan's]")
    parser.add_argument("--tune-steps", type=int, help="of fine-tuning [the plan's]")
    parser.add_argument("--only", nargs="+", help="names of slices [all]")
    parser.add_argument("--arms", nargs="+", default=(), help="names of arms to do now [all]")
    parser.add_argument("--seeds", type=int, help="of a slice at most [the plan's]")
    parser.add_argument("--base", default="tiny-translate")
    parser.add_argument("--editor", default="tiny")
    parser.add_argument("--collect", type=Path, help="folder for all results in a few files")
    parser.add_argument("--device", help="[cuda with --gpu, else cpu]")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("diffaug").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes end, too
    started = time.monotonic()
    ends = started + 60 * args.minutes if args.minutes else float("inf")
    work = args.work.resolve()
    classes = write_folders(files_of(args.train), files_of(args.test), work)
    size = "quick" if args.quick else "gpu" if args.gpu else "cpu"
    slices = [part for part in plan(classes, size) if not args.only or part.name in args.only]
    if not BACKBONE.is_file():
        log.warning("%s is not there: fewshot_backbone.py makes it", BACKBONE.name)
        slices = [part for part in slices if part.classifier == "scratch"]
    device = args.device or ("cuda" if args.gpu else "cpu")
    run = Run(
        work, args.base, args.editor, device, args.steps,
        1 if args.quick else SHARED["per_image"], args.tune_steps, 25 if device == "cpu" else 128,
        tuple(args.arms),
    )  # fmt: skip
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    units = [unit for unit in units_of(slices) if args.seeds is None or unit.seed < args.seeds]
    failed = work_off(units, run, args.workers or (15 if args.gpu else 1), ends)
    results = [json.loads(file.read_text()) for file in sorted((work / "units").glob("*.json"))]
    figures: dict[str, object] = {
        "command": f"python examples/benchmarks/fewshot.py --{size}",
        "settings": {name: SETTINGS[name] for name in classes},
        "classes": classes,
        "tail": tail_counts(classes.get("tail", [])),
        "recipe": {**SHARED, "per_image": run.per_image, "size": SIZE},
        "slices": summary(results),
        "failed": failed,
        "minutes": sum(result["seconds"] for result in results) / 60,
        "versions": {name: metadata.version(name) for name in ("torch", "diffusers")},
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    if args.collect is not None:
        args.collect.mkdir(parents=True, exist_ok=True)
        (args.collect / "fewshot.json").write_text(text)
        (args.collect / "units.json").write_text(json.dumps(results))
    if args.json is not None:
        args.json.write_text(text)
    for found in figures["slices"].values():
        print(found["name"], found["seeds"])
        for name, row in found["rows"].items():
            low, high = row["difference_interval"]
            print(
                f"  {name:32} {100 * row['mean']:5.1f}   {100 * row['difference']:+5.1f} "
                f"({100 * low:+.1f} to {100 * high:+.1f})"
            )
    return figures


def machine(device: str) -> str:
    """Say what something ran on."""
    if device.startswith("cuda"):
        return f"one {torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"


if __name__ == "__main__":
    main()
