"""The folder for the files of model processes, which belongs to this user alone."""

import os
import socket
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from diffaug.errors import DiffaugError, first_line

#: How long the log of a process that has ended is kept, in seconds.
KEEP_LOGS = 7 * 24 * 3600.0
#: A Unix socket's path must be shorter than this.
_LONGEST_PATH = 104


def private_folder() -> Path:
    """Return the folder for sockets, which only this user can read."""
    if not hasattr(socket, "AF_UNIX"):
        raise DiffaugError("this system has no Unix sockets; use num_workers=0.")
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    name = f"diffaug-{os.getuid()}"
    if len(os.path.join(base, name)) + 32 > _LONGEST_PATH or not os.access(base, os.W_OK):
        base = "/tmp"
    folder = Path(base, name).absolute()  # a process with another working folder finds it, too
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise unusable(folder, error) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise DiffaugError(
            f"'{folder}' must be a folder of this user alone (mode 0700), and is not; remove it, "
            "or set XDG_RUNTIME_DIR to a private folder."
        )
    return folder


def unusable(folder: Path, error: OSError) -> DiffaugError:
    """Say that model processes can have no files in their folder: it is full, or has no locks."""
    return DiffaugError(
        f"'{folder}' cannot be used for model processes ({error.strerror or first_line(error)}); "
        "free space there, or set XDG_RUNTIME_DIR to a private folder on another disk."
    )


def remove_old_logs(folder: Path) -> None:
    for log in folder.glob("*.log"):
        with suppress(OSError):  # another process may remove it, too
            if (
                time.time() - log.stat().st_mtime > KEEP_LOGS
                and not log.with_suffix(".sock").exists()
            ):
                log.unlink()


def write_private(path: Path, data: bytes) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
