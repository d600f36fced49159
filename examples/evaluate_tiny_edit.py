"""Measure `tiny` on photographs it has not seen, and write its figures and its model card.

    python examples/evaluate_tiny_edit.py --data 'train/*.parquet' --val 'val/*.parquet' \
        --large photos --run runs/tiny --model diffaug/assets/tiny

`--data` trains the judge, a classifier of procedural styles; `--val` must hold other photographs.
The model was trained at 64 px; `--large` holds photographs of 256 px and more, to see how it works
at larger sizes.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from kornia.metrics import ssim
from safetensors.torch import load_file
from tiny_autoencoder import psnr
from tiny_data import load_images, to_model, to_uint8
from tiny_styles import stylise
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from diffaug import DiffusersBackend, GenerationRequest, ModelSpec
from diffaug.backends.presets import PRESETS
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS, DIFFUSEMIX_TEMPLATES, fill

log = logging.getLogger("tiny")
STYLES = len(DIFFUSEMIX_PROMPTS)


def train_judge(photos: Tensor, steps: int, seed: int = 0) -> nn.Module:
    """Train a small network to name the procedural style of a 64 px image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in [(3, 32), (32, 64), (64, 128)]:
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        judge = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, STYLES)
        )
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3)
    for step in range(steps):
        index = torch.randint(len(photos), (32,), generator=generator)
        styles = torch.randint(STYLES, (32,), generator=generator)
        images = to_model(stylise(photos[index], styles, generator))
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        nn.functional.cross_entropy(judge(images), styles).backward()
        optimizer.step()
        optimizer.zero_grad()
    return judge.eval()


@torch.inference_mode()
def accuracy(judge: nn.Module, images: Tensor, style: int) -> float:
    """Return the share of images that the judge takes for a style."""
    found = torch.cat([judge(to_model(part)).argmax(1) for part in images.split(64)])
    return (found == style).float().mean().item()


@torch.inference_mode()
def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Send images through the autoencoder and back."""
    parts = [vae.decode(vae.encode(to_model(p)).latent_dist.mean).sample for p in images.split(64)]
    return to_uint8(torch.cat(parts))


def similarity(one: Tensor, other: Tensor) -> float:
    """Return the mean structural similarity of two sets of uint8 images."""
    return ssim(one.float() / 255, other.float() / 255, window_size=11).mean().item()


def edit(backend: DiffusersBackend, photos: Tensor, prompt: str, template: str) -> Tensor:
    """Return the photographs, edited by one prompt."""
    requests = [
        GenerationRequest(fill(DIFFUSEMIX_TEMPLATES[template], prompt), seed=seed, image=photo)
        for seed, photo in enumerate(photos)
    ]
    return torch.stack([made.image for made in backend.generate(requests)])


def at_size(spec: ModelSpec, vae: AutoencoderKL, judge: nn.Module, photos: Tensor) -> dict:
    """Return the figures of one working size; the judge sees the edits at 64 px, as it learned."""
    backend, side = DiffusersBackend(replace(spec, size=photos.shape[-1], batch_size=4)), (64, 64)
    named = [
        accuracy(judge, resize(edit(backend, photos, prompt, "paper"), side), style)
        for style, prompt in enumerate(DIFFUSEMIX_PROMPTS)
    ]
    return {
        "style_accuracy_on_edits": statistics.mean(named),
        "autoencoder_psnr": psnr(vae, photos),
        "seconds_an_image_on_one_core": seconds_an_image(backend.spec, photos[0], 3),
    }


def seconds_an_image(spec: ModelSpec, photo: Tensor, repeats: int) -> float:
    """Return the median time of one edit on one core, the model loaded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    with DiffusersBackend(replace(spec, device="cpu")) as backend:
        for seed in range(repeats + 1):
            start = time.perf_counter()
            backend.generate([GenerationRequest("snowy", seed=seed, image=photo)])
            times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return statistics.median(times[1:])  # the first one loads


