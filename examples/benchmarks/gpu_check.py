"""Check diffaug on a GPU in ten minutes: does it work, is it the same twice, how fast is it.

    python examples/benchmarks/gpu_check.py --out docs/benchmarks
    python examples/benchmarks/gpu_check.py --only works same --seconds 120

The models have random weights and the shapes of Stable Diffusion 1.5, so nothing is downloaded.
Each result is printed as it comes and kept in gpu_check.json, also over several calls with other
sections. Without CUDA the same code runs on tiny shapes, which proves the check and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent))

import gpu_speed
from gpu_models import (
    CUDA,
    DEVICE,
    LARGE,
    SMALL,
    STRENGTH,
    NoisePictures,
    Report,
    difference,
    finish_kernels,
    free_memory,
    loaded,
    machine_facts,
    memory_of,
    peak_gigabytes,
    requests_for,
    reserved_gigabytes,
    reset_peak,
    spec_for,
    stacked,
)

from diffaug import (
    DiffMix,
    DiffuseMix,
    FractalBank,
    JointTransform,
    RecordingBackend,
    backend_for,
    finetune,
    unload,
)
from diffaug.backends.devices import is_out_of_memory
from diffaug.backends.presets import resolve
from diffaug.backends.process.client import WorkerBackend
from diffaug.finetuning import trainer
from diffaug.images import encode_image
from diffaug.transforms.base import drawing_from

#: What eight images of the larger size may take at most, in GB.
PEAK_GB = 6
#: The memory of cards on which these images must run, in GB, and whether offloading helps there.
CARDS = {8: False, 6: True}
#: How the CUDA libraries say that memory is short.
MEMORY_ERRORS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_BACKEND_TENSOR_DESCRIPTOR cudnnFinalize failed: CUDNN_STATUS_ALLOC_FAILED",
    "GET was unable to find an engine to execute this computation",
)


def tensors(report: Report, work: Path) -> None:
    """Hold the cheap stages on tensors of the device against the same on the CPU."""
    mix = DiffuseMix(
        p=1.0, masks="genmix", alpha=(0.1, 0.3), backend=RecordingBackend(size=64),
        fractals=FractalBank(count=4, size=64),
    )  # fmt: skip
    for kind in ("uint8", "float32", "float16", "grey"):
        channels = 1 if kind == "grey" else 3
        images = torch.rand(6, channels, 96, 80, generator=torch.Generator().manual_seed(1))
        if kind == "uint8":
            images = images.mul(255).to(torch.uint8)
        if kind == "float16":
            images = images.half()
        mixed = []
        for device in ("cpu", DEVICE):
            with drawing_from(torch.Generator().manual_seed(2)):
                mixed.append(mix(images.to(device)))
        scale = 1 if kind == "uint8" else 255
        gap = (mixed[0].float() - mixed[1].cpu().float()).abs() * scale
        over = (gap > 1.01).float().mean().item()
        # The fractals and the answers are resized on the device, which rounds otherwise.
        report.add(
            f"{kind} images on {DEVICE} beside the CPU",
            mixed[1].device.type == DEVICE and mixed[1].dtype == images.dtype and over < 0.25,
            most_levels=round(gap.max().item(), 2),
            share_over_1_level=round(over, 4),
        )
    image = torch.randint(0, 256, (1, 3, 96, 80), dtype=torch.uint8)
    keys = {
        mix.requests(image.to(device), mix.draw(1, torch.Generator().manual_seed(3)))[0].key("")
        for device in ("cpu", DEVICE)
    }
    # Or else a cache that was filled from files is never hit by images on the GPU.
    report.add("an image has one key wherever it lies", len(keys) == 1)


def sockets() -> list[Path]:
    return list(Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*.sock"))


def works(report: Report, work: Path) -> None:
    """Run the transforms in this process and in a model's process under each start method."""
    if CUDA:  # as every training script does before it makes its loader
        torch.zeros(1, device="cuda")
    bank = FractalBank(count=4, size=64)
    mix = DiffuseMix(["snowy", "sunset"], p=1.0, backend="tiny", fractals=bank, cache=False)
    pictures = NoisePictures(mix, 16, 64)
    images = torch.stack([pictures[index] for index in range(4)])
    fine = images.shape == (4, 3, 64, 64) and images.float().std() > 5
    report.add("DiffuseMix in this process", bool(fine))
    pipe = backend_for("tiny", cache=False)._pipe
    report.add(
        "the device 'auto' is the GPU, in half precision",
        pipe.unet.device.type == "cuda" and pipe.unet.dtype == torch.float16 if CUDA else None,
        device=str(pipe.unet.device),
        dtype=str(pipe.unet.dtype),
    )
    unload()
    translate = DiffMix(
        ["banana", "goldfish"], strategy="real-mix", strength=STRENGTH, p=1.0,
        backend="tiny-translate", cache=False,
    )  # fmt: skip
    plain = NoisePictures(lambda image: image, 4, 64)
    samples = [(plain[index], index % 2) for index in range(4)]
    image, label = JointTransform(samples, translate, seed=1)[0]
    fine = image.shape == (3, 64, 64) and abs(float(label.sum()) - 1) < 1e-5
    report.add("DiffMix, with its soft label, in this process", bool(fine))
    unload()
    with gpu_speed.model_process():
        for method in ("fork", "spawn", "forkserver"):
            _loader(report, pictures, method)
            WorkerBackend(resolve("tiny")).stop()
            ends = time.monotonic() + 15
            while sockets() and time.monotonic() < ends:
                time.sleep(0.2)
    report.add("no model's process is left", not sockets(), left=len(sockets()))


