"""Datasets of generated images, and of generated ones among real ones."""

import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from diffaug import images
from diffaug.arguments import unit, whole
from diffaug.datasets.joint import Epoch, check_dataset, position, tell_epoch
from diffaug.errors import UnreadableImageError
from diffaug.labels import samples
from diffaug.labels.class_names import class_names_of
from diffaug.labels.dataset import class_counts
from diffaug.labels.label import as_probabilities, check_gamma, soft_label
from diffaug.labels.pairs import long_tail_weights
from diffaug.offline.manifest import Row, read_manifest, read_run
from diffaug.seeds import derive_seed

REPLACEMENTS = ("global", "local", "concat")


class GeneratedDataset(Dataset):
    """Read an offline set: each generated image with its soft label.

    The manifest keeps strengths, not weights, so gamma is free to be tried. Images that a filter
    dropped are left out, and so are the copies of originals unless asked for.

    Args:
        folder: a finished set of ``augment_folder`` or ``diffaug augment``; may have been moved.
        classes: names in the order of the labels; None for those of the set itself, in the order
            its transform or its source had them.
        gamma: at least 0, as in :func:`soft_label`; None gives 0.5 to sets of :class:`DiffMix`.
        num_classes: width of the labels; None for as many as there are classes.
        transform: of the image alone.
        originals: read the copies of sources, too.

    Shape:
        ``(image, label)``: a PIL image, or what ``transform`` makes of it; float32 ``(C,)``.

    Raises:
        ValueError: no manifest, nothing left in it, or a class that ``classes`` does not name.
        UnreadableImageError: (on access) an image is gone or damaged.

    Example:
        >>> import tempfile, torch
        >>> from diffaug import DiffMix, GeneratedDataset, RecordingBackend, augment_dataset
        >>> photos = [(torch.rand(3, 32, 32), 0), (torch.rand(3, 32, 32), 1)]
        >>> mix = DiffMix(["cat", "dog"], strength=0.5, backend=RecordingBackend())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = augment_dataset(photos, folder, mix, class_names=["cat", "dog"])
        ...     image, label = GeneratedDataset(folder, gamma=1.0)[0]
        >>> float(label.sum())
        1.0
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        gamma: float | None = None,
        num_classes: int | None = None,
        transform: Any = None,
        originals: bool = False,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.gamma = check_gamma(0.5 if gamma is None else gamma)
        self.transform = transform
        rows = read_manifest(self.folder)
        self.rows = [
            row
            for row in rows
            if row.get("kept") is not False and (originals or row.get("method") != "original")
        ]
        if not self.rows:
            raise ValueError(
                f"'folder' must hold generated images that are kept, and of {len(rows)} in "
                f"'{folder}' none is."
            )
        unnamed = [row["file_name"] for row in self.rows if not isinstance(row.get("label"), str)]
        if unnamed:
            raise ValueError(
                f"'folder' must hold a set whose images have a label, and '{unnamed[0]}' in "
                f"'{folder}' has none; make one with augment_folder or 'diffaug augment'."
            )
        self._number(self._own_classes() if classes is None else classes, num_classes)

    def _own_classes(self) -> list[str]:
        run = read_run(self.folder) or {"identity": {}}
        if names := run["identity"].get("transform.class_names") or run.get("classes"):
            return list(names)
        found = {name for row in self.rows for name in (row["label"], _source_label(row))}
        if "classes" in run and all(name.isdecimal() for name in found):
            # Of a dataset whose classes are numbers: '10' does not come before '2'.
            return [str(number) for number in range(max(map(int, found)) + 1)]
        return sorted(found)

    def _number(self, classes: Sequence[str], num_classes: int | None = None) -> None:
        self.classes = list(classes)
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"'classes' must name each class once, got {self.classes}.")
        self.num_classes = len(self.classes)
        if num_classes is not None:
            self.num_classes = whole("num_classes", num_classes, self.num_classes)
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        for row in self.rows:
            for name in (row["label"], _source_label(row)):
                if name not in self._numbers:
                    raise ValueError(
                        f"'classes' must name every class of '{self.folder}', and {name!r} is not "
                        f"among the {len(self.classes)}."
                    )

    def renumbered(self, classes: Sequence[str]) -> "GeneratedDataset":
        """Return the same images with labels in the order of other names."""
        other = copy.copy(self)
        other._number(classes)
        return other

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        index = position(index, len(self))
        return self.image(index), self.label(index)

    def image(self, index: int) -> Any:
        """Read one image."""
        path = self.folder / self.rows[index]["file_name"]
        try:
            image = images.to_pil(images.read_image(path))
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error} It is listed in {self.folder / 'metadata.jsonl'}; run the same "
                "'diffaug augment' again, and it is made anew."
            ) from error
        return image if self.transform is None else self.transform(image)

    def label(
        self, index: int, gamma: float | None = None, num_classes: int | None = None
    ) -> torch.Tensor:
        """Return one soft label, at another gamma or width if given."""
        row = self.rows[index]
        target, source = self._numbers[row["label"]], self._numbers[_source_label(row)]
        gamma = self.gamma if gamma is None else gamma
        # Made from text, there is no strength: nothing of the source is left.
        strength = 1.0 if row.get("strength") is None else row["strength"]
        return soft_label(source, target, strength, gamma, num_classes or self.num_classes)

    @property
    def targets(self) -> list[int]:
        """The target class of every image, as torchvision's datasets have it."""
        return [self._numbers[row["label"]] for row in self.rows]


