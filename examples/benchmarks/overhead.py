"""How long a batch takes on the CPU beside the model: with a model whose calls are free.

    python examples/benchmarks/overhead.py --label after

The parts have as many modules as those of Stable Diffusion 1.5, with few channels, and their calls
return at once, so that all time is the work around them. The figures of a label replace those of
its earlier run in docs/benchmarks/overhead.json; run it with another version of diffaug on
PYTHONPATH for another label. A digest of the images shows whether versions make the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
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


def measure(work: Path, size: int, repeats: int) -> dict[str, Any]:
    """Time batches of one size; return the least CPU time, and a digest of the images."""
    scheduler = "EulerAncestralDiscreteScheduler"
    spec = spec_for(work, size=size, batch_size=BATCH, steps=STEPS, scheduler=scheduler, pad=True)
    requests = requests_for(BATCH, size)
    with loaded(spec) as backend:
        backend.generate(requests)
        free_calls(backend._pipe, size)
        images = stacked(backend.generate(requests))
        times = []
        for _ in range(repeats):
            began = time.process_time()  # other programs on the machine do not count
            backend.generate(requests)
            times.append(time.process_time() - began)
    return {
        "size": size,
        "ms_a_batch": round(1e3 * min(times), 1),
        "images": hashlib.sha256(images.to(torch.uint8).numpy().tobytes()).hexdigest()[:16],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label", default="after", help="the name of this version [after]")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/overhead.json")
    options = parser.parse_args(argv)
    as_many_modules()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder), size, options.repeats) for size in options.sizes]
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    found |= {"batch": BATCH, "steps": STEPS, "torch": torch.__version__}
    found.setdefault("versions", {})[options.label] = rows
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    for row in rows:
        print(options.label, row, flush=True)


if __name__ == "__main__":
    main()
