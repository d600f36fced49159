"""Generated images among real ones."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Never

import torch
from torch.utils.data import Dataset

from diffaug.arguments import MOST_CLASSES, choice, unit, whole
from diffaug.checked import Items, checked
from diffaug.datasets.draws import Draws
from diffaug.datasets.epoch import pass_epoch
from diffaug.datasets.generated import GeneratedDataset
from diffaug.datasets.loaders import warn_of_other_pixels
from diffaug.datasets.numbering import (
    class_numbers,
    item_classes,
    may_be_a_part,
    source_keys,
    sources_outside,
)
from diffaug.folders import split_name
from diffaug.labels import samples
from diffaug.labels.dataset import class_counts, known_labels
from diffaug.labels.label import as_probabilities, check_gamma, class_number
from diffaug.labels.map_style import check_dataset, position
from diffaug.labels.origins import root_of
from diffaug.labels.pairs import long_tail_weights
from diffaug.transforms.strategies import warn_of_large_p

REPLACEMENTS = ("global", "class", "local", "concat")
#: Classes that a set lacks are no accident where they would be one in fewer sets than this.
ACCIDENT = 0.01


@checked
class MixedDataset(Dataset):
    """Put generated images among real ones; every label is soft.

    A class has one number in both. Names are compared, and the labels of images that both know: a
    contradiction is an error, and where nothing can be compared, a warning says what is assumed.
    Images that were made from others than those of ``dataset``, such as those of a validation
    split, are left out, with a warning that counts them. Another counts the files of which the
    dataset sees other pixels than the set, such as photographs that lie on their side.

    Args:
        dataset: the real images: map-style, of ``(image, label)`` or of dicts.
        generated: a :class:`GeneratedDataset` or its folder.
        classes: the names of the classes in the order of the dataset's labels, or the number of
            each name; None for what the dataset says, after its ``target_transform``.
        p: probability in [0, 1] that a real image is replaced; None for 0.3. ``"concat"`` takes
            None only.
        gamma: of the soft labels, at least 0; None for the generated dataset's own.
        num_classes: width of the labels; None for as many as there are classes.
        replacement: ``"global"`` (by one drawn uniformly from the whole set, as Diff-Mix does),
            ``"class"`` (by one whose target is the image's own class, so that no class becomes
            rarer; an image that has none stays), ``"local"`` (by one made from the same image, as
            DA-Fusion does; an image that has none stays), or ``"concat"`` (generated images follow
            the real ones, as DiffuseMix does).
        long_tail: for ``"global"``: draw the target class with weight ``1 / (n_c + 1)``, n_c being
            the dataset's images of it, then an image of that class.
        seed: draws follow from (seed, epoch, index, n), as in :class:`JointTransform`; None draws
            from torch's global random state.
        own_sources: leave out images made from others; False keeps them all, and takes no index of
            a source for one of ``dataset``.
        image_getter, labels_getter: where image and label are, if not at the usual places.

    Shape:
        ``(image, label)``: the image as the real or the generated dataset gives it; float32
        ``(C,)``, or the label itself where those of the set are no classes.

    Raises:
        ValueError: an argument is outside its range, classes do not match, or no image is left.

    Example:
        >>> import tempfile, torch
        >>> from diffaug import DiffMix, MixedDataset, RecordingBackend, augment_dataset
        >>> photos = [(torch.rand(3, 32, 32), 0), (torch.rand(3, 32, 32), 1)]
        >>> mix = DiffMix(["cat", "dog"], backend=RecordingBackend())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = augment_dataset(photos, folder, mix, class_names=["cat", "dog"])
        ...     data = MixedDataset(photos, folder, p=0.0)
        >>> len(data), data[1][1]
        (2, tensor([0., 1.]))

    Reference:
        Wang et al., Diff-Mix, 2024, arXiv 2403.19600; Trabucco et al., DA-Fusion, 2024, arXiv
        2302.07944.
    """

    def __init__(
        self,
        dataset: Items,
        generated: GeneratedDataset | str | os.PathLike[str],
        *,
        classes: Sequence[str] | Mapping[str, int] | None = None,
        p: float | None = None,
        gamma: float | None = None,
        num_classes: int | None = None,
        replacement: str = "global",
        long_tail: bool = False,
        seed: int | None = None,
        own_sources: bool = True,
        image_getter: samples.Getter = "default",
        labels_getter: samples.Getter = "default",
    ) -> None:
        check_dataset(dataset)
        replacement = choice("replacement", replacement, REPLACEMENTS)
        if replacement == "concat" and p is not None:
            raise ValueError(f"'p' must be None where nothing is replaced (concat), got {p}.")
        if long_tail and replacement != "global":
            raise ValueError(
                f"'long_tail' must be False where the replacement is not 'global', got replacement="
                f"{replacement!r}; leave out one of them."
            )
        self.dataset = dataset
        self.image_getter = samples.check_getter("image_getter", image_getter)
        self.labels_getter = samples.check_getter("labels_getter", labels_getter)
        if not isinstance(generated, (GeneratedDataset, str, os.PathLike)):
            raise TypeError(
                "'generated' must be a GeneratedDataset or its folder, got "
                f"{type(generated).__name__}; for two sets, put a MixedDataset around another."
            )
        if not isinstance(generated, GeneratedDataset):
            generated = GeneratedDataset(generated)
        keys = source_keys(dataset, generated)
        if generated.has_classes:
            # An index alone does not show that an item is that of the set's own dataset.
            known = keys if own_sources or _has_paths(keys) else None
            numbers = class_numbers(
                dataset, generated, classes, known, labels_getter=labels_getter, stacklevel=3
            )
            generated = generated.renumbered(numbers)
        elif given := _first_given(
            classes=classes, num_classes=num_classes, gamma=gamma, long_tail=long_tail or None
        ):
            raise ValueError(
                f"'{given}' must be None where the labels of the set are no classes, such as "
                f"{generated.rows[0].get('label')!r}."
            )
        elif replacement == "class":
            raise ValueError(
                "'replacement' must not be 'class' where labels of a set are no classes, such as "
                f"{generated.rows[0].get('label')!r}; 'global' takes any image of the set."
            )
        if own_sources and replacement != "local":
            generated = _own(dataset, generated, keys)
        warn_of_other_pixels(dataset, generated, stacklevel=3)
        self.generated = generated
        self.p = 0.3 if p is None else unit("p", p)
        if replacement != "concat":
            warn_of_large_p(self.p, "with generated images alone", stacklevel=3)
        self.gamma = generated.gamma if gamma is None else check_gamma(gamma)
        self.replacement = replacement
        self._numbers: list[int | None] | None = None
        if generated.has_classes and replacement in ("global", "class") and not long_tail:
            self._numbers = item_classes(dataset, labels_getter)
        self._draws = Draws("mixed", seed, len(dataset))
        if generated.has_classes:
            self.num_classes = len(generated.classes)
            if num_classes is not None:
                self.num_classes = whole(
                    "num_classes", num_classes, len(generated.classes), MOST_CLASSES
                )
        self._pools = self._make_pools(long_tail, keys)
        if self._numbers:
            self._check_classes({number for number in self._numbers if number is not None})
        self._weights: torch.Tensor | None = None
        if long_tail:
            counts = class_counts(dataset, self.num_classes, labels_getter=labels_getter)
            present = [len(pool) > 0 for pool in self._pools]
            self._weights = long_tail_weights(counts) * torch.tensor(present)

    def _make_pools(self, long_tail: bool, keys: Sequence[str | None] | None) -> list[list[int]]:
        """Group the generated images by what they can replace: a class, or a real image."""
        if long_tail or self.replacement == "class":
            pools: list[list[int]] = [[] for _ in range(self.num_classes)]
            for index, target in enumerate(self.generated.targets):
                pools[target].append(index)
            return pools
        if self.replacement != "local":
            return []
        by_source: dict[str, list[int]] = {}
        for index, row in enumerate(self.generated.rows):
            by_source.setdefault(str(row["source"]), []).append(index)
        pools = [by_source.get(key or "", []) for key in keys or ()]
        if not any(pools):
            raise ValueError(
                "'generated' must have been made from the images of 'dataset' for "
                f"replacement='local', and no source such as {next(iter(by_source))!r} is there."
            )
        return pools

    def _check_classes(self, real: set[int]) -> None:
        """Warn where replacing makes classes rarer, or refuse where it would do nothing."""
        absent = sorted(real.difference(self.generated.targets))
        names = dict(enumerate(self.classes))  # a label may be beyond them
        if self.replacement == "class" and 0 < len(absent) == len(real):
            raise ValueError(
                "'generated' must have images of the classes of 'dataset' for replacement='class', "
                f"and has none of them, such as {names.get(absent[0], absent[0])!r}."
            )
        by_chance = len(real) * (1 - 1 / max(1, len(real))) ** len(self.generated)
        if self.replacement == "global" and absent and self.p and by_chance < ACCIDENT:
            warnings.warn(
                f"'generated' has images of {len(real) - len(absent)} of {len(real)} classes, and "
                f"none of {names.get(absent[0], absent[0])!r}: what it lacks becomes rarer as "
                "images are replaced. replacement='class' takes an image of the same class.",
                UserWarning,
                stacklevel=4,
            )

    def __len__(self) -> int:
        return len(self.dataset) + (len(self.generated) if self.replacement == "concat" else 0)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        index = position(index, len(self))
        if self.replacement == "concat":
            real = len(self.dataset)
            return self._real(index) if index < real else self._generated(index - real)
        generator = None
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self._draws.seed_of(index))
        gate = torch.rand((), generator=generator) < self.p
        chosen = self._choose(index, generator) if gate else None
        return self._real(index) if chosen is None else self._generated(chosen)

    def _choose(self, index: int, generator: torch.Generator | None) -> int | None:
        """Draw the generated image that replaces a real one; None if there is none."""
        if self.replacement == "local":
            pool: Sequence[int] = self._pools[index]
        elif self.replacement == "class":
            pool = self._pools[self._class(index)]
        elif self._weights is not None:
            pool = self._pools[int(torch.multinomial(self._weights, 1, generator=generator))]
        else:
            pool = range(len(self.generated))
        drawn = int(torch.randint(max(1, len(pool)), (), generator=generator))
        return pool[drawn] if pool else None

    def _class(self, index: int) -> int:
        """Return the class of a real image; the likeliest of a soft label."""
        number = None if self._numbers is None else self._numbers[index]
        if number is None or number >= self.num_classes:
            number = int(self._real(index)[1].argmax())  # it says what is wrong with a label
        return number

    def _real(self, index: int) -> tuple[Any, Any]:
        sample = self.dataset[index]
        image = samples.get(sample, samples.image_place(sample, self.image_getter))
        label = samples.get(sample, samples.label_place(sample, self.labels_getter))
        if self.generated.has_classes:
            return image, as_probabilities(label, self.num_classes)
        return image, _like_generated(label)

    def _generated(self, index: int) -> tuple[Any, Any]:
        if self.generated.has_classes:
            label = self.generated.label(index, self.gamma, self.num_classes)
        else:
            label = self.generated.label(index)
        return self.generated.image(index), label

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins, in every worker; each epoch draws other images.

        Args:
            epoch: at least 0.
        """
        epoch = whole("epoch", epoch, 0)
        pass_epoch(self.dataset, epoch)
        self._draws.set_epoch(epoch, len(self.dataset))

    @property
    def seed(self) -> int | None:
        """The seed, or None where draws follow torch's global random state."""
        return self._draws.seed

    @property
    def datasets(self) -> list[Any]:
        """The two that follow each other with ``"concat"``, as ``ConcatDataset`` has them."""
        if self.replacement != "concat":
            raise AttributeError("only replacement='concat' has 'datasets'.")
        return [self.dataset, self.generated]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the labels."""
        return self.generated.classes

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The number of each class."""
        return self.generated.class_to_idx

    @property
    def targets(self) -> list[int]:
        """The class of each item as if nothing were replaced, where the dataset lists them."""
        known = known_labels(self.dataset, self.labels_getter)
        numbers = [class_number(label) for label in known or [None]]
        if any(number is None for number in numbers) or not self.generated.has_classes:
            raise AttributeError("this MixedDataset has no 'targets': its dataset lists none.")
        if self.replacement == "concat":
            numbers += self.generated.targets
        return [int(number) for number in numbers]  # type: ignore[arg-type]

    @property
    def transform(self) -> Never:
        raise AttributeError("a MixedDataset has no 'transform' of its own.")

    @transform.setter
    def transform(self, transform: Any) -> None:
        raise AttributeError(
            "a MixedDataset has no 'transform' of its own; put it around the whole: "
            "JointTransform(mixed, v2.Identity(), then=transform)."
        )


