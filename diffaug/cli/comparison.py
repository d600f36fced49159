"""The command ``compare``: is it worth it on these photographs?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffaug.cli.app import app, err, out
from diffaug.cli.options import Device, Source, split
from diffaug.cli.summary import print_skipped, size_of

if TYPE_CHECKING:
    from diffaug.comparison.results import Comparison
    from diffaug.comparison.rows import Row


@app.command(epilog="Example: diffaug compare photos --backend tiny-translate")
def compare(
    source: Source,
    test: Annotated[
        Path | None,
        typer.Option(help="Folder of other photographs to test on. Default: folds of SOURCE."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Parts of SOURCE; each is tested once. Default: 5 without --test."),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="With commas: none, randaugment, mixup, cutmix, fractal, diffusemix, real-mix, "
            "real-aug, real-gen, or diff-mix and its like, which need a fine-tuned --backend; "
            "real-mix+cutmix does both. Default: these up to real-gen, and two pairs of them."
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="Preset, model folder, fine-tuned folder or Hub id that translates; {seed} and "
            "{shots} in a path are filled in."
        ),
    ] = "tiny-translate",
    editor: Annotated[str, typer.Option(help="The same for diffusemix: one that edits.")] = "tiny",
    shots: Annotated[
        str | None,
        typer.Option(help="Images of each class to learn from: N, or N,M,... Default: all."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trainings of each arm. Default: 3, or 1 for every fold.")
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Of each training; with more, augmentation can gain more.")
    ] = 800,
    classifier: Annotated[
        str, typer.Option(help="small, a name of torchvision such as resnet18, or timm:NAME.")
    ] = "small",
    weights: Annotated[
        Path | None, typer.Option(help="Safetensors file that the classifier starts from.")
    ] = None,
    strength: Annotated[float, typer.Option(help="How far to translate, in [0, 1].")] = 0.7,
    p: Annotated[
        float, typer.Option(help="Probability that an image is replaced by a generated one.")
    ] = 0.5,
    gamma: Annotated[float, typer.Option(help="Of the soft label.")] = 0.8,
    per_image: Annotated[int, typer.Option(help="Generated images of each photograph.")] = 5,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            help="Class to translate to, or several with commas, such as those that the model "
            "knows; photographs of others are not replaced. Default: all."
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Side in pixels that the classifier sees.")] = 64,
    class_names: Annotated[
        Path | None,
        typer.Option(help="File with the words of each class for the prompt, as for augment."),
    ] = None,
    metaclass: Annotated[str, typer.Option(help="What all classes are, such as bird.")] = "",
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for everything; the same one resumes.")
    ] = Path("runs/compare"),
    device: Device = None,
    jobs: Annotated[
        int, typer.Option(help="Trainings at a time, each in a process with one thread.")
    ] = 1,
    probe: Annotated[
        bool,
        typer.Option("--probe/--no-probe", help="Ask first whether the base knows the classes."),
    ] = True,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a CLIP model that answers this. Default: classifiers trained "
            "on the photographs, which need some 20 of each class."
        ),
    ] = None,
) -> None:
    """Say which augmentation helps a classifier here, and its price; run it again to resume."""
    from diffaug.comparison.arms import DEFAULT
    from diffaug.comparison.run import compare as run

    words = None
    if class_names is not None:
        from diffaug.folders import list_folder
        from diffaug.labels.word_files import for_classes, read_words

        path = str(class_names)
        words = for_classes(read_words(path), list_folder(source).classes, path)
    done = run(
        source,
        test=test,
        folds=folds,
        arms=DEFAULT if arms is None else [name.strip() for name in arms.split(",")],
        backend=backend,
        editor=editor,
        shots=None if shots is None else numbers("shots", shots),
        seeds=seeds,
        steps=steps,
        classifier=classifier,
        weights=weights,
        strength=strength,
        p=p,
        gamma=gamma,
        per_image=per_image,
        targets=None if targets is None else split(targets),
        size=size,
        class_names=words,
        metaclass=metaclass,
        out=folder,
        device=device or "auto",
        jobs=jobs,
        probe=probe,
        judge=judge,
        progress=True,
        say=err.print,
    )
    for line in table(done):
        out.print(line)
    print_skipped(done.settings["skipped"].items())
    out.print(f"\n{done.advice}")
    out.print(
        f"trained {done.trained} classifiers, {done.found} already there; made {done.made} images"
    )
    out.print(f"in {folder}: compare.json, compare.png")


def numbers(name: str, text: str) -> int | list[int]:
    """Read one number, or several with commas."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"'{name}' must be a number, or several with commas, got {text!r}."
        ) from None
    return found[0] if len(found) == 1 else found


def table(done: "Comparison") -> list[str]:
    """Lay the rows out in columns; say how the intervals are meant, and how long was trained."""
    from diffaug.comparison.advice import often

    lines: list[tuple[str, ...]] = [
        ("arm", "per class", "accuracy %", "95 % interval", "gain", "95 % interval",
         "generating", "training", "disk")
    ]  # fmt: skip
    lines += [_cells(row) for row in done.rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    shown = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    numbers = zip(done.settings["shots"], done.settings["passes"], strict=True)
    comes = ", ".join(
        often(times) + (f" with {n} of each class" if n else "") for n, times in numbers
    )
    steps = f"steps: {done.settings['steps']}, in which each photograph comes {comes}"
    return [*shown, f"intervals: {done.method}", steps, *changes(done)]


def _cells(row: "Row") -> tuple[str, ...]:
    gain = ("", "") if row.arm == "none" else (
        f"{100 * row.difference:+.1f}", _interval(row.difference_interval, "+"),
    )  # fmt: skip
    return (
        row.arm, str(row.shots or "all"), f"{100 * row.mean:.1f}", _interval(row.interval), *gain,
        f"{row.generation_minutes:.1f} min" if row.generated else "",
        f"{row.training_minutes:.1f} min", size_of(row.bytes) if row.bytes else "",
    )  # fmt: skip


def _interval(bounds: tuple[float, float], sign: str = "") -> str:
    low, high = (f"{100 * bound:{sign}.1f}" for bound in bounds)
    return f"{low} to {high}"


def changes(done: "Comparison") -> list[str]:
    """Say for each arm which classes gain and lose most."""
    lines = []
    several = len(done.settings["shots"]) > 1
    for row in done.rows:
        number = f" with {row.shots or 'all'} of each class" if several else ""
        ordered = sorted(row.classes.items(), key=lambda item: -item[1])
        gains = [f"{name} {100 * change:+.0f}" for name, change in ordered[:3] if change > 0]
        losses = [f"{name} {100 * change:+.0f}" for name, change in ordered[::-1][:3] if change < 0]
        if row.arm != "none" and (gains or losses):
            lines.append(f"by class, {row.arm}{number}: {', '.join([*gains, *losses])}")
    return lines
