"""Let many callers ask one model's process for minutes: who waits, what is wrong, what grows.

    python examples/benchmarks/load.py --out docs/benchmarks/load.json

Callers are processes, as the workers of a DataLoader are. Each asks for one image at a time, as
workers do, and holds every answer against the one that it got while nobody else asked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from diffaug import GenerationRequest, serve
from diffaug.backends.process.pool import PoolBackend

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from faults_processes import save_models

#: Different requests of each caller.
REQUESTS = 8
#: Levels of 255 that an image may differ by where its batch has another size.
LEVELS = 1


def requests_of(caller: int) -> list[GenerationRequest]:
    generator = torch.Generator().manual_seed(caller)
    images = torch.randint(0, 256, (REQUESTS, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return [
        GenerationRequest(f"style {caller}", seed=number, image=image)
        for number, image in enumerate(images)
    ]


def ask(
    backend: PoolBackend, caller: int, seconds: float, expected: Sequence[torch.Tensor]
) -> dict[str, Any]:
    """Ask for one image after the other; return how long each took, and how many were wrong."""
    until, waits, wrong = time.monotonic() + seconds, [], 0
    requests = requests_of(caller)
    while (began := time.monotonic()) < until:
        number = len(waits) % REQUESTS
        [answer] = backend.generate([requests[number]])
        waits.append(time.monotonic() - began)
        apart = (answer.image.int() - expected[number].int()).abs().max()
        wrong += int(apart) > LEVELS
    return {"wrong": wrong, "waits": waits}


def call(
    backend: PoolBackend,
    caller: int,
    seconds: float,
    expected: Sequence[torch.Tensor],
    results: Any,
) -> None:
    """Be a caller in a process of its own."""
    torch.set_num_threads(1)
    results.put(ask(backend, caller, seconds, expected))


def megabytes(pid: int) -> float:
    """Return the memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024, 1)


def model_process() -> int:
    """Return the process of the model, a child of this one."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return next(
        int(pid) for pid in children if "watchdog.py" in Path(f"/proc/{pid}/cmdline").read_text()
    )


def measure(model: Path | str, callers: int, seconds: float) -> dict[str, object]:
    """Let callers ask one process of a model for some time."""
    with serve(model, devices=["cpu"]) as backend:
        expected = [
            [answer.image for answer in backend.generate(requests_of(number))]
            for number in range(callers)
        ]
        backend.close()  # a connection is not shared by processes
        pid = model_process()
        before, context = megabytes(pid), multiprocessing.get_context("fork")
        results = context.Queue()
        processes = [
            context.Process(target=call, args=(backend, n, seconds, expected[n], results))
            for n in range(callers)
        ]
        for process in processes:
            process.start()
        found = [results.get(timeout=seconds + 120) for _ in processes]
        for process in processes:
            process.join()
        after = megabytes(pid)
    images, waits = [len(one["waits"]) for one in found], [w for one in found for w in one["waits"]]
    return {
        "callers": callers,
        "seconds": seconds,
        "images": sum(images),
        "images_per_s": round(sum(images) / seconds, 1),
        "fewest_of_a_caller": min(images),
        "most_of_a_caller": max(images),
        "median_wait_ms": round(1000 * statistics.median(waits), 1),
        "longest_wait_ms": round(1000 * max(waits), 1),
        "wrong": sum(one["wrong"] for one in found),
        "mb_before": before,
        "mb_after": after,
    }


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--model", help="folder or preset that edits [a random one of 16 px]")
    parser.add_argument("--out", type=Path, help="JSON")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="load-") as place:
        if asked.model is None:
            save_models(Path(place))
        model = asked.model or Path(place) / "edit"
        rows = []
        for callers in asked.callers:
            rows.append(measure(model, callers, asked.seconds))
            print(rows[-1], flush=True)
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread a process",
        "model": Path(model).name if asked.model else "random, 16 px",
        "versions": {name: metadata.version(name) for name in ("diffaug", "torch")},
        "rows": rows,
    }
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    sys.exit(any(row["wrong"] for row in main()["rows"]))
