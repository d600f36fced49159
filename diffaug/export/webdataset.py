"""Tar files for WebDataset: an image, the number of its class, and what is known of it."""

import io
import json
import tarfile
from pathlib import Path

from diffaug.export.records import Record, Records, suffix_of


def write_tar(records: Records, start: int, stop: int, path: Path) -> None:
    """Write some images of a set to one file; the same images give the same bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        # A dot would end the key of a sample, so names are numbers.
        for number, record in enumerate(records.read(start, stop), start):
            for suffix, data in _parts(record, records.classes is not None).items():
                entry = tarfile.TarInfo(f"{number:09d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def _parts(record: Record, has_classes: bool) -> dict[str, bytes]:
    about = {"file_name": record.name, "label": record.label, "soft_label": record.soft_label}
    text = json.dumps({**about, **record.about}, ensure_ascii=False)
    number = {"cls": str(record.label).encode()} if has_classes else {}
    return {suffix_of(record): record.data, **number, "json": text.encode()}
