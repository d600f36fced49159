"""The bar that long jobs show on stderr."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any


def progress_bar(shown: bool, total: int, done: int = 0) -> AbstractContextManager[Any]:
    """Return a bar that counts images, ``done`` of them already; it enters as None if not shown."""
    if not shown:
        return nullcontext()
    from tqdm import tqdm

    bar: AbstractContextManager[Any] = tqdm(total=total, initial=done, unit="image", delay=1)
    return bar
