"""Draws that belong to an occurrence: an item, in an epoch, for the n-th time."""

import bz2
import multiprocessing
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch

from diffaug.arguments import whole
from diffaug.datasets.epoch import Epoch
from diffaug.seeds import MAX_SEED, asked, asking, derive_seed

#: Seconds to wait for the lock, which is held for microseconds: its holder was killed.
PATIENCE = 10.0


class Draws:
    """The seeds of a dataset's items, another one each time that an item is asked for.

    A seed follows from (seed, epoch, index, n). Within an epoch, an index was asked for n times
    before, by whichever worker: the counts are in memory that workers share. Inside another seeded
    dataset, it follows from the occurrence of the outer item instead, and nothing is counted: two
    counts, one after the other, would be paired by chance.

    Args:
        purpose: keeps the draws of two kinds of datasets apart.
        seed: at least 0; None where nothing is seeded.
        length: how many items there are.
    """

    def __init__(self, purpose: str, seed: int | None, length: int) -> None:
        self.purpose = purpose
        self.seed = None if seed is None else whole("seed", seed, 0)
        self.epoch = Epoch()
        self._lock = SharedLock()
        #: How often each index was asked for in this epoch.
        self._counts = torch.zeros(0 if seed is None else length, dtype=torch.int32)
        self._counts.share_memory_()
        #: How many indices were asked for, and how often one was asked for again.
        self._tally = torch.zeros(2, dtype=torch.long).share_memory_()
        #: For indices behind those, of a dataset that grew; each process counts its own.
        self._more: Counter[int] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if get_spawning_popen() is None:  # a plain copy, which counts in memory of its own
            # Large datasets mostly have one count everywhere, which takes a few bytes.
            state["_counts"] = bz2.compress(self._counts.numpy().tobytes())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._counts, bytes):
            counts = np.frombuffer(bz2.decompress(self._counts), np.int32)
            self._counts = torch.tensor(counts)
        for shared in (self._counts, self._tally):
            shared.share_memory_()

    def set_epoch(self, epoch: int, length: int) -> None:
        """Begin an epoch, in every worker: every index was asked for 0 times."""
        self.epoch.set(epoch)
        if self.seed is not None and length > len(self._counts):
            self._counts = torch.zeros(length, dtype=torch.int32).share_memory_()
        self._counts.zero_()
        self._tally.zero_()
        self._more.clear()

    def seed_of(self, index: int) -> int:
        """Return the seed of an item for this time that it is asked for."""
        return self._seed(index, self._occurrence(index))

    def seeded(self, index: int, *, everywhere: bool = False) -> AbstractContextManager[None]:
        """Seed torch's global generator for an item, and restore it afterwards.

        Args:
            index: of the item.
            everywhere: seed those of Python and NumPy, too.
        """
        occurrence = self._occurrence(index)
        return _drawing(self._seed(index, occurrence), (index, *occurrence), everywhere)

    def stream(self, index: int, *, everywhere: bool = False) -> "Stream":
        """Return the draws of an item as ``seeded`` makes them, to be interrupted.

        Without a seed, they follow from one number that is drawn now.
        """
        if self.seed is None:
            return Stream(int(torch.randint(MAX_SEED, (), generator=None)), None, everywhere)
        occurrence = self._occurrence(index)
        return Stream(self._seed(index, occurrence), (index, *occurrence), everywhere)

    def _seed(self, index: int, occurrence: tuple[Any, ...]) -> int:
        return derive_seed(self.purpose, self.seed, int(self.epoch), index, *occurrence)

    def _occurrence(self, index: int) -> tuple[Any, ...]:
        """Return what tells this time from the others; nothing for the first time."""
        outer = asked()
        if outer is not None:
            return outer[1:] if outer[0] == index else ("for", *outer)
        if index >= len(self._counts):
            n = self._more[index]
            self._more[index] += 1
            return (n,) if n else ()
        with self._lock:
            counts = self._counts.numpy()  # a view, which is faster to read and to write
            n = int(counts[index])
            counts[index] = n + 1
            again = self._is_gone_through_again(n > 0)
        if again:
            warnings.warn(
                f"the dataset is gone through again (item {index}), and set_epoch was never "
                "called: each pass draws anew, but a resumed run cannot repeat it; call "
                "set_epoch(epoch) before each epoch.",
                UserWarning,
                stacklevel=4,
            )
        return (n,) if n else ()

    def _is_gone_through_again(self, repeated: bool) -> bool:
        """Count an item, and return whether a second pass begins without a new epoch.

        That is so if nearly all items were asked for and hardly any twice. A loader may drop its
        last batch, and a caller may look at a few items first; oversampling asks for many items
        several times before it has asked for nearly all.
        """
        tally = self._tally.numpy()
        tally[int(repeated)] += 1
        if not repeated or self.epoch.was_set:
            return False
        count, repeats = len(self._counts), int(tally[1]) - 1
        again = int(tally[0]) >= 0.9 * count and repeats <= 0.1 * count
        if again:
            tally[1] += count  # it is said once
        return again


