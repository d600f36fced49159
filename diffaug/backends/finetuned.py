"""What a fine-tuned folder holds; ``finetune`` writes it.

::

    adapters/pytorch_lora_weights.safetensors   what the U-Net learned
    embeddings.safetensors                      the token embeddings: '<class_0>' -> (hidden,)
    classes.json                                the metaclass, and each class's token
    finetune.json                               the base model, the settings, the training images
"""

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from diffaug.backends.model_files import read_json
from diffaug.backends.spec import ModelSpec
from diffaug.errors import ModelError, one_line
from diffaug.labels.words import spelling
from diffaug.untrusted import check_regular

LORA = "adapters/pytorch_lora_weights.safetensors"
EMBEDDINGS = "embeddings.safetensors"
CLASSES = "classes.json"
RECORD = "finetune.json"
#: Raise it when an older diffaug could not use the folder.
FORMAT = 1

LearnedParts = Literal["all", "embeddings", "none"]


@dataclass(frozen=True)
class Learned:
    """What the small files of a fine-tuned folder say.

    Args:
        folder: where it is now.
        base: the model it was trained on, as the user named it: a preset, a Hub id or a folder.
        revision: of the base; the learned parts fit this revision alone.
        metaclass: what all classes are, such as ``"bird"``; may be empty.
        tokens: the token of each class, in class order.
        shots: training images of each class; None for all.
        seed: of the training, and of the choice of images.
        files: the training images, as paths below the source.
        spec: the base, and how to run it.
    """

    folder: Path
    base: str
    revision: str | None
    metaclass: str
    tokens: dict[str, str]
    shots: int | None
    seed: int
    files: tuple[str, ...]
    spec: ModelSpec

    def token(self, name: str) -> str:
        """Return the token of a class; spaces and underscores in its name are the same.

        Raises:
            ValueError: no such class was learned; the message says which names are similar.
        """
        if name in self.tokens:
            return self.tokens[name]
        names = {spelling(known): known for known in self.tokens}
        if spelling(name) in names:
            return self.tokens[names[spelling(name)]]
        close = [names[key] for key in difflib.get_close_matches(spelling(name), names, n=3)]
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        raise ValueError(
            f"'{self.folder}' must have learned every class, and {name!r} is not among its "
            f"{len(self.tokens)} classes{hint}"
        )

    def prompt(self, name: str) -> str:
        """Return the sentence that a class was trained with."""
        return class_prompt(self.token(name), self.metaclass)


def class_prompt(subject: str, metaclass: str = "") -> str:
    """Put a token or a name, and a metaclass, into the prompt of Diff-Mix.

    Example:
        >>> class_prompt("<class_0>", "bird"), class_prompt("<class_0>")
        ('a photo of a <class_0> bird', 'a photo of a <class_0>')
    """
    return f"a photo of a {subject} {metaclass}".rstrip()


def is_learned(folder: str | Path) -> bool:
    """Return whether a folder is a fine-tuned one, finished or not."""
    return os.path.isfile(Path(folder, RECORD))  # False where the folder may not be read


def read(folder: str | Path) -> Learned:
    """Read a fine-tuned folder's small files, and check that its parts belong together.

    Raises:
        ModelError: a part is absent, damaged or from another folder, or the training is not
            finished.
    """
    folder = Path(folder).expanduser().resolve()
    record = read_json(folder / RECORD, "finetune")
    classes = read_json(folder / CLASSES, "finetune")
    if record.get("format") != FORMAT:
        raise ModelError(
            f"'{folder / RECORD}' must be of format {FORMAT}, got {record.get('format')!r}; "
            "use the diffaug that wrote it, or fine-tune again."
        )
    if not record.get("finished"):
        raise ModelError(
            f"'{folder}' holds a fine-tuning that has not ended; start it again as before, and it "
            "resumes where it stopped."
        )
    try:
        subset, spec = record["subset"], ModelSpec(**record["spec"])
        learned = Learned(
            folder=folder,
            base=record["base"],
            revision=spec.revision,
            metaclass=classes["metaclass"],
            tokens=dict(classes["classes"]),
            shots=subset["shots"],
            seed=subset["seed"],
            files=tuple(subset["files"]),
            spec=spec,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"'{folder}' has a {RECORD} or {CLASSES} that is not as finetune writes it "
            f"({type(error).__name__}: {error}); fine-tune again."
        ) from error
    rows = tensor_names(folder / EMBEDDINGS)
    for name, token in learned.tokens.items():
        if token not in rows:
            raise ModelError(
                f"'{folder / EMBEDDINGS}' lacks {token!r}, the token of class {name!r} in "
                f"{CLASSES}; copy the whole folder again."
            )
    tensor_names(folder / LORA)
    return learned


def tensor_names(file: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file, reading its header alone.

    Raises:
        ModelError: it is absent or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(file)  # a FIFO would wait for ever
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"'{file}' could not be read ({one_line(error)}); copy or make it again."
        ) from error


def find(spec: ModelSpec) -> Learned | None:
    """Read the fine-tuned folder whose parts are among a spec's adapters; None if there is none.

    Raises:
        ModelError: the folder is incomplete.
    """
    folders = (_home(adapter) for adapter in spec.adapters)
    folder = next((folder for folder in folders if folder), None)
    return read(folder) if folder else None


def reduce(spec: ModelSpec, keep: LearnedParts) -> ModelSpec:
    """Return a spec with all its learned parts, with the embeddings alone, or with none.

    Other adapters, such as a LoRA for few steps, stay.

    Raises:
        ValueError: ``keep`` is not ``"all"``, ``"embeddings"`` or ``"none"``.
    """
    if keep not in get_args(LearnedParts):
        raise ValueError(
            f"'keep' must be one of {', '.join(get_args(LearnedParts))}, got {keep!r}."
        )
    kept = {"all": (LORA, EMBEDDINGS), "embeddings": (EMBEDDINGS,), "none": ()}[keep]
    adapters = [
        adapter
        for adapter in spec.adapters
        if (home := _home(adapter)) is None or _path(adapter) in [home / part for part in kept]
    ]
    return replace(spec, adapters=tuple(adapters))


def _path(adapter: str) -> Path:
    return Path(re.sub(r"\*[\d.]+$", "", adapter).partition("@sha256:")[0]).expanduser()


def _home(adapter: str) -> Path | None:
    """Return the fine-tuned folder that an adapter is a part of."""
    path = _path(adapter)
    for folder, part in ((path.parent.parent, LORA), (path.parent, EMBEDDINGS)):
        if path == folder / part and is_learned(folder):
            return folder
    return None
