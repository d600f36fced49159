"""Fill a small disk at each stage of the commands that write, and run the same command again.

    python examples/benchmarks/faults_disk.py --out docs/benchmarks/faults.json

A disk of a few pages of 4 kB is mounted where nobody else sees it. On it, each command gets from no
room at all to nearly enough. It must end with one line that names the place and says that the disk
is full, and leave nothing half written. With room, the same command must go on, and make what it
makes on a disk that is never full, byte for byte.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from faults_jobs import differences, fault_of
from faults_processes import Process, import_all, save_models
from small_hub import SmallHub, point_at

PHOTOS = Path(__file__).parents[1] / "photos"
PAGE = 4096
PAGES = 1500
#: Seconds after which a command counts as hanging.
PATIENCE = 300
#: In the environment of the process that has a mount of its own.
MOUNTED = "DIFFAUG_FAULTS_MOUNT"


def kind(name: str) -> str:
    """Say what a file is."""
    path = Path(name)
    if path.name.startswith("checkpoint"):
        return "checkpoint"
    return {
        **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp"), "image"),
        **{".safetensors": "weights", ".parquet": "parquet", ".arrow": "arrow", ".tar": "tar"},
    }.get(path.suffix, path.name)


@dataclass(frozen=True)
class Job:
    """A command that writes below a folder.

    Args:
        arguments: returns those of ``diffaug`` for a folder.
        before: returns what the folder holds before, as a folder to copy; None for nothing.
        cache: whether the folder is the cache, too.
        inside: called in the process of the command, before it.
    """

    arguments: Callable[[Path], list[str]]
    before: Path | None = None
    cache: bool = False
    inside: Callable[[Path], None] | None = None
    kind: Callable[[str], str] = kind


@dataclass
class Outcome:
    """What became of one command on a disk of several sizes."""

    #: Pages of 4 kB that were free; none is a disk on which only empty files can be made.
    sizes: list[int] = field(default_factory=list)
    #: The file that found no room, by kind.
    stages: collections.Counter[str] = field(default_factory=collections.Counter)
    enough_room: int = 0
    clear_ends: int = 0
    identical_afterwards: int = 0
    problems: list[str] = field(default_factory=list)


def tell_renames(log: Path, place: Path, inside: Callable[[], None] | None) -> None:
    """Write down every file that gets its final name: the room taken then, and the name."""

    def tell(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename":
            with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
                file.write(f"{pages_of(place)} {os.fsdecode(arguments[1])}\n")

    sys.addaudithook(tell)
    if inside is not None:
        inside()


class Disk:
    """A small disk, and a plain one beside it; commands run on both."""

    def __init__(self, work: Path) -> None:
        self.work, self.plain, self.full = work, work / "plain", work / "small"
        for folder in (self.plain, self.full):
            folder.mkdir()
        self.filler = self.full / "filler"
        size = f"size={PAGES * PAGE}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", self.full], check=True)

    def leave(self, pages: int) -> None:
        """Fill the disk but for so many pages."""
        free = os.statvfs(self.full).f_bavail - pages
        self.filler.write_bytes(bytes(free * PAGE))

    def run(self, job: Job, place: Path) -> tuple[Process, list[tuple[int, str]]]:
        """Run a command to its end; return it, and the files that it renamed, in order."""
        log = self.work / "renames"
        log.unlink(missing_ok=True)
        inside = None if job.inside is None else partial(job.inside, place)
        process = Process(
            job.arguments(place),
            self.work,
            place if job.cache else self.work / "cache",
            partial(tell_renames, log, place, inside),
        )
        if process.wait(PATIENCE) is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)
        lines = log.read_text().splitlines() if log.exists() else []
        told = (line.partition(" ") for line in lines)
        return process, [(int(pages), name) for pages, _, name in told]

    def place(self, root: Path, job: Job) -> Path:
        place = root / "run"
        if job.before is None:
            place.mkdir()
        else:
            shutil.copytree(job.before, place)
        return place

    def try_all(self, job: Job, count: int) -> Outcome:
        """Run a command with so many sizes of the disk."""
        outcome, plain = Outcome(), self.place(self.plain, job)
        before = pages_of(plain)
        process, order = self.run(job, plain)
        if process.code:
            outcome.problems.append(f"it fails on a plain disk: {' | '.join(process.said()[-3:])}")
            count = 0
        # So much room was taken at most, as one file was still beside the one that it replaces.
        most = max((pages for pages, _ in order), default=before) - before
        for number in range(count):
            pages = number * most // count
            if pages not in outcome.sizes:
                outcome.sizes.append(pages)
                self.try_one(job, pages, order, outcome)
        shutil.rmtree(plain)
        return outcome

    def try_one(
        self, job: Job, pages: int, order: Sequence[tuple[int, str]], outcome: Outcome
    ) -> None:
        """Run a command with so many pages of room, then with plenty."""
        place = self.place(self.full, job)
        self.leave(pages)
        process, done = self.run(job, place)
        if process.code == 0:
            outcome.enough_room += 1
        else:
            name = order[len(done)][1] if len(done) < len(order) else "the end"
            outcome.stages[job.kind(name)] += 1
            faults = [*unclear(process, place), *half_written(place)]
            outcome.problems += [f"with {pages} pages: {fault}" for fault in faults]
            outcome.clear_ends += not faults
        self.filler.unlink()
        process, _ = self.run(job, place)
        faults = [f"it fails again: {' | '.join(process.said()[-3:])}"] if process.code else []
        faults += [
            fault
            for fault in differences(self.plain / "run", place)
            if "'CACHEDIR.TAG'" not in fault  # which huggingface_hub writes once, if it can
        ]
        outcome.problems += [f"with {pages} pages, then with room: {fault}" for fault in faults[:3]]
        outcome.identical_afterwards += not faults
        shutil.rmtree(place)


def pages_of(folder: Path) -> int:
    """Return the room that the files of a folder take."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(-(-path.stat().st_size // PAGE) for path in files)


