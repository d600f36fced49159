"""Named models as data, and how a name, a folder or a Hub id becomes a spec that says one thing."""

import difflib
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffaug.arguments import same_name
from diffaug.backends.checkpoints import refuse_checkpoint
from diffaug.backends.finetuned import EMBEDDINGS, LORA, is_learned, read, tensor_names
from diffaug.backends.kinds import repository_of, settings_of
from diffaug.backends.model_files import read_index, read_json
from diffaug.backends.spec import ModelSpec, Task
from diffaug.errors import ModelError

_log = logging.getLogger("diffaug")

_ASSETS = Path(__file__).resolve().parents[1] / "assets"
#: What an id on the Hugging Face Hub looks like.
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
#: What people copy from a browser, or write as other programs take it.
_PASTED = re.compile(
    rf"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)?(?P<id>{HUB_ID.pattern})"
    r"(?:(?:/tree/|/blob/|@)(?P<revision>[\w.-]+)(?:/.*)?)?/?"
)
#: What a file of weights in one piece ends in; no id on the Hub does.
_SINGLE_FILES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"}
_CONVERT = (
    "a single file of weights must be converted once: "
    "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER), both of diffusers."
)
_LCM_LORA = "latent-consistency/lcm-lora-sdv1-5@cf2fced511dbe7e26c8d1d397e728fbab875db4b"


@dataclass(frozen=True)
class Preset:
    """A model known to work, and on which terms.

    Args:
        spec: the model and how to run it.
        licence: of the weights.
        commercial: may they be used commercially: ``"yes"``, ``"no"`` or ``"check the card"``.
        gigabytes: about how much there is to download; None where unknown.
        note: what else to know before choosing it.
        experimental: nobody has tried it with diffaug yet.
        image_guidance: whether an editor is guided towards the source image, too.
    """

    spec: ModelSpec
    licence: str
    commercial: str
    gigabytes: float | None = None
    note: str = ""
    experimental: bool = False
    image_guidance: bool = True


def _variant(preset: Preset, note: str, **settings: Any) -> Preset:
    """Return a preset on the same terms, with other settings of its spec."""
    return replace(preset, spec=replace(preset.spec, **settings), note=note)


_TINY = Preset(
    # Trained at 64 px, but convolutional, and at its best on larger pictures: see its card.
    ModelSpec(str(_ASSETS / "tiny"), size=128, steps=10, guidance_scale=2.0),
    licence="that of diffaug",
    commercial="yes",
    gigabytes=0.0,
    note="embedded, 128 px; for tests, documentation and CPUs, not for results",
)
_PIX2PIX = Preset(
    ModelSpec(
        "timbrooks/instruct-pix2pix",
        revision="31519b5cb02a7fd89b906d88731cd4d6a7bbf88d",
        variant="fp16",
        size=512,
        steps=20,
        guidance_scale=4.0,
        image_guidance_scale=1.5,
        scheduler="EulerAncestralDiscreteScheduler",
    ),
    licence="MIT (code); weights made from Stable Diffusion 1.5, OpenRAIL-M terms",
    commercial="check the card",
    gigabytes=2.1,
    note="DiffuseMix's model in 20 steps",
)
#: A solver of second order, which needs fewer steps than Euler's (arXiv:2211.01095).
_FAST_SOLVER = "DPMSolverMultistepScheduler"
_SD15 = Preset(
    ModelSpec(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        task="translate",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        variant="fp16",
        size=512,
        steps=25,
        guidance_scale=7.5,
        scheduler=_FAST_SOLVER,
    ),
    licence="CreativeML OpenRAIL-M",
    commercial="check the card",
    gigabytes=2.1,
    note="Diff-Mix's model",
)
_SD_TURBO = Preset(
    ModelSpec(
        "stabilityai/sd-turbo",
        task="translate",
        revision="b261bac6fd2cf515557d5d0707481eafa0485ec2",
        variant="fp16",
        size=512,
        steps=4,
        all_steps=True,
        guidance_scale=0.0,
    ),
    licence="Stability AI Community License",
    commercial="check the card",
    gigabytes=2.6,
    note="1 to 4 steps",
)


def _with_lcm_lora(preset: Preset) -> Preset:
    """Return a preset with the LoRA that lets Stable Diffusion 1.5 run few steps."""
    spec = replace(preset.spec, steps=4, scheduler="LCMScheduler", adapters=(_LCM_LORA,))
    licence = f"{preset.licence}; of the LoRA: OpenRAIL++"
    return replace(preset, spec=spec, licence=licence, gigabytes=2.3)


#: Every named model. Revisions are commits seen in public repositories.
PRESETS: dict[str, Preset] = {
    "tiny": _TINY,
    "tiny-256": _variant(_TINY, "tiny at 256 px, for four times the time", size=256),
    "tiny-translate": _variant(
        _TINY,
        "embedded, 64 px; a base to fine-tune on CPUs, not for results",
        model=str(_ASSETS / "tiny-translate"),
        task="translate",
        size=64,
        guidance_scale=4.5,
    ),
    "instruct-pix2pix": _PIX2PIX,
    "instruct-pix2pix-paper": _variant(
        _PIX2PIX,
        "DiffuseMix's model as published: 100 steps in half precision",
        steps=100,
        dtype="float16",
    ),
    "instruct-pix2pix-256": _variant(
        _PIX2PIX, "256 px, at which the model was trained: a quarter of the time", size=256
    ),
    "instruct-pix2pix-12": _variant(
        _PIX2PIX,
        "12 steps of a faster solver, in place of 20",
        steps=12,
        scheduler=_FAST_SOLVER,
    ),
    "instruct-pix2pix-256-12": _variant(
        _PIX2PIX,
        "256 px, in 12 steps of a faster solver",
        size=256,
        steps=12,
        scheduler=_FAST_SOLVER,
    ),
    "instruct-pix2pix-lcm": replace(
        _variant(
            _with_lcm_lora(_PIX2PIX),
            "4 steps by a LoRA made for Stable Diffusion 1.5",
            guidance_scale=2.0,
            image_guidance_scale=1.0,
        ),
        experimental=True,
    ),
    "sd15": _SD15,
    "sd15-12": _variant(_SD15, "sd15 in 12 steps, of which strength 0.7 runs 8", steps=12),
    "sd15-lcm": _variant(
        _with_lcm_lora(_SD15), "sd15 in 4 steps", all_steps=True, guidance_scale=1.0
    ),
    "sd-turbo": _SD_TURBO,
    "sdxl-turbo": replace(
        _variant(
            _SD_TURBO,
            _SD_TURBO.note,
            model="stabilityai/sdxl-turbo",
            revision="71153311d3dbb46851df1931d3ca6e939de83304",
        ),
        gigabytes=6.9,
    ),
    "flux2-klein-4b": Preset(
        ModelSpec(
            "black-forest-labs/FLUX.2-klein-4B",
            revision="e7b7dc27f91deacad38e78976d1f2b499d76a294",
            size=512,
            steps=4,
            guidance_scale=1.0,
        ),
        licence="Apache-2.0",
        commercial="yes",
        gigabytes=16.0,
        note="one image a call; 17 GB on a GPU, 13 with offload=True",
        experimental=True,
        image_guidance=False,
    ),
    "longcat-edit-turbo": Preset(
        ModelSpec(
            "meituan-longcat/LongCat-Image-Edit-Turbo",
            revision="6a7262de5549f0bf0ec54c08ef7d283ef41f3214",
            size=1024,
            steps=8,
            guidance_scale=1.0,
        ),
        licence="Apache-2.0",
        commercial="yes",
        gigabytes=29.3,
        note="one image a call, always at about 1024 px; 18 GB on a GPU with offload=True",
        experimental=True,
        image_guidance=False,
    ),
}


def resolve(backend: str | Path | ModelSpec, task: Task = "edit") -> ModelSpec:
    """Turn a preset's name, a model folder or a Hub id into a spec, without network.

    Args:
        backend: a name in ``PRESETS``; a folder in diffusers' layout, whose task and size are read
            from its small JSON files, and which has the settings of a preset if it is a copy of
            that one's model; a folder that ``finetune`` wrote, which becomes its base
            model with what was learned; an id ``"org/name"``, which has the settings of a preset
            that is this model, and otherwise works at the size of its own configuration; or a spec,
            which comes back as it is.
        task: what such an id is for, since it does not say.

    Raises:
        ValueError: none of these; the message lists the presets and what comes close.
        ModelError: a folder whose ``model_index.json`` is absent or unreadable, or that holds
            learned parts alone, or a fine-tuned one that is incomplete or whose base is gone.

    Example:
        >>> resolve("sd15").task
        'translate'
        >>> resolve("org/some-editor").task
        'edit'
    """
    if isinstance(backend, ModelSpec):
        return backend
    if not isinstance(backend, (str, Path)):
        raise TypeError(
            f"'backend' must be a name, a folder, a ModelSpec or a Backend, "
            f"got {type(backend).__name__}."
        )
    if isinstance(backend, str) and backend in PRESETS:
        return PRESETS[backend].spec
    folder = Path(backend).expanduser()
    if backend and os.path.isdir(folder):  # False for what no path can be
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ModelError(
                f"'{folder}' could not be read: Permission denied; give yourself the right to, or "
                "copy it."
            )
        if is_learned(folder):
            return _spec_of_learned(folder)
        refuse_checkpoint(folder)
        if not (folder / "model_index.json").exists():
            _refuse_other_folder(folder)
        return _spec_of_folder(folder.resolve())
    if os.path.isfile(folder) or folder.suffix.lower() in _SINGLE_FILES:
        raise ValueError(
            f"'backend' must be a model folder, got the file '{backend}'; {_use_of(folder)}"
        )
    if isinstance(backend, str) and HUB_ID.fullmatch(backend):
        preset = name_of(backend)
        if preset != backend:
            _log.warning(
                "'%s' is the model of the preset '%s', whose settings it has", backend, preset
            )
            return PRESETS[preset].spec
        return ModelSpec(backend, task=task)
    if name := same_name(backend, PRESETS):
        return PRESETS[name].spec
    close = difflib.get_close_matches(str(backend), PRESETS, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    if match := _PASTED.fullmatch(str(backend).strip()):
        hint = f" Give {match['id']!r}"
        hint += f", and revision={match['revision']!r}." if match["revision"] else "."
    raise ValueError(
        f"'backend' must be a preset ({', '.join(PRESETS)}), an existing model folder or a Hub id "
        f"like 'org/name', got {str(backend)!r}.{hint}"
    )


def _refuse_other_folder(folder: Path) -> None:
    """Say what a folder without ``model_index.json`` holds, where that can be seen."""
    inside = sorted(folder.iterdir())
    if snapshots := sorted(folder.glob("snapshots/*/model_index.json")):
        raise ModelError(
            f"'{folder}' is the Hub's cache of a model, and the model is below it; give "
            f"'{snapshots[-1].parent}'."
        )
    if models := [path for path in inside if (path / "model_index.json").is_file()]:
        raise ModelError(f"'{folder}' holds the model folder '{models[0]}'; give that.")
    if (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("_class_name", "a network")
        raise ModelError(
            f"'{folder}' holds {kind} alone, and a model has other parts, too; give a whole model, "
            "as save_pretrained of a diffusers pipeline writes it."
        )
    if files := [path for path in inside if path.suffix.lower() in _SINGLE_FILES]:
        raise ModelError(
            f"'{folder}' holds '{files[0].name}' and no model folder; {_use_of(files[0])}"
        )


def _use_of(file: Path) -> str:
    """Say what can be done with a file of weights that was given as a model."""
    names: list[str] = []
    if file.suffix == ".safetensors":
        with suppress(ModelError):
            names = tensor_names(file)
    if any("lora" in name.lower() for name in names) or (names and "." not in "".join(names)):
        return (
            "it is made to be added to a model; give that model, and this file as an adapter "
            f"('--adapter {file}', or ModelSpec(..., adapters=('{file}',)))."
        )
    return _CONVERT


def _spec_of_folder(folder: Path) -> ModelSpec:
    settings = settings_of(folder)
    repository, commit = repository_of(folder)
    hub = {
        name: preset.spec for name, preset in PRESETS.items() if HUB_ID.fullmatch(preset.spec.model)
    }
    for name, spec in hub.items():
        copied = spec.model == repository or (commit is not None and commit == spec.revision)
        if copied and spec.task == settings["task"]:
            _log.warning("'%s' is a copy of the model of '%s', whose settings it has", folder, name)
            return replace(spec, model=str(folder), revision=None, **settings)
    for name, spec in hub.items():
        if repository is None and spec.model.endswith(f"/{folder.name}"):
            _log.warning(
                "'%s' does not say that it is the model of '%s', and has settings of its own",
                folder, name,
            )  # fmt: skip
            break
    return ModelSpec(str(folder), **settings)


def _spec_of_learned(folder: Path) -> ModelSpec:
    learned = read(folder)
    # A preset's folder is wherever diffaug is installed now.
    preset = same_name(learned.base, PRESETS)
    model = PRESETS[preset].spec.model if preset else learned.spec.model
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise ModelError(
            f"'{folder}' was fine-tuned on the model folder '{model}', which is gone; put it back, "
            "or write where it is now as spec.model into its finetune.json."
        )
    parts = (str(learned.folder / LORA), str(learned.folder / EMBEDDINGS))
    return replace(learned.spec, model=model, adapters=(*learned.spec.adapters, *parts))


def name_of(model: str) -> str:
    """Return the preset's name of a model, or its id."""
    return next((name for name, preset in PRESETS.items() if preset.spec.model == model), model)


def has_image_guidance(spec: ModelSpec) -> bool:
    """Return whether a model is guided towards the source image; True where that is not known."""
    if spec.task != "edit":
        return False
    if preset := PRESETS.get(name_of(spec.model)):
        return preset.image_guidance
    folder = Path(spec.model)
    return not folder.is_dir() or "Pix2Pix" in read_index(folder)["_class_name"]


def show_licence(spec: ModelSpec) -> None:
    """Log the terms of use of a model, as a warning unless it is the user's own or free."""
    preset = PRESETS.get(name_of(spec.model))
    if preset is not None:
        level = logging.INFO if preset.commercial == "yes" else logging.WARNING
        terms = f"licence: {preset.licence}; commercial use: {preset.commercial}"
    else:
        level = logging.INFO if Path(spec.model).is_dir() else logging.WARNING
        terms = "licence and commercial use: check the card"
    _log.log(level, "'%s': %s", spec.model, terms)
