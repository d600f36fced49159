"""A model's process as seen from outside, and pictures to be edited by it.

A worker that starts afresh imports this module, and nothing that is slow to import.
"""

import os
import subprocess
import time
from pathlib import Path

import torch
from torch.utils.data import Dataset


def servers():
    """Return the pids of this test's model processes, seen from outside."""
    command = ["ps", "-ww", "-eo", "pid,stat,args"]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    lines = [line.split(None, 2) for line in text.splitlines() if "process/watchdog.py" in line]
    return [int(pid) for pid, state, _ in lines if not state.startswith("Z") and is_ours(pid)]


def is_ours(pid):
    """Tell whether a process has this test's folder for sockets, where that can be seen."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()
    return f"XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}".encode() in environment.split(b"\0")


def wait_for(condition, seconds=100):
    """Wait until a condition holds, and return it; the limit is for a machine that is busy."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


def set_environment(environment, worker):
    """Set a worker's environment, which under a forkserver is that of an earlier test."""
    os.environ.update(environment)


def where():
    """Tell whether this process is a worker, and with which process its model would end."""
    from diffaug.backends.process import client

    return client.in_child(), client.owner_here()[0]


class Photos(Dataset):
    """Pictures, each edited when it is read."""

    def __init__(self, transform, count=8):
        self.transform, self.count = transform, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.full((3, 16, 16), 20 * index + 40, dtype=torch.uint8)
        return self.transform(image)
