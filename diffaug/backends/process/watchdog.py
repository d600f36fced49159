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

#: A process by its number and when it started, which tells it from a later one of that number.
Owner = tuple[int, str]

#: How often the owner is looked for, in seconds.
WATCH = 0.5


def process_started(pid: int) -> str | None:
    """Return when a process started, which tells it from a later one of that number; None: gone."""
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
    """Ask whether a process lives where there is no /proc; its start stays unknown."""
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
    """Remove the socket of a process, and what lies beside it, but no log that says something."""
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
    """Read what to call and with what from the standard input, and do so while the owner lives."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=watch, args=(*job.pop("owner"), job["socket"]), daemon=True).start()
    sys.path[:] = job.pop("path")
    module, name = job.pop("call")
    getattr(importlib.import_module(module), name)(job)


if __name__ == "__main__":
    main()
