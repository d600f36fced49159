"""The folder of a set, for the one run at a time that adds to it.

While a set is made, its rows are journalled in a hidden file, so that a run killed at any moment
can be resumed. Everything hidden starts with ``.diffaug.`` and is removed at the end.
"""

import errno
import heapq
import json
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO, Any, Self

from diffaug.errors import DestinationError, DiffaugError, disk_trouble, unwritable
from diffaug.offline.card import write_card
from diffaug.offline.manifest import (
    HIDDEN,
    JOURNAL,
    MANIFEST,
    RUN,
    Row,
    each_line,
    each_row,
    parse_row,
    read_manifest,
    read_record,
    replacing,
    row_line,
    write_file,
    write_manifest,
    write_rows,
    write_run,
)
from diffaug.offline.summary import Tally
from diffaug.untrusted import open_regular, path_below

#: What the system says where a file system has no locks, as some of clusters.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
#: Rows sorted in memory at once, about 50 MB of them.
PART = 20_000


@contextmanager
def rewriting(folder: str | os.PathLike[str]) -> Iterator[list[Row]]:
    """Give the rows of a finished set to be changed in place, and write them back at the end.

    Nothing else can add to the set meanwhile. After an error inside, the manifest is as it was.

    Args:
        folder: the set's folder. A run that resumes the set later keeps the changes.

    Raises:
        ValueError: the folder holds no ``metadata.jsonl``, or a line of it is not a row.
        DestinationError: a run is writing to the set or was stopped, or the folder is read-only.

    Example:
        >>> import tempfile
        >>> from diffaug.offline.destination import rewriting
        >>> from diffaug.offline.manifest import read_manifest, write_manifest
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_manifest(folder, [{"file_name": "cat/1__0.jpg"}])
        ...     with rewriting(folder) as rows:
        ...         rows[0]["kept"] = True
        ...     read_manifest(folder)[0]["kept"]
        True
    """
    destination = Destination(folder, {})
    if not destination.journal.path.exists():
        read_manifest(destination.folder)  # a folder without a set is refused before it is touched
    with destination:
        # Rows of the journal are not in the manifest yet, and would replace what is written now.
        if destination.journal.path.exists():
            raise DestinationError(
                f"'{destination.folder}' holds the set of a run that was stopped; finish it first: "
                "run the same command again."
            )
        rows = read_manifest(destination.folder)
        yield rows
        with destination._errors_said("written to"):
            write_manifest(destination.folder, rows)
            write_card(destination.folder, anew=True)


def check_outside(destination: str | os.PathLike[str], source: Path) -> None:
    """Refuse a destination inside its source.

    Raises:
        DestinationError: it lies there.
    """
    if Path(destination).expanduser().resolve().is_relative_to(source.resolve()):
        raise DestinationError(
            f"'{destination}' lies inside the source '{source}', and the next run would take it "
            "for a class; choose a folder outside the source."
        )


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
        self.path = Path(folder, JOURNAL)

    def rows(self) -> Iterator[Row]:
        """Read the rows that are whole; none if there is no journal."""
        try:
            file = open_regular(self.path)
        except FileNotFoundError:
            return
        with file:
            for line in each_line(file):
                row = parse_row(line) if line.endswith(b"\n") else None
                if row is not None:
                    yield row

    def start(self) -> None:
        """Make the file, or cut off what follows its last whole line."""
        with self.path.open("a+b") as file:
            file.seek(0)
            file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def append(self, row: Row) -> None:
        """Add a row; it is in the file when this returns."""
        # Not mode "ab": it would make a new file in a folder that was removed and made again.
        with self.path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(row_line(row))


