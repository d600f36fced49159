"""Train `tiny-translate`, the text-to-image pipeline that comes with diffaug, from photographs.

    python examples/train_tiny_translate.py --data 'photos/*.parquet' --out runs/tiny-translate \
        --export diffaug/assets/tiny-translate

Stages: the autoencoder (`tiny_autoencoder.py`), unless `--autoencoder` gives a trained one; latents
of the photographs and their mirror images; then a U-Net with a text encoder trained along, on the
prompt "a photo of a {class}" and a few like it. A CPU has time for a few classes that differ in
colour and shape (`--classes banana goldfish ...`); a GPU takes all of them with

    --batch-size 256 --ema 0.9995 --minutes 5

A run may be cut at any time, or sliced with `--slice-minutes`, and resumes where it was; `--init`
starts from the weights of an earlier pipeline. `evaluate_tiny_translate.py` measures the result.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_autoencoder import latents_of, read_autoencoder, train_autoencoder
from tiny_data import load_labelled
from tiny_parts import export, make_scheduler, make_tokenizer, tokens_of, train_unet
from tiny_training import Options
from torch import Generator, Tensor, nn
from transformers import CLIPTokenizer

log = logging.getLogger("tiny")

#: How much noisier than Stable Diffusion's the schedule is. Latents that are nearly pixels keep
#: their layout under more noise; with this factor a translation at strength 0.7 keeps about as
#: much of its source's layout as one by Stable Diffusion (the card has the curve).
NOISE = 1.3
PROMPT = "a photo of a {name}"
#: The first one is drawn for half of the samples.
TEMPLATES = (PROMPT, "a photo of the {name}", "a picture of a {name}", "a {name}", "{name}")


@torch.no_grad()
def encode(vae: AutoencoderKL, photos: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Encode photographs and their mirror images, on the device of the autoencoder.

    Returns:
        `latents` (N, 2, 4, h, w) in half precision and `labels` (N,).
    """
    parts = []
    for part in photos.split(256):
        both = torch.cat([part, part.flip(-1)])
        parts.append(torch.stack(latents_of(vae, both).half().chunk(2), 1))
    return {"latents": torch.cat(parts), "labels": labels}


def train_translator(
    encoded: dict[str, Tensor],
    names: list[str],
    tokenizer: CLIPTokenizer,
    folder: Path,
    options: Options,
    *,
    minutes: float,
    widths: tuple[int, ...] = (32, 64, 96, 128),
) -> dict[str, nn.Module] | None:
    """Train the U-Net and the text encoder on cached latents; None if the slice ended first."""
    latents, labels = (encoded[name].to(options.device) for name in ("latents", "labels"))
    prompts = torch.stack(  # (templates, classes, TOKENS)
        [
            torch.stack([tokens_of(tokenizer, text.format(name=name)) for name in names])
            for text in TEMPLATES
        ]
    ).to(options.device)
    empty = tokens_of(tokenizer, "").to(options.device)
    size = (options.batch_size,)

    def batches(generator: Generator) -> tuple[Tensor, Tensor, None]:
        drawn = {"generator": generator, "device": generator.device}
        index = torch.randint(len(labels), size, **drawn)
        mirrored = torch.randint(2, size, **drawn)
        other = torch.randint(len(TEMPLATES), size, **drawn)
        template = torch.where(torch.rand(size, **drawn) < 0.5, 0, other)
        dropped = torch.rand(size, **drawn) < 0.1
        tokens = torch.where(dropped[:, None], empty, prompts[template, labels[index]])
        return latents[index, mirrored].float(), tokens, None

    trained = train_unet(
        folder, "translator", options,
        minutes=minutes, widths=widths, side=latents.shape[-1], channels=4,
        tokenizer=tokenizer, scheduler=make_scheduler(NOISE), batches=batches,
    )  # fmt: skip
    if trained is None:
        return None
    modules, figures = trained
    figures |= {"photographs": len(labels), "classes": names}
    (folder / "translator.json").write_text(json.dumps(figures))
    return modules


def main(argv: list[str] | None = None) -> Path | None:
    """Start or resume a training from the command line; return the pipeline once complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Parquet files, or class folders of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--export", type=Path, help="where the pipeline goes [OUT/pipeline]")
    parser.add_argument("--autoencoder", type=Path, help="a trained one [trained from --data]")
    parser.add_argument("--autoencoder-minutes", type=float, default=60.0)
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--classes", nargs="+", help="names of those to learn [all]")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96, 128])
    Options.add_to(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = Options.of(args)
    images, labels, names = load_labelled(args.data, args.classes)
    if args.autoencoder is None:
        vae = train_autoencoder(images, args.out, options, minutes=args.autoencoder_minutes)
    else:
        vae = read_autoencoder(args.autoencoder, options.device)
        record = args.autoencoder.parent / "autoencoder.json"
        if record.exists():
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / record.name).write_text(record.read_text())
    if vae is None:
        return None
    texts = [text.format(name=name) for name in names for text in TEMPLATES]
    tokenizer = make_tokenizer(args.out / "tokenizer", texts, options.init)
    cached = args.out / "latents.safetensors"
    if cached.exists():
        encoded = load_file(cached)
    else:
        encoded = encode(vae, images, labels)
        if options.device == "cpu":  # a GPU is faster than the disk
            save_file(encoded, cached)
    log.info("%d photographs of %d classes", len(labels), len(names))
    modules = train_translator(
        encoded, names, tokenizer, args.out, options,
        minutes=args.minutes, widths=tuple(args.widths),
    )  # fmt: skip
    if modules is None:
        return None
    target = args.export or args.out / "pipeline"
    export(
        StableDiffusionPipeline, modules, vae, make_scheduler(NOISE), args.out / "tokenizer", target
    )
    log.info("wrote %s", target)
    return target


if __name__ == "__main__":
    main()
