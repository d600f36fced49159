"""A contact sheet: a row for each image, a column for each stage of a transform."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from diffaug import functional, images
from diffaug.errors import DestinationError, UnreadableImageError
from diffaug.files import write_whole
from diffaug.seeds import derive_seed
from diffaug.switches import own_defaults
from diffaug.transforms.base import ImageTransform, Params

BACKGROUND = (248, 247, 244)
INK = (38, 38, 42)
FAINT = (120, 118, 112)
GUTTER = 12


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet: uint8 (3, H, W) pictures by column, and a caption."""

    caption: str
    pictures: dict[str, torch.Tensor]


@own_defaults()
def preview(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    transform: ImageTransform,
    *,
    count: int = 6,
    seed: int = 0,
    tile: int = 256,
) -> list[tuple[str, str]]:
    """Write a contact sheet: what each stage of a transform makes of some images of a folder.

    Args:
        source: a folder of images; those that are shown are spread evenly over it.
        path: the PNG to write, whole or not at all.
        transform: the augmentation; its ``p`` is ignored, so every image is augmented.
        count: how many images to show, each in a row.
        seed: the same seed and settings draw the same sheet.
        tile: side in pixels of the box that each picture is fitted into.

    Returns:
        The images that could not be read, each with the reason.

    Raises:
        ValueError: the folder does not exist or holds no image, or an argument is outside its
            range.
        UnreadableImageError: none of the images could be read.
        DestinationError: the sheet could not be written.

    Example:
        >>> import tempfile, torch
        >>> from torchvision.utils import save_image
        >>> from diffaug import PromptEdit, RecordingBackend, preview
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_image(torch.rand(3, 32, 48), f"{folder}/photo.png")
        ...     preview(folder, f"{folder}/sheet.png", PromptEdit(backend=RecordingBackend()))
        []
    """
    for name, value, least in (("count", count, 1), ("tile", tile, 32)):
        if value < least:
            raise ValueError(f"'{name}' must be at least {least}, got {value}.")
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"'path' must end in .png, got '{path}'.")
    read, skipped = _read(Path(source).expanduser(), count)
    drawn = []
    for index, (name, _) in enumerate(read):
        generator = torch.Generator().manual_seed(derive_seed("preview", seed, name))
        drawn.append(transform.draw_copy(index, generator, name.split("/")[0]))
    requests = [
        transform.requests(pixels, [params])
        for (_, pixels), params in zip(read, drawn, strict=True)
    ]
    all_requests = list(chain.from_iterable(requests))
    answers = iter(transform.live_backend().generate(all_requests) if all_requests else [])
    rows = []
    for (name, pixels), params, own_requests in zip(read, drawn, requests, strict=True):
        generated = [next(answers) for _ in own_requests]
        stages = transform.stages(pixels, generated, [params])
        pictures = {"original": pixels[0], **{stage: batch[0] for stage, batch in stages.items()}}
        [applied] = transform.finish(pixels, generated, [params]).params
        described = transform.describe(applied)
        source_label = name.split("/")[0]
        label = transform.label_of(applied, source_label)
        if label != source_label:
            described["label"] = label
        rows.append(SheetRow(_caption(name, described), pictures))
    write_picture(path, contact_sheet(rows, tile))
    return skipped


def contact_sheet(rows: Sequence[SheetRow], tile: int = 256) -> torch.Tensor:
    """Arrange rows of pictures under a heading for each column.

    Args:
        rows: they all have the same columns.
        tile: side in pixels of the box that each picture is fitted into; it keeps its proportions.

    Shape:
        uint8 ``(3, H, W)``.
    """
    columns = list(rows[0].pictures)
    width = GUTTER + len(columns) * (tile + GUTTER)
    text = max(12, tile // 16)
    parts = [_blank(GUTTER, width), _line(columns, text + 2, tile, width, INK)]
    for row in rows:
        fitted = [_fit(picture, tile) for picture in row.pictures.values()]
        strip = _blank(max(picture.shape[1] for picture in fitted), width)
        for column, picture in enumerate(fitted):
            left = GUTTER + column * (tile + GUTTER) + (tile - picture.shape[2]) // 2
            strip[:, : picture.shape[1], left : left + picture.shape[2]] = picture
        caption = _line([row.caption], text, width - 2 * GUTTER, width, FAINT)
        parts += [_blank(GUTTER // 2, width), strip, _blank(4, width), caption]
    return torch.cat([*parts, _blank(GUTTER, width)], 1)


def _read(folder: Path, count: int) -> tuple[list[tuple[str, torch.Tensor]], list[tuple[str, str]]]:
    """Read images spread evenly over a folder, each as (1, 3, H, W) with its path in the folder."""
    if not folder.is_dir():
        raise ValueError(f"'source' must be an existing folder, got '{folder}'.")
    paths = images.list_images(folder)
    if not paths:
        raise ValueError(f"'source' must hold images, and '{folder}' has none.")
    count = min(count, len(paths))
    read, skipped = [], []
    for path in (paths[i * len(paths) // count] for i in range(count)):
        name = path.relative_to(folder).as_posix()
        try:
            read.append((name, images.read_image(path)[None]))
        except UnreadableImageError as error:
            skipped.append((name, str(error)))
    if not read:
        raise UnreadableImageError(skipped[0][1])
    return read, skipped


def _caption(name: str, described: Params) -> str:
    keys = ("prompt", "mask", "label", "strength")
    words = [f"{key} {described[key]}" for key in keys if described.get(key) is not None]
    words += [str(described["fractal"])] if described.get("fractal") else []
    return "   ·   ".join([name, *words])


def _fit(picture: torch.Tensor, tile: int) -> torch.Tensor:
    height, width = picture.shape[1:]
    scale = tile / max(height, width)
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    return functional.resize(picture, size)


def _blank(height: int, width: int) -> torch.Tensor:
    colour = torch.tensor(BACKGROUND, dtype=torch.uint8)
    return colour[:, None, None].repeat(1, height, width)


def _line(
    texts: Sequence[str], size: int, step: int, width: int, colour: tuple[int, int, int]
) -> torch.Tensor:
    """Draw texts next to each other, each over its column."""
    drawn = [images.render_text(text, size, step) for text in texts]
    strip = _blank(drawn[0].shape[0], width).float()
    ink = torch.tensor(colour, dtype=torch.float32)[:, None, None]
    for column, coverage in enumerate(drawn):
        left = GUTTER + column * (step + GUTTER)
        background = strip[:, :, left : left + step]
        strip[:, :, left : left + step] = torch.lerp(background, ink, coverage)
    return strip.round().to(torch.uint8)


def write_picture(path: str | os.PathLike[str], picture: torch.Tensor) -> None:
    """Write uint8 (3, H, W) as a PNG file, whole or not at all."""
    try:
        write_whole(Path(path).expanduser(), images.encode_image(picture, "png"))
    except OSError as error:
        raise DestinationError(
            f"'{path}' could not be written: {error.strerror or error}; choose another path."
        ) from error
