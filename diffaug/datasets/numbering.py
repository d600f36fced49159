"""Two sources of class numbers: compared by names, and by the images that both know."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from diffaug.datasets.draws import seeded_globally
from diffaug.datasets.generated import GeneratedDataset, numbers_of
from diffaug.labels import samples
from diffaug.labels.class_names import class_names_of, listed_classes, listed_numbers
from diffaug.labels.dataset import known_labels
from diffaug.labels.label import class_number
from diffaug.labels.origins import (
    chain_of,
    from_ranges,
    known_paths,
    parts_of,
    root_of,
    rooted,
    through,
)
from diffaug.offline.manifest import source_label
from diffaug.seeds import asking
from diffaug.transforms.base import augmenting

#: Packages whose datasets give the labels that they list.
TRUSTED = {"torch", "torchvision", "timm", "datasets"}
#: Items that are read, each of another class, where a dataset may change its labels.
READS = 100

Numbers = dict[str, int]


def source_keys(dataset: Any, generated: GeneratedDataset) -> list[str | None] | None:
    """Return what each item is called where a set names its sources; None where nothing is known.

    Sets of ``augment_folder`` name a path, and those of ``augment_dataset`` an index in the dataset
    that they were made from: this dataset, or one inside it. If that was a part of another dataset,
    the set says which items, and any other part can be compared with it.
    """
    sources = {str(row.get("source")) for row in generated.rows}
    if not all(source.isdecimal() for source in sources):
        paths = known_paths(dataset)
        return paths and _aligned(paths, sources)
    if generated.source is None:
        return [str(index) for index in range(len(dataset))]
    found = rooted(dataset) if generated.part else None
    if generated.part and found and found[0] == generated.part["of"]:
        items = from_ranges(generated.part["items"])
        if len(set(items)) == len(items):
            source_of = {item: str(source) for source, item in enumerate(items)}
            return [source_of.get(item) for item in found[1]]
    name, _, length = generated.source.rpartition(" of ")
    return _indices(dataset, name, length) or _indices(dataset, "", length)


def may_be_a_part(dataset: Any, generated: GeneratedDataset) -> bool:
    """Return whether a dataset may be a part of the one that a set was made from, as a split is.

    Its type is the same, and it is shorter, and nothing shows which items it has.
    """
    name, _, length = (generated.source or "").rpartition(" of ")
    return length.isdecimal() and any(
        type(node).__name__ == name and len(node) < int(length) for node in chain_of(dataset)
    )


def sources_outside(
    dataset: Any, generated: GeneratedDataset, keys: Sequence[str | None] | None
) -> list[int]:
    """Return the generated images whose source is where the dataset's images are, but not in it."""
    if keys is None:
        return []
    inside = set(keys)
    sources = [row.get("source") for row in generated.rows]
    outside = [
        index
        for index, source in enumerate(sources)
        if source is not None and str(source) not in inside
    ]
    # If some are inside, the others are of the same collection.
    if len(outside) < len(sources) or _are_beside(dataset, [str(source) for source in sources]):
        return outside
    return []


def class_numbers(
    dataset: Any,
    generated: GeneratedDataset,
    classes: Sequence[str] | Mapping[str, int] | None,
    keys: Sequence[str | None] | None,
    *,
    labels_getter: samples.Getter = "default",
    stacklevel: int,
) -> Sequence[str] | Mapping[str, int]:
    """Return the number that each class of a set has in a dataset.

    Args:
        dataset: the real images.
        generated: the set.
        classes: what the caller says; None asks the dataset.
        keys: those of ``source_keys``.
        labels_getter: where a sample has its label.
        stacklevel: of the warning that an order is assumed.

    Raises:
        ValueError: the label of an item contradicts the names.
    """
    key = labels_getter if isinstance(labels_getter, str) and labels_getter != "default" else None
    numbers = numbers_of(classes) if classes is not None else declared_numbers(dataset, key)
    said = "'classes' says" if classes is not None else "the names of the dataset say"
    # Where the set was made from labels without names, these are its names.
    plain = all(name == str(number) for name, number in generated.class_to_idx.items())
    if numbers is None or (plain and not _used(generated) <= numbers.keys()):
        numbers, said = generated.class_to_idx, "the set says"
    seen = set()
    for name, number, what in _known_labels(dataset, generated, keys, labels_getter):
        if numbers.get(name, number) != number:
            raise ValueError(
                f"'dataset' and 'generated' must number classes alike, and {said} that {name!r} is "
                f"{numbers[name]}, but {what} has the label {number}; give classes= in the order "
                "of the dataset's labels, or own_sources=False if the set was made from others."
            )
        seen.add(name)
    if said == "the set says" and not generated.is_numbered and not plain:
        unknown = [name for name in numbers if name not in seen and name in _used(generated)]
        if unknown:
            shown = ", ".join(list(numbers)[:9]) + (", ..." if len(numbers) > 9 else "")
            warnings.warn(
                f"'dataset' names no classes, and MixedDataset assumes the order {shown} for its "
                "labels; give classes= in their order.",
                UserWarning,
                stacklevel=stacklevel + 1,
            )
    return numbers


