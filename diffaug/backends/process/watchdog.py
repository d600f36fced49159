"""A model's process from its first moment: it ends with the process that owns it.

Run as a script, this is that process. It imports nothing heavy, so that the owner is watched while
the rest is imported, which takes seconds.
"""

import importlib
import json
import os
import sys
import threading
import time
from contextlib import suppress

#: A process: its number, and when it started, because a later one may get the same number.
Owner = tuple[int, str]

#: Seconds between two looks whether the owner still runs.
WATCH = 0.5


def process_started(pid: int) -> str | None:
    """Return when a process started, as the system counts time; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
        return _started_elsewhere(pid)
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie has ended


def _started_elsewhere(pid: int) -> str | None:
    """Return "unknown" for a process that runs, on a system without /proc; None if it has ended."""
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return "unknown"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def sweep(path: str) -> None:
    """Remove the socket of a process and its other files, except for a log that is not empty."""
    stem = os.path.splitext(path)[0]
    suffixes = [".sock", ".sock.new", ".key", ".starts", ".lock"]
    with suppress(OSError):
        if os.path.getsize(f"{stem}.log") == 0:
            suffixes.append(".log")
    for suffix in suffixes:
        with suppress(OSError):
            os.unlink(stem + suffix)


def watch(owner: int, started: str, path: str) -> None:
    """End this process when its owner has ended, however busy the model is."""
    while process_started(owner) == started:
        time.sleep(WATCH)
    sweep(path)
    os._exit(0)


def main() -> None:
    """Read a function and its argument from stdin, and call it; end when the owner ends."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=watch, args=(*job.pop("owner"), job["socket"]), daemon=True).start()
    sys.path[:] = job.pop("path")
    module, name = job.pop("call")
    getattr(importlib.import_module(module), name)(job)


if __name__ == "__main__":
    main()
