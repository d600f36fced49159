"""The accuracy of each arm against the number of photographs of a class, as a picture."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from diffaug.comparison.advice import often
from diffaug.comparison.chart import (
    FAINT,
    INK,
    LINE,
    PAPER,
    WIDTH,
    Canvas,
    round_scale,
    text_width,
    tick_step,
)
from diffaug.comparison.rows import Row

#: Told apart also by those who do not see all colours (Okabe and Ito, 2008, without yellow). Arms
#: beyond them have these again, and hollow marks.
COLOURS = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (230, 159, 0), (120, 84, 40)),
)
TOP, LEFT, HEIGHT, GAP = 64, 64, 420, 26


def curves(rows: Iterable[Row], passes: Mapping[int | None, float] | None = None) -> torch.Tensor:
    """Draw a line for each arm over the numbers of photographs, uint8 (3, H, W).

    The numbers are equally far apart. Each point has its 95 % interval, and each line its name and
    last accuracy.

    Args:
        rows: of all arms and numbers.
        passes: how often each photograph came in a training, by number; written below it.
    """
    listed = list(rows)
    numbers = sorted({row.shots for row in listed}, key=lambda shots: shots or math.inf)
    lines = [
        sorted((row for row in listed if row.arm == arm), key=lambda row: row.shots or math.inf)
        for arm in dict.fromkeys(row.arm for row in listed)
    ]
    first, last = round_scale(
        100 * min(max(0.0, row.interval[0]) for row in listed),
        100 * max(min(1.0, row.interval[1]) for row in listed),
    )
    names = [f"{100 * line[-1].mean:.1f}  {line[-1].arm}" for line in lines]
    for number, line in enumerate(lines):
        if line[-1].shots != numbers[-1]:  # where it ends
            names[number] += f", {line[-1].shots}"
    right = max(WIDTH // 2, WIDTH - 40 - max(map(text_width, names)))
    step = (right - LEFT) / len(numbers)
    bottom = TOP + max(HEIGHT, GAP * len(lines))
    canvas = Canvas(bottom + (84 if passes else 60))

    def down(value: float) -> float:
        return bottom - (bottom - TOP) * (min(max(value, first), last) - first) / (last - first)

    title = "Accuracy (%) by the number of photographs of each class, with 95 % intervals"
    canvas.text(title, 24, 16, INK, 20)
    for tick in range(round(first), round(last) + 1, tick_step(first, last)):
        canvas.box(LEFT, down(tick), right, down(tick), LINE)
        canvas.text(str(tick), LEFT - 30, down(tick) - 9, FAINT, 15)
    centres = {shots: LEFT + step * (place + 0.5) for place, shots in enumerate(numbers)}
    for shots, centre in centres.items():
        words = str(shots or "all")
        canvas.text(words, centre - text_width(words) / 2, bottom + 8, INK)
        if passes:
            words = f"seen {often(passes[shots])}"
            canvas.text(words, centre - text_width(words, 13) / 2, bottom + 36, FAINT, 13)
    looks = looks_of([line[0].arm for line in lines])
    places = apart([down(100 * line[-1].mean) for line in lines], TOP, bottom)
    drawn = []
    for number, (line, name, place) in enumerate(zip(lines, names, places, strict=True)):
        # A little aside, so that intervals do not cover each other.
        aside = min(5, 0.7 * step / len(lines)) * (number - (len(lines) - 1) / 2)
        points = [(centres[row.shots] + aside, down(100 * row.mean)) for row in line]
        colour, hollow = looks[line[0].arm]
        drawn.append((line, points, colour, hollow))
        canvas.line(*points[-1], right + 10, place, LINE, 1.2)
        canvas.word(name, right + 16, place - 12, colour)
    for _, points, colour, _ in drawn:
        for start, end in zip(points, points[1:], strict=False):
            canvas.line(*start, *end, colour, 2.5)
    for line, points, colour, hollow in drawn:
        for row, (x, y) in zip(line, points, strict=True):
            low, high = (down(100 * bound) for bound in row.interval)
            canvas.box(round(x) - 1, high, round(x) + 1, low, colour)
            canvas.box(x - 4, y - 4, x + 4, y + 4, colour)
            if hollow:
                canvas.box(x - 2, y - 2, x + 2, y + 2, PAPER)
    return canvas.pixels


def looks_of(arms: Iterable[str]) -> dict[str, tuple[tuple[int, int, int], bool]]:
    """Choose a colour for each arm, and whether its marks are hollow."""
    others = [arm for arm in arms if arm != "none"]
    looks = {arm: (COLOURS[n % len(COLOURS)], n >= len(COLOURS)) for n, arm in enumerate(others)}
    return {"none": (FAINT, False), **looks}


def apart(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """Move heights so far apart that a name fits between each two, within bounds."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = dict(enumerate(places))
    for above, number in zip(order, order[1:], strict=False):
        moved[number] = max(moved[number], moved[above] + GAP)
    lowest = bottom
    for number in reversed(order):
        moved[number] = min(moved[number], lowest)
        lowest = moved[number] - GAP
    return [max(top, moved[number]) for number in range(len(places))]
