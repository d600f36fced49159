"""Generated images among real ones."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from diffaug.arguments import choice, unit, whole
from diffaug.datasets.epoch import Epoch, pass_epoch
from diffaug.datasets.generated import GeneratedDataset
from diffaug.datasets.map_style import check_dataset, position
from diffaug.labels import samples
from diffaug.labels.class_names import class_names_of
from diffaug.labels.dataset import class_counts
from diffaug.labels.label import as_probabilities, check_gamma
from diffaug.labels.origins import image_paths
from diffaug.labels.pairs import long_tail_weights
from diffaug.seeds import derive_seed
from diffaug.transforms.strategies import warn_of_large_p

REPLACEMENTS = ("global", "local", "concat")


class MixedDataset(Dataset):
    """Put generated images among real ones; every label is soft.

    Args:
        dataset: the real images: map-style, of ``(image, label)`` or of dicts.
        generated: a :class:`GeneratedDataset` or its folder; its classes are matched to those of
            the dataset by name, if the dataset has names.
        p: probability in [0, 1] that a real image is replaced; None for 0.3. ``"concat"`` takes
            None only.
        gamma: of the soft labels, at least 0; None for the generated dataset's own.
        num_classes: width of the labels; None for as many as there are classes.
        replacement: ``"global"`` (by one drawn uniformly from the whole set, as Diff-Mix does),
            ``"local"`` (by one made from the same image, as DA-Fusion does; an image that has none
            stays), or ``"concat"`` (generated images follow the real ones, as DiffuseMix does).
        long_tail: for ``"global"``: draw the target class with weight ``1 / (n_c + 1)``, n_c being
            the dataset's images of it, then an image of that class.
        seed: draws follow from (seed, epoch, index), with any number of workers; None draws from
            torch's global random state.

    Shape:
        ``(image, label)``: the image as the real or the generated dataset gives it; float32
        ``(C,)``.

    Raises:
        ValueError: an argument is outside its range, classes do not match, or with ``"local"`` no
            image of the dataset is the source of a generated one.

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
        replacement = choice("replacement", replacement, REPLACEMENTS)
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
        if replacement != "concat":
            warn_of_large_p(self.p, "with generated images alone", stacklevel=2)
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
        """Group the generated images by what they can replace: a class, or a real image."""
        if long_tail:
            pools: list[list[int]] = [[] for _ in range(self.num_classes)]
            for index, target in enumerate(self.generated.targets):
                pools[target].append(index)
            return pools
        if self.replacement != "local":
            return []
        by_source: dict[str, list[int]] = {}
        for index, row in enumerate(self.generated.rows):
            by_source.setdefault(str(row["source"]), []).append(index)
        pools = [by_source.get(key, []) for key in image_paths(self.dataset) or ()]
        if not any(pools):  # made by augment_dataset
            pools = [by_source.get(str(index), []) for index in range(len(self.dataset))]
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
            return self._real(index) if index < real else self._generated(index - real)
        generator = None
        if self.seed is not None:
            salt = derive_seed("mixed", self.seed, int(self._epoch), index)
            generator = torch.Generator().manual_seed(salt)
        gate = torch.rand((), generator=generator) < self.p
        chosen = self._choose(index, generator)
        return self._generated(chosen) if gate and chosen is not None else self._real(index)

    def _choose(self, index: int, generator: torch.Generator | None) -> int | None:
        """Draw the generated image that replaces a real one; None if there is none."""
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

    def _generated(self, index: int) -> tuple[Any, torch.Tensor]:
        label = self.generated.label(index, self.gamma, self.num_classes)
        return self.generated.image(index), label

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins, in every worker; each epoch draws other images.

        Args:
            epoch: at least 0.
        """
        self._epoch.set(epoch)
        pass_epoch(self.dataset, epoch)
