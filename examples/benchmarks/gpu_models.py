"""What the GPU's check works on: pipelines of random weights, requests, comparisons and clocks.

With CUDA a pipeline has the shapes of Stable Diffusion 1.5, whose speed and memory do not depend
on the weights; without it, shapes that take milliseconds, to rehearse the check itself.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

import diffaug
from diffaug import DiffusersBackend, Generated, GenerationRequest, ModelSpec

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
#: What dtype "auto" means for these pipelines.
HALF = torch.float16 if CUDA else torch.float32
SMALL, LARGE = (256, 512) if CUDA else (16, 32)
STEPS, FEW_STEPS = (20, 2) if CUDA else (4, 1)
STRENGTH = 0.7

UNET = {
    "layers_per_block": 2 if CUDA else 1,
    "block_out_channels": (320, 640, 1280, 1280) if CUDA else (8, 8, 16, 16),
    "norm_num_groups": 32 if CUDA else 4,
    "cross_attention_dim": 768 if CUDA else 16,
    "attention_head_dim": 8 if CUDA else 2,
    "sample_size": 64 if CUDA else 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512) if CUDA else (4, 4, 8, 8),
    "layers_per_block": 2 if CUDA else 1,
    "norm_num_groups": 32 if CUDA else 2,
    "sample_size": 512 if CUDA else 32,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT_ENCODER = {
    "hidden_size": 768 if CUDA else 16,
    "intermediate_size": 3072 if CUDA else 32,
    "num_hidden_layers": 12 if CUDA else 1,
    "num_attention_heads": 12 if CUDA else 2,
    "max_position_embeddings": 77,
}


class Report:
    """Print each result as it comes and keep all of them in one file, also over several calls.

    Args:
        folder: where ``gpu_check.json`` is; what other calls wrote there stays.
        seconds: how long the call may take.
        machine: facts about the machine.
    """

    def __init__(self, folder: Path, seconds: float, machine: dict[str, Any]) -> None:
        self.started, self.seconds = time.monotonic(), seconds
        self.path = folder / "gpu_check.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {"machine": {}, "sections": {}}
        if self.path.exists():
            self.results = json.loads(self.path.read_text())
        self.results["machine"].update(machine)
        self.rows: list[dict[str, Any]] = []
        self.failed: list[str] = []

    def seconds_left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Collect the rows of a section, in place of those of an earlier call."""
        began = time.monotonic()
        section = self.results["sections"][name] = {"finished": False, "rows": []}
        self.rows = section["rows"]
        yield
        section["finished"] = True
        section["seconds"] = round(time.monotonic() - began, 1)
        self._write()

    def add(self, check: str, ok: bool | None = None, **figures: Any) -> None:
        """Print and keep one result; ``ok`` is None where there is only a figure."""
        self.rows.append({"check": check, "ok": ok, "figures": figures})
        if ok is False:
            self.failed.append(check)
        mark = {True: "PASS", False: "FAIL", None: "    "}[ok]
        text = "  ".join(f"{key}={value}" for key, value in figures.items())
        print(f"[{time.monotonic() - self.started:6.1f} s] {mark} {check}  {text}", flush=True)
        self._write()

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.results, indent=1) + "\n")
        part.replace(self.path)

    def figure(self, section: str, check: str, name: str) -> float | None:
        """Look up a figure of this call or an earlier one."""
        for row in self.results["sections"].get(section, {}).get("rows", []):
            if row["check"] == check:
                return row["figures"].get(name)
        return None


def model_folder(work: Path, task: str) -> Path:
    """Return a pipeline of random weights, which is written by the first call."""
    folder = work / task
    if not folder.exists():
        partial = work / f"{task}.part"
        shutil.rmtree(partial, ignore_errors=True)
        _write_pipeline(partial, task)
        partial.rename(folder)
    return folder


def _write_pipeline(folder: Path, task: str) -> None:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        EulerAncestralDiscreteScheduler,
        StableDiffusionInstructPix2PixPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    assets = Path(diffaug.__file__).parent / "assets" / "tiny" / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(assets, model_max_length=77)
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    words = 49408 if CUDA else len(tokenizer)
    with torch.random.fork_rng(devices=[0] if CUDA else []), torch.device(DEVICE):
        torch.manual_seed(0)
        parts = {
            "unet": UNet2DConditionModel(in_channels=8 if task == "edit" else 4, **UNET),
            "vae": AutoencoderKL(**AUTOENCODER),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(vocab_size=words, **special, **TEXT_ENCODER)
            ),
        }
    for part in parts.values():
        part.to(torch.float16)
    noise: dict[str, Any] = {
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        "steps_offset": 1,
    }
    scheduler = (
        EulerAncestralDiscreteScheduler(**noise)
        if task == "edit"
        else DDIMScheduler(clip_sample=False, **noise)
    )
    pipeline = StableDiffusionInstructPix2PixPipeline if task == "edit" else StableDiffusionPipeline
    pipe = pipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    del pipe, parts
    free_memory()


