"""Whether the images that a transform gets come back, without which a cache never has an answer."""

import mmap
import struct
import zlib
from typing import Any

from torch.utils.data import get_worker_info

#: A count of different images, of repeats, the dataset's length, and whether it was told.
_HEAD = struct.Struct("<QQQ?")
_BYTES = 2**17
_BITS = 8 * (_BYTES - _HEAD.size)
#: Of a larger dataset only a share of the images is looked at, so that the bits do not run out.
_MOST = 2**16
#: Different images in proportion to the dataset's length, and a few more for small datasets.
_EXCESS, _FEW = 1.25, 16
#: At most this share of the images may have come before.
_REPEATS = 0.1


class Recurrence:
    """Notice that a transform gets more different images than its dataset has.

    Images that come unchanged cannot be more than the dataset has, however many epochs there are.
    The count is in memory that forked workers share; others count for themselves. It pickles as
    nothing.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BYTES)

    def __reduce__(self) -> tuple[Any, ...]:
        return Recurrence, ()

    def note(self, image: Any, length: int) -> int:
        """Note an image of a dataset of this length.

        Returns the number of different images so far, the first time that it is too large; or 0.
        """
        glance = _glance(image)
        stride = 1 + length // _MOST
        if glance % stride:
            return 0
        different, repeats, before, told = _HEAD.unpack_from(self._memory)
        if told:
            return 0
        if before != length:  # another dataset
            self._memory[:] = bytes(_BYTES)
            different = repeats = 0
        place, bit = divmod(glance // stride % _BITS, 8)
        place += _HEAD.size
        if self._memory[place] >> bit & 1:
            repeats += 1
        else:
            self._memory[place] |= 1 << bit
            different += 1
        told = different * stride > _EXCESS * length + _FEW and repeats <= _REPEATS * different
        _HEAD.pack_into(self._memory, 0, different, repeats, length, told)
        return different * stride if told else 0


def _glance(image: Any) -> int:
    """Hash an eighth of the rows and columns of an image: quick, and enough to tell crops apart."""
    if hasattr(image, "tobytes"):  # of Pillow
        return zlib.crc32(image.resize((16, 16), 0).tobytes())
    height, width = image.shape[-2:]
    few = image[..., :: 1 + height // 16, :: 1 + width // 16].detach()
    return zlib.crc32(few.cpu().contiguous().numpy().tobytes())


def dataset_length() -> int | None:
    """Return the length of the dataset that this worker reads; None if nobody knows it."""
    info = get_worker_info()
    try:
        return None if info is None else len(info.dataset)  # type: ignore[arg-type]
    except TypeError:
        return None
