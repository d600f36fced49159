"""Fill a disk in the middle of a file, as no hook can; run in a mount that nobody else sees."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from image_folders import contents

from diffaug import PromptEdit, RecordingBackend, augment_folder
from diffaug.errors import DestinationError

PAGES = 32


def make(folder):
    transform = PromptEdit(backend=RecordingBackend(8))
    augment_folder("photos", folder, transform, per_image=2, format="png")


def refused(folder, reason):
    """Tell whether a run ends in one line that gives the reason."""
    try:
        make(folder)
    except DestinationError as error:
        text = str(error)
        assert reason in text and "\n" not in text, text
        return True
    return False


def main():
    torch.set_num_threads(1)
    os.chdir(sys.argv[1])
    os.mkdir("plain")
    make("plain/set")  # as deep, for a set says on which way its source is
    os.mkdir("disk")
    size = f"size={4 * PAGES}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", "disk"], check=True)
    count = 0
    for pages in range(PAGES):
        Path("disk/filler").write_bytes(bytes(4096 * (PAGES - pages)))
        if not refused("disk/set", "No space left on device"):
            break
        count += 1
        Path("disk/filler").unlink()
        make("disk/set")
        assert contents("disk/set") == contents("plain/set"), pages
        shutil.rmtree("disk/set")
    assert count > 5 and pages < PAGES - 1, (count, pages)
    shutil.rmtree("disk/set")
    subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
    assert refused("disk/set", "Read-only file system")


if __name__ == "__main__":
    main()
