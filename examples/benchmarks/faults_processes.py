"""The processes of a run that is to be killed: forked, found again, and gone.

Most of a small run is imports, and there is nothing to lose in these. So one process imports what
the commands need, once, and forks each run while it has no other thread. Processes of models are
started by the runs themselves, as ever.
"""

from __future__ import annotations

import atexit
import importlib
import itertools
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

#: Every process of a run has it in its environment, so that none can hide from us.
MARK = "DIFFAUG_FAULTS_RUN"
#: What the commands import sooner or later, where it is installed.
MODULES = (
    *("torch", "torchvision.transforms.v2", "safetensors.torch", "peft", "accelerate", "filelock"),
    *(
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
        "diffusers.loaders",
    ),
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix",
    *("transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip"),
    *("diffaug.cli.commands", "diffaug.offline.augment", "diffaug.finetuning.run"),
    *("diffaug.datasets.warm", "diffaug.datasets.loaders", "diffaug.export.formats"),
    *("diffaug.filtering.verdicts", "diffaug.filtering.clip", "diffaug.previews.jobs"),
    *("diffaug.backends.pipeline", "diffaug.backends.loading", "diffaug.transforms.diffusemix"),
)


def import_all() -> None:
    """Import what the commands need, for every run that is forked from here."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")  # read by some at their import
    for name in MODULES:
        with suppress(ImportError):
            importlib.import_module(name)
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        raise RuntimeError(f"a process must have one thread to be forked, got {len(threads)}.")


def save_models(folder: Path) -> None:
    """Write the random models of the tests: how an image looks does not matter here."""
    child = os.fork()
    if not child:  # so that whatever starts threads does so elsewhere
        code = 1
        try:
            from tiny_pipelines import save_pipeline

            for task in ("edit", "translate"):
                save_pipeline(folder / task, task)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the random models could not be written")


class Process:
    """One process of a run, and all that it starts.

    Args:
        arguments: of ``diffaug``.
        work: the folder for its log and its sockets.
        cache: the folder for what diffaug keeps.
        before: called in the process, before the command.
    """

    count = itertools.count()

    def __init__(
        self,
        arguments: Sequence[str],
        work: Path,
        cache: Path,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.mark = f"{os.getpid()}-{next(self.count)}"
        self.log = work / f"{self.mark}.log"
        self.code: int | None = None
        changes = {
            **{"DIFFAUG_CACHE": str(cache), "XDG_RUNTIME_DIR": str(work)},
            **{"RAY_TMPDIR": str(work), MARK: self.mark},
        }
        self.pid = os.fork()
        if not self.pid:
            run_command(arguments, self.log, changes, before)

    def poll(self) -> int | None:
        """Return how it ended, as ``subprocess`` has it; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float) -> int | None:
        """Wait for its end; None if it does not come in time."""
        until = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        return self.code

    def members(self) -> dict[int, str]:
        """Return the command lines, by process, of all that live and belong to it."""
        # It was forked, so it does not show its own environment.
        found = {self.pid: "diffaug"} if self.poll() is None else {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdecimal() and f"{MARK}={self.mark}" in (
                    (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                ):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    def models(self) -> list[int]:
        """Return the processes that hold a model: our own, or Ray's actors."""
        named = ("process/watchdog.py", "ray::MapWorker")
        return [pid for pid, line in self.members().items() if any(name in line for name in named)]

    def said(self) -> list[str]:
        """Return the lines that it wrote, without its progress."""
        lines = self.log.read_text(errors="replace").replace("\r", "\n").splitlines()
        told = (re.sub(r".*(image/s|s/image)(, [^\]]*)?]", "", line).strip() for line in lines)
        return [line for line in told if line]

    def gone(self, seconds: float) -> bool:
        """Wait until all of it has ended."""
        until = time.monotonic() + seconds
        while self.members():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True


def run_command(
    arguments: Sequence[str],
    log: Path,
    changes: dict[str, str],
    before: Callable[[], None] | None,
) -> None:
    """Be the command in a process that was forked for it, in a group of its own; never return."""
    code = 1
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.environ.update(changes)
        if before is not None:
            before()
        from diffaug.cli.commands import app

        sys.argv = ["diffaug", *arguments]
        app(list(arguments), prog_name="diffaug")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def brief(line: str) -> str:
    """Return the names of a program and of what it runs, without this machine's folders."""
    if "process/watchdog.py" in line:
        return "a model's process"
    return " ".join(Path(word).name for word in line.split()[:2])
