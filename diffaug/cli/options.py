"""What the commands take: their options, and the transforms that these describe."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from diffaug.backends.spec import ModelSpec
    from diffaug.transforms.diffmix import DiffMix
    from diffaug.transforms.diffusemix import DiffuseMix

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Folder of images, one folder per class.")
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="Preset, model folder, fine-tuned folder or Hub id; see 'backends'. Default: "
        "instruct-pix2pix, or sd15 for diffmix."
    ),
]
Method = Annotated[str, typer.Option(help="diffusemix or diffmix.")]
Prompts = Annotated[
    list[str] | None,
    typer.Option(help="Style, or several with commas; may be repeated. Default: the paper's nine."),
]
Recipe = Annotated[str, typer.Option(help="paper, or release: as the authors' code does it.")]
Alpha = Annotated[str, typer.Option(help="Weight of the fractal in [0, 1], or LOW,HIGH.")]
Masks = Annotated[
    str | None,
    typer.Option(help="paper, release, genmix, or names with commas. Default: recipe's."),
]
Fractals = Annotated[
    Path | None, typer.Option(help="Folder of pictures to blend in. Default: rendered fractals.")
]
Seed = Annotated[int, typer.Option(help="Same seed and settings: same images.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the model. Default: the preset's.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: the best there.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
BatchSize = Annotated[int | None, typer.Option(help="Images in one call of the model.")]


Strategy = Annotated[
    str, typer.Option(help="diff-mix, diff-aug, diff-gen, real-mix, real-aug, ... [diffmix]")
]
Strength = Annotated[
    str, typer.Option(help="How far to translate in [0, 1]; several; or uniform. [diffmix]")
]
Pairs = Annotated[
    str | None, typer.Option(help="Target classes: uniform, other, same or tail. [diffmix]")
]
Metaclass = Annotated[
    str, typer.Option(help="What all classes are, such as bird. Default: the fine-tuned folder's.")
]
LongTail = Annotated[
    bool,
    typer.Option("--long-tail", help="Draw sources from all images, not by class. [diffmix]"),
]


def model(backend: str, **changes: Any) -> "ModelSpec":
    """Resolve a model, with what the options change of it."""
    from diffaug.backends import presets

    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(presets.resolve(backend), **given)


def refuse_beside(option: str, **options: Any) -> None:
    """Raise for options that were given and that another decides."""
    for name, value in options.items():
        if value:
            raise ValueError(
                f"'{name}' must not be given with --{option}, which decides it, got {value!r}."
            )


def refuse(method: str, **options: Any) -> None:
    """Raise for options that were given and belong to another method."""
    for name, value in options.items():
        if value:
            raise ValueError(
                f"'{name}' must not be given with --method {method}, which has no such setting, "
                f"got {value!r}."
            )


def diffmix(
    source: str,
    backend: str | None,
    strategy: str,
    strength: str,
    pairs: str | None,
    metaclass: str,
    long_tail: bool,
    *,
    seed: int = 0,
    pool: int = 5,
    **changes: Any,
) -> "tuple[DiffMix, tuple[str, ...] | None]":
    """Make the transform that the options of Diff-Mix describe, for the classes of a folder.

    Returns:
        The transform, and the images it may use: the few that the model was fine-tuned on, if these
        are there; None for all.
    """
    from diffaug.backends import finetuned
    from diffaug.labels.pairs import ClassPairSampler
    from diffaug.offline.sources import FolderSource
    from diffaug.transforms.diffmix import DiffMix

    spec = model(backend or "sd15", **changes)
    found = FolderSource(source)
    tuned = finetuned.find(spec)
    only = tuned.files if tuned and tuned.shots and set(tuned.files) <= set(found.keys) else None
    count = Counter(key.split("/", 1)[0] for key in only or found.keys)
    names = sorted(count)
    settings: dict[str, Any] = {"seed": seed, "pool": pool}
    if long_tail or pairs == "tail":
        counts = [count[name] for name in names]
        settings["pairs"] = ClassPairSampler(
            len(names), strategy=pairs or "uniform", class_counts=counts
        )
    elif pairs is not None:
        settings["pairs"] = pairs
    transform = DiffMix(
        names,
        strategy=strategy,
        metaclass=metaclass,
        strength=strengths(strength),
        backend=spec,
        **settings,
    )
    if long_tail:
        transform.copies = 10
    return transform, only


def diffusemix(
    backend: str | None,
    prompts: list[str] | None,
    recipe: str,
    alpha: str,
    masks: str | None,
    fractals: Path | None,
    *,
    seed: int = 0,
    variants: int | None = None,
    **changes: Any,
) -> "DiffuseMix":
    """Make the transform that the options of DiffuseMix describe."""
    from diffaug.transforms.diffusemix import DiffuseMix
    from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

    return DiffuseMix(
        DIFFUSEMIX_PROMPTS if prompts is None else _split(prompts),
        recipe=recipe,
        alpha=number_or_range(alpha),
        p=1.0,
        variants=variants,
        seed=seed,
        masks=None if masks is None else _split([masks]),
        fractals=fractals,
        backend=model(backend or "instruct-pix2pix", **changes),
    )


def _split(texts: list[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def number_or_range(text: str) -> float | tuple[float, float]:
    """Read the weight of the fractal."""
    found = _numbers(text)
    if len(found) == 1:
        return found[0]
    if len(found) == 2:
        return (found[0], found[1])
    raise ValueError(f"'alpha' must be a number or LOW,HIGH, got {text!r}.")


def strengths(text: str) -> float | list[float] | str:
    """Read how far to translate."""
    found = _numbers(text)
    if not found and text != "uniform":
        raise ValueError(
            f"'strength' must be a number, several with commas, or uniform, got {text!r}."
        )
    return text if not found else found[0] if len(found) == 1 else found


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
