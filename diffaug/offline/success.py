"""When a run that made images has failed all the same: none of them is the model's."""

from diffaug.backends.pipeline import ENOUGH_TO_JUDGE
from diffaug.errors import GenerationError


def check_success(
    what: str, *, now: int, originals: int, generated: int | None, all_originals: int, instead: str
) -> None:
    """Raise where nothing was generated; of a part, and of a few new images, it may be chance.

    Args:
        what: what the images were made for.
        now: images that were made now.
        originals: how many of these came out blank or refused.
        generated: images of the model that are there, made now or before; None if others, which
            make the other parts, may have made some.
        all_originals: how many came out blank or refused, now or before.
        instead: what is there instead, and what to do next.

    Raises:
        GenerationError: all there is, or enough that was made now, came out blank or refused.
    """
    count = now if originals == now >= ENOUGH_TO_JUDGE else 0
    if generated == 0:
        count = all_originals
    if count:
        raise GenerationError(
            f"all {count} images that were made for {what} came out blank or refused, and {instead}"
        )
