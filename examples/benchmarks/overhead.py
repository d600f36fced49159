"""How long a batch takes on the CPU beside the model: with a model whose calls are free.

    python examples/benchmarks/overhead.py --beside before=FOLDER

The parts have as many modules as those of Stable Diffusion 1.5, with few channels, and their calls
return at once, so that all time is the work around them. ``FOLDER`` holds the package ``diffaug``
of another version (``git archive COMMIT diffaug | tar -x -C FOLDER``). Versions take turns, each in
a process of its own, and the least time of each counts, since other programs may run meanwhile. A
digest of the images shows whether versions make the same. What the time of this version is made of
comes from a sample of the stack at each millisecond of CPU time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch

sys.path.insert(0, str(Path(__file__).parent))

import gpu_models
from gpu_models import loaded, requests_for, spec_for, stacked

ROOT = Path(__file__).parents[2]
#: Images of a batch, and evaluations of the U-Net for it.
BATCH, STEPS = 8, 20


def as_many_modules() -> None:
    """Give the pipelines the layers of Stable Diffusion 1.5, with few channels."""
    gpu_models.UNET |= {"layers_per_block": 2, "block_out_channels": (8, 8, 16, 16)}
    gpu_models.AUTOENCODER |= {"layers_per_block": 2}
    gpu_models.TEXT_ENCODER |= {"num_hidden_layers": 12}


def free_calls(pipe: Any, size: int) -> None:
    """Let the models of a pipeline return at once what depends on their input."""
    rows = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def denoise(sample: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        return (sample[:, :4],)

    def encode(images: torch.Tensor) -> torch.Tensor:
        latents = images[:, :1, ::8, ::8]
        return latents.expand(-1, 8, -1, -1)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return rows * latents[:, :1, :1, :1].sigmoid()

    pipe.unet.forward = denoise
    pipe.vae.encoder.forward = encode
    pipe.vae.decoder.forward = decode


#: Whose time a sample of the stack is: that of the first file, from within, whose path has a part.
OWNERS = {
    "benchmarks/overhead.py": "the model itself",
    "torch/nn/": "the model itself",
    "diffusers/models/": "the model itself",
    "backends/noise.py": "noise",
    "diffusers/schedulers/": "the scheduler's arithmetic",
    "transformers/": "prompts",
    "loaders/textual_inversion": "prompts",
    "backends/encodings.py": "prompts",
    "backends/prompts.py": "prompts",
    "diffusers/image_processor.py": "images in and out",
    "backends/few_passes.py": "images in and out",
    "backends/batches.py": "images in and out",
    "diffusers/pipelines/": "the pipeline's loop, and guidance",
    "diffaug/": "the rest of diffaug",
}


def shares(call: Callable[[], object], times: int) -> dict[str, float]:
    """Return whose time some calls take, as shares, by samples of the stack."""
    found: Counter[str] = Counter()

    def sample(_: int, frame: FrameType | None) -> None:
        while frame is not None:
            path = frame.f_code.co_filename
            owner = next((owner for part, owner in OWNERS.items() if part in path), None)
            if owner is not None and frame.f_code.co_name != "shares":
                found[owner] += 1
                return
            frame = frame.f_back

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    for _ in range(times):
        call()
    signal.setitimer(signal.ITIMER_PROF, 0)
    return {owner: count / found.total() for owner, count in found.most_common()}


def measure(work: Path, size: int, repeats: int, *, sampled: bool) -> dict[str, Any]:
    """Time batches of one size; return the least CPU time, and a digest of the images."""
    scheduler = "EulerAncestralDiscreteScheduler"
    spec = spec_for(work, size=size, batch_size=BATCH, steps=STEPS, scheduler=scheduler, pad=True)
    requests = requests_for(BATCH, size)
    with loaded(spec) as backend:
        free_calls(backend._loaded(), size)
        images = stacked(backend.generate(requests))
        times = []
        for _ in range(repeats):
            began = time.process_time()  # other programs on the machine do not count
            backend.generate(requests)
            times.append(time.process_time() - began)
        found = {
            "size": size,
            "ms_a_batch": round(1e3 * min(times), 1),
            "images": hashlib.sha256(images.to(torch.uint8).numpy().tobytes()).hexdigest()[:16],
        }
        if sampled:
            parts = shares(lambda: backend.generate(requests), 3 * repeats)
            found["made_of"] = {
                name: round(1e3 * min(times) * part, 1) for name, part in parts.items()
            }
    return found


def in_turn(options: argparse.Namespace, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Let each version measure itself several times; return the best of each."""
    versions = dict(part.split("=", 1) for part in options.beside)
    versions[options.label] = str(ROOT)
    best: dict[str, list[dict[str, Any]]] = {}
    for turn in range(options.rounds):
        for label, folder in versions.items():
            command = [sys.executable, __file__, "--only", "--out", work / "found.json"]
            command += ["--work", work, "--repeats", options.repeats, "--sizes", *options.sizes]
            if label == options.label and turn == options.rounds - 1:
                command.append("--sampled")
            subprocess.run(
                list(map(str, command)),
                check=True,
                env={**os.environ, "PYTHONPATH": os.path.abspath(folder)},
                stderr=subprocess.DEVNULL,
            )
            rows = json.loads((work / "found.json").read_text())
            print(label, rows, flush=True)
            earlier = best.get(label, rows)
            best[label] = [
                {**row, "ms_a_batch": min(row["ms_a_batch"], other["ms_a_batch"])}
                for row, other in zip(rows, earlier, strict=True)
            ]
    return best


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label", default="after", help="the name of this version [after]")
    parser.add_argument(
        "--beside", action="append", default=[], metavar="NAME=FOLDER", help="another version"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each version [3]")
    parser.add_argument("--repeats", type=int, default=30, help="batches of a turn [30]")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/overhead.json")
    for name in ("--only", "--sampled"):  # of a version's own process
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.only:
        as_many_modules()
        rows = [
            measure(options.work, size, options.repeats, sampled=options.sampled)
            for size in options.sizes
        ]
        options.out.write_text(json.dumps(rows))
        return
    with tempfile.TemporaryDirectory() as folder:
        versions = in_turn(options, Path(folder))
    found = {"batch": BATCH, "steps": STEPS, "torch": torch.__version__, "versions": versions}
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
