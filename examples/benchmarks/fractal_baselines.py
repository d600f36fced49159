"""What rendering a fractal is measured against: two sequential chaos games, in numba and in numpy.

Written anew after Anderson and Farrell, Improving Fractal Pre-training, 2022, arXiv 2110.03091.
"""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np

try:
    from numba import njit
except ImportError:  # no dependency of diffaug: without it, that row of the benchmark stays empty
    njit = None


def _iterate(maps: Any, bounds: Any, points: int, seed: int) -> Any:
    """Walk one orbit of float64 points, the first 20 unmarked."""
    np.random.seed(seed)  # in numba its own generator, not numpy's global one
    marks = np.empty((points, 2))
    x = y = 0.0
    last = len(bounds) - 1
    for i in range(-20, points):
        draw, k = np.random.rand(), 0
        while k < last and draw >= bounds[k]:
            k += 1
        x, y = (
            maps[k, 0, 0] * x + maps[k, 0, 1] * y + maps[k, 0, 2],
            maps[k, 1, 0] * x + maps[k, 1, 1] * y + maps[k, 1, 2],
        )
        if i >= 0:
            marks[i, 0], marks[i, 1] = x, y
    return marks


def _count(marks: Any, size: int) -> Any:
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for i in range(len(marks)):
        for axis in range(2):
            low[axis] = min(low[axis], marks[i, axis])
            high[axis] = max(high[axis], marks[i, axis])
    scale = (size - 1) / np.maximum(high - low, 1e-12)
    counts = np.zeros((size, size))
    for i in range(len(marks)):
        row = int((marks[i, 1] - low[1]) * scale[1])
        column = int((marks[i, 0] - low[0]) * scale[0])
        counts[row, column] += 1
    return counts / counts.max()


def _colour(counts: Any, shift: float, table: Any) -> Any:
    size = len(counts)
    picture = np.zeros((3, size, size), np.uint8)
    for row in range(size):
        for column in range(size):
            level = counts[row, column]
            if level > 0:
                hue = int(level * 255 + shift) & 255
                for channel in range(3):
                    picture[channel, row, column] = table[hue, channel]
    return picture


def _palette(seed: int) -> tuple[float, Any]:
    shift, saturation, value = np.random.default_rng(seed).uniform((0, 0.3, 0.5), (255, 1, 1))
    table = [colorsys.hsv_to_rgb(hue / 256, saturation, value) for hue in range(256)]
    return shift, (np.array(table) * 255).astype(np.uint8)


def _used(maps: Any, probabilities: Any) -> tuple[Any, Any]:
    used = np.asarray(probabilities) > 0
    chances = np.asarray(probabilities, np.float64)[used]
    return np.ascontiguousarray(np.asarray(maps, np.float64)[used]), chances


if njit is not None:
    _iterate, _count, _colour = njit(_iterate), njit(_count), njit(_colour)


def numba_fractal(maps: Any, probabilities: Any, size: int, points: int, seed: int) -> Any:
    """Render (K, 2, 3) maps and (K,) probabilities as uint8 (3, size, size), compiled by numba."""
    maps, chances = _used(maps, probabilities)
    counts = _count(_iterate(maps, chances.cumsum(), points, seed), size)
    return _colour(counts, *_palette(seed))


def numpy_fractal(
    maps: Any, probabilities: Any, size: int, points: int, seed: int, walkers: int = 2048
) -> Any:
    """Render the same with plain numpy: many walkers side by side, and a table of colours."""
    maps, chances = _used(maps, probabilities)
    generator = np.random.default_rng(seed)
    steps = -(-points // walkers)
    marks = np.zeros((steps + 20, walkers, 2))
    place = np.zeros((walkers, 2))
    for step in range(steps + 20):
        chosen = maps[generator.choice(len(maps), walkers, p=chances / chances.sum())]
        place = np.einsum("wij,wj->wi", chosen[..., :2], place) + chosen[..., 2]
        marks[step] = place
    flat = marks[20:].reshape(-1, 2)[:points]
    low, high = flat.min(0), flat.max(0)
    column, row = ((flat - low) * ((size - 1) / np.maximum(high - low, 1e-12))).astype(np.int64).T
    counts = np.bincount(row * size + column, minlength=size * size).reshape(size, size)
    levels = counts / counts.max()
    shift, table = _palette(seed)
    picture = table[(levels * 255 + shift).astype(np.int64) & 255].transpose(2, 0, 1)
    return picture * (counts > 0)
