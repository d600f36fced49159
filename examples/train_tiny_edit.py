"""Train `tiny`, the InstructPix2Pix pipeline that comes with diffaug, from photographs alone.

    python examples/train_tiny_edit.py --data 'photos/*.parquet' --out runs/tiny \
        --export diffaug/assets/tiny

Stages: the autoencoder (`tiny_autoencoder.py`), latents of photographs and of their procedural
renderings in nine styles (`tiny_styles.py`), then the U-Net with its text encoder. A run may be
cut at any time, or sliced with `--slice-minutes`, and resumes where it was; `--init` starts from
the weights of an earlier pipeline. The same code trains on a GPU, where these options fill it:

    --batch-size 256 --ema 0.9995 --photos 100000 --styles-each 9
    --autoencoder-minutes 3 --minutes 5

`evaluate_tiny_edit.py` measures the result.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionInstructPix2PixPipeline
from safetensors.torch import load_file, save_file
from tiny_autoencoder import latents_of, read_autoencoder, train_autoencoder
from tiny_data import load_images
from tiny_parts import (
    export,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    tokens_of,
    train_unet,
)
from tiny_styles import stylise
from tiny_training import Options
from torch import Generator, Tensor, nn
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
    vae: AutoencoderKL, photos: Tensor, *, styles_each: int, seed: int = 0
) -> dict[str, Tensor]:
    """Encode photographs and some of their renderings, on the device of the autoencoder.

    Returns:
        `photo` (N, 4, h, w) and `styled` (N, styles_each, 4, h, w) latents in half precision, and
        `style` (N, styles_each), positions in `DIFFUSEMIX_PROMPTS`.
    """
    generator = Generator(vae.device).manual_seed(seed)
    order = torch.rand(len(photos), len(DIFFUSEMIX_PROMPTS), generator=generator, device=vae.device)
    style = order.argsort(1)[:, :styles_each].contiguous()

    def encode(images: Tensor) -> Tensor:
        return latents_of(vae, images).half()

    photo, styled = [], []
    for part, wanted in zip(photos.split(256), style.split(256), strict=True):
        part = part.to(vae.device)
        photo.append(encode(part))
        columns = [encode(stylise(part, column, generator)) for column in wanted.T]
        styled.append(torch.stack(columns, 1))
    return {"photo": torch.cat(photo), "styled": torch.cat(styled), "style": style}


class Prompter:
    """Word a style at random, in one of the sentences; every wording is tokenized once."""

    def __init__(self, tokenizer: CLIPTokenizer, device: str) -> None:
        groups: list[list[str]] = []
        for prompt, synonyms in zip(DIFFUSEMIX_PROMPTS, SYNONYMS, strict=True):
            # Half of the wordings are the prompt itself, in the two templates of DiffuseMix.
            groups.append([fill(text, prompt) for text in DIFFUSEMIX_TEMPLATES.values()])
            groups.append(
                [fill(text, words) for words in (prompt, *synonyms) for text in SENTENCES]
            )
        self.counts = torch.tensor([len(group) for group in groups], device=device)
        longest = max(map(len, groups))
        self.tokens = torch.stack(  # (2 * styles, longest, TOKENS); the rest of a row is unused
            [
                torch.stack([tokens_of(tokenizer, text) for text in group + group[:1] * missing])
                for group in groups
                for missing in [longest - len(group)]
            ]
        ).to(device)
        self.empty = tokens_of(tokenizer, "").to(device)

    def __call__(self, styles: Tensor, dropped: Tensor, generator: Generator) -> Tensor:
        """Return token numbers (B, TOKENS); those of the empty prompt where it is dropped."""
        kind, which = torch.rand(2, len(styles), generator=generator, device=styles.device)
        group = 2 * styles + (kind < 0.5).long()
        tokens = self.tokens[group, (which * self.counts[group]).long()]
        return torch.where(dropped[:, None], self.empty, tokens)


def train_editor(
    pairs: dict[str, Tensor],
    tokenizer: CLIPTokenizer,
    folder: Path,
    options: Options,
    *,
    minutes: float,
    widths: tuple[int, ...] = (32, 64, 96, 128),
) -> dict[str, nn.Module] | None:
    """Train the U-Net and the text encoder on cached latents; None if the slice ended first."""
    pairs = {name: value.to(options.device) for name, value in pairs.items()}
    prompter = Prompter(tokenizer, options.device)
    size = (options.batch_size,)

    def batches(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        drawn = {"generator": generator, "device": generator.device}
        index = torch.randint(len(pairs["photo"]), size, **drawn)
        which = torch.randint(pairs["style"].shape[1], size, **drawn)
        chance = torch.rand(size, **drawn)
        # 5 % without prompt, 5 % without image, 5 % without either, as InstructPix2Pix.
        no_prompt, no_image = chance < 0.10, (chance >= 0.05) & (chance < 0.15)
        tokens = prompter(pairs["style"][index, which], no_prompt, generator)
        photo = pairs["photo"][index].float() * (~no_image)[:, None, None, None]
        return pairs["styled"][index, which].float(), tokens, photo

    trained = train_unet(
        folder, "editor", options,
        minutes=minutes, widths=widths, side=pairs["photo"].shape[-1], channels=8,
        tokenizer=tokenizer, scheduler=make_scheduler(), batches=batches,
    )  # fmt: skip
    if trained is None:
        return None
    modules, figures = trained
    figures |= {"photographs": len(pairs["photo"]), "styles_each": pairs["style"].shape[1]}
    (folder / "editor.json").write_text(json.dumps(figures))
    return modules


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
    """Start or resume a training from the command line; return the pipeline once complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Parquet files or a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--export", type=Path, help="where the pipeline goes [OUT/pipeline]")
    parser.add_argument("--autoencoder", type=Path, help="a trained one [trained from --data]")
    parser.add_argument("--autoencoder-minutes", type=float, default=60.0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--photos", type=int, default=9000, help="photographs to pair")
    parser.add_argument("--styles-each", type=int, default=3, help="renderings of each photograph")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96, 128])
    parser.add_argument("--export-checkpoint", action="store_true", help="export as it stands")
    Options.add_to(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = Options.of(args)
    target, widths = args.export or args.out / "pipeline", tuple(args.widths)
    if args.export_checkpoint:
        export_checkpoint(args.out, target, widths, side=32)
        return target
    images = load_images(args.data)
    if args.autoencoder is None:
        vae = train_autoencoder(images, args.out, options, minutes=args.autoencoder_minutes)
    else:
        vae = read_autoencoder(args.autoencoder, options.device)
    if vae is None:
        return None
    texts = [*DIFFUSEMIX_PROMPTS, *SENTENCES, *(text for row in SYNONYMS for text in row)]
    tokenizer = make_tokenizer(args.out / "tokenizer", texts, options.init)
    cached = args.out / "pairs.safetensors"
    if cached.exists():
        pairs = load_file(cached)
    else:
        pairs = encode_pairs(vae, images[: args.photos], styles_each=args.styles_each)
        if options.device == "cpu":  # a GPU is faster than the disk
            save_file(pairs, cached)
    log.info("pairs: %d photographs, %d styles each", *pairs["style"].shape)
    modules = train_editor(pairs, tokenizer, args.out, options, minutes=args.minutes, widths=widths)
    if modules is None:
        return None
    export(PIPELINE, modules, vae, make_scheduler(), args.out / "tokenizer", target)
    log.info("wrote %s", target)
    return target


if __name__ == "__main__":
    main()
