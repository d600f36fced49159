"""A run: make the images of a set that are missing, and write its manifest."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from diffaug.backends.pipeline import ENOUGH_TO_JUDGE
from diffaug.errors import GenerationError
from diffaug.offline.destination import Destination
from diffaug.offline.engines import engine_for
from diffaug.offline.generate import Made, Maker
from diffaug.offline.manifest import Row
from diffaug.offline.plan import Planned, There, order, plan, planned_of
from diffaug.offline.sources import Skipped
from diffaug.progress import progress_bar
from diffaug.transforms.base import ImageTransform


@dataclass(frozen=True)
class Summary:
    """Say what a run did.

    Args:
        destination: the set's folder.
        planned: images that the set has if nothing is skipped.
        made: images made by this run.
        taken_over: images that were already there.
        retried: images made at the second attempt or later, after a blank or refused one.
        fallbacks: images that are copies of their originals, because every attempt was blank or
            refused.
        skipped: sources left out, each with the reason.
        seconds: how long it took.
    """

    destination: Path
    planned: int
    made: int = 0
    taken_over: int = 0
    retried: int = 0
    fallbacks: int = 0
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0


def pairs_up(transform: ImageTransform) -> bool:
    """Return whether a transform chooses the sources of a set; it must then know their classes."""
    return transform.pair_up([], [], 0, 0) is not None


class Run:
    """One run into one folder, which is written to by this process alone.

    Args:
        maker: what makes images.
        destination: the folder that they go to.
        takes: returns, for the number of a source or pair, whether this run makes its images.
        there: rows of images that are already there, in another folder.
    """

    def __init__(
        self,
        maker: Maker,
        destination: Destination,
        *,
        takes: Callable[[int], bool] = lambda number: True,
        there: Iterable[Row] = (),
    ) -> None:
        self.started = time.monotonic()
        self.maker, self.destination, self.takes = maker, destination, takes
        self.source, self.transform, self.options = maker.source, maker.transform, maker.options
        per_image = self.options.per_image
        self.copies = self.transform.copies if per_image is None else per_image
        self.done = There(planned_of(row) for row in chain(destination.rows(), there))
        self.made = self.retried = self.fallbacks = 0
        self.skipped = list(self.source.skipped)
        self.labels = self.source.labels() if pairs_up(self.transform) else []
        self.bar: Any = None
        self.engine = engine_for(maker)

    def go(self) -> Summary:
        """Make the images that are missing, and write the manifest."""
        missing = self.missing()
        shown = self.options.progress
        # Counting takes a while, and only the bar needs it.
        so_far = self.summary() if shown else Summary(self.destination.folder, 0)
        with progress_bar(shown, so_far.planned, done=so_far.taken_over) as self.bar:
            for first in missing:  # without any, no model and no cluster is started
                for part in self.transform.modules():
                    if isinstance(part, ImageTransform):
                        part.check_files()
                self.engine(self.maker, chain([first], missing), self._keep)
        self.destination.finish(self._record(), order)
        if self.made >= ENOUGH_TO_JUDGE and self.fallbacks == self.made:
            raise GenerationError(
                f"all {self.made} images that were made for '{self.destination.folder}' came out "
                "blank or refused, and are copies of their originals; see the warnings, and choose "
                "another model or dtype='float32'."
            )
        return self.summary()

    def missing(self) -> Iterator[Planned]:
        """List the planned images that are not there."""
        return (planned for planned in self._plan() if planned not in self.done)

    def begin(self) -> None:
        """Record the run before its first image, so that a part without images is recorded, too."""
        self.destination.begin(self._record())

    def summary(self) -> Summary:
        """Return what has been done so far."""
        count = taken_over = 0
        for planned in self._plan():
            count += 1
            taken_over += planned in self.done
        return Summary(
            destination=self.destination.folder,
            planned=count,
            made=self.made,
            taken_over=taken_over,
            retried=self.retried,
            fallbacks=self.fallbacks,
            skipped=tuple(dict.fromkeys(self.skipped)),
            seconds=time.monotonic() - self.started,
        )

    def _plan(self) -> Iterator[Planned]:
        keys, originals = self.source.keys, self.options.include_originals
        share = [key for number, key in enumerate(keys) if self.takes(number)]
        pairs = self.transform.pair_up(keys, self.labels, self.copies, self.options.seed)
        if pairs is None:
            return plan(share, self.copies, include_originals=originals)
        alone = plan(share if originals else (), 0, include_originals=True)
        return chain(alone, (Planned(*pair) for pair in pairs if self.takes(pair[1])))

    def _keep(self, outcomes: list[Made | Skipped]) -> None:
        """Write images, and count them."""
        for outcome in outcomes:
            if isinstance(outcome, Skipped):
                self.skipped.append(outcome)
            else:
                row = outcome.row
                if not self.destination.begun:
                    self.destination.begin(self._record())
                self.destination.add(row, outcome.data)
                self.made += 1
                self.fallbacks += row["fallback"]
                self.retried += not row["fallback"] and (row["attempts"] or 1) > 1
            if self.bar is not None:
                self.bar.update()

    def _record(self) -> dict[str, Any]:
        """Return what ``run.json`` holds besides the identity; a resumed run may change it."""
        return {
            "per_image": self.copies,
            "batch_size": self.maker.batch_size,
            "source": self.source.name,
            "classes": self.source.classes,
            "versions": self.maker.versions,
            "skipped": [skipped._asdict() for skipped in sorted(set(self.skipped))],
        }