def declared_numbers(dataset: Any, label_key: str | None = None) -> Numbers | None:
    """Return the number of each class that a dataset names, after its ``target_transform``.

    Raises:
        ValueError: it contradicts itself, or the ``target_transform`` makes no numbers.
    """
    if isinstance(getattr(dataset, "datasets", None), (list, tuple)):
        return _agreed(parts_of(dataset), label_key)
    own, table = listed_classes(dataset), listed_numbers(dataset)
    names = None
    if own or isinstance(getattr(dataset, "features", None), Mapping):
        names = class_names_of(dataset, label_key)
    if not names and not table:
        inside = parts_of(dataset)
        return declared_numbers(inside[0], label_key) if inside else None
    numbers = {name: number for number, name in enumerate(names or ())}
    # Each class of ImageNet has several names, and the table has each of them.
    if not any(isinstance(name, tuple) for name in own):
        numbers = {**{str(name): int(number) for name, number in table.items()}, **numbers}
    change = getattr(dataset, "target_transform", None)
    return numbers if change is None else {n: _changed(change, k) for n, k in numbers.items()}


def _used(generated: GeneratedDataset) -> set[str]:
    return {name for row in generated.rows for name in (row["label"], source_label(row))}


def _agreed(parts: Sequence[Any], label_key: str | None) -> Numbers | None:
    """Return the numbers of the parts of a concatenation, which must agree."""
    agreed: Numbers = {}
    names: dict[int, str] = {}
    for part in parts:
        numbers = declared_numbers(part, label_key) or {}
        # One that changes labels may put several classes together.
        groups = any(getattr(node, "target_transform", None) for node in chain_of(part))
        for name, number in numbers.items():
            if name not in agreed and number in names and not groups:
                raise ValueError(
                    f"the parts of 'dataset' must number classes alike, and {number} is "
                    f"{names[number]!r} in one and {name!r} in another; give one of them a "
                    "target_transform that makes other numbers, or, if both mean one class, "
                    "give classes=."
                )
            if agreed.setdefault(name, number) != number:
                raise ValueError(
                    f"the parts of 'dataset' must number classes alike, and {name!r} is "
                    f"{agreed[name]} in one and {number} in another."
                )
        if not groups:
            names |= {number: name for name, number in numbers.items()}
    return agreed or None


def _changed(change: Any, number: int) -> int:
    """Return what a ``target_transform`` makes of a class number."""
    try:
        made = change(number)
    except Exception as error:
        raise ValueError(
            f"the target_transform of 'dataset' must take every class number, and {number} gives "
            f"{type(error).__name__}: {error}; give classes= with the number of each class."
        ) from error
    changed = class_number(made)
    if changed is None:
        raise ValueError(
            "the target_transform of 'dataset' must make class numbers, which generated labels can "
            f"follow, and it makes {made!r} of {number}; give classes= with the number of each "
            "class."
        )
    return changed