def _own(
    dataset: Any, generated: GeneratedDataset, keys: Sequence[str | None] | None
) -> GeneratedDataset:
    """Leave out the images that were made from others than those of a dataset."""
    outside = set(sources_outside(dataset, generated, keys))
    if keys is None and may_be_a_part(dataset, generated):
        warnings.warn(
            f"'generated' was made from a {generated.source}, and 'dataset' seems to be a part of "
            "it: images that were made from those of a validation split would not be noticed. "
            "Augment the part alone, or take a Subset of the whole; own_sources=False accepts it.",
            UserWarning,
            stacklevel=4,
        )
    made_from, folder = split_name(generated.source or ""), split_name(root_of(dataset) or "")
    if made_from and folder and made_from != folder:
        # The names below may be the same in both.
        warnings.warn(
            f"'generated' was made from '{generated.source}', and the images of 'dataset' are in "
            f"'{root_of(dataset)}': a validation split must not be trained on; own_sources=False "
            "accepts it.",
            UserWarning,
            stacklevel=4,
        )
    if not outside:
        return generated
    count, source = len(outside), generated.rows[min(outside)]["source"]
    if count == len(generated):
        raise ValueError(
            f"'generated' must have been made from images of 'dataset', and all {count} were made "
            f"from others beside them, such as {source!r}; own_sources=False keeps them."
        )
    warnings.warn(
        f"{count} of {len(generated)} generated images were made from images that are not in "
        f"'dataset', such as {source!r}, and are left out: a validation split must not be trained "
        "on. Split first, then augment with only=; own_sources=False keeps them.",
        UserWarning,
        stacklevel=4,
    )
    return generated.selected(n for n in range(len(generated)) if n not in outside)


def _has_paths(keys: Sequence[str | None] | None) -> bool:
    return any("/" in (key or "") for key in keys or ())


def _first_given(**arguments: Any) -> str | None:
    return next((name for name, value in arguments.items() if value is not None), None)


def _like_generated(label: Any) -> Any:
    """Return a label that is no class as a set gives it: numbers as a tensor, one as it is."""
    several = isinstance(label, (list, tuple)) or getattr(label, "ndim", 0) > 0
    return torch.as_tensor(label) if several else label
