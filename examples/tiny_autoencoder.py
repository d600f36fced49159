"""Train the small autoencoder that the embedded pipelines share.

It halves the side only (64 px become 32 x 32 latents of 4 channels), because on a CPU a
stronger compression stays soft for hours while this one is sharp within minutes. Run it as

    python examples/tiny_autoencoder.py --data 'photos/*.parquet' --out runs/tiny --minutes 40

The run may be cut at any time: it saves itself every two minutes and resumes from there.
The same code uses a GPU, in bfloat16, where there is one.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from tiny_data import layout, load_images, to_model, to_uint8
from tiny_training import Options, fit
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

log = logging.getLogger("tiny")

#: Noise put on unit-variance latents in training, in place of a KL term: later stages are
#: never exact, so the decoder has to forgive small errors.
LATENT_NOISE = 0.05
#: Channels at full and at half resolution: 1.4 million parameters, and a decoder that takes a
#: seventh of the time of ten guided steps.
WIDTHS = (48, 96)


def build_autoencoder(widths: tuple[int, ...] = WIDTHS) -> AutoencoderKL:
    """Return an untrained autoencoder whose latents are meant to have unit variance."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
        # InstructPix2Pix does not scale the latents of its input image, so the scale lives
        # in the weights (see `normalise_latents`) and this factor has to be one.
        scaling_factor=1.0,
    )
    with torch.no_grad():
        # The spread of the posterior is a constant: the noise that training puts on.
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = 2 * math.log(LATENT_NOISE)
    return vae


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def reconstruction_loss(vae: AutoencoderKL, images: Tensor, noise: Tensor) -> Tensor:
    """Squared error with a little L1 on pixels and on edges, and latents of unit variance."""
    latents = vae.encode(images).latent_dist.mean.float()
    output = vae.decode(latents + LATENT_NOISE * noise).sample.float()
    value = mse_loss(output, images) + 0.05 * (output - images).abs().mean()
    for found, wanted in zip(_edges(output), _edges(images), strict=True):
        value = value + 0.05 * (found - wanted).abs().mean()
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return value + 0.01 * (mean.square() + variance.clamp(min=1e-4).log().square()).mean()


@torch.no_grad()
def latents_of(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode uint8 images on the autoencoder's device: the mean, float32 (N, 4, h, w)."""
    with torch.autocast(vae.device.type, torch.bfloat16, enabled=vae.device.type == "cuda"):
        latents = vae.encode(to_model(images, vae.device)).latent_dist.mean
    return latents.float().contiguous()


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Give the latents zero mean and unit variance by changing the two 1 x 1 convolutions."""
    latents = torch.cat([latents_of(vae, part) for part in images.split(64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    inner, outer = vae.quant_conv, vae.post_quant_conv
    # outer(z) = W z + b must not change when z becomes (z - mean) / std.
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight *= std[None, :, None, None]
    inner.bias[:4] = (inner.bias[:4] - mean) / std
    inner.weight[:4] /= std[:, None, None, None]


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Mean peak signal-to-noise ratio, in dB, of 8-bit reconstructions."""
    values = []
    for part in images.split(64):
        output = vae.decode(vae.encode(to_model(part, vae.device)).latent_dist.mean).sample
        error = (to_uint8(output).cpu().float() - part.float()).div(255).square().mean((1, 2, 3))
        values.append(-10 * error.clamp(min=1e-10).log10())
    return torch.cat(values).mean().item()


def train_autoencoder(
    images: Tensor,
    folder: Path,
    options: Options,
    *,
    minutes: float,
    widths: tuple[int, ...] = WIDTHS,
) -> AutoencoderKL | None:
    """Train on photographs and save to `folder / "vae"`; load it if it is there already.

    Args:
        images: uint8 photographs (N, 3, 64, 64), on the device or not.
        folder: where the checkpoint and the result go.
        options: how to train.
        minutes: training time in all.
        widths: channels at full and at half resolution.

    Returns:
        The autoencoder, or None if the slice ended first.
    """
    result = folder / "vae"
    if (result / "config.json").exists():
        return read_autoencoder(result, options.device)
    if options.init is not None:
        vae = read_autoencoder(options.init / "vae", options.device).train()
    else:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            vae = build_autoencoder(widths)
        vae.to(options.device, memory_format=layout(options.device))
    objective = torch.compile(reconstruction_loss) if options.compile else reconstruction_loss
    images = images.to(options.device)
    side = images.shape[-1] // 2 ** (len(vae.config.block_out_channels) - 1)

    def loss(generator: Generator) -> Tensor:
        drawn = {"generator": generator, "device": generator.device}
        batch = images[torch.randint(len(images), (options.batch_size,), **drawn)]
        mirrored = torch.rand(options.batch_size, 1, 1, 1, **drawn) < 0.5
        batch = torch.where(mirrored, batch.flip(-1), batch)
        noise = torch.randn(options.batch_size, 4, side, side, **drawn)
        return objective(
            vae, to_model(batch, vae.device), noise.contiguous(memory_format=layout(vae.device))
        )

    trained = fit(
        {"vae": vae}, loss, folder / "autoencoder.safetensors", options,
        minutes=minutes, learning_rate=3e-3,
    )  # fmt: skip
    if trained is None:
        return None
    modules, figures = trained
    best: AutoencoderKL = modules["vae"].eval()
    normalise_latents(best, images[:1024])
    best.save_pretrained(result)
    (folder / "autoencoder.json").write_text(json.dumps(figures))
    return best


def read_autoencoder(folder: Path, device: str) -> AutoencoderKL:
    """Load a trained autoencoder, in single precision."""
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(folder, use_safetensors=True)
    return vae.float().to(device, memory_format=layout(device)).eval()


def main(argv: list[str] | None = None) -> float | None:
    """Train in slices from the command line and return the PSNR once training is complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Parquet files or a folder of images")
    parser.add_argument("--val", help="images to measure on, none of them in --data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=40.0, help="training time in all")
    Options.add_to(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    images = load_images(args.data)
    vae = train_autoencoder(images, args.out, Options.of(args), minutes=args.minutes)
    if vae is None or args.val is None:
        return None
    value = psnr(vae, load_images(args.val))
    log.info("PSNR %.2f dB", value)
    return value


if __name__ == "__main__":
    main()