def unclear(process: Process, place: Path) -> list[str]:
    """Say why the end of a command is not clear."""
    said = process.said()
    errors = [line for line in said if "diffaug: error: " in line]
    if process.code is None or process.code < 0:
        return [f"it ended with {process.code}"]
    if len(errors) != 1 or any("Traceback" in line for line in said):
        return [f"it said {' | '.join(said[-3:])}"]
    full = "Not enough disk space" if "Not enough disk space" in errors[0] else "No space left"
    wanted = (str(place), full, "same command")
    return [f"it did not say {word!r}: {errors[0]}" for word in wanted if word not in errors[0]]


def half_written(place: Path) -> list[str]:
    """Say which files are not whole, or should not be there after a clear end."""
    paths = [path for path in place.rglob("*") if path.is_file()]
    return [
        *filter(None, (fault_of(path) for path in paths if path.suffix != ".incomplete")),
        *(
            f"'{path.name}' is left"
            for path in paths
            if path.suffix == ".tmp" or path.name == ".diffaug.lock"
        ),
    ]


def made(work: Path, *arguments: str) -> None:
    """Run a command whose result others start from."""
    process = Process(arguments, work, work / "cache")
    if process.wait(PATIENCE) != 0:
        raise RuntimeError(f"'{' '.join(arguments)}' failed: {process.said()[-3:]}")


