"""How a model is fine-tuned, which model can be, and at which precision."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffaug import arguments
from diffaug.backends import finetuned
from diffaug.backends.model_files import read_index
from diffaug.backends.presets import HUB_ID, PRESETS, name_of, resolve
from diffaug.backends.spec import ModelSpec

PRECISIONS = ("auto", "no", "fp16", "bf16")


@dataclass(frozen=True)
class Settings:
    """How to train, checked; ``finetune`` explains each.

    Raises:
        ValueError, TypeError: a value is outside its range.
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

    def __post_init__(self) -> None:
        arguments.whole("seed", self.seed, 0)
        for name in ("steps", "rank", "batch_size", "gradient_accumulation"):
            arguments.whole(name, getattr(self, name), 1)
        for name in ("learning_rate", "embedding_learning_rate", "min_snr_gamma"):
            value = getattr(self, name)
            if name == "min_snr_gamma" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"'{name}' must be a number, got {value!r}.")
            if not 0 < value < math.inf:
                raise ValueError(f"'{name}' must be above 0 and finite, got {value}.")
        if self.mixed_precision not in PRECISIONS:
            raise ValueError(
                f"'mixed_precision' must be one of {', '.join(PRECISIONS)}, "
                f"got {self.mixed_precision!r}."
            )

    def identity(self) -> dict[str, Any]:
        """Return what makes a run this one; more steps may follow, and memory may be saved."""
        others = ("steps", "gradient_accumulation", "gradient_checkpointing")
        return {name: value for name, value in asdict(self).items() if name not in others}


def base_spec(base: str | Path | ModelSpec, size: int | None, device: str) -> ModelSpec:
    """Return the spec of a model that can be fine-tuned, as far as can be told before loading."""
    if isinstance(base, (str, Path)) and finetuned.is_learned(Path(base).expanduser()):
        raise ValueError(
            f"'base' must be a model, and '{base}' is fine-tuned already; give what it was made of."
        )
    try:
        spec = resolve(base)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("'backend'", "'base'", 1)) from error
    is_id = isinstance(base, str) and base not in PRESETS and HUB_ID.fullmatch(base)
    if is_id and not Path(spec.model).is_dir():
        spec = replace(spec, task="translate")
    if spec.task == "edit":
        raise ValueError(
            f"'base' must translate or generate images, and '{name_of(spec.model)}' edits them; "
            "try 'sd15'."
        )
    folder = Path(spec.model).expanduser()
    if folder.is_dir():
        check_parts(folder, spec.model)
    return replace(spec, device=device, size=spec.size if size is None else size)


def check_parts(folder: Path, model: str) -> None:
    """Refuse a model that is not built like Stable Diffusion, by its ``model_index.json``."""
    index = read_index(folder)
    kinds = {part: kind[1] for part, kind in index.items() if isinstance(kind, list)}
    for part, wanted in {
        **{"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"},
        **{"vae": "AutoencoderKL", "text_encoder_2": None},
    }.items():
        if kinds.get(part) != wanted:
            raise ValueError(
                f"'base' must be like Stable Diffusion, with a U-Net and one CLIP text encoder; "
                f"the {part} of '{model}' is {kinds.get(part) or 'absent'}; try 'sd15'."
            )


def choose_precision(asked: str, device: torch.device) -> str:
    """Turn ``"auto"`` into what a device is good at.

    Raises:
        ValueError: the device cannot do what was asked for.
    """
    if asked == "fp16" and device.type == "cpu":
        raise ValueError("'mixed_precision' must be 'no' or 'bf16' on a CPU, got 'fp16'.")
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
