"""The cache folder, and how a file is written whole."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def cache_root() -> Path:
    """Return the cache folder: ``DIFFAUG_CACHE``, or the platform's folder for caches."""
    configured = os.environ.get("DIFFAUG_CACHE")
    if configured:
        return Path(configured).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("diffaug", appauthor=False)


def write_whole(path: str | os.PathLike[str], data: bytes | bytearray) -> None:
    """Write a file whole or not at all, and its folder; no reader ever sees a part of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