def spec_for(work: Path, task: str = "edit", **changes: Any) -> ModelSpec:
    """Return the settings of the presets for a pipeline of random weights."""
    settings: dict[str, Any] = {"size": LARGE, "batch_size": 8 if CUDA else 2}
    if task == "edit":
        settings |= {"steps": STEPS, "guidance_scale": 4.0, "image_guidance_scale": 1.5}
        settings |= {"scheduler": "EulerAncestralDiscreteScheduler"}
    else:
        settings |= {"steps": 25 if CUDA else 5, "guidance_scale": 7.5}
        settings |= {"scheduler": "DPMSolverMultistepScheduler"}
    return ModelSpec(str(model_folder(work, task)), task=task, **{**settings, **changes})


def requests_for(
    count: int, size: int, task: str = "edit", first: int = 0
) -> list[GenerationRequest]:
    """Return requests for smooth random pictures, each with another image, prompt and seed."""
    requests = []
    for number in range(first, first + count):
        colours = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(number))
        image = torch.nn.functional.interpolate(colours[None], (size, size), mode="bicubic")[0]
        pixels = image.clamp(0, 1).mul(255).to(torch.uint8)
        strength = STRENGTH if task == "translate" else None
        prompt = f"a photo of style {number % 9}"
        requests.append(GenerationRequest(prompt, number, pixels, strength=strength))
    return requests


class NoisePictures(Dataset):
    """Pictures of noise, transformed as they are asked for."""

    def __init__(self, transform: Callable[..., Any], count: int, size: int) -> None:
        self.transform, self.count, self.size = transform, count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        shape = (3, self.size, self.size)
        image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return self.transform(image)


def stacked(generated: Sequence[Generated]) -> torch.Tensor:
    return torch.stack([answer.image for answer in generated]).int()  # (B, 3, H, W)


def difference(expected: torch.Tensor, actual: torch.Tensor) -> dict[str, float]:
    """Say how far two sets of images are apart, in levels of 255."""
    gap = (expected - actual).abs().float()
    error = gap.square().mean().item()
    psnr = 99.0 if error == 0 else 10 * torch.log10(torch.tensor(255**2 / error)).item()
    return {
        "most_levels": int(gap.max()),
        "share_apart": round((gap > 0).float().mean().item(), 5),
        "psnr_db": round(psnr, 1),
    }


@contextmanager
def loaded(spec: ModelSpec) -> Iterator[DiffusersBackend]:
    """Give a backend and free its memory afterwards."""
    backend = DiffusersBackend(spec)
    try:
        yield backend
    finally:
        backend.close()
        free_memory()


def free_memory() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


def finish_kernels() -> None:
    if CUDA:
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], Any], most_calls: int = 3, enough: float = 1.5) -> float:
    """Return the least time of some calls; long ones are called once."""
    times: list[float] = []
    while not times or (len(times) < most_calls and sum(times) < enough):
        finish_kernels()
        began = time.perf_counter()
        call()
        finish_kernels()
        times.append(time.perf_counter() - began)
    return min(times)


@contextmanager
def memory_of(size: float) -> Iterator[None]:
    """Let torch take no more than so many bytes of the GPU, as on a card that has no more."""
    if CUDA:
        free_memory()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))
    try:
        yield
    finally:
        if CUDA:
            torch.cuda.set_per_process_memory_fraction(1.0)


def peak_gigabytes() -> float:
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if CUDA else 0.0


def reserved_gigabytes() -> float:
    """Return what torch took from the GPU at most, with what only its recordings may use."""
    return round(torch.cuda.max_memory_reserved() / 1e9, 2) if CUDA else 0.0


def reset_peak() -> None:
    if CUDA:
        torch.cuda.reset_peak_memory_stats()


def machine_facts() -> dict[str, Any]:
    import diffusers
    import torchvision
    import transformers

    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "diffaug": diffaug.__version__,
        "cores": os.cpu_count(),
    }
    if CUDA:
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    return facts
