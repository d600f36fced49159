"""What the commands take: their options, and the transforms that these describe."""

import functools
import inspect
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffaug.cli.app import words
from diffaug.errors import one_line

if TYPE_CHECKING:
    from diffaug.backends.spec import ModelSpec
    from diffaug.transforms.base import ImageTransform
    from diffaug.transforms.diffmix import DiffMix
    from diffaug.transforms.diffusemix import DiffuseMix
    from diffaug.transforms.strategies import Strategy

_log = logging.getLogger("diffaug")

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Folder of images, one folder per class.")
]
Seed = Annotated[int, typer.Option(help="Same seed and settings: same images.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: the best there.")]
White = Annotated[
    int | None,
    typer.Option(help="Value that is white in files of 16 bits, like 4095 for 12-bit X-rays."),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Resize first, as v2.Resize does: the shorter side in pixels, or HEIGHT,WIDTH."
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(help="Of the model's weight files, such as fp16. Default: the preset's."),
]
Revision = Annotated[
    str | None, typer.Option(help="Commit or branch of the model. Default: the preset's, or main.")
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        help="LoRA or learned words to add: folder, file or Hub id, and a weight, like birds*0.7; "
        "may be repeated."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable image.")]


METHODS = ("diffusemix", "diffmix")
#: The method that an option belongs to; an option that is not here belongs to both. All of them are
#: None (or False) where they are not given, so that one that would have no effect is refused.
METHOD_OF = {
    **dict.fromkeys(
        ("prompts", "recipe", "alpha", "masks", "fractals", "variants", "image_guidance_scale"),
        "diffusemix",
    ),
    **dict.fromkeys(
        (
            "strategy",
            "strength",
            "pairs",
            "targets",
            "long_tail",
            "metaclass",
            "class_names",
            "pool",
        ),
        "diffmix",
    ),
}


def preset_names(incomplete: str) -> list[str]:
    """Complete the name of a preset in the shell."""
    from diffaug.backends.presets import PRESETS

    return words(*PRESETS)(incomplete)


@dataclass(frozen=True)
class TransformOptions:
    """The options that describe a transform and its model."""

    method: Annotated[
        str, typer.Option(help="diffusemix or diffmix.", autocompletion=words(*METHODS))
    ] = "diffusemix"
    backend: Annotated[
        str | None,
        typer.Option(
            autocompletion=preset_names,
            help="Preset, model folder, fine-tuned folder or Hub id; see 'backends'. Default: "
            "instruct-pix2pix, or sd15 for diffmix.",
        ),
    ] = None
    strategy: Annotated[
        str | None,
        typer.Option(
            help="diff-mix, diff-aug, diff-gen, real-mix, real-aug, real-gen, ti-mix or ti-aug. "
            "Default: diff-mix. [diffmix]"
        ),
    ] = None
    strength: Annotated[
        str | None,
        typer.Option(
            help="How far to translate in [0, 1]; several; or uniform. Default: 0.7. [diffmix]"
        ),
    ] = None
    pairs: Annotated[
        str | None, typer.Option(help="Target classes: uniform, other, same or tail. [diffmix]")
    ] = None
    targets: Annotated[
        list[str] | None,
        typer.Option(
            help="Class to translate to, or several with commas, such as those that the model "
            "knows; may be repeated. Default: all. Images of all classes are translated. [diffmix]"
        ),
    ] = None
    long_tail: Annotated[
        bool,
        typer.Option("--long-tail", help="Draw sources from all images, not by class. [diffmix]"),
    ] = False
    metaclass: Annotated[
        str | None,
        typer.Option(
            help="What all classes are, such as bird. Default: the fine-tuned folder's. [diffmix]"
        ),
    ] = None
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="File with the words of each class for the prompt: a JSON object, CSV, or lines "
            "of folder<TAB>words. Default: the folders' names. [diffmix]"
        ),
    ] = None
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="One style, commas and all; may be repeated. Or a .txt file of lines. "
            "Default: the paper's nine. [diffusemix]"
        ),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper, or release: what the authors' code does. Default: paper. [diffusemix]"
        ),
    ] = None
    alpha: Annotated[
        str | None,
        typer.Option(
            help="Weight of the fractal in [0, 1], or LOW,HIGH. Default: 0.2. [diffusemix]"
        ),
    ] = None
    masks: Annotated[
        str | None,
        typer.Option(
            help="paper, release, genmix, or names with commas. Default: the recipe's. [diffusemix]"
        ),
    ] = None
    fractals: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures to blend in. Default: rendered fractals. [diffusemix]"
        ),
    ] = None
    variant: Variant = None
    revision: Revision = None
    adapter: Adapters = None
    device: Device = None
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None
    steps: Annotated[
        int | None, typer.Option(help="Steps of the model. Default: the preset's.")
    ] = None
    model_size: Annotated[
        str | None,
        typer.Option(
            help="Side of the square that the model works at, in pixels. Default: the preset's."
        ),
    ] = None
    keep_aspect: Annotated[
        bool,
        typer.Option(
            "--keep-aspect", help="Let the model work at each image's own shape, not at a square."
        ),
    ] = False
    guidance_scale: Annotated[
        float | None, typer.Option(help="Guidance by the prompt. Default: the preset's.")
    ] = None
    image_guidance_scale: Annotated[
        float | None,
        typer.Option(help="Guidance by the source image. Default: the preset's. [diffusemix]"),
    ] = None
    batch_size: Annotated[str | None, typer.Option(help="Images in one call, or auto.")] = None

    def check_method(self, **more: Any) -> None:
        """Refuse options of the other method, and what a command has of it beside these."""
        given = {name: getattr(self, name, None) for name in METHOD_OF} | more
        for name, method in METHOD_OF.items():
            if method != self.method:
                refuse(
                    f"--method {self.method}, which has no such setting",
                    f"it belongs to --method {method}",
                    **{name: given[name]},
                )

    def transform(
        self, source: str, *, seed: int = 0, variants: int | None = None, pool: int = 5
    ) -> "tuple[ImageTransform, tuple[str, ...] | None]":
        """Make the transform that is described.

        Returns:
            The transform, and the images of the source that it may use: those that the model was
            fine-tuned on if it was on some only; None for all.
        """
        self.check_method()
        if self.method == "diffusemix":
            return self._diffusemix(seed, variants), None
        return self._diffmix(source, seed, pool)

    def __post_init__(self) -> None:
        from diffaug.arguments import choice

        object.__setattr__(self, "method", choice("method", self.method, METHODS))

    def _model(self, default: str) -> "ModelSpec":
        """Resolve the model, with what the options change of it."""
        from diffaug.arguments import square_side
        from diffaug.backends import presets

        names = ("device", "dtype", "steps", "batch_size", "guidance_scale", "image_guidance_scale")
        changes = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        if (size := self.batch_size) is not None:
            changes["batch_size"] = int(size) if size.isdecimal() else size
        task: Any = "translate" if self.method == "diffmix" else "edit"
        spec = presets.resolve(self.backend or default, task)
        spec = with_files(spec, self.variant, self.revision, self.adapter)
        if "image_guidance_scale" in changes and not presets.has_image_guidance(spec):
            raise ValueError(
                f"'image_guidance_scale' must be for a model that has such guidance, and "
                f"'{presets.name_of(spec.model)}' has none; leave it out."
            )
        if self.keep_aspect:
            changes["keep_aspect"] = True
        if self.model_size is not None:
            changes["size"] = square_side("model_size", self.model_size)
        try:
            return replace(spec, **changes)
        except ValueError as error:
            raise ValueError(str(error).replace("'size'", "'model_size'", 1)) from error

    def _diffusemix(self, seed: int, variants: int | None) -> "DiffuseMix":
        spec = self._model("instruct-pix2pix")  # a wrong name is refused before torch comes in
        from diffaug.transforms.diffusemix import DiffuseMix
        from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

        return DiffuseMix(
            DIFFUSEMIX_PROMPTS if self.prompts is None else read_prompts(self.prompts),
            recipe="paper" if self.recipe is None else self.recipe,
            alpha=0.2 if self.alpha is None else number_or_range(self.alpha),
            p=1.0,
            variants=variants,
            seed=seed,
            masks=None if self.masks is None else split([self.masks]),
            fractals=self.fractals,
            backend=spec,
        )

    def _diffmix(
        self, source: str, seed: int, pool: int
    ) -> "tuple[DiffMix, tuple[str, ...] | None]":
        spec = self._model("sd15")
        from diffaug.arguments import same_name
        from diffaug.backends import finetuned
        from diffaug.labels.class_names import numbers_of
        from diffaug.labels.pairs import PAIRINGS, ClassPairSampler
        from diffaug.labels.words import spelling
        from diffaug.offline.folder_source import FolderSource
        from diffaug.transforms.diffmix import DiffMix
        from diffaug.transforms.strategies import find_strategy

        strategy = find_strategy(self.strategy or "diff-mix")
        tree = FolderSource(source)
        keys, names = tree.keys, tree.classes
        learned = finetuned.find(spec)
        few = learned is not None and learned.shots and set(learned.files) <= set(keys)
        only = learned.files if learned is not None and few else None
        counts = Counter(key.split("/", 1)[0] for key in only or keys)
        if only is not None:  # a class beside these was not learned
            names = [name for name in names if counts[name]]
        pairs: Any = same_name(self.pairs, PAIRINGS) or self.pairs
        among = None if self.targets is None else split(self.targets)
        if self.long_tail or pairs == "tail":
            pairs = ClassPairSampler(
                len(names),
                strategy=pairs or ("same" if strategy.target == "own" else "uniform"),
                class_counts=[counts[name] for name in names],
                targets=None if among is None else numbers_of(among, names, spelling),
            )
            among = None
        transform = DiffMix(
            names if self.class_names is None else self._words(names, strategy),
            strategy=strategy,
            pairs=pairs,
            targets=among,
            metaclass=self.metaclass or "",
            strength=None if self.strength is None else strengths(self.strength),
            backend=spec,
            seed=seed,
            pool=pool,
        )
        if self.long_tail:
            transform.copies = 10
        return transform, only

    def _words(self, names: "list[str]", strategy: "Strategy") -> dict[str, str]:
        """Read the words of these classes."""
        from diffaug.labels.word_files import for_classes, read_words

        if strategy.model != "none":
            refuse(
                f"--strategy {strategy}, whose model has learned its own words",
                "use --strategy real-mix, or one like it",
                class_names=str(self.class_names),
            )
        path = str(self.class_names)
        return for_classes(read_words(path), names, path)


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


