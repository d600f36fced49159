"""What the benchmark of faults runs: the command of each job, and how what it leaves is checked.

A check knows nothing of how diffaug reads its own files: it opens pictures with Pillow, weights
with safetensors, and computes the checksum of an entry of the cache itself.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError, safe_open

#: The moments that a kill can come at, as what it left shows.
BEFORE, AMID, AFTER = "before the work", "amid the work", "after the work"


@dataclass(frozen=True)
class Left:
    """What a run left in its folder.

    Args:
        problems: what is wrong, one line each.
        made: how many images, or files of a model, are whole.
        alone: how many images have no row, and are made again.
    """

    problems: tuple[str, ...] = ()
    made: int = 0
    alone: int = 0


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, hidden ones too, with its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def differences(expected: Path, actual: Path) -> list[str]:
    """Say how a finished folder differs from the undisturbed one."""
    one, other = contents(expected), contents(actual)
    return [
        *(f"'{name}' is missing" for name in sorted(one.keys() - other.keys())),
        *(f"'{name}' is left over" for name in sorted(other.keys() - one.keys())),
        *(f"'{n}' differs" for n in sorted(one.keys() & other.keys()) if one[n] != other[n]),
    ]  # fmt: skip


def fault_of(path: Path) -> str | None:
    """Say why a picture, a table of weights or a JSON file is not whole."""
    try:
        match path.suffix:
            case ".jpg" | ".png" | ".webp":
                with Image.open(path) as image:
                    image.load()
            case ".safetensors":
                with safe_open(path, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118
                        opened.get_tensor(name)
            case ".json":
                json.loads(path.read_text())
    except (OSError, SyntaxError, ValueError, SafetensorError) as error:
        return f"'{path.name}' is half written: {error}"
    return None


class Job:
    """What the jobs have in common."""

    def cache(self, folder: Path, shared: Path) -> Path:
        """Return the cache of a run into a folder."""
        return shared

    def temporary(self, folder: Path) -> list[Path]:
        """Return the files that a finished folder may hold beyond those of an undisturbed one."""
        return []


class Augment(Job):
    """A set; a folder of it is finished when it has its manifest, and nothing hidden."""

    def arguments(self, source: Path, folder: Path, options: Sequence[str]) -> list[str]:
        return ["augment", str(source), str(folder), *options]

    def finished(self, folder: Path, whole: Path) -> bool:
        return (folder / "metadata.jsonl").exists() and not list(folder.glob(".*"))

    def moment(self, folder: Path, left: Left) -> str:
        if (folder / "metadata.jsonl").exists():
            return AFTER
        return AMID if left.made else BEFORE

    def look(self, folder: Path) -> Left:
        """Check a set in the making: every image is whole, and every row has its image, once."""
        if not folder.exists():
            return Left()
        images = {path for path in folder.rglob("*") if path.suffix == ".jpg"}
        problems, known = [*filter(None, map(fault_of, sorted(images)))], set()
        for part in {path.parent for path in folder.rglob("*.jsonl")}:
            manifest, journal = (
                list(_rows(part / name)) for name in ("metadata.jsonl", ".diffaug.journal.jsonl")
            )
            twice = (n for n, count in collections.Counter(manifest).items() if count > 1)
            problems += [f"'{name}' has two rows" for name in twice]
            for name in {*manifest, *journal}:
                places = (part / name, folder / name)
                known.update(place for place in places if place in images)
                if not known.intersection(places):
                    problems.append(f"'{name}' has a row and no image")
        return Left(tuple(problems), len(images), len(images - known))


def _rows(path: Path) -> Iterator[str]:
    """Return the images that the whole lines of a manifest or a journal tell of."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return (json.loads(line)["file_name"] for line in lines)


class Finetune(Job):
    """A fine-tuned folder; it is finished when its record says so, and no checkpoint is left."""

    def arguments(self, source: Path, folder: Path, options: Sequence[str]) -> list[str]:
        return ["finetune", str(source), str(folder), *options]

    def finished(self, folder: Path, whole: Path) -> bool:
        return {*contents(folder)} == {*contents(whole)} and self._record(folder)["finished"]

    def moment(self, folder: Path, left: Left) -> str:
        record = self._record(folder)
        if record["finished"]:
            return AFTER
        return AMID if "format" in record else BEFORE

    def look(self, folder: Path) -> Left:
        visible = [path for path in folder.rglob("*") if not path.name.startswith(".")]
        files = sorted(path for path in visible if path.is_file())
        return Left(tuple(filter(None, map(fault_of, files))), len(files))

    def _record(self, folder: Path) -> dict[str, object]:
        path = folder / "finetune.json"
        return json.loads(path.read_text()) if path.exists() else {"finished": False}


class Warm(Job):
    """A cache; it is finished when it has every entry of the undisturbed one."""

    def arguments(self, source: Path, folder: Path, options: Sequence[str]) -> list[str]:
        return ["warm", str(source), *options]

    def cache(self, folder: Path, shared: Path) -> Path:
        return folder

    def temporary(self, folder: Path) -> list[Path]:
        return list(folder.rglob("*.tmp"))

    def finished(self, folder: Path, whole: Path) -> bool:
        entries = self._entries(folder)
        return bool(entries) and self._entries(whole) <= entries

    def moment(self, folder: Path, left: Left) -> str:
        return AMID if left.made else BEFORE

    def look(self, folder: Path) -> Left:
        entries, problems = self._entries(folder), []
        for name in sorted(entries):
            data, file = (folder / name).read_bytes(), Path(name).name
            start, _, body = data.partition(b" ")[2].partition(b" ")
            if hashlib.sha256(file.encode() + body).hexdigest() != start.decode(errors="replace"):
                problems.append(f"'{file}' is half written")
        return Left(tuple(problems), len(entries))

    def _entries(self, folder: Path) -> set[str]:
        return {name for name in contents(folder) if not name.endswith(".tmp")}


JOBS = {"augment": Augment(), "finetune": Finetune(), "warm": Warm()}
