"""Measure `tiny-translate` by a classifier that has seen photographs only, and write its card.

    python examples/evaluate_tiny_translate.py --data 'train/*.parquet' --val 'val/*.parquet' \
        --run runs/tiny-translate --model diffaug/assets/tiny-translate --sheet samples.png

`--data` trains the classifier, on the classes that the pipeline was trained on, unless `--judge`
names one that `tiny_judge.py` has trained; `--val` must hold other photographs of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import textwrap
import time
from importlib import metadata
from pathlib import Path

import torch
from evaluate_tiny_edit import samples_of
from safetensors.torch import load_file
from small_resnet import SmallResNet, predict
from tiny_autoencoder import psnr, read_autoencoder
from tiny_data import load_labelled
from tiny_judge import read_judge, train_judge
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity
from torchvision.utils import make_grid, save_image
from train_tiny_translate import PROMPT

from diffaug import DiffusersBackend, GenerationRequest, ModelSpec

log = logging.getLogger("tiny")
STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


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


def layout_kept(one: Tensor, other: Tensor) -> float:
    """Return the mean correlation of uint8 images and their translations at 8 x 8 pixels.

    It is about 1 where the layout and the colours of the source are kept, and 0 where a picture has
    nothing of its source.
    """
    small = [
        avg_pool2d(images.float(), images.shape[-1] // 8).flatten(1) for images in (one, other)
    ]
    one, other = (values - values.mean(1, keepdim=True) for values in small)
    return cosine_similarity(one, other, dim=1).mean().item()


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
    each: int, moves: int, judge: Path | None, judge_steps: int, guidance_scale: float,
    device: str, sheet: Path | None,
) -> dict[str, object]:  # fmt: skip
    """Return every figure of the card."""
    training = {
        name: json.loads((run / f"{name}.json").read_text())
        for name in ("autoencoder", "translator")
        if (run / f"{name}.json").exists()  # a given autoencoder may have no record
    }
    names = training["translator"].pop("classes")
    images, labels, _ = load_labelled(data, names)
    others, truths, _ = load_labelled(val, names)
    if judge is None:
        network = train_judge(images, labels, len(names), steps=judge_steps, device=device)
    else:
        network, known, _ = read_judge(judge, device)
        if known != names:
            raise ValueError(f"'judge' must know the model's {len(names)} classes: {judge}")
    real = (predict(network, others, device) == truths).float().mean().item()
    log.info("the judge names %.1f %% of real photographs", 100 * real)
    spec = ModelSpec(
        str(model), task="generate", size=64, steps=10, guidance_scale=guidance_scale,
        batch_size=25, device=device,
    )  # fmt: skip
    with DiffusersBackend(spec) as backend:
        samples = sample(backend, names, each)
    wanted = torch.arange(len(names)).repeat_interleave(each)
    named = predict(network, samples, device) == wanted
    log.info("the judge names %.1f %% of samples", 100 * named.float().mean().item())
    # Translations from one class to another, over all classes as evenly as `moves` allows.
    targets = torch.linspace(0, len(names) - 1, moves).round().long()
    pool = {place: others[truths == place] for place in range(len(names))}
    origins = (targets + max(1, len(names) // 2)) % len(names)
    sources = torch.stack(
        [pool[origin][i % len(pool[origin])] for i, origin in enumerate(origins.tolist())]
    )
    named_as_target, layout = {}, {}
    with DiffusersBackend(ModelSpec(**{**vars(spec), "task": "translate"})) as backend:
        for strength in STRENGTHS:
            requests = [
                GenerationRequest(PROMPT.format(name=names[t]), i, source, strength=strength)
                for i, (t, source) in enumerate(zip(targets.tolist(), sources, strict=True))
            ]
            moved = torch.stack([answer.image for answer in backend.generate(requests)])
            share = (predict(network, moved, device) == targets).float().mean().item()
            named_as_target[str(strength)] = share
            layout[str(strength)] = layout_kept(sources, moved)
            log.info("strength %s: %.0f %% named, layout %.2f", strength, 100 * share,
                     layout[str(strength)])  # fmt: skip
    if sheet is not None:
        rows = samples.view(len(names), each, *samples.shape[1:])
        chosen = torch.linspace(0, len(names) - 1, min(len(names), 20)).long()
        shown = rows[chosen, :12].flatten(0, 1)
        save_image(make_grid(shown / 255, nrow=min(each, 12)), sheet)
    vae = read_autoencoder(model / "vae", device)
    half = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: len(others)]
    parts = {
        part.parent.name: sum(tensor.numel() for tensor in load_file(part).values())
        for part in sorted(model.glob("*/*.safetensors"))
    }
    return {
        "classes": names,
        "autoencoder_psnr": psnr(vae, sources),
        "judge_on_photographs": real,
        "judge_on_samples": named.float().mean().item(),
        "judge_on_translations": named_as_target,
        "layout_kept": layout,
        "per_class": {
            name: named[wanted == place].float().mean().item() for place, name in enumerate(names)
        },
        "frechet_samples": frechet(network, samples, others, device),
        "frechet_photographs": frechet(network, images[half], others, device),
        "images": {"samples": len(samples), "validation": len(others), "translations": moves},
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
publish: its pictures are small and soft.

## How it was made

{photographs:,} photographs of Tiny ImageNet (research data, none of it is contained here), of
{count} classes, and their mirror images:
{names}.

{how}

## How good it is

A small ResNet that was trained on photographs alone judges {images:,} samples;
`examples/evaluate_tiny_translate.py` wrote these figures and `figures.json`.

| | |
| --- | --- |
| validation photographs whose class it names, of {count} | {real:.0f} % |
| samples whose class it names | {made:.0f} % |
| Frechet distance of samples to validation photographs, in its features | {distance:.1f} |
| ... of training photographs to validation photographs | {floor:.1f} |
| autoencoder, peak signal-to-noise ratio on {moves} of them | {psnr:.1f} dB |
| one sample on one core | {seconds:.2f} s |

{moves} photographs of one class translated to another; the layout kept is the correlation with the
source at 8 x 8 pixels:

| strength | named as the target | layout kept |
| --- | --- | --- |
{translations}

| samples named | classes |
| --- | --- |
{rows}

## Settings

Guidance {guidance}, DDIM with trailing steps, v-prediction, a schedule that starts from pure noise.
"""


