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
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from tiny_autoencoder import fit, load_images, to_model, train_autoencoder
from tiny_styles import stylise
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffaug.prompts import DIFFUSEMIX_PROMPTS, DIFFUSEMIX_TEMPLATES, fill

log = logging.getLogger("tiny")

#: Tokens that the text encoder reads; the longest prompt here has twelve.
TOKENS = 32
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


def _merge(parts: list[str], left: str, right: str) -> list[str]:
    """Join each occurrence of two neighbouring symbols, from the left."""
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == (left, right):
            merged[-1] = left + right
        else:
            merged.append(part)
    return merged


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a CLIP tokenizer that has each word of the prompts as one token.

    Its symbols are CLIP's 512 (256 bytes, each also at the end of a word), so any text is read.
    """
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(code) for code in codes] + [chr(256 + i) for i in range(256 - len(codes))]
    texts = [*DIFFUSEMIX_PROMPTS, *SENTENCES, *(text for row in SYNONYMS for text in row)]
    words = sorted({word for text in texts for word in re.findall("[a-z]+", text.lower())})
    spelt = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    # Byte-pair encoding: the most frequent pair becomes one symbol until every word is one.
    while pairs := Counter(pair for parts in spelt for pair in pairwise(parts)):
        merges.append(max(sorted(pairs), key=pairs.__getitem__))
        spelt = [_merge(parts, *merges[-1]) for parts in spelt]
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    vocabulary += [left + right for left, right in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    numbered = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder for the tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_unet(widths: tuple[int, ...], side: int) -> UNet2DConditionModel:
    """Return an untrained U-Net that sees the photograph's latents beside the noisy ones."""
    levels = len(widths)
    reads = [i >= levels - 2 for i in range(levels)]  # attention is cheap only on the small levels
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=8,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=tuple("CrossAttnDownBlock2D" if r else "DownBlock2D" for r in reads),
        up_block_types=tuple("CrossAttnUpBlock2D" if r else "UpBlock2D" for r in reversed(reads)),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=8,
    ).to(memory_format=torch.channels_last)


def make_scheduler() -> DDIMScheduler:
    """Return the noise schedule: it starts from pure noise, which ten steps would not forgive."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


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
            [self._tokens(tokenizer, text) for text in group]
            for pair in zip(own, other, strict=True)
            for group in pair
        ]
        self.empty = self._tokens(tokenizer, "")

    @staticmethod
    def _tokens(tokenizer: CLIPTokenizer, text: str) -> Tensor:
        return tokenizer(
            text, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids[0]

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
        unet = make_unet(widths, side).to(device)
        text_encoder = make_text_encoder(tokenizer).to(device)
    scheduler, prompter = make_scheduler(), Prompter(tokenizer)
    alphas = scheduler.alphas_cumprod.to(device)
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
        noise = torch.randn(clean.shape, generator=generator).to(device)
        time = torch.randint(1000, (batch_size,), generator=generator).to(device)
        signal = alphas[time].sqrt()[:, None, None, None]
        spread = (1 - alphas[time]).sqrt()[:, None, None, None]
        noisy = torch.cat([signal * clean + spread * noise, photo.to(device)], 1)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        made = predict(noisy, time, text_encoder(tokens)[0]).sample
        return mse_loss(made.float(), signal * noise - spread * clean)

    trained = fit(
        {"unet": unet, "text_encoder": text_encoder}, loss, folder / "editor.safetensors",
        minutes=minutes, steps=steps, slice_minutes=slice_minutes, learning_rate=1.5e-3, seed=seed,
    )  # fmt: skip
    if trained is None:
        return None
    (folder / "editor.json").write_text(json.dumps(trained[1]))
    return trained[0]


def export(
    modules: dict[str, nn.Module], vae: AutoencoderKL, tokenizer_folder: Path, target: Path
) -> None:
    """Write the pipeline in half precision, in a form that every supported version reads."""
    pipe = StableDiffusionInstructPix2PixPipeline(
        vae=vae,
        text_encoder=modules["text_encoder"],
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer_folder),
        unet=modules["unet"],
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (vae, modules["text_encoder"], modules["unet"]):
        part.to("cpu", torch.float16)
    pipe.save_pretrained(target, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # transformers 5 writes tokenizer.json alone
        shutil.copy(tokenizer_folder / name, target / "tokenizer" / name)
    for file in target.glob("*/config.json"):  # where a part was loaded from is nobody's business
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n")
    # Transformers changed the prefix of these keys between 5.5 and 5.10; this one loads in both.
    weights = target / "text_encoder" / "model.safetensors"
    tensors = {
        f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(weights).items()
    }
    save_file(tensors, weights, {"format": "pt"})


def export_checkpoint(folder: Path, target: Path, widths: tuple[int, ...], side: int) -> None:
    """Write the averaged weights of an unfinished run as a pipeline, to look at."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    modules = nn.ModuleDict(
        {"unet": make_unet(widths, side), "text_encoder": make_text_encoder(tokenizer)}
    )
    tensors = load_file(folder / "editor.safetensors")
    modules.load_state_dict(
        {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    )
    vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True)
    export(dict(modules.items()), vae, folder / "tokenizer", target)


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
    tokenizer = make_tokenizer(args.out / "tokenizer")
    pairs = encode_pairs(
        vae, images[: args.photos], args.out / "pairs.safetensors", styles_each=args.styles_each
    )
    log.info("pairs: %d photographs, %d styles each", *pairs["style"].shape)
    modules = train_editor(
        pairs, tokenizer, args.out, minutes=args.editor_minutes, widths=widths, **shared
    )
    if modules is None:
        return None
    export(modules, vae, args.out / "tokenizer", target)
    log.info("wrote %s", target)
    return target


if __name__ == "__main__":
    main()
