"""The sections of the GPU's check whose figures are times: run them with the GPU to yourself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_models import (
    CUDA,
    DEVICE,
    FEW_STEPS,
    HALF,
    LARGE,
    SMALL,
    STEPS,
    STRENGTH,
    NoisePictures,
    Report,
    difference,
    free_memory,
    loaded,
    model_folder,
    peak_gigabytes,
    requests_for,
    reserved_gigabytes,
    reset_peak,
    seconds_of,
    spec_for,
    stacked,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from diffaug import (
    CachedBackend,
    DiffuseMix,
    DiffusersBackend,
    FractalBank,
    JointTransform,
    ModelSpec,
    PromptEdit,
    augment_folder,
    unload,
    warm_cache,
)
from diffaug.backends.batches import schedule
from diffaug.backends.graphs import use_graphs
from diffaug.backends.hub import pin
from diffaug.backends.loading import load_pipeline
from diffaug.backends.process.client import WorkerBackend
from diffaug.images import encode_image

#: Billions of operations for one image, counted by torch's FlopCounterMode: one evaluation of the
#: U-Net, one encoding, one decoding.
GIGAFLOP = {256: (180.1, 273.0, 622.0), 512: (803.4, 1117.0, 2515.0)}
#: Evaluations of the U-Net in one step: with and without each guidance.
ARMS = {"edit": 3, "translate": 2}
BATCHES = (1, 8, 32) if CUDA else (1, 2)
LARGEST_BATCH = 64 if CUDA else 4
RELEASED_STEPS = 100 if CUDA else 6
#: Kernels of attention, in two orders.
_OTHERS = SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH
ATTENTIONS = {
    "FlashAttention": (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, *_OTHERS),
    "cuDNN": (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, *_OTHERS),
}
#: Against the released loop with its defaults, at the shipped batch size.
GOALS = {256: 20, 512: 10}
#: The same, where the released loop runs as few steps as ours.
GOALS_AT_EQUAL_STEPS = {256: 10, 512: 3}
#: Of the card's measured rate of products, compiled.
SHARE = 0.5
#: Seconds that compiling and measuring a setting may take.
COMPILING = {512: 85, 256: 100}


def machine(report: Report, work: Path) -> None:
    """Measure the two rates that everything is held against."""
    side = 8192 if CUDA else 256
    for dtype in (torch.bfloat16, torch.float16):
        left, right = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))

        def multiply(left: torch.Tensor = left, right: torch.Tensor = right) -> None:
            for _ in range(10):
                left @ right

        multiply()
        rate = 10 * 2 * side**3 / seconds_of(multiply) / 1e12
        report.add(f"matrix products, {dtype}", tflop_per_s=round(rate, 2))
    source = torch.empty(2**30 if CUDA else 2**20, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    rate = 2 * source.numel() / seconds_of(lambda: target.copy_(source), 5) / 1e12
    report.add("copies on the device", tb_per_s=round(rate, 3))


def released_diffusemix(report: Report, work: Path) -> dict[tuple[int, int], float]:
    """Time the authors' way: one PIL image a call, 100 steps, half precision, PIL back.

    Return images a second by size and number of steps.
    """
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
    from torchvision.transforms.v2.functional import to_pil_image

    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        str(model_folder(work, "edit")), dtype=HALF, use_safetensors=True, local_files_only=True
    ).to(DEVICE)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    rates = {}
    for size in (LARGE, SMALL):
        [request] = requests_for(1, size)
        image = to_pil_image(request.image)

        def edit(steps: int, prompt: str = request.prompt, image: Any = image) -> None:
            pipe(
                prompt, image=image, num_images_per_prompt=1, num_inference_steps=steps,
                image_guidance_scale=1.5, guidance_scale=4,
            )  # fmt: skip

        edit(FEW_STEPS)
        for steps in (RELEASED_STEPS, STEPS):
            reset_peak()
            took = seconds_of(lambda edit=edit, steps=steps: edit(steps), 2)
            rates[size, steps] = 1 / took
            report.add(
                f"released DiffuseMix loop, {size} px, {steps} steps",
                images_per_s=round(1 / took, 3),
                ms_a_step=round(1e3 * took / steps, 2),
                peak_gb=peak_gigabytes(),
            )
    return rates


def released_diffmix(report: Report, work: Path) -> float:
    """Time the authors' way: one image a call, DPM-Solver++ in 25 steps, strength 0.7."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
    from torchvision.transforms.v2.functional import to_pil_image

    spec = spec_for(work, "translate")
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(
        spec.model, dtype=HALF, use_safetensors=True, local_files_only=True
    ).to(DEVICE)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    [request] = requests_for(1, LARGE)
    image = to_pil_image(request.image)

    def translate() -> None:
        pipe(
            request.prompt, image=image, strength=STRENGTH, num_inference_steps=spec.steps,
            guidance_scale=7.5,
        )  # fmt: skip

    translate()
    reset_peak()
    rate = 1 / seconds_of(translate)
    report.add(
        f"released Diff-Mix loop, {LARGE} px, {spec.steps} steps",
        images_per_s=round(rate, 3),
        peak_gb=peak_gigabytes(),
    )
    return rate


