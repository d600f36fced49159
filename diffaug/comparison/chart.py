"""The accuracy of each arm as a picture."""

from collections.abc import Iterable, Sequence

import torch

from diffaug import images
from diffaug.comparison.rows import Row

PAPER, INK, FAINT, LINE = (255, 255, 255), (38, 38, 42), (120, 118, 112), (226, 224, 220)
GAIN, SAME, LOSS = (33, 128, 84), (92, 104, 122), (190, 60, 50)
WIDTH, LEFT, RIGHT, ROW, SIZE = 1020, 200, 270, 44, 18


class Canvas:
    """A picture to draw boxes and words on, uint8 (3, H, W)."""

    def __init__(self, height: int, width: int = WIDTH) -> None:
        self.pixels = torch.tensor(PAPER, dtype=torch.uint8)[:, None, None].repeat(1, height, width)

    def box(
        self, left: float, top: float, right: float, bottom: float, colour: Sequence[int]
    ) -> None:
        """Fill a box, at least a pixel wide and high."""
        rows = slice(round(top), max(round(bottom), round(top) + 1))
        columns = slice(round(left), max(round(right), round(left) + 1))
        self.pixels[:, rows, columns] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]

    def line(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        colour: Sequence[int],
        width: float,
    ) -> None:
        """Draw a line from one point to another; its edges are smooth."""
        first, last = min(left, right) - width, max(left, right) + width
        above, below = min(top, bottom) - width, max(top, bottom) + width
        rows = slice(max(0, round(above)), max(0, round(below) + 1))
        columns = slice(max(0, round(first)), max(0, round(last) + 1))
        y = (torch.arange(rows.start, rows.stop) - top)[:, None]
        x = (torch.arange(columns.start, columns.stop) - left)[None]
        along, down = right - left, bottom - top
        share = ((x * along + y * down) / max(along**2 + down**2, 1e-9)).clamp(0, 1)
        apart = torch.hypot(x - share * along, y - share * down)
        self._ink((width / 2 + 0.5 - apart).clamp(0, 1), columns.start, rows.start, colour)

    def text(
        self, words: str, left: float, top: float, colour: Sequence[int], size: int = SIZE
    ) -> int:
        """Write words in a line, or in several where there is no room; return the height."""
        room = self.pixels.shape[2] - round(left) - 8
        down = round(top)
        for line in images.wrap_text(words, size, room):
            down += self.word(line, left, down, colour, size)
        return down - round(top)

    def word(
        self, words: str, left: float, top: float, colour: Sequence[int], size: int = SIZE
    ) -> int:
        """Write words in one line, cut where there is no room; return the height."""
        cover = images.render_text(words, size, self.pixels.shape[2] - round(left) - 8)
        self._ink(cover, round(left), round(top), colour)
        return cover.shape[0]

    def _ink(self, cover: torch.Tensor, left: int, top: int, colour: Sequence[int]) -> None:
        """Colour the pixels from a corner on by how far each is covered, (H, W) in [0, 1]."""
        height, width = cover.shape
        place = self.pixels[:, top : top + height, left : left + width]
        ink = torch.tensor(colour, dtype=torch.float32)[:, None, None]
        cover = cover[: place.shape[1], : place.shape[2]]
        place[:] = torch.lerp(place.float(), ink, cover).round().to(torch.uint8)


def chart(rows: Sequence[Row], said: str) -> torch.Tensor:
    """Draw a dot with its interval for each arm, uint8 (3, H, W)."""
    lows = [100 * max(0.0, min(row.interval[0], row.mean)) for row in rows]
    highs = [100 * min(1.0, max(row.interval[1], row.mean)) for row in rows]
    first, last = round_scale(min(lows), max(highs))
    several = len({row.shots for row in rows}) > 1
    top, advice = 84, images.wrap_text(said, SIZE, WIDTH - 48)
    height = top + ROW * len(rows) + 56 + 26 * len(advice) + 20
    canvas = Canvas(height)
    names = [f"{row.arm}, {row.shots or 'all'}" if several else row.arm for row in rows]
    left = min(max(LEFT, 40 + max(map(text_width, names))), WIDTH - RIGHT - LEFT)
    room = WIDTH - left - RIGHT

    def across(value: float) -> float:
        return left + room * (min(max(value, first), last) - first) / (last - first)

    canvas.text(
        "Accuracy on photographs that no arm has seen (%), with 95 % intervals", 24, 16, INK, 20
    )
    canvas.text("gain over 'none'", WIDTH - RIGHT + 84, 52, FAINT, 15)
    bottom = top + ROW * len(rows)
    step = tick_step(first, last)
    for tick in range(round(first), round(last) + 1, step):
        canvas.box(across(tick), top, across(tick), bottom, LINE)
        canvas.text(str(tick), across(tick) - 8, bottom + 6, FAINT, 15)
    for place, row in enumerate(rows):
        middle = top + ROW * place + ROW / 2
        colour = _colour(row)
        canvas.text(names[place], 24, middle - 12, INK)
        if row.arm == "none":  # a line through all arms that are compared with it
            group = sum(other.shots == row.shots for other in rows)
            start, dot = top + ROW * place, across(100 * row.mean)
            canvas.box(dot, start, dot, start + ROW * group, FAINT)
        low, high = across(100 * row.interval[0]), across(100 * row.interval[1])
        canvas.box(low, middle - 1, high, middle + 1, colour)
        for end in (low, high):
            canvas.box(end - 1, middle - 6, end + 1, middle + 6, colour)
        dot = across(100 * row.mean)
        canvas.box(dot - 5, middle - 5, dot + 5, middle + 5, colour)
        canvas.text(f"{100 * row.mean:.1f}", WIDTH - RIGHT + 16, middle - 12, colour)
        if row.arm != "none":
            bounds = [100 * bound for bound in row.difference_interval]
            gain = f"{100 * row.difference:+.1f}  ({bounds[0]:+.1f} to {bounds[1]:+.1f})"
            canvas.text(gain, WIDTH - RIGHT + 84, middle - 11, colour, 16)
    down = bottom + 40
    for line in advice:
        canvas.text(line, 24, down, INK)
        down += 26
    return canvas.pixels


def text_width(name: str, size: int = SIZE) -> int:
    """Return how wide a name is as ``Canvas.text`` writes it, in pixels."""
    inked = images.render_text(name, size, WIDTH).amax(0).nonzero()
    return int(inked.max()) if len(inked) else 0


def by_gain(rows: Iterable[Row]) -> list[Row]:
    """Sort rows for a picture: by shots as they are, ``none`` first, then the largest gain."""
    listed = list(rows)
    shots = list(dict.fromkeys(row.shots for row in listed))
    return sorted(listed, key=lambda r: (shots.index(r.shots), r.arm != "none", -r.difference))


def _colour(row: Row) -> tuple[int, int, int]:
    if row.simultaneous[0] > 0:
        return GAIN
    return LOSS if row.simultaneous[1] < 0 else SAME


def round_scale(low: float, high: float) -> tuple[float, float]:
    """Return round numbers around the values, at least ten apart."""
    first, last = 10 * int(min(low, 90) // 10), 10 * -int(-high // 10)
    return float(first), float(max(last, first + 10))


def tick_step(first: float, last: float) -> int:
    """Return how far apart the ticks of a scale are."""
    return 2 if last - first <= 20 else 5 if last - first <= 40 else 10
