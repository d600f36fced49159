"""Trainings one after the other in this process, or several at a time in processes of their own."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch

from diffaug.comparison.training import Task, run
from diffaug.errors import GenerationError

Told = Callable[[Task], None]


class Workers:
    """Train what is not there yet.

    Args:
        jobs: how many trainings run at a time, each in a process with one thread; with one, they
            run here, with all threads.
        told: called with each task that is done.
    """

    def __init__(self, jobs: int, told: Told) -> None:
        self.jobs, self.told = jobs, told
        self.trained = self.found = 0
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: dict[Future[dict[str, Any]], Task] = {}

    def submit(self, task: Task) -> None:
        """Train a classifier, now or as soon as a process is free; not one that is there."""
        if task.outcome() is not None:
            self.found += 1
            self.told(task)
        elif self.jobs == 1:
            run(task)
            self._count(task)
        else:
            if self._pool is None:
                # A forked process could not use the GPU that this one has used.
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.jobs, context, _begin)
            self._waiting[self._pool.submit(run, task)] = task

    def wait(self) -> None:
        """Return when all that was submitted is done."""
        waiting, self._waiting = self._waiting, {}
        try:
            for future in as_completed(waiting):
                future.result()
                self._count(waiting[future])
        except BrokenProcessPool as error:
            raise GenerationError(
                "a process that trained classifiers ended early, perhaps for want of memory; give "
                "fewer 'jobs', and call again: what is done is not done again. If this is a "
                "script, start it under 'if __name__ == \"__main__\":'."
            ) from error

    def close(self) -> None:
        """Stop: what runs is finished, what waits is not begun."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _count(self, task: Task) -> None:
        self.trained += 1
        self.told(task)


def _begin() -> None:
    """Leave the other cores to the other processes."""
    torch.set_num_threads(1)


@contextmanager
def workers(jobs: int, told: Told) -> Iterator[Workers]:
    """Give workers, and stop them at the end."""
    made = Workers(jobs, told)
    try:
        yield made
    finally:
        made.close()
