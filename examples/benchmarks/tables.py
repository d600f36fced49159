"""Put the figures that the benchmarks wrote into the tables of the pages, README's among them.

python examples/benchmarks/tables.py
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fewshot_pages import cost, epochs, fewshot, longer, which
from preset_pages import models, terms, trials

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "benchmarks.md"


def table(titles, rows):
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def seconds(value):
    """Write a time in the unit that suits it."""
    return f"{1000 * value:.2f} ms" if value < 1 else f"{value:.2f} s"


def speed(found):
    """Set goals and figures side by side: the ratio of the speeds, or the time that ours adds."""
    rows = []
    for row in (row for group in found["groups"].values() for row in group["rows"]):
        if "ratio" not in row:
            continue
        ours, baseline = (row[name]["median"] for name in ("ours_seconds", "baseline_seconds"))
        low, middle, high = row.get("more_seconds", row["ratio"]).values()
        if "more_seconds" in row:
            low, middle, high = (
                f"{'+' * (value >= 0)}{seconds(value)}" for value in (low, middle, high)
            )
            figure = f"{middle} ({low} to {high})"
        else:
            figure = f"{middle:.2f} times ({low:.2f} to {high:.2f})"
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        times = f"{seconds(ours)} beside {seconds(baseline)} for {row['unit']}"
        rows.append([row["what"], row["against"], row["goal"], figure, met, times])
    titles = ["what", "against", "goal", "speed, or time more (quartiles)", "met", "medians"]
    return table(titles, rows)


def faults(found):
    """Say what became of every killed run."""
    rows = [
        [
            name,
            f"{sum(way['kills'].values())}: "
            + ", ".join(f"{count} {victim}" for victim, count in way["kills"].items()),
            way["moments"].get("amid the work", 0),
            way["sets"],
            way["images_made_again"],
            f"{way['seconds_until_all_was_gone']:.1f} s",
            len(way["problems"]),
        ]
        for name, way in found["ways"].items()
    ]
    titles = ["way", "kills", "amid the work", "finished, all the same", "images made again"]
    return table([*titles, "all gone within", "problems"], rows)


def disk(found):
    """Say what each command did on a disk that was too small."""
    rows = [
        [
            name,
            f"{len(one['sizes'])}, {4 * min(one['sizes'])} to {4 * max(one['sizes'])} kB",
            ", ".join(f"{file} ({count})" for file, count in one["stages"].items()),
            f"{one['clear_ends']} of {len(one['sizes']) - one['enough_room']}",
            f"{one['identical_afterwards']} of {len(one['sizes'])}",
        ]
        for name, one in found.get("disk", {}).items()
    ]
    titles = ["command", "room that was left", "found no room", "clear ends", "the same afterwards"]
    return table(titles, rows)


def load(found):
    """Say how long callers of one model's process wait for an image."""
    rows = [
        [
            row["callers"],
            f"{row['seconds']:.0f} s",
            f"{row['images']:,} ({row['images_per_s']} a second)",
            f"{row['fewest_of_a_caller']} to {row['most_of_a_caller']}",
            f"{row['median_wait_ms']:.0f} ms ({row['longest_wait_ms']:.0f} ms)",
            row["wrong"],
            f"{row['mb_after'] - row['mb_before']:.0f} MB",
        ]
        for row in found["rows"]
    ]
    titles = ["callers", "time", "images", "of a caller", "median wait (longest)", "wrong"]
    return table([*titles, "more memory"], rows)


def bad_inputs(found):
    """Say how odd arguments were answered."""
    rows = []
    for name, way in found["ways"].items():
        taken = way["answers"].get("taken", 0)
        refused = sum(way["answers"].values()) - taken
        rows.append([name, f"{way['calls']:,}", f"{taken:,}", f"{refused:,}", len(way["faults"])])
    return table(["calls with", "calls", "taken", "refused in one line", "faults"], rows)


def memory(found):
    """Say what a run takes beyond what Python and torch do."""
    rows = [
        [
            f"{one['rows']:,}",
            f"{one['peak_mb'] - one['peak_mb_before']:.0f} MB",
            f"{one['bytes_per_row']} bytes",
            f"{one['seconds']:.0f} s",
        ]
        for one in found["results"]
    ]
    return table(["images", "more memory", "an image", "time"], rows)


