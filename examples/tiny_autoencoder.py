"""Train the small autoencoder that the embedded pipelines share.

It halves the side only (64 px become 32 x 32 latents of 4 channels), because on a CPU a
stronger compression stays soft for hours while this one is sharp within minutes. Run it as

    python examples/tiny_autoencoder.py --data 'photos/*.parquet' --out runs/tiny --minutes 40

The run may be cut at any time: it saves itself every two minutes and goes on from there.
The same code uses a GPU, in bfloat16, where there is one.
"""

from __future__ import annotations

import argparse
import copy
import glob
import io
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torchvision.transforms.v2.functional import pil_to_tensor

log = logging.getLogger("tiny")

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
#: Noise put on unit-variance latents in training, in place of a KL term: later stages are
#: never exact, so the decoder has to forgive small errors.
LATENT_NOISE = 0.05


def square(image: Image.Image, size: int) -> Tensor:
    """Crop the middle square and resize it to a uint8 tensor."""
    image = image.convert("RGB")
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize(
            (size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)
        )
    return pil_to_tensor(image)  # (3, size, size)


def load_images(source: str | Path, size: int = 64, limit: int | None = None) -> Tensor:
    """Read photographs as one uint8 tensor.

    Args:
        source: A folder (of Parquet files, or of images at any depth), one file, or a glob
            pattern. Parquet files carry a column `image`, a struct with a field `bytes`.
        size: Side of the square that every image is cropped and resized to.
        limit: Stop after so many images.

    Shape:
        `(N, 3, size, size)`, uint8.

    Raises:
        FileNotFoundError: Nothing readable lies at `source`.
    """
    path = Path(source)
    files = sorted(path.rglob("*")) if path.is_dir() else sorted(map(Path, glob.glob(str(source))))
    tables = [file for file in files if file.suffix == ".parquet"]
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    images: list[Tensor] = []
    for table in tables:
        import pyarrow.parquet

        for row in pyarrow.parquet.read_table(table, columns=["image"])["image"].to_pylist():
            if limit is not None and len(images) >= limit:
                break
            images.append(square(Image.open(io.BytesIO(row["bytes"])), size))
    for picture in pictures if not tables else ():
        if limit is not None and len(images) >= limit:
            break
        images.append(square(Image.open(picture), size))
    if not images:
        raise FileNotFoundError(f"'data' must hold Parquet files or images, found none at {source}")
    return torch.stack(images)


def to_model(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Turn uint8 images into the [-1, 1] floats that the autoencoder works on."""
    images = images.to(device, non_blocking=True).float().div(127.5).sub(1)
    return images.contiguous(memory_format=torch.channels_last)


def to_uint8(images: Tensor) -> Tensor:
    """Undo `to_model`, with clamping and rounding."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


class _State:
    """What a training run has to keep: weights, their average, the optimiser, the clock."""

    def __init__(self, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer) -> None:
        self.modules = nn.ModuleDict(modules)
        self.averages = copy.deepcopy(self.modules).requires_grad_(False)
        self.optimiser = optimiser
        self.step = 0
        self.seconds = 0.0

    def average(self, decay: float) -> None:
        """Move the averaged weights towards the current ones."""
        # A short memory at first: the random initial weights must not linger.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            pairs = zip(self.averages.parameters(), self.modules.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything into one safetensors file, replacing the last one at once."""
        tensors = {f"raw.{k}": v for k, v in self.modules.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.averages.state_dict().items()}
        for index, entry in self.optimiser.state_dict()["state"].items():
            tensors |= {f"opt.{index}.{k}": v for k, v in entry.items()}
        metadata = {"step": str(self.step), "seconds": str(self.seconds)}
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        save_file({k: v.contiguous() for k, v in tensors.items()}, new, metadata)
        new.replace(path)

    def load(self, path: Path, device: torch.device) -> None:
        """Read what `save` wrote."""
        with safe_open(path, "pt", device=str(device)) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        for prefix, module in (("raw.", self.modules), ("ema.", self.averages)):
            found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(found)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("opt."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])


