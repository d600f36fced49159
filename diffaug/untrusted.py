"""What others made: a name that becomes a path, a file to read, a small file of JSON."""

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

#: The most bytes of a JSON file, and of a line of JSON, that are read.
LARGEST_JSON, LONGEST_LINE = 256_000_000, 1_000_000
#: A FIFO would otherwise wait for a writer. Windows has neither.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file to read it; refuse a FIFO, a device or a folder, of which reading may not end.

    Raises:
        OSError: it is no regular file, or cannot be opened.

    Example:
        >>> open_regular("/")
        Traceback (most recent call last):
        OSError: [Errno 22] it is no regular file: '/'
    """
    descriptor = os.open(path, _OPEN)
    try:
        _check_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what ``open_regular`` refuses, where a library opens the file by its path.

    Raises:
        OSError: it is no regular file, or is not there.
    """
    _check_regular(os.stat(path), path)


def _check_regular(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def parse_json(data: bytes | bytearray | str) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is none, or is nested so deeply that no program means it.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: str | os.PathLike[str], largest: int = LARGEST_JSON) -> Any:
    """Read a JSON file of at most so many bytes.

    Raises:
        OSError: there is no such file, or it is no regular one.
        ValueError: it is no JSON, too large, or nested too deeply.
    """
    with open_regular(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it is larger than {largest:,} bytes")
    return parse_json(data)


def is_name_below(name: Any) -> bool:
    """Return whether a name is that of a visible file below a folder, whatever the folder is.

    Example:
        >>> is_name_below("cat/1.jpg"), is_name_below("../1.jpg"), is_name_below("/etc/passwd")
        (True, False, False)
    """
    if not isinstance(name, str) or "\0" in name:
        return False
    if os.name == "nt" and any(mark in name for mark in "\\:"):
        return False
    try:
        os.fsencode(name)
    except UnicodeError:
        return False
    # Also no empty part, which a leading slash makes, and no '.' and '..'.
    return not any(part.startswith(".") or not part for part in name.split("/"))


def path_below(root: str | os.PathLike[str], name: Any) -> Path:
    """Return the path of a file below a folder by the name that a row of others gives it.

    Raises:
        ValueError: the name leads elsewhere by itself, or by a link on its way.
    """
    if is_name_below(name):
        path = Path(root, name)
        if os.path.realpath(path).startswith(os.path.join(os.path.realpath(root), "")):
            return path
    raise ValueError(f"a file must lie below '{root}', and {name!r} leads elsewhere; remove it.")
