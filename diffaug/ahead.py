"""Working ahead: threads prepare the next items while the caller uses the current one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: Executor, count: int
) -> Iterator[Result]:
    """Call a function on each item in threads, and give the results in order.

    Args:
        function: called in a thread.
        items: read in the caller's thread, one by one. If reading fails, the results of the items
            before come first.
        threads: where the calls run.
        count: how many calls are started ahead of the result that the caller waits for.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(2) as threads:
        ...     list(map_ahead(str.upper, "abc", threads, count=2))
        ['A', 'B', 'C']
    """
    started: deque[Future[Result]] = deque()
    remaining, failed = iter(items), None
    while True:
        try:
            started.append(threads.submit(function, next(remaining)))
        except StopIteration:
            break
        except Exception as error:
            failed = error
            break
        if len(started) > count:
            yield started.popleft().result()
    while started:
        yield started.popleft().result()
    if failed is not None:
        raise failed