def measure(
    model: Path,
    run: Path,
    train: Tensor,
    val: Tensor,
    large: dict[int, Tensor],
    *,
    photos: int,
    judge_steps: int,
) -> dict[str, object]:
    """Return every figure of the card; `large` holds photographs by working size."""
    spec = PRESETS["tiny"].spec
    spec = ModelSpec(
        str(model), size=64, steps=spec.steps, guidance_scale=spec.guidance_scale,
        image_guidance_scale=spec.image_guidance_scale, batch_size=25,
    )  # fmt: skip
    vae = AutoencoderKL.from_pretrained(model / "vae", use_safetensors=True).eval()
    judge, backend = train_judge(train, judge_steps), DiffusersBackend(spec)
    log.info("the judge is trained")
    chosen = val[torch.linspace(0, len(val) - 1, photos).long()]
    generator = torch.Generator().manual_seed(1)
    prompts: dict[str, dict[str, float]] = {}
    for style, prompt in enumerate(DIFFUSEMIX_PROMPTS):
        target = stylise(chosen, torch.full((photos,), style), generator)
        paper = edit(backend, chosen, prompt, "paper")
        release = edit(backend, chosen[: photos // 2], prompt, "release")
        prompts[prompt] = {
            "recognised_target": accuracy(judge, target, style),
            "recognised_edit": accuracy(judge, torch.cat([paper, release]), style),
            "ssim_to_decoded_target": similarity(paper, reconstruct(vae, target)),
            "ssim_to_target": similarity(paper, target),
        }
        log.info("%s: %s", prompt, prompts[prompt])

    def mean(name: str) -> float:
        return statistics.mean(figures[name] for figures in prompts.values())

    parts = {
        part.parent.name: sum(tensor.numel() for tensor in load_file(part).values())
        for part in sorted(model.glob("*/*.safetensors"))
    }
    return {
        "autoencoder_psnr": psnr(vae, val),
        "style_accuracy_on_targets": mean("recognised_target"),
        "style_accuracy_on_edits": mean("recognised_edit"),
        "ssim_to_decoded_target": mean("ssim_to_decoded_target"),
        "ssim_to_target": mean("ssim_to_target"),
        "prompts": prompts,
        "sizes": {size: at_size(spec, vae, judge, images) for size, images in large.items()},
        "photographs": {
            "psnr": len(val),
            "edits": photos,
            "sizes": min(map(len, large.values()), default=0),
        },
        "seconds_an_image_on_one_core": seconds_an_image(spec, chosen[0], 9),
        "steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "image_guidance_scale": spec.image_guidance_scale,
        "parameters": parts,
        "weight_megabytes": sum(f.stat().st_size for f in model.glob("*/*.safetensors")) / 1e6,
        "training": {
            name: json.loads((run / f"{name}.json").read_text())
            for name in ("autoencoder", "editor")
        },
        "versions": {name: metadata.version(name) for name in ("torch", "diffusers", "kornia")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


CARD = """---
license: apache-2.0
library_name: diffusers
tags: [instruct-pix2pix, data-augmentation]
---

# tiny

The model inside diffaug: an InstructPix2Pix pipeline of {millions:.1f} million parameters
({megabytes:.1f} MB) that edits photographs by the nine style prompts of DiffuseMix (arXiv
2405.14881), on a CPU, in {steps} steps. It is convolutional: `tiny` works at 128 pixels, `tiny-256`
runs the same weights at 256.

**For** trying, testing and teaching augmentation pipelines. **Not for** results to publish: it
knows nine styles, as procedures draw them. Other prompts give something between those styles.

## How it was made

Photographs of Tiny ImageNet (64 px, 160 classes; research data, none of it is contained here) and
their procedural renderings in nine styles (`examples/tiny_styles.py`). An autoencoder that halves
the side, on {ae_samples} samples ({ae_minutes:.1f} minutes on {ae_device}), then a U-Net with its
own text encoder on {editor_samples} samples, drawn from {photographs} photographs in {styles_each}
styles each ({editor_minutes:.1f} minutes on {editor_device}), by `examples/train_tiny_edit.py`.
Prompt, image, or both were left out in 5 % of the samples each.

## How good it is

On photographs it has not seen ({psnr_photos} for the first row, {edit_photos} a prompt for the
others); `examples/evaluate_tiny_edit.py` wrote these figures and `figures.json`.

| | |
| --- | --- |
| autoencoder, peak signal-to-noise ratio | {psnr:.1f} dB |
| edits whose prompt a classifier of the procedural styles names | {edits:.0f} % |
| procedural targets that it names | {targets:.0f} % |
| structural similarity of edits to the target as the autoencoder shows it | {decoded:.2f} |
| ... to the target itself | {raw:.2f} |
| one edit of 64 px on one core | {seconds:.2f} s |

| prompt | named | similarity |
| --- | --- | --- |
{rows}

Flakes, leaves, suns and curtains of light lie where chance puts them, so similarity to one target
cannot reach 1 there.
{sizes}
## Settings

Guidance {guidance} (text) and {image_guidance} (image), DDIM with trailing steps, v-prediction, a
schedule that starts from pure noise.
"""


SIZES = """
## At larger sizes

{photos} photographs that it has not seen, each edited by the nine prompts; the classifier of styles
sees the edits at 64 px. Textures keep their size in pixels, so mosaic cells and hatching become
finer on a larger picture, and the classifier, which has learned the coarse ones, names fewer.

| pixels | edits named | autoencoder | one edit on one core |
| --- | --- | --- | --- |
{rows}
"""


def sizes_of(figures: dict) -> str:
    """Return the section about larger sizes; nothing where they were not measured."""
    rows = [
        f"| {size} | {100 * row['style_accuracy_on_edits']:.0f} % | "
        f"{row['autoencoder_psnr']:.1f} dB | {row['seconds_an_image_on_one_core']:.1f} s |"
        for size, row in figures["sizes"].items()
    ]
    photos = figures["photographs"]["sizes"]
    return SIZES.format(photos=photos, rows="\n".join(rows)) if rows else ""


def samples_of(training: dict) -> str:
    """Say how many samples a training saw: "9.4 million"."""
    count = training["steps"] * training["batch_size"]
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"


def write_card(figures: dict, target: Path) -> None:
    """Fill the model card in from the figures."""
    rows = [
        f"| {prompt} | {100 * row['recognised_edit']:.0f} % | {row['ssim_to_decoded_target']:.2f} |"
        for prompt, row in figures["prompts"].items()
    ]
    autoencoder, editor = (figures["training"][name] for name in ("autoencoder", "editor"))
    text = CARD.format(
        millions=sum(figures["parameters"].values()) / 1e6,
        megabytes=figures["weight_megabytes"],
        steps=figures["steps"],
        ae_samples=samples_of(autoencoder),
        ae_minutes=autoencoder["minutes"],
        ae_device=autoencoder["device"],
        editor_samples=samples_of(editor),
        editor_minutes=editor["minutes"],
        editor_device=editor["device"],
        photographs=editor["photographs"],
        styles_each=editor["styles_each"],
        psnr_photos=figures["photographs"]["psnr"],
        edit_photos=figures["photographs"]["edits"],
        psnr=figures["autoencoder_psnr"],
        edits=100 * figures["style_accuracy_on_edits"],
        targets=100 * figures["style_accuracy_on_targets"],
        decoded=figures["ssim_to_decoded_target"],
        raw=figures["ssim_to_target"],
        seconds=figures["seconds_an_image_on_one_core"],
        rows="\n".join(rows),
        sizes=sizes_of(figures),
        guidance=figures["guidance_scale"],
        image_guidance=figures["image_guidance_scale"],
    )
    target.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Measure from the command line; write figures.json and README.md beside the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="photographs to train the judge on")
    parser.add_argument("--val", required=True, help="photographs that the model has not seen")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--model", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--large", help="photographs of 256 px and more that it has not seen")
    parser.add_argument("--photos", type=int, default=100, help="photographs to edit")
    parser.add_argument("--judge-steps", type=int, default=600)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sizes = (64, 128, 256) if args.large else ()
    figures = measure(
        args.model, args.run, load_images(args.data, limit=8000), load_images(args.val),
        {size: load_images(args.large, size) for size in sizes},
        photos=args.photos, judge_steps=args.judge_steps,
    )  # fmt: skip
    (args.model / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_card(figures, args.model / "README.md")
    return figures


if __name__ == "__main__":
    main()