def jobs(work: Path, source: Path, endpoint: str) -> dict[str, Job]:
    """Return the commands, and make what they start from."""
    from diffaug.export.formats import FORMATS, NEEDED  # torch must see what import_all has set

    edit = ["--backend", str(work / "edit"), "--steps", "1", "--batch-size", "4"]
    edit += ["--prompts", "snowy", "--prompts", "sunset"]
    copies = [*edit, "--size", "64", "--per-image", "2", "--fractals", str(source)]
    steps = "--steps 8 --checkpoint-every 2 --sample-every 4 --rank 2 --batch-size 2".split()
    tuned = ["--base", str(work / "translate"), "--metaclass", "thing", "--device", "cpu", *steps]
    finished, parts = work / "set", work / "parts"
    made(work, "augment", str(source), str(finished), *copies)
    for share, folder in (("1/2", parts), ("2/2", work / "other")):
        made(work, "augment", str(source), str(folder), *copies, "--shard", share)
    hidden = Path(".diffaug.parts-of-2", "2")
    os.rename(work / "other" / hidden, parts / hidden)
    judged = ["--scorer", "similarity", "--low", "-1", "--high", "1", "--source", str(source)]

    def exported(format: str) -> Job:
        return Job(lambda place: ["export", str(finished), f"{place}/out", "--format", format])

    formats = [f for f in FORMATS if all(map(find_spec, NEEDED.get(f, ())))]
    return {
        "augment": Job(lambda place: ["augment", str(source), f"{place}/set", *copies]),
        "warm": Job(
            lambda place: ["warm", str(source), *edit, "--size", "64,64", "--variants", "2"],
            cache=True,
        ),
        "finetune": Job(lambda place: ["finetune", str(source), f"{place}/model", *tuned]),
        "filter": Job(lambda place: ["filter", str(place), *judged], finished),
        "merge": Job(lambda place: ["merge", str(place)], parts),
        **{f"export {format}": exported(format) for format in formats},
        "preview sheet": Job(lambda place: ["preview", str(finished), f"{place}/sheet.png"]),
        "preview page": Job(lambda place: ["preview", str(finished), f"{place}/page.html"]),
        "download": Job(
            lambda place: ["download", "org/name"],
            inside=lambda place: point_at(endpoint, place),
            kind=lambda name: "branch" if name.endswith("/main") else "model file",
        ),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, object]]:
    """Try the commands asked for; return what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", nargs="+", help="such as 'augment' or 'export hf' [all]")
    parser.add_argument("--sizes", type=int, default=12, help="of the disk, for each command")
    parser.add_argument("--source", type=Path, default=PHOTOS)
    parser.add_argument("--out", type=Path, help="JSON; what else is in it stays")
    asked = parser.parse_args(argv)
    import_all()
    found: dict[str, dict[str, object]] = {}
    # No TemporaryDirectory: each run that is forked would remove it at its exit.
    work, server = Path(tempfile.mkdtemp(prefix="faults-")), 0
    try:
        save_models(work)
        os.environ["NO_PROXY"] = "127.0.0.1"
        hub = SmallHub(work / "translate")
        server = os.fork()
        if not server:
            hub.serve()
        everything = jobs(work, asked.source, hub.endpoint)
        disk = Disk(work)
        for name in asked.commands or everything:
            outcome = disk.try_all(everything[name], asked.sizes)
            found[name] = {**vars(outcome), "stages": dict(outcome.stages)}
            print(
                f"{name:20}{len(outcome.sizes):3} sizes, {outcome.enough_room} with enough room, "
                f"{outcome.clear_ends} clear ends, {outcome.identical_afterwards} identical "
                f"afterwards, {dict(outcome.stages)}",
                flush=True,
            )
            for problem in outcome.problems:
                print(f"  {problem}", flush=True)
        if asked.out is not None:
            write(asked.out, found)
    finally:
        if server:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
        subprocess.run(["umount", work / "small"], check=False, capture_output=True)
        shutil.rmtree(work, ignore_errors=True)
    return found


def write(path: Path, found: dict[str, dict[str, object]]) -> None:
    """Write what was found, beside what is there of other commands."""
    record = json.loads(path.read_text()) if path.exists() else {}
    record["disk"] = {**record.get("disk", {}), **found}
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    if MOUNTED not in os.environ:
        own = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
        command = [*own, sys.executable, *sys.argv]
        os.execvpe(command[0], command, {**os.environ, MOUNTED: "1"})
    sys.exit(any(one["problems"] for one in main().values()))
