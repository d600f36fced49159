"""The classifiers that are compared: a small ResNet, a named model, or the caller's own."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from diffaug.errors import ModelError, one_line, require

Factory = Callable[[int], nn.Module]

#: Mean and standard deviation by channel of ImageNet, with which published weights were trained.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SmallResNet(nn.Module):
    """Classify float images (B, 3, H, W) in [0, 1]; logits (B, classes).

    It is a ResNet-18 of half the width, with the standard stem: a convolution of stride 2, and a
    pooling. With this stem, one core trains on hundreds of 64 px images per second.

    Example:
        >>> SmallResNet(10)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]  # fmt: skip
        before = width
        for stage in range(4):
            after = width * 2**stage
            for block in range(2):
                stride = 2 if stage and not block else 1
                shortcut = None
                if stride != 1 or before != after:
                    shortcut = nn.Sequential(
                        nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
                    )
                layers.append(BasicBlock(before, after, stride, shortcut))
                before = after
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(before, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the head, (B, 8 * width)."""
        return self.body((images - 0.45) / 0.25)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Normalized(nn.Module):
    """A published model behind the normalization that it was trained with."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - self.mean) / self.deviation)


def name_of(classifier: str | Factory) -> str:
    """Return the name of a classifier; a factory has that of its function."""
    if isinstance(classifier, str):
        return classifier
    own = getattr(classifier, "__qualname__", type(classifier).__qualname__)
    return f"{getattr(classifier, '__module__', '')}.{own}"


def build(
    classifier: str | Factory, classes: int, weights: str | os.PathLike[str] | None = None
) -> nn.Module:
    """Make a classifier with new weights from torch's global generator, or with those of a file.

    Args:
        classifier: ``"small"``, the name of a model of torchvision, ``"timm:NAME"``, or a function
            that makes one for a number of classes; it gets images in [0, 1].
        classes: how many there are.
        weights: a safetensors file; tensors of other shapes, such as those of the head, stay new.

    Raises:
        ValueError: there is no such model.
        ModelError: the file cannot be read, or is of another model.
        MissingDependencyError: timm is not installed.
    """
    model = bare = _new(classifier, classes)
    if isinstance(classifier, str) and classifier != "small":
        model = Normalized(bare)
    if weights is not None:
        _load(bare, Path(weights).expanduser())
    return model


def _new(classifier: str | Factory, classes: int) -> nn.Module:
    if not isinstance(classifier, str):
        made = classifier(classes)
        if not isinstance(made, nn.Module):
            raise TypeError(
                f"'classifier' must make a torch.nn.Module, got {type(made).__name__} from "
                f"{name_of(classifier)}."
            )
        return made
    if classifier == "small":
        return SmallResNet(classes)
    library, _, name = classifier.rpartition(":")
    try:
        if library == "timm":
            return require("timm").create_model(name, num_classes=classes)
        if library in ("", "torchvision"):
            from torchvision.models import get_model

            return get_model(name, weights=None, num_classes=classes)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"'classifier' must be small, a classifier of torchvision or timm:NAME, got "
            f"{classifier!r} ({one_line(error)})."
        ) from error
    raise ValueError(
        f"'classifier' must be small, a classifier of torchvision or timm:NAME, got {classifier!r}."
    )


def _load(model: nn.Module, file: Path) -> None:
    """Load the tensors of a file that fit, and refuse a file of which few do."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"'{file}' could not be read as safetensors ({one_line(error)}); give the path of a "
            "safetensors file."
        ) from error
    own = model.state_dict()
    fits = {n: t for n, t in given.items() if n in own and own[n].shape == t.shape}
    wanted = [name for name, tensor in own.items() if tensor.ndim]
    if 2 * len(fits) < len(wanted):
        raise ModelError(
            f"'{file}' must hold the weights of this classifier, and {len(fits)} of its "
            f"{len(wanted)} tensors are there; give the file of this model."
        )
    model.load_state_dict(fits, strict=False)
