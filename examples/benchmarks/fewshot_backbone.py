"""Pre-train the second classifier of `fewshot.py` on classes that it is not measured on.

    python examples/benchmarks/fewshot_backbone.py --data 'data/*-base-train-*.parquet' \
        --val 'data/*-base-val.parquet' --out examples/benchmarks/backbone.safetensors

It is the small ResNet of `diffaug compare`, in half precision. The classes of `fewshot.py` are left
out, so it knows none of them; the generator may know them. This is as in the papers, where Stable
Diffusion has seen everything and the classifier comes from ImageNet.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from fewshot_data import files_of, labels_in, used
from small_resnet import predict
from tiny_data import load_labelled
from tiny_judge import train_judge


def main(
    data: list[str], val: str, out: Path, *, steps: int, batch_size: int, device: str
) -> dict[str, object]:
    """Train, and write the weights with their accuracy on other photographs beside them."""
    started = time.monotonic()
    present = labels_in([file for pattern in data for file in files_of(pattern)])
    taken = {name for names in used(present).values() for name in names}
    names = [name for name in present if name not in taken]
    parts = [load_labelled(pattern, names) for pattern in data]
    images, labels = (
        torch.cat(tensors) for tensors in zip(*(part[:2] for part in parts), strict=True)
    )
    others, truths, _ = load_labelled(val, names)
    model = train_judge(
        images, labels, len(names), steps=steps, batch_size=batch_size, device=device
    )
    figures: dict[str, object] = {
        "photographs": len(images),
        "classes": names,
        "left_out": sorted(taken),
        "steps": steps,
        "batch_size": batch_size,
        "accuracy": (predict(model, others, device) == truths).float().mean().item(),
        "minutes": (time.monotonic() - started) / 60,
    }
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(halves, out)
    out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="Parquet files, or patterns")
    parser.add_argument("--val", required=True, help="other photographs of the same classes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found = main(**vars(parser.parse_args()))
    print(f"{100 * found['accuracy']:.1f} % of {len(found['classes'])} classes")
