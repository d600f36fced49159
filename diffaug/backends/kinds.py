"""What a model is for, by its small files."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffaug.backends.model_files import read_index, read_json
from diffaug.backends.spec import Task
from diffaug.errors import ModelError
from diffaug.untrusted import open_regular

#: No model works at a larger side, in pixels.
LARGEST = 1 << 14
#: A model in the Hub's cache.
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})")
#: How an example in a model's card loads it.
_EXAMPLE = re.compile(r"(?:from_pretrained\(|model_id\s*=)\s*[\"']([\w.-]+/[\w.-]+)[\"']")
#: What else a pipeline needs beside an image and a prompt, by a part of its class's name.
_NEEDS = {
    "Inpaint": "an inpainting model, which needs a mask",
    "Depth2Img": "a depth model, which needs a depth map",
    "ControlNet": "a ControlNet, which needs a control image",
    "T2I": "an adapter for control images",
    "Adapter": "an adapter for control images",
    "Upscale": "a model that enlarges",
    "UnCLIP": "a model of image variations",
    "ImageVariation": "a model of image variations",
    "Video": "a model of videos",
    "AnimateDiff": "a model of videos",
    "Audio": "a model of sounds",
    "Marigold": "a model that measures images",
}
#: The same by the channels that a U-Net takes, since plain names are given to such models, too.
_CHANNELS = {9: "Inpaint", 5: "Depth2Img", 7: "Upscale"}


def refuse_other_kind(model: str, index: Mapping[str, Any], unet: Mapping[str, Any]) -> None:
    """Refuse a model that needs more than an image and a prompt, and say what it is.

    Args:
        model: its name for the message.
        index: its ``model_index.json``.
        unet: the configuration of its U-Net; empty where it has none.

    Raises:
        ModelError: it is of such a kind, or it is a network and not a whole model.
    """
    name = index["_class_name"]
    if isinstance(index.get("controlnet"), list) and index["controlnet"][0]:
        name = "ControlNet"
    kind = next((kind for kind in _NEEDS if kind in name), None)
    kind = kind or _CHANNELS.get(unet.get("in_channels", 0))
    if kind:
        raise ModelError(
            f"'{model}' is {_NEEDS[kind]}, and diffaug gives a model an image and a prompt alone; "
            "choose an editor such as 'instruct-pix2pix', or a model that translates such as "
            "'sd15'."
        )


def settings_of(folder: Path) -> dict[str, Any]:
    """Return the task of a model folder, and the size of a model with a U-Net.

    Raises:
        ModelError: it is incomplete, or of a kind that diffaug cannot use.
    """
    index = read_index(folder)
    unet = read_json(folder / "unet" / "config.json") if "unet" in index else {}
    refuse_other_kind(str(folder), index, unet)
    edits = "Edit" in index["_class_name"] or "Pix2Pix" in index["_class_name"]
    task: Task = "edit" if edits or unet.get("in_channels") == 8 else "translate"
    blocks = read_json(folder / "vae" / "config.json") if "vae" in index else {}
    size = _size_of(unet.get("sample_size"), blocks.get("block_out_channels", ()))
    return {"task": task} if size is None else {"task": task, "size": size}


def _size_of(sides: Any, blocks: Any) -> int | None:
    """Return the side of the square of a U-Net's latents, in pixels; None where it says none.

    It may say height and width. Of an oblong, it is the square of as many pixels.
    """
    sides = sides if isinstance(sides, (list, tuple)) else [sides]
    known = len(sides) in (1, 2) and all(type(side) is int and side > 0 for side in sides)
    if not known or not isinstance(blocks, list) or len(blocks) > LARGEST.bit_length():
        return None
    side = math.isqrt(sides[0] * sides[-1]) * 2 ** max(0, len(blocks) - 1)
    size = 8 * ((side + 4) // 8)  # in whole numbers, which others' may be of any length
    return size if 0 < size <= LARGEST else None


def repository_of(folder: Path) -> tuple[str | None, str | None]:
    """Return the id and the commit of the Hub model that a folder is a copy of, where it says so.

    The Hub's own download leaves a commit, ``save_pretrained`` an id or the Hub's cache, and a card
    names the model in its example.
    """
    commit = None
    with suppress(OSError, IndexError):
        mark = folder / ".cache" / "huggingface" / "download" / "model_index.json.metadata"
        commit = _text(mark).split()[0]
    saved = str(read_index(folder).get("_name_or_path", ""))
    for text in (str(folder), saved):
        if match := _CACHED.search(text):
            return f"{match[1]}/{match[2]}", match[3]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", saved):
        return saved, commit
    with suppress(OSError):
        card = _text(folder / "README.md")
        if not re.search(r"^base_model:", card, re.MULTILINE) and (match := _EXAMPLE.search(card)):
            return match[1], commit
    return None, commit


def _text(path: Path) -> str:
    """Read the first 100 kB of a file that others wrote."""
    with open_regular(path) as file:
        return file.read(100_000).decode("utf-8", errors="replace")
