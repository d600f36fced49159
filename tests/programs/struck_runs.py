"""Strike runs at their n-th change to the disk, for every n; say where it did not recover.

A change is a file that is opened for writing, made, renamed or removed. Random moments meet the
rare ones only by luck. One process imports everything once, and forks each run that is to be
killed while it has no other thread.
"""

import errno
import json
import os
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from image_folders import contents
from tiny_pipelines import model_folder

from diffaug import (
    CachedBackend,
    HalfConcat,
    PromptEdit,
    RecordingBackend,
    SimilarityFilter,
    augment_folder,
    export_set,
    filter_set,
    finetune,
    merge,
    preview,
    warm_cache,
)
from diffaug.datasets.loaders import image_folder
from diffaug.errors import DestinationError
from diffaug.images import read_image

#: More than any run changes the disk.
MOST = 300
MADE = {"os.mkdir", "os.rename", "os.truncate"}
GONE = {"os.remove", "os.rmdir"}
left, fault = float("inf"), ""


def strike(event, arguments):
    """Count down the changes to the disk, and let the last one fail or kill this process."""
    global left
    if event == "open":
        changes = (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        changes = event in MADE or (event in GONE and fault == "killed")
    if changes:
        left -= 1
        if left < 0 and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def make(folder, per_image, **options):
    transform = HalfConcat(PromptEdit(backend=RecordingBackend(8)))
    augment_folder("photos", folder, transform, per_image=per_image, format="png", **options)


def alone(folder):
    make(folder, 1, include_originals=True)


def grown(folder):
    make(folder, 2)


def shards(folder):
    for share in ("1/2", "2/2"):
        make(folder, 1, shard=share)


def nothing(folder):
    pass


def parted(folder):
    """Make both parts of a set, and merge none."""
    make(folder, 1, shard="1/2")
    make("other", 1, shard="2/2")
    hidden = Path(".diffaug.parts-of-2", "2")
    os.rename("other" / hidden, folder / hidden)
    shutil.rmtree("other")


def warmed(folder):
    backend = CachedBackend(RecordingBackend(8), folder=folder)
    warm_cache(image_folder("photos")[0], PromptEdit(["snowy", "sunset"], backend=backend))


def tuned(folder):
    settings = {"steps": 3, "checkpoint_every": 2, "sample_every": 2, "rank": 2, "batch_size": 2}
    # Its page bears the folder's name.
    finetune(
        "photos", Path(folder, "run"), base=model_folder("translate"), device="cpu", **settings
    )


def judged(folder):
    filter_set(folder, SimilarityFilter("photos", low=-1, high=1))


def seen(folder):
    preview("whole set", Path(folder, "sheet.png"))


def exported(format, folder):
    export_set("whole set", folder, format=format)


#: Each kind of run, what there is before it, and the faults that it is struck by.
BOTH = ("killed", "full")
RUNS = {
    "alone": (alone, nothing, BOTH),
    "grown": (grown, lambda folder: make(folder, 1), BOTH),
    "shards": (shards, lambda folder: make(folder, 1, shard="1/2"), BOTH),
    "merge": (merge, lambda folder: parted(Path(folder)), ("full",)),
    "filter": (judged, lambda folder: make(folder, 1), ("full",)),
    "warm": (warmed, nothing, BOTH),
    "preview": (seen, os.mkdir, ("full",)),
    "diffmix": (partial(exported, "diffmix"), nothing, ("full",)),
    "webdataset": (partial(exported, "webdataset"), nothing, ("full",)),
    # At last, since it starts threads, after which nothing can be forked.
    "finetune": (tuned, nothing, ("full",)),
}


def finishes(run, before, number):
    """Strike a run, check what it left, resume it and compare; tell whether it came to its end."""
    before("set")
    ended = survives(run, number) if fault == "killed" else fits(run, number)
    check(Path("set"))
    run("set")
    left_to_age = re.compile(r"[0-9a-f]{64}\.jpeg\.[0-9a-f]{16}\.tmp")  # in a cache, by a kill
    there = dict(contents("set"))
    for name in [name for name in there if left_to_age.fullmatch(Path(name).name)]:
        assert fault == "killed", f"{name} is left"
        del there[name]
    assert contents("whole") == there, "the resumed set differs"
    return ended


def survives(run, number):
    global left
    child = os.fork()
    if child == 0:
        try:
            left = number - 1
            run("set")
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"it ended with {code}"
    return code == 0


def fits(run, number):
    global left
    left = number - 1
    try:
        run("set")
    except DestinationError as error:
        text = str(error)
        assert "No space left on device" in text and "\n" not in text, text
        return False
    finally:
        left = float("inf")
    return True


def names(path):
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["file_name"] for line in lines]


def check(folder):
    """Check that no image is half written, and that each row has an image and is there once."""
    for path in folder.rglob("*.png"):
        read_image(path)
    for part in {path.parent for path in folder.rglob("*.jsonl")}:
        rows = names(part / "metadata.jsonl")
        assert len(rows) == len(set(rows)), f"a row is there twice: {rows}"
        for name in rows + names(part / ".diffaug.journal.jsonl"):
            assert (part / name).exists() or (folder / name).exists(), f"{name} is lost"


def main():
    global fault
    torch.set_num_threads(1)
    os.chdir(sys.argv[1])
    sys.addaudithook(strike)
    results = {}
    make("whole set", 1)
    for name, fault in [(name, fault) for name, run in RUNS.items() for fault in run[2]]:
        run, before, _ = RUNS[name]
        shutil.rmtree("whole", ignore_errors=True)
        before("whole")
        run("whole")
        wrong = []
        for number in range(1, MOST):
            shutil.rmtree("set", ignore_errors=True)
            try:
                if finishes(run, before, number):
                    break
            except Exception as error:
                wrong.append(f"{number}: {type(error).__name__}: {error}")
        else:
            wrong.append("it never came to its end")
        results[f"{name} {fault}"] = {"points": number, "wrong": wrong}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
