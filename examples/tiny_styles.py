"""The nine style prompts of DiffuseMix as procedures, to make training pairs from.

Each style turns a photograph into what its prompt asks for, with colours, masks and textures
alone. A style must be told from the other eight at a glance, also at 64 px, and leave the
object recognisable; a learned editor can be no better than these targets.

Everything random comes from the generator given, so a set of pairs can be made again. Textures
that a learner should repeat exactly (grout, hatching) lie on a fixed grid; what nature scatters
(flakes, leaves, curtains) is drawn for each image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from kornia.filters import gaussian_blur2d, spatial_gradient
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

Style = Callable[[Tensor, Generator], Tensor]


def _colour(x: Tensor, *rgb: float) -> Tensor:
    """Return a colour that can be mixed with the images `x`."""
    return x.new_tensor(rgb).view(1, 3, 1, 1)


def _luma(x: Tensor) -> Tensor:
    return (x * _colour(x, 0.299, 0.587, 0.114)).sum(1, keepdim=True)


def _blur(x: Tensor, sigma: float) -> Tensor:
    size = 2 * max(1, round(2.5 * sigma)) + 1
    return gaussian_blur2d(x, (size, size), (sigma, sigma))


def _mix(a: Tensor, b: Tensor, weight: Tensor | float) -> Tensor:
    return a + (b - a) * weight


def _step(x: Tensor, low: float, high: float) -> Tensor:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _draw(x: Tensor, low: float, high: float, generator: Generator, count: int = 1) -> Tensor:
    """Draw numbers for each image, uniform in [low, high): (N, count, 1, 1)."""
    drawn = torch.rand(len(x), count, 1, 1, generator=generator, device=generator.device)
    return drawn.to(x.device) * (high - low) + low


def _normal(x: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """Draw standard normal numbers for each image: (N, 1, height, width)."""
    drawn = torch.randn(len(x), 1, height, width, generator=generator, device=generator.device)
    return drawn.to(x.device)


def _cloud(x: Tensor, cells: int, generator: Generator) -> Tensor:
    """Smooth noise of about unit variance with so many cells a side."""
    noise = _normal(x, cells + 3, cells + 3, generator)
    return interpolate(noise, size=x.shape[-2:], mode="bicubic", align_corners=True) * 1.3


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in [0, 1] down and across, shaped to broadcast."""
    height, width = x.shape[-2:]
    down = torch.linspace(0, 1, height, device=x.device).view(1, 1, height, 1)
    return down, torch.linspace(0, 1, width, device=x.device).view(1, 1, 1, width)


def _saturate(x: Tensor, factor: float) -> Tensor:
    return _mix(_luma(x), x, factor).clamp(0, 1)


def _edges(x: Tensor, sigma: float) -> Tensor:
    """Gradient magnitude of the brightness, blurred first."""
    gradient = spatial_gradient(_blur(_luma(x), sigma))
    return gradient.square().sum(2).sqrt()


def _flatten(x: Tensor, radius: int) -> Tensor:
    """Smooth areas and keep their borders (Kuwahara: the calmest of four quadrants wins)."""
    size = radius + 1
    padded = pad(x, (radius,) * 4, mode="replicate")
    mean = avg_pool2d(padded, size, 1)
    variance = (avg_pool2d(padded.square(), size, 1) - mean.square()).sum(1, keepdim=True)
    height, width = x.shape[-2:]
    corners = [(i, j) for i in (0, radius) for j in (0, radius)]
    means = torch.stack([mean[..., i : i + height, j : j + width] for i, j in corners])
    spreads = torch.stack([variance[..., i : i + height, j : j + width] for i, j in corners])
    weight = (-spreads / 2e-3).softmax(0)
    return (means * weight).sum(0)


def _blobs(x: Tensor, count: int, size: Tensor, stretch: float, generator: Generator) -> Tensor:
    """Soft ellipses at random places and angles, one channel each: (N, count, H, W)."""
    down, across = _grid(x)
    top, left = (_draw(x, 0, 1, generator, count) for _ in range(2))
    angle = _draw(x, 0, torch.pi, generator, count)
    u, v = down - top, across - left
    along = u * angle.cos() + v * angle.sin()
    cross = (v * angle.cos() - u * angle.sin()) * stretch
    return 1 - _step((along.square() + cross.square()).sqrt() / size, 0.6, 1.25)


