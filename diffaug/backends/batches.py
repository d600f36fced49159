"""One batch: which requests run in it together, and what a pipeline makes of them."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torchvision.transforms.v2.functional import to_pil_image

from diffaug.backends.loading import EDITORS
from diffaug.backends.noise import Generator
from diffaug.backends.request import GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.functional import is_blank, resize


@dataclass(frozen=True, eq=False)
class Job:
    """A request on its way through the model: its index, its source, the seed to try.

    The source is None until ``prepare`` has resized it, and where there is none.
    """

    index: int
    request: GenerationRequest
    source: torch.Tensor | None
    seed: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Jobs of one kind, each with its source at the working shape, and the sources in one tensor.

    The jobs after the first ``count`` are copies that fill the batch.
    """

    jobs: list[Job]
    count: int
    levels: torch.Tensor | None  # uint8 (B, 3, H, W), on the CPU


@dataclass(frozen=True, eq=False)
class Output:
    """What a model made of a job: uint8 (3, H, W), and what is wrong with it."""

    image: torch.Tensor
    refused: bool
    no_number: bool
    blank: bool


@dataclass(frozen=True, eq=False)
class Launched:
    """A batch whose images a GPU may still calculate, and copy into the memory of the CPU."""

    batch: Batch
    levels: torch.Tensor  # uint8 (B, 3, H, W)
    no_number: torch.Tensor  # (B,)
    refused: list[bool]
    shape: tuple[int, int]  # of the images that are asked for
    done: torch.cuda.Event | None

    def outputs(self) -> list[Output]:
        """Wait, and return what the model made of each job; it may be called in another thread."""
        levels = self.levels
        if self.done is not None:
            self.done.synchronize()
            levels = levels.clone()  # so that images do not keep memory which the GPU writes to
        images, no_number = resize(levels, self.shape).unbind(), self.no_number.tolist()
        sources = (job.source for job in self.batch.jobs)
        blank = [is_blank(*pair) for pair in zip(images, sources, strict=True)]
        parts = zip(images, self.refused, no_number, blank, strict=True)
        return [Output(*part) for part in parts]


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


def sized(spec: ModelSpec, request: GenerationRequest) -> torch.Tensor | None:
    """Return the source of a request at the shape at which the model works on it."""
    return None if request.image is None else resize(request.image, shape_of(spec, request))


def prepare(spec: ModelSpec, jobs: Sequence[Job], size: int = 1, *, pinned: bool = False) -> Batch:
    """Bring the sources of jobs of one kind into one tensor; it may be done in another thread.

    Args:
        spec: of the model.
        jobs: of one kind.
        size: the batch is filled up to so many.
        pinned: put the tensor where a GPU can copy it from by itself.
    """
    ready = [replace(job, source=sized(spec, job.request)) for job in jobs]
    ready += ready[-1:] * (size - len(jobs))
    sources = [job.source for job in ready if job.source is not None]
    levels = torch.stack(sources) if sources else None
    if levels is not None and pinned:
        levels = levels.pin_memory()
    return Batch(ready, len(jobs), levels)


def run_batch(pipe: Any, spec: ModelSpec, jobs: Sequence[Job]) -> list[Output]:
    """Call a pipeline with jobs of one kind; return what it made of each."""
    return launch(pipe, spec, prepare(spec, jobs)).outputs()


def launch(pipe: Any, spec: ModelSpec, batch: Batch) -> Launched:
    """Call a pipeline with a batch; on a GPU, the images may come later."""
    jobs = batch.jobs
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
    # Kontext works on a megapixel unless it is told not to; the others do not know this.
    area = {"max_area": height * width, "_auto_resize": False}
    settings |= {"height": height, "width": width, **area}
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
            outputs = [pipe(**settings, **_arguments_for_all(batch, steps, device))]
    images = outputs[0].images  # (B, 3, H, W)
    if len(outputs) > 1:
        images = torch.cat([output.images for output in outputs])
    # What is not a number makes the sum none. A sum of numbers in [0, 1] is always one.
    no_number = ~images.flatten(1).sum(1, dtype=torch.float32).isfinite()
    # On the device, so that only a quarter of the bytes is copied, and no CPU converts pixels.
    levels = images.float().nan_to_num_(nan=0.0).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    refused = [
        bool(flag)
        for output in outputs
        for flag in getattr(output, "nsfw_content_detected", None) or [False] * len(output.images)
    ]
    done = None
    if levels.is_cuda:  # a copy that does not wait goes into pinned memory
        levels = levels.to("cpu", non_blocking=True)
        no_number = no_number.to("cpu", non_blocking=True)
        done = torch.cuda.current_stream(images.device).record_event()
    return Launched(batch, levels.cpu(), no_number.cpu(), refused, (height, width), done)


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
        dtype = next(autoencoder.parameters()).dtype  # diffusers' own way looks at all of them
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


def _arguments_for_all(batch: Batch, steps: int, device: torch.device) -> dict[str, Any]:
    jobs = batch.jobs
    arguments: dict[str, Any] = {
        "prompt": [job.request.prompt for job in jobs],
        "generator": [Generator.seeded(job.seed, ahead=steps) for job in jobs],
    }
    if any(job.request.negative_prompt for job in jobs):
        arguments["negative_prompt"] = [job.request.negative_prompt for job in jobs]
    if batch.levels is not None:
        levels = batch.levels.to(device, non_blocking=True)  # a quarter of the bytes of floats
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
