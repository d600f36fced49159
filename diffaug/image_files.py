"""One reading of an image file: upright, RGB, 16 bits by their range."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from diffaug import pil_modes
from diffaug.arguments import whole
from diffaug.errors import UnreadableImageError, is_of_machine, machine_trouble, one_line
from diffaug.untrusted import open_regular

PathOrFile = str | os.PathLike[str] | BinaryIO

#: How an image must be turned to be upright, by its orientation in EXIF.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: What a file may be, whatever its name says. Pillow knows forty formats more; for some of them it
#: starts other programs (Ghostscript for PostScript), and none is needed here.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")

#: Bytes of memory that reading takes for each pixel: Pillow's own four, and copies.
_BYTES_A_PIXEL = 11

#: Where Pillow keeps tags with an orientation.
TURNING = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}


@contextmanager
def open_image(path: PathOrFile) -> Iterator[Image.Image]:
    """Open an image, which may come from anyone; Pillow reads its pixels when they are needed."""
    with ExitStack() as stack:
        if isinstance(path, (str, os.PathLike)):
            path = stack.enter_context(open_regular(path))
        yield stack.enter_context(Image.open(path, formats=FORMATS))


def _check_pixels(size: tuple[int, int], name: str) -> None:
    """Refuse an image that would fill the memory, as a few kB of file can say of themselves.

    The bound is Pillow's, from which it only warns: whoever has larger images, and the memory for
    them, knows where to raise it.
    """
    pixels, most = size[0] * size[1], Image.MAX_IMAGE_PIXELS
    if most is not None and pixels > most:
        raise _too_large(name, f"{pixels:,} pixels ({size[0]} x {size[1]})", pixels)


def _too_large(name: str, what: str, pixels: int) -> UnreadableImageError:
    return UnreadableImageError(
        f"'{name}' has {what}, and at most {Image.MAX_IMAGE_PIXELS:,} are read, since it would "
        f"take {pixels * _BYTES_A_PIXEL / 1e9:.1f} GB of memory or more; shrink it, or set "
        "PIL.Image.MAX_IMAGE_PIXELS."
    )


def read_rgb(
    path: PathOrFile, name: str | None = None, white: int | None = None
) -> tuple[Image.Image, str | None]:
    """Return a file's image in RGB, and how torchvision's own loader would see other pixels.

    Raises:
        ValueError: ``white`` is under 1.
        UnreadableImageError: the file is not an image, is damaged or too large, or its white is
            unknown.
        SourceError: the machine cannot read it now, such as for want of memory.
    """
    white = white if white is None else whole("white", white, 1)
    name = str(name or path)
    try:
        with open_image(path) as image:
            _check_pixels(image.size, name)
            depth = _depth_of(image)  # before load(), which forgets it
            image.load()
            turn = TURNS.get(_orientation(image))
            rgb = _to_rgb(image, depth, white, name)
            differs = [] if turn is None else ["turned upright"]
            if _is_measured(image.mode) and rgb.tobytes() != image.convert("RGB").tobytes():
                differs.append("floats" if image.mode == "F" else "16 bits")
            if turn is not None:
                rgb = rgb.transpose(turn)
                # Whoever obeys the tags of the result must not turn it once more.
                rgb.info = {tag: value for tag, value in rgb.info.items() if tag not in TURNING}
            return rgb, " and ".join(differs) or None
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:  # from twice the bound on, before it says more
        least = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise _too_large(name, f"more than {least:,} pixels", least) from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"'{name}' is not a readable image: it is damaged, or none of {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # a damaged file may fail in any parser of Pillow
        if is_of_machine(error):
            raise machine_trouble(f"'{name}'", error) from error
        raise UnreadableImageError(
            f"'{name}' is not a readable image: {one_line(error)}."
        ) from error


def _orientation(image: Image.Image) -> int:
    """Return the orientation that a loaded image states; 1, upright, if it states none."""
    try:
        # Pillow has turned a TIFF by itself.
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged tags make no damaged picture
        return 1


class _Depth(NamedTuple):
    """How deep the levels in a file are.

    Args:
        deep: whether they have more than 8 bits.
        white: the level that is white, if the file says so.
        scaled: whether Pillow scales this level to white by itself.
    """

    deep: bool = False
    white: int | None = None
    scaled: bool = False


def _depth_of(image: Image.Image) -> _Depth:
    """Find out how deep the levels in an open file are; Pillow gives 16-bit colour as 8 bits."""
    decoder, _, _, args = next(iter(getattr(image, "tile", ())), ("", None, 0, ""))
    args = args if isinstance(args, tuple) else (args,)
    if decoder.startswith("ppm") and len(args) > 1:
        return _Depth(args[1] > 255, args[1] if args[1] < pil_modes.DEEPEST else None, True)
    if args[:1] == ("I;12",):
        return _Depth(True, 4095)
    # "BGR;16" is another thing: 16 bits for three colours together.
    return _Depth(re.search(r";16[BLN]$", str(args[0] if args else "")) is not None)


def _to_rgb(image: Image.Image, depth: _Depth, white: int | None, name: str) -> Image.Image:
    """Return a loaded image in RGB, or say what is unknown about its range."""
    if _is_measured(image.mode):
        return _grey(np.asarray(image), depth, white, name).convert("RGB")
    if depth.deep:
        _check_colour(image, depth, white, name)
    return pil_modes.to_rgb(image)


def _is_measured(mode: str) -> bool:
    """Return whether the values of a mode are measurements, of which any may be white."""
    return mode == "F" or pil_modes.is_deep(mode)


def _grey(levels: np.ndarray[Any, Any], depth: _Depth, white: int | None, name: str) -> Image.Image:
    """Scale measured levels to 8 bits, or say that nobody knows how."""
    if white and white > pil_modes.DEEPEST and levels.dtype.itemsize == 2:
        raise UnreadableImageError(
            f"'{name}' has 16 bits, and white={white} is more than these hold; give the value that "
            f"is white in it, at most {pil_modes.DEEPEST}."
        )
    if fault := pil_modes.depth_fault(levels, white or depth.white):
        kind = "floats" if levels.dtype.kind == "f" else "16 bits"
        raise UnreadableImageError(
            f"'{name}' has {kind} and {fault}, so that its white is unknown; "
            f"{_advice(name, float(levels.min()), float(levels.max()))}."
        )
    if depth.scaled and depth.white:  # Pillow has made DEEPEST of the white in the file
        share = (white or depth.white) / depth.white
        return pil_modes.levels_to_8_bits(levels, max(1, round(share * pil_modes.DEEPEST)))
    return pil_modes.levels_to_8_bits(levels, white or depth.white or pil_modes.DEEPEST)


def _advice(name: str, low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "replace the values in it that are no numbers"
    if low < 0:
        scaled = f"((levels - {low}) * {255 / ((high - low) or 1)}).round().astype('uint8')"
        return (
            f"if {low} is black and {high} is white, save a copy of 8 bits: "
            f"levels = numpy.asarray(PIL.Image.open({name!r})); "
            f"PIL.Image.fromarray({scaled}).save('copy.png')"
        )
    white = pil_modes.likely_white(high)
    return (
        f"if {white} is white, give white={white} ('--white {white}'), or save a copy of 8 bits: "
        f"diffaug.load_image({name!r}, white={white}).save('copy.png')"
    )


def _check_colour(image: Image.Image, depth: _Depth, white: int | None, name: str) -> None:
    """Refuse a deep image in colour that uses little of its range: Pillow keeps 8 bits of it."""
    full = depth.white or pil_modes.DEEPEST
    bands = (image.getchannel(band) for band in image.getbands()[:3])
    dark = max(pil_modes.extremes(band)[1] for band in bands) < pil_modes.LEAST_WHITE >> 8
    if white not in (None, full) or (dark and white is None and depth.white is None):
        raise UnreadableImageError(
            f"'{name}' has colours of 16 bits that do not use their range, and Pillow reads the "
            f"upper 8 bits alone; if {full} is white, give white={full}, else save a copy of 8 "
            "bits with a program that reads 16-bit colours."
        )
