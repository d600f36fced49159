"""Convert the caller's images (PIL, tensors, tv_tensors, files) to (N, 3, H, W) and back."""

import io
import math
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torchvision import tv_tensors

from diffaug import image_files, pil_modes
from diffaug.checked import checked
from diffaug.image_files import PathOrFile
from diffaug.pil_modes import to_pil as to_pil

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def is_pure_tensor(value: Any) -> bool:
    """Return whether a value is a tensor that torchvision has not marked as something else."""
    return isinstance(value, torch.Tensor) and not isinstance(value, tv_tensors.TVTensor)


#: What torchvision passes to our transforms; boxes and masks are not among it.
TRANSFORMED_TYPES = (is_pure_tensor, tv_tensors.Image, Image.Image)


def is_image(value: Any) -> bool:
    """Return whether a value is what torchvision passes to our transforms."""
    return is_pure_tensor(value) or isinstance(value, (tv_tensors.Image, Image.Image))


def is_video(value: Any) -> bool:
    """Return whether a value is a torchvision video."""
    return isinstance(value, tv_tensors.Video)


def is_annotation(value: Any) -> bool:
    """Return whether a value says where something is in an image: boxes, masks or keypoints."""
    names = ("BoundingBoxes", "Mask", "KeyPoints")  # the last is new in torchvision 0.23
    return isinstance(value, tuple(getattr(tv_tensors, n) for n in names if hasattr(tv_tensors, n)))


def mark_image(image: Any) -> Any:
    """Mark a pure tensor as an image, so that a label vector beside it is not mistaken for one.

    Raises:
        ValueError: it has one dimension or none, as a label has.
    """
    if is_pure_tensor(image) and image.ndim < 2:
        _check_dimensions(image)
    return tv_tensors.Image(image) if is_pure_tensor(image) else image


def unmark_image(image: Any) -> Any:
    """Return a marked tensor as the pure tensor that it was; leave everything else as it is."""
    return image.as_subclass(torch.Tensor) if isinstance(image, tv_tensors.Image) else image


def check_image(image: Any) -> int:
    """Return how many images a value holds (leading dimensions multiplied), or raise.

    Raises:
        TypeError: the value is not an image, or its dtype is neither uint8 nor floating.
        ValueError: its shape is not that of images, it holds floats outside [0, 1], or it is a PIL
            image of 16 bits that uses little of their range.
    """
    if isinstance(image, Image.Image):
        pil_modes.check(image)
        return count(image)
    if not isinstance(image, torch.Tensor):
        raise TypeError(
            f"'image' must be a PIL image or a tensor, got {type(image).__name__}; "
            "put v2.ToImage() before this transform."
        )
    _check_dimensions(image)
    _check_dtype(image)
    _check_shape(tuple(image.shape))
    _check_range(image)
    return count(image)


def count(image: Any) -> int:
    """Return how many images a checked value holds."""
    return 1 if isinstance(image, Image.Image) else math.prod(image.shape[:-3])


def _check_dimensions(image: torch.Tensor) -> None:
    if image.is_meta or image.layout != torch.strided:
        raise TypeError("'image' must be a plain tensor with its values, got one without.")
    if image.ndim < 3:
        grey = image.ndim == 2 and (image.dtype == torch.uint8 or image.is_floating_point())
        flat = " (or like a grey image without its channel: give image[None])" if grey else ""
        raise ValueError(
            f"'image' must have shape (..., C, H, W), got {tuple(image.shape)}; this looks like a "
            f"label{flat}. Mark the image with tv_tensors.Image, or put v2.ToImage() first."
        )


def _check_dtype(image: torch.Tensor) -> None:
    if image.dtype == torch.uint8 or image.is_floating_point():
        return
    if image.dtype == torch.bool or image.is_complex() or not image.numel():
        low, white = 0, 1
    else:  # as floats, since torch finds no maximum of unsigned integers; MPS has no float64
        low, high = (int(value) for value in image.cpu().double().aminmax())
        low, white = min(0, low), pil_modes.likely_white(high)
    if image.dtype == torch.bool:
        advice = "turn it into floats: image.float(), or v2.ToDtype(torch.float32)"
    else:
        shift = f"(image.float() + {-low})" if low else "image.float()"
        advice = (
            f"scale it to [0, 1] by your data's own maximum: {shift} / {white - low}, or "
            f"v2.ToDtype(torch.float32), {pil_modes.scaling(low, white)}"
        )
    raise TypeError(f"'image' must be uint8 or floating, got {image.dtype}; {advice}.")


