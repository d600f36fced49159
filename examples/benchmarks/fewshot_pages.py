"""Put what `fewshot.py` found into the tables of docs/benchmarks.md and into pictures.

    python examples/benchmarks/fewshot_pages.py

`tables.py` fills the pages; this file draws the pictures from docs/benchmarks/fewshot.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fewshot_tables import comparison_rows

from diffaug.backends.presets import PRESETS

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = DOCS / "benchmarks" / "fewshot.json"
#: Photographs of a class in the long tail: many above the first, few below the last.
MANY, FEW = 50, 20
#: The pictures, each of one slice: the main ones, and one for each setting that was varied.
PICTURES = (
    *("drawn-5", "new-5", "mixed-5", "tail"),
    *(f"drawn-5-{what}" for what in ("strength", "gamma", "p", "pool")),
    *(f"drawn-5-{what}" for what in ("prompts", "stages", "filters")),
    *(f"new-5-{what}" for what in ("strength", "p", "filters")),
    *("drawn-5-steps-2400", "new-5-steps-2400-tune-2000-guidance-8"),
)
#: Numbers of images of a class, and the slices that are shown first.
SHOTS = (1, 5, 10, 20, 50)
FIRST = ("drawn-5", "new-5", "mixed-5", "seen-5", "drawn-5-pretrained", "new-5-pretrained")
Found = Mapping[str, Any]


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percent(value: float) -> str:
    """Write a share with one decimal."""
    return f"{100 * value:.1f}"


def gain(row: Found) -> str:
    """Write a difference with its interval; bold where the interval leaves out 0."""
    if "simultaneous" not in row:
        return ""
    low, high = row["difference_interval"]
    text = f"{100 * row['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def heading(part: Found) -> str:
    """Say what a slice was measured on."""
    shots = f"{part['shots']} images a class" if part["shots"] else "all images"
    kind = {"scratch": "from scratch", "pretrained": "pre-trained"}[part["classifier"]]
    return (
        f"**{part['name']}**: {shots}, {kind}, {_seeds(len(part['seeds']))}, "
        f"{part['test_images']} test images; on {' and '.join(part['machines'])}."
    )


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def picture(part: Found) -> str:
    """Return the name of the picture of a slice; empty where there is too little to draw."""
    enough = len(part["seeds"]) > 1 and len(full(part)) > 2
    return f"fewshot-{part['name']}.png" if part["name"] in PICTURES and enough else ""


def full(part: Found) -> dict[str, Found]:
    """Return the arms that have all seeds of their slice: others have another baseline."""
    return {name: row for name, row in part["rows"].items() if row["seeds"] == part["seeds"]}


def arms(part: Found) -> str:
    """Return the table of a slice: accuracy, gain, and what it costs."""
    rows = []
    for name, row in part["rows"].items():
        cost = ["", ""]
        if row.get("generated"):
            cost = [f"{row['generated']:.0f}", f"{row['generation_seconds']:.0f} s"]
        rows.append([name, percent(row["mean"]), gain(row), len(row["seeds"]), *cost])
    made = table(["arm", "accuracy", "gain over none", "seeds", "generated", "in"], rows)
    said = [heading(part), made]
    if picture(part):
        said.append(f"![Accuracy by arm, {part['name']}](images/{picture(part)})")
    if len(full(part)) < len(part["rows"]):
        said.append("An arm with fewer seeds is compared with `none` of the same seeds.")
    if len(part["seeds"]) == 1:
        said.append("One seed says little: do not read an order of the arms from it.")
    else:
        said.append(part["advice"])
    return "\n\n".join(said)


def attacks(part: Found) -> str:
    """Return the table of a slice under each attack and corruption."""
    names = list(part["rows"]["none"]["attacked"])
    rows = [
        [arm, *(_attacked(row["attacked"][name]) for name in names)]
        for arm, row in part["rows"].items()
        if "attacked" in row and row["seeds"] == part["seeds"]
    ]
    said = "Accuracy on attacked and corrupted test images; bold where it is above `none`'s."
    return f"{heading(part)} {said}\n\n{table(['arm', *names], rows)}"


def _attacked(figures: Found) -> str:
    """Write an accuracy; bold where it is above that of `none` beyond the noise."""
    text = percent(figures["mean"])
    return f"**{text}**" if figures["difference_interval"][0] > 0 else text


def by_shots(parts: Mapping[str, Found], setting: str) -> str:
    """Return the table of one setting by the number of images of a class."""
    some, shared = _with_shots(parts, setting)
    if len(some) < 2:
        return ""
    rows = [[arm, *(_cell(part, arm) for part in some)] for arm in shared]
    titles = [f"{part['shots']} ({_seeds(len(part['seeds']))})" for part in some]
    shown = f"![Accuracy by images a class, {setting}](images/fewshot-{setting}-shots.png)"
    return f"{table([f'{setting}: images a class', *titles], rows)}\n\n{shown}"


def _cell(part: Found, arm: str) -> str:
    """Return accuracy and gain of an arm; empty where it was not tried."""
    row = part["rows"].get(arm)
    if row is None:
        return ""
    fewer = "" if row["seeds"] == part["seeds"] else f" ({_seeds(len(row['seeds']))})"
    return f"{percent(row['mean'])} {gain(row)}{fewer}".strip()


def _with_shots(parts: Mapping[str, Found], setting: str) -> tuple[list[Found], list[str]]:
    """Return the slices of a setting that differ in the number of images, and their arms.

    Those are the arms that at least two of the slices have.
    """
    some = [parts[name] for k in SHOTS if (name := f"{setting}-{k}") in parts]
    names = dict.fromkeys(arm for part in some for arm in part["rows"])
    return some, [arm for arm in names if sum(arm in part["rows"] for part in some) > 1]


def tail(part: Found, counts: Mapping[str, int]) -> str:
    """Return the table of the long tail: classes with many, medium and few photographs."""
    bands = {
        f"many (from {MANY})": [n for n, count in counts.items() if count >= MANY],
        "medium": [n for n, count in counts.items() if FEW <= count < MANY],
        f"few (below {FEW})": [n for n, count in counts.items() if count < FEW],
    }
    shown = f"\n\n![Accuracy by arm, tail](images/{picture(part)})" if picture(part) else ""
    return by_band(part, bands) + shown


def mixed(part: Found, known: Sequence[str]) -> str:
    """Return the table of classes that the base knows, beside others."""
    names = part["rows"]["none"]["recall"]
    bands = {
        "classes that the base knows": [name for name in names if name in known],
        "classes that are new to it": [name for name in names if name not in known],
    }
    return by_band(part, bands)


def by_band(part: Found, bands: Mapping[str, Sequence[str]]) -> str:
    """Return the table of a slice with the accuracy on the classes of each band."""
    rows = [
        [
            arm,
            percent(row["mean"]),
            gain(row),
            *(
                percent(sum(row["recall"][n] for n in names) / max(1, len(names)))
                for names in bands.values()
            ),
        ]
        for arm, row in part["rows"].items()
    ]
    return f"{heading(part)}\n\n{table(['arm', 'all', 'gain over none', *bands], rows)}"


def fewshot(found: Found) -> str:
    """Return all tables, the main ones first."""
    parts = found["slices"]
    done = [arms(parts[name]) for name in FIRST if name in parts]
    if "mixed-5" in parts:
        done.append(mixed(parts["mixed-5"], found["classes"]["drawn"]))
    done += [made for setting in ("drawn", "new") if (made := by_shots(parts, setting))]
    done += [
        attacks(parts[name])
        for name in FIRST
        if name in parts and "attacked" in parts[name]["rows"]["none"]
    ]
    if "tail" in parts:
        done.append(tail(parts["tail"], found["tail"]))
    main = [f"{setting}-{k}" for setting in found["settings"] for k in SHOTS]
    rest = [name for name in parts if name not in (*FIRST, *main, "tail")]
    done += [arms(parts[name]) for name in rest]
    return "\n\n".join(done)


def which(found: Found) -> str:
    """Return one row for each main slice: the best arm with and without generated images."""
    rows, parts = [], found["slices"]
    shots = [f"{setting}-{k}" for setting in found["settings"] for k in SHOTS]
    more = [name for name in parts if "-steps-" in name]
    for name in (*FIRST, *(name for name in shots if name not in FIRST), "tail", *more):
        best = parts[name]["best"] if name in parts else None
        if best is None:
            continue
        part = parts[name]
        one, other = (part["rows"][best[key]] for key in ("generating", "other"))
        rows.append(
            [
                f"`{name}`",
                part["shots"] or "long tail",
                part["classifier"],
                percent(part["rows"]["none"]["mean"]),
                f"{best['other']} {percent(other['mean'])}",
                f"{best['generating']} {percent(one['mean'])}",
                gain(best | {"simultaneous": None}),
            ]
        )
    titles = ["table", "images a class", "classifier", "none", "best without generated images"]
    return table([*titles, "best with them", "difference"], rows)


def longer(found: Found) -> str:
    """Return what each arm gained in the usual number of steps, and in more of them."""
    parts, rows, steps = found["slices"], [], [set(), set()]
    for name, part in parts.items():
        base, _, number = name.partition("-steps-")
        if not number.isdigit() or base not in parts:  # no steps, or other settings besides
            continue
        both = parts[base], part
        for numbers, one in zip(steps, both, strict=True):
            numbers.add(f"{one['steps']:,}")
        for arm in part["rows"]:
            if arm in both[0]["rows"]:
                rows.append([f"`{base}`", arm, *(_of_seeds(one, arm) for one in both)])
    titles = ["table", "arm", *(f"{' or '.join(sorted(some))} steps" for some in steps)]
    return table(titles, rows) if rows else ""


def _of_seeds(part: Found, arm: str) -> str:
    """Return the gain of an arm, and from how many seeds; the accuracy of `none`."""
    row = part["rows"][arm]
    if arm == "none":
        return f"{percent(row['mean'])} %"
    return f"{gain(row)}, {_seeds(len(row['seeds']))}"


def cost(found: Found) -> str:
    """Return what generating costs, by model and device, from the files that measured it."""
    known = json.loads(FIGURES.read_text())["slices"]["drawn-5"]["rows"]
    disk = {
        preset: f"{row['bytes'] / row['generated'] / 1000:.0f} MB"
        for preset, row in (("tiny", known["diffusemix"]), ("tiny-translate", known["real-mix"]))
    }
    gpu = json.loads((DOCS / "benchmarks" / "gpu.json").read_text())
    device = gpu["machine"]["device"]
    rates = {row["check"]: row["figures"] for row in gpu["sections"]["speed"]["rows"]}
    rows = []
    for preset in ("tiny", "tiny-256", "tiny-translate"):
        folder = Path(PRESETS[preset].spec.model)
        figures = json.loads((folder / "figures.json").read_text())
        size = PRESETS[preset].spec.size
        # `tiny` was measured at several sizes, `tiny-translate` at its own.
        measured = figures.get("sizes", {}).get(str(size), figures)
        seconds = measured["seconds_an_image_on_one_core"]
        rows.append([f"`{preset}`", size, "one CPU core", f"{1 / seconds:.1f}", _hours(seconds)])
        rows[-1].append(disk.get(preset, ""))
    for preset, size, check in (
        ("instruct-pix2pix-256", 256, "edit, 256 px, batch 32, 20 steps"),
        ("instruct-pix2pix", 512, "edit, 512 px, batch 8, 20 steps"),
        ("sd15", 512, "translate, 512 px, batch 8, 25 steps"),
    ):
        rate = rates[check]["images_per_s"]
        rows.append([f"`{preset}`", size, f"one {device}", f"{rate:.1f}", _hours(1 / rate), ""])
    titles = ["preset", "pixels", "on", "images/s", "10,000 images", "disk for 1,000 (PNG)"]
    return table(titles, rows)


def epochs(found: Found) -> str:
    """Return what an epoch of a loader takes with and without images from the cache."""
    rows = []
    for row in (row for group in found["groups"].values() for row in group["rows"]):
        if not row["what"].startswith("an epoch with cached "):
            continue
        what, files, *_ = row["what"].removeprefix("an epoch with cached ").split(", ")
        ours, other = (row[key]["median"] for key in ("ours_seconds", "baseline_seconds"))
        kept = "pixels" if row["detail"]["format"] == "raw" else "JPEG"
        rows.append([f"`{what}`", files, kept, f"{other:.2f} s", f"{ours:.2f} s"])
    titles = ["transform", "photographs", "cache keeps", "256 images without it"]
    return table([*titles, "with it"], rows)


def _hours(seconds: float) -> str:
    hours = 10_000 * seconds / 3600
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def _drawn(part: Found, names: Sequence[str]) -> dict[str, Found]:
    """Return those of some arms that have all seeds of a slice."""
    complete = full(part)
    return {name: complete[name] for name in names if name in complete}


def draw(found: Found) -> list[Path]:
    """Draw the charts of the main slices; return their files."""
    from diffaug.comparison.chart import by_gain, chart
    from diffaug.comparison.curves import curves
    from diffaug.previews.drawing import write_picture

    files = []
    for name in PICTURES:
        part = found["slices"].get(name)
        if part is not None and picture(part):
            rows = comparison_rows(full(part), part["shots"])
            if name in FIRST or "-steps-" in name:  # others have the values of a setting in order
                rows = by_gain(rows)
            files.append(DOCS / "images" / picture(part))
            write_picture(files[-1], chart(rows, part["advice"]))
    for setting in ("drawn", "new"):
        some, shared = _with_shots(found["slices"], setting)
        if len(some) > 1:
            few = [
                row for part in some for row in comparison_rows(_drawn(part, shared), part["shots"])
            ]
            files.append(DOCS / "images" / f"fewshot-{setting}-shots.png")
            passes = {part["shots"]: part["passes"] for part in some}
            write_picture(files[-1], curves(few, passes))
    return files


if __name__ == "__main__":
    for drawn in draw(json.loads(FIGURES.read_text())):
        print(drawn)
