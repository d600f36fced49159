"""What the commands print of what was left out, and of what others would see."""

from collections.abc import Iterable, Sequence

from diffaug.cli.app import err


def print_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    """Print what was skipped, and why."""
    for name, reason in skipped:
        err.print(f"skipped {name}: {reason}")


def print_differences(files: Sequence[str]) -> None:
    """Say of which files ImageFolder's own loader sees other pixels than diffaug's does."""
    from diffaug.datasets.warm import loaded_otherwise

    if differences := loaded_otherwise(files):
        kinds = ", ".join(f"{count} {kind}" for kind, count in differences.items())
        err.print(
            f"diffaug.load_image sees files otherwise than ImageFolder's own loader ({kinds}): "
            "if your training loads them with it, give --load-image"
        )
