"""Trees of image files: a folder here, or one that fsspec reads from elsewhere."""

import io
import os
import re
from pathlib import Path

import torch

from diffaug import images
from diffaug.errors import MissingDependencyError, SourceError, UnreadableImageError, one_line


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
    return LocalTree(text.removeprefix("file://"))


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

    def list(self) -> "list[str]":
        """Return the paths of all images below the root, in a fixed order, with slashes."""
        return images.list_keys(self.root)

    def read(self, path: str) -> torch.Tensor:
        """Read one image as uint8 (3, H, W), or raise UnreadableImageError."""
        try:
            return images.read_image(self.root / path)
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

        self.name = re.sub("//[^/@]*@", "//", address)  # without a password
        try:
            self.files, root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise MissingDependencyError(
                f"'{address}' needs a package that is not installed: {error}."
            ) from error
        except ValueError as error:
            raise ValueError(f"'source' must be a folder or an address: {error}.") from error
        except Exception as error:
            raise _failed(address, error) from error
        self.root = str(root).rstrip("/")
        archive = isinstance(self.files, fsspec.archive.AbstractArchiveFileSystem)
        # Members of a tar share one file and its position.
        self.threads = 1 if archive else 4

    def list(self) -> "list[str]":
        """Return the paths of all images below the root, in a fixed order, with slashes."""
        try:
            self.files.invalidate_cache()
            paths = self.files.find(self.root)
        except Exception as error:
            raise _failed(self.name, error) from error
        start = f"{self.root}/" if self.root else ""
        if odd := next((path for path in paths if not path.startswith(start)), None):
            raise _failed(self.name, ValueError(f"it answers with {odd!r}, which is not below it"))
        below = (path[len(start) :].lstrip("/") for path in paths)
        return sorted(path for path in below if images.is_image_key(path))

    def read(self, path: str) -> torch.Tensor:
        """Read one image as uint8 (3, H, W), or raise UnreadableImageError."""
        try:
            data = self.files.cat_file(f"{self.root}/{path}" if self.root else path)
        except (FileNotFoundError, KeyError) as error:  # archives raise a KeyError
            raise UnreadableImageError(f"'{path}' is not there any more.") from error
        except Exception as error:
            raise _failed(f"{self.name}, {path}", error) from error
        return images.read_image(io.BytesIO(data), path)


def _failed(what: str, error: Exception) -> SourceError:
    reason = one_line(error)
    return SourceError(
        f"'{what}' could not be read: {reason}; once it can, run the same command again."
    )
