"""The photographs of `fewshot.py`: which classes, which images, and folders that commands can read.

    python examples/benchmarks/fewshot_data.py --train 'data/*-train*.parquet' \
        --test 'data/*-val.parquet' --pack packed/

`--pack` writes one Parquet file to train from and one to test on, with no more than is needed. They
are small enough to be sent to another machine, and `fewshot.py` reads them as it does the others.
"""

from __future__ import annotations

import argparse
import glob
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import diffaug
from diffaug.seeds import derive_seed

#: What the embedded base was trained on, and how many of its samples of a class are named.
FIGURES = Path(diffaug.__file__).parent / "assets/tiny-translate/figures.json"
#: Classes of each setting; photographs of a class to choose few shots from, and to test on.
CLASSES, TRAIN, TEST = 20, 100, 50
SETTINGS = {
    "drawn": "classes that the base was trained on, and of which a judge names half of its samples",
    "seen": "classes drawn from all that the base was trained on",
    "new": "classes that the base has never seen",
    "mixed": "ten of the first kind and ten of the last",
    "tail": "new classes, with a hundred photographs of the first and five of the last",
}
#: Photographs of the first and of the last class of the long tail.
HEAD, END = 100, 5


def files_of(patterns: str | Sequence[str]) -> list[Path]:
    """Return the Parquet files of some patterns, sorted."""
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    found = sorted({Path(file) for pattern in listed for file in glob.glob(str(pattern))})
    if not found:
        raise FileNotFoundError(f"'train' and 'test' must be Parquet files, found none at {listed}")
    return found


def classes_of(setting: str, present: Sequence[str], count: int = CLASSES) -> list[str]:
    """Choose the classes of a setting among those present, by a hash and not by hand."""
    if setting == "tail":
        return classes_of("new", present, count)
    if setting == "mixed":
        half = count // 2
        chosen = classes_of("drawn", present, half), classes_of("new", present, half)
        return sorted(chosen[0] + chosen[1]) if all(chosen) else []
    figures = json.loads(FIGURES.read_text())
    known, named = set(figures["classes"]), figures["per_class"]
    fits = {
        "drawn": lambda name: name in known and named[name] >= 0.5,
        "seen": lambda name: name in known,
        "new": lambda name: name not in known,
    }[setting]
    fitting = [name for name in sorted(set(present)) if fits(name)]
    return sorted(sorted(fitting, key=lambda name: derive_seed("fewshot", setting, name))[:count])


def rows_of(files: Sequence[Path], classes: set[str], most: int) -> Iterator[tuple[str, bytes]]:
    """Yield the label and the file of at most so many images of each class, in their order."""
    import pyarrow.parquet

    count: Counter[str] = Counter()
    for file in files:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(
            512, columns=["image", "label"]
        ):
            images, labels = batch.column("image"), batch.column("label").to_pylist()
            for index, label in enumerate(labels):
                if label in classes and count[label] < most:
                    count[label] += 1
                    yield label, images[index].as_py()["bytes"]


def labels_in(files: Sequence[Path]) -> list[str]:
    """Return the names of all classes in some files."""
    import pyarrow.parquet

    names: set[str] = set()
    for file in files:
        names.update(
            pyarrow.parquet.read_table(file, columns=["label"])["label"].unique().to_pylist()
        )
    return sorted(names)


def used(present: Sequence[str]) -> dict[str, list[str]]:
    """Return the classes of each setting that there are photographs for."""
    chosen = {setting: classes_of(setting, present) for setting in SETTINGS}
    return {setting: names for setting, names in chosen.items() if len(names) > 1}


def tail_counts(classes: Sequence[str]) -> dict[str, int]:
    """Return how many photographs each class of a long tail has: it falls as an exponential."""
    order = sorted(classes, key=lambda name: derive_seed("fewshot", "tail", name))
    last = max(1, len(order) - 1)
    return {name: round(HEAD * (END / HEAD) ** (rank / last)) for rank, name in enumerate(order)}


def write_folders(train: Sequence[Path], test: Sequence[Path], work: Path) -> dict[str, list[str]]:
    """Write a folder to train from and one to test on for each setting; return their classes."""
    settings = used(labels_in(train))
    record = work / "classes.json"
    if record.is_file() and json.loads(record.read_text()) == settings:
        return settings
    tail = tail_counts(settings.get("tail", []))
    homes = defaultdict(list)
    for setting, names in settings.items():
        for name in names:
            homes[name].append(setting)
    for part, files, most in (("train", train, TRAIN), ("test", test, TEST)):
        numbers: Counter[str] = Counter()
        for label, data in rows_of(files, set(homes), most):
            for setting in homes[label]:
                if (setting, part) == ("tail", "train") and numbers[label] >= tail[label]:
                    continue
                folder = work / setting / part / quote(label, safe=" -'")
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{numbers[label]:03d}.jpg").write_bytes(data)
            numbers[label] += 1
    record.write_text(json.dumps(settings, indent=1))
    return settings


def pack(train: Sequence[Path], test: Sequence[Path], folder: Path) -> int:
    """Write `train.parquet` and `test.parquet` with what the settings need; return their bytes."""
    import pyarrow
    import pyarrow.parquet

    classes = {name for names in used(labels_in(train)).values() for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    for part, files, most in (("train", train, TRAIN), ("test", test, TEST)):
        rows = list(rows_of(files, classes, most))
        table = pyarrow.table(
            {
                "image": [{"bytes": data, "path": None} for _, data in rows],
                "label": [label for label, _ in rows],
            }
        )
        # JPEGs do not get smaller.
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet", compression="none")
    return sum(file.stat().st_size for file in folder.glob("*.parquet"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", required=True, help="Parquet files, or patterns")
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--pack", type=Path, required=True, help="folder for the two files")
    options = parser.parse_args()
    size = pack(files_of(options.train), files_of(options.test), options.pack)
    print(f"{size / 1e6:.1f} MB in {options.pack}")
