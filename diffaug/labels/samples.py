"""Where a sample keeps its image and its label: at an index of a tuple, or at a key of a dict."""

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from diffaug.arguments import shown

IMAGE_KEYS = ("image", "img", "pixel_values")
LABEL_KEYS = ("label", "labels", "fine_label")

#: The mappings that torchvision's transforms look into.
DICTS = (dict, OrderedDict, defaultdict)
#: The keys and positions that lead to a part of a sample, the outermost first.
Place = tuple[Any, ...]
#: A key, an index, a callable that returns the part itself, or ``"default"``: the usual places.
Getter = str | int | Callable[[Any], Any]


def check_getter(name: str, getter: Any) -> Getter:
    """Return an argument that says where a part of a sample is."""
    whole = isinstance(getter, int) and not isinstance(getter, bool)
    if not callable(getter) and not isinstance(getter, str) and not whole:
        raise TypeError(f"'{name}' must be a key, an index or callable, got {shown(getter)}.")
    return getter


def image_place(sample: Any, getter: Getter = "default", *, asker: str = "") -> Place:
    """Return where a sample's image is: under a usual key, or first.

    Args:
        sample: ``(image, label, ...)``, or a dict with ``image``, ``img`` or ``pixel_values``.
        getter: a key or an index of an image elsewhere, or a callable that returns the image.
        asker: whose argument ``image_getter`` an error names.

    Raises:
        TypeError: there is no image there.

    Example:
        >>> image_place(("image", 3)), image_place({"jpg": "image", "cls": 3}, "jpg")
        ((0,), ('jpg',))
    """
    if callable(getter) or getter != "default":
        return _given_place(sample, getter, "image_getter")
    if isinstance(sample, Mapping):
        return (_key(sample, IMAGE_KEYS, "image", "image_getter", asker),)
    if isinstance(sample, (tuple, list)) and sample:
        return (0,)
    raise _no_sample(sample)


def label_place(sample: Any, getter: Getter = "default", *, asker: str = "") -> Place:
    """Return where a sample's label is.

    Args:
        sample: ``(image, label, ...)``, or a dict with ``label``, ``labels`` or ``fine_label``;
            also ``(image, {"label": ...})``.
        getter: a key or an index of a label elsewhere, or a callable that returns the label.
        asker: whose argument ``labels_getter`` an error names.

    Raises:
        TypeError: there is no label there.

    Example:
        >>> label_place(("image", 3)), label_place({"img": "image", "labels": 3})
        ((1,), ('labels',))
    """
    if callable(getter) or getter != "default":
        return _given_place(sample, getter, "labels_getter")
    if isinstance(sample, Mapping):
        return (_key(sample, LABEL_KEYS, "label", "labels_getter", asker),)
    if isinstance(sample, (tuple, list)) and len(sample) >= 2:
        if isinstance(sample[1], Mapping):
            return (1, _key(sample[1], LABEL_KEYS, "label", "labels_getter", asker))
        return (1,)
    raise _no_sample(sample)


def getters_in(transforms: Any) -> tuple[Getter, Getter]:
    """Return the getters of image and label that a transform has, or one inside a ``Compose``.

    Example:
        >>> from diffaug import DiffMix, RecordingBackend
        >>> mix = DiffMix(["cat", "dog"], labels_getter="cls", backend=RecordingBackend())
        >>> getters_in(mix)
        ('default', 'cls')
    """
    steps = list(steps_of(transforms))

    def first(name: str) -> Getter:
        for step in steps:
            getter: Getter = getattr(step, name, "default")
            if callable(getter) or getter != "default":
                return getter
        return "default"

    return first("image_getter"), first("labels_getter")


def steps_of(transforms: Any) -> Iterator[Any]:
    """Yield a transform and all that are inside it, such as those of a ``Compose``, in order."""
    yield transforms
    for step in steps_inside(transforms):
        yield from steps_of(step)


