"""The program itself: the order of its commands, and what any of them says on stderr."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from diffaug.cli.wording import as_typed, with_presets
from diffaug.errors import DiffaugError, visible
from diffaug.progress import above_bars


class _Plain(Console):
    """A console that shows what a terminal would obey: names of files may hold anything."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, with control characters as escapes."""
        shown = (visible(text) if isinstance(text, str) else text for text in objects)
        super().print(*shown, **options)


out = _Plain(highlight=False, soft_wrap=True, markup=False)
err = _Plain(stderr=True, highlight=False, soft_wrap=True, markup=False)

#: The commands in the order of use, by what they are for. Each has an example as its ``epilog``.
SECTIONS = {
    "Look": ("demo", "preview", "fractals"),
    "Models": ("backends", "download", "finetune"),
    "Sets": ("augment", "merge", "filter", "compare", "export", "import"),
    "Training": ("warm", "cache"),
}


class _Commands(typer.core.TyperGroup):
    """Turn what goes wrong in any command into one line and an exit code."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands in sections, each with its whole sentence."""
        for section, names in SECTIONS.items():
            here = [name for name in names if name in self.commands]
            helps = [(self.commands[name].help or "").partition("\n\n")[0] for name in here]
            if here:
                with formatter.section(section):
                    formatter.write_dl(list(zip(here, helps, strict=True)))

    def invoke(self, ctx: Any) -> Any:
        typed = list(ctx.args)

        def say(text: str) -> None:
            command = self.commands.get(ctx.invoked_subcommand)
            options = [] if command is None else list(_options_of(command))
            with above_bars():
                err.print(with_presets(as_typed(" ".join(text.split()), options), typed))

        with _spoken(say):
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                say("diffaug: stopped; run the same command again to resume or to start over.")
                raise typer.Exit(130) from None
            except Exception as error:
                if ctx.params.get("debug") or hasattr(error, "exit_code"):  # typer's own
                    raise
                expected = isinstance(error, (DiffaugError, ValueError, TypeError, OSError))
                text = str(error) if expected else f"{type(error).__name__}: {error} (see --debug)"
                if isinstance(error, OSError) and error.filename and error.strerror:
                    text = f"'{error.filename}' could not be used: {error.strerror}."
                say(f"diffaug: error: {text}")
                argument = isinstance(error, (ValueError, TypeError))
                code = 2 if argument and not isinstance(error, DiffaugError) else 1
                raise typer.Exit(code) from None


def _options_of(command: Any) -> Iterator[tuple[str, str]]:
    """Yield the names that messages may give the options of a command, and the options."""
    for parameter in command.params:
        option = parameter.opts[0]
        if option.startswith("--"):
            yield parameter.name, option
            yield option.removeprefix("--").replace("-", "_"), option


@contextmanager
def _spoken(say: Callable[[str], None]) -> Iterator[None]:
    """Say what the library warns of and logs, and that torch is loading, which takes seconds."""
    log, handler = logging.getLogger("diffaug"), _Lines(say)
    level, announcer = log.level, _Announcer(say)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"diffaug: warning: {message}")
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        if err.is_terminal:
            sys.meta_path.insert(0, announcer)
        try:
            yield
        finally:
            if announcer in sys.meta_path:
                sys.meta_path.remove(announcer)
            log.setLevel(level)
            log.removeHandler(handler)


class _Lines(logging.Handler):
    """Say what is logged: warnings, and what is loaded or fetched."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.say(f"diffaug: warning: {record.getMessage()}")
        elif record.name == "diffaug.loading":
            self.say(record.getMessage())


class _Announcer:
    """Stands before Python's own finders, finds nothing, and says that torch is looked for."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torch":
            self.say("loading torch ...")


def words(*known: str) -> Callable[[str], list[str]]:
    """Return what completes one of these words in the shell: an option's ``autocompletion``."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return complete


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain lines survive pipes and narrow terminals
    pretty_exceptions_enable=False,
    help="Diffusion models inside the augmentation pipeline of image classifiers.",
    epilog="'diffaug COMMAND --help' shows the options of a command, and an example.",
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
