"""The commands about sets: look at one, read and write the authors' formats."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffaug.cli.app import app, out
from diffaug.cli.options import Seed, TransformOptions, White, refuse, takes_transform
from diffaug.cli.summary import print_skipped

if TYPE_CHECKING:
    from diffaug.offline.released import ReleaseSummary


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
    white: White = None,
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
        skipped = draw(source, path, count=count, seed=seed, tile=tile, white=white)
    else:
        from diffaug.offline.lookalikes import refuse_lookalike

        refuse_lookalike(source)
        transform, _ = options.transform(source, variants=1)
        skipped = draw(source, path, transform, count=count, seed=seed, tile=tile, white=white)
    print_skipped(skipped)
    out.print(str(path))


def _given(context: Any) -> list[str]:
    """Name the options of a transform that the command line has, also with their default value."""
    names = [field.name for field in fields(TransformOptions)]
    sources = ((name, context.get_parameter_source(name)) for name in names)
    return [name for name, source in sources if source is not None and source.name != "DEFAULT"]


@app.command("import")
def import_released(
    folder: Annotated[
        Path,
        typer.Argument(
            help="What the authors' code wrote: Diff-Mix's folder with data/ and meta.csv, its "
            "checkpoint, or DiffuseMix's result/."
        ),
    ],
    destination: Annotated[Path, typer.Argument(help="New folder, or one to resume.")],
    filtered: Annotated[
        bool,
        typer.Option("--filtered", help="Mark as rejected what remained_meta.csv lacks. [set]"),
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photographs it was made from: its folders name the classes. [set]"
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Model that was trained. Default: sd15. [checkpoint]")
    ] = None,
    metaclass: Annotated[
        str, typer.Option(help="What all classes are, such as bird. [checkpoint]")
    ] = "",
) -> None:
    """Read what the authors' released code made: a set, or a checkpoint of Diff-Mix."""
    from diffaug.backends.checkpoints import is_checkpoint

    if is_checkpoint(folder.expanduser()):
        from diffaug.finetuning.released import import_checkpoint
        from diffaug.offline.summary import named_classes

        refuse("a checkpoint, which is no set", filtered=filtered, source=source)
        names = import_checkpoint(folder, destination, base=base or "sd15", metaclass=metaclass)
        out.print(f"{named_classes(names)}\nin {destination}: give it as --backend")
        return
    from diffaug.offline.released import import_set

    refuse("a set, which is no checkpoint", base=base, metaclass=metaclass)
    done = import_set(folder, destination, filtered=filtered, source=source, progress=True)
    _print_release(done)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="Finished set of ours.")],
    destination: Annotated[Path, typer.Argument(help="New folder, or one to resume.")],
    format: Annotated[
        str,
        typer.Option(
            help="parquet, webdataset, hf (for datasets.load_from_disk), or diffmix (for the "
            "released code of Diff-Mix: data/, meta.csv, remained_meta.csv)."
        ),
    ] = "diffmix",
) -> None:
    """Write a set in another format, without the images that a filter dropped."""
    from diffaug.export.formats import export_set

    _print_release(export_set(folder, destination, format=format, progress=True))


def _print_release(done: "ReleaseSummary") -> None:
    from diffaug.offline.summary import named_classes

    of = f" of {named_classes(done.classes)}" if done.classes else ""
    rejected = f", {done.images - done.kept} of them rejected" if done.kept < done.images else ""
    out.print(f"{done.images} images{of}{rejected}")
    out.print(f"in {done.destination}")
    print_skipped(done.skipped)
