"""The rows of a report: of photographs and what a transform makes of them, or of a set."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffaug.backends import presets
from diffaug.errors import DestinationError, UnreadableImageError
from diffaug.filtering.similarity import BOUNDS
from diffaug.offline.identity import identity, pinned, versions_line
from diffaug.offline.manifest import Row, read_run, recorded_white
from diffaug.previews.captions import REFUSED
from diffaug.previews.finished_set import (
    FinishedSet,
    SetImage,
    read_source,
    rejected_by,
    shares_of,
    source_folder,
)
from diffaug.previews.page import Album, Comparison, Report, ReportRow, mark_similarity
from diffaug.previews.stages import Staged
from diffaug.progress import progress_bar
from diffaug.transforms.base import ImageTransform
from diffaug.transforms.strategies import STRATEGIES

#: Of many images each is shown smaller, so that the page stays small: up to so many, this side.
SIDES = ((100, 512), (600, 256), (math.inf, 128))
#: So many images of a set a report shows if nothing else is said.
MOST = 2000

#: Columns of a manifest that say which model it was.
MODEL = ("model", "revision")
#: What made the images, in the words of the page, by the end of its name in a run's identity.
_SETTINGS = {
    "prompts": "prompts",
    "template": "prompt for the model",
    "recipe": "recipe",
    "strategy": "strategy",
    "pairs": "pairs",
    "strength": "strength",
    "masks": "masks",
    "alpha": "weight of the fractal",
    "fractals": "fractals",
    "model.steps": "steps",
    "model.guidance_scale": "guidance by the prompt",
    "model.image_guidance_scale": "guidance by the image",
    "model.size": "size of the model",
    "model.scheduler": "scheduler",
    "seed": "seed",
    "size": "resized to",
}


def side_for(count: int) -> int:
    """Return the side of the pictures of a report that shows so many images."""
    return next(side for most, side in SIDES if count <= most)


def report_of_photographs(
    folder: Path, staged: Sequence[Staged], transform: ImageTransform, seed: int, side: int
) -> Report:
    """Show each stage of some photographs."""
    album, comparison, rows = Album(side), Comparison(), []
    for photo in staged:
        pictures = {"original": photo.original, **photo.stages}
        row = ReportRow(
            photo.name,
            photo.shares,
            {name: album.add(pixels) for name, pixels in pictures.items()},
            prompt=photo.prompt,
            facts=facts_of(photo.described),
        )
        mark(row, photo.refused, photo.attempts)
        if not photo.from_text:
            # Half of a joined image is the original, so what the model made of it is compared.
            comparison.add(row, next(iter(photo.stages.values())), photo.original)
        rows.append(row)
    comparison.finish()
    return Report(
        folder.resolve().name,
        f"{len(rows)} photographs of '{folder}', each augmented by {type(transform).__name__}",
        transform_settings(transform, seed),
        rows,
        album,
        bounds={"similarity": BOUNDS},
    )


def report_of_set(
    folder: Path, count: int, seed: int, side: int | None, progress: bool
) -> tuple[Report, list[tuple[str, str]]]:
    """Show images of a set, each beside its source; also return those that cannot be read."""
    finished = FinishedSet(folder)
    chosen = finished.choose(count, seed)
    run = _run(folder)
    from_text = run.get("identity", {}).get("model.task") == "generate"
    album, comparison = Album(side or side_for(len(chosen))), Comparison()
    sources, rows, skipped = _Sources(folder, album), [], []
    with progress_bar(progress, len(chosen)) as bar:
        for image in chosen:
            try:
                generated = image.read()
            except UnreadableImageError as error:
                skipped.append((image.row["file_name"], str(error)))
            else:
                row, source = _row(image, generated, sources)
                if source is not None and not from_text and "similarity" not in row.scores:
                    comparison.add(row, generated, source)
                rows.append(row)
            if bar is not None:
                bar.update()
    if not rows:
        raise UnreadableImageError(skipped[0][1])
    comparison.finish()
    shown = "" if len(rows) == finished.total else f"; {len(rows)} of its images are shown"
    return (
        Report(
            finished.name,
            finished.about + shown,
            _recorded_settings(chosen[0].row, run.get("identity", {})),
            rows,
            album,
            finished.per_class,
            bounds={"similarity": BOUNDS},
        ),
        skipped,
    )


class _Sources:
    """The sources of a set's images: each is read and encoded once where its images follow."""

    def __init__(self, folder: Path, album: Album) -> None:
        self._root, self._white = source_folder(folder), recorded_white(folder)
        self._album = album
        self._last: tuple[Any, Any, int | str] = (None, None, "")

    def read(self, row: Row) -> tuple[Any, int | str]:
        """Return the pixels, None if there are none, and the number in the album or the reason."""
        if row.get("source") is None or row["source"] != self._last[0]:
            found = read_source(self._root, row, self._white)
            if isinstance(found, torch.Tensor):
                self._last = (row.get("source"), found, self._album.add(found))
            else:
                self._last = (row.get("source"), None, str(found))
        return self._last[1:]