class MixedDataset(Dataset):
    """Put generated images among real ones; every label is soft.

    Args:
        dataset: the real images: map-style, of ``(image, label)`` or of dicts.
        generated: a :class:`GeneratedDataset` or its folder; its classes are matched to the
            dataset's by name where the dataset says names.
        p: probability in [0, 1] that a real image is replaced; 0.3 if None. ``"concat"`` has none.
        gamma: of the soft labels, at least 0; None for the generated dataset's own.
        num_classes: width of the labels; None for as many as there are classes.
        replacement: ``"global"`` (by one drawn uniformly from the whole set, as Diff-Mix does),
            ``"local"`` (by one made from the same image, as DA-Fusion does; images without any
            stay), or ``"concat"`` (generated images follow the real ones, as DiffuseMix does).
        long_tail: for ``"global"``: draw the target class with weight ``1 / (n_c + 1)``, n_c being
            the dataset's images of it, then an image of that class.
        seed: draws follow from (seed, epoch, index), whatever the number of workers; None draws
            from torch's global random state.

    Shape:
        ``(image, label)``: as the two datasets give images; float32 ``(C,)``.

    Raises:
        ValueError: an argument is outside its range, classes do not match, or ``"local"`` finds no
            image that anything was made from.

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
        dataset: Any,
        generated: GeneratedDataset | str | os.PathLike[str],
        *,
        p: float | None = None,
        gamma: float | None = None,
        num_classes: int | None = None,
        replacement: str = "global",
        long_tail: bool = False,
        seed: int | None = None,
    ) -> None:
        check_dataset(dataset)
        if replacement not in REPLACEMENTS:
            raise ValueError(
                f"'replacement' must be one of {', '.join(REPLACEMENTS)}, got {replacement!r}."
            )
        if replacement == "concat" and p is not None:
            raise ValueError(f"'p' must be None where nothing is replaced (concat), got {p}.")
        if long_tail and replacement != "global":
            raise ValueError(f"'long_tail' is for replacement='global', got {replacement!r}.")
        self.dataset = dataset
        names = class_names_of(dataset)
        if not isinstance(generated, GeneratedDataset):
            generated = GeneratedDataset(generated, classes=names)
        elif names is not None:
            generated = generated.renumbered(names)
        self.generated = generated
        self.p = 0.3 if p is None else unit("p", p)
        if replacement != "concat" and self.p > 0.5:
            warnings.warn(
                f"'p' is {self.p}: above 0.5 the authors of Diff-Mix lost accuracy, down to 37 % "
                "from 58 % with generated images alone.",
                UserWarning,
                stacklevel=2,
            )
        self.gamma = generated.gamma if gamma is None else check_gamma(gamma)
        self.num_classes = generated.num_classes
        if num_classes is not None:
            self.num_classes = whole("num_classes", num_classes, len(generated.classes))
        self.replacement = replacement
        self.seed = None if seed is None else whole("seed", seed, 0)
        self._epoch = Epoch()
        self._pools = self._make_pools(long_tail)
        self._weights: torch.Tensor | None = None
        if long_tail:
            counts = class_counts(dataset, self.num_classes)
            present = [len(pool) > 0 for pool in self._pools]
            self._weights = long_tail_weights(counts) * torch.tensor(present)

    def _make_pools(self, long_tail: bool) -> list[list[int]]:
        """Group the generated images by what they may replace: class or real image."""
        if long_tail:
            pools: list[list[int]] = [[] for _ in range(self.num_classes)]
            for place, target in enumerate(self.generated.targets):
                pools[target].append(place)
            return pools
        if self.replacement != "local":
            return []
        by_source: dict[str, list[int]] = {}
        for place, row in enumerate(self.generated.rows):
            by_source.setdefault(str(row["source"]), []).append(place)
        pools = [by_source.get(key, []) for key in _paths(self.dataset) or ()]
        if not any(pools):  # made by augment_dataset
            pools = [by_source.get(str(place), []) for place in range(len(self.dataset))]
        if not any(pools):
            raise ValueError(
                "'generated' must have been made from the images of 'dataset' for "
                f"replacement='local', and no source such as {next(iter(by_source))!r} is there."
            )
        return pools

    def __len__(self) -> int:
        return len(self.dataset) + (len(self.generated) if self.replacement == "concat" else 0)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        index = position(index, len(self))
        if self.replacement == "concat":
            real = len(self.dataset)
            return self._real(index) if index < real else self._made(index - real)
        generator = None
        if self.seed is not None:
            salt = derive_seed("mixed", self.seed, int(self._epoch), index)
            generator = torch.Generator().manual_seed(salt)
        gate = torch.rand((), generator=generator) < self.p
        chosen = self._choose(index, generator)
        return self._made(chosen) if gate and chosen is not None else self._real(index)

    def _choose(self, index: int, generator: torch.Generator | None) -> int | None:
        """Draw a generated image to replace a real one; None where there is none."""
        if self.replacement == "local":
            pool: Sequence[int] = self._pools[index]
        elif self._weights is not None:
            pool = self._pools[int(torch.multinomial(self._weights, 1, generator=generator))]
        else:
            pool = range(len(self.generated))
        drawn = int(torch.randint(max(1, len(pool)), (), generator=generator))
        return pool[drawn] if pool else None

    def _real(self, index: int) -> tuple[Any, torch.Tensor]:
        sample = self.dataset[index]
        label = samples.get(sample, samples.label_place(sample))
        image = samples.get(sample, samples.image_place(sample))
        return image, as_probabilities(label, self.num_classes)

    def _made(self, index: int) -> tuple[Any, torch.Tensor]:
        label = self.generated.label(index, self.gamma, self.num_classes)
        return self.generated.image(index), label

    def set_epoch(self, epoch: int) -> None:
        """Tell the dataset, in every worker, which epoch begins, so that other images are drawn.

        Args:
            epoch: at least 0.
        """
        self._epoch.set(epoch)
        tell_epoch(self.dataset, epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def _source_label(row: Row) -> str:
    """Return the class of the image that a row was made from; a stand-in kept it whole."""
    return str(row.get("source_label") or row["label"])


def _paths(dataset: Any) -> list[str] | None:
    """Return each image's path below the root of an ImageFolder, or of what a subset is of."""
    if isinstance(dataset, Subset):
        inside = _paths(dataset.dataset)
        return inside and [inside[index] for index in dataset.indices]
    files, root = getattr(dataset, "samples", None), getattr(dataset, "root", None)
    if files and root and len(files) == len(dataset):
        return [Path(os.path.relpath(path, root)).as_posix() for path, *_ in files]
    return None
