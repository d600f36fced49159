"""Blending a fractal into an image."""

import os
from types import NoneType

import torch

from diffaug import functional, images
from diffaug.arguments import unit_range
from diffaug.backends.request import Generated
from diffaug.checked import checked
from diffaug.fractal_folder import FractalFolder
from diffaug.fractals import FractalBank
from diffaug.functional import Rounding
from diffaug.transforms.base import Finished, ImageTransform, Params

Fractals = FractalBank | FractalFolder | str | os.PathLike[str] | None


@checked
class FractalBlend(ImageTransform):
    """Blend a fractal into the image: ``(1 - alpha) image + alpha fractal``; the label stays.

    Args:
        alpha: weight of the fractal in [0, 1], or a range ``(low, high)`` to draw it from.
        fractals: a :class:`FractalBank`, a folder of images, or None for 256 rendered ones.
        p: probability in [0, 1] that an image is changed.

    Shape:
        A PIL image, or ``(..., C, H, W)`` with 1 or 3 channels, uint8 or float in [0, 1]; the same
        comes out. The fractal is stretched to the image.

    Raises:
        ValueError: ``alpha`` or ``p`` outside [0, 1], or a folder without images.

    Example:
        >>> import torch
        >>> from diffaug import FractalBank, FractalBlend
        >>> blend = FractalBlend(alpha=(0.1, 0.3), fractals=FractalBank(count=2, size=32))
        >>> blend(torch.zeros(8, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([8, 3, 32, 32])

    Reference:
        Hendrycks et al., PixMix, 2022, arXiv 2112.05135, for fractals; Islam et al., DiffuseMix,
        2024, arXiv 2405.14881, for this blend.
    """

    def __init__(
        self,
        alpha: float | tuple[float, float] = 0.2,
        *,
        fractals: Fractals = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.alpha = unit_range("alpha", alpha)
        self.fractals = _bank(fractals)
        self.rounding: Rounding = "round"

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        indices = torch.randint(len(self.fractals), (n,), generator=generator).tolist()
        low, high = self.alpha
        weights = torch.rand(n, generator=generator, dtype=torch.float64) * (high - low) + low
        return [
            {"fractal": index, "alpha": weight}
            for index, weight in zip(indices, weights.tolist(), strict=True)
        ]

    def check_files(self) -> None:
        if isinstance(self.fractals, FractalFolder):
            self.fractals.check()

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> Finished:
        return Finished(self.mix(image, params), params)

    def mix(
        self, image: torch.Tensor, params: list[Params], out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Blend the drawn fractals into the images (N, 3, H, W); ``out`` may be the images."""
        weights = [drawn["alpha"] for drawn in params]
        alpha = torch.tensor(weights, dtype=torch.float32, device="cpu")
        return functional.blend(
            image, self.pick(image, params), alpha, rounding=self.rounding, out=out
        )

    def pick(self, image: torch.Tensor, params: list[Params]) -> torch.Tensor:
        """Return the drawn fractals in the size, dtype and device of the images."""
        fractals = self.fractals.batch([drawn["fractal"] for drawn in params])
        size = (image.shape[-2], image.shape[-1])
        return images.to_dtype(functional.resize(fractals, size), like=image)

    def describe(self, params: Params) -> Params:
        return {"fractal": self.fractals.name(params["fractal"]), "alpha": params["alpha"]}


def _bank(fractals: Fractals) -> FractalBank | FractalFolder:
    if isinstance(fractals, (str, os.PathLike)):
        return FractalFolder(fractals)
    if not isinstance(fractals, (FractalBank, FractalFolder, NoneType)):
        raise TypeError(
            f"'fractals' must be a FractalBank, a folder or None, got {type(fractals).__name__}."
        )
    return fractals or FractalBank()
