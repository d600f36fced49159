"""What is added to a model: LoRAs, and words with the embeddings that were learned for them."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from diffaug.backends import finetuned
from diffaug.backends.devices import is_out_of_memory
from diffaug.backends.hub import adapter_file
from diffaug.backends.revisions import weight_of
from diffaug.backends.spec import ModelSpec
from diffaug.errors import ModelError, first_line, require

#: What other programs call the vectors of an embedding; its word is the name of the file.
_NAMELESS = "emb_params"
#: Other adapters, by the names of their tensors.
_OTHER_KINDS = {
    "a LoHa": re.compile(r"\bhada_w1_[ab]$"),
    "a LoKr": re.compile(r"\blokr_w[12]"),
    "an (IA)3": re.compile(r"\.on_input$|\bia3_l$"),
    "an OFT": re.compile(r"\boft_(blocks|diag|r)\b"),
    "a GLoRA": re.compile(r"\b[ab][12]\.weight$"),
    "an IP-Adapter": re.compile(r"^(image_proj|ip_adapter)\."),
    "a ControlNet": re.compile(r"^(control_model\.|controlnet_(cond|down|mid))"),
    "a whole model in one file": re.compile(r"^model\.diffusion_model\.|^first_stage_model\."),
    "the weights of a network": re.compile(
        r"^(down_blocks|encoder|decoder)\.\d.*\d\.conv1\.weight$"
    ),
}
#: How the first of a LoRA's two matrices is called, by those who write such files.
_FIRST_HALF = re.compile(r"lora_A|lora_embedding_A|lora[._]down|lora_linear_layer\.down")


def add_adapters(pipe: Any, spec: ModelSpec) -> None:
    """Apply a spec's adapters to its pipeline: LoRAs, and learned words.

    Raises:
        ModelError: one of them does not fit, or is of a kind that cannot be used.
    """
    names: list[str] = []
    weights: list[float] = []
    for adapter in spec.adapters:
        file = adapter_file(adapter)
        try:
            parts = finetuned.tensor_names(file)
            _refuse_other_kind(parts)
            if is_embedding(parts):
                if weight_of(adapter) != 1:
                    raise ValueError("learned embeddings have no weight.")
                _add_embeddings(pipe, file)
                continue
            weights.append(weight_of(adapter))
            require("peft")
            names.append(f"adapter{len(names)}")
            pipe.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=names[-1],
                use_safetensors=True,
                local_files_only=True,
            )
            # This also fails for an adapter of which nothing fits, which loading silently ignores.
            pipe.set_adapters(names, weights)
            _check_layers(pipe, names[-1], parts, file, spec)
            if any(part.endswith("dora_scale") for part in parts):
                warnings.warn(
                    f"the adapter '{file}' is a DoRA, whose scales diffusers may leave out; a "
                    "plain LoRA is applied as it is.",
                    UserWarning,
                    stacklevel=1,
                )
        except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            # Diffusers looks up what the weights of another model have not.
            bare = isinstance(error, LookupError)
            reason = "its weights are those of another model." if bare else first_line(error)
            raise ModelError(
                f"the adapter '{file}' does not fit '{spec.model}': {reason}"
            ) from error
    if names and spec.fuse_adapters:
        _fuse(pipe, names, spec)


def _fuse(pipe: Any, names: list[str], spec: ModelSpec) -> None:
    """Add LoRAs to the weights, as strongly as they were set, and remove what ran beside them."""
    try:
        pipe.fuse_lora(
            components=_components_with_lora(pipe), adapter_names=names, safe_fusing=True
        )
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"the adapters cannot be added to the weights of '{spec.model}' "
            f"({first_line(error)}); set fuse_adapters=False."
        ) from error
    pipe.unload_lora_weights()


def _components_with_lora(pipe: Any) -> list[str]:
    return [
        name
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module) and getattr(part, "peft_config", None)
    ]


def _check_layers(pipe: Any, name: str, tensors: list[str], file: Path, spec: ModelSpec) -> None:
    """Refuse an adapter of which most layers find no place in a model; warn of any that do not."""
    layers = sum(bool(_FIRST_HALF.search(tensor)) for tensor in tensors)
    if not layers:
        raise ValueError("it has no layer of a LoRA; get it anew.")
    placed = sum(
        name in getattr(module, half, {})
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for module in part.modules()
        for half in ("lora_A", "lora_embedding_A")
    )
    if placed >= layers:
        return
    unplaced = f"{layers - placed} of its {layers} layers have no place in it"
    if 2 * placed < layers:
        raise ValueError(f"{unplaced}; choose one that was made for this model.")
    warnings.warn(
        f"the adapter '{file}' fits '{spec.model}' in part: {unplaced}.", UserWarning, stacklevel=1
    )


def is_embedding(names: list[str]) -> bool:
    """Return whether tensors of these names are words; those of a network have dots."""
    return bool(names) and not any("." in name for name in names)


def _add_embeddings(pipe: Any, file: Path) -> None:
    """Teach a pipeline words; diffusers' own loader takes one word a file and draws numbers.

    A word of several vectors becomes as many tokens, which diffusers puts into a prompt for it:
    ``<toy>`` is read as ``<toy> <toy>_1 <toy>_2``.
    """
    if hasattr(pipe, "text_encoder_2") or not hasattr(pipe, "text_encoder"):
        raise ValueError("learned embeddings need a model with one text encoder.")
    table = pipe.text_encoder.get_input_embeddings().weight
    width = table.shape[1]
    for word, rows in _rows(file).items():
        if rows.ndim not in (1, 2) or rows.shape[-1] != width or not rows.numel():
            raise ValueError(
                f"{word} is of shape {tuple(rows.shape)}, and the text encoder takes ({width},), "
                f"or (n, {width}) for a word of n vectors."
            )
        first, _, number = word.rpartition("_")
        if number.isdigit() and first in {*_rows(file), *pipe.tokenizer.get_added_vocab()}:
            raise ValueError(f"diffusers would read {word} as a part of {first}; rename one.")
    vectors = _vectors(file)
    ids = add_tokens(pipe.tokenizer, list(vectors))
    if max(ids) >= len(table):
        table = pipe.text_encoder.resize_token_embeddings(max(ids) + 1, mean_resizing=False).weight
    with torch.no_grad():
        table[ids] = torch.stack(list(vectors.values())).to(table)


def embeddings_of(adapter: str) -> dict[str, torch.Tensor]:
    """Return the tokens that an adapter teaches, with their vectors; none of a LoRA.

    Raises:
        ModelError: it is not here and cannot be fetched, or holds no safetensors file.
    """
    file = adapter_file(adapter)
    return _vectors(file) if is_embedding(finetuned.tensor_names(file)) else {}


def _rows(file: Path) -> dict[str, torch.Tensor]:
    """Read the words of a file, each with one vector or several."""
    from safetensors.torch import load_file

    rows = load_file(file)
    return {f"<{file.stem}>" if name == _NAMELESS else name: row for name, row in rows.items()}


def _vectors(file: Path) -> dict[str, torch.Tensor]:
    """Read the tokens of a file, each with its vector."""
    return {
        f"{word}_{n}" if n else word: vector
        for word, rows in _rows(file).items()
        for n, vector in enumerate(rows.reshape(-1, rows.shape[-1]))
    }


def _refuse_other_kind(tensors: list[str]) -> None:
    """Refuse an adapter that would be applied wrongly, or not at all, and say what it is."""
    for kind, pattern in _OTHER_KINDS.items():
        if any(pattern.search(tensor) for tensor in tensors):
            raise ValueError(f"it is {kind}, which diffaug cannot apply; choose a LoRA.")
    if {"clip_l", "clip_g"} & set(tensors):
        raise ValueError("it is an embedding for a model with two text encoders.")


def add_tokens(tokenizer: Any, tokens: list[str]) -> list[int]:
    """Add tokens, each read as one from now on, and return their numbers.

    Raises:
        ValueError: the tokenizer has one of them already.
    """
    known = tokenizer.get_vocab()
    for token in tokens:
        if token in known:
            raise ValueError(f"its tokenizer has a token {token} already.")
    tokenizer.add_tokens(tokens)
    return [int(number) for number in tokenizer.convert_tokens_to_ids(tokens)]
