"""Train `tiny-translate`, the text-to-image pipeline that comes with diffaug, from photographs.

    python examples/train_tiny_translate.py --data 'photos/*.parquet' --out runs/tiny-translate \
        --autoencoder diffaug/assets/tiny/vae --export diffaug/assets/tiny-translate

Stages: the autoencoder of `tiny` (`tiny_autoencoder.py` trains one where none is given), latents of
the photographs and their mirror images, then a U-Net with a text encoder trained along, on the
prompt "a photo of a {class}". A CPU has time for a few classes that differ in colour and shape, the
default; on a GPU give `--classes all --minutes 20 --batch-size 256 --widths 64 128 192 256
--compile`. The run may be cut at any time, or sliced with `--slice-minutes`, and goes on where it
was. `evaluate_tiny_translate.py` measures the result.
"""

from __future__ import annotations

import argparse
import glob
import io
import json
import logging
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_autoencoder import IMAGE_SUFFIXES, fit, square, to_model, train_autoencoder
from tiny_parts import (
    export,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    tokens_of,
    velocity_loss,
)
from torch import Tensor, nn
from transformers import CLIPTokenizer

log = logging.getLogger("tiny")

#: How much noisier than Stable Diffusion's the schedule is; see `make_scheduler`.
NOISE = 2.0
PROMPT = "a photo of a {name}"
#: Classes of Tiny ImageNet that a small model tells apart by colour and outline.
CLASSES = (
    *("alp", "banana", "goldfish", "jellyfish", "king penguin", "lemon", "monarch", "orange"),
    *("school bus", "seashore"),
)


def load_labelled(
    source: str | Path, classes: tuple[str, ...] | None = None, size: int = 64
) -> tuple[Tensor, Tensor, list[str]]:
    """Read labelled photographs.

    Args:
        source: a glob pattern of Parquet files with columns `image` (a struct with a field `bytes`)
            and `label` (the class's name), or a folder with a folder of images for each class.
        classes: the names to keep; None keeps all.
        size: side of the square that every image is cropped and resized to.

    Returns:
        uint8 images (N, 3, size, size), class numbers (N,), and the classes' names, sorted.

    Raises:
        FileNotFoundError: nothing of these classes lies at `source`.
    """
    images: list[Tensor] = []
    labels: list[str] = []
    if Path(source).is_dir():
        for file in sorted(Path(source).glob("*/*")):
            wanted = classes is None or file.parent.name in classes
            if wanted and file.suffix.lower() in IMAGE_SUFFIXES:
                images.append(square(Image.open(file), size))
                labels.append(file.parent.name)
    else:
        import pyarrow.parquet

        for table in sorted(glob.glob(str(source))):
            columns = pyarrow.parquet.read_table(table, columns=["image", "label"])
            for place, label in enumerate(columns["label"].to_pylist()):
                if classes is None or label in classes:
                    data = columns["image"][place].as_py()["bytes"]
                    images.append(square(Image.open(io.BytesIO(data)), size))
                    labels.append(label)
    missing = set(classes or ()) - set(labels)
    if missing or not images:
        raise FileNotFoundError(f"'data' must hold {sorted(missing) or 'images'}: {source}")
    names = sorted(set(labels))
    return torch.stack(images), torch.tensor([names.index(label) for label in labels]), names


@torch.no_grad()
def encode(vae: AutoencoderKL, photos: Tensor, labels: Tensor, path: Path) -> dict[str, Tensor]:
    """Encode photographs and their mirror images, once; load them if they are there.

    Returns:
        `latents` (N, 2, 4, h, w) in half precision and `labels` (N,).
    """
    if path.exists():
        return load_file(path)
    parts = []
    for part in photos.split(64):
        both = torch.cat([part, part.flip(-1)])
        latents = vae.encode(to_model(both, vae.device)).latent_dist.mean
        parts.append(torch.stack(latents.half().cpu().chunk(2), 1))
    encoded = {"latents": torch.cat(parts).contiguous(), "labels": labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(encoded, path)
    return encoded


def train_translator(
    encoded: dict[str, Tensor],
    names: list[str],
    tokenizer: CLIPTokenizer,
    folder: Path,
    *,
    minutes: float,
    steps: int | None = None,
    slice_minutes: float = math.inf,
    widths: tuple[int, ...] = (32, 64, 96, 128),
    batch_size: int = 16,
    learning_rate: float = 1.5e-3,
    compile: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, nn.Module] | None:
    """Train the U-Net and the text encoder on cached latents; None if the slice ended first."""
    latents, labels = encoded["latents"].to(device), encoded["labels"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = make_unet(widths, latents.shape[-1], 4).to(device)
        text_encoder = make_text_encoder(tokenizer).to(device)
    alphas = make_scheduler(NOISE).alphas_cumprod.to(device)
    prompts = torch.stack([tokens_of(tokenizer, PROMPT.format(name=name)) for name in names])
    empty = tokens_of(tokenizer, "")
    predict = torch.compile(unet) if compile else unet

    def loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(labels), (batch_size,), generator=generator)
        mirrored = torch.randint(2, (batch_size,), generator=generator)
        dropped = torch.rand(batch_size, generator=generator) < 0.1
        tokens = torch.where(dropped[:, None], empty, prompts[labels[index]]).to(device)
        clean = latents[index.to(device), mirrored.to(device)].float()
        return velocity_loss(predict, text_encoder, alphas, clean, tokens, generator)

    trained = fit(
        {"unet": unet, "text_encoder": text_encoder}, loss, folder / "translator.safetensors",
        minutes=minutes, steps=steps, slice_minutes=slice_minutes,
        learning_rate=learning_rate, seed=seed,
    )  # fmt: skip
    if trained is None:
        return None
    figures = {**trained[1], "batch_size": batch_size, "photographs": len(labels), "device": device}
    (folder / "translator.json").write_text(json.dumps({**figures, "classes": names}))
    return trained[0]


def main(argv: list[str] | None = None) -> Path | None:
    """Run or go on with a training from the command line; return the pipeline once complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Parquet files, or class folders of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--export", type=Path, help="where the pipeline goes [OUT/pipeline]")
    parser.add_argument("--autoencoder", type=Path, help="a trained one [trained from --data]")
    parser.add_argument("--autoencoder-minutes", type=float, default=60.0)
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--steps", type=int, help="stop each stage after so many steps")
    parser.add_argument("--slice-minutes", type=float, default=math.inf, help="pause after so long")
    parser.add_argument("--classes", nargs="+", default=CLASSES, help="names, or 'all'")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96, 128])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    shared = {
        "steps": args.steps, "slice_minutes": args.slice_minutes, "batch_size": args.batch_size,
        "compile": args.compile, "device": args.device,
    }  # fmt: skip
    classes = None if list(args.classes) == ["all"] else tuple(args.classes)
    images, labels, names = load_labelled(args.data, classes)
    if args.autoencoder is None:
        vae = train_autoencoder(images, args.out, minutes=args.autoencoder_minutes, **shared)
    else:
        vae = AutoencoderKL.from_pretrained(args.autoencoder, use_safetensors=True)
        vae = vae.float().to(args.device).eval()
    if vae is None:
        return None
    tokenizer = make_tokenizer(args.out / "tokenizer", [PROMPT.format(name=name) for name in names])
    encoded = encode(vae, images, labels, args.out / "latents.safetensors")
    log.info("%d photographs of %d classes", len(labels), len(names))
    modules = train_translator(
        encoded, names, tokenizer, args.out,
        minutes=args.minutes, widths=tuple(args.widths), learning_rate=args.learning_rate, **shared,
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