def _loader(report: Report, pictures: NoisePictures, method: str) -> None:
    began = time.perf_counter()
    limit = max(1.0, min(180.0, report.seconds_left()))
    try:
        loader = DataLoader(
            pictures, 8, num_workers=2, multiprocessing_context=method, timeout=limit
        )
        batches = list(loader)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        report.add(f"a DataLoader under {method}", False, error=reason)
        return
    fine = len(batches) == 2 and all(float(batch.float().std()) > 5 for batch in batches)
    report.add(
        f"a DataLoader under {method}",
        fine and len(sockets()) == 1,
        model_processes=len(sockets()),
        seconds=round(time.perf_counter() - began, 1),
    )


def same(report: Report, work: Path) -> None:
    """Ask for the same images twice, in other company, after other switches and elsewhere."""
    spec = spec_for(work, size=SMALL, steps=10 if CUDA else 3, pad=True)
    requests = requests_for(spec.batch_size + 3, SMALL)
    first: dict[str, torch.Tensor] = {}
    for dtype in ("auto", "bfloat16", "float32"):
        with loaded(replace(spec, dtype=dtype)) as backend:
            images = first[dtype] = stacked(backend.generate(requests))
            for name, others in {
                "twice": stacked(backend.generate(requests)),
                "in another order": stacked(backend.generate(requests[::-1])).flip(0),
            }.items():
                report.add(
                    f"{dtype}: {name}", torch.equal(images, others), **difference(images, others)
                )
            [alone] = backend.generate(requests[3:4])
            report.add(f"{dtype}: alone, padded", torch.equal(images[3], alone.image.int()))
            report.add(f"{dtype}: no original stands in", backend.fallbacks == 0)
            _under_switches(report, backend, dtype, requests, images)
        with loaded(replace(spec, dtype=dtype, pad=False, batch_size=1)) as backend:
            single = stacked(backend.generate(requests[:4]))
            # Nothing is promised across batch sizes in half precision.
            report.add(
                f"{dtype}: a batch of 1 beside a full one", None, **difference(images[:4], single)
            )
    for dtype in ("auto", "bfloat16"):
        report.add(f"{dtype} beside float32", None, **difference(first[dtype], first["float32"]))
    for model, strength in (("tiny", None), ("tiny-translate", STRENGTH)):
        trained = replace(resolve(model), batch_size=4, dtype="float32")
        requests = requests_for(4, 64, "translate" if strength else "edit")
        images = []
        for device, dtype in (("cpu", "float32"), (DEVICE, "float32"), (DEVICE, "auto")):
            with loaded(replace(trained, device=device, dtype=dtype)) as backend:
                images.append(stacked(backend.generate(requests)))
        gap = difference(images[0], images[1])
        # What the documentation says of float32.
        fine = gap["most_levels"] <= 1 and gap["share_apart"] <= 0.001
        report.add(f"{model}: float32 on {DEVICE} beside the CPU", fine, **gap)
        gap = difference(images[0], images[2])
        report.add(
            f"{model}: 'auto' on {DEVICE} beside float32 on the CPU", gap["psnr_db"] > 45, **gap
        )


