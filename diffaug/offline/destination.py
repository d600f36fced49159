"""A generated set on disk: its rows, its run, and the one run at a time that adds to it.

A finished set is its class folders, ``metadata.jsonl`` (a row for each image) and ``run.json``.
While it is made, rows are journalled in a hidden file, so that a run killed at any moment can be
gone on with; everything hidden starts with ``.diffaug.`` and goes at the end.
"""

import heapq
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO, Any, Self

from diffaug.errors import DestinationError

#: What is known of one image, in plain JSON values.
Row = dict[str, Any]

MANIFEST = "metadata.jsonl"
RUN = "run.json"
#: What every row has, in this order; what else was drawn comes behind.
COLUMNS = (
    *("file_name", "source", "source_label", "label", "method", "prompt", "seed", "strength"),
    *("mask", "fractal", "alpha", "attempts", "fallback", "model", "revision", "versions"),
)

_HIDDEN = ".diffaug."

#: Rows sorted in memory at once, about 50 MB of them.
PART = 20_000


def read_manifest(folder: str | os.PathLike[str]) -> list[Row]:
    """Read the rows of a finished set, in order.

    Args:
        folder: what ``augment_folder`` or ``augment_dataset`` was given as destination.

    Raises:
        ValueError: the folder holds no ``metadata.jsonl``, or a line of it is not a row.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.destination import read_manifest, write_manifest
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
        raise ValueError(
            f"'folder' must hold a generated set, and '{folder}' has no {MANIFEST}; "
            "make one with augment_folder or 'diffaug augment'."
        )
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _parse(line)
            if row is None:
                raise ValueError(f"'{path}', line {number}, is not a row with a 'file_name'.")
            yield row


def write_manifest(folder: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write the rows of a set, in the order given, whole or not at all.

    Args:
        folder: the set's folder, which exists.
        rows: plain JSON values. Every row gets every column that any of them has, empty where it
            says nothing: Hugging Face's reader wants it so.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.destination import write_manifest
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_manifest(folder, [])
    """
    rows = list(rows)
    _write_rows(Path(folder), rows, {name for row in rows for name in row})


def _write_rows(folder: Path, rows: Iterable[Row], names: Iterable[str]) -> int:
    columns = (*COLUMNS, *sorted(set(names).difference(COLUMNS)))
    count = 0
    with _replacing(folder, MANIFEST) as path, path.open("wb") as file:
        for row in rows:
            file.write(_line({name: row.get(name) for name in columns}))
            count += 1
    return count


