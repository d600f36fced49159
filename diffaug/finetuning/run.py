"""Fine-tuning for Diff-Mix: a folder of classes in, a model that knows a word for each out."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from diffaug.arguments import whole
from diffaug.backends.hub import download
from diffaug.backends.loading import choose_device, load_tokenizer
from diffaug.backends.presets import PRESETS, name_of
from diffaug.backends.spec import ModelSpec
from diffaug.finetuning.data import Lessons, Words
from diffaug.finetuning.run_folder import RunFolder
from diffaug.finetuning.settings import Settings, base_spec, check_parts, choose_precision
from diffaug.offline.sources import Skipped


@dataclass(frozen=True)
class FinetuneSummary:
    """Say what a fine-tuning did.

    Args:
        folder: what to give as ``backend`` from now on.
        classes: how many have a word now.
        images: how many it learned from.
        steps: how many the folder has seen in all.
        trained: how many of them in this call.
        loss: mean over the last 100 of those; None if there were none.
        skipped: images left out, each with the reason.
        seconds: how long it took.
    """

    folder: Path
    classes: int
    images: int
    steps: int
    trained: int = 0
    loss: float | None = None
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0


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

    Run it again after any interruption and it goes on, to the same folder as without one. With
    ``accelerate launch`` several GPUs share each step; all must see ``destination``.

    Args:
        source: a folder with one folder per class.
        destination: a new folder, or one that this same run was stopped in.
        base: a Stable Diffusion model: a preset, folder, Hub id or spec. Its own adapters, such as
            a LoRA for few steps, are left out here and come back when it generates.
        metaclass: what all classes are (``"bird"``); ends each prompt.
        shots: images a class, chosen by ``labels.few_shot_subset``; None for all.
        seed: of the choice, the first weights, and every draw.
        steps: 35,000 is the paper's, for 6,000 images of 200 classes.
        rank: of the LoRA; its alpha is the same.
        learning_rate, embedding_learning_rate: of the LoRA and of the words; constant.
        batch_size: images in one step, over all processes.
        gradient_accumulation: passes that a process takes its share in: less memory.
        gradient_checkpointing: compute the U-Net twice: slower, much less memory.
        mixed_precision: ``"no"``, ``"fp16"``, ``"bf16"``, or ``"auto"`` for what the device can do.
        min_snr_gamma: weigh the loss by min-SNR (5 is usual); None for the paper's plain one.
        balanced: draw each class as often as any other (long tails).
        initial_token: the word all new ones start from; the first token of the metaclass, or of
            "object", by default.
        size: side in pixels; None for the model's own.
        device, strict, progress: as for ``augment_folder``.
        checkpoint_every, sample_every: steps between checkpoints, and between pictures (0: none).

    Raises:
        ValueError, TypeError: an argument or a class folder will not do.
        DestinationError: the destination holds something else, or another run.
        ModelError: the base is incomplete. GenerationError: it does not fit into memory.

    Example:
        >>> finetune("cub", "runs/cub", base="tiny")
        Traceback (most recent call last):
        ValueError: 'base' must translate or generate images, and 'tiny' edits them; try 'sd15'.

    Reference:
        Wang et al. (2024), arXiv 2403.19600, section 3.2.
    """
    started = time.monotonic()
    settings = Settings(
        seed=seed,
        steps=steps,
        rank=rank,
        learning_rate=learning_rate,
        embedding_learning_rate=embedding_learning_rate,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        gradient_checkpointing=gradient_checkpointing,
        mixed_precision=mixed_precision,
        min_snr_gamma=min_snr_gamma,
        balanced=balanced,
    )
    whole("checkpoint_every", checkpoint_every, 1)
    whole("sample_every", sample_every, 0)
    words = Words(metaclass, initial_token)
    spec = base_spec(base, size, device)
    chosen = choose_device(device)
    precision = choose_precision(mixed_precision, chosen)
    lessons = Lessons(source, shots, seed)

    name = base if isinstance(base, str) and base in PRESETS else name_of(spec.model)
    run = RunFolder(destination, lessons, words, spec, settings, name)
    there = run.recorded()
    if there.get("finished"):
        run.checkpoint.unlink(missing_ok=True)
    else:
        check_parts(download(run.spec), run.base)
        initial = words.check(load_tokenizer(run.spec), len(lessons.names))
        run.skipped = lessons.unreadable(strict) if not there else run.skipped
        run.go(initial, chosen, precision, checkpoint_every, sample_every, progress)
    return FinetuneSummary(
        folder=run.folder,
        classes=len(lessons.names),
        images=len(lessons.keys) - len(run.skipped),
        steps=steps,
        trained=len(run.losses),
        loss=sum(run.losses[-100:]) / len(run.losses[-100:]) if run.losses else None,
        skipped=(*lessons.skipped, *run.skipped),
        seconds=time.monotonic() - started,
    )
