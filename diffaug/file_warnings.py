"""Warnings of Pillow that name the file they are about."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

#: The file that this thread reads.
_FILE: ContextVar[str | None] = ContextVar("file", default=None)


@contextmanager
def reading(name: str | os.PathLike[str]) -> Iterator[None]:
    """Say which file is read inside; see ``naming_files``."""
    before = _FILE.set(os.fspath(name))
    try:
        yield
    finally:
        _FILE.reset(before)


@contextmanager
def naming_files() -> Iterator[None]:
    """Let a warning that is raised inside ``reading`` begin with the file, once for each file.

    It is for a whole job, and is entered in one thread alone: the threads that read share what
    Python does with warnings. Filters that the user set count as before.
    """
    show, said = warnings.showwarning, set[tuple[str, str]]()
    if hasattr(show, "names_files"):  # a job inside a job
        yield
        return

    def show_named(message: Any, category: Any, *rest: Any) -> None:
        name = _FILE.get()
        if name is not None:
            if (name, str(message)) in said:
                return
            said.add((name, str(message)))
            message = category(f"'{name}': {message}")
        show(message, category, *rest)

    show_named.names_files = True  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        # By default, Python shows one text once, whichever file it is about.
        warnings.filterwarnings("always", module=r"PIL\.", append=True)
        # A file of so many pixels is refused by name, with what to do.
        warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
        warnings.showwarning = show_named  # type: ignore[assignment]
        yield