def autumn(x: Tensor, generator: Generator) -> Tensor:
    """Green turns to orange and red, the light to gold; a few leaves fall."""
    hue, saturation, value = rgb_to_hsv(x).split(1, 1)
    degrees = hue / (2 * torch.pi) * 360
    green = _step(degrees, 45, 70) * (1 - _step(degrees, 165, 195)) * _step(saturation, 0.08, 0.22)
    turned = 22 + 15 * _cloud(x, 4, generator).clamp(-1.2, 1.2)
    leafy = hsv_to_rgb(
        torch.cat(
            [
                turned.clamp(2, 46) / 360 * 2 * torch.pi,
                (saturation * 1.5 + 0.25).clamp(0, 0.95),
                (value * 1.15 + 0.06).clamp(0, 1),
            ],
            1,
        )
    )
    golden = _mix(x, _luma(x) * _colour(x, 1.32, 0.92, 0.48), 0.62) * _colour(x, 1.06, 0.97, 0.82)
    x = _mix(golden.clamp(0, 1), leafy, green)
    count = 9
    size = _draw(x, 0.05, 0.075, generator, count)
    leaves = _blobs(x, count, size, 2.0, generator)
    palette = x.new_tensor([[0.82, 0.20, 0.06], [0.93, 0.48, 0.07], [0.96, 0.70, 0.12]])
    for index in range(count):
        x = _mix(x, palette[index % 3].view(1, 3, 1, 1), 0.92 * leaves[:, index : index + 1])
    return x


def snowy(x: Tensor, generator: Generator) -> Tensor:
    """Cold and bright, white on the ground and on every upper edge, large soft flakes."""
    down, _ = _grid(x)
    cold = _mix(_luma(x), x, 0.45) * _colour(x, 0.86, 0.95, 1.08)
    cold = (cold * 0.72 + 0.24).clamp(0, 1)
    bright = _blur(_luma(x), 1.0)
    above = pad(bright, (0, 0, 3, 0), mode="replicate")[..., :-3, :]
    caps = _step(_blur((above - bright).clamp(min=0), 0.8), 0.04, 0.16)
    ground = _step(down + 0.12 * _cloud(x, 3, generator), 0.62, 0.98)
    lit = _step(bright, 0.45, 0.85)
    cover = (0.85 * caps + 0.8 * ground + 0.6 * lit).clamp(0, 0.94)
    x = _mix(cold, _colour(x, 0.95, 0.97, 1.0), cover)
    size = _draw(x, 0, 1, generator, 26) ** 2 * 0.03 + 0.022
    flakes = _blobs(x, 26, size, 1.0, generator)
    # A faint shadow lets white flakes show on white ground too.
    shade = (1 - 0.22 * _blur(flakes.amax(1, keepdim=True), 1.5)).clamp(0, 1)
    return _mix(x * shade, x.new_ones(1), flakes.amax(1, keepdim=True))


def watercolor(x: Tensor, generator: Generator) -> Tensor:
    """Washes of little detail, dark rims where pigment gathers, bare paper round the edge."""
    down, across = _grid(x)
    # A quarter of the drawing stays: without it the object is lost in the wash.
    wash = _mix(_flatten(_flatten(x, 2), 2), x, 0.25)
    rims = _step(_edges(wash, 0.7), 0.04, 0.2)
    wash = _saturate(wash, 1.5)
    wash = wash**0.8 * 0.72 + 0.28
    wash = wash * (1 - 0.34 * rims)
    wash = wash * (1 + 0.05 * _cloud(x, 7, generator))
    margin = torch.minimum(torch.minimum(down, 1 - down), torch.minimum(across, 1 - across))
    painted = _step(margin + 0.022 * _cloud(x, 7, generator), 0.045, 0.10)
    return _mix(_colour(x, 0.98, 0.965, 0.93), wash, painted)


