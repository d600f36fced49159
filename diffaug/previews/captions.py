"""What a preview says of an image: its prompt, its label, how it was made, what went wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Between the facts on one line.
SEPARATOR = "   ·   "
REFUSED = "refused: the original stands in"


def label_shares(
    source: str, target: str, strength: float | None, gamma: float | None
) -> list[tuple[str, int]]:
    """Return the classes of a label with their weights in percent, the largest first.

    Args:
        source: class of the image that was translated.
        target: class that it was translated to.
        strength: how far; None for an image that keeps nothing of its source.
        gamma: of the soft label; None for a transform whose labels are hard.

    Example:
        >>> label_shares("cat", "dog", 0.7, 0.5), label_shares("cat", "cat", 0.7, 0.5)
        ([('dog', 84), ('cat', 16)], [('cat', 100)])
    """
    weight = 1.0 if strength is None or gamma is None else strength**gamma
    share = round(100 * weight)
    if source == target or share == 100:
        return [(target, 100)]
    if share == 0:
        return [(source, 100)]
    parts = sorted(((share, target), (100 - share, source)), reverse=True)
    return [(name, part) for part, name in parts]


def mixed_label(shares: Sequence[tuple[str, int]]) -> str:
    """Write a label in words, with the weights of its two classes if it has two.

    Example:
        >>> mixed_label([("dog", 84), ("cat", 16)]), mixed_label([("cat", 100)])
        ('dog .84, cat .16', 'cat')
    """
    if len(shares) == 1:
        return shares[0][0]
    return ", ".join(f"{name} .{share:02d}" for name, share in shares)


def settings_of(described: Mapping[str, Any], *names: str) -> list[str]:
    """Name what was drawn for an image, such as 'prompt snowy', of these names."""
    known = {name: described[name] for name in names if described.get(name) is not None}
    return [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in known.items()
    ]


def attempts_note(attempts: int | None) -> list[str]:
    """Say that an image was tried again; nothing if the first attempt was good."""
    return [f"made at attempt {attempts}"] if attempts is not None and attempts > 1 else []
