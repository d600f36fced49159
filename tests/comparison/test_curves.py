"""A picture of the accuracy against the number of photographs says which line is which."""

import torch
from torch import nn

from diffaug import Comparison
from diffaug.comparison.chart import FAINT, by_gain, chart
from diffaug.comparison.curves import COLOURS, GAP, apart, curves
from diffaug.comparison.rows import Row
from diffaug.images import read_image


def test_a_line_of_each_arm_goes_over_the_numbers_of_photographs(tmp_path):
    means = {"none": (0.1, 0.3, 0.5), "cutmix": (0.2, 0.4, 0.58), "real-mix": (0.3, 0.6)}
    rows = [
        Row(arm, shots, (), mean, (mean - 0.05, mean + 0.05))
        for arm, values in means.items()
        for shots, mean in zip((1, 20, None), values, strict=False)
    ]
    pixels = curves(rows).permute(1, 2, 0)
    dots = {
        arm: [tuple(dot) for dot in squares(pixels, colour)]
        for arm, colour in (("none", FAINT), ("cutmix", COLOURS[0]), ("real-mix", COLOURS[1]))
    }
    assert [3, 3, 2] == [len(found) for found in dots.values()]
    ordered = [[down for _, down in sorted(found)] for found in dots.values()]
    assert all(sorted(heights, reverse=True) == heights for heights in ordered)  # up, as the means
    first = [heights[0] for heights in ordered]
    assert sorted(first, reverse=True) == first  # each above the one before
    done = Comparison(rows=tuple(rows), advice="Use it.")
    done.plot(tmp_path / "several.png")
    both = read_image(tmp_path / "several.png")
    assert torch.equal(both[:, : len(pixels)], pixels.permute(2, 0, 1))
    assert torch.equal(both[:, len(pixels) :], chart(by_gain(rows), "Use it."))


def squares(pixels, colour):
    """Return the middle of each full square of 7 pixels of a colour, as (across, down)."""
    hit = (pixels == torch.tensor(colour)).all(2).float()[None, None]
    full = nn.functional.avg_pool2d(hit, 7, 1)[0, 0] == 1
    found = []
    for down, across in full.nonzero().tolist():
        if all(abs(across - x) > 7 or abs(down - y) > 7 for x, y in found):
            found.append((across, down))
    return found


def test_names_at_the_end_of_lines_do_not_cover_each_other():
    places = apart([100.0, 101.0, 99.0, 300.0, 301.0], 50, 310)
    ordered = sorted(places)
    assert all(b - a >= GAP for a, b in zip(ordered, ordered[1:], strict=False))
    assert places[2] < places[0] < places[1] < places[3] < places[4] <= 310
