"""The names that a dataset gives its classes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from diffaug.labels.samples import LABEL_KEYS


def distinct(names: Iterable[Any]) -> list[str]:
    """Number classes that have the same name, such as ImageNet's cranes, to keep them apart.

    Example:
        >>> from diffaug.labels.class_names import distinct
        >>> distinct(["crane", "owl", "crane"])
        ['crane (0)', 'owl', 'crane (2)']
    """
    texts = [str(name) for name in names]
    count = Counter(texts)
    return [f"{text} ({number})" if count[text] > 1 else text for number, text in enumerate(texts)]


def class_names_of(dataset: Any, label_key: str | None = None) -> list[str] | None:
    """Return the distinct names that a dataset, or the dataset of a subset, gives its classes."""
    while dataset is not None:
        features = getattr(dataset, "features", None)
        feature = None
        if isinstance(features, Mapping):
            keys = LABEL_KEYS if label_key is None else (label_key,)
            feature = next((features[key] for key in keys if key in features), None)
        names = getattr(feature, "names", None) or getattr(dataset, "classes", None)
        if isinstance(names, (list, tuple)) and names:
            # torchvision's ImageNet gives each class a tuple of names
            return distinct(name[0] if isinstance(name, tuple) else name for name in names)
        dataset = getattr(dataset, "dataset", None)
    return None


def check_order(dataset: Any, transforms: Any) -> None:
    """Raise where a transform, or one in a ``Compose``, numbers a class otherwise than a dataset.

    Names that only one of them has are not compared: words may stand for folders.
    """
    inside = getattr(transforms, "transforms", None)
    for step in inside if isinstance(inside, Iterable) else ():
        check_order(dataset, step)
    numbers = {name: number for number, name in enumerate(getattr(transforms, "class_names", ()))}
    for number, name in enumerate(class_names_of(dataset) or () if numbers else ()):
        if numbers.get(name, number) != number:
            raise ValueError(
                f"'class_names' must be in the order of the dataset's labels, and {name!r} is "
                f"class {number} there and class {numbers[name]} in {type(transforms).__name__}."
            )
