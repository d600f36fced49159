"""The options of a run, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffaug import images
from diffaug.arguments import image_size, whole
from diffaug.offline.shards import Shard


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run, checked; ``augment_folder`` explains each.

    Raises:
        ValueError, TypeError: a value is outside its range.
    """

    per_image: int | None
    seed: int
    size: Any  # as image_size returns it
    format: str
    include_originals: bool
    mark: bool
    shard: Shard | None
    engine: str
    devices: str | Sequence[str | int] | None
    strict: bool
    dry_run: bool
    progress: bool

    def __post_init__(self) -> None:
        # Numpy's numbers become Python's, as JSON needs.
        object.__setattr__(self, "seed", whole("seed", self.seed, 0))
        if self.per_image is not None:
            object.__setattr__(self, "per_image", whole("per_image", self.per_image, 1, 10**6))
        if self.shard is not None and not isinstance(self.shard, Shard):
            raise TypeError(f"'shard' must be like '3/16', got {self.shard!r}.")
        if self.size is not None:
            object.__setattr__(self, "size", image_size("size", self.size))
        if self.format not in images.FORMATS:
            raise ValueError(
                f"'format' must be one of {', '.join(images.FORMATS)}, got {self.format!r}."
            )
        if self.engine not in ("local", "ray"):
            raise ValueError(f"'engine' must be local or ray, got {self.engine!r}.")
        if self.engine == "ray" and self.devices is not None:
            raise ValueError(
                "'devices' must not be given with the engine ray, which uses all of its cluster, "
                f"got {self.devices!r}; start the cluster with the GPUs that it may use."
            )

    def identity(self) -> dict[str, Any]:
        """Return the options that make a set what it is; more copies of it may be made later."""
        names = ("seed", "size", "format", "include_originals")
        # Older sets do not say it: their images have no marks.
        return {name: getattr(self, name) for name in names} | ({"mark": True} if self.mark else {})
