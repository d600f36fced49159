"""A run: make the images of a set that are missing, and write its manifest."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from diffaug.backends.pipeline import FIRST
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
        taken_over: images that were there.
        retried: images made at the second attempt or later, after a blank or refused one.
        fallbacks: images whose original stands in, every attempt having been blank or refused.
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
    """Tell whether a transform chooses the sources of a set, for which it must know classes."""
    return transform.pair_up([], [], 0, 0) is not None


class Run:
    """One run into one folder, which is written to by this process alone.

    Args:
        maker: what makes images.
        place: where they go.
        takes: which sources, by their number, are this run's.
        there: rows of images that are elsewhere already.
    """

    def __init__(
        self,
        maker: Maker,
        place: Destination,
        *,
        takes: Callable[[int], bool] = lambda number: True,
        there: Iterable[Row] = (),
    ) -> None:
        self.started = time.monotonic()
        self.maker, self.place, self.takes = maker, place, takes
        self.source, self.transform, self.options = maker.source, maker.transform, maker.options
        asked = self.options.per_image
        self.copies = self.transform.copies if asked is None else asked
        self.done = There(planned_of(row) for row in chain(place.rows(), there))
        self.made = self.retried = self.fallbacks = 0
        self.skipped = list(self.source.skipped)
        self.labels = self.source.labels() if pairs_up(self.transform) else []
        self.bar: Any = None
        self.engine = engine_for(maker)

    def go(self) -> Summary:
        """Make what is missing."""
        missing = self.missing()
        shown = self.options.progress
        so_far = self.summary() if shown else Summary(self.place.folder, 0)  # that takes a while
        with progress_bar(shown, so_far.planned, done=so_far.taken_over) as self.bar:
            for first in missing:  # no model and no cluster is started for nothing
                self.engine(self.maker, chain([first], missing), self._keep)
        self.place.finish(self._record(), order)
        if self.made >= FIRST and self.fallbacks == self.made:
            raise GenerationError(
                f"all {self.made} images that were made for '{self.place.folder}' came out blank "
                "or refused, and their originals stand in; see the warnings, and choose another "
                "model or dtype='float32'."
            )
        return self.summary()

    def missing(self) -> Iterator[Planned]:
        """List what is not there."""
        return (one for one in self._plan() if one not in self.done)

    def begin(self) -> None:
        """Record the run before there is an image, so that an empty part is one, too."""
        self.place.begin(self._record())

    def summary(self) -> Summary:
        """Say what has been done so far."""
        planned = taken_over = 0
        for one in self._plan():
            planned += 1
            taken_over += one in self.done
        return Summary(
            destination=self.place.folder,
            planned=planned,
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
        paired = self.transform.pair_up(keys, self.labels, self.copies, self.options.seed)
        if paired is None:
            return plan(share, self.copies, include_originals=originals)
        alone = plan(share if originals else (), 0, include_originals=True)
        return chain(alone, (Planned(*one) for one in paired if self.takes(one[1])))

    def _keep(self, outcomes: list[Made | Skipped]) -> None:
        """Write images, and count them."""
        for one in outcomes:
            if isinstance(one, Skipped):
                self.skipped.append(one)
            else:
                if not self.place.begun:
                    self.place.begin(self._record())
                self.place.add(one.row, one.data)
                self.made += 1
                self.fallbacks += one.row["fallback"]
                self.retried += not one.row["fallback"] and (one.row["attempts"] or 1) > 1
            if self.bar is not None:
                self.bar.update()

    def _record(self) -> dict[str, Any]:
        """What ``run.json`` says beside the identity; it may change from one resume to the next."""
        return {
            "per_image": self.copies,
            "batch_size": self.maker.batch_size,
            "source": self.source.name,
            "classes": self.source.classes,
            "versions": self.maker.versions,
            "skipped": [one._asdict() for one in sorted(set(self.skipped))],
        }
