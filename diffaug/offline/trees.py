"""Trees of image files: a folder here, or one that fsspec reads from elsewhere."""

import io
import os
import re
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from diffaug import images
from diffaug.errors import MissingDependencyError, SourceError, UnreadableImageError, one_line
from diffaug.file_warnings import reading
from diffaug.folders import Listing, list_folder, tree_of

#: The most bytes of a file elsewhere: it is read whole.
LARGEST_FILE = 1_000_000_000


def open_tree(folder: str | os.PathLike[str]) -> "LocalTree | RemoteTree":
    """Return the images below a folder, or below an address such as ``s3://bucket/train``.

    Raises:
        ValueError: there is no such folder, or no package reads such addresses.
        MissingDependencyError: the package that reads them is not installed.
        SourceError: the address cannot be read.

    Example:
        >>> from diffaug.offline.trees import open_tree
        >>> open_tree("no/such/folder")
        Traceback (most recent call last):
        ValueError: 'source' must be an existing folder, got 'no/such/folder'; give the one that ...
    """
    text = os.fspath(folder)
    if "://" in text and not text.startswith("file://"):
        return RemoteTree(text)
    return LocalTree(url2pathname(text.removeprefix("file://")) if "://" in text else text)


class LocalTree:
    """The images below a folder.

    fsspec reads folders, too, but it lists them several times as slowly.
    """

    #: How many threads may read at once.
    threads = 4

    def __init__(self, folder: str) -> None:
        # Absolute, since it travels to processes with another working folder.
        self.root = Path(folder).expanduser().absolute()
        if not self.root.is_dir():
            raise ValueError(
                f"'source' must be an existing folder, got '{folder}'; "
                "give the one that holds one folder per class."
            )
        self.name = str(self.root.resolve())

    def list(self) -> Listing:
        """List the images and classes below the root."""
        return list_folder(self.root)

    def open(self, path: str) -> tuple[Path, int]:
        """Return what an image can be read from, and how many pixels it has."""
        with reading(self.root / path):
            return self.root / path, images.pixel_count(self.root / path)

    def read(self, path: str, file: Any = None, white: int | None = None) -> images.Photo:
        """Read one image, or raise UnreadableImageError; ``file`` is what ``open`` returned."""
        try:
            with reading(self.root / path):
                return images.read_photo(self.root / path, white=white)
        except UnreadableImageError:
            if self.root.is_dir():
                raise
        # The machine of a cluster, or a disk that is gone, is at fault, and not the image.
        raise SourceError(
            f"'{self.root}' cannot be seen from here; once it can, run the same command again."
        )


class RemoteTree:
    """The images below an address: in an object store, in an archive, on a server.

    A file that is gone or damaged is unreadable, and a run skips it. An address that fails is an
    error, because a later run may be able to read it.
    """

    def __init__(self, address: str) -> None:
        import fsspec
        import fsspec.archive

        self.name = without_secrets(address)
        try:
            self.files, root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise MissingDependencyError(
                f"'{self.name}' needs a package that is not installed: {error}."
            ) from error
        except ValueError as error:
            reason = str(error).replace(address, self.name)
            raise ValueError(f"'source' must be a folder or an address: {reason}.") from error
        except Exception as error:
            raise _failed(self.name, error) from error
        self.root = str(root).rstrip("/")
        archive = isinstance(self.files, fsspec.archive.AbstractArchiveFileSystem)
        # Members of a tar share one file and its position.
        self.threads = 1 if archive else 4
        self._archive = archive

    def list(self) -> Listing:
        """List the images and classes below the root."""
        try:
            self.files.invalidate_cache()
            infos = self.files.find(self.root, withdirs=True, detail=True)
            if not self.root and all(path == "." or path.startswith("./") for path in infos):
                self.root = "."  # as 'tar -C photos -c .' writes an archive
        except Exception as error:
            raise _failed(self.name, error) from error
        paths: dict[str, list[str]]
        paths = {kind: [] for kind in ("file", "directory", "too large", "no file")}
        for path, info in infos.items():
            below = path.rstrip("/").removeprefix(self.root) if self.root else path
            if not path.startswith(self.root) or (self.root and below[:1] not in ("", "/")):
                reason = f"it answers with {path!r}, which is not below it"
                raise _failed(self.name, ValueError(reason))
            if below := below.lstrip("/"):  # else it is the root itself
                kind = info.get("type", "file")
                if kind == "file" and (info.get("size") or 0) > LARGEST_FILE:
                    kind = "too large"
                paths.get(kind, paths["no file"]).append(below)
        odd = {path: kind for kind in ("no file", "too large") for path in paths[kind]}
        return tree_of(paths["file"], paths["directory"], odd)

    def open(self, path: str) -> tuple[io.BytesIO, int]:
        """Fetch what an image can be read from, and say how many pixels it has."""
        try:
            data = self.files.cat_file(f"{self.root}/{path}" if self.root else path)
        except (FileNotFoundError, KeyError) as error:  # archives raise a KeyError
            raise UnreadableImageError(f"'{path}' is not there any more.") from error
        except Exception as error:
            # The archive was listed, so that this member alone is damaged, or encrypted.
            if self._archive and not isinstance(error, (OSError, MemoryError)):
                raise UnreadableImageError(
                    f"'{path}' cannot be read from its archive: {one_line(error).rstrip('.')}."
                ) from error
            raise _failed(f"{self.name}, {path}", error) from error
        with reading(path):
            return io.BytesIO(data), images.pixel_count(io.BytesIO(data))

    def read(self, path: str, file: Any = None, white: int | None = None) -> images.Photo:
        """Read one image, or raise UnreadableImageError; ``file`` is what ``open`` returned."""
        file = file or self.open(path)[0]
        with reading(path):
            return images.read_photo(file, path, white=white)


def without_secrets(address: str) -> str:
    """Return an address without its user and password, and without what a question mark begins.

    Example:
        >>> without_secrets("ftp://bob:a/b@host/x"), without_secrets("https://host/x?key=1")
        ('ftp://host/x', 'https://host/x')
    """
    parts = [part.partition("?")[0] for part in address.split("::")]  # as fsspec chains them
    # A password may hold a slash, but then a colon stands before it.
    return "::".join(re.sub(r"(?<=://)([^/@]*|[^/@:]*:[^@]*)@", "", part) for part in parts)


def _failed(what: str, error: Exception) -> SourceError:
    # What the address was may stand in the reason, too, with its password.
    reason = re.sub(r"[\w+.-]+://[^\s'\"]+", lambda url: without_secrets(url[0]), one_line(error))
    return SourceError(
        f"'{what}' could not be read: {reason}; once it can, run the same command again."
    )
