"""Kill offline runs with signal 9 at random moments, resume them, and look for what is lost.

    python examples/benchmarks/faults.py --kills 20 --out docs/benchmarks/faults.json

Every way of running is killed again and again; after each kill, images and rows are checked, and
every set that comes to its end is held against one that was never disturbed, byte for byte.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from PIL import Image

PHOTOS = Path(__file__).parents[1] / "photos"
#: The command line, in this interpreter.
DIFFAUG = [sys.executable, "-m", "diffaug", "augment"]
#: Packages whose versions are written down.
PACKAGES = ("diffaug", "torch", "diffusers", "pillow")
#: Seconds after which a process of a killed run counts as left over.
GRACE = 5
#: Seconds after which a run counts as hanging.
PATIENCE = 300
#: Every process of a run has it in its environment, so that none can hide from us.
MARK = "DIFFAUG_FAULTS_RUN"


@dataclass(frozen=True)
class Way:
    """A way of running: the options of each process that is started, and who is killed in turn."""

    processes: tuple[tuple[str, ...], ...]
    victims: tuple[str, ...]
    needs: str = "--shard"


WAYS = {
    "local": Way(((),), ("process", "group")),
    "shards": Way((("--shard", "1/2"), ("--shard", "2/2")), ("one", "all")),
    "processes": Way(((), ()), ("one", "all")),
    "devices": Way((("--devices", "cpu:0,cpu:1"),), ("process", "model", "group"), "--devices"),
    "ray": Way((("--engine", "ray"),), ("process", "model", "group"), "--engine"),
}


@dataclass
class Tally:
    """What became of one way of running."""

    seconds_undisturbed: float = 0.0
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    moments: collections.Counter[str] = field(default_factory=collections.Counter)
    runs: int = 0
    sets: int = 0
    refused: int = 0
    #: Runs that ended with one line about their model's death, which are resumed.
    clear_errors: int = 0
    #: Images that a kill left without a row.
    images_made_again: int = 0
    seconds_until_all_was_gone: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Process:
    """One process of a run, and all that it starts."""

    count = itertools.count()

    def __init__(self, command: Sequence[str], work: Path, cache: Path) -> None:
        self.mark = f"{os.getpid()}-{next(self.count)}"
        self.log = work / f"{self.mark}.log"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "DIFFAUG_CACHE": str(cache),
            "XDG_RUNTIME_DIR": str(work),
            "RAY_TMPDIR": str(work),
            MARK: self.mark,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def members(self) -> dict[int, str]:
        """Return the command lines, by process, of all that live and belong to it."""
        wanted, found = f"{MARK}={self.mark}".encode(), {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and wanted in (entry / "environ").read_bytes().split(
                    b"\0"
                ):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found

    def models(self) -> list[int]:
        """Return the processes that hold a model: our own, or Ray's actors."""
        named = ("process/watchdog.py", "ray::MapWorker")
        return [pid for pid, line in self.members().items() if any(name in line for name in named)]

    def said(self) -> list[str]:
        """Return the lines that it wrote, without its progress."""
        lines = self.log.read_text(errors="replace").replace("\r", "\n").splitlines()
        told = (re.sub(r".*(image/s|s/image)]", "", line).strip() for line in lines)
        return [line for line in told if line]

    def gone(self, seconds: float) -> bool:
        """Wait until all of it has ended."""
        until = time.monotonic() + seconds
        while self.process.poll() is None or self.members():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True


def brief(line: str) -> str:
    """Return the names of a program and of what it runs, without this machine's folders."""
    if "process/watchdog.py" in line:
        return "a model's process"
    return " ".join(Path(word).name for word in line.split()[:2])


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, hidden ones too, with its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def differences(expected: Path, actual: Path) -> list[str]:
    """Say how a finished set differs from the undisturbed one."""
    one, other = contents(expected), contents(actual)
    return [
        *(f"'{name}' is missing" for name in sorted(one.keys() - other.keys())),
        *(f"'{name}' is left over" for name in sorted(other.keys() - one.keys())),
        *(f"'{n}' differs" for n in sorted(one.keys() & other.keys()) if one[n] != other[n]),
    ]  # fmt: skip


def rows_of(folder: Path, name: str) -> list[str]:
    """Return the images that the whole lines of a manifest or a journal tell of."""
    path = folder / name
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["file_name"] for line in lines]


