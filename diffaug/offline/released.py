"""Read the sets that the authors' released code has made, and write ours for that code."""

import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from diffaug import images
from diffaug.ahead import map_ahead
from diffaug.arguments import texts
from diffaug.checked import checked
from diffaug.errors import is_of_machine, machine_trouble
from diffaug.labels.class_names import twins
from diffaug.offline.destination import Destination, OutputFolder, check_outside
from diffaug.offline.layouts import (
    COLUMNS,
    FILTERED,
    NUMBER,
    PATH,
    TABLE,
    Release,
    directory_name,
    is_class,
    is_image_path,
    open_release,
    spelling,
    table_of,
)
from diffaug.offline.manifest import (
    Row,
    each_row,
    is_set,
    read_manifest,
    read_run,
    source_label,
)
from diffaug.offline.sources import Skipped, class_folder
from diffaug.progress import progress_bar
from diffaug.seeds import derive_seed
from diffaug.untrusted import open_regular, path_below

#: What an exported folder says of itself.
RECORD = "diffaug-export.json"


@dataclass(frozen=True)
class ReleaseSummary:
    """Say what was read of the authors' data, or written for their code.

    Args:
        destination: the folder that was written.
        images: how many images it has.
        kept: how many of them no filter has dropped.
        classes: the classes, in the order of their numbers.
        skipped: images that were left out, each with the reason.
    """

    destination: Path
    images: int
    kept: int
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()


