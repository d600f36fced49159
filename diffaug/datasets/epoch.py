"""The number of the epoch, which reaches every worker and every dataset that asks for it."""

from typing import Any

import torch
from torch.utils.data import ConcatDataset

from diffaug.arguments import whole


class Epoch:
    """The number of the epoch, in memory that workers share, also those that live on."""

    def __init__(self) -> None:
        self._number = torch.zeros((), dtype=torch.long).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._number.share_memory_()  # which a plain copy no longer is

    def __int__(self) -> int:
        return int(self._number)

    def set(self, epoch: int) -> None:
        """Tell every process the epoch."""
        self._number.fill_(whole("epoch", epoch, 0))


def tell_epoch(dataset: Any, epoch: int) -> None:
    """Tell the epoch to a dataset that asks for it, inside subsets and concatenations too."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            tell_epoch(part, epoch)
    elif hasattr(dataset, "dataset"):
        tell_epoch(dataset.dataset, epoch)
