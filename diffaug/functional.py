"""The arithmetic of the transforms, on tensors: uint8 in [0, 255] or floats in [0, 1].

Nothing here draws a random number, and uint8 in gives uint8 out.
"""

from typing import Literal, get_args

import torch
from torchvision.transforms.v2 import functional as F

from diffaug.arguments import shown
from diffaug.checked import checked

Rounding = Literal["round", "truncate"]
_ROUNDINGS = get_args(Rounding)

#: Width in pixels of the linear ramp at a soft seam, as in the released DiffuseMix code.
RAMP = 20

#: The sets of masks by the name of their source. A mask's name says where the other image is.
MASK_SETS: dict[str, tuple[str, ...]] = {
    "paper": ("left", "right", "top", "bottom"),
    "release": ("soft-right", "soft-bottom"),
    "genmix": ("soft-left", "soft-right", "soft-top", "soft-bottom", "soft-circle"),
}
MASKS: tuple[str, ...] = tuple(dict.fromkeys(sum(MASK_SETS.values(), ())))

#: Mean level out of 255 under which an image is taken for dark.
DARK = 8

#: How many levels a CPU turns into floats at a time. Floats of a whole picture do not fit into the
#: processor's cache, and memory takes several times as long as the arithmetic.
STRIP = 2**16


@checked
def half_mask(
    name: str, size: tuple[int, int], device: torch.device | str | None = None
) -> torch.Tensor:
    """Return the weight of the other image at each pixel of a half-concatenation.

    Args:
        name: one of ``MASKS``: ``"left"``, ``"right"``, ``"top"``, ``"bottom"`` (hard), the same
            with ``"soft-"`` before it (a linear ramp of 20 pixels, or of the whole side if that is
            shorter, centred on the seam), or ``"soft-circle"`` (a disc of half the area with such a
            ramp at its rim).
        size: ``(H, W)`` in pixels, at least 1. If a side is odd, its right or bottom half is
            larger.
        device: the device of the result.

    Shape:
        float32 in [0, 1], broadcastable to ``(H, W)``: ``(1, W)``, ``(H, 1)`` or ``(H, W)``.

    Raises:
        ValueError: an unknown name, or a side under 1.

    Example:
        >>> half_mask("right", (2, 4))
        tensor([[0., 0., 1., 1.]])

    Reference:
        Islam et al., DiffuseMix, 2024, arXiv 2405.14881, section 3; the soft masks are those of its
        released code and of GenMix, arXiv 2412.02366.
    """
    height, width = _as_size(size)
    try:
        device = None if device is None else torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"'device' must be a torch device, got {shown(device)}.") from error
    if name not in MASKS:
        raise ValueError(f"'mask' must be one of {', '.join(MASKS)}, got {name!r}.")
    if min(size) < 1:
        raise ValueError(f"'size' must be at least (1, 1), got {tuple(size)}.")
    side = name.removeprefix("soft-")
    if side == "circle":
        rows, columns = (_ramp(length, device) + 0.5 - length / 2 for length in size)
        rows = rows[:, None]
        radius = (height * width / 2 / torch.pi) ** 0.5
        rim = (radius - torch.hypot(rows, columns)) / min(RAMP, *size)
        return (rim + 0.5).clamp(0, 1)
    length = width if side in ("left", "right") else height
    weights = torch.zeros(length, dtype=torch.float32, device=device)
    start, ramp = _seam(length, name != side, device)
    weights[start : start + len(ramp)] = ramp
    weights[start + len(ramp) :] = 1
    if side in ("left", "top"):
        weights = 1 - weights
    return weights[None, :] if side in ("left", "right") else weights[:, None]


def _ramp(length: int, device: torch.device | str | None) -> torch.Tensor:
    """Return 0, 1, 2, ... in float32, whatever torch's default dtype is."""
    return torch.arange(length, dtype=torch.float32, device=device)


def _seam(length: int, soft: bool, device: torch.device | str | None) -> tuple[int, torch.Tensor]:
    """Return where the seam across a side starts, and the weights of the second half along it."""
    if not soft:
        return length // 2, _ramp(0, device)
    ramp = min(RAMP, length)
    weights = _ramp(ramp, device) / (ramp - 1) if length > 1 else _ramp(1, device) + 0.5
    return length // 2 - ramp // 2, weights


