"""Encode each prompt and each source once, and keep what the encoders gave."""

import functools
from collections.abc import Callable
from typing import Any

import torch

#: Bytes that are kept of one text encoder: a few hundred prompts of Stable Diffusion.
KEPT_BYTES = 64 * 2**20


def keep_encodings(pipe: Any) -> None:
    """Let a loaded pipeline with a U-Net encode each prompt once, and copies of a source, too."""
    if not hasattr(pipe, "unet"):
        return
    autoencoder: Any = getattr(pipe, "vae", None)
    if hasattr(autoencoder, "_encode"):
        autoencoder._encode = _with_the_last(autoencoder._encode)
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, name, None)
        if encoder is not None:
            encoder.forward = _with_memory(encoder.forward)


def _with_the_last(encode: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the output for the last image that was encoded alone.

    The copies of a source follow each other. Images are encoded alone by autoencoders that take
    slices, and by pipelines that translate; others encode a whole batch, of which no row may be
    left out, since its pixels would differ in their last bits. Translating pipelines are left to
    it: together, eight images take longer on a CPU, and on a GPU each is a recorded call.
    """
    last: tuple[torch.Tensor, Any] | None = None

    @functools.wraps(encode)
    def encode_once(image: torch.Tensor) -> Any:
        nonlocal last
        if len(image) != 1:
            return encode(image)
        if last is not None and _same(last[0], image):
            return last[1]
        output = encode(image)
        last = image.clone(), output  # the image is a part of a batch, which is freed
        return output

    return encode_once


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _with_memory(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Keep rows of the output, by the tokens of the prompt and the number of prompts in the batch.

    For one size of batch, a row is the same bit for bit, whatever the other rows are.
    """
    rows: dict[Any, dict[str, Any]] = {}
    free_bytes = KEPT_BYTES

    @functools.wraps(forward)
    def encode(tokens: torch.Tensor, **settings: Any) -> Any:
        nonlocal free_bytes
        if any(isinstance(value, torch.Tensor) for value in settings.values()):
            return forward(tokens, **settings)  # such as a mask, which changes the output
        batch = (len(tokens), tokens.device, *sorted(settings.items()))
        keys = [(batch, row.tobytes()) for row in tokens.cpu().numpy()]
        if all(key in rows for key in keys):
            output_class = rows[keys[0]]["class"]
            return output_class(**_stacked([rows[key]["values"] for key in keys]))
        output = forward(tokens, **settings)
        if isinstance(output, dict):  # as the outputs of transformers are
            for index, key in enumerate(keys):
                if key not in rows and free_bytes > 0:
                    values = {name: _row(value, index) for name, value in output.items()}
                    rows[key] = {"class": type(output), "values": values}
                    free_bytes -= sum(map(_bytes, values.values()))
        return output

    return encode


def _row(value: Any, index: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_row(part, index) for part in value)
    return value[index].clone()  # so that the batch itself is freed


def _stacked(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: _stack([row[name] for row in rows]) for name in rows[0]}


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(map(_stack, map(list, zip(*values, strict=True))))
    return torch.stack(values)


def _bytes(value: Any) -> int:
    return sum(map(_bytes, value)) if isinstance(value, tuple) else value.nbytes
