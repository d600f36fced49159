"""Judge an image by its similarity to its source."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from diffaug import functional, images
from diffaug.arguments import whole
from diffaug.checked import checked
from diffaug.errors import UnreadableImageError
from diffaug.file_warnings import reading
from diffaug.offline.manifest import Row, read_run, recorded_white
from diffaug.switches import own_switches
from diffaug.untrusted import is_name_below

#: An image that is less similar to its source is lost; one that is more similar is a copy.
BOUNDS = (0.1, 0.98)


@checked
class SimilarityFilter:
    """Score how similar an image is to its source; drop what hardly changed or changed too much.

    The measure is SSIM, the structural similarity, at a small common size: 1 for equal images,
    about 0 if nothing of the source can be recognised. It has two bounds, since both ends are bad:
    an edit that changed nothing, and an edit that lost the class.

    Args:
        source: the folder that the set was made from; None for what its ``run.json`` names.
        low: least similarity to keep, in [-1, 1].
        high: greatest similarity to keep, in [-1, 1].
        size: side in pixels of the square that both images are resized to, >= 16.

    Shape:
        Images: uint8 ``(3, H, W)``, of any sizes. Scores: ``(N,)``, float in [-1, 1].

    Raises:
        ValueError: an argument is outside its range, or the folder of sources is not there.

    Example:
        >>> from diffaug import SimilarityFilter
        >>> SimilarityFilter(low=0.2).bounds
        (0.2, 0.98)

    Reference:
        Wang, Bovik, Sheikh and Simoncelli, Image quality assessment, IEEE TIP 13(4), 2004; a window
        of 11 pixels, on each colour channel.
    """

    name = "similarity"

    def __init__(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        low: float = BOUNDS[0],
        high: float = BOUNDS[1],
        size: int = 64,
    ) -> None:
        for name, value in (("low", low), ("high", high)):
            if not -1 <= value <= 1:
                raise ValueError(f"'{name}' must be in [-1, 1], got {value}.")
        if low > high:
            raise ValueError(f"'low' must not be above 'high', got {low} and {high}.")
        self.bounds = (float(low), float(high))
        self.size = whole("size", size, 16)
        self.source = None if source is None else Path(source).expanduser()
        self._root = self.source
        self._white: int | None = None

    def prepare(self, folder: Path, rows: Sequence[Row]) -> None:
        """Find the folder that a set was made from."""
        run = read_run(folder) or {}
        named = self.source or run.get("source")
        if named is None or not Path(named).is_dir():
            reason = "run.json names none" if named is None else f"'{named}' is no folder here"
            raise ValueError(
                f"'source' must be the folder that the set was made from, and {reason}; "
                "give SimilarityFilter that folder."
            )
        self._root, self._white = Path(named), recorded_white(folder)
        sources = dict.fromkeys(str(row.get("source")) for row in rows)
        if sources and not any((self._root / source).is_file() for source in sources):
            raise ValueError(
                f"'source' must be the folder that the set was made from, and '{named}' has none "
                f"of its images, such as '{next(iter(sources))}'; give SimilarityFilter another."
            )

    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return each image's similarity to its source, NaN if the source cannot be read."""
        names = [str(row["source"]) for row in rows]
        originals = {name: self._original(name) for name in set(names)}
        generated = [small(image, self.size) for image in images]
        return similarities(generated, [originals[name] for name in names])

    def _original(self, name: str) -> torch.Tensor:
        if self._root is None:
            raise ValueError("'source' must be given to score images outside filter_set.")
        try:
            # By name alone: links in a folder of photographs are its owner's.
            if not is_name_below(name):
                raise UnreadableImageError(f"{name!r} does not lie below '{self._root}'.")
            with reading(self._root / name):
                return small(images.read_image(self._root / name, white=self._white), self.size)
        except UnreadableImageError:
            return torch.full((3, self.size, self.size), torch.nan)


def small(image: torch.Tensor, size: int = 64) -> torch.Tensor:
    """Return an image (3, H, W) as float (3, size, size), as two images are compared."""
    return functional.resize(image, (size, size)).float() / 255


def similarities(
    images: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]
) -> torch.Tensor:  # (N,)
    """Return the SSIM of each small image and its source; NaN where a source is NaN."""
    from kornia.metrics import ssim

    with own_switches(torch.device("cpu"), exact=True):
        return ssim(torch.stack([*images]), torch.stack([*sources]), window_size=11).mean((1, 2, 3))