@contextmanager
def pipeline_of(spec: ModelSpec, graphs: bool = True) -> Iterator[Any]:
    """Load a pipeline once, to be timed at several batch sizes and numbers of steps."""
    pipe = load_pipeline(pin(spec))
    if graphs:
        use_graphs(pipe, spec, torch.device(DEVICE))
    try:
        yield pipe
    finally:
        del pipe
        free_memory()


def backend_around(pipe: Any, spec: ModelSpec) -> DiffusersBackend:
    backend = DiffusersBackend(spec)
    backend._pipe, backend._device = pipe, torch.device(DEVICE)
    return backend


def time_setting(
    report: Report, pipe: Any, spec: ModelSpec, released: dict[str, float], how: str = ""
) -> float | None:
    """Time a batch of few steps and one of all: the cost of a step, and of all the rest.

    Args:
        released: images a second of the released loop, by what it is compared as.
        how: what is special here, such as "compiled".

    Returns: images a second.
    """
    requests = requests_for(spec.batch_size, spec.size, spec.task)
    name = f"{spec.task}, {spec.size} px, batch {spec.batch_size}, {spec.steps} steps"
    name += f", {how}" if how else ""
    few = replace(spec, steps=FEW_STEPS if spec.task == "edit" else FEW_STEPS + 1)
    try:
        began = time.perf_counter()
        backend_around(pipe, few).generate(requests)  # warms up, and compiles where asked
        warming = time.perf_counter() - began
        reset_peak()
        times, again = [], 0
        for setting in (few, spec):
            backend = backend_around(pipe, setting)

            def run(backend: DiffusersBackend = backend) -> None:
                nonlocal again
                again += sum(answer.attempts - 1 for answer in backend.generate(requests))

            times.append(seconds_of(run))
            if backend._batch_size != spec.batch_size:
                report.add(name, None, error="the batch does not fit into memory")
                return None
    except Exception as error:
        report.add(name, False, error=f"{type(error).__name__}: {error}"[:300])
        return None
    short, long = (schedule(setting, requests[0])[1] for setting in (few, spec))
    step = (times[1] - times[0]) / (long - short)
    rate = spec.batch_size / times[1]
    figures: dict[str, Any] = {
        "images_per_s": round(rate, 2),
        "ms_a_step": round(1e3 * step, 2),
        "ms_the_rest": round(1e3 * (times[1] - long * step), 1),
    }
    if spec.size in GIGAFLOP:
        unet, encode, decode = GIGAFLOP[spec.size]
        operations = 1e9 * (long * ARMS[spec.task] * unet + encode + decode)
        figures["tflop_per_s"] = round(rate * operations / 1e12, 1)
        best = report.figure("machine", "matrix products, torch.bfloat16", "tflop_per_s")
        if best:
            figures["share_of_matrix_rate"] = round(rate * operations / 1e12 / best, 3)
    for kind, other in released.items():
        figures[kind] = round(rate / other, 2)
    figures["peak_gb"] = peak_gigabytes()
    figures["reserved_gb"] = reserved_gigabytes()
    if how == "compiled":
        figures["seconds_to_compile"] = round(warming, 1)
    if again:
        figures["made_again"] = again  # then the times are too long
    report.add(name, None, **figures)
    return rate


