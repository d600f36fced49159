"""The bar that long jobs show on stderr."""

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