def _check_shape(shape: tuple[int, ...]) -> None:
    if shape[-3] in (1, 3) and 0 not in shape[-2:]:
        return
    raise ValueError(
        f"'image' must have shape (..., C, H, W) with 1 or 3 channels, got {shape}"
        f"{_advice_on_shape(shape)}."
    )


def _advice_on_shape(shape: tuple[int, ...]) -> str:
    if 0 in shape:
        return ""
    if shape[-1] in (1, 3) or (shape[-1] in (2, 4) and shape[-3] not in (2, 4)):
        return "; move its channels to the front: image.movedim(-1, -3)"
    if shape[-3] in (2, 4):
        return (
            "; put v2.RGB() before v2.ToImage(), or drop the alpha channel: "
            f"image[..., :{shape[-3] - 1}, :, :]"
        )
    return "; choose three of its channels: image[..., [0, 1, 2], :, :]"


def _check_range(image: torch.Tensor) -> None:
    if not image.is_floating_point() or not image.numel():
        return
    low, high = (float(value) for value in image.detach().aminmax())
    if low >= 0 and high <= 1:  # written so that a NaN is refused, too
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        advice = "find out which step makes values that are no numbers"
    elif low >= 0 and high > 16:  # levels, and no overshoot
        white = pil_modes.likely_white(high)
        advice = f"divide it by its white: image / {white}, or {pil_modes.scaling(0, white)}"
    else:
        advice = (
            "put this transform before Normalize, and clamp what a bicubic resize overshoots: "
            "image.clamp(0, 1)"
        )
    raise ValueError(f"'image' must hold floats in [0, 1], got {low:.3g} to {high:.3g}; {advice}.")


#: Pixels (N, 3, H, W), and a function that restores the caller's own type.
Unpacked = tuple[torch.Tensor, Callable[[torch.Tensor], Any]]


def unpack(image: Any) -> Unpacked:
    """Return the pixels as (N, 3, H, W), and a function that restores the caller's own type.

    A PIL image of 16 bits gives floats. What a result has in common with the image comes back as
    the caller's own pixels, in their own depth and mode; see :func:`diffaug.pil_modes.restore`.
    """
    if isinstance(image, Image.Image):
        return pil_modes.to_tensor(image)[None], lambda result: pil_modes.restore(result[0], image)
    pixels = image.as_subclass(torch.Tensor).reshape(-1, *image.shape[-3:])  # (N, C, H, W)
    grey = pixels.shape[1] == 1

    def restore(result: torch.Tensor) -> torch.Tensor:
        result = pil_modes.luma(result) if grey else result
        result = result.reshape(image.shape).to(image.device)
        if isinstance(image, tv_tensors.TVTensor):
            return tv_tensors.wrap(result, like=image)
        return result

    return (pixels.expand(-1, 3, -1, -1) if grey else pixels), restore


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Turn floats in [0, 1] into uint8; leave uint8 as it is."""
    if pixels.dtype == torch.uint8:
        return pixels
    return pixels.float().mul(255).round().to(torch.uint8)


def to_dtype(pixels: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Move uint8 pixels to the dtype and device of ``like``, floats in [0, 1]."""
    pixels = pixels.to(like.device)
    return pixels if like.dtype == torch.uint8 else pixels.to(like.dtype).div_(255)


class Photo(NamedTuple):
    """A file's pixels, uint8 (3, H, W), and how torchvision's own loader would see others."""

    pixels: torch.Tensor
    differs: str | None


def read_photo(path: PathOrFile, name: str | None = None, *, white: int | None = None) -> Photo:
    """Read an image file as everything in diffaug reads it.

    It comes upright, in RGB, its first frame, without alpha, colour profile ignored. ``differs`` is
    "turned upright", "16 bits" or "floats", or two of these joined by "and", where torchvision's
    ``ImageFolder`` loads other pixels by itself, with ``Image.open(file).convert("RGB")``.

    Args:
        path: a path, or a binary file.
        name: what errors call it; None for the path.
        white: the level that is white in grey files of 16 bits or of floats; None for those that
            use all 16 bits, or say what is white.

    Raises:
        UnreadableImageError: the file is not an image, is damaged, or its white is unknown.
    """
    image, differs = image_files.read_rgb(path, name, white)
    return Photo(pil_modes.rgb_to_tensor(image), differs)


