"""Transforms that see the label, and draws that do not depend on the workers."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Dataset

from diffaug import images
from diffaug.arguments import whole
from diffaug.datasets.epoch import Epoch, pass_epoch
from diffaug.datasets.map_style import check_dataset, position
from diffaug.labels import samples
from diffaug.seeds import derive_seed
from diffaug.transforms.base import augmenting


class JointTransform(Dataset):
    """Give transforms the label beside the image: ``transforms((image, label))``.

    A dataset's own ``transform`` sees the image alone, which is not enough for :class:`DiffMix`.
    With a seed, everything that is drawn from torch's CPU generator follows from (seed, epoch,
    index), with any number of workers: crops and flips, too, and what the dataset itself draws.

    Args:
        dataset: map-style, of ``(image, label, ...)`` or of dicts; without a transform of its own
            that makes tensors of 3 floats.
        transforms: called with the whole sample; a ``v2.Compose``, or any callable.
        seed: at least 0; None draws from each worker's own random state.

    Raises:
        TypeError: the dataset has no length or no indices, or ``transforms`` cannot be called.

    Example:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> from diffaug import DiffMix, JointTransform, RecordingBackend
        >>> mix = DiffMix(["cat", "dog"], p=0.5, backend=RecordingBackend())
        >>> photos = [(torch.rand(3, 32, 32), 0)]
        >>> data = JointTransform(photos, v2.Compose([mix, v2.RandomCrop(28)]), seed=0)
        >>> image, label = data[0]
        >>> image.shape, label.shape
        (torch.Size([3, 28, 28]), torch.Size([2]))
    """

    def __init__(self, dataset: Any, transforms: Any, *, seed: int | None = None) -> None:
        check_dataset(dataset)
        if not callable(transforms):
            raise TypeError(f"'transforms' must be callable, got {type(transforms).__name__}.")
        self.dataset = dataset
        self.transforms = transforms
        self.seed = None if seed is None else whole("seed", seed, 0)
        self._epoch = Epoch()
        self._enabled = torch.ones((), dtype=torch.bool).share_memory_()
        #: Which indices were asked for in this epoch, in memory that workers share.
        self._asked = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        self._warned = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for shared in (self._enabled, self._asked):
            shared.share_memory_()  # a plain copy is in memory of its own

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        index = position(index, len(self))
        with augmenting(self.enabled, len(self)):
            if self.seed is None:
                return self._sample(index)
            self._note(index)
            with _seeded(derive_seed("sample", self.seed, int(self._epoch), index)):
                return self._sample(index)

    def _sample(self, index: int) -> Any:
        sample = self.dataset[index]
        place = samples.image_place(sample)
        sample = samples.put(sample, place, images.mark_image(samples.get(sample, place)))
        return self.transforms(sample)

    def _note(self, index: int) -> None:
        if self._asked[index] and not self._warned:
            self._warned = True
            warnings.warn(
                f"item {index} was asked for twice in epoch {int(self._epoch)} and is the same "
                "both times; call set_epoch(epoch) before each epoch.",
                UserWarning,
                stacklevel=3,
            )
        self._asked[index] = True

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins, in every worker; each epoch draws other numbers.

        Args:
            epoch: at least 0.
        """
        self._epoch.set(epoch)
        self._asked.zero_()
        pass_epoch(self.dataset, epoch)

    @property
    def enabled(self) -> bool:
        """Whether diffaug's transforms change images; if not, these pass as if ``p`` were 0."""
        return bool(self._enabled)

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled.fill_(bool(enabled))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, and restore it afterwards."""
    # Not torch.manual_seed: it would seed every GPU, too, and only this generator is restored.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