def _aligned(paths: Sequence[str | None], sources: set[str]) -> list[str | None]:
    """Cut from paths what is in front of the set's: it may have been made from a subfolder."""
    known = [path for path in paths if path is not None]
    if any(path in sources for path in known):
        return list(paths)
    for path in known:
        head, rest = "", path
        while "/" in rest:
            part, _, rest = rest.partition("/")
            head += f"{part}/"
            if rest in sources:
                return [path and path.removeprefix(head) for path in paths]
    return list(paths)


def _indices(dataset: Any, name: str, length: str) -> list[str | None] | None:
    """Return the index of each item in the dataset of this type, or any, and of this length."""
    if str(len(dataset)) == length and name in ("", type(dataset).__name__):
        return [str(index) for index in range(len(dataset))]
    rows: Any = getattr(dataset, "_indices", None)  # a selected dataset of Hugging Face
    if hasattr(rows, "column") and str(len(dataset.data)) == length:
        return [str(row) for row in rows.column(0).to_pylist()]
    return through(dataset, partial(_indices, name=name, length=length))


def _are_beside(dataset: Any, sources: Sequence[str]) -> bool:
    """Return whether sources are in the folder or the dataset that a dataset is a part of."""
    if all(source.isdecimal() for source in sources):  # these were looked for inside the dataset
        return True
    whole = {path for node in chain_of(dataset) for path in known_paths(node) or ()}
    root = root_of(dataset)
    few = sources[:: max(1, len(sources) // READS)]  # each is looked for on disk
    return not whole.isdisjoint(sources) or any(
        root is not None and os.path.isfile(os.path.join(root, source)) for source in few
    )


def _known_labels(
    dataset: Any,
    generated: GeneratedDataset,
    keys: Sequence[str | None] | None,
    labels_getter: samples.Getter,
) -> Iterator[tuple[str, int, str]]:
    """Yield class names of the set with the number that an item has, and what the item is."""
    by_source = {str(row.get("source")): source_label(row) for row in generated.rows}
    named: list[tuple[int, str]] = []
    for index, key in enumerate(keys or ()):
        folder = (key or "").partition("/")[0]
        name = by_source.get(key or "", folder if "/" in (key or "") else "")
        if name in generated.class_to_idx:
            named.append((index, name))
    # What replaces images would give the label of another.
    replaces = any(hasattr(node, "generated") for node in chain_of(dataset))
    trusted = _gives_known_labels(dataset)
    listed = None
    if named and (trusted or replaces):
        with _leaving_no_trace(0):
            listed = known_labels(dataset, labels_getter)
    if listed is None and replaces:
        return
    if listed is None:
        firsts: dict[str, int] = {}
        for index, name in named:
            firsts.setdefault(name, index)
        step = max(1, -(-len(firsts) // READS))
        named = [(index, name) for name, index in firsts.items()][::step]
    for index, name in named:
        label = listed[index] if listed is not None else _read_label(dataset, index, labels_getter)
        number = class_number(label)
        if number is not None:
            where = "" if keys is None else f" ({keys[index]})"
            yield name, number, f"item {index}{where}"


def item_classes(dataset: Any, labels_getter: samples.Getter) -> list[int | None] | None:
    """Return the class of each item where a dataset lists the labels that it gives; else None."""
    if not _gives_known_labels(dataset):
        return None
    with _leaving_no_trace(0):
        listed = known_labels(dataset, labels_getter)
    return None if listed is None else [class_number(label) for label in listed]


def _gives_known_labels(dataset: Any) -> bool:
    """Return whether the labels that a dataset lists are those that it gives."""
    module = getattr(type(dataset).__getitem__, "__module__", None) or ""
    known = module.partition(".")[0] in TRUSTED
    return known and all(map(_gives_known_labels, parts_of(dataset)))


def _read_label(dataset: Any, index: int, labels_getter: samples.Getter) -> Any:
    with _leaving_no_trace(index):
        try:
            sample = dataset[index]
            return samples.get(sample, samples.label_place(sample, labels_getter))
        except Exception:  # an unreadable item says nothing here; training will name it
            return None


@contextmanager
def _leaving_no_trace(index: int) -> Iterator[None]:
    """Read items without generating images, counting what is asked for, or drawing numbers."""
    with augmenting(False), asking(index), seeded_globally(0, everywhere=True):
        yield
