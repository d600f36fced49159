"""The command ``diffaug``: parse, call one function, print."""

import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from diffaug.errors import DiffaugError

if TYPE_CHECKING:
    from diffaug.augment import Summary
    from diffaug.diffusemix import DiffuseMix

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


class _Commands(typer.core.TyperGroup):
    """Turn what goes wrong in any command into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        warnings.showwarning = lambda message, *_: _err.print(f"diffaug: warning: {message}")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _err.print("diffaug: stopped; the same command goes on, or begins anew.")
            raise typer.Exit(130) from None
        except Exception as error:
            if ctx.params.get("debug") or hasattr(error, "exit_code"):  # typer's own
                raise
            expected = isinstance(error, (DiffaugError, ValueError, TypeError, OSError))
            text = str(error) if expected else f"{type(error).__name__}: {error} (see --debug)"
            _err.print("diffaug: error: " + " ".join(text.split()))
            argument = isinstance(error, (ValueError, TypeError))
            raise typer.Exit(2 if argument and not isinstance(error, DiffaugError) else 1) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain lines survive pipes and narrow terminals
    pretty_exceptions_enable=False,
    help="Diffusion models inside the augmentation pipeline of image classifiers.",
)

Source = Annotated[Path, typer.Argument(help="Folder of images, one folder per class.")]
Backend = Annotated[str, typer.Option(help="Preset, model folder or Hub id; see 'backends'.")]
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


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from diffaug import __version__

        _out.print(f"diffaug {__version__}")
        raise typer.Exit


@app.command()
def augment(
    source: Source,
    destination: Annotated[Path, typer.Argument(help="New folder, or one to go on with.")],
    backend: Backend = "instruct-pix2pix",
    per_image: Annotated[
        int | None, typer.Option(help="Copies of each image. Default: the recipe's.")
    ] = None,
    seed: Seed = 0,
    prompts: Prompts = None,
    recipe: Recipe = "paper",
    alpha: Alpha = "0.2",
    masks: Masks = None,
    fractals: Fractals = None,
    size: Annotated[
        int | None, typer.Option(help="Resize sources to this shorter side in pixels first.")
    ] = None,
    format: Annotated[str, typer.Option(help="jpg, png or webp.")] = "jpg",
    include_originals: Annotated[
        bool, typer.Option("--include-originals", help="Write each source too.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first unreadable image.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what there is to do, write nothing.")
    ] = False,
) -> None:
    """Write an augmented copy of a class-per-folder tree; run again to go on."""
    from diffaug.augment import augment_folder

    transform = _diffusemix(
        backend, prompts, recipe, alpha, masks, fractals,
        device=device, dtype=dtype, steps=steps, batch_size=batch_size,
    )  # fmt: skip
    summary = augment_folder(
        source,
        destination,
        transform,
        per_image=per_image,
        seed=seed,
        size=size,
        format=format,
        include_originals=include_originals,
        strict=strict,
        dry_run=dry_run,
        progress=not dry_run,
    )
    _print_summary(summary, dry_run)
    if not dry_run and not summary.made + summary.taken_over:
        _err.print("diffaug: error: no image could be made.")
        raise typer.Exit(1)


@app.command()
def preview(
    source: Source,
    path: Annotated[Path, typer.Argument(help="PNG to write.")],
    backend: Backend = "instruct-pix2pix",
    count: Annotated[int, typer.Option(help="Images to show, a row each.")] = 6,
    seed: Seed = 0,
    prompts: Prompts = None,
    recipe: Recipe = "paper",
    alpha: Alpha = "0.2",
    masks: Masks = None,
    fractals: Fractals = None,
    tile: Annotated[int, typer.Option(help="Side of each picture in pixels.")] = 256,
    device: Device = None,
    dtype: Dtype = None,
    steps: Steps = None,
) -> None:
    """Draw a contact sheet: original, edit, halves joined, fractal, result."""
    from diffaug.gallery import preview as draw

    transform = _diffusemix(
        backend, prompts, recipe, alpha, masks, fractals,
        device=device, dtype=dtype, steps=steps, variants=1,
    )  # fmt: skip
    _print_skipped(draw(source, path, transform, count=count, seed=seed, tile=tile))
    _out.print(str(path), markup=False)


@app.command()
def fractals(
    destination: Annotated[Path, typer.Argument(help="Folder to write the pictures to.")],
    count: Annotated[int, typer.Option(help="How many.")] = 16,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 256,
    seed: Seed = 0,
) -> None:
    """Render fractals as PNG files."""
    from diffaug.fractals import FractalBank
    from diffaug.gallery import write_picture

    bank = FractalBank(count, size, seed)
    for index in range(count):
        write_picture(destination / f"{bank.name(index)}.png", bank[index])
    _out.print(f"{count} fractals in {destination}", markup=False)


@app.command()
def backends() -> None:
    """List the presets: task, steps, size, licence, and whether they are here; no network."""
    from diffaug.presets import PRESETS
    from diffaug.weights import downloaded

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
    (_out if _out.is_terminal else Console(width=400)).print(table)


@app.command()
def download(backend: Annotated[str, typer.Argument(help="Preset or Hub id.")]) -> None:
    """Fetch a model, saying first how large it is and where it goes."""
    from diffaug import presets, weights

    spec = presets.resolve(backend)
    if weights.downloaded(spec):
        _out.print(f"'{backend}' is here already.", markup=False)
        return
    size = weights.download_size(spec)
    _out.print(
        f"'{backend}' is {spec.model}: {size / 1e9:.2f} GB, into {weights.download_place(spec)}",
        markup=False,
    )
    _out.print(f"done: {weights.download(weights.pin(spec))}", markup=False)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove every generated image.")] = False,
) -> None:
    """Show how much the cache of generated images holds, or clear it."""
    from diffaug.cache import cache_info, clear_cache

    info = clear_cache() if clear else cache_info()
    done = "removed from" if clear else "in"
    _out.print(
        f"{info.entries} images, {info.bytes / 1e6:.1f} MB, {done} {info.folder}", markup=False
    )


def main() -> None:
    """Run the command line."""
    app(prog_name="diffaug")


def _diffusemix(
    backend: str,
    prompts: list[str] | None,
    recipe: str,
    alpha: str,
    masks: str | None,
    fractals: Path | None,
    *,
    variants: int | None = None,
    **changes: Any,
) -> "DiffuseMix":
    from diffaug import presets
    from diffaug.diffusemix import DiffuseMix
    from diffaug.prompts import DIFFUSEMIX_PROMPTS

    given = {name: value for name, value in changes.items() if value is not None}
    return DiffuseMix(
        DIFFUSEMIX_PROMPTS if prompts is None else _split(prompts),
        recipe=recipe,
        alpha=_number_or_range(alpha),
        p=1.0,
        variants=variants,
        masks=None if masks is None else _split([masks]),
        fractals=fractals,
        backend=dataclasses.replace(presets.resolve(backend), **given),
    )


def _split(texts: list[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _number_or_range(text: str) -> float | tuple[float, float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return (numbers[0], numbers[1])
    raise ValueError(f"'alpha' must be a number or LOW,HIGH, got {text!r}.")


def _print_summary(summary: "Summary", dry_run: bool) -> None:
    if dry_run:
        left = summary.planned - summary.taken_over
        _out.print(
            f"{summary.planned} images planned, {summary.taken_over} of them there, {left} to make "
            f"in {summary.destination}; nothing was written",
            markup=False,
        )
    else:
        speed = f", {summary.made / summary.seconds:.1f} images/s" if summary.made else ""
        lines = [f"made {summary.made}, taken over {summary.taken_over}{speed}"]
        if summary.retried or summary.fallbacks:
            lines.append(
                f"retried {summary.retried}; in {summary.fallbacks} the original stands in"
            )
        if not summary.made and summary.taken_over:
            lines.append("nothing to do")
        lines.append(f"in {summary.destination}")
        _out.print("\n".join(lines), markup=False)
    _print_skipped(summary.skipped)


def _print_skipped(skipped: Any) -> None:
    for name, reason in skipped:
        _err.print(f"skipped {name}: {reason}")