def fit(
    modules: dict[str, nn.Module],
    loss: Callable[[torch.Generator], Tensor],
    checkpoint: Path,
    *,
    minutes: float,
    steps: int | None = None,
    slice_minutes: float = math.inf,
    learning_rate: float = 2e-3,
    ema: float = 0.999,
    seed: int = 0,
    save_minutes: float = 2.0,
) -> tuple[dict[str, nn.Module], dict[str, float]] | None:
    """Train modules until a budget of time or steps is used up, over any number of slices.

    The learning rate falls linearly to zero with the used fraction of the budget, whichever
    of time and steps is further on, so a machine that others use too still ends well trained.

    Args:
        modules: What to train; resumed from `checkpoint` where that exists.
        loss: Draws its batch and noise from the generator given and returns a scalar.
        checkpoint: The safetensors file that carries the run.
        minutes: Training time in all, over all slices.
        steps: Stop earlier, after so many steps.
        slice_minutes: Return None after so long, to be called again.
        learning_rate: The peak, reached after 200 steps or 2 % of `steps`.
        ema: Decay of the averaged weights, which are what is returned.
        seed: Salts the generators; each step has its own, so a resumed run draws on.
        save_minutes: How often the checkpoint is written.

    Returns:
        The averaged modules and the figures of the run, or None if the slice ended first.
    """
    device = next(next(iter(modules.values())).parameters()).device
    parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, learning_rate, weight_decay=1e-4, betas=(0.9, 0.99))
    state = _State(modules, optimiser)
    if checkpoint.exists():
        state.load(checkpoint, device)
        log.info("%s: resumed at step %d", checkpoint.stem, state.step)
    began = last = saved = logged = time.monotonic()
    warm_up = 200 if steps is None else max(1, min(200, steps // 50))
    recent: list[float] = []
    while True:
        done = max(state.seconds / (60 * minutes), state.step / steps if steps else 0.0)
        now = time.monotonic()
        if done >= 1 or now - saved > 60 * save_minutes:
            state.save(checkpoint)
            saved = now
        if done >= 1:
            figures = {"steps": state.step, "minutes": round(state.seconds / 60, 1)}
            return dict(state.averages.items()), figures
        if now - began > 60 * slice_minutes:
            state.save(checkpoint)
            return None
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (state.step + 1) / warm_up) * (1 - done)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + state.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(generator)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        state.step += 1
        state.average(ema)
        recent.append(value.item())
        # Compiling takes a minute of the first step; it is no training time.
        now = time.monotonic()
        state.seconds += min(now - last, 5.0)
        last = now
        if now - logged > 30:
            mean, logged = sum(recent) / len(recent), now
            log.info(
                "%s: step %d, %.1f min, loss %.4f",
                checkpoint.stem, state.step, state.seconds / 60, mean,
            )  # fmt: skip
            recent.clear()


def build_autoencoder(widths: tuple[int, ...] = (24, 48)) -> AutoencoderKL:
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
    return vae.to(memory_format=torch.channels_last)


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def reconstruction_loss(vae: AutoencoderKL, images: Tensor, noise: Tensor) -> Tensor:
    """Squared error with a little L1 on pixels and on edges, and latents of unit variance."""
    latents = vae.encode(images).latent_dist.mean
    output = vae.decode(latents + LATENT_NOISE * noise).sample
    value = mse_loss(output, images) + 0.05 * (output - images).abs().mean()
    for found, wanted in zip(_edges(output), _edges(images), strict=True):
        value = value + 0.05 * (found - wanted).abs().mean()
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return value + 0.01 * (mean.square() + variance.clamp(min=1e-4).log().square()).mean()


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Give the latents zero mean and unit variance by changing the two 1 x 1 convolutions."""
    latents = torch.cat(
        [vae.encode(to_model(part, vae.device)).latent_dist.mean for part in images.split(64)]
    )
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
    *,
    minutes: float,
    steps: int | None = None,
    slice_minutes: float = math.inf,
    widths: tuple[int, ...] = (24, 48),
    batch_size: int = 16,
    compile: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> AutoencoderKL | None:
    """Train on photographs and save to `folder / "vae"`; load it if it is there already.

    Args:
        images: uint8 photographs, `(N, 3, 64, 64)`.
        folder: Where the checkpoint and the result go.
        minutes: Training time in all.
        steps: At most so many steps.
        slice_minutes: Stop after so long and return None; call again to go on.
        widths: Channels at full and at half resolution.
        batch_size: Images a step.
        compile: Use `torch.compile`: a minute to start, then half as fast again.
        device: Where to train.
        seed: For the weights, the batches and the noise.
    """
    result = folder / "vae"
    if (result / "config.json").exists():
        return AutoencoderKL.from_pretrained(result, use_safetensors=True).to(device).eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = build_autoencoder(widths).to(device)
    objective = torch.compile(reconstruction_loss) if compile else reconstruction_loss

    def loss(generator: torch.Generator) -> Tensor:
        batch = images[torch.randint(len(images), (batch_size,), generator=generator)]
        if torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(-1)
        side = images.shape[-1] // 2 ** (len(widths) - 1)
        noise = torch.randn(batch_size, 4, side, side, generator=generator)
        noise = noise.contiguous(memory_format=torch.channels_last)
        return objective(vae, to_model(batch, device), noise.to(device))

    trained = fit(
        {"vae": vae}, loss, folder / "autoencoder.safetensors",
        minutes=minutes, steps=steps, slice_minutes=slice_minutes, learning_rate=3e-3, seed=seed,
    )  # fmt: skip
    if trained is None:
        return None
    modules, figures = trained
    best: AutoencoderKL = modules["vae"].eval()
    normalise_latents(best, images[:1024])
    best.save_pretrained(result)
    (folder / "autoencoder.json").write_text(json.dumps(figures))
    return best


def main(argv: list[str] | None = None) -> float | None:
    """Train in slices from the command line and return the PSNR once training is complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Parquet files or a folder of images")
    parser.add_argument("--val", help="images to measure on, none of them in --data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=40.0, help="training time in all")
    parser.add_argument("--steps", type=int, help="stop earlier, after so many steps")
    parser.add_argument("--slice-minutes", type=float, default=math.inf, help="pause after so long")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae = train_autoencoder(
        load_images(args.data), args.out,
        minutes=args.minutes, steps=args.steps, slice_minutes=args.slice_minutes,
        batch_size=args.batch_size, compile=args.compile, device=args.device,
    )  # fmt: skip
    if vae is None or args.val is None:
        return None
    value = psnr(vae, load_images(args.val))
    log.info("PSNR %.2f dB", value)
    return value


if __name__ == "__main__":
    main()
