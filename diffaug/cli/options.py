"""What the commands take: their options, and the transforms that these describe."""

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from diffaug.backends.spec import ModelSpec
    from diffaug.transforms.base import ImageTransform
    from diffaug.transforms.diffmix import DiffMix
    from diffaug.transforms.diffusemix import DiffuseMix

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Folder of images, one folder per class.")
]
Seed = Annotated[int, typer.Option(help="Same seed and settings: same images.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: the best there.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable image.")]


@dataclass(frozen=True)
class TransformOptions:
    """The options that describe a transform and its model."""

    method: Annotated[str, typer.Option(help="diffusemix or diffmix.")] = "diffusemix"
    backend: Annotated[
        str | None,
        typer.Option(
            help="Preset, model folder, fine-tuned folder or Hub id; see 'backends'. Default: "
            "instruct-pix2pix, or sd15 for diffmix."
        ),
    ] = None
    strategy: Annotated[
        str, typer.Option(help="diff-mix, diff-aug, diff-gen, real-mix, real-aug, ... [diffmix]")
    ] = "diff-mix"
    strength: Annotated[
        str, typer.Option(help="How far to translate in [0, 1]; several; or uniform. [diffmix]")
    ] = "0.7"
    pairs: Annotated[
        str | None, typer.Option(help="Target classes: uniform, other, same or tail. [diffmix]")
    ] = None
    long_tail: Annotated[
        bool,
        typer.Option("--long-tail", help="Draw sources from all images, not by class. [diffmix]"),
    ] = False
    metaclass: Annotated[
        str,
        typer.Option(help="What all classes are, such as bird. Default: the fine-tuned folder's."),
    ] = ""
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="Style, or several with commas; may be repeated. Default: the paper's nine."
        ),
    ] = None
    recipe: Annotated[str, typer.Option(help="paper, or release: what the authors' code does.")] = (
        "paper"
    )
    alpha: Annotated[str, typer.Option(help="Weight of the fractal in [0, 1], or LOW,HIGH.")] = (
        "0.2"
    )
    masks: Annotated[
        str | None,
        typer.Option(help="paper, release, genmix, or names with commas. Default: the recipe's."),
    ] = None
    fractals: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures to blend in. Default: rendered fractals."),
    ] = None
    device: Device = None
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None
    steps: Annotated[
        int | None, typer.Option(help="Steps of the model. Default: the preset's.")
    ] = None
    batch_size: Annotated[int | None, typer.Option(help="Images in one call of the model.")] = None

    def transform(
        self, source: str, *, seed: int = 0, variants: int | None = None, pool: int = 5
    ) -> "tuple[ImageTransform, tuple[str, ...] | None]":
        """Make the transform that is described.

        Returns:
            The transform, and the images of the source that it may use: those that the model was
            fine-tuned on if it was on some only; None for all.
        """
        method = f"--method {self.method}, which has no such setting"
        if self.method == "diffusemix":
            refuse(method, pairs=self.pairs, metaclass=self.metaclass, long_tail=self.long_tail)
            return self._diffusemix(seed, variants), None
        if self.method == "diffmix":
            refuse(method, prompts=self.prompts, masks=self.masks, fractals=self.fractals)
            return self._diffmix(source, seed, pool)
        raise ValueError(f"'method' must be diffusemix or diffmix, got {self.method!r}.")

    def _model(self, default: str) -> "ModelSpec":
        """Resolve the model, with what the options change of it."""
        from diffaug.backends import presets

        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("device", "dtype", "steps", "batch_size")
            if getattr(self, name) is not None
        }
        return replace(presets.resolve(self.backend or default), **changes)

    def _diffusemix(self, seed: int, variants: int | None) -> "DiffuseMix":
        from diffaug.transforms.diffusemix import DiffuseMix
        from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

        return DiffuseMix(
            DIFFUSEMIX_PROMPTS if self.prompts is None else _split(self.prompts),
            recipe=self.recipe,
            alpha=number_or_range(self.alpha),
            p=1.0,
            variants=variants,
            seed=seed,
            masks=None if self.masks is None else _split([self.masks]),
            fractals=self.fractals,
            backend=self._model("instruct-pix2pix"),
        )

    def _diffmix(
        self, source: str, seed: int, pool: int
    ) -> "tuple[DiffMix, tuple[str, ...] | None]":
        from diffaug.backends import finetuned
        from diffaug.labels.pairs import ClassPairSampler
        from diffaug.offline.folder_source import FolderSource
        from diffaug.transforms.diffmix import DiffMix

        spec = self._model("sd15")
        keys = FolderSource(source).keys
        learned = finetuned.find(spec)
        few = learned is not None and learned.shots and set(learned.files) <= set(keys)
        only = learned.files if learned is not None and few else None
        counts = Counter(key.split("/", 1)[0] for key in only or keys)
        names = sorted(counts)
        settings: dict[str, Any] = {} if self.pairs is None else {"pairs": self.pairs}
        if self.long_tail or self.pairs == "tail":
            settings["pairs"] = ClassPairSampler(
                len(names),
                strategy=self.pairs or "uniform",
                class_counts=[counts[name] for name in names],
            )
        transform = DiffMix(
            names,
            strategy=self.strategy,
            metaclass=self.metaclass,
            strength=strengths(self.strength),
            backend=spec,
            seed=seed,
            pool=pool,
            **settings,
        )
        if self.long_tail:
            transform.copies = 10
        return transform, only


def takes_transform(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command have the fields of its :class:`TransformOptions` as options of its own.

    Args:
        left_out: names of fields that are no options of this command and keep their defaults.
    """
    taken = [field for field in fields(TransformOptions) if field.name not in left_out]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.annotation is TransformOptions:
                name = parameter.name
                parameters += [
                    parameter.replace(name=field.name, annotation=field.type, default=field.default)
                    for field in taken
                ]
            else:
                parameters.append(parameter)

        @functools.wraps(command)
        def call(**values: Any) -> None:
            options = {field.name: values.pop(field.name) for field in taken}
            command(**values, **{name: TransformOptions(**options)})

        # What typer reads: it passes every argument by name, so their order only shows in the help.
        by_name = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        call.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate


def refuse(other: str, **options: Any) -> None:
    """Raise for options that were given although another one excludes them.

    Args:
        other: that option, with the reason.
        options: what was given, by name; None, False and "" mean that it was not.
    """
    for name, value in options.items():
        if value is not None and value is not False and value != "":
            raise ValueError(f"'{name}' must not be given with {other}, got {value!r}.")


def _split(texts: list[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def number_or_range(text: str) -> float | tuple[float, float]:
    """Read the weight of the fractal."""
    numbers = _numbers(text)
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return (numbers[0], numbers[1])
    raise ValueError(f"'alpha' must be a number or LOW,HIGH, got {text!r}.")


def strengths(text: str) -> float | list[float] | str:
    """Read how far to translate."""
    numbers = _numbers(text)
    if not numbers and text != "uniform":
        raise ValueError(
            f"'strength' must be a number, several with commas, or uniform, got {text!r}."
        )
    return text if not numbers else numbers[0] if len(numbers) == 1 else numbers


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
