"""The commands that make, preview, judge and warm; each parses, calls one function, prints."""

from pathlib import Path
from typing import Annotated, Any

import typer

from diffaug.cli import comparison as comparison  # adds its commands
from diffaug.cli import models as models
from diffaug.cli import previews as previews
from diffaug.cli import sets as sets
from diffaug.cli.app import app, err, out, words
from diffaug.cli.options import (
    Device,
    Revision,
    Seed,
    Size,
    Source,
    Strict,
    TransformOptions,
    Variant,
    White,
    refuse,
    takes_transform,
    with_files,
)
from diffaug.cli.summary import (
    print_differences,
    print_left_out,
    print_merged,
    print_skipped,
    print_summary,
    size_of,
    speed_of,
    summarized,
)


@app.command(epilog="Example: diffaug augment photos set --backend tiny --per-image 5")
@takes_transform()
def augment(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images, one folder per class; or its address, like s3://bucket/train."
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(readable=False, help="New folder, or one to resume.")
    ],
    options: TransformOptions,
    per_image: Annotated[
        int | None,
        typer.Option(
            "--per-image",
            "--multiplier",
            help="Copies of each image; of diffmix, images in all as a multiple of the sources. "
            "Default: the recipe's; 5, or 10 for the long tail, of diffmix.",
        ),
    ] = None,
    seed: Seed = 0,
    size: Size = None,
    format: Annotated[
        str, typer.Option(help="jpg, png or webp.", autocompletion=words("jpg", "png", "webp"))
    ] = "jpg",
    include_originals: Annotated[
        bool, typer.Option("--include-originals", help="Write each source too.")
    ] = False,
    mark: Annotated[
        bool,
        typer.Option(
            "--mark/--no-mark", help="Say in the file of each generated image that it is one."
        ),
    ] = True,
    white: White = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Make this share alone, like 3/16; the last one to finish merges. Default: what "
            "torchrun or Slurm say (RANK and WORLD_SIZE, SLURM_PROCID and SLURM_STEP_NUM_TASKS)."
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="A model in a process on each of these, like 0,1,2,3; auto: every GPU."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local, or ray: a model on each GPU of the cluster at RAY_ADDRESS.",
            autocompletion=words("local", "ray"),
        ),
    ] = "local",
    strict: Strict = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Count, estimate time and disk, write and download nothing."
        ),
    ] = False,
) -> None:
    """Write an augmented copy of a class-per-folder tree; run it again to resume."""
    if devices is not None:
        refuse("--devices, which decides it", device=options.device)
    if engine == "ray":
        refuse("--engine ray, which decides it", device=options.device)
    transform, only = options.transform(source)
    from diffaug.offline.augment import augment_folder
    from diffaug.offline.shards import shard_of_process

    if only is not None:
        err.print(f"only from the {len(only)} images that '{options.backend}' was fine-tuned on")
    with summarized():
        summary = augment_folder(
            source,
            destination,
            transform,
            per_image=per_image,
            seed=seed,
            size=size,
            format=format,
            include_originals=include_originals,
            mark=mark,
            only=only,
            white=white,
            shard=shard or shard_of_process(),
            engine=engine,
            devices=devices,
            strict=strict,
            dry_run=dry_run,
            progress=not dry_run,
        )
    print_summary(summary)
    to_make = summary.estimate.images if summary.estimate is not None else 0
    # Of many shares of few images, some have none.
    if summary.planned and not summary.made + summary.taken_over + to_make:
        err.print(f"diffaug: error: no image {'can' if dry_run else 'could'} be made.")
        raise typer.Exit(1)


@app.command(epilog="Example: diffaug merge set")
def merge(
    destination: Annotated[
        Path, typer.Argument(readable=False, help="Folder that parts were made in.")
    ],
) -> None:
    """Merge the finished parts of a set, if the part that finished last could not do it."""
    from diffaug.offline.shards import merge as join

    print_merged(join(destination), destination)


