"""Which photographs train a classifier, and which test it: split first, by the file."""

import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffaug.arguments import whole
from diffaug.folders import class_of
from diffaug.labels.few_shot import few_shot_paths
from diffaug.offline.folder_source import FolderSource
from diffaug.offline.trees import LocalTree
from diffaug.seeds import derive_seed


@dataclass(frozen=True)
class Part:
    """The photographs of one training: none is on both sides.

    Args:
        seed: of the choice.
        fold: which fold is tested; None for a test folder.
        shots: images of each class to train on; None for all.
        train: paths below the source.
        test: paths below the folder that is tested on.
    """

    seed: int
    fold: int | None
    shots: int | None
    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def name(self) -> str:
        """What files of this part are called."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.shots or 'all'}-{self.seed}{fold}"


@dataclass(frozen=True)
class Photographs:
    """The photographs that there are.

    Args:
        root: the folder to train from.
        keys: paths of its images.
        test_root: the folder to test on; the same without a test folder.
        test_keys: paths of its images.
        classes: names in the order of their numbers.
        folds: into how many parts the photographs are divided; None with a test folder.
        notes: what was left out.
    """

    root: Path
    keys: tuple[str, ...]
    test_root: Path
    test_keys: tuple[str, ...]
    classes: tuple[str, ...]
    folds: int | None
    notes: tuple[str, ...] = ()

    def parts(self, shots: int | None, seeds: Sequence[int]) -> Iterator[Part]:
        """Yield the photographs of each training, for all seeds and folds."""
        for seed in seeds:
            if self.folds is None:
                yield Part(seed, None, shots, _few(self.keys, shots, seed), self.test_keys)
                continue
            folds = _folds(self.root, self.keys, self.folds, seed)
            for number, test in enumerate(folds):
                rest = sorted(key for other in folds if other is not test for key in other)
                yield Part(seed, number, shots, _few(rest, shots, seed), tuple(sorted(test)))


def photographs(
    source: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    folds: int | None = None,
) -> Photographs:
    """List the photographs, and check that they can be divided.

    Raises:
        ValueError: a folder does not exist or holds no photographs, a class has too few, or both
            ``test`` and ``folds`` are given.
    """
    root, keys = _listed(source, "source")
    classes = tuple(dict.fromkeys(map(class_of, keys)))
    if len(classes) < 2:
        raise ValueError(f"'source' must have images in two class folders or more, got '{source}'.")
    if test is None:
        count = _fold_count(keys, classes, folds)
        return Photographs(root, keys, root, keys, classes, count)
    if folds is not None:
        raise ValueError(
            f"'folds' must not be given with 'test', which says what to test on, got {folds!r}."
        )
    test_root, test_keys = _listed(test, "test")
    if unknown := sorted(set(map(class_of, test_keys)).difference(classes)):
        raise ValueError(
            f"'test' must have the class folders of 'source', and '{unknown[0]}' is not there; "
            "rename or remove it."
        )
    if _inside(test_root, root) or _inside(root, test_root):
        raise ValueError(f"'test' must lie outside 'source', got '{test}' and '{source}'; move it.")
    notes: tuple[str, ...] = ()
    twins = _same_files(root, keys, test_root, test_keys)
    if twins:
        test_keys = tuple(key for key in test_keys if key not in twins)
        notes = (f"{len(twins)} test images are in 'source', too, and are not tested on",)
        warnings.warn(f"{notes[0]}, such as '{sorted(twins)[0]}'.", UserWarning, stacklevel=4)
    if not test_keys:
        raise ValueError("'test' must hold other images than 'source', and all of them are there.")
    return Photographs(root, keys, test_root, test_keys, classes, None, notes)


def _listed(folder: str | os.PathLike[str], name: str) -> tuple[Path, tuple[str, ...]]:
    try:
        source = FolderSource(folder)
    except ValueError as error:
        raise ValueError(str(error).replace("'source'", f"'{name}'", 1)) from error
    if not isinstance(source.files, LocalTree):
        raise ValueError(f"'{name}' must be a folder on this machine, got '{folder}'; copy it.")
    return Path(source.files.root), tuple(sorted(source.keys, key=lambda k: (class_of(k), k)))


def _inside(folder: Path, other: Path) -> bool:
    return folder.resolve().is_relative_to(other.resolve())


def _fold_count(keys: Sequence[str], classes: Sequence[str], folds: int | None) -> int:
    """Return the number of folds: five, or fewer where a class has fewer images."""
    labels = [class_of(key) for key in keys]
    fewest = min(classes, key=labels.count)
    count = labels.count(fewest)
    if count < 2:
        raise ValueError(
            f"'test' must be given where a class has one image, and '{fewest}' has one: there "
            "would be none to test on."
        )
    if folds is None:
        return min(5, count)
    folds = whole("folds", folds, 2)
    if folds > count:
        raise ValueError(
            f"'folds' must be at most the images of each class, got {folds}, and '{fewest}' has "
            f"{count}."
        )
    return folds


def _few(keys: Sequence[str], shots: int | None, seed: int) -> tuple[str, ...]:
    """Choose as ``finetune(shots=...)`` does."""
    if shots is None:
        return tuple(keys)
    return tuple(few_shot_paths(keys, [class_of(key) for key in keys], shots, seed))


def _folds(root: Path, keys: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Divide each class evenly; files with the same bytes stay together."""
    groups: dict[str, list[list[str]]] = defaultdict(list)
    for group in _groups(root, keys):
        groups[class_of(group[0])].append(group)
    folds: list[list[str]] = [[] for _ in range(count)]
    for rank, name in enumerate(sorted(groups)):
        order = sorted(groups[name], key=lambda group: derive_seed("fold", seed, group[0]))
        for place, group in enumerate(order):
            folds[(place + rank) % count] += group
    return folds


def _groups(root: Path, keys: Sequence[str]) -> list[list[str]]:
    """Return files with the same bytes together, whatever class they are in."""
    groups: dict[object, list[str]] = {}
    for key, content in _contents(root, keys).items():
        groups.setdefault(content or key, []).append(key)
    return list(groups.values())


def _contents(
    root: Path, keys: Sequence[str], sizes: frozenset[int] | None = None
) -> dict[str, bytes | None]:
    """Return a hash of each file of which there may be another one; only files of one size may."""
    by_size = {key: (root / key).stat().st_size for key in keys}
    if sizes is None:
        sizes = frozenset(size for size, count in Counter(by_size.values()).items() if count > 1)
    return {
        key: hashlib.sha256((root / key).read_bytes()).digest() if size in sizes else None
        for key, size in by_size.items()
    }


def _same_files(
    root: Path, keys: Sequence[str], test_root: Path, test_keys: Sequence[str]
) -> set[str]:
    """Return the test images whose file is among the others, too."""
    sizes = frozenset((root / key).stat().st_size for key in keys)
    tested = {key: value for key, value in _contents(test_root, test_keys, sizes).items() if value}
    if not tested:
        return set()
    both = frozenset((test_root / key).stat().st_size for key in tested)
    known = set(_contents(root, keys, both).values())
    return {key for key, value in tested.items() if value in known}


def first_of_each(keys: Sequence[str], count: int) -> list[str]:
    """Return the first keys of each class, at most so many."""
    by_class: dict[str, list[str]] = {}
    for key in keys:
        by_class.setdefault(class_of(key), []).append(key)
    return [key for found in by_class.values() for key in found[:count]]
