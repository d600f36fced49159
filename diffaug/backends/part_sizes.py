"""Whether a part of a model is as large as its weights: its small files may say anything."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from diffaug.backends.devices import is_out_of_memory
from diffaug.backends.model_files import read_json
from diffaug.errors import ModelError, first_line

#: More than any model has: of layers, of numbers in a setting, of steps that it was trained for,
#: and of tensors in a file.
MOST_LAYERS, MOST_STEPS, MOST_TENSORS = 1000, 1_000_000, 100_000
#: A part may have some weights twice, or make a few that are in no file.
TIMES, MORE = 2, 10_000_000


def check_size(kind: Any, folder: Path, weights: Iterable[str]) -> None:
    """Refuse a part that says it is much larger than its weights, before memory is taken for it.

    Args:
        kind: the class of the part.
        folder: its folder.
        weights: its files of weights; none for a part that has no weights.

    Raises:
        ModelError: it has settings that no model has, or its weights are those of a smaller one.
    """
    settings = {path: read_json(path) for path in folder.glob("*config.json")}
    for path, content in settings.items():
        for name, number in _numbers(content):
            most = MOST_LAYERS if "layers" in name else MOST_STEPS
            # The other numbers of a part with weights are compared with these.
            if number > most and ("layers" in name or not weights):
                raise ModelError(
                    f"'{path}' says {name} = {number}, and no model has more than {most}; get it "
                    "again, or choose another model."
                )
    config = settings.get(folder / "config.json")
    if not weights or config is None:
        return
    there, said = _elements_in(folder, weights), _elements_of(kind, config, folder)
    if said > TIMES * there + MORE:
        raise ModelError(
            f"'{folder / 'config.json'}' describes a part of {said:,} numbers, and its weights "
            f"have {there:,}; get it again, or choose another model."
        )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """List the whole numbers in settings, by the name of the setting, and how long lists are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, str(key))
    elif isinstance(value, list):
        if name.endswith(("types", "channels")):  # an entry for each block
            yield f"{name} (layers)", len(value)
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int):
        yield name, value


def _elements_in(folder: Path, weights: Iterable[str]) -> int:
    """Count the numbers in files of weights by their headers."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for name in weights:
        try:
            with safe_open(folder / name, framework="pt") as opened:
                if len(names := opened.keys()) > MOST_TENSORS:
                    raise ModelError(
                        f"'{folder / name}' has {len(names):,} tensors, and no model has more "
                        f"than {MOST_TENSORS:,}; choose another model."
                    )
                count += sum(
                    torch.Size(opened.get_slice(tensor).get_shape()).numel() for tensor in names
                )
        except (OSError, SafetensorError):
            continue  # loading says better what is wrong with it
    return count


def _elements_of(kind: Any, config: dict[str, Any], folder: Path) -> int:
    """Count the numbers of the part that settings describe, without memory for them."""
    try:
        with torch.device("meta"):
            if hasattr(kind, "from_config"):  # of diffusers
                part = kind.from_config(config)
            else:
                part = kind(kind.config_class.from_dict(config))
    except Exception as error:  # whatever the settings may hold
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"'{folder / 'config.json'}' describes no {kind.__name__}: {first_line(error)}; get it "
            "again, or choose another model."
        ) from error
    return sum(tensor.numel() for tensor in part.state_dict().values())
