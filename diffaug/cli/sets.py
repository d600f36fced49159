"""The commands about sets: look at one, read and write the authors' formats."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from diffaug.cli.app import app, err, out
from diffaug.cli.options import Seed, TransformOptions, takes_transform


@app.command()
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
    path: Annotated[Path, typer.Argument(help="PNG to write.")],
    options: TransformOptions,
    count: Annotated[int, typer.Option(help="Images to show, a row each.")] = 6,
    seed: Seed = 0,
    tile: Annotated[int, typer.Option(help="Side of each picture in pixels.")] = 256,
) -> None:
    """Draw a contact sheet: what each stage makes of some images, or some images of a set."""
    from diffaug.offline.manifest import is_set
    from diffaug.previews.contact_sheet import preview as draw

    if is_set(Path(source).expanduser()):
        given = _given(context)
        if given:
            raise ValueError(
                f"'{given[0]}' must not be given with a generated set, which is shown as it is, "
                f"and '{source}' is one; give the folder of photographs to try a transform."
            )
        skipped = draw(source, path, count=count, seed=seed, tile=tile)
    else:
        from diffaug.offline.lookalikes import refuse_lookalike

        refuse_lookalike(source)
        transform, _ = options.transform(source, variants=1)
        skipped = draw(source, path, transform, count=count, seed=seed, tile=tile)
    for name, reason in skipped:
        err.print(f"skipped {name}: {reason}")
    out.print(str(path))


def _given(context: Any) -> list[str]:
    """Name the options of a transform that the command line has, also with their default value."""
    names = [field.name for field in fields(TransformOptions)]
    sources = ((name, context.get_parameter_source(name)) for name in names)
    return [name for name, source in sources if source is not None and source.name != "DEFAULT"]
