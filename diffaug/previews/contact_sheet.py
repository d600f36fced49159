"""A contact sheet: what a transform makes of some images, in a picture."""

from collections.abc import Sequence

from diffaug.previews.captions import REFUSED, SEPARATOR, attempts_note, mixed_label, settings_of
from diffaug.previews.drawing import SheetRow
from diffaug.previews.stages import Staged


def stage_rows(staged: Sequence[Staged], with_labels: bool) -> list[SheetRow]:
    """Make a row of each photograph: the original, the stages, and a caption under them."""
    return [
        SheetRow(_caption(photo, with_labels), {"original": photo.original, **photo.stages})
        for photo in staged
    ]


def _caption(photo: Staged, with_label: bool) -> str:
    """Say what was applied to an image, and the label that it has then if that can change."""
    described = dict(photo.described)
    if with_label:
        described["label"] = mixed_label(photo.shares)
    words = settings_of(described, "prompt", "mask", "label", "strength")
    words += [str(described["fractal"])] if described.get("fractal") else []
    words += [REFUSED] if photo.refused else attempts_note(photo.attempts)
    return SEPARATOR.join([photo.name, *words])