def judge_speed(
    report: Report, size: int, rate: float, released: dict[tuple[int, int], float]
) -> None:
    """Hold images a second against the released loop with its own number of steps and ours."""
    for how, goals, steps in (
        ("", GOALS, RELEASED_STEPS),
        (" at equal steps", GOALS_AT_EQUAL_STEPS, STEPS),
    ):
        times = rate / released[size, steps]
        report.add(
            f"shipped defaults beside the released loop{how}, {size} px",
            times >= goals[size] if size in goals else None,
            times=round(times, 1),
            goal=goals.get(size),
        )


def speed(report: Report, work: Path) -> None:
    """Measure images a second: the released loops, and ours by size and batch."""
    released = released_diffusemix(report, work)
    free_memory()

    def beside(size: int) -> dict[str, float]:
        return {
            "times_released": released[size, RELEASED_STEPS],
            "times_released_at_equal_steps": released[size, STEPS],
        }

    for size in (SMALL, LARGE):
        spec = spec_for(work, size=size)
        with pipeline_of(spec) as pipe:
            for batch in BATCHES:
                rate = time_setting(report, pipe, replace(spec, batch_size=batch), beside(size))
                if rate and batch == spec.batch_size:
                    judge_speed(report, size, rate, released)
    other = released_diffmix(report, work)
    free_memory()
    spec = spec_for(work, "translate")
    with pipeline_of(spec) as pipe:
        for batch in BATCHES[1:]:
            time_setting(report, pipe, replace(spec, batch_size=batch), {"times_released": other})
    for size in (SMALL, LARGE):
        if report.seconds_left() < 25:
            report.add(f"edit, {size} px, batch {LARGEST_BATCH}", skipped="no time is left")
            continue
        spec = spec_for(work, size=size, batch_size=LARGEST_BATCH)
        with pipeline_of(spec) as pipe:
            time_setting(report, pipe, spec, beside(size))


def compiled(report: Report, work: Path) -> None:
    """Measure what compiling the blocks gains, and how long it takes."""
    for size, batch in ((LARGE, BATCHES[1]), (SMALL, BATCHES[-1])):
        if report.seconds_left() < COMPILING.get(size, 0):
            report.add(f"compiled, {size} px, batch {batch}", skipped="no time is left")
            continue
        spec = spec_for(work, size=size, batch_size=batch, compile=True, pad=True)
        released = {}
        for kind, steps in (
            ("times_released", RELEASED_STEPS),
            ("times_released_at_equal_steps", STEPS),
        ):
            loop = f"released DiffuseMix loop, {size} px, {steps} steps"
            rate = report.figure("speed", loop, "images_per_s")
            if rate:
                released[kind] = rate
        eager = report.figure(
            "speed", f"edit, {size} px, batch {batch}, {spec.steps} steps", "images_per_s"
        )
        if eager:
            released["times_eager"] = eager
        with pipeline_of(spec) as pipe:
            rate = time_setting(report, pipe, spec, released, "compiled")
        share = rate and report.figure(
            "compiled",
            f"edit, {size} px, batch {batch}, {spec.steps} steps, compiled",
            "share_of_matrix_rate",
        )
        if share:
            goal = SHARE if size == LARGE else None
            report.add(
                f"share of the card's bf16 rate, compiled, {size} px",
                share >= goal if goal else None,
                share=share,
                goal=goal,
            )


