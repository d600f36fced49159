"""The names that a dataset gives its classes."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from diffaug.arguments import in_order, texts
from diffaug.checked import Items, checked
from diffaug.labels.origins import parts_of
from diffaug.labels.samples import LABEL_KEYS, steps_of


def first_name(name: Any) -> Any:
    """Return the first of several names of one class, as torchvision's ImageNet has them."""
    return name[0] if isinstance(name, (tuple, list)) and name else name


def distinct(names: Iterable[Any]) -> list[str]:
    """Number classes that have the same name, such as ImageNet's cranes, to keep them apart.

    Example:
        >>> from diffaug.labels.class_names import distinct
        >>> distinct(["crane", "owl", ("crane", "a machine")])
        ['crane (0)', 'owl', 'crane (2)']
    """
    texts = [str(first_name(name)) for name in in_order("class_names", names)]
    while len(set(texts)) < len(texts):  # a numbered name may be there already
        same = {texts[earlier] for earlier, _ in twins(texts)}
        texts = [f"{text} ({n})" if text in same else text for n, text in enumerate(texts)]
    return texts


def twins(names: Sequence[str], spelling: Callable[[str], str] = str) -> Iterator[tuple[int, int]]:
    """List the positions of names that are spelled like an earlier one, with that one's."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        earlier = seen.setdefault(spelling(name), number)
        if earlier != number:
            yield earlier, number


def check_names(names: Any, spelling: Callable[[str], str]) -> tuple[str, ...]:
    """Return the argument ``class_names``: the first name of each class, which is its folder, too.

    Args:
        names: several in the order of the labels, each a string or several strings.
        spelling: what a model makes of a name; two names must differ in it.

    Raises:
        TypeError: they are in no order.
        ValueError: one is empty, or two are the same.
    """
    if isinstance(names, (str, set, frozenset)) or not isinstance(names, Iterable):
        raise TypeError(
            f"'class_names' must be several names in the order of the labels, got {names!r}."
        )
    firsts = tuple(first_name(name) for name in names)
    texts("class_names", firsts)
    for earlier, later in twins(firsts, spelling):
        one, other = firsts[earlier], firsts[later]
        got = f"{one!r} at place {earlier} and {other!r} at place {later}"
        if one == other or one.casefold() != other.casefold():
            raise ValueError(
                f"'class_names' must differ in a prompt, got {got}; rename one of them, or give "
                "class_names_of(dataset), which numbers twins."
            )
        # EMNIST's 'A' and 'a' are two classes with two folders, and CLIP knows small letters only.
        warnings.warn(
            f"'class_names' has {got}, which a model reads alike; it makes the same images for "
            "both classes.",
            UserWarning,
            stacklevel=4,
        )
    return firsts


def numbers_of(targets: Any, names: Sequence[str], spelling: Callable[[str], str]) -> list[int]:
    """Return the numbers of the classes that the argument ``targets`` names, however spelled.

    Example:
        >>> from diffaug.labels.class_names import numbers_of
        >>> numbers_of(["Bee"], ["sea slug", "bee"], str.casefold)
        [1]
    """
    given = texts("targets", targets)
    by_spelling = {spelling(name): number for number, name in enumerate(names)}
    for name in given:
        if spelling(name) not in by_spelling:
            raise ValueError(
                f"'targets' must be among the {len(names)} class names, got {name!r}; the first "
                f"names are {_few(list(names))}."
            )
    # Two names may be read alike, such as 'A' and 'a'; the one that is written so is meant.
    exact = {name: number for number, name in enumerate(names)}
    return [exact.get(name, by_spelling[spelling(name)]) for name in given]


@checked
def class_names_of(dataset: Items, label_key: str | None = None) -> list[str] | None:
    """Return the names of a dataset's classes, in the order of its labels.

    They come from ``features`` (Hugging Face), ``classes`` or ``class_to_idx`` (torchvision), or
    ``reader.class_to_idx`` (timm); also through subsets, concatenations, and datasets around
    others. Of several names of a class it takes the first, and it numbers classes of one name.

    Args:
        dataset: any.
        label_key: the column of the labels, for Hugging Face; None for a usual one.

    Returns:
        None where the dataset names no classes.

    Raises:
        ValueError: two answers contradict each other, such as those of two parts of a
            concatenation.

    Example:
        >>> from diffaug import class_names_of
        >>> class Birds(list):
        ...     class_to_idx = {"owl": 1, "crane": 0}
        >>> class_names_of(Birds())
        ['crane', 'owl']
    """
    names = _own_names(dataset, label_key)
    if names is not None:
        return names
    return _common_names([class_names_of(part, label_key) for part in parts_of(dataset)])


def _own_names(dataset: Any, label_key: str | None) -> list[str] | None:
    """Return the names that a dataset itself has."""
    classes, numbers = listed_classes(dataset), listed_numbers(dataset)
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        keys = LABEL_KEYS if label_key is None else (label_key,)
        feature = next((features[key] for key in keys if key in features), None)
        classes = getattr(feature, "names", None) or classes
    if classes:
        several = (name if isinstance(name, (tuple, list)) else (name,) for name in classes)
        count = Counter(chain.from_iterable(several))
        for number, name in enumerate(map(first_name, classes)):
            # ImageNet's cranes are one key, which has the number of the last of them.
            if count[name] == 1 and numbers.get(name, number) != number:
                raise ValueError(
                    f"'classes' and 'class_to_idx' of {type(dataset).__name__} must agree, got "
                    f"{number} and {numbers[name]} for {name!r}; give the class names."
                )
        return distinct(classes)
    by_number = {number: name for name, number in numbers.items()}
    if numbers and len(by_number) == len(numbers) and set(by_number) == set(range(len(numbers))):
        return distinct(by_number[number] for number in range(len(numbers)))
    return None


def listed_classes(dataset: Any) -> list[Any]:
    """Return what a dataset itself has as its ``classes``; nothing where it has none."""
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, np.ndarray):
        classes = classes.tolist()
    return list(classes) if isinstance(classes, (list, tuple)) else []


def listed_numbers(dataset: Any) -> Mapping[Any, int]:
    """Return what a dataset itself, or timm's reader in it, has as its ``class_to_idx``."""
    numbers = getattr(dataset, "class_to_idx", None)
    if numbers is None:
        numbers = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return numbers if isinstance(numbers, Mapping) else {}


def check_order(dataset: Any, transforms: Any) -> None:
    """Raise where a transform, or one in a ``Compose``, numbers a class otherwise than a dataset.

    Names that only one of them has are not compared: words may stand for folders.
    """
    for step in steps_of(transforms):
        numbers = {name: number for number, name in enumerate(getattr(step, "class_names", ()))}
        for number, name in enumerate(class_names_of(dataset) or () if numbers else ()):
            if numbers.get(name, number) != number:
                raise ValueError(
                    f"'class_names' must be in the order of the dataset's labels, and {name!r} is "
                    f"class {number} there and class {numbers[name]} in {type(step).__name__}; "
                    "give class_names_of(dataset)."
                )


def _common_names(parts: list[list[str] | None]) -> list[str] | None:
    """Return the names that all parts of a concatenation have."""
    named = [names for names in parts if names is not None]
    for names in named[1:]:
        if names != named[0]:
            raise ValueError(
                f"the parts of a concatenation must name their classes alike, got {_few(named[0])} "
                f"and {_few(names)}: their numbers mean different classes. Give the class names, "
                "or number the classes of the parts alike."
            )
    return named[0] if named else None


def _few(names: list[str]) -> str:
    more = ", ..." if len(names) > 4 else ""
    return f"[{', '.join(map(repr, names[:4]))}{more}]"