def _under_switches(report: Report, backend, dtype, requests, images) -> None:
    """Set what training scripts set, and put it back."""
    found = (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = not found[1]
    torch.set_float32_matmul_precision("high")
    try:
        others = stacked(backend.generate(requests))
        report.add(
            f"{dtype}: with cudnn.benchmark and TF32 switched",
            torch.equal(images, others),
            **difference(images, others),
        )
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = found[:2]
        torch.set_float32_matmul_precision(found[2])
    with torch.autocast(DEVICE, torch.bfloat16):
        others = stacked(backend.generate(requests))
    report.add(
        f"{dtype}: inside autocast", torch.equal(images, others), **difference(images, others)
    )


def memory(report: Report, work: Path) -> None:
    """Halve a batch that does not fit, free what it took, and notice what is not a number."""
    spec = spec_for(work, size=LARGE, steps=2, batch_size=32 if CUDA else 8)
    requests = requests_for(spec.batch_size, LARGE)
    with warnings.catch_warnings(record=True) as told, loaded(spec) as backend:
        warnings.simplefilter("always")
        backend.generate(requests[:1])
        finish_kernels()
        before = torch.cuda.memory_allocated() if CUDA else 0
        reset_peak()
        backend.generate(requests[:8])
        peak = peak_gigabytes()
        fits = peak <= PEAK_GB if CUDA else None
        report.add("peak memory, batch 8", fits, gb=peak, goal=PEAK_GB)
        if not CUDA:
            _refuse_batches_over(backend, 3)
        # Room for 8 images and not for 32.
        with memory_of(1.3e9 * reserved_gigabytes()):
            count = len(backend.generate(requests))
        report.add(
            "a batch that does not fit is halved",
            count == len(requests) and backend._batch_size < spec.batch_size,
            batch_size=backend._batch_size,
            warned=sum("memory" in str(warning.message) for warning in told),
        )
        if CUDA:
            finish_kernels()
            free_memory()
            kept = (torch.cuda.memory_allocated() - before) / 1e6
            report.add("its memory is free again", kept < 64, kept_mb=round(kept, 1))
    for size in (SMALL, LARGE):
        _chosen(report, work, size)
    for gigabytes, offload in CARDS.items():
        _on_a_card_of(report, work, gigabytes, offload)
    for text in MEMORY_ERRORS:
        known = is_out_of_memory(RuntimeError(text), images=2)
        report.add(f"taken for short memory: {text[:60]}", known)
    if CUDA:
        _no_room_for_the_model(report, spec)
    _not_a_number(report, work)


def _chosen(report: Report, work: Path, size: int) -> None:
    """Let a model choose its batch size, and run batches of that size, recorded ones, too."""
    spec = spec_for(work, size=size, steps=2, batch_size="auto", pad=True)
    with warnings.catch_warnings(), loaded(spec) as backend:
        warnings.simplefilter("ignore")
        number = backend.choose_batch_size()
        reset_peak()
        for first in range(0, 3 * number, number):
            backend.generate(requests_for(number, size, first=first))
        report.add(
            f"a chosen batch size fits, {size} px",
            backend.batch_size == number,
            batch_size=number,
            peak_gb=peak_gigabytes(),
            reserved_gb=reserved_gigabytes(),
        )


def _on_a_card_of(report: Report, work: Path, gigabytes: int, offload: bool) -> None:
    """Run batches of eight where torch may take no more memory than a small card has."""
    spec = spec_for(work, size=LARGE, steps=2, batch_size=8, pad=True, offload=offload)
    count, figures = 0, {}
    with memory_of(1e9 * gigabytes), loaded(spec) as backend:
        reset_peak()
        try:
            for first in (0, 8, 16):  # calls are recorded from the second one on, if they fit
                made = backend.generate(requests_for(8, LARGE, first=first))
                count += sum(not answer.fallback for answer in made)
        except Exception as error:
            figures["error"] = f"{type(error).__name__}: {error}"[:300]
        figures |= {"batch_size": backend.batch_size, "reserved_gb": reserved_gigabytes()}
    how = ", offloaded" if offload else ""
    fine = (24, 8) == (count, figures["batch_size"])
    report.add(f"batches of 8 on a card of {gigabytes} GB{how}", fine, images=count, **figures)


def _refuse_batches_over(backend, most: int) -> None:
    forward = backend._pipe.unet.forward

    def refusing(sample, *arguments, **settings):
        if len(sample) > most * gpu_speed.ARMS["edit"]:
            raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")
        return forward(sample, *arguments, **settings)

    backend._pipe.unet.forward = refusing


def _no_room_for_the_model(report: Report, spec) -> None:
    """Load the model where only a tenth of it fits."""
    free_memory()
    message = ""
    with memory_of(torch.cuda.memory_reserved() + 2e8):
        try:
            with loaded(spec) as backend:
                backend.generate(requests_for(1, LARGE))
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
    fine = message.startswith("GenerationError") and "offload=True" in message
    report.add("a model that does not fit is one line", fine, message=message[:200])


def _not_a_number(report: Report, work: Path) -> None:
    """Break the autoencoder, in the way that half precision breaks some."""
    spec = spec_for(work, size=SMALL, steps=1, batch_size=2)
    requests = requests_for(2, SMALL)
    with warnings.catch_warnings(record=True) as told, loaded(spec) as backend:
        warnings.simplefilter("always")
        backend.generate(requests[:1])
        evaluations: list[int] = []
        backend._pipe.unet.register_forward_pre_hook(lambda *_: evaluations.append(1))
        with torch.no_grad():
            backend._pipe.vae.decoder.conv_out.weight.fill_(float("inf"))
        generated = backend.generate(requests)
        said = [str(warning.message) for warning in told if "not a num" in str(warning.message)]
        report.add(
            "what is not a number is said to be so, after one run",
            all(answer.fallback for answer in generated)
            and (1, 1) == (len(evaluations), len(said)),
            denoising_runs=len(evaluations),
            warned=said,
        )


def tuning(report: Report, work: Path) -> None:
    """Fine-tune, resume after a stop, and see how fast it is."""
    classes = work / "classes"
    for place in range(2):
        folder = classes / f"class {place}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, request in enumerate(requests_for(4, 64, first=10 * place)):
            (folder / f"{number}.png").write_bytes(encode_image(request.image, "png"))
    runs = work / f"runs-{time.time_ns()}"
    short, long = (10, 20) if CUDA else (1, 2)

    def tune(name: str):
        return finetune(
            classes, runs / name, base="tiny-translate", metaclass="thing", steps=long,
            batch_size=4,
        )  # fmt: skip

    once, twice = tune("once"), tune("twice")
    fine = once.loss is not None and 0 < once.loss < 10
    report.add("fine-tuning has a finite loss", fine, loss=once.loss)
    apart = _weights_apart(runs / "once", runs / "twice")
    # Backward passes on a GPU add up in an order of their own.
    report.add("the same run twice", None if CUDA else apart == 0, most=apart, loss=twice.loss)
    train, count = trainer.Trainer.train, [0]

    def stopping(run: trainer.Trainer) -> float:
        count[0] += 1
        if count[0] > short:
            raise KeyboardInterrupt
        return train(run)

    trainer.Trainer.train = stopping
    try:
        with contextlib.suppress(KeyboardInterrupt):
            tune("stopped")
    finally:
        trainer.Trainer.train = train
    resumed = tune("stopped")
    report.add(
        "a stopped run is resumed",
        resumed.trained == long - short,
        trained=resumed.trained,
        most=_weights_apart(runs / "once", runs / "stopped"),
    )
    for precision in ("bf16", "fp16") if CUDA else ("bf16",):
        free_memory()
        reset_peak()
        with _timing_steps() as ends:
            finetune(
                classes, runs / precision, steps=short + long, metaclass="thing",
                base=spec_for(work, "translate"), batch_size=8 if CUDA else 2, size=LARGE,
                mixed_precision=precision,
            )  # fmt: skip
        report.add(
            f"fine-tuning, {LARGE} px, batch {8 if CUDA else 2}, {precision}",
            None,
            steps_per_s=round(long / (ends[-1] - ends[short - 1]), 2),
            peak_gb=peak_gigabytes(),
        )


@contextlib.contextmanager
def _timing_steps() -> Iterator[list[float]]:
    """Note when each step of a fine-tuning ended."""
    train, ends = trainer.Trainer.train, []

    def noting(run: trainer.Trainer) -> float:
        loss = train(run)
        finish_kernels()
        ends.append(time.perf_counter())
        return loss

    trainer.Trainer.train = noting
    try:
        yield ends
    finally:
        trainer.Trainer.train = train


def _weights_apart(folder: Path, other: Path) -> float:
    """Return the largest difference between the weights that two runs learned."""
    from safetensors.torch import load_file

    apart = 0.0
    for path in folder.rglob("*.safetensors"):
        tensors, others = load_file(path), load_file(other / path.relative_to(folder))
        for name, tensor in tensors.items():
            apart = max(apart, float((tensor.float() - others[name].float()).abs().max()))
    return apart


SECTIONS: dict[str, Callable[[Report, Path], None]] = {
    "machine": gpu_speed.machine,
    "tensors": tensors,
    "works": works,
    "same": same,
    "memory": memory,
    "tuning": tuning,
    "parts": gpu_speed.parts,
    "graphs": gpu_speed.graphs,
    "speed": gpu_speed.speed,
    "processes": gpu_speed.processes,
    "compiled": gpu_speed.compiled,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections that are asked for; return 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=540.0, help="time for all sections [540]")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of gpu_check.json [.]")
    parser.add_argument("--work", type=Path, help="folder for models, kept for later calls [none]")
    options = parser.parse_args(argv)
    report = Report(options.out, options.seconds, machine_facts())
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="dgc-") as temporary:
        # Sockets of its own, so that other runs beside it are not counted; the path must be short.
        os.environ["XDG_RUNTIME_DIR"] = temporary
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("DIFFAUG_CACHE", str(work / "diffaug-cache"))
        for name in options.only:
            with report.section(name):
                if report.seconds_left() <= 0:
                    report.add(name, None, skipped="no time is left")
                    continue
                try:
                    SECTIONS[name](report, work)
                except Exception as error:  # the other sections can still run
                    reason = f"{type(error).__name__}: {error}"[:500]
                    report.add(f"the section {name} ran to its end", False, error=reason)
                    traceback.print_exc()
                unload()
                free_memory()
    print(f"{len(report.failed)} failed: {report.failed}", flush=True)
    return bool(report.failed)


if __name__ == "__main__":
    sys.exit(main())
