"""Measure `tiny-translate` by a classifier that has seen photographs only, and write its card.

    python examples/evaluate_tiny_translate.py --data 'train/*.parquet' --val 'val/*.parquet' \
        --run runs/tiny-translate --model diffaug/assets/tiny-translate --sheet samples.png

`--data` trains the classifier, on the classes that the pipeline was trained on; `--val` must hold
other photographs of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import load_file
from small_resnet import SmallResNet, predict, train
from torch import Tensor
from torchvision.utils import make_grid, save_image
from train_tiny_translate import PROMPT, load_labelled

from diffaug import DiffusersBackend, GenerationRequest, ModelSpec

log = logging.getLogger("tiny")


def train_judge(
    images: Tensor, labels: Tensor, classes: int, *, steps: int, device: str, seed: int = 0
) -> SmallResNet:
    """Train the classifier on crops and flips of photographs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = SmallResNet(classes).to(device)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        index = torch.randint(len(labels), (64,), generator=generator)
        batch = images[index]
        if torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(-1)
        batch = torch.nn.functional.pad(batch, (6,) * 4)
        top, left = torch.randint(13, (2,), generator=generator).tolist()
        batch = batch[..., top : top + images.shape[-2], left : left + images.shape[-1]]
        return batch.to(device).float() / 255, labels[index].to(device)

    return train(judge, batches, steps=steps)


def sample(
    backend: DiffusersBackend, names: list[str], each: int, sources: Tensor | None = None,
    strength: float | None = None,
) -> Tensor:  # fmt: skip
    """Return images (classes * each, 3, H, W) of every class, in order; from sources if given."""
    requests = [
        GenerationRequest(
            PROMPT.format(name=name), seed=place * each + copy, strength=strength,
            image=None if sources is None else sources[(place * each + copy) % len(sources)],
        )
        for place, name in enumerate(names)
        for copy in range(each)
    ]  # fmt: skip
    return torch.stack([made.image for made in backend.generate(requests)])


@torch.inference_mode()
def frechet(judge: SmallResNet, one: Tensor, other: Tensor, device: str) -> float:
    """Return the Frechet distance of two sets of uint8 images in the judge's features."""
    moments = []
    for images in (one, other):
        parts = [judge.features(part.to(device).float() / 255).cpu() for part in images.split(256)]
        found = torch.cat(parts).double()
        moments.append((found.mean(0), found.T.cov()))
    (mean, spread), (mean2, spread2) = moments
    values, vectors = torch.linalg.eigh(spread)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ spread2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean - mean2).square().sum() + spread.trace() + spread2.trace() - 2 * cross
    return distance.item()


def seconds_an_image(spec: ModelSpec, name: str, repeats: int) -> float:
    """Return the median time of one image on one core, the model loaded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    with DiffusersBackend(spec) as backend:
        for seed in range(repeats + 1):
            start = time.perf_counter()
            backend.generate([GenerationRequest(PROMPT.format(name=name), seed=seed)])
            times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return statistics.median(times[1:])  # the first one loads


def measure(
    model: Path, run: Path, data: str, val: str, *,
    each: int, judge_steps: int, guidance_scale: float, device: str, sheet: Path | None,
) -> dict[str, object]:  # fmt: skip
    """Return every figure of the card."""
    training = json.loads((run / "translator.json").read_text())
    names = training.pop("classes")
    images, labels, _ = load_labelled(data, tuple(names))
    others, truths, _ = load_labelled(val, tuple(names))
    judge = train_judge(images, labels, len(names), steps=judge_steps, device=device)
    real = (predict(judge, others, device) == truths).float().mean().item()
    log.info("the judge names %.1f %% of real photographs", 100 * real)
    spec = ModelSpec(
        str(model), task="generate", size=64, steps=10, guidance_scale=guidance_scale,
        batch_size=25, device=device,
    )  # fmt: skip
    wanted = torch.arange(len(names)).repeat_interleave(each)
    with DiffusersBackend(spec) as backend:
        made = sample(backend, names, each)
    found = predict(judge, made, device)
    translated = {}
    with DiffusersBackend(ModelSpec(**{**vars(spec), "task": "translate"})) as backend:
        for strength in (0.3, 0.5, 0.7, 0.9):
            # The source's class is never the target's: photographs are ordered by class.
            moved = sample(backend, names, each, others.roll(len(others) // 2, 0), strength)
            share = (predict(judge, moved, device) == wanted).float().mean().item()
            translated[str(strength)] = share
    if sheet is not None:
        shown = made.view(len(names), each, *made.shape[1:])[:, :12].flatten(0, 1)
        save_image(make_grid(shown / 255, nrow=min(each, 12)), sheet)
    half = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: len(others)]
    parts = {
        part.parent.name: sum(tensor.numel() for tensor in load_file(part).values())
        for part in sorted(model.glob("*/*.safetensors"))
    }
    return {
        "classes": names,
        "judge_on_photographs": real,
        "judge_on_samples": (found == wanted).float().mean().item(),
        "judge_on_translations": translated,
        "per_class": {
            name: (found[wanted == place] == place).float().mean().item()
            for place, name in enumerate(names)
        },
        "frechet_samples": frechet(judge, made, others, device),
        "frechet_photographs": frechet(judge, images[half], others, device),
        "images": {"samples": len(made), "validation": len(others)},
        "seconds_an_image_on_one_core": seconds_an_image(spec, names[0], 9),
        "steps": spec.steps,
        "guidance_scale": guidance_scale,
        "parameters": parts,
        "weight_megabytes": sum(f.stat().st_size for f in model.glob("*/*.safetensors")) / 1e6,
        "training": training,
        "versions": {name: metadata.version(name) for name in ("torch", "diffusers")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
    }


CARD = """---
license: apache-2.0
library_name: diffusers
tags: [text-to-image, image-to-image, data-augmentation]
---