def parts(report: Report, work: Path) -> None:
    """Time calls of the U-Net with and without a LoRA, and of the autoencoder by layout."""
    spec = spec_for(work, size=LARGE)
    rows, side = ARMS["edit"] * spec.batch_size, LARGE // 8
    with pipeline_of(spec, graphs=False) as pipe, torch.inference_mode():
        unet, autoencoder = pipe.unet, pipe.vae
        numbers = partial(torch.randn, device=unet.device, dtype=unet.dtype)
        sample = numbers(rows, unet.config.in_channels, side, side)
        prompt = numbers(rows, 77, unet.config.cross_attention_dim)
        latents = numbers(1, 4, side, side)
        pixels = numbers(1, 3, LARGE, LARGE)

        def evaluate() -> Any:
            return unet(sample, 500, encoder_hidden_states=prompt, return_dict=False)[0]

        decoded = []
        for layout in (torch.contiguous_format, torch.channels_last):
            autoencoder.to(memory_format=layout)
            for call, what in (
                (lambda: autoencoder.decode(latents, return_dict=False)[0], "decoding"),
                (lambda: autoencoder.encode(pixels).latent_dist.mode(), "encoding"),
            ):
                output = _time_call(report, f"{what} an image, {layout}", call)
                decoded.append(output.float())
        for what, first, second in (
            ("decoded", decoded[0], decoded[2]),
            ("encoded", decoded[1], decoded[3]),
        ):
            apart = ((first - second).abs().max() / first.abs().max()).item()
            report.add(f"{what} in both layouts", relative_difference=round(apart, 6))
        plain = _time_call(report, f"the U-Net, {rows} rows", evaluate)
        for first, kernels in ATTENTIONS.items():
            with sdpa_kernel(list(kernels), set_priority=True):
                _time_call(report, f"the U-Net, {rows} rows, attention by {first} first", evaluate)
        _add_lora(unet)
        beside = _time_call(report, f"the U-Net, {rows} rows, LoRA of rank 64 beside it", evaluate)
        pipe.fuse_lora(components=["unet"], safe_fusing=True)
        pipe.unload_lora_weights()
        fused = _time_call(report, f"the U-Net, {rows} rows, LoRA added to it", evaluate)
        apart = (beside - fused).abs().max() / (beside - plain).abs().max()
        report.add("a LoRA added to the weights is the LoRA beside them", bool(apart < 0.25),
                   share_of_its_effect=round(apart.item(), 5))  # fmt: skip


def _time_call(report: Report, name: str, call: Callable[[], torch.Tensor]) -> torch.Tensor:
    output = call()
    report.add(name, ms=round(1e3 * seconds_of(call, 5, 1.0), 2))
    return output


def _add_lora(unet: Any) -> None:
    """Add a LoRA of the shape of LCM's attention layers, with random numbers."""
    from peft import LoraConfig

    targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "conv1", "conv2"]
    with torch.random.fork_rng(devices=[0] if CUDA else []):
        torch.manual_seed(0)
        unet.add_adapter(
            LoraConfig(
                r=64 if CUDA else 2, lora_alpha=1, init_lora_weights="gaussian",
                target_modules=targets,
            )
        )  # fmt: skip
        for name, weight in unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)


def graphs(report: Report, work: Path) -> None:
    """Measure what repeating recorded calls gains, and compare the images bit by bit."""
    # The larger size first: it takes the shorter time, and says more.
    for size, batches in ((LARGE, BATCHES[1:2]), (SMALL, BATCHES)):
        if report.seconds_left() < 15:
            report.add(f"graphs, {size} px", skipped="no time is left")
            continue
        spec = spec_for(work, size=size, pad=True)
        with pipeline_of(spec, graphs=False) as pipe:
            settings = [replace(spec, batch_size=batch) for batch in batches]
            eager = []
            for setting in settings:
                rate = time_setting(report, pipe, setting, {}, "without graphs")
                eager.append((rate, _images(pipe, setting)))
                free_memory()
            recorded = use_graphs(pipe, spec, torch.device(DEVICE))
            for setting, (rate, images) in zip(settings, eager, strict=True):
                released = {"times_eager": rate} if rate else {}
                time_setting(report, pipe, setting, released, "graphs")
                gap = difference(images, _images(pipe, setting))
                same = gap["share_apart"] == 0
                report.add(
                    f"graphs give the same bits, {size} px, batch {setting.batch_size}",
                    same and recorded.recorded > 0 if CUDA else None,
                    recorded=recorded.recorded if recorded else 0,
                    **gap,
                )


