"""One batch: which requests run in it together, and what a pipeline makes of them."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms.v2.functional import to_pil_image

from diffaug.backends.loading import EDITORS
from diffaug.backends.noise import Generator
from diffaug.backends.request import GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.functional import resize


@dataclass(frozen=True, eq=False)
class Job:
    """A request on its way through the model: its index, its resized source, the seed to try."""

    index: int
    request: GenerationRequest
    source: torch.Tensor | None
    seed: int


@dataclass(frozen=True, eq=False)
class Output:
    """What a model made of a job: uint8 (3, H, W), and what is wrong with it."""

    image: torch.Tensor
    refused: bool
    no_number: bool


def schedule(spec: ModelSpec, request: GenerationRequest) -> tuple[int, int]:
    """Return the number of steps of the scheduler, and how many of these a request runs."""
    return spec.schedule(request.strength)


def shape_of(spec: ModelSpec, request: GenerationRequest) -> tuple[int, int]:
    """Return the height and width at which a request runs."""
    image = request.image
    if image is None:
        return spec.side, spec.side
    return spec.working_shape(image.shape[-2], image.shape[-1])


def kind(spec: ModelSpec, request: GenerationRequest) -> tuple[int, ...]:
    """Return what requests must have in common to run in one batch.

    To SDXL, an empty negative prompt beside a full one is not the same as none at all, so an image
    would depend on the others of its batch.
    """
    return *schedule(spec, request), bool(request.negative_prompt), *shape_of(spec, request)


def accepted(pipe: Any) -> tuple[str, ...]:
    """Return the names of the arguments of a pipeline's call; inspect's signature is slow."""
    code = inspect.unwrap(type(pipe).__call__).__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def run_batch(pipe: Any, spec: ModelSpec, jobs: Sequence[Job]) -> list[Output]:
    """Call a pipeline with jobs of one kind; return what it made of each."""
    scheduler_steps, steps = schedule(spec, jobs[0].request)
    height, width = shape_of(spec, jobs[0].request)
    settings: dict[str, Any] = {
        "num_inference_steps": scheduler_steps,
        "guidance_scale": spec.guidance_scale,
        "output_type": "pt",
    }
    if spec.task == "edit":
        settings["image_guidance_scale"] = spec.image_guidance_scale
    if spec.task == "translate":
        # Pipelines run int(steps * strength) steps: aim at the middle, where rounding is harmless.
        settings["strength"] = min(1.0, (steps + 0.5) / scheduler_steps)
    settings |= {"height": height, "width": width}
    if type(pipe).__name__.startswith("QwenImageEdit"):
        # They ignore 'guidance_scale', and use the other only with a negative prompt.
        settings["true_cfg_scale"] = settings.pop("guidance_scale")
        if spec.guidance_scale > 1:
            settings["negative_prompt"] = " "
    settings = {name: value for name, value in settings.items() if name in accepted(pipe)}

    with _decoding_twice(pipe):
        if type(pipe).__name__ in EDITORS:
            outputs = [pipe(**{**settings, **_arguments_for_one(job, steps)}) for job in jobs]
        else:
            device = getattr(pipe, "_execution_device", torch.device("cpu"))
            outputs = [pipe(**settings, **_arguments_for_all(jobs, steps, device))]
    images = torch.cat([output.images for output in outputs])  # (B, 3, H, W)
    no_number = ~images.isfinite().flatten(1).all(1)
    # On the device, so that only a quarter of the bytes is copied, and no CPU converts pixels.
    levels = images.float().nan_to_num(nan=0.0).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    refused = [
        bool(flag)
        for output in outputs
        for flag in getattr(output, "nsfw_content_detected", None) or [False] * len(output.images)
    ]
    levels = resize(levels.cpu(), (height, width))
    return [
        Output(*parts) for parts in zip(levels.unbind(), refused, no_number.tolist(), strict=True)
    ]


@contextmanager
def _decoding_twice(pipe: Any) -> Iterator[None]:
    """Decode in float32 what overflows in half precision, as some autoencoders do."""
    autoencoder = getattr(pipe, "vae", None)
    if autoencoder is None:
        yield
        return
    decode = autoencoder.decode

    def decode_twice(latents: torch.Tensor, *arguments: Any, **settings: Any) -> Any:
        decoded = decode(latents, *arguments, **settings)
        dtype = autoencoder.dtype
        if dtype == torch.float32:
            return decoded
        overflows = latents.isfinite().flatten(1).all(1) & ~decoded[0].isfinite().flatten(1).all(1)
        if overflows.any():
            # Not by the method of diffusers, which warns of a change that is intended here.
            torch.nn.Module.to(autoencoder, torch.float32)
            try:
                for index in overflows.nonzero().flatten().tolist():
                    exact = latents[index : index + 1].float()
                    decoded[0][index] = decode(exact, *arguments, **settings)[0][0]
            finally:
                torch.nn.Module.to(autoencoder, dtype)
        return decoded

    autoencoder.decode = decode_twice
    try:
        yield
    finally:
        del autoencoder.decode  # then the method of the class is found again


def _arguments_for_all(jobs: Sequence[Job], steps: int, device: torch.device) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "prompt": [job.request.prompt for job in jobs],
        "generator": [Generator.seeded(job.seed, ahead=steps) for job in jobs],
    }
    if any(job.request.negative_prompt for job in jobs):
        arguments["negative_prompt"] = [job.request.negative_prompt for job in jobs]
    sources = [job.source for job in jobs if job.source is not None]
    if sources:
        levels = torch.stack(sources).to(device)  # a quarter of the bytes of floats
        # A tensor, since a GPU multiplies by the inverse of a plain number and rounds otherwise.
        arguments["image"] = levels / torch.tensor(255.0, device=device)  # (B, 3, H, W) in [0, 1]
    return arguments


def _arguments_for_one(job: Job, steps: int) -> dict[str, Any]:
    """Return one PIL image: a list would be several references for one prompt; tensors fail."""
    arguments: dict[str, Any] = {
        "prompt": job.request.prompt,
        "generator": Generator.seeded(job.seed, ahead=steps),
    }
    if job.source is not None:
        arguments["image"] = to_pil_image(job.source)
    if job.request.negative_prompt:
        arguments["negative_prompt"] = job.request.negative_prompt
    return arguments
