"""The manifest of a set: a row for each image, and a record of what made the set."""

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import IO, Any

from diffaug.errors import DestinationError, one_line
from diffaug.offline import marks, places
from diffaug.untrusted import LONGEST_LINE, is_name_below, open_regular, parse_json, read_json

#: What is known of one image, in plain JSON values.
Row = dict[str, Any]

MANIFEST = "metadata.jsonl"
RUN = "run.json"
#: The columns that the rows of the oldest sets have, too.
_OLDEST = (
    *("file_name", "source", "source_label", "label", "method", "prompt", "seed", "strength"),
    *("mask", "fractal", "alpha", "attempts", "fallback", "model", "revision", "versions"),
)
#: The columns that every row has, in this order; other drawn values follow in columns of their own.
COLUMNS = (*_OLDEST, marks.SYNTHETIC, marks.SOURCE_TYPE)

HIDDEN = ".diffaug."
#: The rows of a set that is not finished.
JOURNAL = f"{HIDDEN}journal.jsonl"
#: Start of the name of the folder that the parts of a set are made in.
PARTS = f"{HIDDEN}parts-of-"


def read_manifest(folder: str | os.PathLike[str]) -> list[Row]:
    """Read the rows of a finished set, in order.

    Args:
        folder: what ``augment_folder`` or ``augment_dataset`` was given as destination.

    Raises:
        ValueError: the folder holds no ``metadata.jsonl``, or a line of it is not a row, or its
            ``file_name`` leads out of the set.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.manifest import read_manifest, write_manifest
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_manifest(folder, [{"file_name": "cat/1__0.jpg", "label": "cat"}])
        ...     read_manifest(folder)[0]["label"]
        'cat'
    """
    return list(each_row(folder))


def each_row(folder: str | os.PathLike[str]) -> Iterator[Row]:
    """Read the rows of a finished set one by one, as ``read_manifest`` does all at once."""
    path = Path(folder, MANIFEST)
    if not path.is_file():
        begun = is_set(folder)
        raise ValueError(
            f"'folder' must hold a {'finished' if begun else 'generated'} set, and '{folder}' has "
            f"no {MANIFEST}; "
            + (
                "the run that makes it was stopped: run the same command again to finish it."
                if begun
                else "make one with augment_folder or 'diffaug augment', or read the authors' data "
                "with 'diffaug import'."
            )
        )
    with open_regular(path) as file:
        for number, line in enumerate(each_line(file), 1):
            row = parse_row(line)
            if row is None:
                raise ValueError(
                    f"'{path}', line {number}, is not a row with a 'file_name' below the set."
                )
            if fault := _fault_of(row):
                raise ValueError(f"'{path}', line {number}: {fault}; mend or remove the line.")
            yield row


def each_line(file: IO[bytes]) -> Iterator[bytes]:
    """Read lines; one of a size that no row has comes in pieces, and these are no rows."""
    return iter(lambda: file.readline(LONGEST_LINE), b"")


def _fault_of(row: Row) -> str | None:
    """Say which of the values that a reader uses is none of ours."""
    strength, label, kept = (row.get(name) for name in ("strength", "label", "kept"))
    is_number = isinstance(strength, Real) and not isinstance(strength, bool)
    if strength is not None and not (is_number and 0 <= strength <= 1):
        return f"'strength' must be a number in [0, 1], got {strength!r:.60}"
    listed = label if isinstance(label, list) else [label]
    if isinstance(label, dict) or any(isinstance(part, (list, dict)) for part in listed):
        return f"'label' must be a name, a number or several numbers, got {label!r:.60}"
    if kept not in (None, True, False):
        return f"'kept' must be true, false or null, got {kept!r:.60}"
    seed, attempts, fallback = (row.get(name) for name in ("seed", "attempts", "fallback"))
    for name, value, least in (("seed", seed, 0), ("attempts", attempts, 1)):
        if value is not None and not (type(value) is int and value >= least):
            return f"{name!r} must be a whole number of at least {least}, got {value!r:.60}"
    if fallback not in (None, True, False):
        return f"'fallback' must be true, false or null, got {fallback!r:.60}"
    for name in ("source", "source_label", "method", "prompt", "model", "revision"):
        if not isinstance(row.get(name), (str, type(None))):
            return f"{name!r} must be a text, got {row[name]!r:.60}"
    return None


