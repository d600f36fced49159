"""What a finished set holds, counted from its manifest: classes, prompts, models, columns."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from diffaug.offline.manifest import MANIFEST, each_row, read_run, source_label

#: What the columns of a manifest mean.
MEANINGS = {
    "file_name": "where the image is, below this folder",
    "source": "the image it was made from: its path below the source, or its index in a dataset",
    "source_label": "the class of that image, where the class was changed",
    "label": "the class",
    "label_name": "the name of the class",
    "soft_label": "the weight of each class, in the order of their numbers",
    "image": "the file of the image",
    "method": "the transform that made it; `original` for a copy of the source",
    "prompt": "what the model was asked for",
    "seed": "the number that the model's noise follows from",
    "strength": "how far the model went from the source, in (0, 1]",
    "mask": "which half is the original and which the edit",
    "fractal": "the fractal that was blended in",
    "alpha": "the weight of the fractal, in [0, 1]",
    "attempts": "how often the model was asked",
    "fallback": "whether the original stands in for an image that the model refused",
    "model": "the model that made it",
    "revision": "the commit of that model on the Hugging Face Hub, or the hash of its folder",
    "versions": "the versions of the software that made it",
    "synthetic": "whether a generative model has made any of its pixels",
    "digital_source_type": "the same in IPTC's words; empty for a photograph",
    "differs": "how torchvision's `ImageFolder` sees other pixels of the source",
    "kept": "false if a filter has dropped the image; empty if none has judged it",
    "released_path": "where the image was in the release of the authors' code",
    "released_number": "its number there",
}
_TYPES = {bool: "bool", int: "int", float: "float", str: "str", list: "list"}


@dataclass(frozen=True)
class Contents:
    """What the rows of a set say together.

    Args:
        images: how many there are.
        classes: the names in the order of the labels; empty where the labels are no classes.
        per_class: images of each class.
        labels_are_classes: whether every label is the name of a class.
        types: the kind of each column's values; ``"str"`` where there are none.
        prompts, methods, models: how many images each made.
        dropped: images that a filter has dropped.
        fallbacks: originals that stand in.
        synthetic: images that a model has made any of.
        soft: whether images have something of another class, the source's.
        suffixes: of the images' files.
        sha256: of the manifest.
        source: the name of what it was made from, without its path.
        mark: whether the files are marked.
    """

    images: int
    classes: list[str]
    per_class: Mapping[str, int]
    labels_are_classes: bool
    types: Mapping[str, str]
    prompts: Counter[str]
    methods: Counter[str]
    models: Counter[str]
    dropped: int
    fallbacks: int
    synthetic: int
    soft: bool
    suffixes: list[str]
    sha256: str
    source: str
    mark: bool


def contents_of(folder: Path, *, dropped: bool = True) -> Contents:
    """Read a finished set, a row at a time; with or without what a filter has dropped."""
    run = read_run(folder) or {"identity": {}}
    labels, suffixes, types = Counter[str](), set[str](), dict[str, set[str]]()
    counts = {name: Counter[Any]() for name in ("prompt", "method", "model", "kept", "fallback")}
    names, images, synthetic, are_classes, soft = set[str](), 0, 0, True, False
    for row in each_row(folder):
        if row.get("kept") is False and not dropped:
            continue
        images += 1
        label = row.get("label")
        if isinstance(label, str):
            labels[label] += 1
            names |= {label, source_label(row)}
            soft |= source_label(row) != label
        else:
            are_classes = False
        for name, values in counts.items():
            if row.get(name) is not None:
                values[row[name]] += 1
        synthetic += bool(row.get("synthetic"))
        suffixes.add(PurePath(row["file_name"]).suffix)
        for name, value in row.items():
            kinds = types.setdefault(name, set())
            if value is not None:
                kinds.add(_TYPES.get(type(value), "str"))
    classes = own_classes(run, names) if are_classes and images else []
    return Contents(
        images=images,
        classes=classes,
        per_class={name: labels[name] for name in classes},
        labels_are_classes=are_classes and bool(images),
        types={name: _one(kinds) for name, kinds in types.items()},
        prompts=counts["prompt"],
        methods=counts["method"],
        models=counts["model"],
        dropped=counts["kept"][False],
        fallbacks=counts["fallback"][True],
        synthetic=synthetic,
        soft=soft,
        suffixes=sorted(suffixes),
        sha256=digest(folder),
        source=_name(str(run.get("source") or run.get("imported") or "images")),
        mark=bool(run["identity"].get("mark")),
    )


def own_classes(run: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return the classes of a set in the order of its labels.

    Args:
        run: what ``run.json`` says.
        names: the classes of its rows.
    """
    if known := run["identity"].get("transform.class_names") or run.get("classes"):
        return list(known)
    names = set(names)
    if "classes" in run and all(name.isdecimal() for name in names):
        # The classes of the dataset are numbers: '2' comes before '10'.
        return [str(number) for number in range(max(map(int, names)) + 1)]
    return sorted(names)


def meaning(column: str, methods: Sequence[str] = ()) -> str:
    """Say what a column of a manifest holds."""
    if known := MEANINGS.get(column):
        return known
    if column.endswith("_score"):
        return f"how the filter `{column.removesuffix('_score')}` scored it"
    if column.endswith("_kept"):
        return f"whether the filter `{column.removesuffix('_kept')}` keeps it"
    return f"drawn by {' or '.join(methods) or 'the transform'}"


def digest(folder: Path) -> str:
    """Return the SHA-256 of a manifest."""
    with (folder / MANIFEST).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one(kinds: set[str]) -> str:
    """Return the one kind that holds all values of a column."""
    if kinds <= {"int", "float"} and kinds:
        return "float" if "float" in kinds else "int"
    return kinds.pop() if len(kinds) == 1 else "str"


def _name(source: str) -> str:
    """Name a source without the folders that it lies in."""
    path = source.rstrip("/")
    return path.rpartition("/")[2] if "/" in path else path
