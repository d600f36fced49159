"""One batch of samples whose labels come in every form."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from diffaug.arguments import unit, whole
from diffaug.labels import samples
from diffaug.labels.label import as_probabilities


class MixCollate:
    """Collate samples whose labels are hard, one-hot or soft into one batch of soft labels.

    Args:
        num_classes: C.
        mix: applied to the batch, as ``mix(images, labels)``: ``v2.CutMix(num_classes=C)``,
            ``v2.MixUp``, or None.
        mix_p: probability in [0, 1] that a batch is mixed.

    Shape:
        Samples ``(image, label, ...)``, or dicts with ``image`` and ``label``; images tensors or
        arrays of one shape; labels numbers, ``(C,)`` vectors, in any mixture. Out: a tuple or a
        dict of images ``(B, ...)``, labels float32 ``(B, C)`` and whatever else there was.

    Raises:
        TypeError: PIL images; the message says how to convert them.
        ValueError: images of different sizes, or a label that fits no class.

    Example:
        >>> import torch
        >>> from diffaug import MixCollate
        >>> batch = [(torch.zeros(3, 8, 8), 1), (torch.zeros(3, 8, 8), torch.tensor([0.4, 0.6]))]
        >>> MixCollate(2)(batch)[1]
        tensor([[0.0000, 1.0000],
                [0.4000, 0.6000]])
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mix: Callable[..., Any] | None = None,
        mix_p: float = 1.0,
    ) -> None:
        self.num_classes = whole("num_classes", num_classes, 1)
        if mix is not None and not callable(mix):
            raise TypeError(f"'mix' must be callable, got {type(mix).__name__}.")
        self.mix = mix
        self.mix_p = unit("mix_p", mix_p)

    def __call__(self, batch: Sequence[Any]) -> Any:
        """Return the batch of a list of samples."""
        if not batch:
            raise ValueError("'batch' must hold at least one sample, got none.")
        places = [(samples.image_place(sample), samples.label_place(sample)) for sample in batch]
        image_at, label_at = places[0]
        for index, (sample, place) in enumerate(zip(batch, places, strict=True)):
            if place != places[0]:
                raise TypeError(
                    f"samples of a batch must be built alike, got {type(batch[0]).__name__} with "
                    f"its label at {label_at} and, at place {index}, "
                    f"{type(sample).__name__} with its label at {place[1]}."
                )
        images = stack_images([samples.get(sample, image_at) for sample in batch])
        labels = torch.stack(
            [
                as_probabilities(samples.get(sample, label_at), self.num_classes, index)
                for index, sample in enumerate(batch)
            ]
        )
        if self.mix is not None and torch.rand((), generator=None) < self.mix_p:
            images, labels = self._mix(images, labels)
        # Without images and labels, which are stacked already.
        rest = [samples.put(samples.put(sample, image_at, 0), label_at, 0) for sample in batch]
        collated = default_collate(rest)
        if isinstance(collated, list):
            collated = tuple(collated)
        return samples.put(samples.put(collated, image_at, images), label_at, labels)

    def _mix(self, images: torch.Tensor, labels: torch.Tensor) -> Any:
        try:
            return self.mix(images, labels)  # type: ignore[misc]
        except RuntimeError as error:
            if images.is_floating_point():
                raise
            raise TypeError(
                f"'mix' could not mix images of {images.dtype} ({error}); put "
                "v2.ToDtype(torch.float32, scale=True) at the end of the transforms."
            ) from error


def stack_images(images: Sequence[Any]) -> torch.Tensor:
    """Stack images (C, H, W) of one shape; an error says how to convert them."""
    for image in images:
        if not isinstance(image, (torch.Tensor, np.ndarray)):
            raise TypeError(
                f"images must be tensors to be collated, got {type(image).__name__}; put "
                "v2.ToImage() and v2.ToDtype(torch.float32, scale=True) at the end of the "
                "transforms."
            )
    tensors = [torch.as_tensor(image).as_subclass(torch.Tensor) for image in images]
    for index, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            raise ValueError(
                f"images must have one size to be collated, got {tuple(tensors[0].shape)} and, at "
                f"place {index}, {tuple(tensor.shape)}; put v2.Resize((224, 224)) or "
                "v2.RandomResizedCrop(224) at the end of the transforms."
            )
        if tensor.dtype != tensors[0].dtype:  # torch would stack [0, 255] with [0, 1]
            raise ValueError(
                f"images must have one dtype to be collated, got {tensors[0].dtype} and, at place "
                f"{index}, {tensor.dtype}; put v2.ToDtype(torch.float32, scale=True) at the end of "
                "the transforms."
            )
    return torch.stack(tensors)
