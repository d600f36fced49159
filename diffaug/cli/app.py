"""The program itself: what goes wrong in any command becomes one line and an exit code."""

import warnings
from typing import Annotated, Any

import typer
from rich.console import Console

from diffaug.errors import DiffaugError, visible


class _Plain(Console):
    """A console that shows what a terminal would obey: names of files may hold anything."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, with control characters as escapes."""
        shown = (visible(text) if isinstance(text, str) else text for text in objects)
        super().print(*shown, **options)


out = _Plain(highlight=False, soft_wrap=True, markup=False)
err = _Plain(stderr=True, highlight=False, soft_wrap=True, markup=False)


class _Commands(typer.core.TyperGroup):
    """Turn what goes wrong in any command into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        warnings.showwarning = lambda message, *_: err.print(f"diffaug: warning: {message}")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("diffaug: stopped; run the same command again to resume or to start over.")
            raise typer.Exit(130) from None
        except Exception as error:
            if ctx.params.get("debug") or hasattr(error, "exit_code"):  # typer's own
                raise
            expected = isinstance(error, (DiffaugError, ValueError, TypeError, OSError))
            text = str(error) if expected else f"{type(error).__name__}: {error} (see --debug)"
            err.print("diffaug: error: " + " ".join(text.split()))
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


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from diffaug import __version__

        out.print(f"diffaug {__version__}")
        raise typer.Exit
