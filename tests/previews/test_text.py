"""Text on a sheet is whole and legible."""

import pytest
import torch
from PIL import ImageFont

from diffaug.images import render_text, wrap_text


@pytest.mark.parametrize(
    "text", ["one two three four five", "word", "a  b   ·   c", "x" * 60, "", "Größe " * 5]
)
def test_text_is_broken_into_lines_that_fit_and_loses_nothing_but_spaces(text):
    lines = wrap_text(text, 12, 60)
    assert text.replace(" ", "") == "".join(lines).replace(" ", "")
    for line in lines:
        assert not render_text(line, 12, 400)[:, 62:].any()


def test_a_line_break_in_a_text_is_a_space():
    assert ["a b"] == wrap_text("a\nb", 12, 100)


@pytest.mark.parametrize("fonts", [True, False])
def test_letters_beyond_ascii_are_no_boxes(monkeypatch, fonts):
    truetype = ImageFont.truetype

    def missing(font, *args, **options):
        if isinstance(font, str):
            raise OSError(font)
        return truetype(font, *args, **options)

    box = ImageFont.load_default(16).getmask("\uffff")
    expected = torch.tensor(list(box)).view(box.size[::-1]) / 255
    if not fonts:
        monkeypatch.setattr(ImageFont, "truetype", missing)
        assert torch.equal(render_text("o", 16, 30), render_text("ö", 16, 30))
    drawn = render_text("ö", 16, 30)
    rows, columns = (drawn.any(axis).nonzero().flatten() for axis in (1, 0))
    ink = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert not torch.equal(expected, ink)