def overhead(found):
    """Set the CPU time around the model of each version side by side, and say what it is."""
    rows, parts = [], []
    for version, measured in found["versions"].items():
        for row in measured:
            shown = f"{row['size']} px", version
            rows.append([*shown, f"{row['ms_a_batch']} ms", row["images"]])
            parts += [[*shown, part, f"{ms} ms"] for part, ms in row.get("made_of", {}).items()]
    times = table(["images", "version", "CPU time a batch", "digest of the images"], rows)
    if not parts:
        return times
    return f"{times}\n\n{table(['images', 'version', 'part', 'CPU time a batch'], parts)}"


def gpu(found):
    """Say what ran how fast on which GPU, and which checks failed."""
    machine, sections = found["machine"], found["sections"]
    versions = ", ".join(
        f"{name} {machine[name]}"
        for name in ("torch", "cuda", "diffusers", "transformers", "diffaug")
        if name in machine
    )
    parts = [f"On {machine.get('device', 'an unknown device')}; {versions}."]
    rates = [
        [
            row["check"],
            *(row["figures"].get(name, "") for name in GPU_FIGURES),
        ]
        for name in ("graphs", "speed", "compiled", "processes")
        for row in sections.get(name, {}).get("rows", [])
        if "images_per_s" in row["figures"]
    ]
    if rates:
        parts.append(table(["what", *GPU_FIGURES.values()], rates))
    checks = [
        [
            name,
            sum(row["ok"] is True for row in section["rows"]),
            sum(row["ok"] is False for row in section["rows"]),
            "" if section["finished"] else "cut off",
        ]
        for name, section in sections.items()
        if any(row["ok"] is not None for row in section["rows"])
    ]
    if checks:
        parts.append(table(["section", "passed", "failed", ""], checks))
    others = [
        [
            name,
            row["check"],
            {True: "yes", False: "**no**", None: ""}[row["ok"]],
            ", ".join(f"{key} {value}" for key, value in row["figures"].items()),
        ]
        for name, section in sections.items()
        for row in section["rows"]
        if row["ok"] is False or (row["ok"] is None and "images_per_s" not in row["figures"])
    ]
    if others:
        parts.append(table(["section", "check", "passed", "figures"], others))
    return "\n\n".join(parts)


def below_titles(rows_of):
    """Return what makes a table from rows, the titles first."""

    def make(found):
        titles, *rows = rows_of(found)
        return table(titles, rows)

    return make


#: Figures of the GPU's check and how the table calls them.
GPU_FIGURES = {
    "images_per_s": "images/s",
    "ms_a_step": "ms a step",
    "ms_the_rest": "ms the rest",
    "tflop_per_s": "TFLOP/s",
    "share_of_matrix_rate": "of the bf16 rate",
    "times_released": "times the released loop",
    "times_released_at_equal_steps": "at equal steps",
    "times_eager": "times eager",
    "of_direct": "of the direct rate",
    "peak_gb": "peak GB",
}
TABLES = {
    "speed": speed,
    "bad_inputs": bad_inputs,
    "faults": faults,
    "load": load,
    "memory": memory,
    "overhead": overhead,
    "gpu": gpu,
    "fewshot": fewshot,
}
#: The tables of each page, with the file that each is made from.
PAGES = {
    PAGE: {**{name: (make, name) for name, make in TABLES.items()}, "disk": (disk, "faults")},
    DOCS / "models.md": {
        "presets": (below_titles(models), "gpu"),
        "terms": (below_titles(terms), "gpu"),
        "trials": (below_titles(trials), "gpu"),
    },
    DOCS / "which.md": {
        "which": (which, "fewshot"),
        "longer": (longer, "fewshot"),
        "cost": (cost, "gpu"),
        "epochs": (epochs, "speed"),
    },
    DOCS.parent / "README.md": {"cost": (cost, "gpu")},
}


def filled(page, path=PAGE):
    """Return the text of a page with every table made anew."""
    for name, (make, file) in PAGES[path].items():
        source = DOCS / "benchmarks" / f"{file}.json"
        made = make(json.loads(source.read_text())) if source.exists() else "Not measured yet."
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        body = f"{start}\n{made}\n\n{end}"
        page = re.sub(f"{start}.*?{end}", lambda _, body=body: body, page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text(), path))
