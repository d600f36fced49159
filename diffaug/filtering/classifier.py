"""Judge an image by how probable a classifier finds its label."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from diffaug import functional, images
from diffaug.arguments import whole
from diffaug.backends.devices import AsManyAsFit
from diffaug.checked import checked
from diffaug.offline.manifest import Row


@checked
class ClassifierFilter:
    """Score an image by the probability that a classifier gives to its label.

    Args:
        model: returns logits ``(B, C)`` for a batch of float images. It runs where its weights are,
            in eval mode and without gradients; its modes are as before afterwards.
        classes: the classes' names, as in the set's ``label`` column, in the order of the logits.
        transform: turns a uint8 ``(3, H, W)`` image into a float image for the model, such as the
            ``transforms()`` of torchvision's weights; None scales to [0, 1].
        size: side in pixels of the square that images are resized to if there is no transform; None
            keeps their size, which must then be the same for all.
        batch_size: images in one call of the model, >= 1.

    Shape:
        Images: uint8 ``(3, H, W)``, of any sizes. Scores: ``(N,)``, float in [0, 1].

    Raises:
        TypeError, ValueError: an argument has a wrong type or value, or a label is not among the
            classes.
        GenerationError: not even one image fits into the memory of the model's device.

    Example:
        >>> import torch
        >>> from diffaug import ClassifierFilter
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
        >>> judge = ClassifierFilter(model, ["cat", "dog"], size=32)
        >>> judge.score([torch.zeros(3, 50, 40, dtype=torch.uint8)], [{"label": "dog"}]).shape
        torch.Size([1])
    """

    name = "classifier"

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        *,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        size: int | None = None,
        batch_size: int = 32,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"'model' must be a torch module, got {type(model).__name__}.")
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise TypeError(
                f"'classes' must be the classes' names in the order of the logits, got {classes!r}."
            )
        if transform is not None and size is not None:
            raise ValueError(
                "'size' must be None if there is a 'transform', "
                f"got {size}; resize in the transform."
            )
        self.model, self.transform = model, transform
        self.size = None if size is None else whole("size", size, 1)
        self.batch_size = whole("batch_size", batch_size, 1)
        self._in_parts = AsManyAsFit("the classifier")
        self.classes = tuple(classes)
        if not self.classes or len({*self.classes}) < len(self.classes):
            raise ValueError(f"'classes' must hold different names, got {list(self.classes)}.")

    def prepare(self, folder: Path, rows: Sequence[Row]) -> None:
        """Refuse a set with other classes before it is read."""
        self._targets(rows)

    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return the probability of each row's label."""
        targets = self._targets(rows)
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                logits = self._in_parts(self._logits, self._inputs(images), self._like().device)
        finally:
            for module, training in modes:
                module.training = training
        return logits.double().softmax(1).gather(1, targets[:, None])[:, 0]

    def _targets(self, rows: Sequence[Row]) -> torch.Tensor:
        for label in dict.fromkeys(row.get("label") for row in rows):
            if label not in self.classes:
                raise ValueError(
                    f"'classes' must hold every label of the set, and lacks {label!r}; "
                    f"it has {', '.join(self.classes[:5])}{', ...' * (len(self.classes) > 5)}."
                )
        return torch.tensor([self.classes.index(row["label"]) for row in rows])

    def _like(self) -> torch.Tensor:
        """Return a tensor of the dtype and on the device that images must have."""
        weights = chain(self.model.parameters(), self.model.buffers())
        return next((weight for weight in weights if weight.is_floating_point()), torch.zeros(()))

    def _logits(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        batch, like = torch.stack(list(inputs)), self._like()  # (B, 3, H, W)
        batch = images.to_dtype(batch, like) if self.transform is None else batch.to(like)
        logits: torch.Tensor = self.model(batch)
        expected = (len(batch), len(self.classes))
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if shape != expected:
            raise ValueError(f"'model' must return logits of shape {expected}, got {shape}.")
        return logits

    def _inputs(self, pixels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return images of one size, as the model takes them."""
        if self.transform is not None:
            pixels = [self.transform(image) for image in pixels]
        elif self.size is not None:
            pixels = [functional.resize(image, (self.size, self.size)) for image in pixels]
        shapes = list(dict.fromkeys(tuple(image.shape) for image in pixels))
        if len(shapes) > 1:
            rule = (
                "'transform' must return images of one size"
                if self.transform
                else "'size' must be given for images of several sizes"
            )
            raise ValueError(f"{rule}, got {shapes[0]} and {shapes[1]}.")
        return list(pixels)