class OutputFolder:
    """A folder that one run at a time may write to, and that says which run it is of.

    An error before the record is written leaves no trace of the folder.

    Args:
        folder: need not exist.
        identity: the plain values that make a run what it is. A folder of another run, or with
            anything else in it, is refused.
        record: name of the JSON file that holds the identity.
        wait: wait while another run has the folder, instead of raising.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        record: str,
        *,
        wait: bool = False,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.identity = json.loads(json.dumps(identity))
        self.record = record
        self._wait = wait
        self._new_folders: list[Path] = []
        self._lock: Any = None

    def recorded(self) -> dict[str, Any] | None:
        """Return what the folder says of this run so far, None for a new folder.

        Raises:
            DestinationError: the folder holds something else; the message says what.
        """
        with self._errors_said("read"):
            if not self.folder.exists():
                return None
            names = sorted(name for name in os.listdir(self.folder) if not name.startswith("."))
        run = read_record(self.folder / self.record)
        if run is None:
            if not names:
                return None
            raise DestinationError(
                f"'{self.folder}' must be empty or of this run, and it holds '{names[0]}' and "
                f"no {self.record}; choose another folder."
            )
        recorded = run["identity"]
        for name in [*self.identity, *recorded]:
            if name not in recorded or recorded[name] != self.identity.get(name):
                raise DestinationError(
                    f"'{self.folder}' holds a different run: '{name}' is {recorded.get(name)!r} "
                    f"there and {self.identity.get(name)!r} here; choose another folder, "
                    "or the same settings."
                )
        return run

    def __enter__(self) -> Self:
        """Make the folder if there is none, and lock it."""
        with self._errors_said("written to"), ExitStack() as undo:
            parents = (self.folder, *self.folder.parents)
            self._new_folders = [folder for folder in parents if not folder.exists()]
            undo.callback(self._remove_new_folders)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquired()
            undo.callback(self._unlock)
            for abandoned in self.folder.glob(f"{HIDDEN}*.tmp"):
                if abandoned.is_dir():
                    shutil.rmtree(abandoned)
                else:
                    abandoned.unlink(missing_ok=True)
            undo.pop_all()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Unlock the folder, remove it if the run never began, and say that a disk was full."""
        self._unlock()
        self._remove_new_folders()
        # Whatever was written, and whatever another library has made of it.
        trouble = None if isinstance(error, DiffaugError) else disk_trouble(error)
        if trouble is not None:
            raise unwritable(trouble.filename or self.folder, trouble, "written to") from error

    def _acquired(self) -> Any:
        """Lock the folder; where there are no locks, by a file that is there while a run writes."""
        from filelock import FileLock, SoftFileLock, Timeout

        soft = SoftFileLock(self.folder / f"{HIDDEN}soft-lock")
        for lock in (FileLock(self.folder / f"{HIDDEN}lock"), soft):
            try:
                lock.acquire(timeout=-1 if self._wait else 0)
                break
            except Timeout as error:
                killed = f"; if it was killed, remove '{soft.lock_file}'" if lock is soft else ""
                raise DestinationError(
                    f"'{self.folder}' is being written to by another run; "
                    f"wait for it, or choose another folder{killed}."
                ) from error
            except (OSError, NotImplementedError) as error:  # of older versions, for ENOSYS
                with suppress(OSError):
                    os.unlink(lock.lock_file)
                known = not isinstance(error, OSError) or error.errno in _NO_LOCKS
                if lock is soft or not known:
                    raise
        if lock is soft:
            warnings.warn(
                f"the disk of '{self.folder}' has no locks, and '{soft.lock_file}' is there "
                "instead while this run writes; do not start a second run there.",
                UserWarning,
                stacklevel=6,
            )
        return lock

    def _unlock(self) -> None:
        # Still under the lock: a run that has opened the file sees that it has no name any more.
        with suppress(OSError):
            os.unlink(self._lock.lock_file)
        self._lock.release()

    def _remove_new_folders(self) -> None:
        for folder in self._new_folders:
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        with self._errors_said("written to"):
            write_file(self.folder, name, data)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Give a hidden path to write to; the file gets its name once it is whole."""
        with self._errors_said("written to"), replacing(self.folder, name) as path:
            yield path

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a hidden folder that is removed at the end, or by the next run."""
        scratch = tempfile.TemporaryDirectory(".tmp", HIDDEN, self.folder)
        with self._errors_said("written to"), scratch as folder:
            yield Path(folder)

    @contextmanager
    def _errors_said(self, done: str) -> Iterator[None]:
        """Raise a DestinationError for an error of the file system."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.folder, error, done) from error


class Destination(OutputFolder):
    """The folder of a set, for the one run that may add to it at a time.

    Args:
        folder, identity, wait: as for :class:`OutputFolder`.
    """

    def __init__(
        self, folder: str | os.PathLike[str], identity: Mapping[str, Any], *, wait: bool = False
    ) -> None:
        super().__init__(folder, identity, RUN, wait=wait)
        self.journal = Journal(self.folder)
        self.begun = False

    def rows(self) -> Iterator[Row]:
        """Read the row of every image that is there; of two rows of one image the later counts."""
        known = each_row(self.folder) if (self.folder / MANIFEST).exists() else iter(())
        for row in chain(known, self.journal.rows()):
            if _has_bytes(self.folder / row["file_name"]):
                yield row

    def begin(self, run: Mapping[str, Any], folders: Iterable[str] = ()) -> None:
        """Record the run before its first image, and make the folder of every class."""
        with self._errors_said("written to"):
            if not (self.folder / RUN).exists():
                write_run(self.folder, {"identity": self.identity, **run})
            self.make_folders(folders)
            self.journal.start()
        self.begun = True

    def make_folders(self, names: Iterable[str]) -> None:
        """Make folders; a class without images has one, or ImageFolder would number it away."""
        if not (self.folder / RUN).exists():
            return
        with self._errors_said("written to"):
            for name in names:
                (self.folder / name).mkdir(exist_ok=True)

    def folders(self) -> list[str]:
        """Return the class folders that are there, also those without an image."""
        with self._errors_said("read"), os.scandir(self.folder) as entries:
            return [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]

    def add(self, row: Row, data: bytes) -> None:
        """Write an image, then its row, so that the image of a row is always there and whole."""
        self.write(row["file_name"], data)
        with self._errors_said("written to"):
            self.journal.append(row)

    def take(self, part: Path, row: Row) -> None:
        """Move an image here from a part of the set on the same file system, and add its row.

        Raises:
            DestinationError: a link would lead the image out of the part or of the set.
        """
        try:
            file = path_below(part, row["file_name"])
            target = path_below(self.folder, row["file_name"])
        except ValueError as error:
            raise DestinationError(f"'{part}' is no part that diffaug made: {error}") from error
        with self._errors_said("written to"):
            if file.exists():  # else it was moved before an interruption
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
            self.journal.append(row)

    def remove(self, folder: Path) -> None:
        """Remove a folder in this one; if this is interrupted, the rest of it has a hidden name."""
        with self._errors_said("written to"):
            abandoned = self.folder / f"{HIDDEN}{secrets.token_hex(8)}.tmp"
            os.rename(folder, abandoned)
            shutil.rmtree(abandoned)

    def tidy(self) -> None:
        """Remove the hidden files that a killed run left, unless another run works here."""
        with suppress(DestinationError), self:
            pass

    def finish(
        self, run: Mapping[str, Any], order: Callable[[Row], Any], tally: Tally | None = None
    ) -> int:
        """Write the manifest, sorted by ``order``, and remove what was hidden; count the images."""
        tally = tally or Tally()
        if not self.begun and not self.journal.path.exists():
            tally.count(self.rows())
            self._write_card()
            return 0
        with self._errors_said("written to"):
            with ExitStack() as stack:
                parts, names = _sorted_parts(self.rows(), order, self.folder, stack)
                rows = tally.counting(_last_of_each(parts, order))
                images = write_rows(self.folder, rows, names)
            about = tally.record(run.get("classes") or ())
            if run.get("classes"):  # its older images may be of classes that the source has lost
                about["classes"] = list(about["images_per_class"])
            write_run(self.folder, {"identity": self.identity, **run, "images": images, **about})
            self._write_card(anew=True)
            self.journal.path.unlink(missing_ok=True)
        return images

    def _write_card(self, anew: bool = False) -> None:
        """Describe the set; a part of a set needs no card."""
        if "shard" not in self.identity and (self.folder / MANIFEST).exists():
            with self._errors_said("written to"):
                write_card(self.folder, anew=anew)


def _sorted_parts(
    rows: Iterable[Row], order: Callable[[Row], Any], folder: Path, stack: ExitStack
) -> tuple[list[Iterator[Row]], set[str]]:
    """Sort rows in parts that fit into memory, and write these to files without a name.

    Returns:
        The rows of each part, and the names of all columns.
    """
    remaining, names, parts = iter(rows), set[str](), list[Iterator[Row]]()
    while part := sorted(islice(remaining, PART), key=order):
        names.update(name for row in part for name in row)
        file = stack.enter_context(_unnamed(folder))
        file.writelines(map(row_line, part))
        file.seek(0)
        parts.append(json.loads(line) for line in file)
    return parts, names


def _unnamed(folder: Path) -> IO[bytes]:
    """Open a file that is gone when it is closed; where it needs a name, the name is hidden."""
    return tempfile.TemporaryFile(dir=folder, prefix=HIDDEN, suffix=".tmp")


def _last_of_each(parts: list[Iterator[Row]], order: Callable[[Row], Any]) -> Iterator[Row]:
    """Merge sorted rows; of several rows of one image the last one written counts."""
    for _, same in groupby(heapq.merge(*parts, key=order), key=order):
        yield from {row["file_name"]: row for row in same}.values()


def _has_bytes(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_size > 0  # a power cut can leave an empty file
    return False
