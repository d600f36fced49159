"""The bar that long jobs show on stderr, and what is printed beside it."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def progress_bar(
    shown: bool, total: int, done: int = 0, unit: str = "image"
) -> AbstractContextManager[Any]:
    """Return a bar of ``total`` images, starting at ``done``; ``with`` gives None if not shown."""
    if not shown:
        return nullcontext()
    from tqdm import tqdm

    bar: AbstractContextManager[Any] = tqdm(total=total, initial=done, unit=unit, delay=1)
    return bar


def above_bars() -> AbstractContextManager[Any]:
    """Let what is printed on stderr stand in lines of its own, above a bar that is shown there."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    lines: AbstractContextManager[Any] = tqdm.external_write_mode(file=sys.stderr)
    return lines
