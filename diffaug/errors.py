"""The errors for what goes wrong outside the caller's arguments.

Wrong arguments raise ``ValueError`` or ``TypeError``; every other error is of this tree::

    DiffaugError
    ├── MissingDependencyError (also ImportError)   a package is not installed
    ├── UnreadableImageError (also ValueError)      a file is not a whole image
    ├── ModelError                                  a model is unknown, incomplete or unsafe
    │   └── ModelUnavailableError                   it is not here and the Hub cannot be reached
    ├── GenerationError                             the model ran and failed
    │   └── RefusedError                            only blank or refused images, no original
    ├── SourceError                                 images cannot be fetched from their address
    └── DestinationError                            an output folder cannot be used

Each is built from one message, so that it survives pickling between processes.
"""

import importlib
import re
from types import ModuleType


class DiffaugError(Exception):
    """Base of every error that is not the fault of an argument."""


class MissingDependencyError(DiffaugError, ImportError):
    """An optional package is needed but not installed."""


class UnreadableImageError(DiffaugError, ValueError):
    """A file is not an image, or is damaged."""


class ModelError(DiffaugError):
    """A model cannot be used: unknown, incomplete, of the wrong task, or unsafe to load."""


class ModelUnavailableError(ModelError):
    """A model is not on this machine and could not be fetched."""


class GenerationError(DiffaugError):
    """The model ran and failed."""


class RefusedError(GenerationError):
    """Every attempt was blank or refused, and there is no original to use instead."""


class SourceError(DiffaugError):
    """Images cannot be read from an address, for the moment or for good."""


class DestinationError(DiffaugError):
    """An output folder cannot be used: not writable, or it holds a different run."""


def remade(kind: str, message: str, *, what: str) -> Exception:
    """Make an error of another process again, from its class's name and its message."""
    builtin = {"ValueError": ValueError, "TypeError": TypeError}
    error_class = builtin.get(kind) or globals().get(kind)
    if isinstance(error_class, type) and issubclass(error_class, Exception):
        error: Exception = error_class(message)
        return error
    return GenerationError(f"'{what}' failed with {kind}: {message}")


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message that says something, or its class's name."""
    lines = filter(None, map(str.strip, str(error).splitlines()))
    return next(lines, type(error).__name__)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or the name of its class if it has none."""
    text = " ".join(str(error).split())
    # An open file says nothing to a reader, and its address differs from run to run.
    return re.sub(r" <_?io\.\w+ [^>]*>", "", text) or type(error).__name__


def require(module: str, extra: str | None = None) -> ModuleType:
    """Import ``module``, or say in one line how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        target = f"diffaug[{extra}]" if extra else module.split(".")[0]
        raise MissingDependencyError(
            f"'{module}' is needed here and could not be imported ({error}); "
            f"install it with: pip install '{target}'"
        ) from error