def read_run(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read what made a set, from ``run.json``; None where there is none.

    Raises:
        DestinationError: it is not readable.

    Example:
        >>> from diffaug.offline.destination import read_run
        >>> read_run("no/such/folder") is None
        True
    """
    path = Path(folder, RUN)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DestinationError(
            f"'{path}' could not be read ({error}); choose another folder."
        ) from error
    if not isinstance(run, dict) or not isinstance(run.get("identity"), dict):
        raise DestinationError(f"'{path}' is not diffaug's; choose another folder.")
    return run


def write_run(folder: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
    """Write ``run.json``, whole or not at all.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.destination import read_run, write_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(folder, {"identity": {"seed": 0}})
        ...     read_run(folder)
        {'identity': {'seed': 0}}
    """
    text = json.dumps(run, ensure_ascii=False, indent=2) + "\n"
    _replace(Path(folder), RUN, text.encode())


@contextmanager
def rewriting(folder: str | os.PathLike[str]) -> Iterator[list[Row]]:
    """Give the rows of a finished set to be changed in place, and write them back at the end.

    Nothing else can add to the set meanwhile. After an error inside, the manifest is as it was.

    Args:
        folder: the set's folder; what was changed there is kept when a run goes on with the set.

    Raises:
        ValueError: the folder holds no ``metadata.jsonl``, or a line of it is not a row.
        DestinationError: a run is writing to the set or was stopped, or the folder is read-only.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.destination import read_manifest, rewriting, write_manifest
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_manifest(folder, [{"file_name": "cat/1__0.jpg"}])
        ...     with rewriting(folder) as rows:
        ...         rows[0]["kept"] = True
        ...     read_manifest(folder)[0]["kept"]
        True
    """
    place = Destination(folder, {})
    if not place.journal.path.exists():
        read_manifest(place.folder)  # a folder without a set is refused before it is touched
    with place:
        # Its rows are not in the manifest yet, and would replace what is written there now.
        if place.journal.path.exists():
            raise DestinationError(
                f"'{place.folder}' is of a run that was stopped; finish it first: "
                "the same command goes on where it stopped."
            )
        rows = read_manifest(place.folder)
        yield rows
        with place._told("written to"):
            write_manifest(place.folder, rows)


class Journal:
    """Rows appended one by one; a last line cut by a crash counts as not written.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.destination import Journal
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(folder)
        ...     journal.start()
        ...     journal.append({"file_name": "cat/1__0.jpg"})
        ...     list(journal.rows())
        [{'file_name': 'cat/1__0.jpg'}]
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder, f"{_HIDDEN}journal.jsonl")

    def rows(self) -> Iterator[Row]:
        """Read the whole rows, none if there is no journal."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            for line in file:
                row = _parse(line) if line.endswith(b"\n") else None
                if row is not None:
                    yield row

    def start(self) -> None:
        """Make the file, or cut off what follows its last whole line."""
        with self.path.open("a+b") as file:
            file.seek(0)
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
            file.truncate(whole)

    def append(self, row: Row) -> None:
        """Add a row; it is in the file when this returns."""
        # Not mode "ab", which would make the file anew in a folder that was removed and remade.
        with self.path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(_line(row))


class Destination:
    """The folder of a set, for the one run that may add to it at a time.

    Nothing stays of it until ``begin``: an error before leaves no trace.

    Args:
        folder: need not exist.
        identity: the plain values that make a run what it is. A folder with another run's images is
            refused; so is one with anything else in it.
        wait: for the run that has the folder, rather than being refused.
    """

    def __init__(
        self, folder: str | os.PathLike[str], identity: Mapping[str, Any], *, wait: bool = False
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.journal = Journal(self.folder)
        self.identity = json.loads(json.dumps(identity))
        self.begun = False
        self._wait = wait
        self._made: list[Path] = []
        self._lock: Any = None

    def recorded(self) -> dict[str, Any] | None:
        """Return what ``run.json`` says of this run so far, None for a new folder.

        Raises:
            DestinationError: the folder holds something else; the message says what.
        """
        with self._told("read"):
            if not self.folder.exists():
                return None
            names = sorted(name for name in os.listdir(self.folder) if not name.startswith("."))
        run = read_run(self.folder)
        if run is None:
            if not names:
                return None
            raise DestinationError(
                f"'{self.folder}' must be empty or hold a set of this run, and it holds "
                f"'{names[0]}' and no {RUN}; choose another folder."
            )
        there = run["identity"]
        for name in [*self.identity, *there]:
            if name not in there or there[name] != self.identity.get(name):
                raise DestinationError(
                    f"'{self.folder}' holds a different run: '{name}' is {there.get(name)!r} there "
                    f"and {self.identity.get(name)!r} here; choose another folder, "
                    "or the same settings."
                )
        return run

    def rows(self) -> Iterator[Row]:
        """Read what is known of every image that is there; the later of two rows counts."""
        known = each_row(self.folder) if (self.folder / MANIFEST).exists() else iter(())
        for row in chain(known, self.journal.rows()):
            if _has_bytes(self.folder / row["file_name"]):
                yield row

    def __enter__(self) -> Self:
        """Lock the folder, making it if need be."""
        from filelock import FileLock, Timeout

        with self._told("written to"):
            parents = (self.folder, *self.folder.parents)
            self._made = [folder for folder in parents if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f"{_HIDDEN}lock")
            try:
                lock.acquire(timeout=-1 if self._wait else 0)
            except Timeout as error:
                raise DestinationError(
                    f"'{self.folder}' is being written to by another run; "
                    "wait for it, or choose another folder."
                ) from error
            self._lock = lock
            for abandoned in self.folder.glob(f"{_HIDDEN}*.tmp"):
                if abandoned.is_dir():
                    shutil.rmtree(abandoned)
                else:
                    abandoned.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock the folder; remove it if nothing came of the run."""
        # Under the lock: whoever opened the file before sees that it has no name any more.
        with suppress(OSError):
            os.unlink(self._lock.lock_file)
        self._lock.release()
        if not self.begun:
            for folder in self._made:
                with suppress(OSError):
                    folder.rmdir()

    def begin(self, run: Mapping[str, Any]) -> None:
        """Record the run, before its first image."""
        with self._told("written to"):
            if not (self.folder / RUN).exists():
                write_run(self.folder, {"identity": self.identity, **run})
            self.journal.start()
        self.begun = True

    def add(self, row: Row, data: bytes) -> None:
        """Write an image, and then its row: a row's image is always there, and whole."""
        with self._told("written to"):
            _replace(self.folder, row["file_name"], data)
            self.journal.append(row)

    def take(self, file: Path, row: Row) -> None:
        """Move an image here from a part of the set on the same file system, and then its row."""
        with self._told("written to"):
            target = self.folder / row["file_name"]
            if file.exists():  # else it was moved before an interruption
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
            self.journal.append(row)

    def remove(self, folder: Path) -> None:
        """Remove a folder in this one; stopped meanwhile, it is not seen again."""
        with self._told("written to"):
            abandoned = self.folder / f"{_HIDDEN}{secrets.token_hex(8)}.tmp"
            os.rename(folder, abandoned)
            shutil.rmtree(abandoned)

    def tidy(self) -> None:
        """Remove what a killed run left hidden, if no other one is at work here."""
        with suppress(DestinationError), self:
            self.begun = True

    def finish(self, run: Mapping[str, Any], order: Callable[[Row], Any]) -> int:
        """Write the manifest, sorted by ``order``, and remove what was hidden; count the images."""
        if not self.begun and not self.journal.path.exists():
            return 0
        with self._told("written to"):
            with ExitStack() as stack:
                parts, names = _sorted_parts(self.rows(), order, self.folder, stack)
                images = _write_rows(self.folder, _last_of_each(parts, order), names)
            write_run(self.folder, {"identity": self.identity, **run, "images": images})
            self.journal.path.unlink(missing_ok=True)
        return images

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
            raise DestinationError(
                f"'{self.folder}' could not be {done}: {error.strerror or error}; "
                + (
                    "choose another folder."
                    if in_the_way
                    else "once it can, the same command goes on where it stopped."
                )
            ) from error


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    named = isinstance(row, dict) and isinstance(row.get("file_name"), str)
    return row if named else None


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _sorted_parts(
    rows: Iterable[Row], order: Callable[[Row], Any], folder: Path, stack: ExitStack
) -> tuple[list[Iterator[Row]], set[str]]:
    """Sort rows in parts that fit into memory, written to files without a name, and name them."""
    left, names, parts = iter(rows), set[str](), list[Iterator[Row]]()
    while part := sorted(islice(left, PART), key=order):
        names.update(name for row in part for name in row)
        file = stack.enter_context(_unnamed(folder))
        file.writelines(map(_line, part))
        file.seek(0)
        parts.append(json.loads(line) for line in file)
    return parts, names


def _unnamed(folder: Path) -> IO[bytes]:
    """Open a file that goes when it is closed; where it needs a name, it has a hidden one."""
    return tempfile.TemporaryFile(dir=folder, prefix=_HIDDEN, suffix=".tmp")


def _last_of_each(parts: list[Iterator[Row]], order: Callable[[Row], Any]) -> Iterator[Row]:
    """Merge sorted rows; of several of one image the last one written counts."""
    for _, same in groupby(heapq.merge(*parts, key=order), key=order):
        yield from {row["file_name"]: row for row in same}.values()


def _has_bytes(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_size > 0  # a power cut can leave an empty file
    return False


def _replace(folder: Path, name: str, data: bytes) -> None:
    """Write a file of a set under a hidden name and rename it; subfolders are made."""
    with _replacing(folder, name) as temporary:
        temporary.write_bytes(data)


@contextmanager
def _replacing(folder: Path, name: str) -> Iterator[Path]:
    """Give the hidden path to write to, which has its name once it is whole."""
    # In the set's own folder: one that vanished must not be made anew.
    temporary = folder / f"{_HIDDEN}{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, folder / name)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
