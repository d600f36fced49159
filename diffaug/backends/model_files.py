"""Which files a model has, and which of them loading reads."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffaug import untrusted
from diffaug.backends.spec import ModelSpec
from diffaug.errors import ModelError, one_line

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?"
    r"(?:-\d{5}-of-(?P<shards>\d{5}))?\.safetensors"
)
_CONFIGURATION = re.compile(r"(generation_)?config\.json|.*\.index(\.\w+)?\.json|.*\.jinja")
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
TEXT = {".json", ".txt", ".model", ".jinja"}


def read_json(path: Path, writer: str = "save_pretrained of diffusers") -> dict[str, Any]:
    """Read a small JSON file of a model; ``writer`` says what writes such a folder."""
    try:
        content = untrusted.read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"'{path}' could not be read ({one_line(error)}); give a whole folder, as {writer} "
            "writes it."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"'{path}' must hold a JSON object, got {type(content).__name__}.")
    return content


def read_index(folder: Path) -> dict[str, Any]:
    """Read ``model_index.json``; refuse one that asks for code of its own."""
    index = read_json(folder / "model_index.json")
    if not isinstance(index.get("_class_name"), str):
        raise ModelError(
            f"'{folder / 'model_index.json'}' must name one diffusers class, got "
            f"{index.get('_class_name')!r}; code inside a model is never run."
        )
    for name, value in index.items():
        # A part is where its name says, and None is one that the model does without.
        odd = "/" in name or "\\" in name or name in (".", "..")
        if isinstance(value, list) and (odd or len(value) != 2 or not all(map(_is_named, value))):
            raise ModelError(
                f"'{folder / 'model_index.json'}' must give each part a library and a class, got "
                f"{value!r:.60} for {name!r}; get it again, or choose another model."
            )
    return index


def _is_named(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "")


def components(index: Mapping[str, Any], spec: ModelSpec) -> dict[str, tuple[str, str]]:
    """Return the parts of a model that are loaded, each with its library and class."""
    skipped = () if spec.safety_checker else ("safety_checker", "feature_extractor")
    return {
        name: (value[0], value[1])
        for name, value in index.items()
        if isinstance(value, list) and value[0] and value[1] and name not in skipped
    }


def variant_of(file: str) -> str | None:
    """Return the variant in the name of a weight file, such as ``"fp16"``."""
    match = _WEIGHTS.fullmatch(file)
    return match["variant"] if match else None


def weights_of(names: Iterable[str], variant: str | None, part: str) -> list[str]:
    """Choose a part's weight files; never a pickle.

    They are those of the variant, or else those of none, or else those of the only one there is.

    Raises:
        ModelError: the weights are pickles only, a shard is missing, or there are several variants.
    """
    names = sorted(names)
    matches = [match for match in map(_WEIGHTS.fullmatch, names) if match]
    chosen = [match for match in matches if match["variant"] == variant] or [
        match for match in matches if match["variant"] is None
    ]
    if not chosen and matches:
        others = sorted({match["variant"] for match in matches})
        if len(others) > 1:
            raise ModelError(
                f"'variant' must be one of {', '.join(others)}, the weights that '{part}' has, got "
                f"{variant!r}; set variant={others[0]!r} ('--variant' on the command line)."
            )
        chosen = matches
    pickled = [name for name in names if Path(name).suffix in _PICKLED]
    if pickled and not chosen:
        raise ModelError(
            f"the weights '{part}/{pickled[0]}' are pickled, which can run code when read, and are "
            "refused; save the model again with save_pretrained(safe_serialization=True), or "
            "choose a model that has safetensors."
        )
    if any(len(chosen) < int(match["shards"]) for match in chosen if match["shards"]):
        raise ModelError(
            f"'{part}/{chosen[0].string}' is one of several files, and not all are there; get the "
            "missing ones."
        )
    return [match.string for match in chosen]


def flat_files(files: Iterable[str], model: str) -> list[str]:
    """Choose the files that loading reads of a model in one folder, as transformers saves it."""
    names = [file for file in files if "/" not in file]
    return [name for name in names if Path(name).suffix in TEXT] + weights_of(names, None, model)


def needed_files(files: Iterable[str], index: Mapping[str, Any], spec: ModelSpec) -> list[str]:
    """Choose from a repository's files those that loading reads.

    Beside its weights, a part reads its configuration alone.
    """
    parts: dict[str, list[str]] = {name: [] for name in components(index, spec)}
    for file in files:
        part, _, name = file.partition("/")
        if part in parts and name and "/" not in name:
            parts[part].append(name)
    chosen = ["model_index.json"]
    for part, names in parts.items():
        weights = weights_of(names, spec.variant, f"{spec.model}/{part}")
        texts = [
            name
            for name in names
            if (_CONFIGURATION.fullmatch(name) if weights else Path(name).suffix in TEXT)
        ]
        chosen += [f"{part}/{name}" for name in texts + weights]
    return chosen
