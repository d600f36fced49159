"""The commands about fractals, models and the cache."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from diffaug.cli.app import app, out
from diffaug.cli.options import Adapters, Revision, Seed, Variant, preset_names, with_files


@app.command(epilog="Example: diffaug fractals pictures --count 16")
def fractals(
    destination: Annotated[
        Path, typer.Argument(readable=False, help="Folder to write the pictures to.")
    ],
    count: Annotated[int, typer.Option(help="How many.")] = 16,
    size: Annotated[str, typer.Option(help="Side of the squares in pixels.")] = "256",
    seed: Seed = 0,
) -> None:
    """Render fractals as PNG files."""
    from diffaug.arguments import square_side
    from diffaug.fractals import FractalBank
    from diffaug.previews.drawing import write_picture

    bank = FractalBank(count, square_side("size", size), seed)
    for index in range(count):
        write_picture(destination / f"{bank.name(index)}.png", bank[index])
    out.print(f"{count} fractals in {destination}")


@app.command(epilog="Example: diffaug backends")
def backends() -> None:
    """List the presets: task, steps, size, licence, and whether they are here, without network."""
    from diffaug.backends.hub import downloaded
    from diffaug.backends.presets import PRESETS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "task", "steps", "pixels", "download", "here", "commercial use"):
        table.add_column(heading, no_wrap=True)
    table.add_column("licence")
    for name, preset in PRESETS.items():
        spec, size = preset.spec, preset.gigabytes
        table.add_row(
            name + (" (experimental)" if preset.experimental else ""),
            spec.task,
            str(spec.steps),
            str(spec.size),
            "none" if size == 0 else f"{size} GB" if size else "unknown",
            "yes" if downloaded(spec) else "no",
            preset.commercial,
            preset.licence,
        )
    # Piped, a table has no terminal to fit, and a wrapped cell could not be parsed.
    (out if out.is_terminal else Console(width=400)).print(table)


@app.command(epilog="Example: diffaug download instruct-pix2pix")
def download(
    backend: Annotated[str, typer.Argument(help="Preset or Hub id.", autocompletion=preset_names)],
    force: Annotated[
        bool, typer.Option("--force", help="Fetch it again, though it seems to be here.")
    ] = False,
    variant: Variant = None,
    revision: Revision = None,
    adapter: Adapters = None,
) -> None:
    """Say how large a model is and where it goes, then fetch it."""
    from diffaug.backends import hub, presets

    spec = with_files(presets.resolve(backend), variant, revision, adapter)
    if not force and hub.downloaded(spec):
        out.print(f"'{backend}' is here already.")
        return
    out.print(f"done: {hub.download(hub.pin(spec), force=force)}")


@app.command(epilog="Example: diffaug cache --clear")
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove every generated image.")] = False,
) -> None:
    """Show how much the cache of generated images holds, or clear it."""
    from diffaug.backends.cache import cache_info, clear_cache

    info = clear_cache() if clear else cache_info()
    done = "removed from" if clear else "in"
    out.print(f"{info.entries} images, {info.bytes / 1e6:.1f} MB, {done} {info.folder}")
