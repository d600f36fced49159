"""What the released code of Diff-Mix has learned, by the names of its files; it is no model."""

from pathlib import Path

from diffaug.errors import ModelError

LORA = "pytorch_lora_weights.safetensors"
PICKLE = "learned_embeds-steps-last.bin"
#: What the pickle becomes; docs/released.md says how.
EMBEDDINGS = "learned_embeds.safetensors"
HOW = f"turn {PICKLE}, a pickle, into {EMBEDDINGS} as docs/released.md says"


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds what the released code has learned, pickled or converted."""
    learned = (folder / LORA).exists() and any(folder.glob("learned_embeds*"))
    model = (folder / "model_index.json").exists()
    return not model and (learned or (folder / PICKLE).exists())


def refuse_checkpoint(folder: Path) -> None:
    """Refuse a folder that holds learned parts and no model, and say how to use it.

    Raises:
        ModelError: it is such a folder.
    """
    if is_checkpoint(folder):
        first = "" if (folder / EMBEDDINGS).exists() else f"{HOW}, then "
        raise ModelError(
            f"'{folder}' holds what the released code of Diff-Mix has learned, and no model; "
            f"{first}run 'diffaug import {folder} DESTINATION --base sd15', and give DESTINATION "
            "as the backend."
        )
    if (folder / LORA).exists() and not (folder / "model_index.json").exists():
        raise ModelError(
            f"'{folder}' holds a LoRA, and no model; give it as an adapter of its base: "
            f"replace(resolve('sd15'), adapters=('{folder}',))."
        )
