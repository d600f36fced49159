"""A contact sheet: what a transform makes of some images, or some images of a finished set."""

import os
from itertools import chain
from pathlib import Path

import torch

from diffaug import images
from diffaug.errors import UnreadableImageError
from diffaug.file_warnings import naming_files, reading
from diffaug.folders import list_images
from diffaug.offline.lookalikes import refuse_lookalike
from diffaug.offline.manifest import is_set
from diffaug.previews.captions import (
    REFUSED,
    SEPARATOR,
    attempts_note,
    mixed_label,
    settings_of,
)
from diffaug.previews.drawing import SheetRow, contact_sheet, write_picture
from diffaug.previews.finished_set import FinishedSet, sheet_rows
from diffaug.seeds import derive_seed
from diffaug.switches import own_defaults
from diffaug.transforms.base import ImageTransform, Params


@own_defaults()
def preview(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    transform: ImageTransform | None = None,
    *,
    count: int = 6,
    seed: int = 0,
    tile: int = 256,
    white: int | None = None,
) -> list[tuple[str, str]]:
    """Write a contact sheet: what each stage of a transform makes of images, or a set's images.

    Of a generated set, finished or not, it shows each image beside its source, and what the
    manifest says of it: prompt, label, strength, seed, and whether it was refused, tried again or
    dropped by a filter. No model is loaded.

    Args:
        source: a folder of images, or a generated set; those that are shown are spread evenly over
            it, and over the classes of a set.
        path: the PNG to write, whole or not at all.
        transform: the augmentation; its ``p`` is ignored, so every image is augmented. None for a
            generated set.
        count: how many images to show, each in a row.
        seed: the same seed and settings draw the same sheet; another one shows other images of a
            set.
        tile: side in pixels of the box that each picture is fitted into.
        white: the value that is white in files of 16 bits; None for a set, which knows it.

    Returns:
        The images that could not be read, each with the reason.

    Raises:
        ValueError: the folder does not exist or holds no image, or an argument is outside its
            range, or there is a transform for a set, or none for other images.
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
    folder = Path(source).expanduser()
    if is_set(folder):
        if transform is not None:
            raise ValueError(
                f"'transform' must be None for a generated set, and '{source}' is one, which is "
                f"shown as it is, got {type(transform).__name__}; to see what a transform does, "
                "give the folder of photographs."
            )
        if white is not None:
            raise ValueError(
                f"'white' must be None for a generated set, got {white}; it is recorded."
            )
        finished = FinishedSet(folder)
        rows, skipped = sheet_rows(folder, finished.choose(count, seed))
        write_picture(path, contact_sheet(rows, tile, finished.title))
        return skipped
    refuse_lookalike(folder)
    if transform is None:
        raise ValueError(
            f"'transform' must be given for a folder of photographs, and '{source}' is no "
            "generated set; give a transform such as DiffuseMix()."
        )
    read, skipped = _read(folder, count, white)
    write_picture(path, contact_sheet(_stages(read, transform, seed), tile))
    return skipped


def _stages(
    read: list[tuple[str, torch.Tensor]], transform: ImageTransform, seed: int
) -> list[SheetRow]:
    """Augment images, with all that they need generated at once, and caption each row."""
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
        pictures: dict[str, torch.Tensor | str] = {"original": pixels[0]}
        pictures.update({stage: batch[0] for stage, batch in stages.items()})
        [applied] = transform.finish(pixels, generated, [params]).params
        notes = [REFUSED] if any(answer.fallback for answer in generated) else []
        if not notes:
            notes = attempts_note(max((answer.attempts for answer in generated), default=None))
        caption = _caption(name, transform, applied, notes)
        rows.append(SheetRow(caption, pictures))
    return rows


def _caption(name: str, transform: ImageTransform, applied: Params, notes: list[str]) -> str:
    """Say what was applied to an image, and the label that it has then if that can change."""
    described = transform.describe(applied)
    source = name.split("/")[0]
    if transform.needs_label:
        target, gamma = transform.label_of(applied, source), getattr(transform, "gamma", None)
        described["label"] = mixed_label(source, target, described.get("strength"), gamma)
    if notes == [REFUSED]:  # a strength of 0 is how a transform says that nothing was applied
        described.pop("strength", None)
    words = settings_of(described, "prompt", "mask", "label", "strength")
    words += [str(described["fractal"])] if described.get("fractal") else []
    return SEPARATOR.join([name, *words, *notes])


def _read(
    folder: Path, count: int, white: int | None
) -> tuple[list[tuple[str, torch.Tensor]], list[tuple[str, str]]]:
    """Read images spread evenly over a folder, each as (1, 3, H, W) with its path in the folder."""
    if not folder.is_dir():
        raise ValueError(f"'source' must be an existing folder, got '{folder}'.")
    paths = list_images(folder)
    if not paths:
        raise ValueError(f"'source' must hold images, and '{folder}' has none.")
    count = min(count, len(paths))
    read, skipped = [], []
    for path in (paths[i * len(paths) // count] for i in range(count)):
        name = path.relative_to(folder).as_posix()
        try:
            with naming_files(), reading(path):
                read.append((name, images.read_image(path, white=white)[None]))
        except UnreadableImageError as error:
            skipped.append((name, str(error)))
    if not read:
        raise UnreadableImageError(skipped[0][1])
    return read, skipped
