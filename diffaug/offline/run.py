"""A run: make the images of a set that are missing, and write its manifest."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from diffaug.backends.compiling import warn_of_few
from diffaug.file_warnings import naming_files
from diffaug.offline.card import FILES
from diffaug.offline.destination import Destination
from diffaug.offline.engines import engine_for
from diffaug.offline.estimate import estimate, survey
from diffaug.offline.generate import Made, Maker
from diffaug.offline.manifest import Row
from diffaug.offline.plan import Planned, There, order, plan, planned_of
from diffaug.offline.sources import Skipped
from diffaug.offline.success import check_success
from diffaug.offline.summary import Summary, Tally
from diffaug.progress import progress_bar
from diffaug.transforms.base import ImageTransform


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
        # As GeneratedDataset numbers them: a transform that moves images has names of its own.
        own = getattr(self.transform, "class_names", ()) if pairs_up(self.transform) else ()
        self.own_classes = list(own)
        self.classes = list(dict.fromkeys([*own, *(self.source.classes or ())]))
        if taken := FILES.intersection(self._folders()):
            raise ValueError(
                f"a class must not be called {min(taken)!r}, as a file of every set is; rename it."
            )
        self.bar: Any = None
        self.engine = engine_for(maker)

    def go(self) -> Summary:
        """Make the images that are missing, and write the manifest."""
        made = (planned for planned in self.missing() if planned.copy is not None)
        warn_of_few(self.maker.spec, made, stacklevel=6)  # of the caller of augment_folder
        missing = self.missing()
        shown = self.options.progress
        # Counting takes a while, and only the bar needs it.
        so_far = self.summary() if shown else Summary(self.destination.folder, 0)
        bar = progress_bar(shown, so_far.planned, done=so_far.taken_over)
        with bar as self.bar, naming_files():
            for first in missing:  # without any, no model and no cluster is started
                self._check_files()
                self.engine(self.maker, chain([first], missing), self._keep)
        self.destination.make_folders(self._folders())
        tally = Tally()
        self.destination.finish(self._record(), order, tally)
        check_success(
            f"'{self.destination.folder}'",
            now=self.made,
            originals=self.fallbacks,
            generated=tally.generated if self.options.shard is None else None,
            all_originals=tally.fallbacks,
            instead="are copies of their originals; see the warnings, and choose another model, "
            "dtype='float32', or another folder for a new run.",
        )
        return self.told(self.summary(), tally)

    def missing(self) -> Iterator[Planned]:
        """List the planned images that are not there."""
        return (planned for planned in self._plan() if planned not in self.done)

    def begin(self) -> None:
        """Record the run before its first image, so that a part without images is recorded, too."""
        self.destination.begin(self._record(), self._folders())

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
            classes=tuple(self.classes),
            left_out=dict(self.source.left_out),
            white=self.source.white,
        )

    def told(self, summary: Summary, tally: Tally) -> Summary:
        """Return a summary with what the rows of the set say."""
        images = tally.images_of(self.classes)
        folders = sorted(map(self.source.folder_of, images))
        numbered = list(map(self.source.folder_of, self.own_classes or images))
        return replace(
            summary,
            classes=tuple(images),
            images=images,
            empty=tuple(name for name, count in images.items() if not count),
            differs=dict(tally.differs),
            sources=tally.sources,
            reordered=numbered != folders[: len(numbered)],
        )

    def dry(self) -> Summary:
        """Return what a run would do, with an estimate of what it takes."""
        tally = Tally()
        tally.count(self.destination.rows())
        there = self.told(self.summary(), tally)
        with naming_files():
            seen = survey(self.maker, self.source.keys)
            unreadable = {source for source, _ in seen.skipped}
            count = sum(planned.source not in unreadable for planned in self.missing())
            to_make = (image for image in self.missing() if image.source not in unreadable)
            if count:
                self._check_files()
            expected = estimate(self.maker, to_make, count)
        keys = [key for key in self.source.keys if key not in unreadable]
        # Where a transform chooses the class of each image, nobody knows before.
        known = set() if pairs_up(self.transform) else {*map(self.source.class_of, keys)}
        if known := known - {None}:
            known |= {name for name, images in there.images.items() if images}
        return replace(
            there,
            empty=tuple(name for name in there.classes if known and name not in known),
            skipped=tuple(dict.fromkeys([*there.skipped, *seen.skipped])),
            differs=dict(seen.differs),
            sources=seen.read,
            estimate=replace(expected, images=count),
        )

    def _check_files(self) -> None:
        """Read the other files that the transform uses, before the first image is made."""
        for part in self.transform.modules():
            if isinstance(part, ImageTransform):
                part.check_files()

    def _folders(self) -> list[str]:
        return [self.source.folder_of(name) for name in self.classes]

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
                    self.begin()
                self.destination.add(row, outcome.data)
                self.made += 1
                self.fallbacks += row["fallback"]
                self.retried += (row["attempts"] or 1) > 1
            if self.bar is not None:
                self.bar.update()

    def _record(self) -> dict[str, Any]:
        """Return what ``run.json`` holds besides the identity; a resumed run may change it."""
        return {
            "per_image": self.copies,
            "batch_size": self.maker.batch_size,
            "source": self.source.name,
            **({"part": dict(self.source.part)} if self.source.part else {}),
            "classes": self.source.classes,
            "left_out": dict(self.source.left_out),
            "versions": self.maker.versions,
            "skipped": [skipped._asdict() for skipped in sorted(set(self.skipped))],
        }
