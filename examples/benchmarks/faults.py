"""Kill runs with signal 9 at random moments, resume them, and look for what is lost.

    python examples/benchmarks/faults.py --kills 20 --out docs/benchmarks/faults.json

Every way of running is killed again and again: `augment` alone, in shards, beside another, with
processes for its models and with Ray, then `finetune` and `warm`. After each kill, what is there is
checked. Every folder that comes to its end is held against one that was never disturbed, byte for
byte.
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
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from faults_jobs import JOBS, differences
from faults_processes import Process, brief, import_all, save_models

PHOTOS = Path(__file__).parents[1] / "photos"
#: Packages whose versions are written down.
PACKAGES = ("diffaug", "torch", "diffusers", "pillow")
#: Seconds after which a process of a killed run counts as left over.
GRACE = 20
#: Seconds after which a run counts as hanging.
PATIENCE = 300


@dataclass(frozen=True)
class Way:
    """A way of running.

    Args:
        processes: the options of each process that is started.
        victims: who is killed, in turn.
        needs: a package that must be installed.
        job: what is run.
    """

    processes: tuple[tuple[str, ...], ...]
    victims: tuple[str, ...]
    needs: str = ""
    job: str = "augment"


WAYS = {
    "local": Way(((),), ("process", "group")),
    "shards": Way((("--shard", "1/2"), ("--shard", "2/2")), ("one", "all")),
    "processes": Way(((), ()), ("one", "all")),
    "devices": Way((("--devices", "cpu:0,cpu:1"),), ("process", "model", "group")),
    "ray": Way((("--engine", "ray"),), ("process", "model", "group"), "ray"),
    "finetune": Way(((),), ("process", "group"), job="finetune"),
    "warm": Way(((),), ("process", "group"), job="warm"),
}


@dataclass
class Tally:
    """What became of one way of running."""

    seconds_undisturbed: float = 0.0
    #: When the first file that stayed was written.
    seconds_until_the_first_file: float = 0.0
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    moments: collections.Counter[str] = field(default_factory=collections.Counter)
    runs: int = 0
    #: Folders that came to their end, and were compared.
    sets: int = 0
    refused: int = 0
    #: Runs that ended with one line about their model's death, which are resumed.
    clear_errors: int = 0
    #: Images that a kill left without a row.
    images_made_again: int = 0
    #: Files under a temporary name that kills left in a cache, which removes them in an hour.
    temporary_files: int = 0
    seconds_until_all_was_gone: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Trial:
    """One way of running, killed until enough kills are dealt.

    Args:
        name: of the way.
        work: folder for all that is made.
        source: the photographs.
        options: of the job, for every process.
        seed: of the moments.
    """

    def __init__(
        self, name: str, work: Path, source: Path, options: Sequence[str], seed: int
    ) -> None:
        self.name, self.way, self.work = name, WAYS[name], work
        self.job = JOBS[self.way.job]
        self.chance, self.tally = random.Random(f"{seed} {name}"), Tally()
        self.source, self.options = source, options
        self.folders = itertools.count()
        self.cache = self.fresh()

    def start(self, folder: Path) -> list[Process]:
        self.tally.runs += 1
        cache = self.job.cache(folder, self.cache)
        return [
            Process(
                self.job.arguments(self.source, folder, [*self.options, *options]), self.work, cache
            )
            for options in self.way.processes
        ]

    def fresh(self) -> Path:
        """Name a folder; all have the same last name, which a fine-tuned folder's page bears."""
        return self.work / f"{self.name}-{next(self.folders)}" / "run"

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
            code = one.wait(10 if one in killed else PATIENCE)
            if code is None:
                notes.append(f"a run hung: {one.said()[-3:]}")
                os.kill(one.pid, signal.SIGKILL)
                one.wait(PATIENCE)
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
        # Every second time after what a run does before its first file, which is most of a small
        # one: it imports, and loads the model.
        early = 0.0 if self.tally.runs % 2 else self.tally.seconds_until_the_first_file
        time.sleep(self.chance.uniform(early, self.tally.seconds_undisturbed))
        alive = [one for one in processes if one.poll() is None]
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
            (os.killpg if victim == "group" else os.kill)(one.pid, signal.SIGKILL)
            self.tally.kills[victim] += 1
        return hit

    def models_of(self, process: Process) -> list[int]:
        """Wait until a run has started its models; return them, or none if it ended before."""
        while process.poll() is None:
            if models := process.models():
                return models
            time.sleep(0.02)
        return []

    def compare(self, whole: Path, folder: Path) -> None:
        for path in self.job.temporary(folder):
            self.tally.temporary_files += 1
            path.unlink()
        self.tally.sets += 1
        self.tally.problems += differences(whole, folder)
        shutil.rmtree(folder)

    def undisturbed(self, folder: Path, whole: Path) -> None:
        """Run to the end, and note how long the first start takes."""
        began, clock = time.monotonic(), time.time()
        for _ in range(4):  # where two run into one folder, one of them is refused
            self.end(self.start(folder))
            if not self.tally.seconds_undisturbed:
                self.tally.seconds_undisturbed = time.monotonic() - began
                files = (path.stat().st_mtime for path in folder.rglob("*") if path.is_file())
                self.tally.seconds_until_the_first_file = max(0, min(files, default=clock) - clock)
            if self.job.finished(folder, whole):
                return
        self.tally.problems.append(f"'{folder.parent.name}' does not get whole")

    def run(self, whole: Path, kills: int) -> Tally:
        """Deal the kills, resume after each, and compare each set that gets whole."""
        began, folder = time.monotonic(), self.fresh()
        if not self.tally.seconds_undisturbed:
            self.undisturbed(folder, whole)
            self.compare(whole, folder)
        self.cache = self.fresh()  # so that kills come while fractals are drawn, too
        folder, turn = self.fresh(), 0
        starts = itertools.count(1)
        while (dealt := self.tally.kills.total()) < kills:
            if next(starts) > 4 * kills + 10:
                self.tally.problems.append(f"only {dealt} of {kills} kills found somebody")
                break
            processes = self.start(folder)
            hit = self.kill(processes, self.way.victims[turn % len(self.way.victims)])
            turn += self.tally.kills.total() > dealt  # else the run was faster
            orphaned = not hit and self.tally.kills.total() > dealt
            self.end(processes, hit, orphaned=orphaned)
            left = self.job.look(folder)
            self.tally.problems += left.problems
            self.tally.images_made_again += left.alone
            if hit:
                self.tally.moments[self.job.moment(folder, left)] += 1
            if self.job.finished(folder, whole):
                self.compare(whole, folder)
                folder = self.fresh()
        if kills >= len(self.way.victims):
            spared = [one for one in self.way.victims if not self.tally.kills[one]]
            self.tally.problems += [f"no {one} was ever found to kill" for one in spared]
        self.undisturbed(folder, whole)
        self.compare(whole, folder)
        self.tally.seconds = time.monotonic() - began
        return self.tally


