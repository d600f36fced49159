"""What is asked of a model, and what comes back."""

from dataclasses import dataclass
from numbers import Integral, Real

import torch

from diffaug.arguments import shown
from diffaug.backends.spec import FORMAT_VERSION
from diffaug.seeds import MAX_SEED, digest


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """Ask for one image. Equal requests give equal images.

    Args:
        prompt: what the model is to show or to change.
        seed: in [0, 2**53); with the other fields it determines the image.
        image: the source, uint8 ``(3, H, W)``, not larger than the model works at; None for
            text-to-image.
        negative_prompt: what the model is to avoid.
        strength: how much of the source is replaced by noise, in [0, 1]; None for an edit.

    Raises:
        ValueError, TypeError: a field is outside its range; the message names it.
    """

    prompt: str
    seed: int
    image: torch.Tensor | None = None
    negative_prompt: str = ""
    strength: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"'prompt' must be a string, got {type(self.prompt).__name__}.")
        if not isinstance(self.negative_prompt, str):
            raise TypeError(
                f"'negative_prompt' must be a string, got {type(self.negative_prompt).__name__}."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise TypeError(f"'seed' must be an integer, got {type(self.seed).__name__}.")
        object.__setattr__(self, "seed", int(self.seed))  # numpy's has another key, or none
        if not 0 <= self.seed < MAX_SEED:
            raise ValueError(f"'seed' must be in [0, 2**53), got {self.seed}.")
        if self.strength is not None:
            if isinstance(self.strength, bool) or not isinstance(self.strength, Real):
                raise TypeError(f"'strength' must be a number, got {shown(self.strength)}.")
            if not isinstance(self.strength, int):
                object.__setattr__(self, "strength", float(self.strength))
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ValueError(f"'strength' must be in [0, 1], got {self.strength}.")
        if self.image is not None:
            check_rgb(self.image, "image")

    def key(self, fingerprint: str) -> str:
        """Hash every field, the pixels, and the model's fingerprint to 64 hexadecimal digits."""
        return digest(
            [
                FORMAT_VERSION,
                fingerprint,
                self.prompt,
                self.negative_prompt,
                self.strength,
                self.seed,
                self.image,
            ]
        ).hex()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationRequest):
            return NotImplemented
        return self.key("") == other.key("")

    def __hash__(self) -> int:
        return hash(self.key(""))


def check_rgb(image: torch.Tensor, name: str) -> None:
    """Raise unless ``image`` is a uint8 tensor of shape (3, H, W)."""
    if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8:
        kind = image.dtype if isinstance(image, torch.Tensor) else type(image).__name__
        raise TypeError(f"'{name}' must be a uint8 tensor, got {kind}.")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"'{name}' must have shape (3, H, W), got {tuple(image.shape)}.")


@dataclass(frozen=True, eq=False)
class Generated:
    """One generated image and how it came about.

    Args:
        image: uint8 ``(3, H, W)``, at the model's working size.
        seed: the seed that really made it: the request's, or a later one after a blank output.
        attempts: how many images were made for it, >= 1.
        fallback: True if every attempt was blank or refused and ``image`` is the source.
    """

    image: torch.Tensor
    seed: int
    attempts: int = 1
    fallback: bool = False
