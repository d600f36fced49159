"""The layouts that the authors' released code writes: which images and classes a folder has.

Diff-Mix: ``data/<class of the source>/<target class>-<number>-<strength>.png``, and tables with a
row for each image. DiffuseMix: ``<stage>/<class>/<file>_<stage>_<prompt>_<number>.jpg``.
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diffaug.arguments import unit
from diffaug.labels import words
from diffaug.offline.lookalikes import is_diffmix_release, is_diffusemix_result
from diffaug.offline.manifest import Row
from diffaug.offline.sources import Skipped, class_folder

TABLE = "meta.csv"
#: The images that CLIP kept, as the training code and as the filtering code call the table.
FILTERED = ("remained_meta.csv", "meta_10-100per.csv")
#: Of the images that the released code writes, and of those that a set of ours may have.
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
COLUMNS = ("First Directory", "Second Directory", "Number", "Strength", "Path")
#: Columns of a manifest: where an image was in its release, and its number there.
PATH, NUMBER = "released_path", "released_number"

#: The longest name of an image in a set, in bytes.
LONGEST_NAME = 240

_DIFFMIX_NAME = re.compile(r"(?P<target>.+)-(?P<number>\d+)-(?P<strength>[^/]+)\.\w+")
_DIFFUSEMIX_NAME = re.compile(r"(?P<file>.+)_blended_(?P<prompt>.+)_(?P<number>\d+)\.\w+")


@dataclass(frozen=True)
class Release:
    """What a released folder holds: the images below ``root``, and a manifest row for each."""

    method: str
    root: Path
    rows: list[Row]
    skipped: list[Skipped]
    #: Names of all classes, also of those without an image.
    names: list[str]
    #: The folder of the sources, where it is known.
    source: Path | None = None


def open_release(folder: Path, filtered: bool) -> Release:
    """Find out which layout a folder has, and read its rows."""
    if not folder.is_dir():
        raise ValueError(f"'folder' must be an existing folder, got '{folder}'.")
    if folder.name == "blended" and is_diffusemix_result(folder.parent):
        folder = folder.parent
    if folder.name == "data" and is_diffmix_release(folder.parent):
        folder = folder.parent
    if is_diffusemix_result(folder) and (folder / "blended").is_dir():
        if filtered:
            raise ValueError(
                f"'filtered' must not be given for a set of DiffuseMix, which has no such table, "
                f"and '{folder}' is one."
            )
        return _diffusemix(folder)
    if (folder / "data").is_dir():
        return _diffmix(folder, filtered)
    raise ValueError(
        f"'folder' must be what the released code of Diff-Mix writes (data/ and {TABLE}) or of "
        f"DiffuseMix (result/ with blended/), and '{folder}' has neither layout."
    )


def _diffmix(folder: Path, filtered: bool) -> Release:
    tables = [folder / name for name in FILTERED if (folder / name).is_file()]
    if filtered and not tables:
        raise ValueError(
            f"'filtered' must not be given where there is no {' or '.join(FILTERED)}, and "
            f"'{folder}' has none."
        )
    kept = {_path(row) for row in _read_table(tables[0])} if filtered else None
    table = next((path for path in [folder / TABLE, *tables] if path.is_file()), None)
    listed = _read_table(table) if table else list(_listed(folder / "data"))
    rows, skipped, seen = [], [], set[str]()
    for number, entry in enumerate(listed, 2):  # the first line has the names of the columns
        path = _path(entry)
        try:
            if path in seen:
                raise ValueError("its path is listed twice")
            seen.add(path)
            rows.append(_diffmix_row(entry, path))
        except ValueError as error:
            place = f"{table.name}, line {number} ({path})" if table else path
            skipped.append(Skipped(place, str(error)))
    if table:
        unlisted = [key for key in _images_below(folder / "data") if key not in seen]
        skipped += [Skipped(key, f"{table.name} does not list it") for key in unlisted]
    if kept is not None:
        for row in rows:
            row["released_kept"] = row["kept"] = row[PATH] in kept
        unlisted = sorted(kept.difference(seen))
        skipped += [
            Skipped(path, f"{tables[0].name} has it, and {TABLE} has not") for path in unlisted
        ]
    names = {spelling(row[name]): row[name] for row in rows for name in ("source_label", "label")}
    for child in filter(is_class, (folder / "data").iterdir()):
        names.setdefault(spelling(child.name), child.name.replace("_", " "))
    return Release("DiffMix", folder / "data", rows, skipped, sorted(names.values()))


def _read_table(path: Path) -> list[dict[str, Any]]:
    """Read a table of Diff-Mix."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{path}' could not be read ({error}).") from error
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise ValueError(
            f"'{path}' must have the columns {', '.join(COLUMNS)}, and it lacks "
            f"{', '.join(missing)}."
        )
    return rows


