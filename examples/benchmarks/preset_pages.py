"""Put the presets into the table of docs/models.md, with what was measured of each.

`tables.py` fills the page. The presets come from the package, the speed and the memory on a GPU from
docs/benchmarks/gpu.json, and the speed on a CPU from the figures of the embedded models.
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
    "instruct-pix2pix-lcm": "instruct-pix2pix",
    "sd15-lcm": "sd15",
}
DOES = {"edit": "edits", "translate": "translates", "generate": "makes images from text"}
Figures = Mapping[str, Any]


def models(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each preset, under the titles."""
    device = found["machine"]["device"]
    rates = {row["check"]: row["figures"] for row in found["sections"]["speed"]["rows"]}
    titles = ("preset", "what it does", "steps, pixels", "licence", "commercial use", "download")
    rows = [(*titles, "memory", "images/s", "tried on")]
    for name, preset in PRESETS.items():
        spec = preset.spec
        download = f"{preset.gigabytes:.1f} GB" if preset.gigabytes else "none"
        rows.append(
            (
                f"`{name}`", DOES[spec.task], f"{spec.steps}, {spec.size}", preset.licence,
                preset.commercial, download, *_measured(name, preset, rates, device),
            )
        )  # fmt: skip
    return rows


def _measured(
    name: str, preset: Preset, rates: Mapping[str, Figures], device: str
) -> tuple[str, str, str]:
    """Return the memory, the speed, and on what a preset was tried."""
    spec = preset.spec
    if (figures := Path(spec.model) / "figures.json").is_file():
        seconds = _seconds_on_a_core(json.loads(figures.read_text()), spec.size)
        return "that of torch", f"{1 / seconds:.1f} on one CPU core", "photographs; see its card"
    tried = "nothing yet" if preset.experimental else "small models of its kind, in the tests"
    # Somebody may measure others than those that the page names.
    if (row := rates.get(MEASURED.get(name, ""))) is not None:
        tried = f"random weights in its shapes, on one {device}"
        return f"{row['peak_gb']:.1f} GB", f"{row['images_per_s']:.1f} on one {device}", tried
    if (row := rates.get(MEASURED.get(LIKE.get(name, ""), ""))) is not None:
        batch = int(MEASURED[LIKE[name]].split("batch ")[1].split(",")[0])
        seconds = (row["ms_a_step"] * spec.steps + row["ms_the_rest"]) / 1000 / batch
        return f"{row['peak_gb']:.1f} GB (estimate)", f"about {1 / seconds:.1f} (estimate)", tried
    return f"at least {preset.gigabytes:.1f} GB", "not measured", tried


def _seconds_on_a_core(figures: Figures, size: int) -> float:
    """Return the time of an image; `tiny` was measured at several sizes, others at their own."""
    seconds: float = figures.get("sizes", {}).get(str(size), figures)["seconds_an_image_on_one_core"]
    return seconds
