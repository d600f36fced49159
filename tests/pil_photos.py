"""PIL images in every mode, and files as cameras and scanners write them."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from diffaug import pil_modes

#: Every mode that Pillow has, but F, whose range is unknown. "P;alpha" has a transparent colour,
#: and "P;alphas" an alpha for each.
MODES = """
1 L LA La P P;alpha P;alphas PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I I;16 I;16B I;16L I;16N
""".split()

#: How an upright picture must be turned, so that a viewer who obeys an orientation sees it upright.
BACK = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def make_photo(height: int = 21, width: int = 30) -> Image.Image:
    """Draw a picture in RGB that no turn leaves as it is."""
    rows, columns = np.mgrid[0:height, 0:width]
    levels = np.stack([rows * 12, columns * 8, (rows + columns) * 5], -1).astype(np.uint8)
    return Image.fromarray(levels)


def in_mode(photo: Image.Image, mode: str, white: int = 65535) -> Image.Image:
    """Return a picture in one of the modes; ``white`` is that of the deep ones."""
    if pil_modes.is_deep(mode):
        levels = np.asarray(photo.convert("L")).astype(np.int64) * white // 255
        levels[0, :2] = 0, white
        kind = {"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")
        return Image.frombytes(mode, photo.size, levels.astype(kind).tobytes())
    if mode.startswith("P;"):
        image = photo.quantize(16)
        image.info["transparency"] = 3 if mode == "P;alpha" else bytes(range(0, 256, 16))
        return image
    if mode in ("RGBA", "RGBa", "LA", "La", "PA", "RGBX"):
        image = photo.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode))
        alpha = np.arange(photo.width * photo.height).reshape(photo.height, photo.width) * 7 % 256
        alpha = Image.fromarray(alpha.astype(np.uint8))
        if mode == "RGBX":
            return Image.merge("RGBX", [*photo.split(), alpha])
        image.putalpha(alpha)
        return image if image.mode == mode else image.convert(mode)
    return photo.convert(mode)


def save_turned(photo: Image.Image, path: Path, orientation: int) -> Path:
    """Save an upright picture as a phone does: as its sensor saw it, with the orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    BACK[orientation](photo).save(path, exif=exif)
    return path
