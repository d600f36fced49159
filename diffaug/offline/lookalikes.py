"""Folders that look like one folder per class, and are something else."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffaug.errors import DestinationError
from diffaug.labels.origins import parts_of
from diffaug.offline.manifest import JOURNAL, MANIFEST, RUN, is_set, read_run

#: What DiffuseMix's released code makes of each image, each in a folder of this name with one
#: folder per class in it.
DIFFUSEMIX_STAGES = ("original_resized", "generated", "fractal", "concatenated", "blended")


def refuse_lookalike(folder: str | os.PathLike[str], name: str = "source") -> None:
    """Refuse a folder whose subfolders are no classes of photographs.

    Args:
        folder: what was given; a folder that is not there is somebody else's concern.
        name: of the argument.

    Raises:
        ValueError: it is a generated set, or has one among its class folders, or holds the output
            of the released code of Diff-Mix or DiffuseMix.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        return
    must = f"'{name}' must hold photographs in one folder per class, and"
    if is_set(root):
        raise ValueError(
            f"{must} '{folder}' is {describe_set(root)}; give its source, or look at it with "
            f"'diffaug preview {folder} sheet.png'. If you do want its images as a source, copy "
            "its class folders alone to another folder."
        )
    if _may_be_set(root.parent) and is_set(root.parent):
        raise ValueError(
            f"{must} '{folder}' is part of '{root.parent}', {describe_set(root.parent)}; give its "
            f"source, or look at it with 'diffaug preview {root.parent} sheet.png'."
        )
    inner = next((path for path in _folders(root) if _may_be_set(path) and is_set(path)), None)
    if inner is not None:
        raise ValueError(
            f"{must} '{inner}' is {describe_set(inner)}, which would count as a class; move it "
            "elsewhere."
        )
    if is_diffmix_release(root):
        raise ValueError(
            f"{must} '{folder}' is a set of Diff-Mix's released code, whose folders are the "
            "classes of the sources; read it with 'diffaug import'."
        )
    if is_diffmix_release(root.parent) and root.name == "data":
        raise ValueError(
            f"{must} '{folder}' is part of a set of Diff-Mix's released code, whose folders are "
            f"the classes of the sources; read it with 'diffaug import {root.parent}'."
        )
    if is_diffusemix_result(root):
        raise ValueError(
            f"{must} '{folder}' is what DiffuseMix's released code writes: its folders are stages, "
            f"and no classes; give '{root / 'blended'}', or read it with 'diffaug import'."
        )


def _may_be_set(folder: Path) -> bool:
    """Return whether a class folder has a file of a set; it is not listed, for it may be large."""
    # Unlike those of Path, these functions take what may not be read for what is not there.
    return any(os.path.isfile(folder / name) for name in (RUN, MANIFEST, JOURNAL))


def refuse_set_of_images(dataset: Any) -> None:
    """Refuse a dataset that reads a generated set as photographs, or has one inside that does.

    Raises:
        ValueError: its ``root`` or ``folder`` is a set.
    """
    root = getattr(dataset, "root", getattr(dataset, "folder", None))
    if isinstance(root, (str, Path)) and is_set(root):
        refuse_lookalike(root, "dataset")
    for part in parts_of(dataset):
        refuse_set_of_images(part)


def describe_set(folder: Path) -> str:
    """Say what a set is: finished or not, made from what, by which method."""
    run: dict[str, Any] = {"identity": {}}
    with suppress(DestinationError):  # a run.json of something else
        run = read_run(folder) or run
    whole = (folder / MANIFEST).is_file()
    finished = "a generated set" if whole else "a generated set that is not finished"
    source = f" made from '{run['source']}'" if run.get("source") else ""
    source = f" imported from '{run['imported']}'" if run.get("imported") else source
    method = f" by {run['identity']['method']}" if run["identity"].get("method") else ""
    return f"{finished}{source}{method}"


def is_diffmix_release(folder: Path) -> bool:
    """Return whether a folder has Diff-Mix's released layout: tables beside ``data``."""
    return os.path.isdir(folder / "data") and any(map(_is_table, folder.glob("*meta*.csv")))


def _is_table(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return b"First Directory" in file.readline(1000)
    return False


def is_diffusemix_result(folder: Path) -> bool:
    """Return whether a folder's subfolders are DiffuseMix's stages, and the stages hold classes."""
    names = {path.name for path in _folders(folder)}
    staged = len(names & set(DIFFUSEMIX_STAGES)) > 1 and names <= set(DIFFUSEMIX_STAGES)
    return staged and all(any(_folders(folder / name)) for name in names)


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except OSError:
        return []
