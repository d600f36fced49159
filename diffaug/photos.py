"""The photographs that come with the package."""

from pathlib import Path


def sample_photos() -> Path:
    """Return the folder of the photographs that come with the package, one folder for each class.

    There are six small ones of three classes, for a first try and for examples. Anyone may use them
    for anything; ``CREDITS.md`` beside the folder says who took them. Do not write into the folder.

    Example:
        >>> from diffaug import sample_photos
        >>> sorted(path.name for path in sample_photos().iterdir())
        ['animal', 'space', 'travel']
        >>> from torchvision.datasets import ImageFolder
        >>> len(ImageFolder(sample_photos()))
        6
    """
    return Path(__file__).parent / "assets" / "samples" / "photos"
