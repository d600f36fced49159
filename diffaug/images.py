"""Convert the caller's images (PIL, tensors, tv_tensors, files) to (N, 3, H, W) and back."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torchvision import tv_tensors

from diffaug.errors import UnreadableImageError, one_line

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
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
    """Mark a pure tensor as an image, so that a label vector beside it is not mistaken for one."""
    return tv_tensors.Image(image) if is_pure_tensor(image) else image


def unmark_image(image: Any) -> Any:
    """Return a marked tensor as the pure tensor that it was; leave everything else as it is."""
    return image.as_subclass(torch.Tensor) if isinstance(image, tv_tensors.Image) else image


def check_image(image: Any) -> int:
    """Return how many images a value holds (leading dimensions multiplied), or raise.

    Raises:
        TypeError: the value is not an image, or its dtype is neither uint8 nor floating.
        ValueError: its shape is not that of images, or it holds floats outside [0, 1].
    """
    if isinstance(image, Image.Image):
        _check_mode(image)
        return 1
    if not isinstance(image, torch.Tensor):
        raise TypeError(
            f"'image' must be a PIL image or a tensor, got {type(image).__name__}; "
            "put v2.ToImage() before this transform."
        )
    if image.ndim < 3:
        grey = image.ndim == 2 and (image.dtype == torch.uint8 or image.is_floating_point())
        flat = " (or like a grey image without its channel: give image[None])" if grey else ""
        raise ValueError(
            f"'image' must have shape (..., C, H, W), got {tuple(image.shape)}; this looks like a "
            f"label{flat}. Mark the image with tv_tensors.Image, or put v2.ToImage() first."
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(
            f"'image' must be uint8 or floating, got {image.dtype}; "
            "convert it with v2.ToDtype(torch.uint8, scale=True)."
        )
    shape = tuple(image.shape)
    if len(shape) < 3 or shape[-3] not in (1, 3) or 0 in shape[-2:]:
        raise ValueError(
            f"'image' must have shape (..., C, H, W) with 1 or 3 channels, got {shape}."
        )
    if image.is_floating_point() and image.numel():
        low, high = (float(value) for value in image.detach().aminmax())
        if not (low >= 0 and high <= 1):  # written so that a NaN is refused, too
            raise ValueError(
                f"'image' must hold floats in [0, 1], got {low:.3g} to {high:.3g}; "
                "put this transform before Normalize, and clamp what a bicubic resize overshoots."
            )
    return int(np.prod(shape[:-3], dtype=int))


def unpack(image: Any) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """Return the pixels as (N, 3, H, W), and a function that restores the caller's own type."""
    if isinstance(image, Image.Image):
        return _rgb(image)[None], lambda pixels: _like(pixels[0], image)
    pixels = image.as_subclass(torch.Tensor).reshape(-1, *image.shape[-3:])  # (N, C, H, W)
    grey = pixels.shape[1] == 1

    def restore(result: torch.Tensor) -> torch.Tensor:
        result = _grey(result) if grey else result
        result = result.reshape(image.shape).to(image.device)
        if isinstance(image, tv_tensors.TVTensor):
            return tv_tensors.wrap(result, like=image)
        return result

    return (pixels.expand(-1, 3, -1, -1) if grey else pixels), restore


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    """Return the luma (N, 1, H, W); equal channels keep their values."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=pixels.device)
    luma = torch.einsum("nchw,c->nhw", pixels.double(), weights)[:, None]
    if pixels.dtype == torch.uint8:
        return luma.round().to(torch.uint8)
    return luma.clamp(0, 1).to(pixels.dtype)


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Turn floats in [0, 1] into uint8; leave uint8 as it is."""
    if pixels.dtype == torch.uint8:
        return pixels
    return pixels.float().mul(255).round().to(torch.uint8)