def available() -> list[str]:
    """Return the ways that this installation knows."""
    return [name for name, way in WAYS.items() if not way.needs or find_spec(way.needs)]


def options_of(asked: argparse.Namespace, per_image: int) -> dict[str, list[str]]:
    """Return the options of each job."""
    model = ["--backend", str(asked.backend), "--steps", "1", "--batch-size", "4"]
    model += ["--prompts", "snowy", "--prompts", "sunset"]
    fractals = [] if asked.fractals is None else ["--fractals", str(asked.fractals)]
    steps = ["--steps", "16", "--checkpoint-every", "4", "--sample-every", "8"]
    return {
        "augment": [*model, "--size", "64", "--per-image", str(per_image), *fractals],
        "finetune": [
            *("--base", str(asked.base), "--metaclass", "thing", "--rank", "2"),
            *("--batch-size", "2", "--device", "cpu", *steps),
        ],
        "warm": [*model, "--size", "64,64", "--variants", str(per_image)],
    }


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, object]]:
    """Try the ways asked for; return what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="[all that are there]")
    parser.add_argument("--kills", type=int, default=20, help="for each way")
    parser.add_argument("--images", type=int, default=84, help="at least; of each set")
    parser.add_argument("--source", type=Path, default=PHOTOS)
    parser.add_argument("--backend", help="of sets and of the cache [a random one of 16 px]")
    parser.add_argument("--base", help="of the fine-tuning [a random one of 16 px]")
    parser.add_argument("--fractals", type=Path, help="pictures to blend in [rendered ones]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON; ways that are not tried now stay in it")
    asked = parser.parse_args(argv)
    sources = len(list(asked.source.glob("*/*.*")))
    per_image = math.ceil(asked.images / sources)
    found: dict[str, dict[str, object]] = {}
    undisturbed: dict[str, tuple[Path, Trial]] = {}
    import_all()
    # No TemporaryDirectory: each run that is forked would remove it at its exit.
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        if not asked.backend or not asked.base:
            save_models(work)
        asked.backend, asked.base = asked.backend or work / "edit", asked.base or work / "translate"
        options = options_of(asked, per_image)
        for name in asked.ways or available():
            job = WAYS[name].job
            trial = Trial(name, work, asked.source, options[job], asked.seed)
            if job not in undisturbed:
                # The first way of a job is its plainest one, and timed while it is not disturbed.
                first = name if job != "augment" else "local"
                alone = Trial(first, work, asked.source, options[job], asked.seed)
                whole = alone.fresh()
                alone.undisturbed(whole, whole)
                undisturbed[job] = whole, alone
            whole, alone = undisturbed[job]
            tally = (alone if alone.name == name else trial).run(whole, asked.kills)
            found[name] = {
                "images": per_image * sources,
                "model": Path(asked.base if trial.way.job == "finetune" else asked.backend).name,
                "seed": asked.seed,
                "seconds_of_grace": GRACE,
                "versions": {name: metadata.version(name) for name in PACKAGES},
                **vars(tally),
                "kills": dict(tally.kills),
                "moments": dict(tally.moments),
            }
            print(
                f"{name:10}{tally.kills.total():4} kills in {tally.runs:3} runs, "
                f"{tally.sets} whole, {tally.images_made_again} images made again, "
                f"gone after {tally.seconds_until_all_was_gone:.1f} s, "
                f"{len(tally.problems)} problems, {tally.seconds:.0f} s",
                flush=True,
            )
            for problem in tally.problems:
                print(f"  {problem}", flush=True)
            if asked.out is not None:
                write(asked.out, found)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


def write(path: Path, found: dict[str, dict[str, object]]) -> None:
    """Write what was found, beside what an earlier run of the script found on other ways."""
    record = json.loads(path.read_text()) if path.exists() else {"ways": {}}
    ways = {**record["ways"], **found}
    record["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread a process"
    record["ways"] = {name: ways[name] for name in WAYS if name in ways}
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(any(one["problems"] for one in main().values()))