@checked
def half_concat(
    image: torch.Tensor,
    other: torch.Tensor,
    mask: str,
    *,
    rounding: Rounding = "round",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Join one half of an image with the complementary half of another; the label stays.

    Args:
        image: it keeps the half that the mask does not name.
        other: it fills the half that the mask names; same shape and dtype.
        mask: a name that :func:`half_mask` takes.
        rounding: how uint8 is rounded at a soft seam; the released code uses ``"truncate"``.
        out: a tensor like the image to write the result to; None for a new one.

    Shape:
        ``(..., C, H, W)`` in and out, uint8 or floating.

    Raises:
        ValueError: shapes or dtypes differ, or mask or rounding is unknown.

    Example:
        >>> import torch
        >>> half_concat(torch.zeros(1, 1, 4), torch.ones(1, 1, 4), "left")
        tensor([[[1., 1., 0., 0.]]])

    Reference:
        Islam et al., DiffuseMix, 2024, arXiv 2405.14881, section 3 (concatenation).
    """
    _check_pair(image, other)
    _check_out(out, image)
    result = image.new_empty(image.shape) if out is None else out
    side = mask.removeprefix("soft-")
    if side not in ("left", "right", "top", "bottom"):
        size = (image.shape[-2], image.shape[-1])
        return result.copy_(_mix(image, other, half_mask(mask, size, image.device), rounding))
    # Each half is copied once; only a soft seam is calculated.
    first, second = (other, image) if side in ("left", "top") else (image, other)
    dim = -1 if side in ("left", "right") else -2
    length = image.shape[dim]
    start, ramp = _seam(length, mask != side, image.device)
    stop = start + len(ramp)
    result.narrow(dim, 0, start).copy_(first.narrow(dim, 0, start))
    result.narrow(dim, stop, length - stop).copy_(second.narrow(dim, stop, length - stop))
    if len(ramp):
        before, after, seam = (
            pixels.narrow(dim, start, len(ramp)) for pixels in (first, second, result)
        )
        weights = ramp if dim == -1 else ramp[:, None]
        seam.copy_(_mix(before, after, weights, rounding))
    return result


@checked
def blend(
    image: torch.Tensor,
    other: torch.Tensor,
    alpha: float | torch.Tensor,
    *,
    rounding: Rounding = "round",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Blend an image with another, such as a fractal: ``(1 - alpha) image + alpha other``.

    Args:
        image: the image; its label stays.
        other: the image to blend in; same shape and dtype.
        alpha: weight of the other image in [0, 1]: a number, or a tensor ``(...)`` of a weight for
            each image.
        rounding: how uint8 is rounded; the released code uses ``"truncate"``.
        out: a tensor like the image to write the result to, or the image itself; None for a new
            tensor.

    Shape:
        ``(..., C, H, W)`` in and out, uint8 or floating.

    Raises:
        ValueError: shapes or dtypes differ, rounding is unknown, or alpha is outside [0, 1].

    Example:
        >>> import torch
        >>> blend(torch.tensor([[[0.5]]]), torch.tensor([[[1.0]]]), 0.5).item()
        0.75

    Reference:
        Islam et al., DiffuseMix, 2024, arXiv 2405.14881, equation of the blended image (lambda).
    """
    _check_pair(image, other)
    _check_out(out, image)
    weights = torch.as_tensor(alpha, dtype=torch.float32, device=image.device)
    weights = weights.reshape(()) if weights.numel() == 1 else weights
    if weights.ndim and weights.shape != image.shape[:-3]:
        raise ValueError(
            f"'alpha' must be a number or of shape {tuple(image.shape[:-3])}, one weight for each "
            f"image, got {tuple(weights.shape)}."
        )
    levels = weights.flatten().tolist()
    if not all(0 <= level <= 1 for level in levels):
        raise ValueError(f"'alpha' must be in [0, 1], got {alpha}.")
    if image.dtype == torch.uint8 and image.device.type == "cpu" and image.numel() > STRIP:
        mixed = _blend_levels(image, other, levels, rounding, out)
    else:
        mixed = _mix(image, other, weights[..., None, None, None], rounding).to(image.dtype)
    return mixed if out is None or out is mixed else out.copy_(mixed)


def _blend_levels(
    image: torch.Tensor,
    other: torch.Tensor,
    alphas: list[float],
    rounding: Rounding,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """Blend uint8 on a CPU strip by strip, into ``out`` if that is contiguous."""
    result = out if out is not None and out.is_contiguous() else image.new_empty(image.shape)
    alphas = alphas[:1] if len(set(alphas)) == 1 else alphas
    flat = [pixels.reshape(max(1, len(alphas)), -1) for pixels in (result, image, other)]
    # The same memory for every strip: new memory would be cold each time.
    floats = image.new_empty((2, STRIP), dtype=torch.float32)
    whole = image.new_empty(STRIP, dtype=torch.int32)
    for row, alpha in enumerate(alphas):
        for start in range(0, flat[0].shape[1], STRIP):
            target, first, second = (pixels[row, start : start + STRIP] for pixels in flat)
            length = len(target)
            mixed, others = floats[:, :length]
            _round(mixed.copy_(first).lerp_(others.copy_(second), alpha), rounding)
            target.copy_(whole[:length].copy_(mixed))
    return result


@checked
def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize ``(..., C, H, W)`` to ``size`` (height, width), bicubic, antialiased; same dtype."""
    size = _as_size(size)
    if image.ndim < 3:
        raise ValueError(f"'image' must have shape (..., C, H, W), got {tuple(image.shape)}.")
    if tuple(image.shape[-2:]) == size:
        return image
    if tuple(size) == (1, 1) and image.dtype == torch.uint8:
        # torch's uint8 kernel fails with an internal error on a single pixel
        return (resize(image.float() / 255, size) * 255).round().to(torch.uint8)
    resized = F.resize(image, list(size), F.InterpolationMode.BICUBIC, antialias=True)
    return resized if image.dtype == torch.uint8 else resized.clamp(0, 1)  # bicubic overshoots


@checked
def is_blank(image: torch.Tensor, source: torch.Tensor | None = None) -> bool:
    """Return whether a uint8 image is the black output of a model that failed.

    Blank means that the image is dark (mean level under 8 of 255) and its source is not; without a
    source, that it is dark.
    """
    return _is_dark(image) and (source is None or not _is_dark(source))


def _as_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width, or say that they are none."""
    if len(size) != 2:
        raise ValueError(f"'size' must be (height, width), got {shown(size)}.")
    return int(size[0]), int(size[1])


def _check_out(out: torch.Tensor | None, image: torch.Tensor) -> None:
    if out is not None and (out.shape != image.shape or out.layout != image.layout):
        raise ValueError(f"'out' must be like the image, {tuple(image.shape)}, got {shown(out)}.")


def _is_dark(image: torch.Tensor) -> bool:
    return float(image.float().mean()) < DARK


def _check_pair(image: torch.Tensor, other: torch.Tensor) -> None:
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(f"'image' must be uint8 or floating, got {image.dtype}.")
    if image.ndim < 3:
        raise ValueError(f"'image' must have shape (..., C, H, W), got {tuple(image.shape)}.")
    if image.shape != other.shape or image.dtype != other.dtype:
        raise ValueError(
            f"'other' must be like the image, {tuple(image.shape)} of {image.dtype}, "
            f"got {tuple(other.shape)} of {other.dtype}."
        )


def _mix(
    image: torch.Tensor, other: torch.Tensor, weights: float | torch.Tensor, rounding: Rounding
) -> torch.Tensor:
    """Return ``image + weights (other - image)``: floats in their dtype, levels as whole int32."""
    if image.dtype != torch.uint8:
        _check_rounding(rounding)
        weights = torch.as_tensor(weights, dtype=image.dtype, device=image.device)
        return torch.lerp(image, other, weights)
    mixed = _round(image.float().lerp_(other.float(), weights), rounding)
    return mixed.int()  # truncates; ten times as fast as a conversion to uint8


def _round(levels: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """Make levels, in place, what a conversion to whole numbers then truncates rightly."""
    _check_rounding(rounding)
    # 0.8 * 100 + 0.2 * 200 is 119.99999 in float32; a rounding error must not lose a level.
    return levels.round_() if rounding == "round" else levels.add_(1e-3)


def _check_rounding(rounding: Rounding) -> None:
    if rounding not in _ROUNDINGS:
        raise ValueError(f"'rounding' must be round or truncate, got {rounding!r}.")
