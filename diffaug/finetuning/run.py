"""Fine-tuning for Diff-Mix: a folder of classes in, a model that knows a word for each out."""

import gc
import os
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from diffaug.backends.devices import (
    choose_device,
    fitting,
    free_unused,
    is_out_of_memory,
    is_slow,
)
from diffaug.backends.hub import download
from diffaug.backends.loading import load_pipeline, load_tokenizer
from diffaug.backends.presets import PRESETS, name_of
from diffaug.backends.ranks import local_rank
from diffaug.backends.spec import ModelSpec
from diffaug.checked import checked
from diffaug.file_warnings import naming_files
from diffaug.finetuning.data import TrainingSet
from diffaug.finetuning.run_folder import RunFolder
from diffaug.finetuning.settings import (
    Settings,
    base_spec,
    check_parts,
    choose_precision,
    without_adapters,
)
from diffaug.finetuning.trainer import Trainer
from diffaug.finetuning.words import check_words
from diffaug.offline.sources import Skipped
from diffaug.progress import progress_bar
from diffaug.switches import own_switches


@dataclass(frozen=True)
class FinetuneSummary:
    """What a fine-tuning did.

    Args:
        folder: the fine-tuned folder; give it as ``backend``.
        classes: how many classes have a word.
        images: how many images the model learned from.
        steps: how many steps the model was trained for in all.
        trained: how many of these steps this call did.
        loss: the mean over the last 100 steps of this call; None if it did none.
        skipped: images that were left out, each with the reason.
        seconds: how long this call took.
        left_out: files that are no images, and hidden ones, by kind.
    """

    folder: Path
    classes: int
    images: int
    steps: int
    trained: int = 0
    loss: float | None = None
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0
    left_out: Mapping[str, int] = field(default_factory=dict)


@checked
def finetune(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    base: str | Path | ModelSpec = "sd15",
    metaclass: str = "",
    shots: int | None = None,
    seed: int = 0,
    steps: int = 35_000,
    rank: int = 10,
    learning_rate: float = 5e-5,
    embedding_learning_rate: float = 5e-5,
    batch_size: int = 8,
    gradient_accumulation: int = 1,
    gradient_checkpointing: bool = False,
    mixed_precision: str = "auto",
    min_snr_gamma: float | None = None,
    balanced: bool = False,
    initial_token: str | None = None,
    size: int | None = None,
    device: str = "auto",
    checkpoint_every: int = 500,
    sample_every: int = 0,
    strict: bool = False,
    progress: bool = False,
) -> FinetuneSummary:
    """Teach a model a word for each class of a folder: textual inversion and LoRA together.

    After an interruption the same call resumes from the last checkpoint; on a CPU, the result is
    that of a run without a stop, bit for bit. With ``accelerate launch`` several GPUs share each
    step; all of them must see ``destination``.

    Args:
        source: a folder with one folder per class.
        destination: a new folder, or one that this same run was stopped in.
        base: a Stable Diffusion model: a preset, folder, Hub id or spec. Its own adapters, such as
            a LoRA for few steps, take no part in the training; they are used again to generate.
        metaclass: what all classes are (``"bird"``); every prompt ends with it.
        shots: images of each class, as ``few_shot_subset`` chooses them; None for all.
        seed: of this choice, of the first weights, and of every draw.
        steps: the default is the paper's, for 6,000 images of 200 classes.
        rank: of the LoRA; its alpha is the same.
        learning_rate, embedding_learning_rate: of the LoRA and of the words; both are constant.
        batch_size: images in one step, over all processes.
        gradient_accumulation: a process computes its images of a step in so many parts, which
            takes less memory.
        gradient_checkpointing: compute the U-Net twice, which is slower and takes much less memory.
        mixed_precision: ``"no"``, ``"fp16"``, ``"bf16"``, or ``"auto"`` for the best of the device.
        min_snr_gamma: weigh the loss by min-SNR (5 is usual); None for the paper's loss.
        balanced: draw each class as often as any other (for long tails).
        initial_token: the word that all new words start from; by default the first token of the
            metaclass, or of "object".
        size: side in pixels; None for the model's own.
        device: such as ``"cuda:0"`` or ``"cpu"``; ``"auto"`` for a GPU if there is one.
        checkpoint_every: steps from one checkpoint to the next.
        sample_every: steps from one picture of samples to the next; 0 for no pictures.
        strict: stop at the first unreadable image instead of skipping it.
        progress: show a bar on stderr.

    Raises:
        ValueError, TypeError: an argument is outside its range, or a class folder has no images.
        UnreadableImageError: with ``strict``, an image cannot be read.
        DestinationError: the destination holds something else or another run, or another process
            is writing to it.
        ModelError: the base is incomplete.
        GenerationError: the base or a batch does not fit into memory, or the loss is not a number.

    Example:
        >>> from diffaug import finetune
        >>> finetune("cub", "runs/cub", base="tiny")
        Traceback (most recent call last):
        ValueError: 'base' must translate or generate images, and 'tiny' edits them; try 'sd15'.

    Reference:
        Wang et al. (2024), arXiv 2403.19600, section 3.2.
    """
    started = time.monotonic()
    settings = Settings(
        seed=seed, steps=steps, rank=rank, learning_rate=learning_rate,
        embedding_learning_rate=embedding_learning_rate, batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        gradient_checkpointing=gradient_checkpointing, mixed_precision=mixed_precision,
        min_snr_gamma=min_snr_gamma, balanced=balanced, metaclass=metaclass,
        initial_token=initial_token, shots=shots, checkpoint_every=checkpoint_every,
        sample_every=sample_every,
    )  # fmt: skip
    local_rank()  # accelerate says nothing useful of one that is no number
    spec = base_spec(base, size, device)
    spec = replace(spec, device=str(choose_device(spec.device)))
    precision = choose_precision(mixed_precision, torch.device(spec.device))
    images = TrainingSet(source, shots, seed)
    name = base if isinstance(base, str) and base in PRESETS else name_of(spec.model)
    folder = RunFolder(destination, images, spec, settings, name)

    losses: list[float] = []
    stage = folder.stage()
    if stage == "finished":
        folder.checkpoint.unlink(missing_ok=True)
    else:
        check_parts(download(folder.spec), folder.base)
        check_words(load_tokenizer(folder.spec), settings, len(images.names))
        if stage == "new":
            folder.skipped = images.unreadable(strict)
        where = torch.device(spec.device)
        with (
            naming_files(),
            fitting(f"the fine-tuning of '{name}'", where, "choose a smaller 'base'"),
            own_switches(where, exact=False, learn=True),
        ):
            losses = _train(folder, precision, progress)
        gc.collect()
        free_unused()
    last = losses[-100:]
    return FinetuneSummary(
        folder=folder.folder,
        classes=len(images.names),
        images=len(images.keys) - len(folder.skipped),
        steps=steps,
        trained=len(losses),
        loss=sum(last) / len(last) if last else None,
        skipped=(*images.source.skipped, *folder.skipped),
        seconds=time.monotonic() - started,
        left_out=dict(images.source.left_out),
    )