def is_set(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a generated set, finished or not.

    A set has its ``run.json``, or a manifest with our columns, or hidden files of a run that was
    stopped. Other libraries' ``metadata.jsonl`` makes no set.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.manifest import is_set, write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     before = is_set(folder)
        ...     write_run(folder, {"identity": {"seed": 0}})
        ...     before, is_set(folder)
        (False, True)
    """
    folder = Path(folder)
    try:
        if read_run(folder) is not None:
            return True
    except DestinationError:  # of something else
        pass
    try:
        with open_regular(folder / MANIFEST) as file:
            row = parse_row(file.readline(LONGEST_LINE))
    except OSError:
        row = None
    if row is not None and set(_OLDEST) <= set(row):
        return True
    hidden = (JOURNAL, f"{PARTS}*/*")
    return any(next(folder.glob(name), None) is not None for name in hidden)


def write_manifest(folder: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write the rows of a set, in the order given, whole or not at all.

    Args:
        folder: the set's folder, which exists.
        rows: plain JSON values. Every row gets every column that any row has, with null where it
            has no value, because Hugging Face's reader needs the same columns in every row.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.manifest import write_manifest
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_manifest(folder, [])
    """
    rows = list(rows)
    write_rows(Path(folder), rows, {name for row in rows for name in row})


def write_rows(folder: Path, rows: Iterable[Row], names: Iterable[str]) -> int:
    """Write the rows of a set one by one, with columns of these names; return how many."""
    columns = (*COLUMNS, *sorted(set(names).difference(COLUMNS)))
    count = 0
    with replacing(folder, MANIFEST) as path, path.open("wb") as file:
        for row in map(marks.described, rows):
            file.write(row_line({name: row.get(name) for name in columns}))
            count += 1
    return count


def read_run(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read what made a set, from ``run.json``; None where there is none.

    Raises:
        DestinationError: it is not readable.

    Example:
        >>> from diffaug.offline.manifest import read_run
        >>> read_run("no/such/folder") is None
        True
    """
    return read_record(Path(folder, RUN))


def recorded_white(folder: str | os.PathLike[str]) -> int | None:
    """Return the value that was white in the sources of 16 bits of a set; None if none was said."""
    try:
        run = read_run(folder) or {}
    except DestinationError:
        return None
    return run.get("identity", {}).get("white")


def read_record(path: Path) -> dict[str, Any] | None:
    """Read the JSON file of what made a folder; None where there is none.

    Raises:
        DestinationError: it is not readable, or does not say which run it is of.
    """
    try:
        record = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DestinationError(
            f"'{path}' could not be read ({one_line(error)}); choose another folder."
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get("identity"), dict):
        raise DestinationError(f"'{path}' is not diffaug's; choose another folder.")
    return record | {name: places.found(record[name], path.parent) for name in _places(record)}


def write_run(folder: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
    """Write ``run.json``, whole or not at all.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.manifest import read_run, write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(folder, {"identity": {"seed": 0}})
        ...     read_run(folder)
        {'identity': {'seed': 0}}
    """
    named: dict[str, Any] = {name: places.told(run[name], Path(folder)) for name in _places(run)}
    if "skipped" in run:
        named["skipped"] = [
            {name: places.without_folders(text) for name, text in entry.items()}
            for entry in run["skipped"]
        ]
    text = json.dumps({**run, **named}, ensure_ascii=False, indent=2) + "\n"
    write_file(Path(folder), RUN, text.encode())


def _places(run: Mapping[str, Any]) -> list[str]:
    """Name what tells in a record where something lies."""
    return [name for name in ("source", "imported") if isinstance(run.get(name), str)]


def parse_row(line: bytes) -> Row | None:
    """Read the row of a line; None if the line is no row, or its name leads out of the set."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    # No image of a set bears the name of a file that says what the set is.
    named = isinstance(row, dict) and is_name_below(row.get("file_name"))
    return row if named and row["file_name"] not in (MANIFEST, RUN) else None


def source_label(row: Row) -> str:
    """Return the class of the image that a row was made from; by default that of the row."""
    return str(row.get("source_label") or row["label"])


def row_line(row: Row) -> bytes:
    """Write a row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def write_file(folder: Path, name: str, data: bytes) -> None:
    """Write a file of a set under a hidden name and rename it; subfolders are made."""
    with replacing(folder, name) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(folder: Path, name: str) -> Iterator[Path]:
    """Give a hidden path to write to; the file gets its name once it is whole."""
    # In the set's own folder, which must not be made again if it vanished.
    temporary = folder / f"{HIDDEN}{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, folder / name)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
