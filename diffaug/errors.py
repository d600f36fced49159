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

import errno
import importlib
import os
import re
import unicodedata
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


#: What the system says when the file itself may be whole: no descriptor, no memory, a disk or a
#: server that does not answer, a right that is not there.
_OF_MACHINE = {
    getattr(errno, name)
    for name in (
        *("EMFILE", "ENFILE", "ENOMEM", "EIO", "ESTALE", "EACCES", "EPERM", "ENOTCONN"),
        *("ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ECONNRESET", "ENODEV", "ENXIO", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}


def is_of_machine(error: BaseException | None) -> bool:
    """Return whether an error is the machine's trouble, and says nothing of what was read.

    Example:
        >>> is_of_machine(MemoryError()), is_of_machine(OSError("image file is truncated"))
        (True, False)
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError) and error.errno in _OF_MACHINE:
            return True
        error = error.__cause__
    return False


def machine_trouble(what: str, error: BaseException) -> SourceError:
    """Say that the machine could not read something, which may be whole."""
    return SourceError(
        f"{what} could not be read: {one_line(error)}. It may be whole, so it is not left out; run "
        "the same command again once it can be read, or remove it."
    )


#: What the system says where a disk, or this user's share of one, is full.
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
#: What it says where a file must not be written; a network that is closed says the same.
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def disk_trouble(error: BaseException | None) -> OSError | None:
    """Find why a disk took nothing, among an error and its causes; None if that is not why.

    Example:
        >>> disk_trouble(OSError(errno.ENOSPC, "No space left on device")) is None
        False
    """
    while error is not None:
        if isinstance(error, OSError):
            of_file = error.errno in _CLOSED and error.filename is not None
            if of_file or error.errno in _FULL:
                return error
        error = error.__cause__ or error.__context__
    return None


def unwritable(path: str | os.PathLike[str], error: OSError, done: str = "written") -> Exception:
    """Say that a file or a folder could not be written, and what to do next."""
    in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
    kind = "path" if done == "written" else "folder"
    return DestinationError(
        f"'{os.fspath(path)}' could not be {done}: {error.strerror or error}; "
        + (
            f"choose another {kind}."
            if in_the_way
            else "once it can, run the same command again"
            + (f", or choose another {kind}." if kind == "path" else " to resume.")
        )
    )


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message that says something, or its class's name."""
    lines = filter(None, map(str.strip, str(error).splitlines()))
    return next(lines, type(error).__name__)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or the name of its class if it has none."""
    text = " ".join(str(error).split())
    # An open file says nothing to a reader, and its address differs from run to run.
    return re.sub(r" <_?io\.\w+ [^>]*>", "", text) or type(error).__name__


def visible(text: str) -> str:
    r"""Return a text with control characters, and those that turn its direction, as escapes.

    A file's name may hold any, and a terminal would obey them.

    Example:
        >>> visible("a\x1b[2J\rb")
        'a\\x1b[2J\\rb'
    """
    return "".join(
        letter
        if letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


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
