"""Augmenting whole batches behind the loader, the next one while the current one is trained on."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from diffaug.ahead import map_ahead
from diffaug.checked import checked
from diffaug.labels import samples
from diffaug.seeds import MAX_SEED
from diffaug.transforms.base import ImageTransform, drawing_from


@checked
class BatchAugment:
    """Apply a transform to the batches of a loader, in the main process, one batch ahead.

    The model runs in this process, on whole batches, in a thread of its own: while one batch is
    trained on, the next is generated. All random numbers of a batch follow from one number that is
    drawn in the caller's thread, so the transform does not disturb those of the training.

    Args:
        loader: any iterable of batches, ``(images, labels, ...)`` or dicts.
        transform: one of diffaug's, such as :class:`DiffuseMix` or :class:`DiffMix`.
        image_getter: where the images of a batch are: a key, an index or a callable; by default
            under ``image``, ``img`` or ``pixel_values``, or first in a tuple.
        labels_getter: the same for the labels; by default where the transform's own says.

    Shape:
        Batches as the loader gives them, images ``(B, C, H, W)``, uint8 or float in [0, 1]; out as
        the transform makes them.

    Raises:
        TypeError: the transform is not one of diffaug's, or a getter finds nothing in a batch.

    Example:
        >>> import torch
        >>> from diffaug import BatchAugment, DiffuseMix, FractalBank, RecordingBackend
        >>> mix = DiffuseMix(backend=RecordingBackend(), fractals=FractalBank(count=2, size=16))
        >>> batches = [(torch.rand(4, 3, 32, 32), torch.zeros(4))] * 3
        >>> for images, labels in BatchAugment(batches, mix):
        ...     pass
        >>> images.shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        loader: Iterable[Any],
        transform: ImageTransform,
        *,
        image_getter: samples.Getter = "default",
        labels_getter: samples.Getter = "default",
    ) -> None:
        if not isinstance(transform, ImageTransform):
            raise TypeError(
                "'transform' must be one of diffaug's, such as DiffuseMix, got "
                f"{type(transform).__name__}; put the others into the dataset's own Compose."
            )
        self.loader = loader
        self.transform = transform
        self.image_getter = samples.check_getter("image_getter", image_getter)
        self.labels_getter = samples.check_getter("labels_getter", labels_getter)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        if self.transform.backend is None:  # nothing to wait for
            yield from map(self._transformed, self.loader)
            return
        seeded = (
            (batch, int(torch.randint(MAX_SEED, (), generator=None))) for batch in self.loader
        )
        gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        thread = ThreadPoolExecutor(1, initializer=_choose_gpu, initargs=(gpu,))
        try:
            yield from map_ahead(self._augment, seeded, thread, 1)
        finally:
            thread.shutdown(cancel_futures=True)

    def _augment(self, seeded: tuple[Any, int]) -> Any:
        batch, seed = seeded
        with drawing_from(torch.Generator().manual_seed(seed)):
            return self._transformed(batch)

    def _transformed(self, batch: Any) -> Any:
        if (self.image_getter, self.labels_getter) == ("default", "default"):
            return self.transform(batch)
        return self.transform.augment_sample(batch, self.image_getter, self.labels_getter)


def _choose_gpu(number: int | None) -> None:
    """Choose in this thread the GPU that the caller's has chosen: CUDA asks each thread anew."""
    if number is not None:
        torch.cuda.set_device(number)
