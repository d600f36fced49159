"""Programs that run in a Python of their own, from files in `tests/programs`."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent
#: Seconds that a program may take: many times what it needs, as the machine may be busy.
LIMIT = 500


def environment() -> dict[str, str]:
    """Return this environment with the package and the tests on Python's path."""
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def command(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a program of `tests/programs`."""
    return [sys.executable, str(TESTS / "programs" / f"{name}.py"), *map(str, arguments)]


def run_program(name: str, *arguments: object, before: Sequence[str] = (), code: int = 0) -> str:
    """Run a program of `tests/programs`, check its exit code, and return what it printed."""
    process = subprocess.run(
        [*before, *command(name, *arguments)],
        env=environment(),
        timeout=LIMIT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert code == process.returncode, process.stderr[-4000:]
    return process.stdout
