"""Making one set in several processes or on several machines: its parts, and how they are merged.

A part is a set of its own in a hidden folder of the destination, so it is locked, stopped and
resumed like any other set. The process that finishes the last part merges them all.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diffaug.checked import checked
from diffaug.errors import DestinationError
from diffaug.offline.destination import Destination, Journal
from diffaug.offline.manifest import MANIFEST, PARTS, each_row, read_run
from diffaug.offline.plan import order
from diffaug.offline.summary import COUNTED, Tally

#: All parts lie in one folder, which is removed when they are merged.
_PARTS = PARTS + "{}"
#: Where launchers write the number of a process, and of all: torchrun and accelerate, Slurm.
#: (Not SLURM_NTASKS: a batch script has it, too, and is a single process.)
_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))


@dataclass(frozen=True, order=True)
class Shard:
    """One of several equal shares of a set, counted from 1."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: "str | Self | None") -> Self | None:
        """Read ``"3/16"``; a shard, or None, comes back as it is.

        Raises:
            ValueError: the text has another form, or the number is not from 1 to the total.

        Example:
            >>> Shard.parse("3/16")
            Shard(number=3, total=16)
        """
        if not isinstance(text, str):
            return text
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"'shard' must be like 3/16, from 1/16 to 16/16, got {text!r}.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def takes(self, number: int) -> bool:
        """Return whether the source or pair of this number belongs to the share."""
        return number % self.total == self.number - 1

    def folder(self, destination: str | os.PathLike[str]) -> Path:
        """Return the hidden folder that the part is made in."""
        return Path(destination).expanduser() / _PARTS.format(self.total) / str(self.number)


def shard_of_process(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """Return the share of this process under torchrun or Slurm; None for a single process.

    Example:
        >>> shard_of_process({"RANK": "2", "WORLD_SIZE": "16"})
        Shard(number=3, total=16)
    """
    for rank, world in _LAUNCHERS:
        if rank in environment and int(environment.get(world, "1")) > 1:
            return Shard(int(environment[rank]) + 1, int(environment[world]))
    return None


def parts_of(destination: str | os.PathLike[str]) -> list[Shard]:
    """Return the parts that lie in a destination, finished or not."""
    folders = Path(destination).expanduser().glob(f"{_PARTS.format('*')}/*")
    names = (re.fullmatch(r"(\d+)/(\d+)", f"{path.name}/{_total(path)}") for path in folders)
    return sorted(Shard(int(match[1]), int(match[2])) for match in names if match)


def begun_with_marks(destination: str | os.PathLike[str]) -> bool:
    """Return whether the images of a set, or of any of its parts, are marked; of a new one, yes."""
    folders = [part.folder(destination) for part in parts_of(destination)]
    runs = map(read_run, [Path(destination).expanduser(), *folders])
    return all(run["identity"].get("mark", False) for run in runs if run is not None)


def _total(part: Path) -> str:
    return part.parent.name.rpartition("-")[2]


def unfinished(destination: str | os.PathLike[str]) -> list[Shard]:
    """Return the parts that must be finished before all can be merged."""
    parts = parts_of(destination)
    shards = {Shard(index + 1, part.total) for part in parts for index in range(part.total)}
    return sorted(shard for shard in shards if not _is_finished(shard.folder(destination)))


def _is_finished(part: Path) -> bool:
    return (part / MANIFEST).exists() and not Journal(part).path.exists()


@checked
def merge(destination: str | os.PathLike[str]) -> int:
    """Merge the finished parts of a set; return how many images the set has then.

    Call it again after an interruption, and it resumes. A set that is whole stays as it is.

    Args:
        destination: what ``augment_folder`` was given, with ``shard``.

    Raises:
        ValueError: there are neither parts nor a finished set.
        DestinationError: a part is not finished, parts are of different runs, or the destination is
            in use or cannot be written to.

    Example:
        >>> import tempfile, torch
        >>> from diffaug import PromptEdit, RecordingBackend, augment_dataset, merge
        >>> edit = PromptEdit(backend=RecordingBackend())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     part = augment_dataset([(torch.rand(3, 32, 32), 0)] * 2, folder, edit, shard="1/2")
        ...     merge(folder)
        Traceback (most recent call last):
        diffaug.errors.DestinationError: '...' lacks 1 finished parts (2/2); run them, then merge.
    """
    folder = Path(destination).expanduser()
    if not parts_of(folder) and not _is_finished(folder):  # else it was stopped as it tidied up
        raise ValueError(
            f"'destination' must hold parts of a set, and '{destination}' has none; make them with "
            "augment_folder(..., shard='1/4') or 'diffaug augment --shard 1/4'."
        )
    return join(folder).total


def join(folder: Path) -> Tally:
    """Merge as ``merge`` does, or wait for another process that does, and count the images."""
    tally = Tally()
    with Destination(folder, {}, wait=True) as whole:
        parts = parts_of(folder)
        if not parts:  # another process has merged them meanwhile
            tally.count(each_row(folder))
            return tally
        if missing := unfinished(folder):
            named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            raise DestinationError(
                f"'{folder}' lacks {len(missing)} finished parts ({named}); run them, then merge."
            )
        for part in parts:
            _refuse_link(part.folder(folder), folder)
        runs = [_run_of(part, folder) for part in parts]
        shared = ("identity", "per_image", "batch_size")
        if any(run[name] != runs[0][name] for run in runs for name in shared):
            raise DestinationError(
                f"'{folder}' holds parts of different runs; choose another folder, or remove "
                "the hidden folders of one of them."
            )
        whole.identity = runs[0].pop("identity")
        whole.recorded()
        skipped = {tuple(entry.items()): entry for run in runs for entry in run["skipped"]}
        record = {**runs[0], "skipped": [skipped[key] for key in sorted(skipped)]}
        for counted in ("images", *COUNTED):
            record.pop(counted, None)
        whole.begin(record, sorted({name for part in parts for name in _folders(part, folder)}))
        for part in parts:
            for row in each_row(part.folder(folder)):
                whole.take(part.folder(folder), row)
        whole.finish(record, order, tally)
        whole.remove(parts[0].folder(folder).parent)
    return tally


def _refuse_link(part: Path, folder: Path) -> None:
    """Refuse a part that lies elsewhere, where images would be taken from."""
    if os.path.realpath(part) != os.path.join(os.path.realpath(folder), part.relative_to(folder)):
        raise DestinationError(f"'{part}' must be a folder, and a link leads elsewhere; remove it.")


def _folders(part: Shard, folder: Path) -> list[str]:
    """Return the class folders of a part, also those without an image."""
    return Destination(part.folder(folder), {}).folders()


def _run_of(part: Shard, folder: Path) -> dict[str, Any]:
    """Return what made a part, with the identity of the whole set."""
    run = read_run(part.folder(folder))
    if run is None:
        raise DestinationError(
            f"'{part.folder(folder)}' has no run.json; remove the folder, and make the part again."
        )
    return {**run, "identity": {k: v for k, v in run["identity"].items() if k != "shard"}}