def _train(folder: RunFolder, precision: str, progress: bool) -> list[float]:
    """Train from the last checkpoint, or from the start, to the end; return the losses."""
    from accelerate import PartialState

    settings = folder.settings
    processes = PartialState(cpu=torch.device(folder.spec.device).type == "cpu")
    if settings.batch_size < processes.num_processes:
        raise ValueError(
            "'batch_size' must be at least the number of processes, "
            f"{processes.num_processes}, got {settings.batch_size}."
        )
    first = processes.is_main_process
    # The first process alone writes.
    with folder if first else nullcontext():
        processes.wait_for_everyone()  # the first has the folder for itself now
        # What was read before that may be old: another run may have been faster.
        if folder.stage() == "finished":
            return []
        trainer = _trainer(folder, precision, processes.process_index, processes.num_processes)
        try:
            folder.restore(trainer)
            processes.wait_for_everyone()  # all have read the folder before it changes
            if first:
                folder.begin()
            losses = _train_steps(folder, trainer, first, progress)
            if first:
                folder.finish(trainer)
        finally:
            trainer.close()
        processes.wait_for_everyone()
    return losses


def _train_steps(folder: RunFolder, trainer: Trainer, first: bool, progress: bool) -> list[float]:
    """Do the remaining steps, and write checkpoints and pictures between them."""
    settings, losses, skips = folder.settings, list[float](), False
    total, done = settings.steps * settings.batch_size, trainer.step * settings.batch_size
    try:
        with progress_bar(progress and first, total, done=done) as bar:
            while True:
                # Here, so that a run that was stopped after a checkpoint draws its picture, too.
                if first and folder.wants_sample(trainer.step):
                    whole = _sample(folder, trainer)
                    if not (whole or skips):
                        skips = True
                        warnings.warn(
                            f"the picture of samples after step {trainer.step} does not fit into "
                            "memory beside the training; it is skipped, and so are later ones "
                            "that do not fit.",
                            UserWarning,
                            stacklevel=1,
                        )
                if trainer.step >= settings.steps:
                    break
                losses.append(trainer.train())
                if bar is not None:
                    bar.set_postfix(step=trainer.step, loss=f"{losses[-1]:.4f}")
                    bar.update(settings.batch_size)
                if first and trainer.step % settings.checkpoint_every == 0:
                    folder.save(trainer)
    except BaseException as error:
        # The same run can be resumed, by smaller parts of a batch.
        resumes = isinstance(error, KeyboardInterrupt) or is_out_of_memory(error, 2)
        if resumes and first and trainer.whole and trainer.step:
            folder.save(trainer)
        raise
    return losses


def _sample(folder: RunFolder, trainer: Trainer) -> bool:
    """Write a picture of samples; return whether there was the memory for it."""
    try:
        folder.sample(trainer)
        return True
    except Exception as error:
        if not is_out_of_memory(error, 2):
            raise
    # Here and not above, because the exception held tensors until now.
    free_unused()
    return False


def _trainer(folder: RunFolder, precision: str, rank: int, world: int) -> Trainer:
    """Load the base and prepare it to learn."""
    dtype = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision]
    # Not compiled or offloaded: gradients take the paths of eager modules.
    spec = replace(
        without_adapters(folder.spec),
        dtype=dtype, safety_checker=False, compile=False, offload=False, pad=False,
    )  # fmt: skip
    images, settings = folder.images, folder.settings
    sampler = images.sampler(folder.skipped, spec.side, settings.balanced)
    pipe = load_pipeline(spec, offloads=False)
    if rank == 0 and is_slow(pipe, torch.device(spec.device)):
        warnings.warn(
            f"'{folder.base}' learns on the CPU: expect minutes for each of {settings.steps} "
            "steps; use a GPU, or base='tiny-translate'.",
            UserWarning,
            stacklevel=1,
        )
    return Trainer(pipe, sampler, len(images.names), settings, precision, rank, world)
