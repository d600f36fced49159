"""A map-style dataset as the source of an offline run."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffaug import images
from diffaug.arguments import in_order, shown
from diffaug.errors import (
    DiffaugError,
    SourceError,
    UnreadableImageError,
    is_of_machine,
    machine_trouble,
    one_line,
)
from diffaug.labels import samples
from diffaug.labels.class_names import class_names_of, distinct
from diffaug.labels.dataset import known_labels, renumbered
from diffaug.labels.label import class_number, class_of, read_label
from diffaug.labels.map_style import check_dataset
from diffaug.labels.origins import as_ranges, rooted
from diffaug.offline.sources import Skipped, Source, SourceImage, class_folder
from diffaug.seeds import asking

#: The name of a class; else plain numbers, or nothing.
Label = str | float | list[Any] | None

#: After so many items in a row that cannot be read, others are looked at before the run goes on.
MANY = 20
PROBES = 5


class DatasetSource(Source):
    """A map-style dataset of ``(image, label)`` pairs or of dicts; an image's key is its index.

    Args:
        dataset: it may hold images alone where no class is needed.
        class_names: in the order of the labels; None for the dataset's own.
        fallback_names: where the dataset names no classes; those of the transform.
        image_getter, labels_getter: where an item has its image and its label.
        needs_class: whether each item must be of one class. Else an item may have any label: a
            class has its folder, and every other label goes into the row alone.
        strict: raise the error of an item that is known to be bad, rather than leave it out.

    Raises:
        TypeError: no length, or no integer index.
        ValueError: no items, a class number without a name, or labels that are all wrong.
    """

    threads = 0

    def __init__(
        self,
        dataset: Any,
        class_names: Sequence[str] | None,
        *,
        fallback_names: Sequence[str] | None = None,
        image_getter: samples.Getter = "default",
        labels_getter: samples.Getter = "default",
        needs_class: bool = False,
        strict: bool = False,
    ) -> None:
        check_dataset(dataset, "wrap it in a list")
        if not len(dataset):
            raise ValueError("'dataset' must hold at least one image, got none.")
        self.dataset = dataset
        self.name = f"{type(dataset).__name__} of {len(dataset)}"
        self.keys = [str(index) for index in range(len(dataset))]
        self.skipped = []
        self.part = _part(dataset)
        self._image_getter = samples.check_getter("image_getter", image_getter)
        self._labels_getter = samples.check_getter("labels_getter", labels_getter)
        self._needs_class = needs_class
        self._class_names, self._fallback_names = class_names, fallback_names
        self._known: dict[str | None, list[str] | None] = {}
        #: The items that were bad since the last good one.
        self._bad: dict[int, UnreadableImageError] = {}
        self._told_no_label = self._told_order = False
        self.classes = self._names(self._label_key())
        self._classes: list[str] = []
        self._check_labels(strict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_classes": [], "_bad": {}}

    def load(self, key: str) -> SourceImage:
        index = int(key)
        try:
            item = self._item(index)
            pixels, label = self._pixels(item, index), self._label(item, index)
        except UnreadableImageError as error:
            self._note_bad(index, error)
            raise
        self._bad.clear()
        folder = f"{self.folder_of(label)}/" if isinstance(label, str) else ""
        return SourceImage(pixels, label, f"{folder}{index:06d}")

    def folder_of(self, label: str) -> str:
        return class_folder(label)

    def labels(self) -> list[str]:
        return list(self._classes)

    def warn_of_order(self) -> None:
        """Warn where folders in their order number the classes otherwise than the dataset."""
        if self._classes and not any(self._classes):
            return  # no item is of one class
        names = self.classes or sorted(filter(str.isdecimal, {*self._classes}), key=int)
        numbers = range(len(names)) if self.classes else map(int, names)
        folders = {class_folder(name): number for name, number in zip(names, numbers, strict=True)}
        for number, folder in enumerate(sorted(folders)):
            if folders[folder] != number:
                _warn_of_order(folder, folders[folder], number)
                return

    def _item(self, index: int) -> Any:
        """Read one item; whatever its own code raises is the fault of this item alone."""
        try:
            with asking(index):  # a seeded dataset gives each copy the same image
                return self.dataset[index]
        except DiffaugError as error:
            if isinstance(error, UnreadableImageError):
                raise _unreadable(index, error) from error
            raise  # of a model in the dataset's own transforms
        except Exception as error:  # a damaged file may fail in any parser
            raise _fault_of(index, error) from error

    def _pixels(self, item: Any, index: int) -> torch.Tensor:
        """Return the image of an item as uint8 (1, 3, H, W); an error says which item it is."""
        try:
            image = item if images.is_image(item) else self._image(item)
            if image is None:
                raise ValueError("it holds no image.")
            count = images.check_image(image)
        except (TypeError, ValueError) as error:
            raise UnfitItemError(f"item {index}: {one_line(error)}") from error
        if count != 1:
            shape = tuple(image.shape)
            raise UnfitItemError(f"item {index} must hold one image, got shape {shape}.")
        try:
            return images.to_uint8(images.unpack(image)[0])
        except Exception as error:  # Pillow reads a file when its pixels are needed
            raise _fault_of(index, error) from error

    def _image(self, item: Any) -> Any:
        place = samples.image_place(item, self._image_getter, asker="augment_dataset")
        return samples.get(item, place)

    def _label(self, item: Any, index: int) -> Label:
        """Return the label of an item; None where it has none and needs none."""
        optional = not self._needs_class and self._labels_getter == "default"
        alone = images.is_image(item) or (isinstance(item, (tuple, list)) and len(item) == 1)
        if optional and alone:
            return None
        try:
            place = samples.label_place(item, self._labels_getter, asker="augment_dataset")
        except TypeError as error:
            if optional and isinstance(item, Mapping):
                self._tell_no_label(item)
                return None
            raise UnfitItemError(f"item {index}: {error}") from error
        column = place[0] if place and isinstance(place[0], str) else None
        return self._read(samples.get(item, place), column, index)

    def _read(self, label: Any, column: str | None, index: int) -> Label:
        """Return a label as a class's name, or as plain JSON where it is not of one class."""
        what = f"the label of item {index}"
        if isinstance(label, str):
            return str(label)
        if label is None and not self._needs_class:
            return None
        count = len(self._names(column) or ()) or None
        try:
            if self._needs_class:
                plain: Any = class_number(label)
                if plain is None or (count is not None and plain < count):
                    plain = class_of(label, count, what=what)
            elif isinstance(plain := plain_label(label, what), int) and plain < 0:
                read_label(plain, count, what=what)
        except ValueError as error:
            raise UnfitItemError(str(error)) from error
        return self._name(plain, column, index) if isinstance(plain, int) else plain

    def _name(self, number: int, column: str | None, index: int) -> str:
        names = self._names(column)
        if names is None:
            if number > 9 and not self._told_order:
                self._told_order = True
                _warn_of_order(str(number), number, 2)
            return str(number)
        if number >= len(names):  # all numbers are in doubt, and not one item
            raise ValueError(
                f"the label of item {index} must be in [0, {len(names)}), got {number}; give "
                "'class_names'."
            )
        return names[number]

    def _tell_no_label(self, item: Mapping[Any, Any]) -> None:
        if len(item) > 1 and not self._told_no_label:
            self._told_no_label = True
            warnings.warn(
                "the set is made without labels: items have none under the keys "
                f"{', '.join(samples.LABEL_KEYS)}, and they have {', '.join(map(str, item))}; if "
                "one of these is the label, give augment_dataset its 'labels_getter'.",
                UserWarning,
                stacklevel=2,
            )

    def _label_key(self) -> str | None:
        features = getattr(self.dataset, "features", None) or {}
        if self._labels_getter != "default":
            return self._labels_getter if isinstance(self._labels_getter, str) else None
        return next((key for key in samples.LABEL_KEYS if key in features), None)

    def _names(self, label_key: str | None) -> list[str] | None:
        if label_key not in self._known:
            given = self._class_names
            if isinstance(given, (str, bytes)):
                raise TypeError(f"'class_names' must be several names, got {shown(given)}.")
            if given is not None:  # an array is neither true nor false
                given = list(in_order("class_names", given))
            names = distinct(given) if given else class_names_of(self.dataset, label_key)
            if names is None and self._fallback_names:
                names = list(self._fallback_names)
            elif names and not given and (changed := renumbered(self.dataset, len(names))):
                raise ValueError(
                    "'class_names' must be given, in the order of the changed numbers: the dataset "
                    f"turns class {changed[0]} into {changed[1]}, and its names are in the order "
                    "of the numbers before that."
                )
            for name in names or ():
                class_folder(name)  # a wrong name is an error now, and not in the middle of a run
            self._known[label_key] = names
        return self._known[label_key]

    def _check_labels(self, strict: bool) -> None:
        """Read the labels where that is cheap or necessary, and leave bad items out now."""
        known = known_labels(self.dataset, self._labels_getter)
        if known is None and not self._needs_class:
            return
        self._told_order = True  # warn_of_order will, who knows all classes
        column, good = self._label_key(), []
        for index, key in enumerate(self.keys):
            try:
                label = self._label_of(index, column, known)
            except UnreadableImageError as error:
                if strict:
                    raise
                self.skipped.append(Skipped(key, str(error)))
            else:
                good.append(key)
                self._classes.append(label if isinstance(label, str) else "")
        if not good:
            reason = self.skipped[0].reason
            raise ValueError(f"'dataset' must hold items that can be used: {reason}")
        self.keys = good

    def _label_of(self, index: int, column: str | None, known: list[Any] | None) -> Label:
        """Return the label of an item, from the list of labels if that has a good one."""
        if known is not None:
            try:
                return self._read(known[index], column, index)
            except UnfitItemError:
                pass  # the item itself decides
        try:
            return self._label(self._item(index), index)
        except UnreadableImageError as error:
            self._note_bad(index, error)
            raise

    def _note_bad(self, index: int, error: UnreadableImageError) -> None:
        """Count bad items in a row; of many, or of all, raise what is wrong with the first."""
        self._bad[index] = error.with_traceback(None)
        if len(self._bad) < min(MANY, len(self.dataset)) or self._others_are_fine():
            return
        first, reason = next(iter(self._bad.items()))
        # Labels of a wrong form are the caller's; files that cannot be read are the disk's.
        kind: type[Exception] = ValueError if isinstance(reason, UnfitItemError) else SourceError
        raise kind(
            f"'dataset' must hold items that can be used, and {len(self._bad)} in a row, from item "
            f"{first} on, cannot: {reason}"
        ) from error

    def _others_are_fine(self) -> bool:
        """Look at a few other items: are the last ones bad, or can none be read any more?"""
        others = sorted(set(range(len(self.dataset))).difference(self._bad))
        for index in others[:: max(1, len(others) // PROBES)]:
            try:
                item = self._item(index)
                self._pixels(item, index), self._label(item, index)
            except UnreadableImageError:
                continue
            self._bad.clear()
            return True
        return False


class UnfitItemError(UnreadableImageError):
    """An item's image or label has no form that can be used."""


def _part(dataset: Any) -> dict[str, str]:
    """Return which items of the innermost dataset a dataset has; nothing where it has all."""
    found = rooted(dataset)
    if found is None or found[0] == f"{type(dataset).__name__} of {len(dataset)}":
        return {}
    return {"of": found[0], "items": as_ranges(found[1])}


def _fault_of(index: int, error: Exception) -> DiffaugError:
    """Say what was wrong with an item: the machine, which stops a run, or the item alone."""
    if is_of_machine(error):
        return machine_trouble(f"item {index}", error)
    return _unreadable(index, error)


def _unreadable(index: int, error: Exception) -> UnreadableImageError:
    return UnreadableImageError(f"item {index} is not readable: {one_line(error).rstrip('.')}.")


def _warn_of_order(folder: str, number: int, place: int) -> None:
    warnings.warn(
        f"the order of the class folders is not that of the dataset's labels: {folder!r} is "
        f"{number} in the dataset, and ImageFolder would make it {place}. Read this set with "
        "GeneratedDataset or MixedDataset, which number the classes as the dataset does.",
        UserWarning,
        stacklevel=5,
    )


def plain_label(label: Any, what: str) -> int | float | list[Any]:
    """Return a label that a transform keeps: a class number, or any numbers as JSON has them.

    Example:
        >>> import numpy as np, torch
        >>> from diffaug.offline.dataset_source import plain_label
        >>> plain_label(torch.tensor([3]), "it"), plain_label(np.array([0, 1, 1]), "it")
        (3, [0, 1, 1])
    """
    numbers = _numbers(label)
    listed = numbers if isinstance(numbers, list) else [numbers]
    if any(isinstance(number, bool) for number in listed):
        read_label(label, what=what)  # which refuses booleans, here as everywhere
    if listed and all(isinstance(n, (int, float)) and math.isfinite(n) for n in listed):
        alone = len(listed) == 1 and isinstance(listed[0], int)
        return listed[0] if alone else numbers
    raise ValueError(
        f"{what} must be a class number, a name, or one or several finite numbers, got "
        f"{type(label).__name__}."
    )


def _numbers(label: Any) -> Any:
    """Return tensors, arrays and numpy's numbers as Python's."""
    if hasattr(label, "tolist"):
        return label.tolist()
    if isinstance(label, (tuple, list)):
        return [_numbers(number) for number in label]
    return label
