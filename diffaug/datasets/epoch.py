"""The number of the epoch, which reaches every worker and every dataset that asks for it."""

from typing import Any

import torch
from torch.utils.data import ConcatDataset

from diffaug.arguments import whole


class Epoch:
    """The number of the epoch, in memory that workers share, persistent workers too."""

    def __init__(self) -> None:
        self._number = torch.zeros((), dtype=torch.long).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._number.share_memory_()  # a plain copy is in memory of its own

    def __int__(self) -> int:
        return int(self._number)

    def set(self, epoch: int) -> None:
        """Set the epoch for every process."""
        self._number.fill_(whole("epoch", epoch, 0))


def pass_epoch(dataset: Any, epoch: int) -> None:
    """Pass the epoch to a dataset with a ``set_epoch``, inside subsets and concatenations too."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            pass_epoch(part, epoch)
    elif hasattr(dataset, "dataset"):
        pass_epoch(dataset.dataset, epoch)
