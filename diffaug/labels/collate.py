"""One batch of samples whose labels come in every form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from diffaug.arguments import MOST_CLASSES, unit, whole
from diffaug.checked import checked
from diffaug.errors import one_line
from diffaug.labels import samples
from diffaug.labels.label import as_probabilities


@checked
class MixCollate:
    """Collate samples whose labels are hard, one-hot or soft into one batch of soft labels.

    Args:
        num_classes: C.
        mix: applied to the batch, as ``mix(images, labels)``: ``v2.CutMix(num_classes=C)``,
            ``v2.MixUp``, or None.
        mix_p: probability in [0, 1] that a batch is mixed.
        image_getter: where a sample has its image: a key, an index or a callable; by default
            first in a tuple, or under ``image``, ``img`` or ``pixel_values``.
        labels_getter: the same for its label; by default second, or under ``label`` or ``labels``.

    Shape:
        Samples ``(image, label, ...)``, or dicts; images tensors or arrays of one shape; labels
        numbers, ``(1,)`` or ``(C,)``, in any mixture. Out: a tuple or a dict of images ``(B,
        ...)``, labels float32 ``(B, C)`` and whatever else there was.

    Raises:
        TypeError: PIL images, or something else that cannot be stacked; the message names it.
        ValueError: images of different sizes, a label that fits no class, or what ``mix`` returned
            does not fit the batch.

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
        image_getter: samples.Getter = "default",
        labels_getter: samples.Getter = "default",
    ) -> None:
        self.num_classes = whole("num_classes", num_classes, 1, MOST_CLASSES)
        if mix is not None and not callable(mix):
            raise TypeError(f"'mix' must be callable, got {type(mix).__name__}.")
        self.mix = mix
        self.mix_p = unit("mix_p", mix_p)
        self.image_getter = samples.check_getter("image_getter", image_getter)
        self.labels_getter = samples.check_getter("labels_getter", labels_getter)

    @checked
    def __call__(self, batch: Sequence[Any]) -> Any:
        """Return the batch of a list of samples."""
        if not len(batch):
            raise ValueError("'batch' must hold at least one sample, got none.")
        places = [self._places(sample) for sample in batch]
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
        collated = collate_rest(rest)
        return samples.put(samples.put(collated, image_at, images), label_at, labels)

    def _places(self, sample: Any) -> tuple[samples.Place, samples.Place]:
        """Return where a sample has its image and its label."""
        try:
            image_at = samples.image_place(sample, self.image_getter, asker="MixCollate")
            label_at = samples.label_place(sample, self.labels_getter, asker="MixCollate")
        except TypeError as error:
            # What the Trainer leaves of a sample whose image has another key than the model's.
            if not isinstance(sample, Mapping) or not {*sample} <= {
                *samples.LABEL_KEYS,
                "label_ids",
            }:
                raise
            raise TypeError(
                f"{error} Hugging Face's Trainer drops columns: set remove_unused_columns=False, "
                "or call the columns pixel_values and labels."
            ) from error
        if image_at == label_at:
            raise TypeError(
                f"a sample must have its image and its label at two places, got {image_at} for "
                "both; give MixCollate its 'image_getter' and its 'labels_getter'."
            )
        return image_at, label_at

    def _mix(self, images: torch.Tensor, labels: torch.Tensor) -> Any:
        try:
            mixed = self.mix(images, labels)  # type: ignore[misc]
        except RuntimeError as error:
            if images.is_floating_point():
                raise
            raise TypeError(
                f"'mix' could not mix images of {images.dtype} ({error}); put "
                "v2.ToDtype(torch.float32, scale=True) at the end of the transforms."
            ) from error
        pair = isinstance(mixed, (tuple, list)) and len(mixed) == 2
        if not pair or not all(isinstance(part, torch.Tensor) for part in mixed):
            raise TypeError(
                f"'mix' must return a tensor of images and one of labels, got {_kinds(mixed)}."
            )
        expected = (len(images), self.num_classes)
        for what, part, fits in (
            ("images", mixed[0], len(mixed[0]) == len(images) and mixed[0].ndim == images.ndim),
            ("labels", mixed[1], tuple(mixed[1].shape) == expected),
        ):
            if not fits:
                raise ValueError(
                    f"'mix' returned {what} of shape {tuple(part.shape)} for {len(images)} images "
                    f"of {self.num_classes} classes; timm's Mixup takes class numbers: use "
                    f"v2.MixUp(num_classes={self.num_classes})."
                )
        if not mixed[1].is_floating_point():
            raise ValueError(f"'mix' must return labels of floats, got {mixed[1].dtype}.")
        return mixed


def collate_rest(rest: list[Any]) -> Any:
    """Collate what is beside images and labels; an error names the field and the sample."""
    try:
        collated = default_collate(rest)
    except Exception as error:  # torch raises many kinds, and none says which field it was
        raise TypeError(f"{_culprit(rest) or one_line(error)}") from error
    return tuple(collated) if isinstance(collated, list) else collated


def _culprit(rest: list[Any]) -> str | None:
    """Say which field of which sample cannot be collated."""
    first = rest[0]
    for field in first if isinstance(first, Mapping) else range(len(first)):
        values = []
        for number, sample in enumerate(rest):
            try:
                values.append(sample[field])
            except (KeyError, IndexError):
                return f"sample {number} has no field {field!r}, and sample 0 has one; add it."
        for number, value in enumerate(values):
            if (inner := _uncollatable(value)) is not None:
                got = "None" if inner is ... else type(inner).__name__
                return (
                    f"the field {field!r} of sample {number} must be a tensor, a number, a text or "
                    f"several of them to be collated, got {got}; convert it, or take it out of the "
                    "sample."
                )
        try:
            default_collate(values)
        except Exception as error:
            return f"the field {field!r} cannot be collated: {one_line(error)}."
    return None


def _uncollatable(value: Any) -> Any:
    """Return the innermost value that torch cannot collate; Ellipsis for None, None if it can."""
    if isinstance(value, Mapping):
        inside = [_uncollatable(inner) for inner in value.values()]
    elif isinstance(value, (tuple, list)):
        inside = [_uncollatable(inner) for inner in value]
    elif value is None:
        return ...
    else:
        try:
            default_collate([value])
        except Exception:
            return value
        return None
    return next((inner for inner in inside if inner is not None), None)


def _kinds(mixed: Any) -> str:
    if isinstance(mixed, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in mixed)})"
    return type(mixed).__name__


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
        if tensor.shape != tensors[0].shape and tensor.shape[-2:] == tensors[0].shape[-2:]:
            raise ValueError(
                "images must have as many channels to be collated, got "
                f"{tuple(tensors[0].shape)} and, at place {index}, {tuple(tensor.shape)}; put "
                "v2.RGB() in front of the transforms, before v2.ToImage()."
            )
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
