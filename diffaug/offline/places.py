"""How a set says where its source and its model lie, without telling the folders of a machine.

A set is uploaded as it is. So ``run.json`` has the way from the set to the source. Where only the
root of the file system is above both, that would be the whole path: then it has the last name, and
this machine's cache remembers the rest.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path, PurePath

from diffaug.backends.presets import name_of
from diffaug.backends.spec import ModelSpec
from diffaug.files import cache_root, write_whole

#: Start of the path of a folder that is not known on this machine.
ELSEWHERE = f"...{os.sep}"


def told(place: str, folder: Path) -> str:
    """Return how a set in a folder names a place; what is no absolute path stays as it is."""
    if not os.path.isabs(place):
        return place
    base = os.path.realpath(folder)
    with suppress(ValueError):  # on another drive
        if os.path.dirname(shared := os.path.commonpath([base, place])) != shared:
            way = PurePath(os.path.relpath(place, base)).as_posix()
            return f"{way}/" if way == ".." else way if way.startswith("../") else f"./{way}"
    with suppress(OSError):  # a cache that cannot be written to
        write_whole(_remembered(_digest(place)), os.fsencode(place))
    return f"{PurePath(place).name}#{_digest(place)}"


def found(place: str, folder: Path) -> str:
    """Return the absolute path of a place that a set in a folder names."""
    if place.startswith(("./", "../")):
        return os.path.normpath(os.path.join(os.path.realpath(folder), place))
    name, separator, digest = place.rpartition("#")
    if not separator or len(digest) != _DIGITS or set(digest) - set("0123456789abcdef"):
        return place
    with suppress(OSError):
        path = os.fsdecode(_remembered(digest).read_bytes())
        if _digest(path) == digest:
            return path
    return f"{ELSEWHERE}{name}"


def told_model(spec: ModelSpec) -> str:
    """Return the preset, the id or the folder's last name; a folder's revision is its hash."""
    named = name_of(spec.model)
    # Whether it is a folder may not be asked of the disk of a machine that joins later.
    is_folder = named == spec.model and (spec.revision or "").startswith("sha256:")
    return PurePath(os.path.realpath(named)).name if is_folder else named


def without_folders(text: str) -> str:
    """Return a message in which files have no folders.

    Example:
        >>> from diffaug.offline.places import without_folders
        >>> without_folders("'/home/ada/cats/1.png' is not a readable image")
        "'1.png' is not a readable image"
    """
    return re.sub(r"(?<=['\"])/[^'\"]*/(?=[^'\"/]+['\"])", "", text)


_DIGITS = 16


def _digest(place: str) -> str:
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:_DIGITS]


def _remembered(digest: str) -> Path:
    return cache_root() / "sources" / digest