def write_card(figures: dict, target: Path) -> None:
    """Fill the model card in from the figures."""
    translator, classes = figures["training"]["translator"], figures["classes"]
    how = "The autoencoder was given; it halves the side."
    if trained := figures["training"].get("autoencoder"):
        how = (
            f"The autoencoder, which halves the side, was trained on {samples_of(trained)} "
            f"samples in {trained['minutes']:.1f} minutes on {trained['device']}."
        )
    how += (
        f" A U-Net and a text encoder were trained on {samples_of(translator)} samples in "
        f"{translator['minutes']:.1f} minutes on {translator['device']}, by "
        "`examples/train_tiny_translate.py`. One prompt in ten was left out."
    )
    bands: dict[str, list[str]] = {}
    for name, share in figures["per_class"].items():
        band = "all" if share == 1 else "half or more" if share >= 0.5 else "some"
        bands.setdefault(band if share else "none", []).append(name)
    text = CARD.format(
        millions=sum(figures["parameters"].values()) / 1e6,
        megabytes=figures["weight_megabytes"],
        steps=figures["steps"],
        photographs=translator["photographs"],
        psnr=figures["autoencoder_psnr"],
        how=textwrap.fill(how, 100),
        count=len(classes),
        names=textwrap.fill(", ".join(classes), 100),
        images=figures["images"]["samples"],
        moves=figures["images"]["translations"],
        real=100 * figures["judge_on_photographs"],
        made=100 * figures["judge_on_samples"],
        distance=figures["frechet_samples"],
        floor=figures["frechet_photographs"],
        seconds=figures["seconds_an_image_on_one_core"],
        translations="\n".join(
            f"| {strength} | {100 * share:.0f} % | {figures['layout_kept'][strength]:.2f} |"
            for strength, share in figures["judge_on_translations"].items()
        ),
        rows="\n".join(
            f"| {band} | {', '.join(bands[band])} |"
            for band in ("all", "half or more", "some", "none")
            if band in bands
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
    parser.add_argument("--moves", type=int, default=160, help="translations at each strength")
    parser.add_argument("--judge", type=Path, help="a trained one [trained from --data]")
    parser.add_argument("--judge-steps", type=int, default=800)
    parser.add_argument("--guidance-scale", type=float, default=4.5)
    parser.add_argument("--sheet", type=Path, help="PNG of samples to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    figures = measure(
        args.model, args.run, args.data, args.val,
        each=args.each, moves=args.moves, judge=args.judge, judge_steps=args.judge_steps,
        guidance_scale=args.guidance_scale, device=args.device, sheet=args.sheet,
    )  # fmt: skip
    (args.model / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_card(figures, args.model / "README.md")
    return figures


if __name__ == "__main__":
    main()