def faults_in(folder: Path) -> tuple[list[str], int, int]:
    """Return what is wrong with a set in the making, its whole images, and those without a row."""
    problems, images, known = [], set(), set()
    if not folder.exists():
        return [], 0, 0
    for path in folder.rglob("*"):
        if path.suffix == ".jpg":
            images.add(path)
            try:
                with Image.open(path) as image:
                    image.load()
            except Exception as error:
                problems.append(f"'{path.relative_to(folder)}' is half written: {error}")
    for part in {path.parent for path in folder.rglob("*.jsonl")}:
        manifest, journal = (
            rows_of(part, name) for name in ("metadata.jsonl", ".diffaug.journal.jsonl")
        )
        problems += [
            f"'{n}' has two rows" for n, k in collections.Counter(manifest).items() if k > 1
        ]
        for name in {*manifest, *journal}:
            place = next((p for p in (part / name, folder / name) if p in images), None)
            known.add(place)
            if place is None:
                problems.append(f"'{name}' has a row and no image")
    return problems, len(images), len(images - known)


def moment(images: int, written: bool) -> str:
    """Name the moment that a kill came at, by what it left."""
    if written:
        return "after the last image"
    return "before the first image" if not images else "amid the images"


class Trial:
    """One way of running, killed until enough kills are dealt."""

    def __init__(
        self, name: str, work: Path, photos: Path, model: Sequence[str], seed: int
    ) -> None:
        self.name, self.way, self.work = name, WAYS[name], work
        self.chance, self.tally = random.Random(f"{seed} {name}"), Tally()
        self.source, self.model = photos, model
        self.folders = itertools.count()
        self.cache = self.fresh()

    def start(self, folder: Path) -> list[Process]:
        self.tally.runs += 1
        return [
            Process(
                [*DIFFAUG, str(self.source), str(folder), *self.model, *options],
                self.work,
                self.cache,
            )
            for options in self.way.processes
        ]

    def fresh(self) -> Path:
        return self.work / f"{self.name}-{next(self.folders)}"

    def finished(self, folder: Path) -> bool:
        """Tell whether a set is whole, and nothing hidden is left in it."""
        return (folder / "metadata.jsonl").exists() and not list(folder.glob(".*"))

    def end(
        self,
        processes: Sequence[Process],
        killed: Sequence[Process] = (),
        *,
        orphaned: bool = False,
    ) -> None:
        """Wait for what was not killed, orphaned of its model or not, and note what is wrong."""
        notes = self.tally.problems
        for one in processes:
            try:
                code = one.process.wait(1 if one in killed else PATIENCE)
            except subprocess.TimeoutExpired:
                notes.append(f"a run hung: {one.said()[-3:]}")
                one.process.kill()
                one.process.wait()
                continue
            said = one.said()
            if code == 0 or one in killed:
                pass
            elif any("being written to by another run" in line for line in said):
                self.tally.refused += 1
            elif orphaned and sum("diffaug: error: " in line for line in said) == 1:
                self.tally.clear_errors += 1
            else:
                notes.append(f"a run ended with code {code}: {' | '.join(said[-3:])}")
            if any("Traceback" in line for line in said):
                notes.append(f"a run showed a traceback: {' | '.join(said[-3:])}")
        began = time.monotonic()
        for one in processes:
            if not one.gone(GRACE):
                left = sorted(brief(line) for line in one.members().values())
                notes.append(f"left after {GRACE} s: {', '.join(left)}")
                for pid in one.members():
                    os.kill(pid, signal.SIGKILL)
        gone = time.monotonic() - began
        self.tally.seconds_until_all_was_gone = max(self.tally.seconds_until_all_was_gone, gone)
        for path in self.work.glob("diffaug-*/*.sock*"):
            notes.append(f"the socket {path.name} is left")
            path.unlink()

    def kill(self, processes: Sequence[Process], victim: str) -> list[Process]:
        """Kill at a random moment; return the processes of ours that it hit."""
        time.sleep(self.chance.uniform(0, self.tally.seconds_undisturbed))
        alive = [one for one in processes if one.process.poll() is None]
        if not alive:
            return []  # it was faster
        if victim == "model":
            models = self.models_of(alive[0])
            if not models:
                return []  # it was faster, or they are found no more, which run() notices
            os.kill(self.chance.choice(models), signal.SIGKILL)
            self.tally.kills["model"] += 1
            return []  # and its run continues
        hit = alive if victim == "all" else [self.chance.choice(alive)]
        for one in hit:
            (os.killpg if victim == "group" else os.kill)(one.process.pid, signal.SIGKILL)
            self.tally.kills[victim] += 1
        return hit

    def models_of(self, process: Process) -> list[int]:
        """Wait until a run has started its models; return them, or none if it ended before."""
        while process.process.poll() is None:
            if models := process.models():
                return models
            time.sleep(0.02)
        return []

    def compare(self, whole: Path, folder: Path) -> None:
        self.tally.sets += 1
        self.tally.problems += differences(whole, folder)
        shutil.rmtree(folder)

    def undisturbed(self, folder: Path) -> None:
        """Run to the end, and note how long the first start takes."""
        began = time.monotonic()
        for _ in range(4):  # where two run into one folder, one of them is refused
            self.end(self.start(folder))
            self.tally.seconds_undisturbed = self.tally.seconds_undisturbed or (
                time.monotonic() - began
            )
            if self.finished(folder):
                return
        self.tally.problems.append(f"'{folder.name}' does not get whole")

    def run(self, whole: Path, kills: int) -> Tally:
        """Deal the kills, resume after each, and compare each set that gets whole."""
        began, folder = time.monotonic(), self.fresh()
        if not self.tally.seconds_undisturbed:
            self.undisturbed(folder)
            self.compare(whole, folder)
        self.cache = self.fresh()  # so that kills come while fractals are drawn, too
        folder, victims = self.fresh(), itertools.cycle(self.way.victims)
        starts = itertools.count(1)
        while (dealt := self.tally.kills.total()) < kills:
            if next(starts) > 4 * kills + 10:
                self.tally.problems.append(f"only {dealt} of {kills} kills found somebody")
                break
            processes = self.start(folder)
            hit = self.kill(processes, next(victims))
            orphaned = not hit and self.tally.kills.total() > dealt
            self.end(processes, hit, orphaned=orphaned)
            problems, images, alone = faults_in(folder)
            self.tally.problems += problems
            self.tally.images_made_again += alone
            written = (folder / "metadata.jsonl").exists()
            if hit:
                self.tally.moments[moment(images, written)] += 1
            if self.finished(folder):
                self.compare(whole, folder)
                folder = self.fresh()
        if kills >= len(self.way.victims):
            spared = [one for one in self.way.victims if not self.tally.kills[one]]
            self.tally.problems += [f"no {one} was ever found to kill" for one in spared]
        self.undisturbed(folder)
        self.compare(whole, folder)
        self.tally.seconds = time.monotonic() - began
        return self.tally