def _row(image: SetImage, generated: torch.Tensor, sources: _Sources) -> tuple[ReportRow, Any]:
    """Say what a manifest knows of an image; also return the pixels of its source."""
    known = image.row
    original = known.get("method") == "original"
    source, picture = (None, "this is the original") if original else sources.read(known)
    row = ReportRow(
        str(known["file_name"]),
        [] if known.get("label") is None else shares_of(known),
        {"original": picture, "result": sources._album.add(generated)},
        prompt=known.get("prompt"),
        facts=facts_of(known),
        scores={
            name.removesuffix("_score"): float(score)
            for name, score in known.items()
            if name.endswith("_score") and isinstance(score, (int, float))
        },
    )
    if original:
        row.marks["original"] = "a copy of the original"
    mark(row, bool(known.get("fallback")), known.get("attempts"))
    if known.get("kept") is False:
        row.marks["rejected"] = rejected_by(known)
    if "similarity" in row.scores:
        mark_similarity(row)
    return row, source


def mark(row: ReportRow, refused: bool, attempts: int | None) -> None:
    """Mark an image that the model refused, and one that it made at a later attempt."""
    if refused:
        row.marks["stand-in"] = REFUSED
    elif attempts is not None and attempts > 1:
        row.marks["retried"] = f"made at attempt {attempts}"


def facts_of(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was drawn for an image, as names and values."""
    facts = []
    for name in ("strength", "mask", "fractal", "alpha", "seed"):
        value = known.get(name)
        if value is None or (name == "strength" and known.get("fallback")):
            continue
        facts.append((name, f"{value:.3g}" if isinstance(value, float) else str(value)))
    return facts


def transform_settings(transform: ImageTransform, seed: int) -> list[tuple[str, str]]:
    """Return how a transform makes images, as names and values."""
    spec = pinned(transform.backend)
    model = [("model", presets.name_of(spec.model))] if spec is not None else []
    lines = settings_lines(identity(transform, spec, {"seed": seed}))
    return [*model, *lines, ("versions", versions_line())]


def settings_lines(made_by: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of a run's identity that a reader asks for, as names and values."""
    lines = [("method", str(made_by["method"]))] if made_by.get("method") else []
    for end, name in _SETTINGS.items():
        for key, value in made_by.items():
            inner = key.startswith("transform.") and key.endswith(f".{end}")
            own = key == end or (inner and end != "seed")
            if own and value is not None and (line := (name, _text(name, value))) not in lines:
                lines.append(line)
    return lines


def _text(name: str, value: Any) -> str:
    """Write a setting as the argument of its name is written."""
    if name == "strategy":
        named = {(s.model, s.target, s.start): name for name, s in STRATEGIES.items()}
        return named.get(tuple(value), _plain(value)) if isinstance(value, list) else str(value)
    if name == "strength" and isinstance(value, str):  # as a record shows the numbers to draw from
        numbers = re.findall(r"\d[\d.]*", value)
        return (" to " if "is_range=True" in value else ", ").join(numbers) or value
    if name == "pairs" and isinstance(value, str):
        return value.split(" of ")[0]
    if name == "weight of the fractal" and isinstance(value, (list, tuple)):
        return " to ".join(dict.fromkeys(f"{end:g}" for end in value))
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _recorded_settings(row: Row, made_by: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = [(name, str(row[name]).removeprefix("sha256:")) for name in MODEL if row.get(name)]
    versions = [("versions", str(row["versions"]))] if row.get("versions") else []
    return [*model, *settings_lines(made_by), *versions]


def _run(folder: Path) -> dict[str, Any]:
    try:
        return read_run(folder) or {}
    except DestinationError:
        return {}
