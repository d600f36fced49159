"""Images into a pipeline and out of it in as few passes over their pixels as there can be.

Diffusers also checks, copies and resizes images that are right already. Around a model for few
steps, that takes as long as a step. The arithmetic is the same, so are the pixels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

#: Prompts of which it is remembered how diffusers reads them.
_MOST_PROMPTS = 10_000


def use_few_passes(pipe: Any) -> None:
    """Let a loaded pipeline with a U-Net take and give images, and read prompts, without detours.

    It must be called with images of whole blocks of its autoencoder, in [0, 1], which are its own:
    they are overwritten.
    """
    processor: Any = getattr(pipe, "image_processor", None)
    if type(processor).__name__ == "VaeImageProcessor" and processor.config.do_normalize:
        processor.preprocess = _preprocess(processor.preprocess)
        processor.postprocess = _postprocess(processor.postprocess)
    if hasattr(pipe, "unet") and hasattr(pipe, "_maybe_convert_prompt"):
        # It looks for words of several vectors: which a tokenizer knows is settled by now.
        convert = functools.lru_cache(_MOST_PROMPTS)(pipe._maybe_convert_prompt)
        pipe._maybe_convert_prompt = convert


def _preprocess(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(preprocess)
    def scale(image: Any, *arguments: Any, **settings: Any) -> Any:
        plain = isinstance(image, torch.Tensor) and image.dtype == torch.float32
        if not plain or image.shape[1] != 3 or arguments or settings:
            return preprocess(image, *arguments, **settings)
        return image.mul_(2.0).sub_(1.0)

    return scale


def _postprocess(postprocess: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(postprocess)
    def scale(
        image: torch.Tensor, output_type: str = "pil", do_denormalize: Sequence[bool] | None = None
    ) -> Any:
        if output_type != "pt" or not all(do_denormalize or ()):
            return postprocess(image, output_type, do_denormalize)
        return image.mul_(0.5).add_(0.5).clamp_(0, 1)

    return scale
