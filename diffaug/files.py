"""The cache folder, and how a file is written whole."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def cache_root() -> Path:
    """Return the cache folder: ``DIFFAUG_CACHE``, or the platform's folder for caches.

    Raises:
        OSError: this user has no home folder, as in some containers.
    """
    from platformdirs import user_cache_path

    configured = os.environ.get("DIFFAUG_CACHE")
    try:
        if configured:
            return Path(configured).expanduser()
        folder = user_cache_path("diffaug", appauthor=False)
    except RuntimeError as error:  # of Path, which names neither the folder nor the cure
        raise _no_home(configured or "~") from error
    if not folder.is_absolute():  # '~' that nobody could replace
        raise _no_home(str(folder))
    return folder


def _no_home(folder: str) -> OSError:
    return OSError(f"'{folder}' is in no home folder; set DIFFAUG_CACHE to a folder for the cache")


def write_whole(path: str | os.PathLike[str], data: bytes | bytearray) -> None:
    """Write a file whole or not at all, and its folder; no reader ever sees a part of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:  # of a write, unlike an open
            error.filename = str(path)
        raise