def sunset(x: Tensor, generator: Generator) -> Tensor:
    """Low warm light: violet above, orange at the horizon, a sun, a dark foreground."""
    down, across = _grid(x)
    horizon, left = _draw(x, 0.42, 0.58, generator), _draw(x, 0.2, 0.8, generator)
    high, glow = _colour(x, 0.46, 0.22, 0.52), _colour(x, 1.12, 0.52, 0.16)
    low = _colour(x, 0.36, 0.12, 0.14)
    light = _mix(high, glow, _step(down, 0.0, 0.92) * 0 + _step(down / horizon, 0.1, 1.0))
    light = _mix(light, low, _step((down - horizon) / (1 - horizon), 0.1, 1.0))
    toned = _mix(_luma(x), x, 0.4)
    toned = (toned * 1.15 + 0.10) * light + 0.14 * light
    distance = ((down - horizon).square() + (across - left).square()).sqrt()
    sun = (-(distance / 0.26).square()).exp()
    disc = 1 - _step(distance, 0.085, 0.115)
    toned = toned + sun * _colour(x, 0.42, 0.24, 0.04)
    return _mix(toned, _colour(x, 1.0, 0.86, 0.42), 0.88 * disc).clamp(0, 1)


def rainbow(x: Tensor, generator: Generator) -> Tensor:
    """A translucent arch of the whole spectrum over the picture."""
    down, across = _grid(x)
    left, top = _draw(x, 0.25, 0.75, generator), _draw(x, 1.05, 1.25, generator)
    radius = ((down - top).square() + (across - left).square()).sqrt()
    # From violet inside to red outside, as in the sky.
    hue = (1 - _step(radius, 0.25, 1.2)) * 290
    ones = torch.ones_like(hue)
    bands = hsv_to_rgb(torch.cat([hue / 360 * 2 * torch.pi, 0.9 * ones, ones], 1))
    light = _luma(x)
    tinted = bands * (0.30 + 0.85 * light)
    return _mix(_mix(light, x, 0.55), tinted, 0.66).clamp(0, 1)


def aurora(x: Tensor, generator: Generator) -> Tensor:
    """Night, with curtains of green light that end in violet."""
    down, across = _grid(x)
    night = _mix(_luma(x), x, 0.25) * _colour(x, 0.30, 0.44, 0.66) + _colour(x, 0.01, 0.02, 0.07)
    glow = torch.zeros_like(x)
    for depth, strength in ((0.40, 0.6), (0.68, 0.95)):
        phase, waves = _draw(x, 0, 6.28, generator), _draw(x, 3.5, 7.0, generator)
        hem = depth + 0.10 * (waves * across + phase).sin()
        hem = hem + 0.04 * (2.3 * waves * across + 2 * phase).sin()
        rays = 0.78 + 0.22 * (across * 44 + 3 * (waves * across + phase).cos()).sin()
        rise = hem - down
        curtain = _step(rise, -0.05, 0.04) * (-rise.clamp(min=0) / 0.24).exp() * rays
        tint = _mix(
            _colour(x, 0.12, 1.0, 0.48), _colour(x, 0.62, 0.18, 0.95), _step(rise, 0.06, 0.34)
        )
        glow = glow + strength * curtain * tint
    return (night + glow * (0.62 + 0.4 * _luma(x))).clamp(0, 1)


