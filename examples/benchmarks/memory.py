"""Measure the memory that a run takes for folders of ten thousand to a million images.

Each folder, of links to one photograph, is augmented by a run that was stopped shortly before its
end: it lists the images, learns which are there, makes the rest, and sorts and writes the manifest.
Two million links are made for the largest, which takes some minutes and 2 GB of disk.

    python examples/benchmarks/memory.py [--images 10000 100000 1000000] [--out memory.json]
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from diffaug import PromptEdit, RecordingBackend, augment_folder
from diffaug.images import encode_image
from diffaug.offline.identity import versions
from diffaug.offline.manifest import read_manifest

CLASSES = 1000
#: Images that are left to be made.
LEFT = 512


class Forgetful(RecordingBackend):
    """Does not keep what it was asked, which would be the memory of the benchmark."""

    def generate(self, requests):
        made = super().generate(requests)
        self.requests.clear()
        return made


def run(source, destination):
    """Augment the folder; this is what is measured."""
    edit = PromptEdit(["snowy"], backend=Forgetful(16))
    return augment_folder(source, destination, edit, per_image=1)


def link_images(folder, names, photo):
    """Make links of these names."""
    for name in names:
        path = folder / name
        try:
            path.symlink_to(photo)
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            path.symlink_to(photo)


def prepare(folder, count):
    """Make the images, and a set of them that lacks the last few."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 16, 16), generator=generator, dtype=torch.uint8)
    photo = folder / "photo.jpg"
    photo.write_bytes(encode_image(pixels, "jpg"))
    keys = [f"class {number % CLASSES:04d}/image {number:07d}.jpg" for number in range(count)]
    link_images(folder / "photos", keys[:1], photo)
    run(folder / "photos", folder / "set")
    [row] = read_manifest(folder / "set")
    there = keys[1:-LEFT]
    made = [f"{key.removesuffix('.jpg')}__0.jpg" for key in there]
    link_images(folder / "photos", keys[1:], photo)
    link_images(folder / "set", made, photo)
    with open(folder / "set" / ".diffaug.journal.jsonl", "w") as journal:
        for key, name in zip(there, made, strict=True):
            label = key.partition("/")[0]
            more = {"file_name": name, "source": key, "label": label, "seed": hash(key) % 2**53}
            journal.write(json.dumps({**row, **more}) + "\n")


def measure(folder):
    """Run in this process; return its peak memory before and after, and how long it took."""
    run_of_one = folder / "one"
    link_images(run_of_one, ["class/image.jpg"], folder / "photo.jpg")
    run(run_of_one, folder / "one set")  # everything imported and warm
    before = peak()
    began = time.monotonic()
    done = run(folder / "photos", folder / "set")
    seconds = time.monotonic() - began
    return {
        "rows": done.planned,
        "made": done.made,
        "seconds": round(seconds, 1),
        "peak_mb_before": before,
        "peak_mb": peak(),
    }


def peak():
    """Return the most memory that this process has had, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def call(*options):
    """Run this script with options, with one thread, and return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *options]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout


def main(argv=None):
    """Measure each size in a process of its own, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.prepare:
        return prepare(options.prepare, options.images[0])
    if options.measure:
        return print(json.dumps(measure(options.measure)))
    results = []
    print(f"{'images':>10} {'more memory':>12} {'an image':>9} {'time':>8}")
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            # Each in a process of its own: a child's peak begins at what its parent has.
            call("--prepare", folder, "--images", str(count))
            found = json.loads(call("--measure", folder))
        more = found["peak_mb"] - found["peak_mb_before"]
        found["bytes_per_row"] = round(more * 1e6 / count)
        print(
            f"{found['rows']:>10} {more:>9.0f} MB {found['bytes_per_row']:>7} B "
            f"{found['seconds']:>6.1f} s",
            flush=True,
        )
        results.append(found)
    report = {
        "versions": {**versions(), "python": platform.python_version()},
        "settings": {"classes": CLASSES, "left_to_make": LEFT},
        "results": results,
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    main()
