"""What people compose: image transforms that draw once, ask a backend, and finish.

Every transform works in the ``Compose`` of torchvision's ``transforms.v2`` and ``transforms``: on
PIL images of any mode, on uint8 and float tensors, and on ``tv_tensors.Image``, one image or a
batch ``(..., C, H, W)``, within any nesting of tuples, lists and dicts. What comes out has the
size, type, dtype and device of what went in; labels, boxes and masks pass through untouched.
"""

import os
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any

import torch

from diffaug import functional, images
from diffaug.arguments import texts, unit_range, whole
from diffaug.backends import presets
from diffaug.backends.base import is_backend
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.fractals import FractalBank, FractalFolder
from diffaug.functional import Rounding
from diffaug.seeds import MAX_SEED, derive_seed
from diffaug.transforms.base import BackendLike, ImageTransform, Params, fit, take
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS, fill

Fractals = FractalBank | FractalFolder | str | os.PathLike[str] | None


class PromptEdit(ImageTransform):
    """Edit the image by an instruction drawn from a list; the label stays.

    Args:
        prompts: instructions or styles, at least one; the nine of DiffuseMix by default.
        template: a sentence with ``{prompt}`` in it that the model is told; None tells it the bare
            prompt.
        p: probability in [0, 1] that an image is edited.
        variants: how many different edits there are of one image and one prompt, >= 1, so that
            later epochs find them in the cache; None makes a fresh one each time, uncached.
        backend: name of a preset, model id, local folder, :class:`ModelSpec` or a backend.
            ``"tiny"`` comes with the package and runs on a CPU.
        cache: keep generated images on disk.
        seed: salts every image's seed, which follows from its content and the variant.

    Shape:
        A PIL image, or ``(..., C, H, W)`` with 1 or 3 channels, uint8 or float in [0, 1]; the same
        comes out.

    Raises:
        ValueError: an argument or an image is outside its range.
        DiffaugError: on first use, if the model cannot be loaded or run.

    Example:
        >>> import torch
        >>> from diffaug import PromptEdit, RecordingBackend
        >>> backend = RecordingBackend()
        >>> edit = PromptEdit(["snowy"], template="make it {prompt}", backend=backend)
        >>> edit(torch.rand(3, 48, 32)).shape, backend.requests[0].prompt
        (torch.Size([3, 48, 32]), 'make it snowy')

    Reference:
        Brooks et al., InstructPix2Pix, 2023, arXiv 2211.09800; prompts of Islam et al., DiffuseMix,
        2024, arXiv 2405.14881.
    """

    def __init__(
        self,
        prompts: Sequence[str] = DIFFUSEMIX_PROMPTS,
        *,
        template: str | None = None,
        p: float = 1.0,
        variants: int | None = 1,
        backend: BackendLike = "instruct-pix2pix",
        cache: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(p)
        self.prompts = texts("prompts", prompts)
        self.template = "{prompt}" if template is None else template
        if "{prompt}" not in self.template:
            raise ValueError(f"'template' must contain '{{prompt}}', got {template!r}.")
        self.variants = None if variants is None else whole("variants", variants, 1)
        self.backend = backend if is_backend(backend) else presets.resolve(backend)
        if isinstance(self.backend, ModelSpec) and self.backend.task != "edit":
            raise ValueError(
                f"'backend' must be a model for the task edit, got {self.backend.model!r} "
                f"for {self.backend.task}; 'tiny' and 'instruct-pix2pix' are such models."
            )
        self.cache = cache and variants is not None
        self.seed = whole("seed", seed, 0)

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        prompts = torch.randint(len(self.prompts), (n,), generator=generator).tolist()
        variants = torch.randint(self.variants or MAX_SEED, (n,), generator=generator).tolist()
        return [
            {"prompt": self.prompts[prompt], "variant": variant}
            for prompt, variant in zip(prompts, variants, strict=True)
        ]

    def choices(self, image: torch.Tensor, label: Any) -> Iterator[Params]:
        if self.variants is None:
            raise ValueError("'variants' must be a number: with None, each edit is a new one.")
        for prompt in self.prompts:
            for variant in range(self.variants):
                yield {"prompt": prompt, "variant": variant}

    def requests(self, image: torch.Tensor, params: list[Params]) -> list[GenerationRequest]:
        return [
            GenerationRequest(
                prompt=fill(self.template, drawn["prompt"]),
                seed=derive_seed(source, self.seed, drawn["variant"]),
                image=source,
            )
            for source, drawn in zip(self.shrink(image), params, strict=True)
        ]

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> torch.Tensor:
        return fit(image, generated)


class HalfConcat(ImageTransform):
    """Join half of the image with the complementary half of its transformed self; the label stays.

    Args:
        transform: what the other half has been through: :class:`PromptEdit` by default, or any
            transform that keeps the size. It is called with the images that ``p`` picks only.
        masks: ``"paper"`` (left, right, top, bottom, hard), ``"release"`` (right, bottom, with a
            soft seam), ``"genmix"`` (four soft halves and a soft circle), or names among
            ``functional.MASKS``, drawn uniformly.
        p: probability in [0, 1] that an image is changed.

    Shape:
        A PIL image, or ``(..., C, H, W)`` with 1 or 3 channels, uint8 or float in [0, 1]; the same
        comes out.

    Raises:
        ValueError: an unknown mask, ``p`` outside [0, 1], or a transform that changes the size.

    Example:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> from diffaug import HalfConcat
        >>> HalfConcat(v2.RandomInvert(p=1), masks=["left"])(torch.zeros(3, 1, 4))[0]
        tensor([[1., 1., 0., 0.]])

    Reference:
        Islam et al., DiffuseMix, 2024, arXiv 2405.14881, section 3.
    """

    def __init__(
        self,
        transform: Any = None,
        *,
        masks: str | Sequence[str] = "paper",
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        inner = PromptEdit() if transform is None else transform
        if not callable(inner):
            raise TypeError(f"'transform' must be callable, got {type(inner).__name__}.")
        self.inner = inner if isinstance(inner, ImageTransform) else _Foreign(inner)
        if self.inner.needs_label:
            raise TypeError(
                f"'transform' must work on an image alone, and {type(inner).__name__} changes the "
                "label, too; put it into the Compose itself."
            )
        self.masks = _masks(masks)
        self.rounding: Rounding = "round"
        self.backend, self.cache = self.inner.backend, self.inner.cache

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        masks = torch.randint(len(self.masks), (n,), generator=generator).tolist()
        inner = self.inner.sample(n, generator)
        return [
            {"mask": self.masks[mask], "inner": one} for mask, one in zip(masks, inner, strict=True)
        ]

    def choices(self, image: torch.Tensor, label: Any) -> Iterator[Params]:
        for inner in self.inner.choices(image, label):
            yield {"mask": self.masks[0], "inner": inner}

    def _live(
        self, image: torch.Tensor, params: list[Params]
    ) -> tuple[list[int], torch.Tensor, list[Params]]:
        """Pick the images that the inner transform's own ``p`` does not pass over."""
        live = [i for i, drawn in enumerate(params) if drawn["inner"] is not None]
        return live, take(image, live), [params[i]["inner"] for i in live]

    def requests(self, image: torch.Tensor, params: list[Params]) -> list[GenerationRequest]:
        _, chosen, drawn = self._live(image, params)
        return self.inner.requests(chosen, drawn) if drawn else []

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> torch.Tensor:
        live, chosen, drawn = self._live(image, params)
        changed = self.inner.finish(chosen, generated, drawn) if live else chosen
        others = dict(zip(live, changed, strict=True))
        result = image.new_empty(image.shape)
        for i, one in enumerate(image):
            mask, other = params[i]["mask"], others.get(i, one)
            functional.half_concat(one, other, mask, rounding=self.rounding, out=result[i])
        return result

    def describe(self, params: Params) -> Params:
        inner = {} if params["inner"] is None else self.inner.describe(params["inner"])
        return {"mask": params["mask"], **inner}


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

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> torch.Tensor:
        return self.mix(image, params)

    def mix(
        self, image: torch.Tensor, params: list[Params], out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Blend the drawn fractals into the images (N, 3, H, W); ``out`` may be these."""
        fractals, alpha = self.pick(image, params), torch.tensor([one["alpha"] for one in params])
        return functional.blend(image, fractals, alpha, rounding=self.rounding, out=out)

    def pick(self, image: torch.Tensor, params: list[Params]) -> torch.Tensor:
        """Return the drawn fractals in the size, dtype and device of the images."""
        drawn = self.fractals.batch([one["fractal"] for one in params])
        size = (image.shape[-2], image.shape[-1])
        return images.to_dtype(functional.resize(drawn, size), like=image)

    def describe(self, params: Params) -> Params:
        return {"fractal": self.fractals.name(params["fractal"]), "alpha": params["alpha"]}


class _Foreign(ImageTransform):
    """Let any callable be the inner transform: what it draws from torch follows one drawn seed."""

    def __init__(self, call: Any) -> None:
        super().__init__(p=1.0)
        self.call = call

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        seeds = torch.randint(MAX_SEED, (n,), generator=generator).tolist()
        return [{"inner_seed": seed} for seed in seeds]

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> torch.Tensor:
        with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
            return torch.stack(
                [
                    self._one(source, drawn["inner_seed"])
                    for source, drawn in zip(image, params, strict=True)
                ]
            )

    def _one(self, source: torch.Tensor, seed: int) -> torch.Tensor:
        # Not torch.manual_seed, which would reseed every GPU, and only this one is restored.
        torch.default_generator.manual_seed(seed)
        if source.is_cuda:
            with torch.cuda.device(source.device):
                torch.cuda.manual_seed(seed)
        made = self.call(source)
        if _kind(made) != _kind(source):
            raise ValueError(f"'transform' must keep the image {_kind(source)}, got {_kind(made)}.")
        return made


def _kind(image: Any) -> str:
    is_tensor = isinstance(image, torch.Tensor)
    return f"{tuple(image.shape)} of {image.dtype}" if is_tensor else type(image).__name__


def _masks(masks: str | Sequence[str]) -> tuple[str, ...]:
    listed = texts("masks", masks)
    names = [name for one in listed for name in functional.MASK_SETS.get(one, (one,))]
    for name in names:
        if name not in functional.MASKS:
            raise ValueError(
                f"'masks' must be one of {', '.join(functional.MASK_SETS)}, or names among "
                f"{', '.join(functional.MASKS)}, got {name!r}."
            )
    return tuple(names)


def _bank(fractals: Fractals) -> FractalBank | FractalFolder:
    if isinstance(fractals, (str, os.PathLike)):
        return FractalFolder(fractals)
    if not isinstance(fractals, (FractalBank, FractalFolder, NoneType)):
        raise TypeError(
            f"'fractals' must be a FractalBank, a folder or None, got {type(fractals).__name__}."
        )
    return fractals or FractalBank()
