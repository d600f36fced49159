"""The images of a generated set on a contact sheet, each beside its source."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch

from diffaug import images
from diffaug.errors import DestinationError, UnreadableImageError
from diffaug.offline.destination import Destination, Journal
from diffaug.offline.lookalikes import describe_set
from diffaug.offline.manifest import (
    MANIFEST,
    Row,
    read_run,
    recorded_white,
    source_label,
)
from diffaug.offline.shards import parts_of
from diffaug.previews.captions import (
    REFUSED,
    SEPARATOR,
    attempts_note,
    label_shares,
    mixed_label,
    settings_of,
)
from diffaug.previews.drawing import SheetRow
from diffaug.seeds import derive_seed
from diffaug.untrusted import path_below

#: What ``GeneratedDataset`` takes by default.
GAMMA = 0.5


class SetImage(NamedTuple):
    """An image of a set: the folder that its path starts from, and its row."""

    folder: Path
    row: Row

    def read(self) -> torch.Tensor:
        """Read its pixels.

        Raises:
            UnreadableImageError: it is not an image, or a link leads out of the set.
        """
        try:
            path = path_below(self.folder, self.row["file_name"])
        except ValueError as error:
            raise UnreadableImageError(str(error)) from error
        return images.read_image(path)


def images_of(folder: Path) -> Iterator[SetImage]:
    """List the images of a set that are there; those of parts that are not merged, too."""
    for part in [folder, *(shard.folder(folder) for shard in parts_of(folder))]:
        destination = Destination(part, {})
        rows: Iterable[Row] = destination.rows()
        if destination.journal.path.exists():  # it may replace rows of the manifest
            rows = {row["file_name"]: row for row in rows}.values()
        for row in rows:
            yield SetImage(part, row)


class FinishedSet:
    """A generated set as a sheet sees it; a set may have a million images, so rows are not kept.

    Args:
        folder: the set, finished or not.

    Raises:
        ValueError: the set has no image yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._groups: dict[tuple[bool, str], list[int]] = {}
        counts = dict.fromkeys(("images", "originals", "refused", "tried again", "rejected"), 0)
        #: How many images each class has, without copies of originals.
        self.per_class: Counter[str] = Counter()
        mixed = False
        for number, (_, row) in enumerate(images_of(folder)):
            original = row.get("method") == "original"
            key = (original, "" if original else str(row.get("label")))
            self._groups.setdefault(key, []).append(number)
            if not original and row.get("label") is not None:
                self.per_class[str(row["label"])] += 1
            mixed |= row.get("strength") is not None and source_label(row) != row.get("label")
            counts["images"] += not original
            counts["originals"] += original
            counts["refused"] += bool(row.get("fallback"))
            counts["tried again"] += not row.get("fallback") and (row.get("attempts") or 1) > 1
            counts["rejected"] += row.get("kept") is False
        if not self._groups:
            raise ValueError(
                f"'source' must hold images, and the generated set '{folder}' has none yet; run "
                "the same command again to make them."
            )
        if (folder / MANIFEST).is_file() and not Journal(folder).path.exists():
            with (folder / MANIFEST).open("rb") as file:
                counts["missing"] = sum(1 for _ in file) - counts["images"] - counts["originals"]
        total = counts.pop("images")
        self.total = total + counts["originals"]
        marks = [f"{count} {name}" for name, count in counts.items() if count]
        about = [", ".join([f"{total} images", *marks]), describe_set(folder)]
        about += [f"labels at gamma {GAMMA}"] if mixed else []
        self.name, self.about = folder.resolve().name, "; ".join(about)
        #: What the whole set is, and how many of its images need a second look.
        self.title = f"{self.name}: {self.about}"

    def choose(self, count: int, seed: int) -> list[SetImage]:
        """Choose images spread evenly over the classes, and over the images of each class.

        Copies of originals count as a class of their own, the last one.
        """
        groups = [self._groups[key] for key in sorted(self._groups)]
        shares = _shares([len(group) for group in groups], count)
        chosen = []
        for number, (group, share) in enumerate(zip(groups, shares, strict=True)):
            for place in range(share):
                first, end = (edge * len(group) // share for edge in (place, place + 1))
                shift = derive_seed("preview", seed, number, place) % (end - first) if seed else 0
                chosen.append(group[first + shift])
        wanted = set(chosen)
        found = {n: image for n, image in enumerate(images_of(self.folder)) if n in wanted}
        return [found[number] for number in chosen if number in found]


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Say how many of each group to take: equally many where that is possible."""
    shares = [0] * len(sizes)
    if count < len(sizes):
        for number in range(count):
            shares[number * len(sizes) // count] = 1
        return shares
    left = min(count, sum(sizes))
    while left:
        for number, size in enumerate(sizes):
            if left and shares[number] < size:
                shares[number] += 1
                left -= 1
    return shares


def sheet_rows(
    folder: Path, chosen: Sequence[SetImage]
) -> tuple[list[SheetRow], list[tuple[str, str]]]:
    """Read images and their sources; also return those that cannot be read, with the reason.

    Raises:
        UnreadableImageError: none of them can be read.
    """
    root, white = source_folder(folder), recorded_white(folder)
    rows, skipped = [], []
    for image in chosen:
        name = image.row["file_name"]
        try:
            generated = image.read()
        except UnreadableImageError as error:
            skipped.append((name, str(error)))
            continue
        pictures: dict[str, Any] = {"source": read_source(root, image.row, white)}
        pictures["generated"] = generated
        rows.append(SheetRow("", pictures, tuple(lines_of(image.row))))
    if not rows:
        raise UnreadableImageError(skipped[0][1])
    return rows, skipped


def lines_of(row: Row) -> list[str]:
    """Say what a manifest knows of an image, a line for each fact."""
    lines = [str(row["file_name"])]
    if row.get("method") == "original":
        return [*lines, f"label {row.get('label')}", "the original, copied"]
    strength, fallback = row.get("strength"), bool(row.get("fallback"))
    if row.get("label") is not None:
        lines.append(f"label {mixed_label(shares_of(row))}")
    if row.get("prompt") is not None:
        lines.append(f"prompt {row['prompt']}")
    how_far = [] if fallback else settings_of({"strength": strength}, "strength")
    blended = settings_of(row, "mask") + ([str(row["fractal"])] if row.get("fractal") else [])
    for facts in (how_far + settings_of(row, "seed"), blended + settings_of(row, "alpha")):
        lines += [SEPARATOR.join(facts)] if facts else []
    lines += [REFUSED] if fallback else attempts_note(row.get("attempts"))
    if row.get("kept") is False:
        lines.append(rejected_by(row))
    return lines


def shares_of(row: Row) -> list[tuple[str, int]]:
    """Return the classes of an image's label with their weights in percent."""
    source, target = source_label(row), str(row["label"])
    return label_shares(source, target, row.get("strength"), GAMMA)


def rejected_by(row: Row) -> str:
    """Say which scorers dropped an image."""
    judges = [name.removesuffix("_kept") for name in row if name.endswith("_kept")]
    by = [name for name in judges if row[f"{name}_kept"] is False]
    return "rejected" + (f" by {', '.join(by)}" if by else "")


def source_folder(folder: Path) -> Path | str:
    """Return the folder that a set was made from, or why it cannot be looked into."""
    with suppress(DestinationError):
        named = (read_run(folder) or {}).get("source")
        if named is None:
            return "the source is not recorded"
        if not Path(named).is_dir():
            return f"the source is not here: {named}"
        return Path(named)
    return "the source is not recorded"


def read_source(root: Path | str, row: Row, white: int | None) -> Any:
    """Read the source of an image; a text says why there is none."""
    if isinstance(root, str):
        return root
    if row.get("source") is None:
        return "the source is not recorded"
    key = PurePath(str(row["source"]))
    if key.is_absolute() or ".." in key.parts:
        return f"the source is outside its folder: {key}"
    try:
        return images.read_image(root / key, white=white)
    except UnreadableImageError:
        state = "cannot be read" if (root / key).is_file() else "is gone"
        return f"the source {state}: {key}"