def available() -> list[str]:
    """Return the ways that this installation knows."""
    told = subprocess.run([*DIFFAUG, "--help"], capture_output=True, text=True, check=True).stdout
    return [name for name, way in WAYS.items() if way.needs in told]


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, object]]:
    """Try the ways asked for; return what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", nargs="+", choices=WAYS, help="ways [all that are there]")
    parser.add_argument("--kills", type=int, default=20, help="for each way")
    parser.add_argument("--images", type=int, default=42, help="at least; of each set")
    parser.add_argument("--source", type=Path, default=PHOTOS)
    parser.add_argument("--backend", default="tiny")
    parser.add_argument("--fractals", type=Path, help="pictures to blend in [rendered ones]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON; ways that are not tried now stay in it")
    asked = parser.parse_args(argv)
    sources = len(list(asked.source.glob("*/*.*")))
    per_image = math.ceil(asked.images / sources)
    model = ["--backend", asked.backend, "--steps", "1", "--batch-size", "4", "--size", "64"]
    model += ["--prompts", "snowy", "--prompts", "sunset", "--per-image", str(per_image)]
    if asked.fractals is not None:
        model += ["--fractals", str(asked.fractals)]
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        work = Path(place)
        whole = work / "whole"
        alone = Trial("local", work, asked.source, model, asked.seed)
        alone.undisturbed(whole)
        for name in asked.engine or available():
            trial = alone if name == "local" else Trial(name, work, asked.source, model, asked.seed)
            tally = trial.run(whole, asked.kills)
            found[name] = {
                "images": per_image * sources,
                "seed": asked.seed,
                "versions": {name: metadata.version(name) for name in PACKAGES},
                **vars(tally),
                "kills": dict(tally.kills),
                "moments": dict(tally.moments),
            }
            print(
                f"{name:10}{tally.kills.total():4} kills in {tally.runs:3} runs, "
                f"{tally.sets} sets whole, {tally.images_made_again} images made again, "
                f"gone after {tally.seconds_until_all_was_gone:.1f} s, "
                f"{len(tally.problems)} problems, {tally.seconds:.0f} s",
                flush=True,
            )
            for problem in tally.problems:
                print(f"  {problem}", flush=True)
            if asked.out is not None:
                write(asked.out, found)
    return found


def write(path: Path, found: dict[str, dict[str, object]]) -> None:
    """Write what was found, beside what an earlier run of the script found on other ways."""
    ways = json.loads(path.read_text())["ways"] if path.exists() else {}
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread a process",
        "ways": {name: {**ways, **found}[name] for name in WAYS if name in {**ways, **found}},
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(any(one["problems"] for one in main().values()))
