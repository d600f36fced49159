"""DiffuseMix: the edit, the halves and the fractal in one transform."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from diffaug.arguments import choice
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.checked import checked
from diffaug.transforms.base import BackendLike, Finished, ImageTransform, Params, fit
from diffaug.transforms.fractal_blend import FractalBlend, Fractals
from diffaug.transforms.half_concat import HalfConcat
from diffaug.transforms.prompt_edit import PromptEdit
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS, DIFFUSEMIX_TEMPLATES


@checked
class DiffuseMix(ImageTransform):
    """Edit, join halves, blend a fractal: DiffuseMix in one transform; the label stays.

    The image is edited by a style prompt, half of it is replaced by that half of the edit, and a
    fractal is blended in. The edit is generated once and cached; prompt, mask and fractal are drawn
    afresh each time.

    Args:
        prompts: styles, at least one; the paper's nine by default. Its authors advise to begin with
            two.
        recipe: ``"paper"`` or ``"release"`` (the authors' code): sets masks, template and rounding.
            The faithful run is ``recipe="paper", backend="instruct-pix2pix-paper"``.
        alpha: weight of the fractal in [0, 1], or a range ``(low, high)`` to draw it from.
        p: probability in [0, 1] that an image is augmented; the others stay as they are.
        variants: how many different edits there are of one image and one prompt; None makes a new
            one each time, without the cache.
        masks: as in :class:`HalfConcat`; None for the recipe's.
        fractals: as in :class:`FractalBlend`.
        backend: name of a preset, model id, local folder, :class:`ModelSpec` or a backend.
            ``"tiny"`` comes with the package and runs on a CPU.
        cache: keep generated images on disk.
        seed: salts every edit's seed, which follows from the image's content and the variant.

    Shape:
        A PIL image, or ``(..., C, H, W)`` with 1 or 3 channels, uint8 or float in [0, 1]; the same
        comes out.

    Raises:
        ValueError: an argument or an image is outside its range.
        DiffaugError: on first use, if the model cannot be loaded or run.

    Example:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> from diffaug import DiffuseMix, RecordingBackend
        >>> train = v2.Compose([v2.Resize((64, 64)), DiffuseMix(p=1.0, backend=RecordingBackend())])
        >>> train(torch.rand(3, 80, 60)).shape
        torch.Size([3, 64, 64])

    Reference:
        Islam, Zaheer, Mahmood and Nandakumar, DiffuseMix, CVPR 2024, arXiv 2405.14881.
    """

    def __init__(
        self,
        prompts: Sequence[str] = DIFFUSEMIX_PROMPTS,
        *,
        recipe: str = "paper",
        alpha: float | tuple[float, float] = 0.2,
        p: float = 0.5,
        variants: int | None = 1,
        masks: str | Sequence[str] | None = None,
        fractals: Fractals = None,
        backend: BackendLike = "instruct-pix2pix",
        cache: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(p)
        self.recipe = recipe = choice("recipe", recipe, DIFFUSEMIX_TEMPLATES)
        self.edit = PromptEdit(
            prompts,
            template=DIFFUSEMIX_TEMPLATES[recipe],
            variants=variants,
            backend=backend,
            cache=cache,
            seed=seed,
        )
        self.concat = HalfConcat(self.edit, masks=recipe if masks is None else masks)
        self.blend = FractalBlend(alpha, fractals=fractals)
        if recipe == "release":
            self.copies = len(self.edit.prompts)
            self.concat.rounding = self.blend.rounding = "truncate"
        self.backend, self.cache = self.edit.backend, self.edit.cache

    def _settings(self) -> dict[str, Any]:
        return {**vars(self.blend), **vars(self.concat), **vars(self.edit), **vars(self)}

    def all_prompts(self) -> tuple[str, ...]:
        return self.edit.all_prompts()

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        halves = self.concat.draw(n, generator)
        blends = self.blend.draw(n, generator)
        return [{**half, **blend} for half, blend in zip(halves, blends, strict=True)]

    def draw_copy(self, copy: int, generator: torch.Generator, label: str | None = None) -> Params:
        drawn = super().draw_copy(copy, generator, label)
        if self.recipe == "release":  # the authors' code goes through all prompts for every image
            drawn["inner"]["prompt"] = self.edit.prompts[copy % self.copies]
        return drawn

    def choices(self, image: torch.Tensor, label: Any) -> Iterator[Params]:
        return self.concat.choices(image, label)

    def requests(self, image: torch.Tensor, params: list[Params]) -> list[GenerationRequest]:
        return self.concat.requests(image, params)

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> Finished:
        joined, applied = self.concat.finish(image, generated, params)
        return Finished(self.blend.mix(joined, params, out=joined), applied)

    def stages(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> dict[str, torch.Tensor]:
        joined = self.concat.finish(image, generated, params).images
        return {
            "edit": fit(image, generated),
            "halves joined": joined,
            "fractal": self.blend.pick(image, params),
            "result": self.blend.mix(joined, params),
        }

    def describe(self, params: Params) -> Params:
        return {**self.concat.describe(params), **self.blend.describe(params)}
