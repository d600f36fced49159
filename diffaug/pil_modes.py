"""The pixels of PIL images of every mode, as tensors, and back into the caller's own mode."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image

#: The highest level of 16 bits.
DEEPEST = 65535

#: A deep image whose highest level is below this is taken for one that does not use its 16 bits.
LEAST_WHITE = (DEEPEST + 1) // 8

#: Modes in which a way through RGB changes no pixel: what is not generated needs no other care.
EXACT = frozenset({"L", "LA", "RGB", "RGBA", "RGBX"})


def is_deep(mode: str) -> bool:
    """Return whether a mode is 16-bit grey, which Pillow clips to 255 instead of scaling it."""
    return mode == "I" or mode.startswith("I;16")


def check(image: Image.Image) -> None:
    """Refuse a PIL image whose pixels have no known range.

    Raises:
        ValueError: it has no pixel; or it holds floats; or 16-bit levels of which none is near
            white, or 32-bit ones.
    """
    if 0 in image.size:
        raise ValueError(f"'image' must have at least one pixel, got size {image.size}.")
    if image.mode == "F":
        low, high = extremes(image)
        advice = f"apply v2.ToImage(), {scaling(low, high)} first, if these are black and white"
        if low >= 0 and high <= 1:  # as floats usually are
            advice = "apply v2.ToImage() first, if 0 is black and 1 is white"
        if not np.isfinite(high - low):
            advice = "replace the values in it that are no numbers"
        raise ValueError(
            "'image' must not be a PIL image of mode F, whose range is unknown, got "
            f"{low} to {high}; {advice}."
        )
    if is_deep(image.mode) and (fault := depth_fault(levels := np.asarray(image))):
        # ToImage() cannot take the other order of bytes.
        turn = "v2.Lambda(operator.methodcaller('convert', 'I')), "
        low, white = min(0, int(levels.min())), likely_white(levels.max())
        raise ValueError(
            f"'image' must use the range of its 16 bits, got {fault}; apply "
            f"{turn if image.mode == 'I;16B' else ''}v2.ToImage(), v2.ToDtype(torch.float32), "
            f"{scaling(low, white)} first, if {low} is black and {white} is white in your data."
        )


def extremes(image: Image.Image) -> tuple[float, float]:
    """Return the lowest and the highest value of an image of one channel."""
    values = np.asarray(image)
    return float(values.min()), float(values.max())


def depth_fault(levels: np.ndarray[Any, Any], white: int | None = None) -> str | None:
    """Say why it is unknown which of these levels is white; None if it is known."""
    low, high = levels.min(), levels.max()
    if not (low >= 0 and np.isfinite(high)):  # no number is not >= 0 either
        return f"levels from {low} to {high}"
    if white is not None or high == 0:
        return None
    if high > DEEPEST or levels.dtype.kind == "f":
        return f"levels up to {high}"
    return f"no level above {high}" if high < LEAST_WHITE else None


def likely_white(high: float) -> int:
    """Return the highest level of as few bits as hold this one: an example for advice alone."""
    return 1 if not 1 < high < 2**63 else int(2 ** math.ceil(high).bit_length() - 1)


def scaling(black: float, white: float) -> str:
    """Write the transform of torchvision that scales levels to [0, 1], and that pickles."""
    return f"v2.Normalize([{black}], [{white - black or 1}])"


def levels_to_8_bits(levels: np.ndarray[Any, Any], white: int) -> Image.Image:
    """Scale levels to 8-bit grey; those above white are white, too."""
    if levels.dtype.kind == "f":
        scaled = levels.astype(np.float64).clip(0, white) * (255 / white) + 0.5
    else:
        scaled = (levels.astype(np.int64).clip(0, white) * 255 + white // 2) // white
    return Image.fromarray(scaled.astype(np.uint8))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any 8-bit mode in RGB, without its alpha channel."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if it converts to RGB directly
    elif image.mode in ("RGBa", "La"):  # Pillow cannot convert these to RGB directly
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Return an image as (3, H, W): uint8, or floats in [0, 1] for one of 16 bits."""
    if is_deep(image.mode):
        # float32 holds every level of 16 bits, so that they come back exactly.
        levels = torch.from_numpy(np.asarray(image).astype(np.float32))
        return levels.div_(DEEPEST).repeat(3, 1, 1)
    return rgb_to_tensor(to_rgb(image))


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """Return the grey (N, 1, H, W) of colours; where the channels are equal, it is theirs."""
    if pixels.dtype == torch.uint8:
        there = pixels.cpu() if pixels.device.type == "mps" else pixels  # which has no float64
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=there.device)
        grey = torch.einsum("nchw,c->nhw", there.double(), weights)[:, None].round().byte()
        return grey.to(pixels.device)
    wide = pixels if pixels.dtype == torch.float64 else pixels.float()
    red, green, blue = wide.split(1, dim=1)
    # Not a sum of three parts, which rounding would take away from three equal channels.
    grey = green.add(red - green, alpha=0.299).add(blue - green, alpha=0.114)
    return grey.clamp(0, 1).to(pixels.dtype)


