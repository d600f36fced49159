"""Fractals for blending: iterated function systems, drawn, rendered and kept."""

import math
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from diffaug import functional, images
from diffaug.arguments import whole
from diffaug.generation import derive_seed
from diffaug.paths import cache_root

#: Raise it when the same seed would give another picture than before.
FORMAT_VERSION = 1

MAX_MAPS = 8
#: Walkers that play the chaos game side by side, and how far each goes before it leaves a mark.
WALKERS = 2048
SETTLE = 16

#: Share of the pixels that a fractal must touch, and how much its levels must vary (of 255).
COVERAGE = (0.08, 0.97)
CONTRAST = 22.0


def sample_systems(
    count: int, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw iterated function systems by the singular-value rule.

    A system of k maps, 2 <= k <= 8, has singular values that satisfy
    ``(5 + k) / 2 <= sum(s1 + 2 s2) <= (6 + k) / 2``: such systems contract, and fill their frame
    neither hardly nor wholly. A map is chosen in proportion to its area.

    Args:
        count: how many systems.
        generator: where the draws come from; None is torch's global generator.

    Shape:
        Affine maps ``(count, 8, 2, 3)``, the translation last, and their probabilities
        ``(count, 8)``; both float32, zeros beyond the k maps.

    Example:
        >>> import torch
        >>> from diffaug.fractals import sample_systems
        >>> maps, probabilities = sample_systems(5, torch.Generator().manual_seed(0))
        >>> maps.shape, probabilities.sum(1).round().tolist()
        (torch.Size([5, 8, 2, 3]), [1.0, 1.0, 1.0, 1.0, 1.0])

    Reference:
        Anderson and Farrell, Improving Fractal Pre-training, 2022, arXiv 2110.03091, section 3.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    maps = torch.zeros(count, MAX_MAPS, 2, 3)
    areas = torch.zeros(count, MAX_MAPS)
    for system in range(count):
        k = int(torch.randint(2, MAX_MAPS + 1, (), generator=generator))
        left = (5 + k + uniform(0, 1)) / 2  # what the maps from here on must come to
        for i in range(k):
            after = 3 * (k - 1 - i)  # the most that the maps after this one can take
            if after:
                first = uniform(max(0.0, (left - after) / 3), min(1.0, left))
                second = uniform(
                    max(0.0, (left - after - first) / 2), min(first, (left - first) / 2)
                )
            else:
                second = uniform(max(0.0, (left - 1) / 2), left / 3)
                first = left - 2 * second
            left -= first + 2 * second
            turn, tilt = uniform(0, 2 * math.pi), uniform(0, 2 * math.pi)
            signs = torch.tensor([math.copysign(1, uniform(-1, 1)) for _ in range(2)])
            linear = _rotation(turn) @ torch.diag(torch.tensor([first, second])) @ _rotation(tilt)
            maps[system, i, :, :2] = linear * signs
            maps[system, i, :, 2] = torch.tensor([uniform(-1, 1), uniform(-1, 1)])
            areas[system, i] = first * second + 0.02  # so that a line is walked along too
    return maps, areas / areas.sum(1, keepdim=True)


def render(
    maps: torch.Tensor,
    probabilities: torch.Tensor,
    seeds: Sequence[int],
    *,
    size: int = 256,
    points: int = 100_000,
) -> torch.Tensor:
    """Render systems by the chaos game, coloured by the last maps taken, on the maps' device.

    Args:
        maps: as :func:`sample_systems` gives them.
        probabilities: likewise.
        seeds: one for each system: of its orbits and its colours.
        size: side of the pictures in pixels.
        points: marks to leave in each, rounded up to whole steps of 2048 walkers.

    Shape:
        uint8 ``(N, 3, size, size)``. A picture does not depend on those rendered with it.

    Raises:
        ValueError: the counts differ, or size or points is not positive.

    Example:
        >>> import torch
        >>> from diffaug.fractals import render, sample_systems
        >>> systems = sample_systems(2, torch.Generator().manual_seed(0))
        >>> render(*systems, seeds=[1, 2], size=32, points=4096).shape
        torch.Size([2, 3, 32, 32])

    Reference:
        Barnsley, Fractals Everywhere, 1988 (the chaos game).
    """
    if not len(maps) == len(probabilities) == len(seeds):
        raise ValueError(
            f"'seeds' must hold one seed for each of the {len(maps)} systems, got {len(seeds)}."
        )
    for name, value in (("size", size), ("points", points)):
        if value < 1:
            raise ValueError(f"'{name}' must be at least 1, got {value}.")
    pictures = [
        _render_one(system, shares, torch.Generator().manual_seed(seed), size, points)
        for system, shares, seed in zip(maps, probabilities, seeds, strict=True)
    ]
    return torch.stack(pictures) if pictures else torch.zeros(0, 3, size, size, dtype=torch.uint8)


def _rotation(angle: float) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]])


