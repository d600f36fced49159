"""A map-style dataset as the source of an offline run."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffaug import images
from diffaug.errors import UnreadableImageError, one_line
from diffaug.labels import samples
from diffaug.labels.class_names import class_names_of, distinct
from diffaug.labels.dataset import dataset_labels
from diffaug.labels.label import class_number
from diffaug.offline.sources import Source, SourceImage, class_folder
from diffaug.seeds import asking


class DatasetSource(Source):
    """A map-style dataset of ``(image, label)`` pairs or of dicts; an image's key is its index.

    Raises:
        TypeError: no length, or no integer index.
        ValueError: no items.
    """

    threads = 0

    def __init__(self, dataset: Any, class_names: Sequence[str] | None) -> None:
        map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if not map_style or isinstance(dataset, Mapping):
            hint = "pass one of its splits" if isinstance(dataset, Mapping) else "wrap it in a list"
            raise TypeError(
                "'dataset' must have a length and integer indices, "
                f"got {type(dataset).__name__}; {hint}."
            )
        if not len(dataset):
            raise ValueError("'dataset' must hold at least one image, got none.")
        self.dataset = dataset
        self.name = f"{type(dataset).__name__} of {len(dataset)}"
        self.keys = [str(index) for index in range(len(dataset))]
        self.skipped = []
        self._class_names = class_names
        self._known: dict[str | None, list[str] | None] = {}
        self.classes = self._names(self._label_key())

    def load(self, key: str) -> SourceImage:
        index = int(key)
        try:
            with asking(index):  # a seeded dataset gives each copy the same image
                item = self.dataset[index]
            image_at, label_at = _places(item, index)
            image = samples.get(item, image_at)
            if image is None:
                raise UnreadableImageError(f"item {index} holds no image.")
            count = _check(image, index)
            pixels = images.to_uint8(images.unpack(image)[0])  # (1, 3, H, W)
        except (OSError, SyntaxError) as error:  # what Pillow raises on a damaged file
            raise UnreadableImageError(
                f"item {index} is not readable: {one_line(error)}."
            ) from error
        if count != 1:
            raise ValueError(f"item {index} must hold one image, got shape {tuple(image.shape)}.")
        column = label_at[0] if isinstance(label_at[0], str) else None
        name = self._class_name(samples.get(item, label_at), column, index)
        return SourceImage(pixels, name, f"{self.folder_of(name)}/{index:06d}")

    def folder_of(self, label: str) -> str:
        return class_folder(label)

    def labels(self) -> list[str]:
        key = self._label_key()
        try:
            labels = dataset_labels(self.dataset)
        except (OSError, SyntaxError) as error:  # labels come with images, and one is damaged
            raise UnreadableImageError(
                f"'dataset' could not be asked for every label: {one_line(error)}; give it "
                "'targets', a list of its labels."
            ) from error
        return [self._class_name(label, key, index) for index, label in enumerate(labels)]

    def _label_key(self) -> str | None:
        features = getattr(self.dataset, "features", None) or {}
        return next((key for key in samples.LABEL_KEYS if key in features), None)

    def _names(self, label_key: str | None) -> list[str] | None:
        if label_key not in self._known:
            given = self._class_names
            names = distinct(given) if given else class_names_of(self.dataset, label_key)
            for name in names or ():
                class_folder(name)  # a wrong name is an error now, and not in the middle of a run
            self._known[label_key] = names
        return self._known[label_key]

    def _class_name(self, label: Any, label_key: str | None, index: int) -> str:
        if isinstance(label, str):
            return label
        number = class_number(label)
        if number is None:
            raise ValueError(
                f"the label of item {index} must be a class number or name, "
                f"got {type(label).__name__}."
            )
        names = self._names(label_key)
        if names is None:
            return str(number)
        if not 0 <= number < len(names):
            raise ValueError(
                f"the label of item {index} must be below the {len(names)} class names, "
                f"got {number}; give 'class_names'."
            )
        return names[number]


def _places(item: Any, index: int) -> tuple[samples.Place, samples.Place]:
    """Return where an item keeps its image and its label; an error says which item it is."""
    try:
        return samples.image_place(item), samples.label_place(item)
    except TypeError as error:
        raise ValueError(f"item {index}: {error}") from error


def _check(image: Any, index: int) -> int:
    """Count the images of an item; an error says which item it is."""
    try:
        return images.check_image(image)
    except (TypeError, ValueError) as error:
        raise type(error)(f"item {index}: {error}") from error