def to_dtype(pixels: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Move uint8 pixels to the dtype and device of ``like``, floats in [0, 1]."""
    pixels = pixels.to(like.device)
    return pixels if like.dtype == torch.uint8 else pixels.to(like.dtype).div_(255)


def _tensor(image: Image.Image) -> torch.Tensor:
    """Copy an RGB PIL image into a uint8 (3, H, W) tensor."""
    # Pillow splits and merges channels several times as fast as torch permutes axes.
    levels = bytearray()
    for band in "RGB":
        levels += image.tobytes("raw", band)
    return torch.frombuffer(levels, dtype=torch.uint8).view(3, image.height, image.width)


def to_pil(pixels: torch.Tensor) -> Image.Image:
    """Turn uint8 (3, H, W) into an RGB PIL image."""
    planes, size = pixels.contiguous().cpu().numpy(), (pixels.shape[2], pixels.shape[1])
    bands = [Image.frombuffer("L", size, plane, "raw", "L", 0, 1) for plane in planes]
    return Image.merge("RGB", bands)


def _convert_lab(image: Image.Image, target: str) -> Any:
    """Convert between RGB and LAB, which Pillow's convert() does in neither direction."""
    from PIL import ImageCms  # it loads a library of colour profiles that few images need

    profiles: dict[str, Any] = {"RGB": "sRGB", "LAB": "LAB"}
    source, result = (ImageCms.createProfile(profiles[mode]) for mode in (image.mode, target))
    transform = ImageCms.buildTransform(source, result, image.mode, target)
    return ImageCms.applyTransform(image, transform)


def _is_deep(mode: str) -> bool:
    """Return whether a mode is 16-bit grey, which Pillow clips to 255 instead of scaling it."""
    return mode == "I" or mode.startswith("I;16")


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError(
            "'image' must not be a PIL image of mode F, whose range is unknown; "
            "scale it to [0, 255] and convert it to 'L', or use a tensor."
        )


def _rgb(image: Image.Image) -> torch.Tensor:
    """Return any PIL image as uint8 (3, H, W), without its alpha channel."""
    _check_mode(image)
    if _is_deep(image.mode):
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode == "LAB":
        image = _convert_lab(image, "RGB")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if it converts to RGB directly
    elif image.mode in ("RGBa", "La"):  # Pillow cannot convert these to RGB directly
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return _tensor(image if image.mode == "RGB" else image.convert("RGB"))


def _like(pixels: torch.Tensor, original: Image.Image) -> Image.Image:
    """Return uint8 (3, H, W) pixels as a PIL image in the original's mode, with its alpha."""
    image, mode = to_pil(pixels), original.mode
    if _is_deep(mode):
        levels = np.asarray(image.convert("L")).astype(np.int32) * 257
        if mode == "I":
            return Image.fromarray(levels)
        return Image.fromarray(levels.astype(">u2" if mode == "I;16B" else "<u2"))
    if mode == "LAB":
        return _convert_lab(image, "LAB")
    if mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        straight = {"La": "LA", "RGBa": "RGBA"}.get(mode, mode)
        alpha = original.convert(straight).getchannel("A")
        if mode == "PA":
            image = image.quantize(256).convert("PA")
        else:
            image = image.convert("RGBA" if mode.startswith("RGB") else "LA")
        image.putalpha(alpha)
        return image if image.mode == mode else image.convert(mode)
    if mode == "P":
        return image.quantize(256)
    return image if mode == "RGB" else image.convert(mode)


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """List the image files in a folder and below, by extension and in order, no hidden ones."""
    return [Path(folder, key) for key in list_keys(folder)]


def list_keys(folder: str | os.PathLike[str]) -> list[str]:
    """List the same files as relative paths with slashes; a million of them take 100 MB."""
    keys, seen = list[str](), set[str]()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [name for name in folders if not name.startswith(".") and real not in seen]
        if real in seen:  # a link that leads back up
            continue
        seen.add(real)
        below = Path(root).relative_to(folder).as_posix()
        start = "" if below == "." else f"{below}/"
        keys += [start + name for name in files if is_image_key(name)]
    return sorted(keys)


def is_image_key(path: str) -> bool:
    """Return whether a relative path with slashes names an image, and nothing hidden."""
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and os.path.splitext(path)[1].lower() in EXTENSIONS


def read_image(path: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> torch.Tensor:
    """Read an image file as uint8 (3, H, W): upright, first frame, alpha dropped.

    ``name`` replaces the path in errors.

    Raises:
        UnreadableImageError: the file is not an image, or is damaged; the message names it.
    """
    try:
        with Image.open(path) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # a damaged file may fail in any parser of Pillow
        raise UnreadableImageError(
            f"'{name or path}' is not a readable image: {one_line(error)}."
        ) from error


def encode_image(pixels: torch.Tensor, format: str, quality: int = 95) -> bytes:
    """Encode uint8 (3, H, W) as the bytes of a file; format is one of 'jpg', 'png', 'webp'."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} if format != "png" else {}
    if format == "jpg":
        options["subsampling"] = 0  # colour edges of masks and fractals stay sharp
    to_pil(pixels).save(buffer, FORMATS[format], **options)
    return buffer.getvalue()


def render_text(text: str, size: int, width: int) -> torch.Tensor:
    """Draw a line of text as coverage in [0, 1], (H, width); an ellipsis ends one that is cut."""
    font = ImageFont.load_default(size)
    if font.getlength(text) > width:
        while text and font.getlength(f"{text}…") > width:
            text = text[:-1]
        text = f"{text}…"
    canvas = Image.new("L", (width, round(1.4 * size)))
    ImageDraw.Draw(canvas).text((0, 0.1 * size), text, fill=255, font=font)
    return torch.from_numpy(np.array(canvas)) / 255


class Photo(NamedTuple):
    """A file's pixels, uint8 (3, H, W), and how torchvision's own loader would see others."""

    pixels: torch.Tensor
    differs: str | None


def read_photo(path: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> Photo:
    """Read an image file as everything in diffaug reads it."""
    pixels = read_image(path, name)
    with Image.open(path) as image:
        turned = image.getexif().get(0x0112, 1) != 1
    return Photo(pixels, "turned upright" if turned else None)


def load_image(path: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Load an image file as diffaug reads it; give it to ImageFolder."""
    return to_pil(read_image(path))