def _render_one(
    maps: torch.Tensor, shares: torch.Tensor, generator: torch.Generator, size: int, points: int
) -> torch.Tensor:
    steps = SETTLE + math.ceil(points / WALKERS)
    picks = _draw_maps(shares, steps, generator).to(maps.device)  # (T W)
    entries = [
        entry.index_select(0, picks).view(steps, WALKERS).unbind()
        for entry in maps.flatten(1).T.contiguous()  # a, b, e, c, d, f of x' = a x + b y + e, ...
    ]
    track = torch.empty(2, steps, WALKERS, device=maps.device)
    x = y = torch.zeros(WALKERS, device=maps.device)
    for (a, b, e, c, d, f), left, top in zip(zip(*entries, strict=True), *track, strict=True):
        x, y = (
            torch.addcmul(torch.addcmul(e, a, x), b, y, out=left),
            torch.addcmul(torch.addcmul(f, c, x), d, y, out=top),
        )
    cells = _to_cells(track[:, SETTLE:].flatten(1), track[:, -1], size)
    # The map taken last sets the hue, the ones before it shade it: colour follows the branches.
    hues = torch.rand(MAX_MAPS, generator=generator).to(maps.device)
    hue = hues.index_select(0, picks).view(steps, WALKERS)
    hue = (4 * hue[SETTLE:] + 2 * hue[SETTLE - 1 : -1] + hue[SETTLE - 2 : -2]).flatten() / 7
    density = torch.bincount(cells, minlength=size * size + 1)[:-1].float()
    tone = torch.bincount(cells, weights=hue, minlength=size * size + 1)[:-1].float()
    return _shade(density.view(size, size), tone.view(size, size), generator)


