"""How fast diffaug is, beside what it replaces: goals and figures in one table.

    python examples/benchmarks/speed.py --repeats 20
    python examples/benchmarks/speed.py --only arithmetic fractals

Every row times ours and its baseline by turns in one process, so that a busy machine slows both.
The figures go to docs/benchmarks/speed.json; the groups that are not measured stay there as they
are. Needs no model: the arithmetic is measured with the generated image given. numba is optional
(one baseline).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import speed_pipeline
from fractal_baselines import njit, numba_fractal, numpy_fractal
from pairs import Row, paired_row

import diffaug
from diffaug import DiffuseMix, FractalBank, Generated, RecordingBackend, functional, images
from diffaug.fractals import render, sample_systems

ROOT = Path(__file__).parents[2]
PHOTOS = [ROOT / "examples/photos/animal/cat.jpg", ROOT / "examples/photos/travel/temple.jpg"]
ALPHA, RAMP = 0.2, 20
#: One image takes less than a millisecond.
CALLS = 10


def released_mask(height: int, width: int, side: str, soft: bool) -> np.ndarray:
    """Return a full-size float64 mask of three channels, 1 where the edited image goes."""
    length = width if side == "right" else height
    start = length // 2 - (RAMP // 2 if soft else 0)
    ramp = np.linspace(0, 1, RAMP) if soft else np.zeros(0)
    line = np.concatenate([np.zeros(start), ramp, np.ones(length - start - len(ramp))])
    grid = np.tile(line, (height, 1)) if side == "right" else np.tile(line[:, None], (1, width))
    return np.tile(grid[:, :, None], (1, 1, 3))


def released_mix(
    image: Image.Image, edited: Image.Image, fractal: Image.Image, side: str, soft: bool = True
) -> Image.Image:
    """Mix as the released DiffuseMix code does: two full-size float64 masks, cut off twice."""
    mask = released_mask(image.height, image.width, side, soft)
    one = np.array(image, dtype=np.float32) / 255
    two = np.array(edited, dtype=np.float32) / 255
    joined = np.clip(((1 - mask) * one + mask * two) * 255, 0, 255).astype(np.uint8)
    half = Image.fromarray(joined)
    pattern = np.array(fractal.resize(half.size), dtype=np.float32)
    mixed = (1 - ALPHA) * np.array(half, dtype=np.float32) + ALPHA * pattern
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def photograph(size: int, path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB").resize((size, size))


def often(call: Callable[[], Any], times: int) -> Callable[[], None]:
    """Repeat a call that is too short to be timed alone."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def page_faults(call: Callable[[], Any]) -> int:
    """Count the fresh pages of memory that a call touches: dear on virtual machines."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def mix_row(size: int, soft: bool, fractal_size: int, repeats: int, goal: bool) -> Row:
    """Measure one PIL image, from PIL to PIL, with the generated image given."""
    image, edited = (photograph(size, path) for path in PHOTOS)
    bank = FractalBank(count=8, size=fractal_size)
    fractal = images.to_pil(bank[0])  # from here on it is warm
    side = "right"
    mix = DiffuseMix(
        recipe="release" if soft else "paper", masks=["soft-right" if soft else side],
        alpha=ALPHA, fractals=bank, p=1.0, backend=RecordingBackend(size),
    )  # fmt: skip
    drawn = [{**mix.draw(1, torch.Generator().manual_seed(0))[0], "fractal": 0}]
    generated = [Generated(images.unpack(edited)[0][0], seed=0)]

    def ours() -> Image.Image:
        pixels, restore = images.unpack(image)
        return restore(mix.finish(pixels, generated, drawn).images)

    def baseline() -> Image.Image:
        return released_mix(image, edited, fractal, side, soft)

    apart = np.abs(np.asarray(ours(), dtype=int) - np.asarray(baseline(), dtype=int))
    stretched = "" if size == fractal_size else f", fractal stretched from {fractal_size} px"
    return paired_row(
        f"half + fractal, one {size} px PIL image, {'soft' if soft else 'hard'} seam{stretched}",
        "the released arithmetic (full-size float64 masks, numpy)",
        often(ours, CALLS), often(baseline, CALLS), repeats,
        goal="20 times faster" if goal else "", goal_ratio=20.0, unit=f"{CALLS} images",
        detail={
            "size": size, "fractal_size": fractal_size, "soft": soft,
            "largest_difference_in_levels": int(apart.max()),
            "pixels_apart": float((apart > 0).mean()),
            "page_faults": {"ours": page_faults(ours), "baseline": page_faults(baseline)},
        },
    )  # fmt: skip


def batch_row(size: int, count: int, repeats: int) -> Row:
    """Measure a batch of tensors, edits and fractals given, against PIL images one by one."""
    pictures = [photograph(size, PHOTOS[i % 2]) for i in range(count + 1)]
    stack = torch.cat([images.unpack(picture)[0] for picture in pictures])
    batch, edits = stack[:-1], stack[1:].contiguous()
    bank = FractalBank(count=8, size=size)
    fractals = bank.batch([i % len(bank) for i in range(count)])
    patterns = [images.to_pil(fractal) for fractal in fractals]

    def ours() -> torch.Tensor:
        joined = functional.half_concat(batch, edits, "soft-right", rounding="truncate")
        return functional.blend(joined, fractals, ALPHA, rounding="truncate", out=joined)

    def baseline() -> None:
        for i in range(count):
            released_mix(pictures[i], pictures[i + 1], patterns[i], "right")

    return paired_row(
        f"half + fractal, batch of {count} tensors of {size} px, soft seam",
        "the released arithmetic, image by image", ours, baseline, repeats,
        goal="40 times faster", goal_ratio=40.0, unit=f"{count} images",
        detail={
            "size": size, "batch": count,
            "page_faults": {"ours": page_faults(ours), "baseline": page_faults(baseline)},
        },
    )  # fmt: skip


def arithmetic(repeats: int) -> list[Row]:
    rows = []
    for size in (256, 512):
        rows += [
            mix_row(size, soft=True, fractal_size=size, repeats=repeats, goal=True),
            mix_row(size, soft=False, fractal_size=size, repeats=repeats, goal=False),
        ]
    rows.append(mix_row(512, soft=True, fractal_size=256, repeats=repeats, goal=False))
    return rows + [batch_row(256, 32, repeats), batch_row(512, 8, repeats)]


def fractals(repeats: int) -> list[Row]:
    """Measure one coloured fractal after another; both sides render the same systems."""
    size, points, count = 256, 100_000, 20
    maps, chances = sample_systems(count, torch.Generator().manual_seed(0))

    def ours() -> Iterator[torch.Tensor]:
        for i in itertools.cycle(range(count)):
            yield render(maps[i : i + 1], chances[i : i + 1], [i], size=size, points=points)

    def baseline(draw: Callable[..., np.ndarray]) -> Iterator[np.ndarray]:
        for i in itertools.cycle(range(count)):
            yield draw(maps[i].numpy(), chances[i].numpy(), size, points, i)

    rows = []
    for draw, name, goal in (
        (numba_fractal, "the sequential chaos game of arXiv 2110.03091, by numba", "no slower"),
        (numpy_fractal, "a plain vectorised chaos game, by numpy", ""),
    ):
        what = f"rendering one {size} px coloured fractal of {points:,} points"
        detail: dict[str, Any] = {"size": size, "points": points, "systems": count}
        if draw is numba_fractal and njit is None:
            detail["missing"] = "numba is not installed"
            rows.append(Row(what, name, goal, 1.0, [], [], [], "fractal", detail))
            continue
        row = paired_row(
            what, name, ours().__next__, baseline(draw).__next__, repeats,
            goal=goal, goal_ratio=1.0, unit="fractal", detail=detail,
        )  # fmt: skip
        rows.append(row)
    return rows


def children_time() -> float:
    """Return the CPU time of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def imports(repeats: int) -> list[Row]:
    """Measure the CPU time of fresh interpreters: a busy machine changes it less than the clock."""

    def fresh(*arguments: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, *arguments], capture_output=True)

    def row(what: str, against: str, ours: Sequence[str], baseline: str, most_more: float) -> Row:
        return paired_row(
            what, against, fresh(*ours), fresh("-c", baseline), repeats,
            goal=f"at most {most_more} s more", most_more=most_more, clock=children_time,
            unit="fresh interpreter, CPU time",
        )  # fmt: skip

    torch_alone = "import torch, torchvision.transforms.v2"
    nothing, command = "an interpreter that does nothing", ["-m", "diffaug"]
    return [
        row(
            "from diffaug import *", torch_alone, ["-c", "from diffaug import *"], torch_alone, 0.1
        ),
        row("import diffaug", nothing, ["-c", "import diffaug"], "pass", 0.1),
        row("diffaug --version", nothing, [*command, "--version"], "pass", 0.5),
        row("diffaug --help", nothing, [*command, "--help"], "pass", 0.5),
        row("diffaug augment --wrong", nothing, [*command, "augment", "--wrong"], "pass", 0.5),
        row("diffaug backends", nothing, [*command, "backends"], "pass", 0.5),
    ]


