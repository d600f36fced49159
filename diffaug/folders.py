"""One listing of a class-per-folder tree: its images, its classes, and what is left out and why."""

import os
import posixpath
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from diffaug.errors import SourceError

#: What torchvision's ImageFolder reads, and GIF.
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}
)
#: What often lies beside images and is none. Files of every other kind may be images.
COMPANIONS = frozenset(
    ".DS_Store .gitignore .gitkeep .keep .nomedia "
    ".cfg .csv .dat .db .gz .h5 .html .ini .ipynb .json .jsonl .license .log .mat .md .md5 .npy "
    ".npz .parquet .pdf .pickle .pkl .pt .pth .py .rst .sh .sha256 .sqlite .tar .tgz .toml .tsv "
    ".txt .xls .xlsx .xml .yaml .yml .zip".split()
)
HIDDEN, NO_EXTENSION = "hidden", "no extension"
#: What a run names one by one: each kind, and its reason.
FAULTS = {
    "beside": "it lies beside the class folders; move it into one",
    "broken link": "it is a link to something that is not there; mend or remove it",
    "loop": "it is a link to a folder that it lies in; remove it",
    "name": "its name is not valid Unicode; rename it",
    "no file": "it is no regular file, and reading it may never end; remove it",
    "outside": "it is a link to a folder outside the source; move or copy its images here",
    "too large": "it is larger than any image; remove it",
    "unreadable folder": "it cannot be listed; give yourself the right to, or remove it",
}
_SPLIT = re.compile(
    r"(train|training|val|valid|validation|test|testing|dev)([-_ ]?(set|data|images?|\d+))?", re.I
)


def split_name(folder: str) -> str | None:
    """Return the part of a dataset that a folder's name says, ``"train"`` or ``"val"`` or so."""
    match = _SPLIT.fullmatch(Path(folder).name)
    return None if match is None else match[1].lower()


class LeftOut(NamedTuple):
    """A file or folder that is not listed.

    Args:
        path: below the root, with slashes.
        kind: one of :data:`FAULTS`; or ``"hidden"``, for what ImageFolder takes all the same; or
            the extension of a file that is not read, such as ``".txt"``.
        reason: a sentence about ``it`` that says what to do.
    """

    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """The images and classes of a tree, numbered as torchvision's ``ImageFolder`` numbers them.

    Args:
        keys: the path of each image below the root, with slashes: by class, then by folder, then
            by name, which is ImageFolder's order.
        classes: every folder directly below the root, also one without images. The place of a class
            is its number.
        left_out: what is not listed.
        unlisted: folders directly below the root that ImageFolder takes for classes, and that are
            none here.
    """

    keys: list[str]
    classes: list[str]
    left_out: tuple[LeftOut, ...] = ()
    unlisted: tuple[str, ...] = ()

    @property
    def beside(self) -> list[str]:
        """The images that lie in no class folder."""
        return [item.path for item in self.left_out if item.kind == "beside"]

    @property
    def faults(self) -> list[LeftOut]:
        """What is left out and needs a look."""
        return [item for item in self.left_out if item.kind in FAULTS]

    @property
    def counts(self) -> dict[str, int]:
        """How much else is left out, by kind."""
        return dict(Counter(item.kind for item in self.left_out if item.kind not in FAULTS))

    def split_folder(self) -> str | None:
        """Return a class that is a split and no class; its own folders are the classes.

        All classes with images have names like train and val, and one has its images in folders.
        That of training comes first: images of a test must not get into a set.
        """
        nested = self._folders_inside()
        if not all(map(_SPLIT.fullmatch, nested)):
            return None
        splits = [name for name, folders in nested.items() if folders]
        return min(
            splits,
            key=lambda name: (split_name(name) not in ("train", "training"), name),
            default=None,
        )

    def lone_folder(self) -> str | None:
        """Return the only class with images if all of these lie in several folders inside it."""
        nested = self._folders_inside()
        return next((n for n, folders in nested.items() if len(nested) == 1 < len(folders)), None)

    def repeated_folders(self) -> list[str]:
        """Return the folders that every class with images has inside it, and nothing else.

        They may be the classes, and what are taken for classes, folds or cameras.
        """
        nested = list(self._folders_inside().values())
        alike = len(nested) > 1 and all(folders == nested[0] for folders in nested)
        return sorted(nested[0]) if alike and len(nested[0]) > 1 else []

    def _folders_inside(self) -> dict[str, set[str]]:
        """Return the folders inside each class with images; none where images lie beside them."""
        inside: dict[str, set[str]] = {}
        for key in self.keys:
            name, folder, *_ = [*key.split("/", 2)[:-1], ""]
            inside.setdefault(name, set()).add(folder)
        return {name: set() if "" in folders else folders for name, folders in inside.items()}

    def differences(self) -> list[str]:
        """Say where torchvision's ImageFolder numbers the same tree otherwise."""
        said = []
        if self.unlisted:
            named = ", ".join(map(repr, self.unlisted[:3])) + ", ..." * (len(self.unlisted) > 3)
            said.append(f"takes {named} for a class, so it refuses the folder or its numbers shift")
        if gifs := sum(key.lower().endswith(".gif") for key in self.keys):
            said.append(f"does not read .gif ({gifs} of {len(self.keys)} images)")
        return said


