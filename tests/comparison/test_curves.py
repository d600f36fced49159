"""A picture of the accuracy against the number of photographs says which line is which."""

import pytest
import torch
from torch import nn

from diffaug import Comparison
from diffaug.comparison.arms import DEFAULT
from diffaug.comparison.chart import FAINT, by_gain, chart
from diffaug.comparison.curves import COLOURS, GAP, apart, curves, looks_of
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
    # Equal differences of the means are equally far apart, here ten points.
    heights = {(arm, n): down for arm in dots for n, (_, down) in enumerate(sorted(dots[arm]))}
    ten = (heights["none", 0] - heights["none", 2]) / 4
    for arm, number in heights:
        above = (means[arm][number] - means["none"][0]) / 0.1
        assert heights["none", 0] - heights[arm, number] == pytest.approx(above * ten, abs=1.5)
    for across, down in dots["cutmix"]:  # an interval of five points on both sides
        for end in (-0.45 * ten, 0.45 * ten):
            bar = pixels[round(down + 3 + end), across : across + 7]
            assert (bar == torch.tensor(COLOURS[0])).all(1).any()
    done = Comparison(rows=tuple(rows), advice="Use it.")
    done.plot(tmp_path / "several.png")
    both = read_image(tmp_path / "several.png")
    assert torch.equal(both[:, : len(pixels)], pixels.permute(2, 0, 1))
    assert torch.equal(both[:, len(pixels) :], chart(by_gain(rows), "Use it."))


def test_no_two_arms_of_the_default_comparison_look_alike():
    assert len(DEFAULT) == len(set(looks_of(DEFAULT).values()))
    full, hollow = (
        curves([Row(arm, 1, (), 0.1 * n, (0.1 * n, 0.1 * n)) for n, arm in enumerate(arms)])
        for arms in (DEFAULT[:8], DEFAULT[:9])
    )
    first, ninth = (len(squares(p.permute(1, 2, 0), COLOURS[0])) for p in (full, hollow))
    assert 1 == first == ninth  # the ninth arm has the colour of the first, and no full mark


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("name", ["a", "word " * 60, "i" * 300])
def test_odd_names_and_many_numbers_stay_in_the_picture(name, count):
    rows = [
        Row(arm, shots, (), 1.0, (1.0, 1.0))
        for arm in ("none", name)
        for shots in range(1, count + 1)
    ]
    pixels = curves(rows, dict.fromkeys(range(1, count + 1), 0.64)).permute(1, 2, 0)
    across = (pixels == torch.tensor(FAINT)).all(2).any(0).nonzero()
    assert 1020 == pixels.shape[1] and 30 < across.min()


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
