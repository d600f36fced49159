"""Which formats a set can be exported to, and the folder that an export is written to."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from diffaug.arguments import choice
from diffaug.checked import checked
from diffaug.errors import require
from diffaug.export.parquet import write_parquet
from diffaug.export.records import Records
from diffaug.export.webdataset import write_tar
from diffaug.offline.card import CARD, card
from diffaug.offline.contents import digest
from diffaug.offline.destination import OutputFolder, check_outside
from diffaug.offline.released import RECORD, ReleaseSummary, write_release
from diffaug.progress import progress_bar

FORMATS = ("diffmix", "parquet", "webdataset", "hf")
NEEDED = {
    "parquet": ["pyarrow", "pyarrow.parquet"],
    "webdataset": [],
    "hf": ["pyarrow", "pyarrow.parquet", "datasets"],
}
#: Images in a file.
SHARD = 2000

#: Writes some images of a set to one file.
Writer = Callable[[Records, int, int, Path], None]


@checked
def export_set(
    folder: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    format: str = "diffmix",
    progress: bool = False,
) -> ReleaseSummary:
    """Write a finished set in a format that other programs read.

    ``"parquet"`` has files for pandas and for Hugging Face's ``load_dataset(destination)``,
    ``"webdataset"`` tar files, ``"hf"`` a folder for ``datasets.load_from_disk``. These three hold
    the images that no filter has dropped, with copies of originals if the set has them: the label
    as a number with a name, the soft label, the source, and the other columns of the manifest.

    ``"diffmix"`` is what Diff-Mix's training code reads:
    ``data/<class of the source>/<target class>-<number>-<strength>.<format>``, ``meta.csv`` with a
    row for each image, and ``remained_meta.csv`` with those that a filter kept. Copies of originals
    are left out. Images made from text, and edits, which keep their class, have strength 1.

    Args:
        folder: a finished set of ours.
        destination: a new folder, or the folder of this export, which is resumed.
        format: ``"diffmix"``, ``"parquet"``, ``"webdataset"`` or ``"hf"``.
        progress: show a bar on stderr.

    Raises:
        ValueError: the folder holds no finished set, or no image to export; or two classes have
            names that are the same in Diff-Mix's format.
        DestinationError: the destination lies in the set, holds something else, or is in use.
        MissingDependencyError: ``pyarrow``, or for ``"hf"`` ``datasets``, is not installed.

    Example:
        >>> import tempfile, torch
        >>> from diffaug import PromptEdit, RecordingBackend, augment_dataset, export_set
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     edit = PromptEdit(backend=RecordingBackend())
        ...     data = [(torch.rand(3, 32, 32), 0), (torch.rand(3, 32, 32), 1)]
        ...     done = augment_dataset(data, f"{folder}/set", edit, class_names=["cat", "dog"])
        ...     export_set(f"{folder}/set", f"{folder}/tar", format="webdataset").images
        2
    """
    format = choice("format", format, FORMATS)
    if format == "diffmix":
        return write_release(folder, destination, progress=progress)
    for module in NEEDED[format]:
        require(module)
    root = Path(folder).expanduser().absolute()
    records = Records(root)
    check_outside(destination, root)
    identity = {"exported": root.name, "format": format, "set": digest(root)}
    out = OutputFolder(destination, identity, RECORD)
    out.recorded()
    with out, progress_bar(progress, len(records)) as bar:
        out.write(RECORD, json.dumps({"identity": out.identity}).encode() + b"\n")

        def advance(images: int) -> None:
            if bar is not None:
                bar.update(images)

        if format == "hf":
            _to_disk(records, out, advance)
        else:
            write, pattern = _WRITERS[format]
            _in_shards(records, out, write, pattern, advance)
        written = len(records) - len(records.skipped)
        if not written:
            raise ValueError(
                f"'folder' must hold images that can be read, and of {len(records)} in '{folder}' "
                f"none can: {records.skipped[0].source}: {records.skipped[0].reason}."
            )
        if format != "hf":  # its reader knows the columns by itself
            out.write(CARD, _card(records, format).encode())
    classes, skipped = tuple(records.classes or ()), tuple(records.skipped)
    return ReleaseSummary(out.folder, written, written, classes, skipped)


def _in_shards(
    records: Records, out: OutputFolder, write: Writer, pattern: str, advance: Callable[[int], None]
) -> None:
    """Write the files that are missing, each whole or not at all."""
    total = -(-len(records) // SHARD)
    for number in range(total):
        start, stop = number * SHARD, min((number + 1) * SHARD, len(records))
        name = pattern.format(number, total)
        if not (out.folder / name).exists():
            with out.replacing(name) as path:
                write(records, start, stop, path)
        advance(stop - start)


def _to_disk(records: Records, out: OutputFolder, advance: Callable[[int], None]) -> None:
    """Write what ``datasets.load_from_disk`` reads, from Parquet files that are removed."""
    if (out.folder / "state.json").exists():  # it is moved here last
        return
    datasets = require("datasets")
    with out.scratch() as scratch:
        paths = []
        for start in range(0, len(records), SHARD):
            stop = min(start + SHARD, len(records))
            write_parquet(records, start, stop, path := scratch / f"{start:09d}.parquet")
            paths.append(str(path))
            advance(stop - start)
        read = datasets.Dataset.from_parquet(paths, cache_dir=str(scratch / "cache"))
        read.info.download_checksums = None  # paths of this machine, from datasets before 5
        read.save_to_disk(scratch / "set")
        state = scratch / "set" / "state.json"
        # It would be a random number, as if the same set were another one each time.
        told = {**json.loads(state.read_text()), "_fingerprint": out.identity["set"][:16]}
        state.write_text(json.dumps(told, indent=2, sort_keys=True))
        made = sorted((scratch / "set").iterdir(), key=lambda path: path.name == "state.json")
        for path in made:
            os.replace(path, out.folder / path.name)


def _card(records: Records, format: str) -> str:
    """Write the README of an export: what it holds, and the line that reads it."""
    paths, code = _READING[format]
    own = ("image", "label", "soft_label") if records.classes is not None else ("image", "label")
    types = {**dict.fromkeys(own, "str"), **records.types}
    return card(replace(records.contents, types=types), paths=[paths], code=code)


_WRITERS: dict[str, tuple[Writer, str]] = {
    "parquet": (write_parquet, "data/train-{:05d}-of-{:05d}.parquet"),
    "webdataset": (write_tar, "{:06d}.tar"),
}
#: The files that hold the images, and how to read them.
_READING = {
    "parquet": (
        "data/*.parquet",
        "from datasets import load_dataset\n\n"
        'data = load_dataset("path/of/this/folder", split="train")  # or its name on the Hub\n'
        'image, label, soft = data[0]["image"], data[0]["label"], data[0]["soft_label"]',
    ),
    "webdataset": (
        "*.tar",
        "import glob\n\nimport webdataset\n\n"
        'tars = sorted(glob.glob("path/of/this/folder/*.tar"))\n'
        'data = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")\n'
        "about = next(iter(data))['json']  # the label, the soft label, the source, the prompt",
    ),
}
