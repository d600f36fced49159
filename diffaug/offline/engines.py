"""Where the images of a set are made: in this process, on several devices, or on a cluster."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

from diffaug.backends.process.pool import devices_of, serve
from diffaug.backends.spec import ModelSpec
from diffaug.offline.generate import Engine, Keep, Maker
from diffaug.offline.plan import Planned
from diffaug.offline.ray import make_with_ray, require_ray

#: Batches that are sent to each device at once, so that no device waits for the slowest.
AHEAD = 2


def engine_for(maker: Maker) -> Engine:
    """Return what makes the images of a run, as its options say.

    Raises:
        ValueError: a device is unknown, or the transform has no model to load on the devices.
        MissingDependencyError: Ray is not installed.
    """
    if maker.options.engine == "ray":
        require_ray()
        return make_with_ray
    if maker.options.devices is None:
        return Maker.make
    if not isinstance(maker.transform.backend, ModelSpec):  # a backend runs where it is
        raise ValueError(
            f"'devices' must not be given for {type(maker.transform).__name__} with this backend: "
            "there is no model to load on them."
        )
    return partial(make_on_devices, devices=devices_of(maker.options.devices))


def make_on_devices(
    maker: Maker, planned: Iterable[Planned], keep: Keep, *, devices: Sequence[str]
) -> None:
    """Make images with one model process for each device; this process does the rest."""
    with serve(cast(ModelSpec, maker.spec), devices=devices) as pool:
        maker.backend, maker.at_once = pool, AHEAD * len(pool.backends)
        maker.make(planned, keep)
