"""A fine-tuned folder from what the released code of Diff-Mix has learned."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

from diffaug.backends import checkpoints, finetuned
from diffaug.backends.hub import pin
from diffaug.backends.presets import PRESETS, name_of
from diffaug.backends.spec import ModelSpec
from diffaug.checked import checked
from diffaug.errors import ModelError
from diffaug.finetuning.settings import base_spec
from diffaug.labels.words import spelling
from diffaug.offline.destination import OutputFolder, check_outside
from diffaug.offline.identity import versions


@checked
def import_checkpoint(
    folder: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    base: str | Path | ModelSpec = "sd15",
    metaclass: str = "",
) -> tuple[str, ...]:
    """Make a fine-tuned folder of what Diff-Mix's released code has learned, to be a backend.

    Args:
        folder: it holds ``pytorch_lora_weights.safetensors`` and ``learned_embeds.safetensors``,
            which docs/released.md makes of the authors' pickle. No pickle is read.
        destination: a new folder.
        base: the model that was trained: a preset, a Hub id or a folder.
        metaclass: what all classes are, such as ``"bird"``.

    Returns:
        The names of the classes.

    Raises:
        ValueError, TypeError: the folder is not there, or the base cannot be one.
        ModelError: a file is absent, damaged, or does not say the names of the classes.
        DestinationError: the destination holds something else.

    Example:
        >>> from diffaug import import_checkpoint
        >>> import_checkpoint("no/such/folder", "birds")
        Traceback (most recent call last):
        ValueError: 'folder' must be an existing folder, got 'no/such/folder'.
    """
    from safetensors.torch import load_file, save

    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"'folder' must be an existing folder, got '{folder}'.")
    if not (root / checkpoints.EMBEDDINGS).exists():
        raise ModelError(f"'{folder}' lacks {checkpoints.EMBEDDINGS}; {checkpoints.HOW}.")
    classes = _classes(root / checkpoints.EMBEDDINGS)
    finetuned.tensor_names(root / checkpoints.LORA)
    check_outside(destination, root)
    spec = pin(base_spec(base, None, "auto"))
    named = base if isinstance(base, str) and base in PRESETS else name_of(spec.model)
    local = ("device", "batch_size", "pad", "compile", "offload")
    identity = {"imported": root.name, "metaclass": metaclass, "base": named}
    record = {
        "format": finetuned.FORMAT,
        "finished": True,
        "base": named,
        "spec": {name: value for name, value in asdict(spec).items() if name not in local},
        "subset": {"shots": None, "seed": 0, "files": []},
        "source": str(root),
        "versions": versions(),
        "identity": identity,
    }
    lora = load_file(root / checkpoints.LORA)
    if not any(name.startswith(("unet.", "text_encoder.")) for name in lora):
        # As older diffusers saved the parts of a U-Net alone.
        lora = {f"unet.{name}": weight for name, weight in lora.items()}
    out = OutputFolder(destination, identity, finetuned.RECORD)
    out.recorded()
    with out:
        out.write(finetuned.LORA, save(lora, {"format": "pt"}))
        out.write(finetuned.EMBEDDINGS, (root / checkpoints.EMBEDDINGS).read_bytes())
        for name, content in (
            (finetuned.CLASSES, {"metaclass": metaclass, "classes": classes}),
            (finetuned.RECORD, record),  # at last, for it says that the folder is whole
        ):
            text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
            out.write(name, text.encode())
    return tuple(classes)


def _classes(file: Path) -> dict[str, str]:
    """Read the token of each class, which the file of the embeddings has as its metadata."""
    from safetensors import safe_open

    tokens = finetuned.tensor_names(file)
    with safe_open(file, framework="pt") as opened:
        names = {
            token: name for token, name in (opened.metadata() or {}).items() if token in tokens
        }
    if missing := [token for token in tokens if token not in names]:
        raise ModelError(
            f"'{file}' does not say which class {missing[0]} is; make it as docs/released.md does."
        )
    ordered = sorted(tokens, key=lambda token: [int(n) for n in re.findall(r"\d+", token)])
    classes = {names[token]: token for token in ordered}
    if len({spelling(name) for name in classes}) < len(tokens):
        raise ModelError(
            f"'{file}' gives one name to two classes; make it as docs/released.md does."
        )
    return classes
