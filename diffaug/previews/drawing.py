"""Drawing a contact sheet: rows of pictures under a heading for each column."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from diffaug import functional, images
from diffaug.errors import unwritable
from diffaug.files import write_whole

BACKGROUND = (248, 247, 244)
EMPTY = (232, 230, 225)
INK = (38, 38, 42)
FAINT = (120, 118, 112)
GUTTER = 12


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet.

    Args:
        caption: a line under the pictures.
        pictures: uint8 (3, H, W) by column; a text says why there is no picture.
        beside: lines to the right of the pictures.
    """

    caption: str
    pictures: dict[str, torch.Tensor | str]
    beside: tuple[str, ...] = ()


def contact_sheet(rows: Sequence[SheetRow], tile: int = 256, title: str = "") -> torch.Tensor:
    """Arrange rows of pictures under a heading for each column.

    Text is broken into lines where it is too long.

    Args:
        rows: they all have the same columns, and all have lines beside them or none.
        tile: side in pixels of the box that each picture is fitted into; it keeps its proportions.
        title: above everything.

    Shape:
        uint8 ``(3, H, W)``.
    """
    columns = list(rows[0].pictures)
    size = max(12, tile // 16)
    side = GUTTER + len(columns) * (tile + GUTTER)  # where the lines beside the pictures start
    room = max(3 * tile // 2, 16 * size) if rows[0].beside else 0
    width = side + (room + GUTTER if room else 0)
    line = width - 2 * GUTTER

    def strip(blocks: dict[int, torch.Tensor]) -> torch.Tensor:
        """Put blocks next to each other, each with its left edge at a column of pixels."""
        joined = _blank(max(block.shape[1] for block in blocks.values()), width)
        for left, block in blocks.items():
            joined[:, : block.shape[1], left : left + block.shape[2]] = block
        return joined

    lefts = [GUTTER + number * (tile + GUTTER) for number in range(len(columns))]
    headings = dict(zip(lefts, (_text([c], size + 2, tile, INK) for c in columns), strict=True))
    if room:
        headings[side] = _text(["how it was made"], size + 2, room, INK)
    parts = [_blank(GUTTER, width)]
    if title:
        parts += [strip({GUTTER: _text([title], size, line, INK)}), _blank(GUTTER // 2, width)]
    parts.append(strip(headings))
    for row in rows:
        boxes = [_box(picture, tile, size) for picture in row.pictures.values()]
        blocks = {
            left + (tile - box.shape[2]) // 2: box for left, box in zip(lefts, boxes, strict=True)
        }
        if room:
            blocks[side] = _text(row.beside, size, room, FAINT)
        parts += [_blank(GUTTER // 2, width), strip(blocks)]
        if row.caption:
            parts += [_blank(4, width), strip({GUTTER: _text([row.caption], size, line, FAINT)})]
    return torch.cat([*parts, _blank(GUTTER, width)], 1)


def _box(picture: torch.Tensor | str, tile: int, size: int) -> torch.Tensor:
    """Fit a picture into a box; where there is none, draw an empty box with the reason."""
    if isinstance(picture, str):
        reason = _text([picture], size, tile - GUTTER, FAINT, EMPTY)
        box = _plain(max(tile // 2, reason.shape[1] + 2 * GUTTER), tile, EMPTY)
        box[:, GUTTER : GUTTER + reason.shape[1], GUTTER // 2 : tile - GUTTER // 2] = reason
        return box
    height, width = picture.shape[1:]
    scale = tile / max(height, width)
    shape = (max(1, round(scale * height)), max(1, round(scale * width)))
    return functional.resize(picture, shape)


def _text(
    lines: Sequence[str],
    size: int,
    width: int,
    colour: tuple[int, int, int],
    background: tuple[int, int, int] = BACKGROUND,
) -> torch.Tensor:
    """Draw lines of text one below the other, each broken where it is too long."""
    broken = [part for line in lines for part in images.wrap_text(line, size, width)]
    coverage = torch.cat([images.render_text(part, size, width) for part in broken])
    height = coverage.shape[0]
    paper = _plain(height, width, background).float()
    ink = torch.tensor(colour, dtype=torch.float32)[:, None, None]
    return torch.lerp(paper, ink, coverage).round().to(torch.uint8)


def _blank(height: int, width: int) -> torch.Tensor:
    return _plain(height, width, BACKGROUND)


def _plain(height: int, width: int, colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].repeat(1, height, width)


def write_picture(path: str | os.PathLike[str], picture: torch.Tensor) -> None:
    """Write uint8 (3, H, W) as a PNG file, whole or not at all."""
    try:
        write_whole(Path(path).expanduser(), images.encode_image(picture, "png"))
    except OSError as error:
        raise unwritable(path, error) from error