#: What can be measured, by name, in the order of the table.
GROUPS: dict[str, Callable[[int], list[Row]]] = {
    "arithmetic": arithmetic,
    "fractals": fractals,
    "import": imports,
    **speed_pipeline.GROUPS,
}


def table(rows: Sequence[Row]) -> str:
    """Set goals and figures side by side, as plain text."""
    lines = [f"{'goal':<20} {'figure (quartiles)':<32} {'met':<4} what / against"]
    for row in rows:
        if not row.ratios:
            figure = row.detail.get("missing", "not measured")
        elif row.most_more is not None:
            figure = f"{row.more:+.3f} s"
        else:
            low, middle, high = row.ratio_quartiles
            figure = f"{middle:.2f} times ({low:.2f} to {high:.2f})"
        met = {True: "yes", False: "no", None: ""}[row.met]
        lines.append(f"{row.goal:<20} {figure:<32} {met:<4} {row.what}")
        if row.ratios:
            ours, baseline = row.ours_quartiles[1], row.baseline_quartiles[1]
            times = f"{1e3 * ours:.2f} ms beside {1e3 * baseline:.2f} ms"
            lines.append(f"{'':<20} {times:<32} {'':<4} / {row.against}, for {row.unit}")
    return "\n".join(lines)


def processor() -> str:
    """Name the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    listed = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in listed if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print the table, write the JSON file, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="pairs for each row [20]")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/speed.json")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    packages = ["torch", "torchvision", "numpy", "pillow", *(["numba"] if njit else [])]
    conditions = {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "diffaug": diffaug.__version__}
        | {name: metadata.version(name) for name in packages},
        "repeats": options.repeats,
    }
    measured = {name: GROUPS[name](options.repeats) for name in options.only}
    rows = [row for group in measured.values() for row in group]
    found = json.loads(options.out.read_text()) if options.out.exists() else {"groups": {}}
    for name, group in measured.items():
        found["groups"][name] = {**conditions, "rows": [row.as_json() for row in group]}
    found["groups"] = {name: found["groups"][name] for name in GROUPS if name in found["groups"]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