def list_folder(root: str | os.PathLike[str]) -> Listing:
    """List the images and classes of a folder with one folder per class.

    It numbers as torchvision's ``ImageFolder`` does. Links are followed: what is linked twice is
    listed twice. Left out are hidden files and folders, links in a loop, links within a class to
    folders outside the root, files of kinds that are not read, what is no regular file, and images
    beside the class folders.

    Args:
        root: the folder; its class folders may have folders inside.

    Raises:
        SourceError: the folder itself cannot be listed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from diffaug.folders import list_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat/2.jpg", "cat/1.jpg", "cat/notes.txt", "dog"):
        ...         Path(folder, name).parent.mkdir(exist_ok=True)
        ...         Path(folder, name).touch() if "." in name else Path(folder, name).mkdir()
        ...     listing = list_folder(folder)
        >>> listing.keys, listing.classes, listing.counts
        (['cat/1.jpg', 'cat/2.jpg'], ['cat', 'dog'], {'.txt': 1})
    """
    root = os.path.realpath(os.path.expanduser(root))
    tree = Tree()
    waiting = [("", frozenset(_identity(path) for path in (root, *Path(root).parents)))]
    while waiting:
        folder, above = waiting.pop()
        tree.add_folder(folder)
        try:
            with os.scandir(os.path.join(root, folder) if folder else root) as scanned:
                entries = list(scanned)
        except OSError as error:
            if not folder:
                raise SourceError(
                    f"'{root}' cannot be listed ({error.strerror}); give yourself the right to."
                ) from error
            tree.leave_out(folder, "unreadable folder")
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            mode = _mode(entry)
            if stat.S_ISDIR(mode):
                if not tree.takes_folder(path):
                    continue
                identity = _identity(entry.path)
                # A link to any folder above leads back here, and would never end.
                if identity in above:
                    tree.leave_out_folder(path, "loop")
                # A class may lie elsewhere as a whole, or image by image. Within a class, nobody
                # sees that a folder is a link, and what it leads to would be in the set.
                elif folder and entry.is_symlink() and _leaves(entry.path, root, path):
                    tree.leave_out_folder(path, "outside")
                elif identity is not None:
                    waiting.append((path, above | {identity}))
            elif stat.S_ISREG(mode):
                tree.add_file(folder, entry.name)
            else:
                tree.add_odd(folder, entry.name, "broken link" if not mode else "no file")
    return tree.listing()


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """List the images of a folder that need not have classes, in a fixed order."""
    listing = list_folder(folder)
    return [Path(folder, key) for key in sorted([*listing.keys, *listing.beside])]


def class_of(key: str) -> str:
    """Return the class of an image: the first folder of its path below the root."""
    return sys.intern(key.split("/", 1)[0])  # one string for a million images


def stem(path: str) -> str:
    """Return a path without its extension."""
    return posixpath.splitext(path)[0]


def printable(text: str) -> str:
    """Replace the bytes of a file's name that are not text."""
    return text.encode(errors="backslashreplace").decode()