@checked
def import_set(
    folder: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    filtered: bool = False,
    classes: Sequence[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> ReleaseSummary:
    """Read a set that the released code of Diff-Mix or DiffuseMix has made, as a set of ours.

    The images are copied, each into the folder of its class; of Diff-Mix that is the **target**
    class. Classes, strengths and prompts go into the manifest, so that ``GeneratedDataset``,
    ``MixedDataset``, ``filter_set`` and ``preview`` read the set with the right labels. Rows that
    contradict themselves, and images that are missing or damaged, are skipped and named. Import
    again after an interruption, and it resumes.

    Args:
        folder: of Diff-Mix, the folder with ``data/`` and ``meta.csv``; of DiffuseMix, ``result/``.
        destination: a new folder, or the folder of this import, which is resumed.
        filtered: mark the images that ``remained_meta.csv`` or ``meta_10-100per.csv`` lacks as
            dropped by a filter.
        classes: names in the order of the labels; spaces, underscores and slashes in a name are
            the same. None for those of ``source``, or else of the released set, sorted.
        source: the folder of photographs that the set was made from.
        progress: show a bar on stderr.

    Raises:
        ValueError: the folder has neither layout, its table is damaged, or no image can be used.
        DestinationError: the destination lies in the folder, holds something else, or is in use.

    Example:
        >>> import tempfile, torch
        >>> from torchvision.utils import save_image
        >>> from diffaug import GeneratedDataset, import_set
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "data", "cat").mkdir(parents=True)
        ...     save_image(torch.rand(3, 32, 32), f"{folder}/data/cat/dog-000000-0.7.png")
        ...     with tempfile.TemporaryDirectory() as destination:
        ...         done = import_set(folder, destination)
        ...         done.classes, GeneratedDataset(destination, gamma=1.0)[0][1]
        (('cat', 'dog'), tensor([0.3000, 0.7000]))
    """
    root = Path(folder).expanduser().absolute()
    if is_set(root):
        raise ValueError(f"'folder' must be of the authors' code, and '{folder}' is a set already.")
    if classes is not None:
        texts("classes", classes)
    release = open_release(root, filtered)
    photos = Path(source).expanduser().absolute() if source is not None else release.source
    if source is not None and photos is not None and not photos.is_dir():
        raise ValueError(f"'source' must be an existing folder, got '{source}'.")
    if classes is None and source is not None and photos is not None:
        classes = sorted(path.name for path in photos.iterdir() if is_class(path))
    names = sorted(set(release.names)) if classes is None else list(classes)
    directories, rows, skipped = _with_classes(release, names)
    check_outside(destination, root)
    identity = {
        "method": release.method,
        "imported": root.name,
        "filtered": filtered,
        "classes": f"{len(names)} ({derive_seed(names):x})",
        "rows": f"{len(release.rows)} ({derive_seed([str(row[PATH]) for row in rows]):x})",
    }
    record = {
        # Diff-Mix's code does not say which image a translation was made from.
        "source": str(photos) if photos and release.method == "DiffuseMix" else None,
        "imported": str(root),
        "classes": names,
        "directories": directories if release.method == "DiffMix" else {},
    }
    copied, skipped = _copy(
        release, rows, skipped, Destination(destination, identity), record, progress
    )
    return ReleaseSummary(
        destination=Path(destination).expanduser().absolute(),
        images=len(copied),
        kept=sum(row.get("kept") is not False for row in copied),
        classes=tuple(names),
        skipped=tuple(skipped),
    )


def _with_classes(
    release: Release, names: list[str]
) -> tuple[dict[str, str], list[Row], list[Skipped]]:
    """Give each row the classes by their own names, and its file the folder of its class.

    Returns:
        How the release spells each class; the rows; and those of unknown classes, with the others
        that are skipped.
    """
    for earlier, later in twins(names, spelling):
        raise ValueError(
            "'classes' must differ in more than case, spaces, underscores and slashes, got "
            f"{names[earlier]!r} and {names[later]!r}; rename one of them."
        )
    known = {spelling(name): name for name in names}
    directories: dict[str, str] = {}
    rows, skipped, taken = [], list(release.skipped), set[str]()
    for row in release.rows:
        named = {name: known.get(spelling(row[name])) for name in ("source_label", "label")}
        unknown = [row[name] for name, value in named.items() if value is None]
        if unknown:
            reason = f"'{unknown[0]}' is not among the {len(names)} classes"
            skipped.append(Skipped(row[PATH], reason))
            continue
        directories.update((str(named[name]), row[name]) for name in named)
        file_name = f"{class_folder(str(named['label']))}/{row['file_name']}"
        if file_name in taken:
            skipped.append(Skipped(row[PATH], "another row has its classes, number and strength"))
            continue
        taken.add(file_name)
        rows.append({**row, **named, "file_name": file_name})
    return directories, rows, skipped


def _copy(
    release: Release,
    rows: list[Row],
    skipped: list[Skipped],
    destination: Destination,
    record: dict[str, Any],
    progress: bool,
) -> tuple[list[Row], list[Skipped]]:
    """Copy the images that can be read, with their rows; return what there is, what is not."""

    def read(row: Row) -> tuple[Row, bytes | Skipped]:
        try:
            with open_regular(path_below(release.root, row[PATH])) as file:
                data = file.read()
            images.read_image(io.BytesIO(data), row[PATH])
        except (OSError, ValueError) as error:  # damaged, or a name that no file can have
            missing = isinstance(error, FileNotFoundError)
            return row, Skipped(row[PATH], "it is not there" if missing else str(error))
        return row, data

    place = {row["file_name"]: number for number, row in enumerate(rows)}
    destination.recorded()  # a folder of something else is refused before it is touched
    there = {row["file_name"] for row in destination.rows()}
    missing = [row for row in rows if row["file_name"] not in there]
    skipped = list(skipped)
    with ThreadPoolExecutor(4) as threads, progress_bar(progress, len(rows), len(there)) as bar:
        results = map_ahead(read, missing, threads, 16)
        first = next((result for result in results if not _skip(result, skipped)), None)
        if first is None and not there:
            reason = f": {skipped[0].source}: {skipped[0].reason}" if skipped else ""
            raise ValueError(
                f"'folder' must hold images that can be used, and of {len(release.rows)} in "
                f"'{release.root}' none can{reason}."
            )
        with destination:
            for row, data in chain([first] if first else [], results):
                if _skip((row, data), skipped):
                    continue
                if not destination.begun:
                    destination.begin(record)
                    for name in record["classes"]:  # so that each class has its number
                        (destination.folder / class_folder(name)).mkdir(exist_ok=True)
                destination.add(row, data)  # type: ignore[arg-type]
                if bar is not None:
                    bar.update()
            record = {**record, "skipped": [entry._asdict() for entry in skipped]}
            destination.finish(record, lambda row: place.get(row["file_name"], len(place)))
    return list(each_row(destination.folder)), skipped


def _skip(result: tuple[Row, bytes | Skipped], skipped: list[Skipped]) -> bool:
    """Note an image that cannot be copied; return whether it is one."""
    if isinstance(result[1], Skipped):
        skipped.append(result[1])
    return isinstance(result[1], Skipped)


def write_release(
    folder: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    progress: bool = False,
) -> ReleaseSummary:
    """Write a finished set in the format that the training code of Diff-Mix reads.

    That is ``data/<class of the source>/<target class>-<number>-<strength>.<format>``, and
    ``meta.csv`` with a row for each image. If a filter has judged the set, ``remained_meta.csv``
    has the rows that it kept.

    Raises:
        ValueError: the folder holds no finished set, or no generated image; or two classes have
            names that are the same in that format.
        DestinationError: the destination lies in the set, holds something else, or is in use.
    """
    root = Path(folder).expanduser().absolute()
    run = read_run(root) or {"identity": {}}
    rows = [row for row in read_manifest(root) if row.get("method") != "original"]
    if not rows:
        raise ValueError(f"'folder' must hold generated images, and '{folder}' has none.")
    if unnamed := [row["file_name"] for row in rows if not isinstance(row.get("label"), str)]:
        raise ValueError(
            f"'folder' must hold images of one class each, and '{unnamed[0]}' in '{folder}' is not."
        )
    check_outside(destination, root)
    spelled: dict[str, str] = run.get("directories", {})
    names = {name for row in rows for name in (source_label(row), row["label"])}
    classes = list(run["identity"].get("transform.class_names") or run.get("classes") or ())
    classes += sorted(names.difference(classes))
    for earlier, later in twins(classes, directory_name):
        raise ValueError(
            "'folder' must hold classes that differ in more than spaces, underscores and slashes, "
            f"which Diff-Mix's code writes alike, got {classes[earlier]!r} and {classes[later]!r}; "
            "rename one of them."
        )
    entries = [_entry(number, row, spelled) for number, row in enumerate(rows)]
    out = OutputFolder(destination, {"exported": str(root)}, RECORD)
    out.recorded()
    skipped, written = [], []
    with out, progress_bar(progress, len(rows)) as bar:
        out.write(RECORD, json.dumps({"identity": out.identity}).encode() + b"\n")
        for name in classes:
            (out.folder / "data" / directory_name(name)).mkdir(parents=True, exist_ok=True)
        for row, entry in zip(rows, entries, strict=True):
            try:
                with open_regular(path_below(root, row["file_name"])) as file:
                    data = file.read()
            except (OSError, ValueError) as error:
                if is_of_machine(error):
                    raise machine_trouble(f"'{root / row['file_name']}'", error) from error
                reason = getattr(error, "strerror", None) or str(error)
                skipped.append(Skipped(row["file_name"], reason))
                continue
            out.write(f"data/{entry['Path']}", data)
            written.append((row, entry))
            if bar is not None:
                bar.update()
        kept = [entry for row, entry in written if row.get("kept") is not False]
        if any(row.get("kept") is not None for row in rows):
            out.write(FILTERED[0], table_of(kept))
        out.write(TABLE, table_of(entry for _, entry in written))
    return ReleaseSummary(out.folder, len(written), len(kept), tuple(classes), tuple(skipped))


def _entry(number: int, row: Row, spelled: dict[str, str]) -> dict[str, Any]:
    """Turn a row of a manifest into a line of Diff-Mix's table."""
    source, target = source_label(row), row["label"]
    strength = 1.0 if row.get("strength") is None else float(row["strength"])
    path = row.get(PATH) if row.get("method") == "DiffMix" else None
    if isinstance(path, str) and is_image_path(path):  # a manifest may come from anywhere
        number = int(row[NUMBER])
    else:
        suffix = PurePosixPath(row["file_name"]).suffix
        path = f"{directory_name(source)}/{directory_name(target)}-{number:06d}-{strength}{suffix}"
    words = [
        spelled.get(name) or name.replace("_", " ").replace("/", " ") for name in (source, target)
    ]
    return dict(zip(COLUMNS, (*words, number, strength, path), strict=True))
