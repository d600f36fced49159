"""The commands that show something: preview, and the demo for who has nothing to show yet."""

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from diffaug.cli.app import app, out
from diffaug.cli.options import Seed, TransformOptions, White, takes_transform
from diffaug.cli.summary import print_skipped, print_summary, summarized

if TYPE_CHECKING:
    from diffaug.transforms.base import ImageTransform

#: Draws six different prompts for the six photographs.
DEMO_SEED = 10


@app.command(epilog="Example: diffaug preview photos report.html --backend tiny")
@takes_transform("long_tail", "batch_size")
def preview(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE|SET",
            help="Folder of images, to see what a transform makes of them; or a generated set, to "
            "see it as it is.",
        ),
    ],
    path: Annotated[
        Path,
        typer.Argument(help="To write: .html for a page to filter and sort, .png for a sheet."),
    ],
    options: TransformOptions,
    count: Annotated[
        int | None,
        typer.Option(
            help="Images to show, a row each. Default: 6, or 2000 of a set on a page of HTML."
        ),
    ] = None,
    seed: Seed = 0,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of each picture in pixels. Default: 256; of HTML 512, or less of many."
        ),
    ] = None,
    white: White = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="OPTION=VALUE,VALUE,...",
            help="Compare values of an option of a transform, a column each: strength=0.3,0.5,0.7.",
        ),
    ] = None,
) -> None:
    """Draw a sheet or a page: what each stage makes of some images, or some images of a set."""
    from diffaug.offline.manifest import is_set
    from diffaug.previews import jobs

    shown: dict[str, Any] = {"count": count, "seed": seed, "tile": tile, "white": white}
    if is_set(Path(source).expanduser()):
        if given := _given(context):
            raise ValueError(
                f"'{given[0]}' must not be given with a generated set, which is shown as it is, "
                f"and '{source}' is one; give the folder of photographs to try a transform."
            )
        skipped = jobs.preview(source, path, progress=True, **shown)
    else:
        from diffaug.offline.lookalikes import refuse_lookalike

        refuse_lookalike(source)
        if sweep is None:
            transform, _ = options.transform(source, variants=1)
            skipped = jobs.preview(source, path, transform, **shown)
        else:
            transforms = _swept(options, sweep, source, _given(context))
            skipped = jobs.sweep(source, path, transforms, **shown)
    print_skipped(skipped)
    out.print(str(path))


def _given(context: Any) -> list[str]:
    """Name the options of a transform that the command line has, also with their default value."""
    names = [*(field.name for field in fields(TransformOptions)), "sweep"]
    sources = ((name, context.get_parameter_source(name)) for name in names)
    return [name for name, source in sources if source is not None and source.name != "DEFAULT"]


def _swept(
    options: TransformOptions, sweep: str, source: str, given: list[str]
) -> "dict[str, ImageTransform]":
    """Make a transform for each value of an option."""
    from diffaug.arguments import choice

    name, separator, values = sweep.partition("=")
    texts = [text.strip() for text in values.split(",") if text.strip()]
    if not separator or not texts:
        raise ValueError(
            f"'sweep' must be OPTION=VALUE,VALUE,..., got {sweep!r}; for example "
            "'strength=0.3,0.7'."
        )
    kinds = {
        field: kind
        for field, kind in get_type_hints(TransformOptions).items()
        if field not in ("method", "device", "long_tail", "batch_size")
    }
    option = choice("sweep", name.strip().lstrip("-").replace("-", "_"), kinds)
    if option in given:
        raise ValueError(f"'{option}' must not be given with --sweep {sweep}, which decides it.")
    transforms = {}
    for text in texts:
        changed = replace(options, **{option: _value(option, kinds[option], text)})
        transforms[f"{option.replace('_', ' ')} {text}"], _ = changed.transform(source, variants=1)
    return transforms


def _value(option: str, kind: Any, text: str) -> Any:
    """Read a value of an option as the command line reads it."""
    kind = next((inner for inner in get_args(kind) if inner is not type(None)), kind)
    if getattr(kind, "__origin__", kind) is list:
        return [text]
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(
            f"'sweep' must hold values of '{option}', each {kind.__name__}, got {text!r}."
        ) from error


@app.command(epilog="Example: diffaug demo")
def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder to write into; it may be new.")
    ] = Path("diffaug-demo"),
) -> None:
    """Augment six photographs that come with the package, with the model that does, and report."""
    import shutil

    from diffaug.backends import presets
    from diffaug.offline.augment import augment_folder
    from diffaug.photos import sample_photos
    from diffaug.previews import jobs
    from diffaug.transforms.diffusemix import DiffuseMix

    # Two at a time: the bar moves early, and six need no padding.
    spec = replace(presets.resolve("tiny-256"), batch_size=2)
    photos, made, report = folder / "photos", folder / "augmented", folder / "report.html"
    shutil.copytree(sample_photos(), photos, dirs_exist_ok=True)
    transform = DiffuseMix(p=1.0, backend=spec)
    with summarized():
        print_summary(augment_folder(photos, made, transform, progress=True))
    out.print(f"drawing {report} ...")
    jobs.preview(photos, report, transform, seed=DEMO_SEED)
    out.print(
        f"\nOpen {report} in a browser: it shows each step of DiffuseMix.\n"
        "Next:\n"
        f"  diffaug preview {made} {folder / 'set.html'}\n"
        f"  diffaug preview {photos} {folder / 'alpha.html'} --backend tiny "
        "--sweep alpha=0,0.2,0.5\n"
        "  diffaug augment YOUR_PHOTOS augmented --backend tiny --per-image 2"
    )
