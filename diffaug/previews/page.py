"""A report as one page of HTML that needs no other file: its rows, its pictures, its numbers."""

import base64
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from diffaug import functional, images
from diffaug.errors import unwritable
from diffaug.files import write_whole
from diffaug.filtering.similarity import BOUNDS, similarities, small

#: What may be said of an image that needs a second look, in the order of the page.
MARKS = ("lost", "near-copy", "stand-in", "rejected", "retried", "original")
#: So many images are compared with their sources at once.
_COMPARED = 64


class Album:
    """The pictures of a page, each shrunk, encoded, and kept once.

    Args:
        side: of the square that each picture is fitted into, in pixels; none is enlarged.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.pictures: list[str] = []
        #: Width by height of each picture.
        self.ratios: list[float] = []
        self._numbers: dict[bytes, int] = {}

    def add(self, pixels: torch.Tensor) -> int:
        """Return the number of a picture, uint8 (3, H, W), on this page."""
        height, width = pixels.shape[1:]
        scale = min(1.0, self.side / max(height, width))
        shape = (max(1, round(scale * height)), max(1, round(scale * width)))
        data = images.encode_image(functional.resize(pixels, shape), "webp", quality=85)
        number = self._numbers.setdefault(data, len(self.pictures))
        if number == len(self.pictures):
            self.pictures.append(base64.b64encode(data).decode())
            self.ratios.append(round(width / height, 3))
        return number


@dataclass
class ReportRow:
    """One row of a report.

    Args:
        name: of the image.
        classes: of its label, with their weights in percent, the largest first.
        pictures: the number of a picture in the album by column; a text says why there is none.
        prompt: what the model was told.
        facts: what else is known, as names and values.
        marks: of ``MARKS``, each with a sentence that explains it.
        scores: by the name of what scored it.
        under: a line under a picture, by column.
    """

    name: str
    classes: list[tuple[str, int]]
    pictures: dict[str, int | str]
    prompt: str | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    under: dict[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """What is on the page.

    Args:
        title: its heading.
        about: a sentence under it.
        settings: how the images were made, as names and values.
        rows: one for each image.
        album: their pictures.
        per_class: how many images each class has; empty for those of the rows.
        bounds: of the scores that have some: what is below or above is bad.
    """

    title: str
    about: str
    settings: list[tuple[str, str]]
    rows: list[ReportRow]
    album: Album
    per_class: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)


class Comparison:
    """Compares images with their sources, to find those that are lost and those that are copies."""

    def __init__(self) -> None:
        self._waiting: list[tuple[ReportRow, torch.Tensor, torch.Tensor]] = []

    def add(self, row: ReportRow, image: torch.Tensor, source: torch.Tensor) -> None:
        """Compare an image, uint8 (3, H, W), and note its similarity in its row."""
        self._waiting.append((row, small(image), small(source)))
        if len(self._waiting) == _COMPARED:
            self.finish()

    def finish(self) -> None:
        """Compare what waits for others."""
        if self._waiting:
            rows, pictures, sources = zip(*self._waiting, strict=True)
            for row, score in zip(rows, similarities(pictures, sources).tolist(), strict=True):
                row.scores["similarity"] = score
                mark_similarity(row)
            self._waiting = []


def mark_similarity(row: ReportRow) -> None:
    """Mark an image that hardly resembles its source, and one that is nearly a copy of it."""
    score, (low, high) = row.scores["similarity"], BOUNDS
    if score < low:
        row.marks["lost"] = f"hardly resembles its source: similarity {score:.2f}, below {low}"
    elif score > high and "stand-in" not in row.marks and "original" not in row.marks:
        row.marks["near-copy"] = f"hardly changed: similarity {score:.2f}, above {high}"


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write the page, whole or not at all."""
    try:
        write_whole(Path(path).expanduser(), render(report).encode())
    except OSError as error:
        raise unwritable(path, error) from error


def render(report: Report) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, FunctionLoader

    folder = resources.files("diffaug").joinpath("assets/report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment.get_template("page.html").render(
        title=report.title,
        about=report.about,
        settings=report.settings,
        per_class=sorted((report.per_class or _counted(report.rows)).items()),
        data=_data(report),
    )


def _counted(rows: Sequence[ReportRow]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row.classes:
            counts[row.classes[0][0]] = counts.get(row.classes[0][0], 0) + 1
    return counts


def _data(report: Report) -> dict[str, Any]:
    """Return what the page's script reads."""
    scores = dict.fromkeys(name for row in report.rows for name in row.scores)
    return {
        "columns": list(dict.fromkeys(name for row in report.rows for name in row.pictures)),
        "marks": [mark for mark in MARKS if any(mark in row.marks for row in report.rows)],
        "scores": [{"name": name, "bounds": report.bounds.get(name)} for name in scores],
        "rows": [
            {**asdict(row), "scores": {n: round(s, 4) for n, s in row.scores.items()}}
            for row in report.rows
        ],
        "pictures": report.album.pictures,
        "ratios": report.album.ratios,
    }
