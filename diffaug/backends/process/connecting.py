"""Reaching a model's process, and ending one: nothing here waits without a limit."""

import errno
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from diffaug.backends.process import protocol
from diffaug.errors import DiffaugError, first_line

#: How many seconds to wait for a process to end; it first answers the requests that it has.
STOP_SECONDS = 60.0
#: A process that lives answers a new caller within so many seconds, however busy its model is. One
#: that does not, so many times in a row, is stopped, or hangs in a driver: it is killed.
DEAF_SECONDS, DEAF_TIMES = 30.0, 3
#: Seconds in which a message that has begun must move on.
STALLED_SECONDS = 300.0


def why_deaf(host: str, port: int, seconds: float) -> str | None:
    """Return why nobody accepts connections at an address for so many seconds; None if one does."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, seconds)).close()
            return None
        except (OSError, OverflowError) as error:
            if time.monotonic() > until or not isinstance(error, OSError):
                return first_line(error)
            time.sleep(0.2)


class DeafError(DiffaugError):
    """A process is there and does not answer; it was killed if that was possible."""


def end(connection: socket.socket, seconds: float | None = None) -> None:
    """Ask a model's process to end, and wait until it has; kill it after so many seconds."""
    until = time.monotonic() + (STOP_SECONDS if seconds is None else seconds)
    with connection:
        try:
            protocol.send(connection, {"ask": "stop"})
            while True:  # until the process has ended, and the connection with it
                connection.settimeout(max(0.01, until - time.monotonic()))
                protocol.receive(connection)
        except protocol.WireError as error:
            if isinstance(error.__cause__, TimeoutError):
                _kill(connection)


def pid_of(connection: socket.socket) -> int | None:
    """Return the process at the other end of a connection, where the system says so."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with suppress(OSError):
        said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(said[:4], sys.byteorder) or None
    return None


def _kill(connection: socket.socket) -> None:
    """Kill the process at the other end of a connection, which does not end by itself."""
    pid = pid_of(connection)
    if pid is not None and pid != os.getpid():  # a server may be in a thread of this process
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _connect(connection: socket.socket, path: Path, seconds: float) -> None:
    """Connect a socket; where too many callers wait already, try again for so many seconds."""
    until = time.monotonic() + seconds
    connection.settimeout(seconds)
    while True:
        try:
            connection.connect(str(path))
            return
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise TimeoutError(str(error)) from error
            time.sleep(0.05)


def reach(path: Path, seconds: float | None = None) -> socket.socket | None:
    """Connect to the process that listens at a path, if it is there.

    Raises:
        DeafError: it does not answer within so many seconds, several times in a row.
    """
    limit = DEAF_SECONDS if seconds is None else seconds
    for left in reversed(range(DEAF_TIMES)):
        connection = socket.socket(socket.AF_UNIX)
        try:
            _connect(connection, path, limit)
            protocol.prove(connection, path.with_suffix(".key").read_bytes())
            connection.settimeout(STALLED_SECONDS)
            return connection
        except (OSError, protocol.WireError) as error:
            cause = error.__cause__ if isinstance(error, protocol.WireError) else error
            deaf = isinstance(cause, TimeoutError)
            if deaf and not left:
                _kill(connection)
            connection.close()
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
                raise
            if not deaf:
                return None
    raise DeafError(f"the process that listens at '{path}' does not answer.")
