"""The two jobs: show what a transform makes, or a set; and compare values of a setting."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffaug.arguments import shown, whole
from diffaug.backends.base import is_backend
from diffaug.checked import checked
from diffaug.offline.manifest import is_set
from diffaug.previews.captions import REFUSED, SEPARATOR, attempts_note, mixed_label
from diffaug.previews.contact_sheet import stage_rows
from diffaug.previews.drawing import SheetRow, contact_sheet, write_picture
from diffaug.previews.finished_set import FinishedSet, sheet_rows
from diffaug.previews.page import Album, Report, ReportRow, write_report
from diffaug.previews.report_rows import (
    MOST,
    facts_of,
    mark,
    report_of_photographs,
    report_of_set,
    side_for,
    transform_settings,
)
from diffaug.previews.stages import Photograph, Staged, read_photographs, requests_of, stages_of
from diffaug.switches import own_defaults
from diffaug.transforms.base import ImageTransform

#: Rows of a sheet, and side of its pictures.
COUNT, TILE = 6, 256
PAGES = (".html", ".htm")


@own_defaults()
@checked
def preview(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    transform: ImageTransform | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    tile: int | None = None,
    white: int | None = None,
    progress: bool = False,
) -> list[tuple[str, str]]:
    """Draw a contact sheet or a report: what a transform makes of photographs, or a set's images.

    A report is one page of HTML that can be filtered and sorted; no other file belongs to it. Of a
    generated set, finished or not, each image is beside its source, with what the manifest says of
    it and of its label. No model is loaded then.

    Args:
        source: a folder of images, or a generated set; those that are shown are spread evenly over
            it, and over the classes of a set.
        path: the ``.png`` or ``.html`` to write, whole or not at all.
        transform: the augmentation; its ``p`` is ignored, so every image is augmented. None for a
            generated set.
        count: how many images to show, each in a row; None for 6, or 2000 in the report of a set.
        seed: the same seed and settings draw the same; another one shows other images of a set.
        tile: side in pixels of the box that each picture is fitted into; None for 256, or in a
            report from 512 to 128, the less the more images.
        white: the value that is white in files of 16 bits; None for a set, which knows it.
        progress: show a bar on stderr, for a report of a set.

    Returns:
        The images that could not be read, each with the reason.

    Raises:
        ValueError: the folder does not exist or holds no image, or an argument is outside its
            range, or there is a transform for a set, or none for other images.
        UnreadableImageError: none of the images could be read.
        DestinationError: the file could not be written.

    Example:
        >>> import tempfile
        >>> from diffaug import PromptEdit, RecordingBackend, preview, sample_photos
        >>> edit = PromptEdit(backend=RecordingBackend())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     preview(sample_photos(), f"{folder}/report.html", edit, count=2, tile=32)
        []
    """
    page = _is_page(path, count, tile)
    folder = Path(source).expanduser()
    if is_set(folder):
        _refuse_for_set(source, transform, white)
        if page:
            shown = MOST if count is None else count
            report, skipped = report_of_set(folder, shown, seed, tile, progress)
            write_report(path, report)
        else:
            finished = FinishedSet(folder)
            rows, skipped = sheet_rows(folder, finished.choose(count or COUNT, seed))
            write_picture(path, contact_sheet(rows, tile or TILE, finished.title))
        return skipped
    if transform is None:
        raise ValueError(
            f"'transform' must be given for a folder of photographs, and '{source}' is no "
            "generated set; give a transform such as DiffuseMix()."
        )
    photographs, skipped = read_photographs(folder, count or COUNT, white)
    staged = stages_of(photographs, transform, seed)
    if page:
        side = tile or side_for(len(staged))
        write_report(path, report_of_photographs(folder, staged, transform, seed, side))
    else:
        write_picture(path, contact_sheet(stage_rows(staged, transform.needs_label), tile or TILE))
    return skipped


@own_defaults()
@checked
def sweep(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    transforms: Mapping[str, ImageTransform],
    *,
    count: int | None = None,
    seed: int = 0,
    tile: int | None = None,
    white: int | None = None,
) -> list[tuple[str, str]]:
    """Draw a grid that compares transforms: a row for each photograph, a column for each transform.

    All transforms draw the same for a photograph, so what differs is their settings alone. Where
    they ask for different images, the grid shows what was generated; else it shows the result.
    Labels are those that the images are trained with.

    Args:
        source: a folder of images; those that are shown are spread evenly over it.
        path: the ``.png`` or ``.html`` to write, whole or not at all.
        transforms: by the heading of their column; at least one.
        count: how many photographs to show; None for 6.
        seed: the same seed and settings draw the same grid.
        tile: side in pixels of the box that each picture is fitted into; None for 256, or 512 in a
            page of HTML.
        white: the value that is white in files of 16 bits.

    Returns:
        The images that could not be read, each with the reason.

    Raises:
        ValueError: there is no transform, or as for :func:`preview`.
        UnreadableImageError: none of the images could be read.
        DestinationError: the file could not be written.

    Example:
        >>> import tempfile
        >>> from diffaug import FractalBank, FractalBlend, sample_photos, sweep
        >>> bank = FractalBank(count=2, size=32)
        >>> blends = {f"alpha {a}": FractalBlend(a, fractals=bank) for a in (0.1, 0.5)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sweep(sample_photos(), f"{folder}/grid.png", blends, count=1, tile=32)
        []
    """
    page = _is_page(path, count, tile)
    if not transforms:
        raise ValueError("'transforms' must hold at least one transform, got none.")
    for given in transforms.values():
        if not isinstance(given, ImageTransform):
            raise TypeError(f"'transforms' must hold transforms of diffaug, got {shown(given)}.")
    folder = Path(source).expanduser()
    photographs, skipped = read_photographs(folder, count or COUNT, white)
    generated = _ask_differently(photographs, list(transforms.values()), seed)
    columns: dict[str, list[Staged]] = {}
    for name, transform in transforms.items():
        columns[name] = stages_of(photographs, transform, seed)
        _free(transform, transforms)
    if page:
        side = tile or side_for(len(photographs))
        write_report(path, _grid_page(folder, columns, transforms, generated, seed, side))
    else:
        labelled = any(transform.needs_label for transform in transforms.values())
        rows = _grid_rows(columns, generated, labelled)
        write_picture(path, contact_sheet(rows, tile or TILE))
    return skipped


def _is_page(path: str | os.PathLike[str], count: int | None, tile: int | None) -> bool:
    """Check what both jobs take; return whether to write HTML."""
    for name, value, least in (("count", count, 1), ("tile", tile, 32)):
        if value is not None:
            whole(name, value, least)
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", *PAGES):
        raise ValueError(f"'path' must end in .png or .html, got '{path}'.")
    return suffix in PAGES


def _refuse_for_set(
    source: str | os.PathLike[str], transform: ImageTransform | None, white: int | None
) -> None:
    if transform is not None:
        raise ValueError(
            f"'transform' must be None for a generated set, and '{source}' is one, which is "
            f"shown as it is, got {type(transform).__name__}; to see what a transform does, "
            "give the folder of photographs."
        )
    if white is not None:
        raise ValueError(f"'white' must be None for a generated set, got {white}; it is recorded.")


def _ask_differently(
    photographs: Sequence[Photograph], transforms: Sequence[ImageTransform], seed: int
) -> bool:
    """Return whether transforms want different images, from different models or requests."""
    asked = []
    for transform in transforms:
        _, requests = requests_of(photographs, transform, seed)
        keys = [request.key("") for wanted in requests for request in wanted]
        asked.append((transform.backend, keys))
    return any(other != asked[0] for other in asked[1:])


def _free(transform: ImageTransform, transforms: Mapping[str, ImageTransform]) -> None:
    """Free a model before the next one is loaded: a grid of sizes needs the memory of one."""
    backend = transform.backend
    if backend is None or is_backend(backend):  # a backend of the caller stays open
        return
    if any(other.backend != backend for other in transforms.values()):
        transform.live_backend().close()


def _shown(staged: Staged, generated: bool) -> str:
    """Name the stage of a grid's pictures."""
    names = list(staged.stages)
    return names[0] if generated else names[-1]


def _grid_rows(
    columns: Mapping[str, Sequence[Staged]], generated: bool, labelled: bool
) -> list[SheetRow]:
    rows = []
    for photos in zip(*columns.values(), strict=True):
        pictures = {"original": photos[0].original}
        notes = [photos[0].name]
        prompts = dict.fromkeys(photo.prompt for photo in photos)
        notes += [f"prompt {photos[0].prompt}"] if len(prompts) == 1 and photos[0].prompt else []
        for name, photo in zip(columns, photos, strict=True):
            pictures[name] = photo.stages[_shown(photo, generated)]
            if said := _notes(photo, labelled):
                notes.append(f"{name}: {', '.join(said)}")
        rows.append(SheetRow(SEPARATOR.join(notes), dict(pictures)))
    return rows


def _notes(photo: Staged, labelled: bool) -> list[str]:
    """Say what else the pictures of a row may differ in: the label, and how they were made."""
    notes = [f"label {mixed_label(photo.shares)}"] if labelled else []
    return notes + ([REFUSED] if photo.refused else attempts_note(photo.attempts))


def _grid_page(
    folder: Path,
    columns: Mapping[str, Sequence[Staged]],
    transforms: Mapping[str, ImageTransform],
    generated: bool,
    seed: int,
    side: int,
) -> Report:
    album, rows = Album(side), []
    labelled = any(transform.needs_label for transform in transforms.values())
    for photos in zip(*columns.values(), strict=True):
        first = photos[0]
        prompts = dict.fromkeys(photo.prompt for photo in photos)
        common = [fact for fact in facts_of(first.described) if _in_all(fact, photos)]
        classes = [] if labelled else first.shares
        pictures: dict[str, int | str] = {"original": album.add(first.original)}
        row = ReportRow(first.name, classes, pictures, facts=common)
        row.prompt = first.prompt if len(prompts) == 1 else None
        for name, photo in zip(columns, photos, strict=True):
            row.pictures[name] = album.add(photo.stages[_shown(photo, generated)])
            row.under[name] = ", ".join(_notes(photo, labelled))
            mark(row, photo.refused, photo.attempts)
        rows.append(row)
    settings = [transform_settings(transform, seed) for transform in transforms.values()]
    shared = [line for line in settings[0] if all(line in other for other in settings)]
    shown = _shown(columns[next(iter(columns))][0], generated)
    about = f"{len(rows)} photographs of '{folder}', and the stage '{shown}' at each setting"
    return Report(f"{folder.resolve().name}, side by side", about, shared, rows, album)


def _in_all(fact: tuple[str, str], photos: Sequence[Staged]) -> bool:
    return all(fact in facts_of(photo.described) for photo in photos)
