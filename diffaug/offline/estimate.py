"""What a run will meet and take: its sources are read, and one batch is made as a probe."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from diffaug import images
from diffaug.backends.base import is_backend
from diffaug.backends.hub import downloaded
from diffaug.backends.presets import name_of
from diffaug.backends.process.pool import devices_of
from diffaug.errors import UnreadableImageError
from diffaug.offline.generate import Made, Maker
from diffaug.offline.plan import Planned
from diffaug.offline.sources import Skipped
from diffaug.offline.summary import Estimate, each_difference

#: A probe that takes longer is not repeated, although it took the time to load the model, too.
LONG = 20.0
#: Seconds for which sources are read.
LOOK = 10.0


@dataclass
class Survey:
    """What the sources are like, as far as they were read.

    Args:
        read: how many could be read.
        differs: of how many ImageFolder sees other pixels, by how.
        skipped: those that cannot be read, each with the reason.
    """

    read: int = 0
    differs: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)


def survey(maker: Maker, keys: Sequence[str], seconds: float = LOOK) -> Survey:
    """Read sources for a while; of many, some that are spread over all of them."""
    seen = Survey()
    if not maker.source.threads:  # the items of a dataset may be made while they are read
        return seen
    step = max(1, len(keys) // 997)
    spread = (Planned(key, 0) for first in range(step) for key in keys[first::step])
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(maker.source.threads) as readers:
        for [planned], image in maker.read(spread, readers):
            if isinstance(image, UnreadableImageError):
                seen.skipped.append(Skipped(planned.source, str(image)))
            else:
                seen.read += 1
                seen.differs.update(each_difference(image.differs))
            if time.monotonic() > until:
                break
    return seen


def estimate(maker: Maker, missing: Iterable[Planned], count: int) -> Estimate:
    """Make one batch, write nothing, and say what all images take.

    A model that is not on this machine is not downloaded, and a backend of the caller's own, which
    may cost money, is not asked. Then the time is unknown, and the sources say how large the files
    are.

    Args:
        maker: of the run.
        missing: the images to make.
        count: how many.
    """
    if not count:
        return Estimate(0, 0.0)
    here = maker.transform.backend is None or (maker.spec is not None and downloaded(maker.spec))
    if here:
        maker.settle()
    first = list(islice(missing, maker.batch_size))
    if not here:
        absent = maker.spec and not is_backend(maker.transform.backend)
        return Estimate(
            _bytes_of_sources(maker, first, count),
            absent=name_of(maker.spec.model) if maker.spec and absent else None,
        )
    sizes, seconds = _probe(maker, first)
    if maker.spec is not None and seconds < LONG:  # without the time to load the model
        sizes, seconds = _probe(maker, first)
    if not sizes:
        return Estimate()
    options, at_once = maker.options, 1
    if options.devices is not None:
        at_once = len(devices_of(options.devices))
    known = options.engine == "local"  # nobody knows the machines of a cluster
    return Estimate(
        bytes=round(sum(sizes) / len(sizes) * count),
        seconds=seconds / len(first) * count / at_once if known else None,
    )


def _probe(maker: Maker, planned: list[Planned]) -> tuple[list[int], float]:
    """Make images; return the bytes of each, and the seconds of all."""
    sizes: list[int] = []

    def keep(outcomes: list[Made | Skipped]) -> None:
        sizes.extend(len(made.data) for made in outcomes if isinstance(made, Made))

    started = time.monotonic()
    maker.make(planned, keep)
    return sizes, time.monotonic() - started


def _bytes_of_sources(maker: Maker, planned: list[Planned], count: int) -> int | None:
    sizes = []
    for key in dict.fromkeys(image.source for image in planned):
        try:
            pixels = maker.sized(maker.source.load(key)).pixels[0]
        except UnreadableImageError:
            continue
        sizes.append(len(images.encode_image(pixels, maker.options.format)))
    return round(sum(sizes) / len(sizes) * count) if sizes else None