def refuse(other: str, instead: str = "", **options: Any) -> None:
    """Raise for options that were given although another one excludes them.

    Args:
        other: that option, with the reason.
        instead: what to do.
        options: what was given, by name; None, False and "" mean that it was not.
    """
    for name, value in options.items():
        if value is not None and value is not False and value != "":
            shown = str(value) if isinstance(value, Path) else value
            after = f"; {instead}." if instead else "."
            raise ValueError(f"'{name}' must not be given with {other}, got {shown!r}{after}")


def with_files(
    spec: "ModelSpec", variant: str | None, revision: str | None, adapters: list[str] | None
) -> "ModelSpec":
    """Return a spec with the files that the options name; adapters come after its own."""
    return replace(
        spec,
        variant=spec.variant if variant is None else variant,
        revision=spec.revision if revision is None else revision,
        adapters=(*spec.adapters, *(adapters or ())),
    )


def read_prompts(texts: list[str]) -> list[str]:
    """Return one prompt of each text, or of each line of a ``.txt`` file."""
    prompts: list[str] = []
    for text in texts:
        if not text.endswith(".txt"):
            prompts.append(text.strip())
            if re.search(r"\S,\S", text):
                _log.warning("%r is one prompt; repeat --prompts for each of several", text)
            continue
        try:
            prompts += map(str.strip, Path(text).read_text(encoding="utf-8-sig").splitlines())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"'prompts' must be a style, or a text file with one on each line, got {text!r} "
                f"({one_line(error)})."
            ) from error
    return list(dict.fromkeys(filter(None, prompts)))


def split(texts: list[str]) -> list[str]:
    """Return what stands between the commas of texts."""
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
    from diffaug.arguments import same_name

    numbers = _numbers(text)
    if not numbers and not same_name(text, ["uniform"]):
        raise ValueError(
            f"'strength' must be a number, several with commas, or uniform, got {text!r}."
        )
    return text if not numbers else numbers[0] if len(numbers) == 1 else numbers


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []
