"""What a model is for, by its small files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffaug.backends.model_files import read_index, read_json
from diffaug.backends.spec import Task
from diffaug.errors import ModelError

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
    """Return the task and the size of a model folder.

    Raises:
        ModelError: it is incomplete, or of a kind that diffaug cannot use.
    """
    index = read_index(folder)
    unet = read_json(folder / "unet" / "config.json") if "unet" in index else {}
    refuse_other_kind(str(folder), index, unet)
    edits = "Edit" in index["_class_name"] or "Pix2Pix" in index["_class_name"]
    task: Task = "edit" if edits or unet.get("in_channels") == 8 else "translate"
    size = 512
    if isinstance(unet.get("sample_size"), int) and "vae" in index:
        blocks = read_json(folder / "vae" / "config.json").get("block_out_channels", ())
        size = unet["sample_size"] * 2 ** max(0, len(blocks) - 1)
    return {"task": task, "size": size}
