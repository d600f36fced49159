"""What the embedded pipelines have in common beside their autoencoder: text, U-Net, export.

`train_tiny_edit.py` and `train_tiny_translate.py` are the recipes that use it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_training import Options, fit
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

#: Tokens that the text encoders read; the longest prompt of a recipe has twelve.
TOKENS = 32


def _merge(parts: list[str], left: str, right: str) -> list[str]:
    """Join each occurrence of two neighbouring symbols, from the left."""
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == (left, right):
            merged[-1] = left + right
        else:
            merged.append(part)
    return merged


def make_tokenizer(folder: Path, texts: Iterable[str], init: Path | None = None) -> CLIPTokenizer:
    """Write a CLIP tokenizer that has each word of the texts as one token.

    Its symbols are CLIP's 512 (256 bytes, each also at the end of a word), so any text is read.

    Args:
        folder: where the tokenizer goes.
        texts: all that it must read in few tokens.
        init: a pipeline whose tokenizer is copied instead, because its weights are the start.
    """
    if init is not None:
        shutil.copytree(init / "tokenizer", folder, dirs_exist_ok=True)
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(code) for code in codes] + [chr(256 + i) for i in range(256 - len(codes))]
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


def make_unet(widths: tuple[int, ...], side: int, channels: int) -> UNet2DConditionModel:
    """Return an untrained U-Net on latents of this side; an editor sees 8 channels, others 4."""
    levels = len(widths)
    reads = [i >= levels - 2 for i in range(levels)]  # attention is cheap only on the small levels
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=tuple("CrossAttnDownBlock2D" if r else "DownBlock2D" for r in reads),
        up_block_types=tuple("CrossAttnUpBlock2D" if r else "UpBlock2D" for r in reversed(reads)),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=8,
    ).to(memory_format=torch.channels_last)


def make_scheduler(noise: float = 1.0) -> DDIMScheduler:
    """Return the noise schedule: it starts from pure noise, which ten steps would not forgive.

    `noise` multiplies Stable Diffusion's own: latents that are nearly pixels need more of it
    before the outlines go, and only then is there something to learn about outlines.
    """
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085 * noise,
        beta_end=0.012 * noise,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def tokens_of(tokenizer: CLIPTokenizer, text: str) -> Tensor:
    """Return the token numbers (TOKENS,) of a text."""
    return tokenizer(
        text, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids[0]


def velocity_loss(
    predict: Callable,
    text_encoder: CLIPTextModel,
    alphas: Tensor,
    clean: Tensor,
    tokens: Tensor,
    generator: Generator,
    beside: Tensor | None = None,
) -> Tensor:
    """Return the squared error of the velocity predicted for clean latents under random noise.

    Args:
        predict: the U-Net, or its compiled twin.
        text_encoder: trained along.
        alphas: the scheduler's cumulative products (1000,).
        clean: latents (B, 4, h, w) of unit variance.
        tokens: prompts (B, TOKENS).
        generator: of the noise and the times, on the device of the latents.
        beside: latents that an editor sees next to the noisy ones.
    """
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    time = torch.randint(len(alphas), (len(clean),), generator=generator, device=clean.device)
    signal = alphas[time].sqrt()[:, None, None, None]
    spread = (1 - alphas[time]).sqrt()[:, None, None, None]
    noisy = signal * clean + spread * noise
    if beside is not None:
        noisy = torch.cat([noisy, beside], 1)
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    velocity = predict(noisy, time, text_encoder(tokens)[0]).sample
    return mse_loss(velocity.float(), signal * noise - spread * clean)


def train_unet(
    folder: Path,
    name: str,
    options: Options,
    *,
    minutes: float,
    widths: tuple[int, ...],
    side: int,
    channels: int,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
    batches: Callable[[Generator], tuple[Tensor, Tensor, Tensor | None]],
) -> tuple[dict[str, nn.Module], dict[str, object]] | None:
    """Train a U-Net and its text encoder on batches of cached latents.

    Args:
        folder: of the run; the checkpoint is `folder / "{name}.safetensors"`.
        name: of the stage.
        options: how to train.
        minutes: training time in all.
        widths: channels on each level of the U-Net.
        side: height and width of the latents.
        channels: what the U-Net sees, 4 or, with an image beside, 8.
        tokenizer: of the prompts.
        scheduler: the noise schedule.
        batches: draws clean latents (B, 4, h, w), tokens (B, TOKENS), and latents beside or None.

    Returns:
        The averaged modules and the figures of the run, or None if the slice ended first.
    """
    if options.init is not None:
        unet = UNet2DConditionModel.from_pretrained(options.init / "unet", use_safetensors=True)
        text_encoder = CLIPTextModel.from_pretrained(options.init / "text_encoder")
        unet.to(memory_format=torch.channels_last)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            unet = make_unet(widths, side, channels)
            text_encoder = make_text_encoder(tokenizer)
    modules = {"unet": unet.float(), "text_encoder": text_encoder.float()}
    for module in modules.values():
        module.to(options.device).train()
    alphas = scheduler.alphas_cumprod.to(options.device)
    predict = torch.compile(unet) if options.compile else unet

    def loss(generator: Generator) -> Tensor:
        clean, tokens, beside = batches(generator)
        return velocity_loss(predict, text_encoder, alphas, clean, tokens, generator, beside)

    return fit(
        modules, loss, folder / f"{name}.safetensors", options,
        minutes=minutes, learning_rate=1.5e-3,
    )  # fmt: skip


def export(
    pipeline: type[DiffusionPipeline],
    modules: dict[str, nn.Module],
    vae: AutoencoderKL,
    scheduler: DDIMScheduler,
    tokenizer_folder: Path,
    target: Path,
) -> None:
    """Write a pipeline in half precision, in a form that every supported version reads."""
    pipe = pipeline(
        vae=vae,
        text_encoder=modules["text_encoder"],
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer_folder),
        unet=modules["unet"],
        scheduler=scheduler,
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