def mosaic(x: Tensor, generator: Generator) -> Tensor:
    """Square stones of one colour each, parted by light grout."""
    height, width = x.shape[-2:]
    cell = max(2, height // 16)
    rows, columns = -(-height // cell), -(-width // cell)
    filled = pad(x, (0, columns * cell - width, 0, rows * cell - height), mode="replicate")
    stones = _saturate(avg_pool2d(filled, cell), 1.5)
    stones = (stones - 0.5) * 1.15 + 0.5
    stones = stones * (1 + 0.07 * _normal(x, rows, columns, generator))
    stones = interpolate(stones, scale_factor=cell, mode="nearest")[..., :height, :width]
    joint_down = (torch.arange(height, device=x.device) % cell == cell - 1).view(1, 1, height, 1)
    joint_across = (torch.arange(width, device=x.device) % cell == cell - 1).view(1, 1, 1, width)
    joints = (joint_down | joint_across).float()
    return _mix(stones.clamp(0, 1), _colour(x, 0.90, 0.88, 0.82), 0.72 * joints)


#: Pigments of the colour woodblock print: paper, ochre, vermilion, moss, pale and Prussian
#: blue, grey, ink.
_PIGMENTS = torch.tensor(
    [
        [0.95, 0.89, 0.74], [0.85, 0.68, 0.40], [0.80, 0.33, 0.22], [0.45, 0.53, 0.33],
        [0.62, 0.74, 0.76], [0.16, 0.31, 0.50], [0.58, 0.52, 0.46], [0.13, 0.13, 0.18],
    ]
)  # fmt: skip


def ukiyo_e(x: Tensor, generator: Generator) -> Tensor:
    """A woodblock print: flat pigments, ink outlines, cream paper, a blue band above."""
    down, _ = _grid(x)
    flat = _mix(_flatten(x, 2), x, 0.15)
    flat = ((_saturate(flat, 1.4) - 0.5) * 1.2 + 0.5).clamp(0, 1)
    pigments = _PIGMENTS.to(x)
    distance = (flat[:, None] - pigments.view(1, 8, 3, 1, 1)).square().sum(2)
    share = (-distance / 0.02).softmax(1)
    printed = torch.einsum("nphw,pc->nchw", share, pigments)
    x = _mix(flat * _colour(x, 1.0, 0.94, 0.80), printed, 0.78)
    band = 1 - _step(down, 0.02, 0.26)
    x = _mix(x, _colour(x, 0.10, 0.22, 0.46), 0.85 * band)
    ink = _step(_edges(flat, 0.6), 0.07, 0.18)
    return _mix(x, _colour(x, 0.09, 0.08, 0.12), 0.9 * ink)


def crayon(x: Tensor, generator: Generator) -> Tensor:
    """Slanted strokes of bright wax on rough paper, denser in the dark, with drawn outlines."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device).view(1, 1, height, 1) * (64 / height)
    columns = torch.arange(width, device=x.device).view(1, 1, 1, width) * (64 / width)
    slant = (columns + rows) / 4.5 + 0.10 * _cloud(x, 5, generator)
    stroke = 0.5 + 0.5 * (2 * torch.pi * slant).cos()
    smooth = _blur(x, 0.9)
    light = _luma(smooth)
    wax = (_saturate(smooth, 2.1) * 0.92).clamp(0, 1)
    # The darker the spot, the wider its strokes.
    cover = _step(stroke + 1.15 * (1 - light) - 0.72, 0.0, 0.55)
    paper = _colour(x, 0.97, 0.95, 0.90)
    x = _mix(paper, wax, 0.92 * cover)
    outline = _step(_edges(smooth, 0.5), 0.05, 0.15)
    return _mix(x, wax * 0.35, 0.85 * outline)


#: One procedure for each prompt, in the order of the prompts.
STYLES: dict[str, Style] = dict(
    zip(
        DIFFUSEMIX_PROMPTS,
        (autumn, snowy, watercolor, sunset, rainbow, aurora, mosaic, ukiyo_e, crayon),
        strict=True,
    )
)


def stylise(images: Tensor, styles: Tensor, generator: Generator) -> Tensor:
    """Render each image in the style of its number.

    Args:
        images: uint8 photographs, `(N, 3, H, W)`.
        styles: Positions in `DIFFUSEMIX_PROMPTS`, `(N,)`.
        generator: The only source of randomness; on any device.

    Shape:
        `(N, 3, H, W)`, uint8.
    """
    result = torch.empty_like(images)
    for number, style in enumerate(STYLES.values()):
        chosen = styles == number
        if chosen.any():
            rendered = style(images[chosen].float() / 255, generator)
            result[chosen] = (rendered * 255).round().clamp(0, 255).to(torch.uint8)
    return result
