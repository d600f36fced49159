"""The arithmetic of the transforms, on tensors: uint8 in [0, 255] or floats in [0, 1].

Nothing here draws a random number, and uint8 comes back as uint8.
"""

from typing import Literal, get_args

import torch
from torchvision.transforms.v2 import functional as F

Rounding = Literal["round", "truncate"]

#: Width in pixels of the linear ramp at a soft seam, as in the released DiffuseMix code.
RAMP = 20

#: The sets of masks by the name of their source. A mask is named by where the other image lies.
MASK_SETS: dict[str, tuple[str, ...]] = {
    "paper": ("left", "right", "top", "bottom"),
    "release": ("soft-right", "soft-bottom"),
    "genmix": ("soft-left", "soft-right", "soft-top", "soft-bottom", "soft-circle"),
}
MASKS: tuple[str, ...] = tuple(dict.fromkeys(sum(MASK_SETS.values(), ())))

#: Mean level out of 255 under which an image is taken for dark.
DARK = 8


def half_mask(
    name: str, size: tuple[int, int], device: torch.device | str | None = None
) -> torch.Tensor:
    """Return the weight of the other image at each pixel of a half-concatenation.

    Args:
        name: one of ``MASKS``: ``"left"``, ``"right"``, ``"top"``, ``"bottom"`` (hard), the same
            with ``"soft-"`` before it (a linear ramp of 20 pixels, or of the whole side if that is
            shorter, centred on the seam), or ``"soft-circle"`` (a disc of half the area with such a
            ramp at its rim).
        size: ``(H, W)`` in pixels, from 1 up. On odd sides the right and bottom halves are larger.
        device: where the result lies.

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
    height, width = size
    if name not in MASKS:
        raise ValueError(f"'mask' must be one of {', '.join(MASKS)}, got {name!r}.")
    if min(size) < 1:
        raise ValueError(f"'size' must be at least (1, 1), got {tuple(size)}.")
    side = name.removeprefix("soft-")
    if side == "circle":
        rows = torch.arange(height, device=device)[:, None] + 0.5 - height / 2
        columns = torch.arange(width, device=device)[None, :] + 0.5 - width / 2
        radius = (height * width / 2 / torch.pi) ** 0.5
        rim = (radius - torch.hypot(rows, columns)) / min(RAMP, *size)
        return (rim + 0.5).clamp(0, 1)
    length = width if side in ("left", "right") else height
    place = torch.arange(length, device=device, dtype=torch.float32)
    if name == side:
        weights = (place >= length // 2).float()
    elif length == 1:
        weights = torch.full((1,), 0.5, device=device)
    else:
        ramp = min(RAMP, length)
        weights = ((place - (length // 2 - ramp // 2)) / (ramp - 1)).clamp(0, 1)
    if side in ("left", "top"):
        weights = 1 - weights
    return weights[None, :] if side in ("left", "right") else weights[:, None]


def half_concat(
    image: torch.Tensor, other: torch.Tensor, mask: str, *, rounding: Rounding = "round"
) -> torch.Tensor:
    """Join one half of an image with the complementary half of another; the label stays.

    Args:
        image: keeps the half that the mask leaves.
        other: fills the half that the mask names; same shape and dtype.
        mask: a name that :func:`half_mask` knows.
        rounding: of uint8 at a soft seam; ``"truncate"`` is what the released code does.

    Shape:
        ``(..., C, H, W)`` in and out, uint8 or floating.

    Raises:
        ValueError: shapes, dtypes, mask or rounding do not fit.

    Example:
        >>> import torch
        >>> half_concat(torch.zeros(1, 1, 4), torch.ones(1, 1, 4), "left")
        tensor([[[1., 1., 0., 0.]]])

    Reference:
        Islam et al., DiffuseMix, 2024, arXiv 2405.14881, section 3 (concatenation).
    """
    _check_pair(image, other)
    weights = half_mask(mask, tuple(image.shape[-2:]), image.device)  # type: ignore[arg-type]
    if not mask.startswith("soft-"):
        return torch.where(weights.bool(), other, image)
    return _mix(image, other, weights, rounding)


def blend(
    image: torch.Tensor,
    other: torch.Tensor,
    alpha: float | torch.Tensor,
    *,
    rounding: Rounding = "round",
) -> torch.Tensor:
    """Blend an image with another, such as a fractal: ``(1 - alpha) image + alpha other``.

    Args:
        image: the image; its label stays.
        other: what is blended in; same shape and dtype.
        alpha: weight of the other image in [0, 1]: a number, or a tensor of one weight for each
            image, ``(...)``.
        rounding: of uint8 results; ``"truncate"`` is what the released code does.

    Shape:
        ``(..., C, H, W)`` in and out, uint8 or floating.

    Raises:
        ValueError: shapes, dtypes or rounding do not fit, or alpha is outside [0, 1].

    Example:
        >>> import torch
        >>> blend(torch.tensor([[[0.5]]]), torch.tensor([[[1.0]]]), 0.5).item()
        0.75

    Reference:
        Islam et al., DiffuseMix, 2024, arXiv 2405.14881, equation of the blended image (lambda).
    """
    _check_pair(image, other)
    weights = torch.as_tensor(alpha, dtype=torch.float32, device=image.device)
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError(f"'alpha' must be in [0, 1], got {alpha}.")
    if weights.ndim:
        weights = weights[..., None, None, None]
    return _mix(image, other, weights, rounding)


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize ``(..., C, H, W)`` to ``size`` (height, width), bicubic, antialiased; same dtype."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if tuple(size) == (1, 1) and image.dtype == torch.uint8:
        # torch's uint8 kernel stops with an internal error on a single pixel
        return (resize(image.float() / 255, size) * 255).round().to(torch.uint8)
    resized = F.resize(image, list(size), F.InterpolationMode.BICUBIC, antialias=True)
    return resized if image.dtype == torch.uint8 else resized.clamp(0, 1)  # bicubic overshoots


def is_blank(image: torch.Tensor, source: torch.Tensor | None = None) -> bool:
    """Tell whether a uint8 image is a model's black failure rather than a picture.

    Blank means dark (mean level under 8 of 255) where the source is not; without a source, dark.
    """
    return _is_dark(image) and (source is None or not _is_dark(source))


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
    image: torch.Tensor, other: torch.Tensor, weights: torch.Tensor, rounding: Rounding
) -> torch.Tensor:
    """Return ``image + weights (other - image)`` in the image's dtype."""
    if rounding not in get_args(Rounding):
        raise ValueError(f"'rounding' must be round or truncate, got {rounding!r}.")
    if image.dtype != torch.uint8:
        return torch.lerp(image, other, weights.to(image.dtype))
    mixed = torch.lerp(image.float(), other.float(), weights)
    # 0.8 * 100 + 0.2 * 200 is 119.99999 in float32: a rounding error must not cost a level.
    mixed = mixed.round_() if rounding == "round" else mixed.add_(1e-3).floor_()
    return mixed.to(torch.uint8)
