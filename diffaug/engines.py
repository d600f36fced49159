"""Where the images of a set are made: in this process, on several devices, or on a cluster."""

from collections.abc import Iterable, Sequence
from functools import partial

from diffaug.augment_ray import make_with_ray
from diffaug.making import Engine, Keep, Maker, Options
from diffaug.plans import Planned
from diffaug.serving import serve

#: Batches for each device that are under way together, so that none waits for the slowest.
AHEAD = 4


def engine_for(options: Options) -> Engine:
    """Return what a run was asked to make its images with."""
    if options.engine == "ray":
        return make_with_ray
    if options.devices is None:
        return Maker.make
    return partial(make_on_devices, devices=options.devices)


def make_on_devices(
    maker: Maker, planned: Iterable[Planned], keep: Keep, *, devices: str | Sequence[str | int]
) -> None:
    """Make images with one model process for each device; the rest is done in this process."""
    if maker.spec is None:
        raise ValueError(
            f"'devices' must not be given for {type(maker.transform).__name__} with this backend: "
            "there is no model to be loaded on them."
        )
    with serve(maker.spec, devices=devices) as pool:
        maker.backend, maker.at_once = pool, AHEAD * len(pool.backends)
        maker.make(planned, keep)
