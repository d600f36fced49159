"""How a model is fine-tuned, which models can be, and at which precision."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffaug import arguments
from diffaug.backends import finetuned
from diffaug.backends.model_files import read_index
from diffaug.backends.presets import name_of, resolve
from diffaug.backends.spec import ModelSpec

PRECISIONS = ("auto", "no", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The checked settings of a run; ``finetune`` explains each of them.

    Raises:
        ValueError, TypeError: a value is outside its range, or a word looks like a learned one.
    """

    seed: int
    steps: int
    rank: int
    learning_rate: float
    embedding_learning_rate: float
    batch_size: int
    gradient_accumulation: int
    gradient_checkpointing: bool
    mixed_precision: str
    min_snr_gamma: float | None
    balanced: bool
    metaclass: str
    initial_token: str | None
    shots: int | None
    checkpoint_every: int
    sample_every: int

    def __post_init__(self) -> None:
        for name, least in {
            **{"seed": 0, "steps": 1, "rank": 1, "batch_size": 1, "gradient_accumulation": 1},
            **{"shots": 1, "checkpoint_every": 1, "sample_every": 0},
        }.items():
            if name != "shots" or self.shots is not None:
                number = arguments.whole(name, getattr(self, name), least)
                object.__setattr__(self, name, number)  # numpy's have no JSON
        for name in ("gradient_checkpointing", "balanced"):
            object.__setattr__(self, name, arguments.flag(name, getattr(self, name)))
        for name in ("learning_rate", "embedding_learning_rate", "min_snr_gamma"):
            if name != "min_snr_gamma" or self.min_snr_gamma is not None:
                _check_positive(name, getattr(self, name))
        object.__setattr__(self, "metaclass", _plain_words("metaclass", self.metaclass))
        if self.initial_token is not None:
            word = _plain_words("initial_token", self.initial_token)
            if not word:
                raise ValueError(
                    "'initial_token' must be one word, or None for the metaclass's own."
                )
            object.__setattr__(self, "initial_token", word)
        if self.mixed_precision not in PRECISIONS:
            raise ValueError(
                f"'mixed_precision' must be one of {', '.join(PRECISIONS)}, "
                f"got {self.mixed_precision!r}."
            )

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a run is resumed."""
        return self._without(
            *("steps", "gradient_accumulation", "gradient_checkpointing"),
            *("checkpoint_every", "sample_every"),
        )

    def recorded(self) -> dict[str, Any]:
        """Return what the record of the run says under ``settings``."""
        return self._without("shots", "checkpoint_every", "sample_every")

    def _without(self, *names: str) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in names}


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"'{name}' must be a number, got {value!r}.")
    if not 0 < value < math.inf:
        raise ValueError(f"'{name}' must be above 0 and finite, got {value}.")


def _plain_words(name: str, value: Any) -> str:
    """Return a text with single spaces."""
    if not isinstance(value, str):
        raise TypeError(f"'{name}' must be a string, got {value!r}.")
    if "<" in value or ">" in value:
        raise ValueError(f"'{name}' must be plain words without < and >, got {value!r}.")
    return " ".join(value.split())


def base_spec(base: str | Path | ModelSpec, size: int | None, device: str) -> ModelSpec:
    """Return the spec of a base model, refused if its small files show that it cannot be trained.

    Raises:
        ValueError, TypeError: it is no model, fine-tuned already, or not like Stable Diffusion.
    """
    if isinstance(base, (str, Path)) and finetuned.is_learned(Path(base).expanduser()):
        raise ValueError(
            f"'base' must be a model, and '{base}' is fine-tuned already; give the base of that."
        )
    try:
        spec = resolve(base, "translate")
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("'backend'", "'base'", 1)) from error
    if spec.task == "edit":
        raise ValueError(
            f"'base' must translate or generate images, and '{name_of(spec.model)}' edits them; "
            "try 'sd15'."
        )
    folder = Path(spec.model).expanduser()
    if folder.is_dir():
        check_parts(folder, spec.model)
    return replace(spec, device=device, size=spec.size if size is None else size)


def without_adapters(spec: ModelSpec) -> ModelSpec:
    """Return a base without its own adapters, and with its own scheduler if it had any."""
    if not spec.adapters:
        return spec
    return replace(spec, adapters=(), scheduler=None, steps=25, guidance_scale=7.5)


def check_parts(folder: Path, model: str) -> None:
    """Check in its ``model_index.json`` that a model is built like Stable Diffusion.

    Raises:
        ValueError: it is not.
    """
    index = read_index(folder)
    classes = {part: names[1] for part, names in index.items() if isinstance(names, list)}
    for part, expected in {
        **{"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"},
        **{"vae": "AutoencoderKL", "text_encoder_2": None},
    }.items():
        if classes.get(part) != expected:
            raise ValueError(
                f"'base' must be like Stable Diffusion, with a U-Net and one CLIP text encoder; "
                f"the {part} of '{model}' is {classes.get(part) or 'absent'}; try 'sd15'."
            )


def choose_precision(mixed_precision: str, device: torch.device) -> str:
    """Turn ``"auto"`` into what a device is good at.

    Raises:
        ValueError: the device cannot do what was asked for.
    """
    if mixed_precision == "fp16" and device.type == "cpu":
        raise ValueError("'mixed_precision' must be 'no' or 'bf16' on a CPU, got 'fp16'.")
    if mixed_precision != "auto":
        return mixed_precision
    if device.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
