"""Labels: what they are, where a sample keeps them, how they are mixed and collated."""

from diffaug.labels.kornia import from_kornia, to_kornia

__all__ = ["from_kornia", "to_kornia"]
