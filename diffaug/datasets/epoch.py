"""The number of the epoch, which reaches every worker and every dataset that asks for it."""

from contextvars import ContextVar
from typing import Any

import torch

from diffaug.arguments import whole
from diffaug.labels.origins import parts_of

#: The datasets that were told of an epoch while it is passed on; None while none is.
_told: ContextVar[set[int] | None] = ContextVar("told", default=None)


class Epoch:
    """The number of the epoch, in memory that workers share, persistent workers too."""

    def __init__(self) -> None:
        #: The number, and whether anybody has set it.
        self._number = torch.zeros(2, dtype=torch.long).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._number.share_memory_()  # a plain copy is in memory of its own

    def __int__(self) -> int:
        return int(self._number[0])

    @property
    def was_set(self) -> bool:
        """Whether ``set`` was ever called, in any process."""
        return bool(self._number[1])

    def set(self, epoch: int) -> None:
        """Set the epoch for every process."""
        self._number[0] = whole("epoch", epoch, 0)
        self._number[1] = 1


def pass_epoch(dataset: Any, epoch: int) -> None:
    """Pass the epoch once to each dataset with a ``set_epoch`` inside subsets and concatenations.

    What these datasets pass on is counted, too: one that two of them share is told once.
    """
    told = _told.get()
    if told is None:
        token = _told.set(set())
        try:
            pass_epoch(dataset, epoch)
        finally:
            _told.reset(token)
    elif id(dataset) not in told:
        told.add(id(dataset))
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)
        else:
            for part in parts_of(dataset):
                pass_epoch(part, epoch)