@app.command(epilog="Example: diffaug warm photos --backend tiny --size 224,224")
@takes_transform("long_tail", "alpha", "masks", "fractals")
def warm(
    source: Source,
    options: TransformOptions,
    seed: Seed = 0,
    pool: Annotated[
        int | None, typer.Option(help="Translations of an image. Default: 5. [diffmix]")
    ] = None,
    variants: Annotated[
        int | None, typer.Option(help="Edits of an image and prompt. Default: 1. [diffusemix]")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="What is given to v2.Resize before the transform: N, or HEIGHT,WIDTH. Default: "
            "there is no Resize before it."
        ),
    ] = None,
    load_image: Annotated[
        bool,
        typer.Option(
            "--load-image", help="Load files as training does with loader=diffaug.load_image."
        ),
    ] = False,
    strict: Strict = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what there is to generate.")
    ] = False,
) -> None:
    """Generate what a transform with these settings can ask for in training, into the cache."""
    from torchvision.transforms import v2

    from diffaug.arguments import image_size
    from diffaug.datasets.loaders import image_folder
    from diffaug.datasets.warm import warm_cache
    from diffaug.offline.lookalikes import refuse_lookalike

    refuse_lookalike(source)
    options.check_method(pool=pool, variants=variants)
    transform, _ = options.transform(
        source,
        seed=seed,
        variants=1 if variants is None else variants,
        pool=5 if pool is None else pool,
    )
    resize = None if size is None else image_size("size", size)
    before = [] if resize is None else [v2.Resize(resize)]
    photos, skipped, left_out = image_folder(source, load_image=load_image)
    compose = v2.Compose([*before, transform])
    counts = warm_cache(photos, compose, strict=strict, dry_run=True)
    first = "" if resize is None else f"v2.Resize({resize}), "
    last = ", loader=diffaug.load_image" if load_image else ""
    empty = set(range(len(photos.classes))).difference(photos.targets)
    last += ", allow_empty=True" if empty else ""
    out.print(
        f"as in ImageFolder({source!r}, v2.Compose([{first}{type(transform).__name__}(...)]){last})"
    )
    print_skipped([*skipped, *counts.skipped])
    print_left_out(left_out)
    if empty:
        out.print(f"classes without images: {', '.join(photos.classes[n] for n in sorted(empty))}")
    if not load_image:
        print_differences([path for path, _ in photos.samples])
    missing = counts.requests - counts.cached
    out.print(
        f"{counts.requests} images can be asked for, {counts.cached} of them already there, "
        f"{missing} to make; {size_of(counts.bytes)} in all"
    )
    if dry_run or not missing:
        return
    done = warm_cache(photos, compose, strict=strict, progress=True)
    out.print(
        f"made {done.made}, {speed_of(done.made, done.seconds)}"
        + (f"; {done.refused} were refused or blank" if done.refused else "")
    )
    if not done.made:
        err.print("diffaug: error: no image could be made.")
        raise typer.Exit(1)


@app.command(epilog="Example: diffaug finetune photos birds --metaclass bird --shots 5")
def finetune(
    source: Source,
    destination: Annotated[
        Path, typer.Argument(readable=False, help="New folder, or one to resume.")
    ],
    base: Annotated[str, typer.Option(help="Preset, folder or Hub id that translates.")] = "sd15",
    metaclass: Annotated[str, typer.Option(help="What all classes are, such as bird.")] = "",
    shots: Annotated[int | None, typer.Option(help="Images of each class. Default: all.")] = None,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="The paper's for 200 classes: 35000.")] = 35_000,
    rank: Annotated[int, typer.Option(help="Of the LoRA.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Of the LoRA.")] = 5e-5,
    embedding_learning_rate: Annotated[float, typer.Option(help="Of the words.")] = 5e-5,
    batch_size: Annotated[int, typer.Option(help="Images in a step, over all processes.")] = 8,
    gradient_accumulation: Annotated[int, typer.Option(help="Passes a step: less memory.")] = 1,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Slower, much less memory.")
    ] = False,
    mixed_precision: Annotated[str, typer.Option(help="auto, no, fp16 or bf16.")] = "auto",
    min_snr_gamma: Annotated[
        float | None, typer.Option(help="Weigh the loss by min-SNR; 5 is usual. Default: plain.")
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Draw each class as often as any other.")
    ] = False,
    initial_token: Annotated[
        str | None, typer.Option(help="Word that new ones start from. Default: the metaclass.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Side in pixels of the squares it trains on. Default: the model's."),
    ] = None,
    variant: Variant = None,
    revision: Revision = None,
    device: Device = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    sample_every: Annotated[int, typer.Option(help="Steps between pictures; 0: none.")] = 0,
    strict: Strict = False,
) -> None:
    """Teach a model a word for each class of a folder, for diffmix; run it again to resume."""
    from diffaug.arguments import square_side
    from diffaug.finetuning.run import finetune as train
    from diffaug.finetuning.settings import base_spec

    chosen: Any = base
    if variant is not None or revision is not None:
        chosen = with_files(base_spec(base, None, "auto"), variant, revision, None)
    done = train(
        source, destination,
        base=chosen, metaclass=metaclass, shots=shots, seed=seed, steps=steps, rank=rank,
        learning_rate=learning_rate, embedding_learning_rate=embedding_learning_rate,
        batch_size=batch_size, gradient_accumulation=gradient_accumulation,
        gradient_checkpointing=gradient_checkpointing, mixed_precision=mixed_precision,
        min_snr_gamma=min_snr_gamma, balanced=balanced, initial_token=initial_token,
        size=None if size is None else square_side("size", size),
        device=device or "auto", checkpoint_every=checkpoint_every, sample_every=sample_every,
        strict=strict, progress=True,
    )  # fmt: skip
    out.print(
        (f"{done.trained} steps" if done.trained else "nothing to do")
        + f", {done.steps} in all, on {done.images} images of {done.classes} classes"
        + (f", loss {done.loss:.3f}" if done.loss is not None else "")
        + f"\nin {done.folder}: give it as --backend to 'diffaug augment --method diffmix'"
    )
    print_skipped(done.skipped)
    print_left_out(done.left_out)