@dataclass
class Tree:
    """What was seen of a tree so far: here, in an archive or in a store."""

    #: The files that are listed, by their folder.
    files: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)

    def is_hidden(self, path: str) -> bool:
        """Return whether a file or folder is hidden by its own name."""
        return posixpath.basename(path).startswith(".")

    def add_folder(self, path: str) -> None:
        """Add a folder, which may hold nothing."""
        self.files.setdefault(path, [])

    def takes_folder(self, path: str) -> bool:
        """Return whether a folder's files are listed; if not, it is left out."""
        if self.is_hidden(path):
            self.leave_out_folder(path, HIDDEN)
        elif printable(path) != path:
            self.leave_out_folder(path, "name")
        else:
            return True
        return False

    def add_file(self, folder: str, name: str) -> None:
        """Add a regular file, or leave it out."""
        kind = _kind(name)
        path = f"{folder}/{name}" if folder else name
        if kind is not None:
            self.leave_out(path, kind)
        elif printable(path) != path:
            self.leave_out(path, "name")
        elif not folder:
            self.leave_out(path, "beside")
        else:
            self.add_folder(folder)
            self.files[folder].append(name)

    def add_odd(self, folder: str, name: str, kind: str) -> None:
        """Leave out what is no file: with a word of its own where it is named like an image."""
        other = _kind(name)
        named = other is None or (kind == "broken link" and other == NO_EXTENSION)
        self.leave_out(f"{folder}/{name}" if folder else name, kind if named else other or kind)

    def leave_out_folder(self, path: str, kind: str) -> None:
        """Leave out a folder; directly below the root, ImageFolder takes it for a class."""
        if "/" not in path:
            self.unlisted.append(printable(path))
        self.leave_out(path, kind)

    def leave_out(self, path: str, kind: str) -> None:
        """Leave out a file or a folder."""
        if kind == HIDDEN:
            reason = "it is hidden, and torchvision's ImageFolder takes it; rename or remove it"
        else:
            reason = FAULTS.get(kind, f"files of this kind ({kind}) are not read")
        self.left_out.append(LeftOut(printable(path), kind, reason))

    def listing(self) -> Listing:
        """Return what was added, in order."""
        folders = sorted(filter(None, self.files), key=lambda path: (class_of(path), path))
        return Listing(
            keys=[f"{path}/{name}" for path in folders for name in sorted(self.files[path])],
            classes=sorted({class_of(path) for path in folders}),
            left_out=tuple(sorted(self.left_out)),
            unlisted=tuple(sorted(self.unlisted)),
        )


def tree_of(files: Iterable[str], folders: Iterable[str], odd: Mapping[str, str]) -> Listing:
    """List a tree that is not here by the paths below its root.

    Args:
        files: the regular files.
        folders: those that are known without a file in them.
        odd: the kind, one of :data:`FAULTS`, of what is neither.
    """
    tree, taken = Tree(), dict[str, bool]()

    def takes(folder: str) -> bool:
        if folder and folder not in taken:
            taken[folder] = takes(folder.rpartition("/")[0]) and tree.takes_folder(folder)
            if taken[folder]:
                tree.add_folder(folder)
        return not folder or taken[folder]

    for path in folders:
        takes(path)
    for path in files:
        folder, _, name = path.rpartition("/")  # posixpath would drop a second slash
        if name and takes(folder):
            tree.add_file(folder, name)
    for path, kind in odd.items():
        folder, _, name = path.rpartition("/")
        if takes(folder):
            tree.add_odd(folder, name, kind)
    # A store may hold an empty file in the place of a folder.
    tree.left_out = [item for item in tree.left_out if not taken.get(item.path)]
    return tree.listing()


def _kind(name: str) -> str | None:
    """Return the kind under which a file is left out; None for an image."""
    extension = posixpath.splitext(name)[1].lower()
    if extension in EXTENSIONS:
        return HIDDEN if name.startswith(".") else None
    hidden_name = name if name.startswith(".") else NO_EXTENSION  # such as .DS_Store
    return printable(extension or hidden_name)


def _mode(entry: "os.DirEntry[str]") -> int:
    """Return the type of what an entry leads to; 0 for a link that leads nowhere."""
    try:
        if entry.is_dir():
            return stat.S_IFDIR
        if entry.is_file():  # known from the folder itself, unless it is a link
            return stat.S_IFREG
        return entry.stat().st_mode
    except OSError:
        return 0


def _leaves(link: str, root: str, path: str) -> bool:
    """Return whether a link within a class leads out of the root, and out of its class."""
    homes = (root, os.path.realpath(os.path.join(root, class_of(path))))
    target = os.path.realpath(link)
    return not any(target.startswith(os.path.join(home, "")) for home in homes)


def _identity(path: Any) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