def restore(pixels: torch.Tensor, original: Image.Image) -> Image.Image:
    """Return a result (3, H, W) in the original's mode; what equals the original is its own pixels.

    Alpha is the original's.
    """
    if is_deep(original.mode):
        image = _deep(pixels, original.mode)
    elif original.mode in EXACT:
        image = _in_mode(pixels, original)
    else:
        # Read again, since a transform may have written over the pixels that it was given.
        changed = (pixels.cpu() != to_tensor(original)).any(0).numpy()
        if original.mode in ("P", "PA"):
            image = _in_palette(pixels, changed, original)
        else:
            image = original.copy()
            image.paste(_in_mode(pixels, original), mask=Image.fromarray(changed))
    # With its EXIF, by which a later step may turn the image upright.
    image.info = {**original.info, **image.info}
    return image


def _in_palette(
    pixels: torch.Tensor, changed: np.ndarray[Any, Any], original: Image.Image
) -> Image.Image:
    """Return a result with a palette, in which new colours take the place of those not kept."""
    indices = np.asarray(original if original.mode == "P" else original.getchannel(0)).copy()
    table = _table_of(original)  # (256, 4)
    alphas = table[indices, 3]
    changed &= alphas > 0  # nobody sees the others
    new = pixels.cpu().permute(1, 2, 0).numpy()  # (H, W, 3)
    transparency = original.info.get("transparency")
    unused = np.setdiff1d(np.arange(256), indices[~changed])
    if isinstance(transparency, int):
        unused = unused[unused != transparency]
    # A pixel keeps its alpha, and so it takes one of the colours that have this alpha.
    groups = np.unique(alphas[changed])
    shares = np.array_split(unused, max(1, len(groups)))
    for alpha, share in zip(groups, shares, strict=False):
        places = changed & (alphas == alpha)
        colours = Image.fromarray(np.ascontiguousarray(new[places][None]))
        entries = np.flatnonzero(table[:, 3] == alpha)
        if len(unused) >= len(groups):
            found = np.array(colours.quantize(len(share)).getpalette("RGB")).reshape(-1, 3)
            share = share[: len(found)]
            table[share, :3], table[share, 3] = found[: len(share)], alpha
            entries = np.union1d(share, np.setdiff1d(entries, unused))
        palette = Image.new("P", (1, 1))
        palette.putpalette(table[entries, :3].tobytes())
        nearest = np.asarray(colours.quantize(palette=palette, dither=Image.Dither.NONE))[0]
        indices[places] = entries[nearest.clip(max=len(entries) - 1)]
    image = Image.fromarray(indices)
    image.putpalette(table[:, :3].tobytes())
    if original.mode == "PA":
        image = image.convert("PA")
        image.putalpha(original.getchannel("A"))
    elif _palette_mode(original) == "RGBA":
        image.putpalette(table.tobytes(), "RGBA")
    elif isinstance(transparency, bytes):
        image.info["transparency"] = table[:, 3].tobytes()
    return image


def _table_of(image: Image.Image) -> np.ndarray[Any, Any]:
    """Return the colour and alpha of all 256 indices of a palette, uint8 (256, 4)."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    mode = _palette_mode(image)
    ramp.putpalette(image.getpalette(mode) or [], mode)
    if image.mode == "P":  # the other has its alpha in a channel
        ramp.info = image.info
    return np.array(ramp.convert("RGBA"))[0]


def _palette_mode(image: Image.Image) -> str:
    """Return "RGBA" if the colours of a palette have alpha, or else "RGB"."""
    has_alpha = image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA"
    return "RGBA" if has_alpha else "RGB"


def _in_mode(pixels: torch.Tensor, own: Image.Image) -> Image.Image:
    """Return a result (3, H, W) in the mode of an image of 8 bits, with its alpha."""
    image, mode = to_pil(pixels), own.mode
    if mode == "RGB":
        return image
    if mode in ("RGBA", "RGBX"):
        return Image.merge(mode, [*image.split(), own.getchannel(3)])
    if mode in ("LA", "La", "RGBa"):
        straight = own.convert(mode.upper())
        bands = image.split() if mode == "RGBa" else [image.convert("L")]
        image = Image.merge(mode.upper(), [*bands, straight.getchannel("A")])
    return image if image.mode == mode else image.convert(mode)


def _deep(pixels: torch.Tensor, mode: str) -> Image.Image:
    """Return floats (3, H, W) in a 16-bit mode."""
    levels = luma(pixels[None])[0, 0].detach().cpu().double().mul(DEEPEST).round().numpy()
    kind = {"I": "=i4", "I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    size = (levels.shape[1], levels.shape[0])
    return Image.frombytes(mode, size, levels.astype(kind).tobytes())


def rgb_to_tensor(image: Image.Image) -> torch.Tensor:
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