class Stream:
    """The draws of one item, which go on where they stopped, or where they were before.

    Args:
        seed: where they begin.
        item: its index, and what tells this time from others; None if datasets within are not told.
        everywhere: they are those of Python and NumPy, too.
    """

    def __init__(self, seed: int, item: tuple[Any, ...] | None, everywhere: bool) -> None:
        self._seed, self._item, self._everywhere = seed, item, everywhere
        self._place: _States | None = None

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Draw from here; afterwards the global generators are as they were."""
        with ExitStack() as stack:
            if self._item is not None:
                stack.enter_context(asking(self._item[0], *self._item[1:]))
            stack.enter_context(seeded_globally(self._seed, everywhere=self._everywhere))
            if self._place is not None:
                self.go_back(self._place)
            try:
                yield
            finally:
                self._place = self.place()

    def place(self) -> "_States":
        """Return the place where the draws are now."""
        state = torch.get_rng_state()
        return (state, random.getstate(), np.random.get_state()) if self._everywhere else (state,)

    def go_back(self, place: "_States") -> None:
        """Draw from an earlier place again."""
        torch.set_rng_state(place[0])
        if self._everywhere:
            random.setstate(place[1])
            np.random.set_state(place[2])


#: The states of torch's generator, and perhaps of Python's and NumPy's.
_States = tuple[Any, ...]


class SharedLock:
    """A lock between the workers of a loader, which travels to them with what it guards.

    It is made anew where a plain copy is unpickled, since that has memory of its own.
    """

    def __init__(self) -> None:
        # One without a name: that of other methods starts a process, to remove the name.
        forks = "fork" in multiprocessing.get_all_start_methods()
        self._lock = multiprocessing.get_context("fork" if forks else "spawn").Lock()
        self._has_name = not forks

    def __enter__(self) -> None:
        self._lock.acquire(timeout=PATIENCE)

    def __exit__(self, *error: object) -> None:
        with suppress(ValueError):  # released already, after another had waited too long
            self._lock.release()

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is None:
            return {"_lock": None}
        if not self._has_name:  # a process that is not forked finds it by its name
            self._lock = multiprocessing.get_context("spawn").Lock()
            self._has_name = True
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_lock"] is None:
            self.__init__()  # type: ignore[misc]
        else:
            self.__dict__.update(state)


@contextmanager
def seeded_globally(seed: int, *, everywhere: bool = False) -> Iterator[None]:
    """Seed torch's global generator, perhaps Python's and NumPy's, and restore them afterwards."""
    # Not torch.manual_seed: it would seed every GPU, too, and only this generator is restored.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if not everywhere:
            yield
            return
        python, arrays = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


@contextmanager
def _drawing(seed: int, item: tuple[Any, ...], everywhere: bool) -> Iterator[None]:
    with asking(item[0], *item[1:]), seeded_globally(seed, everywhere=everywhere):
        yield
