"""What a transform makes of some photographs of a folder, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from diffaug import images
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.errors import UnreadableImageError
from diffaug.file_warnings import naming_files, reading
from diffaug.folders import list_images
from diffaug.offline.lookalikes import refuse_lookalike
from diffaug.previews.captions import label_shares
from diffaug.seeds import derive_seed
from diffaug.transforms.base import ImageTransform

Photograph = tuple[str, torch.Tensor]


@dataclass(frozen=True)
class Staged:
    """What a transform made of one photograph.

    Args:
        name: its path in the folder.
        original: uint8 (3, H, W).
        stages: uint8 (3, H, W) by the name of the stage, the result last.
        described: what was applied, in plain values.
        prompt: what was drawn for the model, or what it was told; None if nothing was generated.
        shares: the classes of the label that it has now, with their weights in percent.
        answers: what the backend generated.
        from_text: nothing of the photograph went into what was generated.
    """

    name: str
    original: torch.Tensor
    stages: dict[str, torch.Tensor]
    described: dict[str, Any]
    prompt: str | None
    shares: list[tuple[str, int]]
    answers: list[Generated]
    from_text: bool

    @property
    def refused(self) -> bool:
        """Whether the model refused, so that the original stands in."""
        return any(answer.fallback for answer in self.answers)

    @property
    def attempts(self) -> int | None:
        """The attempt that was good; None if nothing was generated, or all was refused."""
        return None if self.refused else max((a.attempts for a in self.answers), default=None)


def read_photographs(
    folder: Path, count: int, white: int | None
) -> tuple[list[Photograph], list[tuple[str, str]]]:
    """Read photographs spread evenly over a folder, each as (3, H, W) with its path in the folder.

    Also return those that cannot be read, each with the reason.
    """
    refuse_lookalike(folder)
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
                read.append((name, images.read_image(path, white=white)))
        except UnreadableImageError as error:
            skipped.append((name, str(error)))
    if not read:
        raise UnreadableImageError(skipped[0][1])
    return read, skipped


def requests_of(
    photographs: Sequence[Photograph], transform: ImageTransform, seed: int
) -> tuple[list[dict[str, Any]], list[list[GenerationRequest]]]:
    """Draw for each photograph; return what was drawn, and what must be generated."""
    drawn = []
    for index, (name, _) in enumerate(photographs):
        generator = torch.Generator().manual_seed(derive_seed("preview", seed, name))
        drawn.append(transform.draw_copy(index, generator, class_of(name)))
    requests = [
        transform.requests(pixels[None], [params])
        for (_, pixels), params in zip(photographs, drawn, strict=True)
    ]
    return drawn, requests


def stages_of(
    photographs: Sequence[Photograph], transform: ImageTransform, seed: int
) -> list[Staged]:
    """Augment photographs, with all that they need generated at once."""
    drawn, requests = requests_of(photographs, transform, seed)
    wanted = list(chain.from_iterable(requests))
    answers = iter(transform.live_backend().generate(wanted) if wanted else [])
    staged = []
    for (name, pixels), params, asked in zip(photographs, drawn, requests, strict=True):
        generated = [next(answers) for _ in asked]
        stages = transform.stages(pixels[None], generated, [params])
        [applied] = transform.finish(pixels[None], generated, [params]).params
        described = transform.describe(applied)
        source = class_of(name)
        target, gamma = transform.label_of(applied, source), getattr(transform, "gamma", None)
        strength = described.get("strength")
        refused = any(answer.fallback for answer in generated)
        if refused:  # a strength of 0 is how a transform says that nothing was applied
            described.pop("strength", None)
        staged.append(
            Staged(
                name,
                pixels,
                {stage: batch[0] for stage, batch in stages.items()},
                described,
                described.get("prompt") or (asked[0].prompt if asked else None),
                label_shares(source, target, strength, gamma),
                generated,
                bool(asked) and all(request.image is None for request in asked),
            )
        )
    return staged


def class_of(name: str) -> str:
    """Return the class of a photograph by its path in the folder."""
    return name.split("/")[0]
