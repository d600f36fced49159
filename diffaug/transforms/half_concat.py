"""Joining half of an image with the other half of its transformed self."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from diffaug import functional
from diffaug.arguments import same_name, texts
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.checked import checked
from diffaug.functional import Rounding
from diffaug.seeds import MAX_SEED
from diffaug.transforms.base import Finished, ImageTransform, Params, take
from diffaug.transforms.prompt_edit import PromptEdit


@checked
class HalfConcat(ImageTransform):
    """Join half of the image with the complementary half of its transformed self; the label stays.

    Args:
        transform: what changes the other half: :class:`PromptEdit` by default, or any transform
            that keeps the size. It is called only with the images that ``p`` picks.
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

    def _settings(self) -> dict[str, Any]:
        return {**vars(self), "transform": self.inner}

    def all_prompts(self) -> tuple[str, ...]:
        return self.inner.all_prompts()

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        masks = torch.randint(len(self.masks), (n,), generator=generator).tolist()
        inner = self.inner.sample(n, generator)
        return [
            {"mask": self.masks[mask], "inner": params}
            for mask, params in zip(masks, inner, strict=True)
        ]

    def choices(self, image: torch.Tensor, label: Any) -> Iterator[Params]:
        for inner in self.inner.choices(image, label):
            yield {"mask": self.masks[0], "inner": inner}

    def _live(
        self, image: torch.Tensor, params: list[Params]
    ) -> tuple[list[int], torch.Tensor, list[Params]]:
        """Pick the images that the inner transform changes, as its own ``p`` says."""
        live = [index for index, drawn in enumerate(params) if drawn["inner"] is not None]
        return live, take(image, live), [params[index]["inner"] for index in live]

    def requests(self, image: torch.Tensor, params: list[Params]) -> list[GenerationRequest]:
        _, chosen, drawn = self._live(image, params)
        return self.inner.requests(chosen, drawn) if drawn else []

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> Finished:
        live, chosen, drawn = self._live(image, params)
        changed = self.inner.finish(chosen, generated, drawn) if live else Finished(chosen, [])
        others = dict(zip(live, changed.images, strict=True))
        inner = dict(zip(live, changed.params, strict=True))
        result = image.new_empty(image.shape)
        for index, source in enumerate(image):
            mask, other = params[index]["mask"], others.get(index, source)
            functional.half_concat(source, other, mask, rounding=self.rounding, out=result[index])
        return Finished(
            result, [{**drawn, "inner": inner.get(index)} for index, drawn in enumerate(params)]
        )

    def describe(self, params: Params) -> Params:
        inner = {} if params["inner"] is None else self.inner.describe(params["inner"])
        return {"mask": params["mask"], **inner}


class _Foreign(ImageTransform):
    """Make any callable an inner transform; what it draws from torch follows one drawn seed."""

    def __init__(self, call: Any) -> None:
        super().__init__(p=1.0)
        self.call = call

    def __repr__(self) -> str:
        return repr(self.call)

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        seeds = torch.randint(MAX_SEED, (n,), generator=generator).tolist()
        return [{"inner_seed": seed} for seed in seeds]

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> Finished:
        with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
            results = [
                self._call_seeded(source, drawn["inner_seed"])
                for source, drawn in zip(image, params, strict=True)
            ]
        return Finished(torch.stack(results), params)

    def _call_seeded(self, source: torch.Tensor, seed: int) -> torch.Tensor:
        # Not torch.manual_seed, which would reseed every GPU, and only this one is restored.
        torch.default_generator.manual_seed(seed)
        if source.is_cuda:
            with torch.cuda.device(source.device):
                torch.cuda.manual_seed(seed)
        result = self.call(source)
        if _kind(result) != _kind(source):
            raise ValueError(
                f"'transform' must keep the image {_kind(source)}, got {_kind(result)}."
            )
        return result


def _kind(image: Any) -> str:
    is_tensor = isinstance(image, torch.Tensor)
    return f"{tuple(image.shape)} of {image.dtype}" if is_tensor else type(image).__name__


def _masks(masks: str | Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    for given in texts("masks", masks):
        named = same_name(given, [*functional.MASK_SETS, *functional.MASKS])
        if named is None:
            raise ValueError(
                f"'masks' must be one of {', '.join(functional.MASK_SETS)}, or names among "
                f"{', '.join(functional.MASKS)}, got {given!r}."
            )
        names += functional.MASK_SETS.get(named, (named,))
    return tuple(names)
