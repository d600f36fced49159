"""The images of a set with everything that an export says of them."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from diffaug.datasets.generated import GeneratedDataset
from diffaug.errors import is_of_machine, machine_trouble
from diffaug.offline.contents import Contents, contents_of
from diffaug.offline.sources import Skipped

#: Columns that an export has in a form of its own.
_OWN = ("file_name", "label", "kept")


class Record(NamedTuple):
    """An image of a set.

    Args:
        name: its path in the set.
        data: the bytes of its file.
        label: the number of its class; where labels are no classes, as the source had it.
        soft_label: the weight of each class; None where labels are no classes.
        about: the other columns of the manifest.
    """

    name: str
    data: bytes
    label: Any
    soft_label: list[float] | None
    about: dict[str, Any]


class Records:
    """The images of a set that no filter has dropped, in the order of its manifest.

    Args:
        folder: of a finished set.

    Raises:
        ValueError: the folder holds no finished set, or every image was dropped.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._dataset = GeneratedDataset(folder, originals=True)
        self.contents: Contents = contents_of(Path(folder).expanduser(), dropped=False)
        #: Names of the classes in the order of their numbers; None where labels are no classes.
        self.classes = self._dataset.classes if self._dataset.has_classes else None
        #: The kind of each column of ``about``.
        self.types: Mapping[str, str] = {
            "label_name": "str",
            **{name: kind for name, kind in self.contents.types.items() if name not in _OWN},
        }
        #: What was left out while reading, each with the reason.
        self.skipped: list[Skipped] = []

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Read images one by one; one whose file is gone is skipped and noted."""
        for index in range(start, min(stop, len(self))):
            row = self._dataset.rows[index]
            try:
                data = (self._dataset.folder / row["file_name"]).read_bytes()
            except OSError as error:
                if is_of_machine(error):
                    path = self._dataset.folder / row["file_name"]
                    raise machine_trouble(f"'{path}'", error) from error
                self.skipped.append(Skipped(row["file_name"], error.strerror or str(error)))
                continue
            named = {**row, "label_name": row["label"] if self.classes is not None else None}
            about = {name: _as(kind, named.get(name)) for name, kind in self.types.items()}
            label, soft = row.get("label"), None
            if self.classes is not None:
                label = self._dataset.class_to_idx[row["label"]]
                soft = self._dataset.label(index).tolist()
            yield Record(row["file_name"], data, label, soft, about)


def suffix_of(record: Record) -> str:
    """Return the extension of an image, without the dot."""
    return PurePath(record.name).suffix.removeprefix(".").lower()


def _as(kind: str, value: Any) -> Any:
    """Return a value as the other values of its column are."""
    if value is None or kind in ("bool", "int", "list"):
        return value
    if kind == "float":
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)