def _listed(folder: Path) -> Iterator[dict[str, Any]]:
    """Make the table of a set that has none from its files, as the released code does."""
    for key in _images_below(folder):
        first, _, name = key.partition("/")
        if match := _DIFFMIX_NAME.fullmatch(name):
            second = match["target"].replace("_", " ")
            facts = (first.replace("_", " "), second, match["number"], match["strength"], key)
        else:
            facts = (first, "", "", "", key)
        yield dict(zip(COLUMNS, facts, strict=True))


def _path(entry: dict[str, Any]) -> str:
    """Return the path of an image below ``data``, also of a table that was written on Windows."""
    text = _text(entry, "Path").replace("\\", "/")
    return text if text.startswith("/") else "/".join(PurePosixPath(text).parts)


def is_image_path(path: str) -> bool:
    """Return whether a path is that of an image in a class folder, and leads nowhere else."""
    folder, *names = path.split("/")
    one_deep = len(names) == 1 and folder != "" and ":" not in folder
    hidden = any(part.startswith(".") for part in path.split("/"))
    return one_deep and not hidden and PurePosixPath(path).suffix.lower() in SUFFIXES


def _images_below(folder: Path) -> list[str]:
    """List the images in the class folders of a folder, by their paths below it."""
    classes = sorted(path for path in folder.iterdir() if is_class(path))
    keys = (f"{path.name}/{name}" for path in classes for name in sorted(os.listdir(path)))
    return [key for key in keys if is_image_path(key)]


def _diffmix_row(entry: dict[str, Any], path: str) -> Row:
    """Turn a line of a table into a row of a manifest.

    Raises:
        ValueError: the line is not whole, says what cannot be, or contradicts the file's name.
    """
    first, second, number, strength = (_text(entry, name) for name in COLUMNS[:4])
    parts = path.split("/")
    if not is_image_path(path):
        raise ValueError("its path must be that of an image in a class folder of 'data'")
    if not first or not second:
        raise ValueError("it lacks the name of a class")
    try:
        count, far = float(number), unit("Strength", float(strength))
    except ValueError:
        count = far = -1.0
    if far < 0 or count < 0 or not count.is_integer():
        raise ValueError(
            f"its number must be whole and its strength in [0, 1], got {number!r} and {strength!r}"
        )
    tail = f"{int(count):06d}-{far}"
    if match := _DIFFMIX_NAME.fullmatch(parts[1]):
        tail = f"{match['number']}-{match['strength']}"
        same = (
            spelling(match["target"]) == spelling(second)
            and int(match["number"]) == count
            and _number(match["strength"]) == far
        )
        if not same:
            raise ValueError(
                f"its name says otherwise than the table ({second}, {int(count)}, {far})"
            )
    if spelling(parts[0]) != spelling(first):
        raise ValueError(f"its folder says otherwise than the table ({first})")
    name = f"{parts[0]}-{tail}{PurePosixPath(path).suffix}"
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError("its names are too long for a file of a set")
    return {
        "file_name": name,
        "source_label": first,
        "label": second,
        "method": "DiffMix",
        "strength": far,
        "fallback": False,
        NUMBER: int(count),
        PATH: path,
    }


def _diffusemix(folder: Path) -> Release:
    root, rows, skipped = folder / "blended", list[Row](), list[Skipped]()
    for key in _images_below(root):
        label, _, name = key.partition("/")
        match = _DIFFUSEMIX_NAME.fullmatch(name)
        if match is None:
            skipped.append(
                Skipped(f"blended/{key}", "its name is not <file>_blended_<prompt>_<number>.jpg")
            )
            continue
        rows.append(
            {
                "file_name": name,
                "source": f"{label}/{match['file']}",
                "source_label": label,
                "label": label,
                "method": "DiffuseMix",
                "prompt": match["prompt"].strip(),
                "fallback": False,
                NUMBER: int(match["number"]),
                PATH: key,
            }
        )
    originals = folder / "original_resized"
    names = [path.name for path in root.iterdir() if is_class(path)]
    source = originals if originals.is_dir() else None
    return Release("DiffuseMix", root, rows, skipped, names, source)


def is_class(path: Path) -> bool:
    """Return whether a path is the folder of a class."""
    return path.is_dir() and not path.name.startswith(".")


def table_of(entries: Iterable[dict[str, Any]]) -> bytes:
    """Write a table of Diff-Mix."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return text.getvalue().encode()


def directory_name(name: str) -> str:
    """Name the folder of a class as the released code does, and safely."""
    return class_folder(name.replace(" ", "_").replace("/", "_"))


def spelling(name: str) -> str:
    """Return a form that is the same for the name of a class and for that of its folder here."""
    return " ".join(words.spelling(name).replace("/", " ").split())


def _text(entry: dict[str, Any], column: str) -> str:
    value = entry.get(column)
    return value.strip() if isinstance(value, str) else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
