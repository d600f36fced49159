"""What a fine-tuned folder holds, and what it says of itself; ``finetune`` writes it.

::

    adapters/pytorch_lora_weights.safetensors   what the U-Net learned
    embeddings.safetensors                      what each token means: '<class_0>' -> (hidden,)
    classes.json                                the metaclass, and each class's token
    finetune.json                               the base model, the settings, the training images
"""

import difflib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import unquote

from diffaug.backends.spec import ModelSpec
from diffaug.errors import ModelError

LORA = "adapters/pytorch_lora_weights.safetensors"
EMBEDDINGS = "embeddings.safetensors"
CLASSES = "classes.json"
RECORD = "finetune.json"
#: Raise it when an older diffaug could not use the folder.
FORMAT = 1

LearnedParts = Literal["all", "embeddings", "none"]


@dataclass(frozen=True)
class Learned:
    """What a fine-tuned folder says of itself.

    Args:
        folder: where it is now.
        base: the model it was trained on, as it was named: a preset, a Hub id or a folder.
        revision: of the base; the learned parts fit no other.
        metaclass: what all classes are, such as ``"bird"``; may be empty.
        tokens: the token of each class, in class order.
        shots: training images a class; None for all there were.
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
        """Return the token of a class, whose name may be spelt with spaces for underscores.

        Raises:
            ValueError: no such class was learned; the message says what comes close.
        """
        if name in self.tokens:
            return self.tokens[name]
        spelt = {spelling(known): known for known in self.tokens}
        if spelling(name) in spelt:
            return self.tokens[spelt[spelling(name)]]
        close = difflib.get_close_matches(spelling(name), spelt, n=3)
        hint = f"; did you mean {' or '.join(repr(spelt[one]) for one in close)}?" if close else "."
        raise ValueError(
            f"'{self.folder}' must have learned every class, and {name!r} is not among its "
            f"{len(self.tokens)} classes{hint}"
        )

    def prompt(self, name: str) -> str:
        """Return the sentence that a class was trained with."""
        return class_prompt(self.token(name), self.metaclass)


def class_prompt(subject: str, metaclass: str = "") -> str:
    """Put a token, or a name, and a metaclass into the sentence of Diff-Mix.

    Example:
        >>> class_prompt("<class_0>", "bird"), class_prompt("<class_0>")
        ('a photo of a <class_0> bird', 'a photo of a <class_0>')
    """
    return f"a photo of a {subject} {metaclass}".rstrip()


def clean_name(name: str) -> str:
    """Turn a class's name, or its folder's, into words.

    Underscores and runs of white space become one space, and ``%2F`` a slash again.

    Example:
        >>> clean_name(" Black_footed  Albatross"), clean_name("AC%2FDC")
        ('Black footed Albatross', 'AC/DC')
    """
    return " ".join(unquote(name).replace("_", " ").split())


def spelling(name: str) -> str:
    """Return what two ways to write one class's name have in common.

    Case, spaces and underscores, Unicode's composed and decomposed letters (file systems differ),
    and the ``%2F`` of a folder's name against the slash of the class's do not count.

    Example:
        >>> spelling("AC%2FDC_live") == spelling("ac/dc Live")
        True
    """
    return unicodedata.normalize("NFC", clean_name(name).casefold())


def is_learned(folder: str | Path) -> bool:
    """Tell whether a folder is a fine-tuned one, finished or not."""
    return Path(folder, RECORD).is_file()


def read(folder: str | Path) -> Learned:
    """Read a fine-tuned folder's small files, and check that its parts belong together.

    Raises:
        ModelError: a part is absent, damaged or of another folder, or the training has not ended.
    """
    folder = Path(folder).expanduser().resolve()
    record, classes = _read_json(folder / RECORD), _read_json(folder / CLASSES)
    if record.get("format") != FORMAT:
        raise ModelError(
            f"'{folder / RECORD}' must be of format {FORMAT}, got {record.get('format')!r}; "
            "use the diffaug that wrote it, or fine-tune anew."
        )
    if not record.get("finished"):
        raise ModelError(
            f"'{folder}' holds a fine-tuning that has not ended; start it again as before, and it "
            "goes on where it stopped."
        )
    try:
        subset, spec = record["subset"], ModelSpec(**record["spec"])
        found = Learned(
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
            f"({type(error).__name__}: {error}); fine-tune anew."
        ) from error
    rows = tensor_names(folder / EMBEDDINGS)
    for name, token in found.tokens.items():
        if token not in rows:
            raise ModelError(
                f"'{folder / EMBEDDINGS}' lacks {token!r}, the token of class {name!r} in "
                f"{CLASSES}; copy the whole folder anew."
            )
    tensor_names(folder / LORA)
    return found


def tensor_names(file: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file, reading its header alone.

    Raises:
        ModelError: it is absent or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"'{file}' could not be read ({' '.join(str(error).split())}); copy or make it anew."
        ) from error


def find(spec: ModelSpec) -> Learned | None:
    """Return what is known of the fine-tuned folder whose parts are among a spec's adapters.

    Raises:
        ModelError: the folder is incomplete.
    """
    folders = (_home(adapter) for adapter in spec.adapters)
    folder = next((found for found in folders if found), None)
    return read(folder) if folder else None


def reduce(spec: ModelSpec, keep: LearnedParts) -> ModelSpec:
    """Leave out learned parts of a spec: the LoRA (``"embeddings"``), or both (``"none"``).

    Other adapters, such as a LoRA for few steps, stay.

    Raises:
        ValueError: ``keep`` is none of these.
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
    return Path(adapter.partition("@sha256:")[0]).expanduser()


def _home(adapter: str) -> Path | None:
    """Return the fine-tuned folder that an adapter is a part of."""
    path = _path(adapter)
    for folder, part in ((path.parent.parent, LORA), (path.parent, EMBEDDINGS)):
        if path == folder / part and is_learned(folder):
            return folder
    return None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"'{path}' could not be read ({error}); give a whole folder as finetune writes it."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"'{path}' must hold a JSON object, got {type(content).__name__}.")
    return content
