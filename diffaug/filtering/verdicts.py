"""Filter a generated set: write a scorer's verdict on each image into the set's manifest.

Nothing is deleted: ``filter_set`` adds columns, and readers leave out the rows whose ``kept`` is
false. Several scorers may judge one set; an image that any of them drops is dropped.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import torch

from diffaug import images
from diffaug.checked import checked
from diffaug.errors import UnreadableImageError
from diffaug.file_warnings import naming_files, reading
from diffaug.filtering.scorer import Scorer
from diffaug.offline.destination import rewriting
from diffaug.offline.manifest import Row
from diffaug.offline.sources import Skipped
from diffaug.progress import progress_bar
from diffaug.untrusted import path_below

#: The fraction of the images that Diff-Mix keeps: it drops what scores under the 10th percentile.
KEEP = 0.9

#: Threads that read images, which takes longer than judging them on a GPU.
_READERS = 4


@dataclass(frozen=True)
class FilterSummary:
    """Say how a scorer judged a set.

    Args:
        scored: how many images it judged.
        kept: how many of them it keeps; another scorer may still drop some.
        threshold: the lowest score that is kept; None if the scorer has bounds.
        unreadable: images without a score, which are dropped, each with the reason.
        seconds: how long it took.
    """

    scored: int
    kept: int
    threshold: float | None
    unreadable: tuple[Skipped, ...] = ()
    seconds: float = 0.0


@checked
def filter_set(
    folder: str | os.PathLike[str],
    scorer: Scorer,
    *,
    keep: float | None = None,
    progress: bool = False,
) -> FilterSummary:
    """Let a scorer judge a generated set, and write into its manifest which images to keep.

    Each row gets ``<name>_score``, ``<name>_kept``, and ``kept``, which is false if any scorer so
    far dropped the image. Each scorer judges all images, so the order of scorers does not matter. A
    scorer that judges again replaces its verdict. Labels stay. Originals are not judged and never
    dropped (``kept`` is empty, as in rows that are added later). A fallback is judged like any
    other image.

    Args:
        folder: a finished set, as ``augment_folder`` makes it.
        scorer: :class:`ClipFilter`, :class:`ClassifierFilter`, :class:`SimilarityFilter`, or any
            :class:`Scorer`.
        keep: fraction of the images to keep, in (0, 1]; images that score exactly the threshold are
            kept, too. None for the scorer's bounds if it has any, or else the paper's 0.9.
        progress: show a bar on stderr.

    Raises:
        ValueError, TypeError: the folder holds no finished set or nothing to judge, or an argument
            is outside its range.
        UnreadableImageError: none of the images could be judged.
        DestinationError: a run is writing to the set, or was stopped, or the folder is read-only.
        DiffaugError: the scorer's model cannot be loaded.

    Example:
        >>> import tempfile, torch
        >>> from torchvision.utils import save_image
        >>> from diffaug import PromptEdit, RecordingBackend, augment_folder
        >>> from diffaug import SimilarityFilter, filter_set
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "photos", "cat").mkdir(parents=True)
        ...     save_image(torch.rand(3, 32, 48), f"{folder}/photos/cat/tom.png")
        ...     edit = PromptEdit(backend=RecordingBackend())
        ...     summary = augment_folder(f"{folder}/photos", f"{folder}/set", edit, per_image=2)
        ...     filter_set(f"{folder}/set", SimilarityFilter(low=-1, high=1)).kept
        2
    """
    started = time.monotonic()
    bounds = _check_rule(scorer, keep)
    with rewriting(folder) as rows, naming_files():
        root = Path(folder).expanduser()
        judged = [row for row in rows if row.get("method") != "original"]
        if not judged:
            raise ValueError(
                f"'folder' must hold augmented images, and '{folder}' has none; "
                "make some with augment_folder or 'diffaug augment'."
            )
        prepare = getattr(scorer, "prepare", None)
        if prepare is not None:
            prepare(root, rows)
        scores, unreadable = _score(root, judged, scorer, progress)
        known = [score for score in scores if score is not None]
        if not known:
            raise UnreadableImageError(
                f"none of the {len(judged)} images of '{folder}' could be judged: "
                f"{unreadable[0].reason}"
            )
        fraction = KEEP if keep is None else float(keep)
        low, high = bounds or (float(np.percentile(known, 100 - 100 * fraction)), math.inf)
        for row, score in zip(judged, scores, strict=True):
            row[f"{scorer.name}_score"] = score
            row[f"{scorer.name}_kept"] = score is not None and bool(low <= score <= high)
        for row in rows:
            verdicts = [row[name] for name in row if name.endswith("_kept")]
            verdicts = [verdict for verdict in verdicts if verdict is not None]
            row["kept"] = all(verdicts) if verdicts else None
    return FilterSummary(
        scored=len(known),
        kept=sum(low <= score <= high for score in known),
        threshold=None if bounds else low,
        unreadable=unreadable,
        seconds=time.monotonic() - started,
    )


def _check_rule(scorer: Scorer, keep: float | None) -> tuple[float, float] | None:
    """Return the bounds of a scorer, None if it keeps a fraction."""
    named = isinstance(getattr(scorer, "name", None), str) and scorer.name.isidentifier()
    if isinstance(scorer, type) or not named or not callable(getattr(scorer, "score", None)):
        raise TypeError(
            "'scorer' must be a ClipFilter, or have a name like 'clip' and a score method, "
            f"got {scorer!r}."
        )
    bounds: tuple[float, float] | None = getattr(scorer, "bounds", None)
    if keep is None:
        return bounds
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise TypeError(f"'keep' must be a number in (0, 1], got {keep!r}.")
    if not 0 < keep <= 1:
        raise ValueError(f"'keep' must be in (0, 1], got {keep}.")
    if bounds is not None:
        raise ValueError(
            f"'keep' must be None for '{scorer.name}', which keeps scores from {bounds[0]} to "
            f"{bounds[1]}, got {keep}."
        )
    return None


def _score(
    folder: Path, rows: Sequence[Row], scorer: Scorer, progress: bool
) -> tuple[list[float | None], tuple[Skipped, ...]]:
    """Score the image of each row; the score is None, with a reason, if that is impossible."""
    scores: list[float | None] = []
    unreadable = []
    with progress_bar(progress, len(rows)) as bar:
        for batch in _read_ahead(folder, rows, getattr(scorer, "batch_size", 32)):
            read = [(row, image) for row, image in batch if isinstance(image, torch.Tensor)]
            batch_scores = iter(_score_batch(scorer, read))
            for row, image in batch:
                if isinstance(image, torch.Tensor):
                    score, reason = next(batch_scores), f"'{scorer.name}' gave it no score"
                else:
                    score, reason = math.nan, str(image)
                scores.append(score if math.isfinite(score) else None)
                if not math.isfinite(score):
                    unreadable.append(Skipped(row["file_name"], reason))
            if bar is not None:
                bar.update(len(batch))
    return scores, tuple(unreadable)


def _score_batch(scorer: Scorer, read: Sequence[tuple[Row, torch.Tensor]]) -> list[float]:
    if not read:
        return []
    scores = torch.as_tensor(scorer.score([image for _, image in read], [row for row, _ in read]))
    if tuple(scores.shape) != (len(read),):
        raise ValueError(
            f"'scorer' must return one number for each image, got shape {tuple(scores.shape)} for "
            f"{len(read)} images."
        )
    return [float(score) for score in scores.detach().cpu().double()]


def _read_ahead(
    folder: Path, rows: Sequence[Row], size: int
) -> Iterator[list[tuple[Row, torch.Tensor | UnreadableImageError]]]:
    """Read images in batches; each batch is read while the one before is judged."""

    def start(first: int) -> list[tuple[Row, Future[torch.Tensor | UnreadableImageError]]]:
        batch = rows[first : first + size]
        return [(row, pool.submit(_read, folder, row["file_name"])) for row in batch]

    with ThreadPoolExecutor(_READERS) as pool:
        following = start(0)
        for first in range(0, len(rows), size):
            batch, following = following, start(first + size)
            yield [(row, image.result()) for row, image in batch]


def _read(folder: Path, name: str) -> torch.Tensor | UnreadableImageError:
    try:
        path = path_below(folder, name)
    except ValueError as error:
        return UnreadableImageError(str(error))
    try:
        with reading(path):
            return images.read_image(path)
    except UnreadableImageError as error:
        return error
