"""What a run did: counted from the rows of its set, and said in a few lines."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffaug.folders import COMPANIONS, HIDDEN
from diffaug.offline.manifest import Row, read_run, recorded_white
from diffaug.offline.sources import Skipped

#: Names of classes, or kinds of files, that a line shows.
SHOWN = 6
TURNED = "turned upright"
#: What ``run.json`` says of the images of a set, once it is finished.
COUNTED = ("images_per_class", "classes_without_images", "sources", "differs")


class SummaryWarning(UserWarning):
    """What a run did needs a look; the command line prints it as a line of its summary."""


def each_difference(differs: str | None) -> list[str]:
    """Return the ways in which ImageFolder sees other pixels of an image."""
    return differs.split(" and ") if differs else []


class Tally:
    """The images of a set, counted while its rows go by; the rows of a source are together."""

    def __init__(self) -> None:
        self.images = Counter[str]()
        self.differs = Counter[str]()
        #: Of the images, those of which the original stands in, and those of the transform.
        self.fallbacks = self.generated = 0
        self.total = self.sources = 0
        self._last: Any = self

    def counting(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Count rows and let them through."""
        for row in rows:
            self.total += 1
            self.fallbacks += row.get("fallback") is True
            self.generated += row.get("method") != "original" and row.get("fallback") is not True
            label = row.get("label")
            if isinstance(label, str):  # else it is no class
                self.images[label] += 1
            if row.get("source") != self._last:
                self._last = row.get("source")
                self.sources += 1
                self.differs.update(each_difference(row.get("differs")))
            yield row

    def count(self, rows: Iterable[Row]) -> None:
        """Count all rows."""
        for _ in self.counting(rows):
            pass

    def images_of(self, classes: Sequence[str]) -> dict[str, int]:
        """Return how many images each class has, in the order of the classes; others follow."""
        others = self.images.keys() - set(classes)
        numbered = all(map(str.isdecimal, others))
        names = [*classes, *sorted(others, key=lambda name: (int(name) if numbered else 0, name))]
        if classes and list(classes) == sorted(
            classes
        ):  # a class that the source lost keeps its place
            names.sort()
        return {name: self.images[name] for name in names}

    def record(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return what ``run.json`` says of the images."""
        images = self.images_of(classes)
        empty = [name for name, count in images.items() if not count]
        values = (images, empty, self.sources, dict(self.differs))
        return dict(zip(COUNTED, values, strict=True))


@dataclass(frozen=True)
class Estimate:
    """What the images that are missing will take.

    Args:
        bytes: on disk; None if no source can be read.
        seconds: with this model on this machine; None if the model is not here.
        images: how many are to make, without those whose source is known to be unreadable.
        absent: the model that is not on this machine, so that neither its time is known nor were
            the prompts read.
    """

    bytes: int | None = None
    seconds: float | None = None
    images: int = 0
    absent: str | None = None


@dataclass(frozen=True)
class Summary:
    """Say what a run did.

    Args:
        destination: the set's folder.
        planned: images that the set has if nothing is skipped.
        made: images made by this run.
        taken_over: images that were already there.
        retried: images of which a blank or refused one was made before, perhaps each time.
        fallbacks: images that are copies of their originals, because every attempt was blank or
            refused.
        skipped: sources left out, each with the reason.
        seconds: how long it took.
        classes: the class names, in the order of the labels.
        images: how many images of each class the set has now; for a share, before it is merged,
            how many this share has.
        empty: classes without images; of a dry run, those that the source has no image of.
        left_out: files that are no images, and hidden ones, by kind.
        differs: images of which torchvision's ``ImageFolder`` sees other pixels, by how.
        sources: images that were read.
        white: the value that is white in files of 16 bits, if it was given.
        reordered: ``ImageFolder`` numbers the classes of the set otherwise.
        estimate: of a dry run.
    """

    destination: Path
    planned: int
    made: int = 0
    taken_over: int = 0
    retried: int = 0
    fallbacks: int = 0
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0
    classes: tuple[str, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    differs: Mapping[str, int] = field(default_factory=dict)
    sources: int = 0
    white: int | None = None
    reordered: bool = False
    estimate: Estimate | None = None

    def lines(self) -> list[str]:
        """Say in lines how many images there are, of which classes, and what was left out."""
        images = sum(self.images.values()) or self.made + self.taken_over
        images += self.estimate.images if self.estimate is not None else 0
        return [*self._counts(images), *left_out_lines(self.left_out), *self.warnings()]

    def _counts(self, images: int) -> list[str]:
        names = list(self.classes or self.images)
        if not images or not names:  # no class is known where labels are no classes
            return [_count(images, "image")] if images else []
        return [f"{_count(images, 'image')} of {named_classes(names)}"]

    def warnings(self, order: bool = True) -> list[str]:
        """Say what makes labels or pixels wrong where torchvision's ``ImageFolder`` is used.

        ``order`` is false where the order of the classes was said before.
        """
        lines = []
        if self.empty and (self.estimate is not None or any(self.images.values())):
            lines.append(
                f"classes without images: {_listed(self.empty)}; torchvision's ImageFolder refuses "
                "the set: use GeneratedDataset"
                + ("" if self.reordered else ", or ImageFolder(..., allow_empty=True)")
            )
        if self.reordered and order:
            lines.append(
                "torchvision's ImageFolder numbers the classes by the names of their folders, "
                "which is another order than that of the labels: use GeneratedDataset"
            )
        loader = "diffaug.load_image"
        if self.white is not None:
            loader = f"functools.partial({loader}, white={self.white})"
        for differs, count in self.differs.items():
            one = count == 1
            how = f"differ{'s' * one} ({differs})"
            what = "sees other pixels"
            if differs == TURNED:
                how, what = f"{'was' if one else 'were'} {TURNED}", "does not turn "
                what += "it" if one else "them"
            lines.append(
                f"{count} of {_count(self.sources, 'image')} {how}; torchvision's ImageFolder "
                f"{what}: ImageFolder(root, loader={loader})"
            )
        return lines


def named_classes(names: Sequence[str]) -> str:
    """Say how many classes there are, and name the first of them.

    Example:
        >>> from diffaug.offline.summary import named_classes
        >>> named_classes(["cat", "dog"])
        '2 classes (cat, dog)'
    """
    return f"{_count(len(names), 'class')} ({_listed(names)})"


def recorded(folder: Path) -> Summary:
    """Return what ``run.json`` says of a finished set."""
    run = read_run(folder) or {}
    images = run.get("images_per_class", {})
    return Summary(
        folder,
        planned=run.get("images", 0),
        classes=tuple(images),
        images=images,
        empty=tuple(run.get("classes_without_images", ())),
        left_out=run.get("left_out", {}),
        differs=run.get("differs", {}),
        sources=run.get("sources", 0),
        white=recorded_white(folder),
    )


def left_out_lines(left_out: Mapping[str, int]) -> list[str]:
    """Say how many files are no images, by kind, and how many are hidden."""
    files = {kind: count for kind, count in left_out.items() if kind != HIDDEN}
    known = {kind: n for kind, n in files.items() if kind in COMPANIONS or kind.startswith("no ")}
    lines = []
    for kinds, note in ((known, ""), ({k: files[k] for k in files if k not in known}, UNKNOWN)):
        if kinds:
            shown = sorted(sorted(kinds, key=lambda kind: -kinds[kind])[:SHOWN])
            listed = ", ".join(f"{kind} {kinds[kind]}" for kind in shown)
            listed += ", ..." * (len(kinds) > SHOWN)
            total = _count(sum(kinds.values()), "file")
            lines.append(f"left out: {total} of kinds that are not read ({listed}){note}")
    if hidden := left_out.get(HIDDEN):
        them = "it" if hidden == 1 else "them"
        lines.append(
            f"left out: {hidden} hidden image{'s' * (hidden > 1)} or folder{'s' * (hidden > 1)}; "
            f"torchvision's ImageFolder reads {them}: rename or remove {them}"
        )
    return lines


UNKNOWN = "; convert them if they are images"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
    return "".join(letter if letter.isprintable() else " " for letter in shown)  # on one line


def _count(number: int, thing: str) -> str:
    plural = "classes" if thing == "class" else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"
