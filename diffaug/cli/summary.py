"""What the commands print of what was done, of which images, and of what was left out."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.cli.app import err, out

if TYPE_CHECKING:
    from diffaug.offline.summary import Estimate, Summary

#: So many images that were left out are named.
SKIPPED_SHOWN = 20


@contextmanager
def summarized() -> Iterator[None]:
    """Leave out the warnings that are lines of the summary."""
    from diffaug.offline.summary import SummaryWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SummaryWarning)
        yield


def print_summary(summary: "Summary") -> None:
    """Print what a run did, or what it would do."""
    if summary.estimate is not None:
        missing = summary.estimate.images
        out.print(
            f"{missing + summary.taken_over} images planned, {summary.taken_over} of them already "
            f"there, {missing} to make in {summary.destination}; nothing was written"
        )
        if missing:
            out.print(estimate_line(summary.estimate))
    else:
        speed = f", {speed_of(summary.made, summary.seconds)}" if summary.made else ""
        out.print(f"made {summary.made}, {summary.taken_over} already there{speed}")
        if summary.retried or summary.fallbacks:
            out.print(f"retried {summary.retried}, kept the original of {summary.fallbacks}")
        if not summary.made and (summary.taken_over or not summary.planned):
            out.print("nothing to do")
        out.print(f"in {summary.destination}")
    print_skipped(summary.skipped)
    for line in summary.lines():
        out.print(line)


def print_left_out(left_out: Mapping[str, int]) -> None:
    """Count the files that are no images."""
    from diffaug.offline.summary import left_out_lines

    for line in left_out_lines(left_out):
        out.print(line)


def print_merged(images: int, destination: Path) -> None:
    """Print what a merged set holds."""
    from diffaug.offline.summary import recorded

    out.print(f"{images} images in {destination}")
    for line in recorded(destination).lines():
        out.print(line)


def print_skipped(skipped: Iterable[Any]) -> None:
    """Name what was skipped, each with the reason."""
    named = list(skipped)
    for name, reason in named[:SKIPPED_SHOWN]:
        err.print(f"skipped {name}: {reason}")
    if len(named) > SKIPPED_SHOWN:
        err.print(f"skipped {len(named)} in all")


def estimate_line(estimate: "Estimate") -> str:
    """Say how much disk and time is needed, as far as it is known."""
    size = "unknown" if estimate.bytes is None else f"about {size_of(estimate.bytes)}"
    if estimate.absent is not None:
        return (
            f"disk: {size}; time: unknown, and the prompts were not read, since the model is not "
            f"here: run `diffaug download {estimate.absent}` first"
        )
    if estimate.seconds is None:
        return f"disk: {size}; time: unknown, since the model has not run here"
    return f"disk: {size}; time: about {_time(estimate.seconds)} on this machine"


def speed_of(images: int, seconds: float) -> str:
    """Say how many images a second were made, with digits that say something."""
    speed = images / seconds
    return f"{speed:.1f} images/s" if speed >= 1 else f"{speed:.2g} images/s"


def size_of(count: int) -> str:
    """Say how large something is."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{max(1, round(count / 1e3))} kB"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(1, round(seconds))} seconds"


def print_differences(files: Sequence[str]) -> None:
    """Say of which files ImageFolder's own loader sees other pixels than diffaug's does."""
    from diffaug.datasets.loaders import loaded_otherwise

    if differences := loaded_otherwise(files):
        kinds = ", ".join(f"{count} {kind}" for kind, count in differences.items())
        err.print(
            f"diffaug.load_image sees files otherwise than ImageFolder's own loader ({kinds}): "
            "if your training loads them with it, give --load-image"
        )
