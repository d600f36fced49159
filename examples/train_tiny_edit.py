"""Train `tiny`, the InstructPix2Pix pipeline that comes with diffaug, from photographs alone.

    python examples/train_tiny_edit.py --data 'photos/*.parquet' --out runs/tiny \
        --export diffaug/assets/tiny

Stages: the autoencoder (`tiny_autoencoder.py`), latents of photographs and of their procedural
renderings in nine styles (`tiny_styles.py`), then the U-Net with its text encoder. The run may be
cut at any time, or sliced with `--slice-minutes`, and goes on where it was. The same code trains in
bfloat16 on a GPU where there is one. `evaluate_tiny_edit.py` measures the result.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionInstructPix2PixPipeline
from safetensors.torch import load_file, save_file
from tiny_autoencoder import fit, load_images, to_model, train_autoencoder
from tiny_parts import (
    export,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    tokens_of,
    velocity_loss,
)
from tiny_styles import stylise
from torch import Tensor, nn
from transformers import CLIPTokenizer

from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS, DIFFUSEMIX_TEMPLATES, fill

log = logging.getLogger("tiny")
PIPELINE = StableDiffusionInstructPix2PixPipeline

#: Other words for the nine styles, so that a user's own wording is not lost on the model.
SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("autumn", "fall", "autumn leaves", "in autumn"),
    ("snow", "winter", "in the snow", "covered in snow"),
    ("watercolor", "a watercolor painting", "watercolour art"),
    ("at sunset", "a sunset", "evening light", "dusk"),
    ("rainbow colors", "a rainbow", "with a rainbow"),
    ("aurora borealis", "northern lights", "an aurora at night"),
    ("a mosaic", "mosaic tiles", "stone mosaic"),
    ("a ukiyo-e print", "japanese woodblock print", "ukiyo e"),
    ("crayon sketch", "a crayon drawing", "a sketch", "wax crayon"),
)
SENTENCES = (*DIFFUSEMIX_TEMPLATES.values(), "make it {prompt}", "turn it into {prompt}")


@torch.no_grad()
def encode_pairs(
    vae: AutoencoderKL, photos: Tensor, path: Path, *, styles_each: int, seed: int = 0
) -> dict[str, Tensor]:
    """Encode photographs and some of their renderings, once; load them if they are there.

    Returns:
        `photo` (N, 4, h, w) and `styled` (N, styles_each, 4, h, w) latents in half precision, and
        `style` (N, styles_each), positions in `DIFFUSEMIX_PROMPTS`.
    """
    if path.exists():
        return load_file(path)
    generator = torch.Generator().manual_seed(seed)
    count = len(DIFFUSEMIX_PROMPTS)
    style = torch.rand(len(photos), count, generator=generator).argsort(1)[:, :styles_each]

    def encode(images: Tensor) -> Tensor:
        return vae.encode(to_model(images, vae.device)).latent_dist.mean.half().cpu()

    photo, styled = [], []
    for start in range(0, len(photos), 64):
        part, wanted = photos[start : start + 64], style[start : start + 64]
        photo.append(encode(part))
        columns = [encode(stylise(part, column, generator)) for column in wanted.T]
        styled.append(torch.stack(columns, 1))
    pairs = {"photo": torch.cat(photo), "styled": torch.cat(styled), "style": style}
    pairs = {name: value.contiguous() for name, value in pairs.items()}
    save_file(pairs, path)
    return pairs


class Prompter:
    """Word a style at random, in one of the sentences; every wording is tokenized once."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        rows = [(prompt, *SYNONYMS[i]) for i, prompt in enumerate(DIFFUSEMIX_PROMPTS)]
        # Half of the wordings are the prompts themselves, in the two templates of DiffuseMix.
        own = [[fill(t, row[0]) for t in DIFFUSEMIX_TEMPLATES.values()] for row in rows]
        other = [[fill(s, words) for words in row for s in SENTENCES] for row in rows]
        self.ids = [
            [tokens_of(tokenizer, text) for text in group]
            for pair in zip(own, other, strict=True)
            for group in pair
        ]
        self.empty = tokens_of(tokenizer, "")

    def __call__(self, styles: Tensor, dropped: Tensor, generator: torch.Generator) -> Tensor:
        """Return token numbers (B, TOKENS); those of the empty prompt where it is dropped."""
        rows = []
        for style, drop in zip(styles.tolist(), dropped.tolist(), strict=True):
            kind = int(torch.rand((), generator=generator) < 0.5)
            group = self.ids[2 * style + kind]
            choice = int(torch.randint(len(group), (), generator=generator))
            rows.append(self.empty if drop else group[choice])
        return torch.stack(rows)