def steps_inside(transforms: Any) -> list[Any]:
    """Return the transforms directly inside one; none where it is no ``Compose`` or the like."""
    inside = getattr(transforms, "transforms", None)
    if inside is None or isinstance(inside, (str, Mapping)):
        return []
    # A list, nn.ModuleList, or one transform, as some wrappers have it.
    return list(inside) if hasattr(inside, "__iter__") else [inside]


def get(sample: Any, place: Place) -> Any:
    """Return what is at a place of a sample."""
    for step in place:
        sample = sample[step]
    return sample


def put(sample: Any, place: Place, value: Any) -> Any:
    """Return a copy of a sample with a value at a place; the rest is shared."""
    if not place:
        return value
    step, rest = place[0], place[1:]
    changed = put(sample[step], rest, value)
    if isinstance(sample, Mapping):
        # Other mappings may share with their copies what they hold, and torchvision's transforms
        # do not look into them.
        fresh: Any = copy.copy(sample) if type(sample) in DICTS else dict(sample)
        fresh[step] = changed
        return fresh
    parts = list(sample)
    parts[step] = changed
    if hasattr(sample, "_fields"):  # a named tuple
        return type(sample)(*parts)
    return tuple(parts) if isinstance(sample, tuple) else parts


def arrays_as_tensors(sample: Any) -> Any:
    """Return a sample with the NumPy vectors in it, such as labels, as tensors.

    torchvision's ``ToImage`` takes each array for an image, a label such as ``np.array([2])``, too.
    It leaves a tensor beside an image alone. Arrays of two or more dimensions may be images.
    """
    return tree_map_only(np.ndarray, _array_as_tensor, sample)


def _array_as_tensor(array: np.ndarray) -> Any:
    vector = array.ndim < 2 and array.dtype.kind in "biuf"
    return torch.from_numpy(array.copy()) if vector else array


def _key(
    sample: Mapping[Any, Any], keys: tuple[str, ...], what: str, argument: str, asker: str
) -> str:
    for key in keys:
        if key in sample:
            return key
    give = f"give {asker} its '{argument}'" if asker else f"give '{argument}'"
    raise TypeError(
        f"a sample must have its {what} under one of the keys {', '.join(keys)}, got "
        f"{', '.join(map(str, sample)) or 'none'}; rename it, or {give}."
    )


def _no_sample(sample: Any) -> TypeError:
    return TypeError(
        f"a sample must be (image, label) or a dict of them, got {type(sample).__name__}."
    )


def _given_place(sample: Any, getter: Getter, argument: str) -> Place:
    """Return the place that an argument of the caller names."""
    if callable(getter):
        return _place_of(sample, getter(sample), argument)
    try:
        get(sample, (getter,))
    except (KeyError, IndexError, TypeError) as error:
        what = type(sample).__name__
        if isinstance(sample, (Mapping, tuple, list)):
            places = sample if isinstance(sample, Mapping) else range(len(sample))
            what += f" with {', '.join(map(repr, places))}"
        raise TypeError(
            f"'{argument}' must be a place in every sample, got {shown(getter)}, and a sample is "
            f"a {what}; give one of its keys or indices."
        ) from error
    return (getter,)


def _place_of(sample: Any, part: Any, argument: str) -> Place:
    """Find an object in a sample; if it is there twice, as equal small integers are, raise."""
    places = list(_places(sample, part))
    if len(places) != 1:
        raise TypeError(
            f"'{argument}' must return one value of the sample itself, and this one is there "
            f"{len(places)} times; give a key or an index instead."
        )
    return places[0]


def _places(sample: Any, part: Any) -> Any:
    if sample is part:
        yield ()
    elif isinstance(sample, (Mapping, tuple, list)):
        pairs = sample.items() if isinstance(sample, Mapping) else enumerate(sample)
        for step, inner in pairs:
            for rest in _places(inner, part):
                yield (step, *rest)
