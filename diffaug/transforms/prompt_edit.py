"""Editing an image by an instruction."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from diffaug.arguments import texts, whole
from diffaug.backends import presets
from diffaug.backends.base import is_backend
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.checked import checked
from diffaug.seeds import MAX_SEED, derive_seed
from diffaug.transforms.base import BackendLike, Finished, ImageTransform, Params, fit
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS, fill


@checked
class PromptEdit(ImageTransform):
    """Edit the image by an instruction drawn from a list; the label stays.

    Args:
        prompts: instructions or styles, at least one; the nine of DiffuseMix by default.
        template: the sentence that the model gets, with ``{prompt}`` in it; None for the prompt
            alone.
        p: probability in [0, 1] that an image is edited.
        variants: how many different edits there are of one image and one prompt, >= 1, so that
            later epochs find them in the cache; None makes a new one each time, without the cache.
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

    def all_prompts(self) -> tuple[str, ...]:
        return tuple(fill(self.template, prompt) for prompt in self.prompts)

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
    ) -> Finished:
        return Finished(fit(image, generated), params)