def train_editor(
    pairs: dict[str, Tensor],
    tokenizer: CLIPTokenizer,
    folder: Path,
    *,
    minutes: float,
    steps: int | None = None,
    slice_minutes: float = math.inf,
    widths: tuple[int, ...] = (32, 64, 96, 128),
    batch_size: int = 16,
    compile: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, nn.Module] | None:
    """Train the U-Net and the text encoder on cached latents; None if the slice ended first."""
    side = pairs["photo"].shape[-1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = make_unet(widths, side, 8).to(device)
        text_encoder = make_text_encoder(tokenizer).to(device)
    prompter = Prompter(tokenizer)
    alphas = make_scheduler().alphas_cumprod.to(device)
    predict = torch.compile(unet) if compile else unet

    def loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(pairs["photo"]), (batch_size,), generator=generator)
        which = torch.randint(pairs["style"].shape[1], (batch_size,), generator=generator)
        chance = torch.rand(batch_size, generator=generator)
        # 5 % without prompt, 5 % without image, 5 % without either, as InstructPix2Pix.
        no_prompt, no_image = chance < 0.10, (chance >= 0.05) & (chance < 0.15)
        tokens = prompter(pairs["style"][index, which], no_prompt, generator).to(device)
        photo = pairs["photo"][index].float() * (~no_image)[:, None, None, None]
        clean = pairs["styled"][index, which].float().to(device)
        return velocity_loss(
            predict, text_encoder, alphas, clean, tokens, generator, photo.to(device)
        )

    trained = fit(
        {"unet": unet, "text_encoder": text_encoder}, loss, folder / "editor.safetensors",
        minutes=minutes, steps=steps, slice_minutes=slice_minutes, learning_rate=1.5e-3, seed=seed,
    )  # fmt: skip
    if trained is None:
        return None
    (folder / "editor.json").write_text(json.dumps(trained[1]))
    return trained[0]


def export_checkpoint(folder: Path, target: Path, widths: tuple[int, ...], side: int) -> None:
    """Write the averaged weights of an unfinished run as a pipeline, to look at."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    modules = nn.ModuleDict(
        {"unet": make_unet(widths, side, 8), "text_encoder": make_text_encoder(tokenizer)}
    )
    tensors = load_file(folder / "editor.safetensors")
    modules.load_state_dict(
        {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    )
    vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True)
    export(PIPELINE, dict(modules.items()), vae, make_scheduler(), folder / "tokenizer", target)


def main(argv: list[str] | None = None) -> Path | None:
    """Run or go on with a training from the command line; return the pipeline once complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Parquet files or a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--export", type=Path, help="where the pipeline goes [OUT/pipeline]")
    parser.add_argument("--autoencoder-minutes", type=float, default=60.0)
    parser.add_argument("--editor-minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, help="stop each stage after so many steps")
    parser.add_argument("--slice-minutes", type=float, default=math.inf, help="pause after so long")
    parser.add_argument("--photos", type=int, default=9000, help="photographs to pair")
    parser.add_argument("--styles-each", type=int, default=3, help="renderings of each photograph")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96, 128])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export-checkpoint", action="store_true", help="export as it stands")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    target, widths = args.export or args.out / "pipeline", tuple(args.widths)
    if args.export_checkpoint:
        export_checkpoint(args.out, target, widths, side=32)
        return target
    shared = {
        "steps": args.steps, "slice_minutes": args.slice_minutes, "batch_size": args.batch_size,
        "compile": args.compile, "device": args.device,
    }  # fmt: skip
    images = load_images(args.data)
    vae = train_autoencoder(images, args.out, minutes=args.autoencoder_minutes, **shared)
    if vae is None:
        return None
    texts = [*DIFFUSEMIX_PROMPTS, *SENTENCES, *(text for row in SYNONYMS for text in row)]
    tokenizer = make_tokenizer(args.out / "tokenizer", texts)
    pairs = encode_pairs(
        vae, images[: args.photos], args.out / "pairs.safetensors", styles_each=args.styles_each
    )
    log.info("pairs: %d photographs, %d styles each", *pairs["style"].shape)
    modules = train_editor(
        pairs, tokenizer, args.out, minutes=args.editor_minutes, widths=widths, **shared
    )
    if modules is None:
        return None
    export(PIPELINE, modules, vae, make_scheduler(), args.out / "tokenizer", target)
    log.info("wrote %s", target)
    return target


if __name__ == "__main__":
    main()