@app.command(epilog="Example: diffaug filter set --scorer similarity --low 0.3")
def filter(
    folder: Annotated[Path, typer.Argument(readable=False, help="Finished set to judge.")],
    scorer: Annotated[
        str,
        typer.Option(
            autocompletion=words("clip", "similarity"),
            help="clip (does it show the metaclass), or similarity (to the source: neither "
            "unchanged nor lost).",
        ),
    ] = "clip",
    keep: Annotated[
        float | None, typer.Option(help="Fraction to keep, in (0, 1]. Default: 0.9. [clip]")
    ] = None,
    metaclass: Annotated[str, typer.Option(help="What all classes are, such as bird. [clip]")] = "",
    target_class: Annotated[
        bool, typer.Option("--target-class", help="Judge each image's own class, too. [clip]")
    ] = False,
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="File with the words of each class, as for augment, for --target-class. [clip]"
        ),
    ] = None,
    clip: Annotated[
        str | None, typer.Option("--model", help="CLIP model: folder or Hub id. [clip]")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit of the CLIP model on the Hub. [clip]")
    ] = None,
    low: Annotated[float | None, typer.Option(help="Least similarity. [similarity]")] = None,
    high: Annotated[float | None, typer.Option(help="Greatest similarity. [similarity]")] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Folder the set was made from. Default: the one that run.json names. [similarity]"
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Judge the images of a set and write into its manifest which to keep. Nothing is deleted."""
    from diffaug.arguments import choice
    from diffaug.filtering.clip import ClipFilter
    from diffaug.filtering.similarity import SimilarityFilter
    from diffaug.filtering.verdicts import filter_set
    from diffaug.labels.word_files import read_words

    scorer = choice("scorer", scorer, ("clip", "similarity"))
    other = f"--scorer {scorer}, which has no such setting"
    judge: ClipFilter | SimilarityFilter
    if scorer == "clip":
        refuse(other, low=low, high=high, source=source)
        chosen: dict[str, Any] = {} if clip is None else {"model": clip}
        if revision is not None:
            chosen["revision"] = revision
        if class_names is not None:
            chosen["class_names"] = read_words(class_names)
        judge = ClipFilter(metaclass, target_class=target_class, device=device or "auto", **chosen)
    else:
        refuse(other, metaclass=metaclass, target_class=target_class, model=clip, device=device)
        refuse(other, class_names=class_names, revision=revision)
        bounds = {"low": low, "high": high}
        changed: dict[str, Any] = {k: value for k, value in bounds.items() if value is not None}
        judge = SimilarityFilter(source, **changed)
    done = filter_set(folder, judge, keep=keep, progress=True)
    threshold = "" if done.threshold is None else f", those that score {done.threshold:.3f} or more"
    out.print(f"kept {done.kept} of {done.scored}{threshold}\nin {folder}")
    print_skipped(done.unreadable)


def main() -> None:
    """Run the command line."""
    app(prog_name="diffaug")