def _draw_maps(shares: torch.Tensor, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Draw which map each walker takes at each step, (T W)."""
    # Four 16-bit draws from each 64-bit one: drawing is a third of the rendering otherwise.
    words = torch.empty(math.ceil(steps * WALKERS / 4), dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    draws = words.view(torch.int16)[: steps * WALKERS].int() + 2**15  # [0, 2**16)
    bounds = shares.cpu().double().cumsum(0) * 2**16
    table = torch.bucketize(torch.arange(2**16).double() + 0.5, bounds[:-1], out_int32=True)
    return table.index_select(0, draws)


def _to_cells(marks: torch.Tensor, last: torch.Tensor, size: int) -> torch.Tensor:
    """Turn points (2, M) into pixel numbers; those outside the frame share the one beyond."""
    ordered = last.sort(1).values  # a few stray walkers must not shrink the picture
    margin = WALKERS // 100
    low, high = ordered[:, margin, None], ordered[:, -1 - margin, None]
    spread = (high - low).clamp(min=1e-6)
    low, spread = low - 0.03 * spread, 1.06 * spread
    column, row = ((marks - low) * (size / spread)).floor()
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    return torch.where(inside, row.long() * size + column.long(), size * size)


def _shade(density: torch.Tensor, tone: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Colour a histogram: hue by branch, brightness by log density, a glow around, (3, S, S)."""
    size = len(density)
    layers = torch.stack([density, tone])[None]  # (1, 2, S, S)
    coarse = F.avg_pool2d(layers, max(1, size // 32), ceil_mode=True)  # (1, 2, 32, 32)
    coarse = _smooth(_smooth(coarse, 1), 1)
    halo = coarse + _smooth(_smooth(coarse, 3), 3)
    total = layers + 0.3 * F.interpolate(halo, (size, size), mode="bilinear")
    amount, hue = total[0, 0], total[0, 1] / total[0, 0].clamp(min=1e-6)
    light = amount.log1p()
    light = (light / light.flatten().kthvalue(int(0.99 * size * size) + 1).values).clamp(max=1)
    phase, pace = torch.rand(2, 3, generator=generator)
    ground = float(torch.rand((), generator=generator))
    palette = _palette(phase, pace * 0.9 + 0.4, torch.linspace(0, 1, 256)).to(density.device)
    drawn = palette[:, (hue * 255).long()]
    behind = 0.3 * palette[:, int(255 * ground), None, None] * (0.6 + 0.8 * light)
    return ((behind + (drawn - behind) * light**0.75) * 255).round().to(torch.uint8)


def _smooth(layers: torch.Tensor, radius: int) -> torch.Tensor:
    return F.avg_pool2d(layers, 2 * radius + 1, 1, radius, count_include_pad=False)


def _palette(phase: torch.Tensor, pace: torch.Tensor, tone: torch.Tensor) -> torch.Tensor:
    """Return a smooth run of bright colours, (3, len(tone))."""
    wave = torch.cos(2 * math.pi * (pace[:, None] * tone + phase[:, None]))
    colours = 0.5 + 0.5 * wave
    return colours / colours.amax(0).clamp(min=0.4)


def _is_degenerate(picture: torch.Tensor) -> bool:
    """Tell whether a picture is nearly empty, nearly solid or nearly of one colour."""
    grey = picture.float().mean(0)
    edge = float((grey - grey.median()).abs().gt(12).float().mean())
    return not (COVERAGE[0] <= edge <= COVERAGE[1]) or float(picture.float().std()) < CONTRAST


class FractalBank:
    """Keep rendered fractals: each is made when first asked for, once per machine.

    Picture i depends on ``seed``, ``size`` and i alone. All processes share one memory-mapped file
    in the cache folder; a bank pickles as its three settings.

    Args:
        count: how many there are, >= 1.
        size: side in pixels, >= 16.
        seed: of the whole bank.

    Shape:
        uint8 ``(3, size, size)`` from ``bank[i]``, ``(N, 3, size, size)`` from ``bank.batch``.

    Raises:
        ValueError: an argument is outside its range.
        IndexError: no such picture.

    Example:
        >>> from diffaug import FractalBank
        >>> bank = FractalBank(count=3, size=32)
        >>> len(bank), bank[2].shape, bank.name(2)
        (3, torch.Size([3, 32, 32]), 'fractal-0-2')

    Reference:
        Anderson and Farrell, 2022, arXiv 2110.03091; its use in DiffuseMix, 2024, arXiv 2405.14881.
    """

    def __init__(self, count: int = 256, size: int = 256, seed: int = 0) -> None:
        self.count, self.size = whole("count", count, 1), whole("size", size, 16)
        self.seed = whole("seed", seed, 0)
        self._records: np.ndarray[Any, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return FractalBank, (self.count, self.size, self.seed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FractalBank) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self.count, self.size, self.seed))

    def __repr__(self) -> str:
        return f"FractalBank(count={self.count}, size={self.size}, seed={self.seed})"

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Name a picture, the same in every bank of this seed."""
        return f"fractal-{self.seed}-{index}"

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return several pictures, (N, 3, size, size)."""
        return torch.stack([self[index] for index in indices])

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= index < self.count:
            raise IndexError(f"'index' must be in [0, {self.count}), got {index}.")
        record = self._open()[index]
        pixels = torch.from_numpy(record["pixels"].copy())
        if record["checksum"] == 0 or record["checksum"] != _checksum(pixels):
            pixels = self._render(index)
            # Whoever else renders it now writes the same bytes; a torn record fails its checksum.
            record["pixels"] = pixels.numpy()
            record["checksum"] = _checksum(pixels)
        return pixels

    def _render(self, index: int) -> torch.Tensor:
        for attempt in range(100):
            seed = derive_seed("fractal", FORMAT_VERSION, self.seed, index, attempt)
            system = sample_systems(1, torch.Generator().manual_seed(seed))
            [picture] = render(*system, seeds=[seed], size=self.size)
            if not _is_degenerate(picture):
                break
        return picture

    def _open(self) -> np.ndarray[Any, Any]:
        if self._records is None:
            kind = np.dtype([("checksum", "<u4"), ("pixels", "u1", (3, self.size, self.size))])
            path = (
                cache_root() / "fractals" / f"v{FORMAT_VERSION}-{self.size}px-seed{self.seed}.bin"
            )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab") as file:
                    size = file.tell()
                if size < self.count * kind.itemsize:
                    # Not truncate(), which could cut off what a larger bank just added. Should this
                    # byte fall into a record just written, its checksum tells.
                    with open(path, "r+b") as file:
                        file.seek(self.count * kind.itemsize - 1)
                        file.write(b"\0")
                self._records = np.memmap(path, kind, "r+", shape=(self.count,))
            except OSError as error:
                warnings.warn(
                    f"Fractals are rendered anew in each process: cannot write '{path}' ({error}).",
                    RuntimeWarning,
                    stacklevel=4,
                )
                self._records = np.zeros(self.count, kind)
        return self._records


class FractalFolder:
    """Read fractals, or any other pictures to blend in, from a folder of images.

    Args:
        folder: searched with its subfolders, in a fixed order.
        size: side in pixels that pictures are cropped to the centre square of and resized to.

    Shape:
        As for :class:`FractalBank`.

    Raises:
        ValueError: no such folder, or no image in it.
        UnreadableImageError: when a picture is asked for that is no whole image.

    Example:
        >>> FractalFolder("no/such/folder")
        Traceback (most recent call last):
            ...
        ValueError: 'fractals' must be a folder of images, got 'no/such/folder'.
    """

    def __init__(self, folder: str | os.PathLike[str], size: int = 256) -> None:
        self.folder, self.size = Path(folder).expanduser(), size
        if not self.folder.is_dir():
            raise ValueError(f"'fractals' must be a folder of images, got '{folder}'.")
        self._paths = images.list_images(self.folder)
        if not self._paths:
            raise ValueError(f"'fractals' must be a folder of images, and '{folder}' holds none.")

    def __reduce__(self) -> tuple[Any, ...]:
        return FractalFolder, (self.folder, self.size)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """Name a picture by its path below the folder."""
        return self._paths[index].relative_to(self.folder).as_posix()

    def contents(self) -> list[tuple[str, int]]:
        """Return every picture's name and size in bytes, by which two folders differ."""
        return [(self.name(i), path.stat().st_size) for i, path in enumerate(self._paths)]

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return several pictures, (N, 3, size, size)."""
        return torch.stack([self[index] for index in indices])

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels = images.read_image(self._paths[index])
        side = min(pixels.shape[1:])
        top, left = ((length - side) // 2 for length in pixels.shape[1:])
        square = pixels[:, top : top + side, left : left + side]
        return functional.resize(square, (self.size, self.size))


def _checksum(pixels: torch.Tensor) -> int:
    return zlib.crc32(pixels.numpy().tobytes())
