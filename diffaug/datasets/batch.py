"""Augmenting whole batches behind the loader, the next one while the current one is trained on."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from diffaug.seeds import MAX_SEED
from diffaug.transforms.base import ImageTransform, drawing_from


class BatchAugment:
    """Apply a transform to the batches of a loader, in the main process, one batch ahead.

    The model runs in this process, on whole batches, in a thread of its own: while one batch is
    trained on, the next is generated. What is random about a batch follows from one number that is
    drawn in the caller's thread, so training's own random numbers are not disturbed.

    Args:
        loader: of batches ``(images, labels, ...)`` or dicts; any iterable.
        transform: one of diffaug's, such as :class:`DiffuseMix` or :class:`DiffMix`.

    Shape:
        Batches as the loader gives them, images ``(B, C, H, W)``, uint8 or float in [0, 1]; out as
        the transform makes them.

    Raises:
        TypeError: the transform is not one of diffaug's.

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

    def __init__(self, loader: Iterable[Any], transform: ImageTransform) -> None:
        if not isinstance(transform, ImageTransform):
            raise TypeError(
                "'transform' must be one of diffaug's, such as DiffuseMix, got "
                f"{type(transform).__name__}; put the others into the dataset's own Compose."
            )
        self.loader = loader
        self.transform = transform

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        if self.transform.backend is None:  # nothing to wait for
            yield from map(self.transform, self.loader)
            return
        thread = ThreadPoolExecutor(1)
        try:
            ahead: Future[Any] | None = None
            for batch in self.loader:
                seed = int(torch.randint(MAX_SEED, (), generator=None))
                following = thread.submit(self._augment, batch, seed)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()
        finally:
            thread.shutdown(cancel_futures=True)

    def _augment(self, batch: Any, seed: int) -> Any:
        with drawing_from(torch.Generator().manual_seed(seed)):
            return self.transform(batch)