def read_image(
    path: PathOrFile, name: str | None = None, *, white: int | None = None
) -> torch.Tensor:
    """Read an image file as uint8 (3, H, W); arguments and errors as for :func:`read_photo`."""
    return read_photo(path, name, white=white).pixels


@checked
def load_image(path: PathOrFile, *, white: int | None = None) -> Image.Image:
    """Load an image file as diffaug reads it: upright, 16 bits scaled; give it to ImageFolder.

    ``ImageFolder(root, loader=load_image)`` then has the same pixels as ``augment_folder(root)``.
    Its own loader leaves photographs of phones on their side, and makes 16-bit files white.

    Args:
        path: a path, or a binary file.
        white: the level that is white in grey files of 16 bits or of floats, such as 4095 for
            12-bit data: ``functools.partial(load_image, white=4095)``. Higher levels are white,
            too. It has no effect on files of 8 bits. None for files that use all 16 bits.

    Raises:
        ValueError: ``white`` is under 1.
        UnreadableImageError: the file is not an image, is damaged, or is of 16 bits and dark or of
            floats, so that its white is unknown.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from diffaug import load_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exif = Image.Exif()
        ...     exif[0x0112] = 6  # the camera was turned by a quarter
        ...     Image.new("RGB", (40, 20)).save(f"{folder}/photo.jpg", exif=exif)
        ...     load_image(f"{folder}/photo.jpg").size
        (20, 40)
    """
    image, _ = image_files.read_rgb(path, None, white)
    return image.copy()  # a plain one, without the file it came from


def pixel_count(path: PathOrFile) -> int:
    """Return how many pixels an image file says that it has; 0 if it does not say."""
    try:
        with image_files.open_image(path) as image:
            return image.width * image.height
    except Exception:  # whoever reads the file says what is wrong with it
        return 0


def encode_image(
    pixels: torch.Tensor, format: str, quality: int = 95, xmp: bytes | None = None
) -> bytes:
    """Encode uint8 (3, H, W) as the bytes of a file; format is one of 'jpg', 'png', 'webp'.

    ``xmp`` is metadata for the file; the pixels are the same with and without.
    """
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} if format != "png" else {}
    if format == "jpg":
        options["subsampling"] = 0  # colour edges of masks and fractals stay sharp
    if xmp and format == "png":  # Pillow ignores xmp= there
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp:
        options["xmp"] = xmp
    to_pil(pixels).save(buffer, FORMATS[format], **options)
    return buffer.getvalue()


def render_text(text: str, size: int, width: int) -> torch.Tensor:
    """Draw a line of text as coverage in [0, 1], (H, width); an ellipsis ends one that is cut."""
    text, font = _legible(text, size)
    if font.getlength(text) > width:
        while text and font.getlength(f"{text}…") > width:
            text = text[:-1]
        text = f"{text}…"
    canvas = Image.new("L", (width, round(1.4 * size)))
    ImageDraw.Draw(canvas).text((0, 0.1 * size), text, fill=255, font=font)
    return torch.from_numpy(np.array(canvas)) / 255


def wrap_text(text: str, size: int, width: int) -> list[str]:
    """Break a text into lines that ``render_text`` draws whole; a word that is too long is cut."""
    text, font = _legible(text, size)
    lines, line = list[str](), ""
    for word in re.split(r"(?<= )(?=[^ ])", text):
        if line and font.getlength((line + word).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        for letter in word:
            if line and letter != " " and font.getlength(line + letter) > width:
                lines.append(line)
                line = ""
            line += letter
    return [*lines, line.rstrip()]


def _legible(text: str, size: int) -> tuple[str, Any]:
    """Return a text and a font that has its letters; without one, letters lose their accents.

    Pillow's own font draws a box for most letters beyond ASCII.
    """
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if all(letter.isascii() or letter in "·…" for letter in text):
        return text, ImageFont.load_default(size)
    for name in (
        "DejaVuSans.ttf",
        "NotoSans-Regular.ttf",
        "LiberationSans-Regular.ttf",
        "arial.ttf",
    ):
        with suppress(OSError):
            return text, ImageFont.truetype(name, size)
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return plain, ImageFont.load_default(size)
