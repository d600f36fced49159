"""The accuracy of each arm against the number of photographs of a class, as a picture."""

import math
from collections.abc import Iterable, Sequence

import torch

from diffaug import images
from diffaug.comparison.chart import (
    FAINT,
    INK,
    LINE,
    SIZE,
    WIDTH,
    Canvas,
    round_scale,
    text_width,
    tick_step,
)
from diffaug.comparison.rows import Row

#: Told apart also by those who do not see all colours (Okabe and Ito, 2008, without yellow).
COLOURS = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (230, 159, 0), (120, 84, 40)),
)
TOP, LEFT, HEIGHT, GAP = 64, 64, 420, 26


def curves(rows: Iterable[Row], said: str = "") -> torch.Tensor:
    """Draw a line for each arm over the numbers of photographs, uint8 (3, H, W).

    The numbers are equally far apart. Each point has its 95 % interval, and each line its name and
    last accuracy.
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
    right = WIDTH - 40 - max(map(text_width, names))
    step = (right - LEFT) / len(numbers)
    below = images.wrap_text(said, SIZE, WIDTH - 48) if said else []
    bottom = TOP + max(HEIGHT, GAP * len(lines))
    canvas = Canvas(bottom + 72 + GAP * len(below) + 12 * bool(below))

    def down(value: float) -> float:
        return bottom - (bottom - TOP) * (min(max(value, first), last) - first) / (last - first)

    canvas.text("Accuracy (%) by the number of photographs of each class", 24, 16, INK, 20)
    for tick in range(round(first), round(last) + 1, tick_step(first, last)):
        canvas.box(LEFT, down(tick), right, down(tick), LINE)
        canvas.text(str(tick), LEFT - 30, down(tick) - 9, FAINT, 15)
    centres = {shots: LEFT + step * (place + 0.5) for place, shots in enumerate(numbers)}
    for shots, centre in centres.items():
        words = str(shots or "all")
        canvas.text(words, centre - text_width(words, 15) / 2, bottom + 8, FAINT, 15)
    others = [line for line in lines if line[0].arm != "none"]
    colours = {line[0].arm: COLOURS[n % len(COLOURS)] for n, line in enumerate(others)}
    places = apart([down(100 * line[-1].mean) for line in lines], TOP, bottom)
    drawn = []
    for number, (line, name, place) in enumerate(zip(lines, names, places, strict=True)):
        aside = 5 * (number - (len(lines) - 1) / 2)  # so that intervals do not cover each other
        points = [(centres[row.shots] + aside, down(100 * row.mean)) for row in line]
        drawn.append((line, points, colours.get(line[0].arm, FAINT)))
        canvas.line(*points[-1], right + 10, place, LINE, 1.2)
        canvas.text(name, right + 16, place - 12, drawn[-1][-1])
    for _, points, colour in drawn:
        for start, end in zip(points, points[1:], strict=False):
            canvas.line(*start, *end, colour, 2.5)
    for line, points, colour in drawn:
        for row, (x, y) in zip(line, points, strict=True):
            low, high = (down(100 * bound) for bound in row.interval)
            canvas.line(x, high, x, low, colour, 1.2)
            canvas.box(x - 4, y - 4, x + 4, y + 4, colour)
    for place, words in enumerate(below):
        canvas.text(words, 24, bottom + 48 + GAP * place, INK)
    return canvas.pixels


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