# tiny-translate

The model inside diffaug for Diff-Mix (arXiv 2403.19600): a Stable-Diffusion-shaped text-to-image
pipeline of 64 pixels and {millions:.1f} million parameters ({megabytes:.1f} MB), that translates
photographs towards a class, on a CPU, in {steps} steps. Its prompt is "a photo of a {{class}}".

**For** trying, testing and teaching; as a base to fine-tune in minutes. **Not for** results to
publish: {limits}

## How it was made

{photographs} photographs of Tiny ImageNet (research data, none of it is contained here), of
{count} classes, and their mirror images:
{names}.

The autoencoder is that of `tiny`. A U-Net and a text encoder were trained on {training_steps}
batches of {batch} latents in {minutes:.0f} minutes on {where}, by
`examples/train_tiny_translate.py`; one prompt in ten was left out.

## How good it is

A small ResNet that was trained on photographs alone judges {samples} samples;
`examples/evaluate_tiny_translate.py` wrote these figures and `figures.json`.

| | |
| --- | --- |
| validation photographs whose class it names | {real:.0f} % |
| samples whose class it names | {made:.0f} % |
| Frechet distance of samples to validation photographs, in its features | {distance:.1f} |
| ... of training photographs to validation photographs | {floor:.1f} |
| one sample on one core | {seconds:.2f} s |

| photographs of one class translated to another at strength | named as the target |
| --- | --- |
{translations}

| class | samples named |
| --- | --- |
{rows}

## Settings

Guidance {guidance}, DDIM with trailing steps, v-prediction, a schedule that starts from pure noise.
"""


def write_card(figures: dict, target: Path) -> None:
    """Fill the model card in from the figures."""
    training, few = figures["training"], len(figures["classes"]) < 50
    text = CARD.format(
        millions=sum(figures["parameters"].values()) / 1e6,
        megabytes=figures["weight_megabytes"],
        steps=figures["steps"],
        limits=(
            "a CPU had time for a few simple classes, of which it knows\ncolours, and outlines "
            "roughly. The recipe is ready for a GPU, which has time for more."
            if few
            else "its pictures are small and soft."
        ),
        count=len(figures["classes"]),
        photographs=training["photographs"],
        names=", ".join(figures["classes"]) if few else "all of its base classes",
        training_steps=training["steps"],
        batch=training["batch_size"],
        minutes=training["minutes"],
        where="a CPU core that it had to itself" if training["device"] == "cpu" else "a GPU",
        samples=figures["images"]["samples"],
        real=100 * figures["judge_on_photographs"],
        made=100 * figures["judge_on_samples"],
        distance=figures["frechet_samples"],
        floor=figures["frechet_photographs"],
        seconds=figures["seconds_an_image_on_one_core"],
        translations="\n".join(
            f"| {strength} | {100 * share:.0f} % |"
            for strength, share in figures["judge_on_translations"].items()
        ),
        rows="\n".join(
            f"| {name} | {100 * share:.0f} % |" for name, share in figures["per_class"].items()
        ),
        guidance=figures["guidance_scale"],
    )
    target.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Measure from the command line; write figures.json and README.md beside the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="photographs to train the judge on")
    parser.add_argument("--val", required=True, help="photographs that the model has not seen")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--model", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--each", type=int, default=20, help="samples of each class")
    parser.add_argument("--judge-steps", type=int, default=800)
    parser.add_argument("--guidance-scale", type=float, default=4.5)
    parser.add_argument("--sheet", type=Path, help="PNG of samples to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    figures = measure(
        args.model, args.run, args.data, args.val, each=args.each, judge_steps=args.judge_steps,
        guidance_scale=args.guidance_scale, device=args.device, sheet=args.sheet,
    )  # fmt: skip
    (args.model / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_card(figures, args.model / "README.md")
    return figures


if __name__ == "__main__":
    main()
