"""Which classes of diffusers and transformers a model's folder may name, and which files."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffaug.backends.model_files import read_json
from diffaug.errors import ModelError

#: What a part of a pipeline may be. No Auto class is any of these: it would choose by what the
#: folder says, and might ask on the terminal whether to run code that lies in it.
_OF_DIFFUSERS = {
    "ModelMixin": "diffusers",
    "SchedulerMixin": "diffusers.schedulers.scheduling_utils",
}
_OF_TRANSFORMERS = {
    "PreTrainedModel": "transformers",
    "PreTrainedTokenizerBase": "transformers",
    "ProcessorMixin": "transformers",
    "ImageProcessingMixin": "transformers.image_processing_base",
    "FeatureExtractionMixin": "transformers.feature_extraction_utils",
}
#: The name that older models give to the same class.
_RENAMED = {"CLIPFeatureExtractor": "CLIPImageProcessor"}


def pipeline_class(name: str, model: str) -> Any:
    """Return the pipeline of diffusers that a model names.

    Raises:
        ModelError: diffusers has none of this name.
    """
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None:
        raise ModelError(
            f"'{model}' is a {name}, which diffusers {diffusers.__version__} does not have; "
            "perhaps a newer one has, or it is code of its author's, which is never run: choose "
            "another model."
        )
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise ModelError(
            f"'{model}' is a {name}, which is no pipeline of diffusers; choose another model."
        )
    return kind


def part_class(library: str, name: str, folder: Path) -> Any:
    """Return the class of a pipeline's part, from diffusers or transformers and nowhere else.

    Raises:
        ModelError: neither has it, or it is nothing that a part may be.
    """
    source: Any
    if library in ("diffusers", "transformers"):
        source = importlib.import_module(library)
    else:
        source = getattr(importlib.import_module("diffusers.pipelines"), library, None)
    kind = getattr(source, _RENAMED.get(name, name), None)
    if kind is None:
        raise ModelError(
            f"'{folder}' asks for {library}.{name}, which neither diffusers nor transformers has; "
            "upgrade them, or choose another model: code inside a model is never run."
        )
    if not (
        isinstance(kind, type) and issubclass(kind, _classes({**_OF_DIFFUSERS, **_OF_TRANSFORMERS}))
    ):
        raise ModelError(
            f"'{folder}' asks for {library}.{name}, which is no class of a model's part; choose "
            "another model: what chooses a class by what lies in the folder is never used."
        )
    return kind


def is_of_transformers(kind: type) -> bool:
    """Return whether a class loads as those of transformers do, which may run a model's code."""
    return issubclass(kind, _classes(_OF_TRANSFORMERS))


def _classes(places: Mapping[str, str]) -> tuple[type, ...]:
    return tuple(getattr(importlib.import_module(place), name) for name, place in places.items())


def check_shards(folder: Path) -> None:
    """Refuse an index of weights that names something else than safetensors files beside it.

    Raises:
        ModelError: it does; or it is no index.
    """
    for index in folder.glob("*.index.json"):
        named = read_json(index).get("weight_map")
        files = set(named.values()) if isinstance(named, dict) else {named}
        for file in files:
            if not _is_shard(folder, file):
                raise ModelError(
                    f"'{index}' must name safetensors files of its folder alone, got {file!r:.80}; "
                    "pickled weights can run code when read, and are refused."
                )


def _is_shard(folder: Path, file: Any) -> bool:
    plain = isinstance(file, str) and Path(file).name == file and "\0" not in file
    return plain and file.endswith(".safetensors") and (folder / file).is_file()