def _images(pipe: Any, spec: ModelSpec) -> torch.Tensor:
    """Make two batches, of which the second one is padded."""
    requests = requests_for(spec.batch_size + spec.batch_size // 2, spec.size, spec.task)
    return stacked(backend_around(pipe, spec).generate(requests))


def processes(report: Report, work: Path) -> None:
    """Measure what is left of the model's rate behind workers, an offline run and the cache."""
    from torchvision.datasets import ImageFolder

    count = 96 if CUDA else 4
    spec = spec_for(work, size=SMALL, batch_size=16 if CUDA else 2)
    requests = requests_for(count, SMALL)
    with loaded(spec) as backend:
        backend.generate(requests[: spec.batch_size])
        direct = count / seconds_of(lambda: backend.generate(requests), 1)
        report.add(
            "direct, full batches",
            images_per_s=round(direct, 2),
            ms_a_batch=round(1e3 * spec.batch_size / direct, 1),
        )

        photos = work / "photos"
        (photos / "thing").mkdir(parents=True, exist_ok=True)
        for number, request in enumerate(requests):
            path = photos / "thing" / f"{number:04}.jpg"
            path.write_bytes(encode_image(request.image, "jpg"))
        bank = FractalBank(count=8, size=SMALL)
        bank.batch(range(8))
        cached = CachedBackend(backend, folder=work / f"cache-{time.time_ns()}")
        warm = warm_cache(ImageFolder(photos), DiffuseMix(["snowy"], backend=cached, fractals=bank))
        _share(report, "warm_cache", warm.made / warm.seconds, direct, 0.9)

    edit = PromptEdit(["snowy", "sunset"], backend=spec, cache=False)
    pictures = NoisePictures(edit, count, SMALL)
    # A worker asks for one image at a time, so each of them needs a batch to work on.
    workers = 16 if CUDA else 2
    with model_process():
        name = f"{workers} workers through one process"
        _through_workers(report, name, pictures, workers, max(1, count // workers), spec, direct)
        # The images of a batch are one request, so that few workers do.
        batches = JointTransform([(request.image, 0) for request in requests], edit)
        name = f"{workers // 4 or 1} workers, JointTransform"
        _through_workers(report, name, batches, workers // 4 or 1, spec.batch_size, spec, direct)
        WorkerBackend(pin(spec)).stop()

    mix = DiffuseMix(["snowy"], backend=spec, fractals=bank, cache=False)
    folder = work / f"set-{time.time_ns()}"
    augment_folder(photos, folder / "first", mix, per_image=1)  # loads the model
    began = time.perf_counter()
    made = augment_folder(photos, folder / "second", mix, per_image=1, seed=1).made
    _share(report, "offline run", made / (time.perf_counter() - began), direct, 0.95)
    unload()


def _through_workers(
    report: Report, name: str, dataset: Any, workers: int, batch: int, spec: ModelSpec,
    direct: float,
) -> None:  # fmt: skip
    """Time the second epoch of a loader, and say how the model's process spent it."""
    loader = DataLoader(
        dataset, batch, num_workers=workers, persistent_workers=True,
        timeout=max(1.0, min(300.0, report.seconds_left())),
    )  # fmt: skip
    list(loader)  # starts the workers and perhaps the process, which loads the model
    process = WorkerBackend(pin(spec))
    before = process.done()
    process.close()  # it would be one more caller to wait for
    took = seconds_of(lambda: list(loader), 1)
    did = {name: value - before[name] for name, value in process.done().items()}
    process.close()
    _share(
        report, name, len(dataset) / took, direct, 0.9,
        images_a_batch=round(did["images"] / did["batches"], 1),
        ms_a_batch=round(1e3 * did["seconds"] / did["batches"], 1),
        model_runs=round(did["seconds"] / took, 2),
    )  # fmt: skip


def _share(
    report: Report, name: str, rate: float, direct: float, goal: float, **figures: float
) -> None:
    report.add(
        name,
        rate >= goal * direct if CUDA else None,
        images_per_s=round(rate, 2),
        of_direct=round(rate / direct, 2),
        goal=goal,
        **figures,
    )


@contextmanager
def model_process() -> Iterator[None]:
    """Let a model on the CPU have a process of its own, too, as one on a GPU has."""
    if not CUDA:
        os.environ["DIFFAUG_WORKER"] = "process"
    try:
        yield
    finally:
        os.environ.pop("DIFFAUG_WORKER", None)
