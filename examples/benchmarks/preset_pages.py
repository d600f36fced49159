"""Put the presets into the tables of docs/models.md, with what was measured of each.

`tables.py` fills the page. The presets come from the package, the speed and the memory on a GPU
from docs/benchmarks/gpu.json, and the speed on a CPU from the figures of the embedded models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffaug.backends.presets import PRESETS, Preset

#: The row of gpu.json that timed the shapes of a preset, at its own steps.
MEASURED = {
    "instruct-pix2pix-256": "edit, 256 px, batch 32, 20 steps",
    "instruct-pix2pix": "edit, 512 px, batch 8, 20 steps",
    "sd15": "translate, 512 px, batch 8, 25 steps",
}
#: Presets with the network and the size of another one, and other steps.
LIKE = {
    "instruct-pix2pix-paper": "instruct-pix2pix",
    "instruct-pix2pix-12": "instruct-pix2pix",
    "instruct-pix2pix-256-12": "instruct-pix2pix-256",
    "instruct-pix2pix-lcm": "instruct-pix2pix",
    "sd15-12": "sd15",
    "sd15-lcm": "sd15",
}
DOES = {"edit": "edits", "translate": "translates", "generate": "makes images from text"}
Figures = Mapping[str, Any]


def models(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return what each preset does and takes, under the titles."""
    rates = {row["check"]: row["figures"] for row in found["sections"]["speed"]["rows"]}
    rows = [("preset", "what it does", "steps", "pixels", "download", "memory", "images/s")]
    for name, preset in PRESETS.items():
        spec = preset.spec
        download = f"{preset.gigabytes:.1f} GB" if preset.gigabytes else "none"
        shown = (f"`{name}`", DOES[spec.task], str(spec.steps), str(spec.size), download)
        rows.append((*shown, *_measured(name, preset, rates)))
    return rows


def terms(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return on which terms presets may be used, under the titles."""
    together: dict[tuple[str, str], list[str]] = {}
    for name, preset in PRESETS.items():
        together.setdefault((preset.licence, preset.commercial), []).append(f"`{name}`")
    rows = [("licence", "commercial use", "presets")]
    return [*rows, *((*key, ", ".join(names)) for key, names in together.items())]


def trials(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return on what presets were tried, under the titles."""
    checks = {row["check"] for row in found["sections"]["speed"]["rows"]}
    together: dict[str, list[str]] = {}
    for name, preset in PRESETS.items():
        if (Path(preset.spec.model) / "figures.json").is_file():
            tried = "photographs, which its card shows"
        elif MEASURED.get(name) in checks:
            tried = f"random weights in its shapes, on one {found['machine']['device']}"
        else:
            tried = (
                "nothing yet" if preset.experimental else "small models of its kind, in the tests"
            )
        together.setdefault(tried, []).append(f"`{name}`")
    rows = [("tried on", "presets")]
    return [*rows, *((tried, ", ".join(names)) for tried, names in together.items())]


def _measured(name: str, preset: Preset, rates: Mapping[str, Figures]) -> tuple[str, str]:
    """Return the memory and the speed of a preset."""
    spec = preset.spec
    if (figures := Path(spec.model) / "figures.json").is_file():
        seconds = _seconds_on_a_core(json.loads(figures.read_text()), spec.size)
        return "little", f"{1 / seconds:.1f} (one CPU core)"
    # Somebody may measure others than those that the page names.
    if (row := rates.get(MEASURED.get(name, ""))) is not None:
        return f"{row['peak_gb']:.1f} GB", f"{row['images_per_s']:.1f}"
    if (row := rates.get(MEASURED.get(LIKE.get(name, ""), ""))) is not None:
        batch = int(MEASURED[LIKE[name]].split("batch ")[1].split(",")[0])
        seconds = (row["ms_a_step"] * spec.steps + row["ms_the_rest"]) / 1000 / batch
        return f"{row['peak_gb']:.1f} GB, estimate", f"{1 / seconds:.1f}, estimate"
    return f"at least {preset.gigabytes:.1f} GB", "not measured"


def _seconds_on_a_core(figures: Figures, size: int) -> float:
    """Return the time of an image; `tiny` was measured at several sizes, others at their own."""
    seconds: float = figures.get("sizes", {}).get(str(size), figures)[
        "seconds_an_image_on_one_core"
    ]
    return seconds
