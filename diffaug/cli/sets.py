"""The commands about sets: read and write the authors' formats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffaug.cli.app import app, out
from diffaug.cli.options import refuse
from diffaug.cli.summary import print_skipped

if TYPE_CHECKING:
    from diffaug.offline.released import ReleaseSummary


@app.command("import", epilog="Example: diffaug import outputs/result set --source photos")
def import_released(
    folder: Annotated[
        Path,
        typer.Argument(
            help="What the authors' code wrote: Diff-Mix's folder with data/ and meta.csv, its "
            "checkpoint, or DiffuseMix's result/."
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(readable=False, help="New folder, or one to resume.")
    ],
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
    """Read what the released code of the papers made: a set, or a checkpoint of Diff-Mix."""
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


@app.command(epilog="Example: diffaug export set parquet --format parquet")
def export(
    folder: Annotated[
        Path, typer.Argument(readable=False, metavar="SET", help="Finished set of ours.")
    ],
    destination: Annotated[
        Path, typer.Argument(readable=False, help="New folder, or one to resume.")
    ],
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
