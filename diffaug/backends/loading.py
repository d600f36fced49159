"""From a spec to a diffusers pipeline on its device: only safetensors, nothing random, no code."""

import importlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffaug.backends import finetuned
from diffaug.backends.devices import choose_device, is_out_of_memory
from diffaug.backends.hub import adapter_file, download, pin, split_revision, weight_of
from diffaug.backends.model_files import components, read_index, read_json, weights_of
from diffaug.backends.noise import round_noise
from diffaug.backends.presets import name_of, show_licence
from diffaug.backends.spec import ModelSpec
from diffaug.backends.wholeness import next_step
from diffaug.errors import GenerationError, ModelError, first_line, require

_log = logging.getLogger("diffaug.loading")

#: What a learned word looks like.
TOKEN = re.compile(r"<[^<>\s]+>")
#: How the first of a LoRA's two matrices is called, by those who write such files.
_FIRST_HALF = re.compile(r"lora_A|lora_embedding_A|lora[._]down|lora_linear_layer\.down")
#: Editors without a U-Net. None takes a batch of images with a prompt each.
EDITORS = {
    "Flux2KleinPipeline",
    "FluxKontextPipeline",
    "LongCatImageEditPipeline",
    "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline",
}
#: Pipelines whose parts, with a U-Net that sees the source, make an InstructPix2Pix.
_LIKE_INSTRUCT_PIX2PIX = ("StableDiffusion", "LatentConsistencyModel")
#: From this side in pixels on, an autoencoder takes one image at a time. It is not slower, and 32
#: images of 512 px would be a tensor of 2**31 elements, too many for kernels that count in 32 bits.
SLICING = 512


def load_pipeline(spec: ModelSpec) -> Any:
    """Load a pinned spec's pipeline onto its device; whatever is missing or unsafe is an error.

    The global random state does not change. The licence is logged.

    Raises:
        ModelError: the model is of another task, incomplete or pickled, or needs code of its own;
            or an adapter was learned on another model.
        ModelUnavailableError: the model is not on this machine and cannot be fetched.
        GenerationError: the device is not there, or the model does not fit on it.
    """
    _check_base(spec)
    folder = download(spec)
    index = read_index(folder)
    _check_task(folder, index, spec)
    device = choose_device(spec.device)
    show_licence(spec)
    _log.info("loading %s on %s ...", name_of(spec.model), device)
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            pipe = _assemble(folder, index, spec, _choose_dtype(spec.dtype, device, index))
            _add_adapters(pipe, spec)
            return _move(pipe, device, spec)
    except Exception as error:
        if is_out_of_memory(error):
            reason = f"does not fit on {device}; set offload=True, or free the device."
        elif isinstance(error, RuntimeError) and device.type != "cpu":
            # The device is busy, or its driver does not fit torch.
            reason = (
                f"cannot be loaded onto {device} ({first_line(error)}); see nvidia-smi, or set "
                "device='cpu'."
            )
        else:
            raise
        raise GenerationError(f"'{spec.model}' {reason}") from error


def load_tokenizer(spec: ModelSpec) -> Any:
    """Load a pinned spec's tokenizer alone, after fetching the model if it is not here."""
    folder = download(spec)
    library, kind = components(read_index(folder), spec)["tokenizer"]
    return _load_part(folder / "tokenizer", library, kind, torch.float32, spec.variant)


def _check_base(spec: ModelSpec) -> None:
    for adapter in spec.adapters:
        if finetuned.is_learned(split_revision(adapter)[0]):
            raise ModelError(
                f"the adapter '{adapter}' is a fine-tuned folder, which names its own base; give "
                "it as the model."
            )
    learned = finetuned.find(spec)
    # A revision is a commit or a hash of the weights, so a model that was only moved is the same.
    if learned and pin(spec).revision != learned.revision:
        raise ModelError(
            f"'{learned.folder}' was fine-tuned on '{learned.base}' ({learned.revision}) and does "
            f"not fit '{spec.model}' ({pin(spec).revision}); give that folder as the model."
        )


def _check_task(folder: Path, index: dict[str, Any], spec: ModelSpec) -> None:
    name = index["_class_name"]
    if "unet" not in index:
        if spec.task == "edit" and name not in EDITORS:
            raise ModelError(
                f"'{spec.model}' is a {name}, which does not edit; set task='translate' or "
                "task='generate', or choose an editing model."
            )
        return
    unet = read_json(folder / "unet" / "config.json")
    channels = unet.get("in_channels")
    # An editing U-Net sees the source's latents beside the noisy ones.
    wanted = (2 if spec.task == "edit" else 1) * unet.get("out_channels", 4)
    if channels != wanted:
        other = "task='edit'" if spec.task != "edit" else "task='translate' or task='generate'"
        raise ModelError(
            f"'{spec.model}' cannot do task={spec.task!r}: its U-Net takes {channels} channels "
            f"where that needs {wanted}; set {other}, or choose another model."
        )
    if spec.task == "edit" and not name.startswith(_LIKE_INSTRUCT_PIX2PIX):
        raise ModelError(
            f"'{spec.model}' is a {name}, which diffaug cannot run as an editor; choose "
            "InstructPix2Pix or a model of its kind."
        )


def _choose_dtype(dtype: str, device: torch.device, index: dict[str, Any]) -> torch.dtype:
    if dtype == "float16" and device.type == "cpu":
        raise ModelError(
            "'dtype' must be float32 or bfloat16 on a CPU, which is hopelessly slow in float16; "
            "set dtype='float32', or use a GPU."
        )
    if dtype != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[
            dtype
        ]
    if device.type == "cpu":
        return torch.float32
    return torch.float16 if "unet" in index else torch.bfloat16


def _assemble(folder: Path, index: dict[str, Any], spec: ModelSpec, dtype: torch.dtype) -> Any:
    import diffusers

    name = index["_class_name"]
    if spec.task == "edit" and "unet" in index:
        xl = "XL" if "text_encoder_2" in index else ""
        name = f"StableDiffusion{xl}InstructPix2PixPipeline"
    pipeline = getattr(diffusers, name, None)
    if pipeline is None:
        raise ModelError(f"'{spec.model}' is a {name}, which this diffusers lacks; upgrade it.")
    chosen = components(index, spec)
    if spec.safety_checker and "safety_checker" not in chosen:
        raise ModelError(f"'{spec.model}' has no safety checker; set safety_checker=False.")
    parts = {
        part: _load_part(folder / part, library, kind, dtype, spec.variant)
        for part, (library, kind) in chosen.items()
    }
    if spec.scheduler is not None:
        kind = getattr(diffusers, spec.scheduler, None)
        if kind is None or not hasattr(kind, "from_config"):
            raise ModelError(f"'scheduler' must be a diffusers scheduler, got {spec.scheduler!r}.")
        parts["scheduler"] = kind.from_config(parts["scheduler"].config)
    _check_noise(parts.get("scheduler"))
    parameters = inspect.signature(pipeline.__init__).parameters
    settings = {
        key: None if isinstance(value, list) else value
        for key, value in index.items()
        if key in parameters and key not in parts
    }
    if "requires_safety_checker" in parameters:
        settings["requires_safety_checker"] = spec.safety_checker
    pipe = pipeline(**parts, **settings)
    if spec.task == "edit":
        return pipe
    auto = (
        diffusers.AutoPipelineForImage2Image
        if spec.task == "translate"
        else diffusers.AutoPipelineForText2Image
    )
    try:
        return auto.from_pipe(pipe)
    except ValueError as error:
        raise ModelError(
            f"'{spec.model}' is a {name}, which cannot do task={spec.task!r}; choose another model."
        ) from error


def _check_noise(scheduler: Any) -> None:
    """Refuse a scheduler whose noise is not that of a request's seed: no image could come again."""
    if hasattr(scheduler, "noise_sampler"):
        raise ModelError(
            f"the scheduler {type(scheduler).__name__} draws noise of its own, so that equal "
            "requests would give other images; set scheduler='DPMSolverMultistepScheduler', or "
            "another that takes a generator."
        )


def _load_part(
    folder: Path, library: str, name: str, dtype: torch.dtype, variant: str | None
) -> Any:
    """Load one part of a pipeline, from diffusers or transformers and from nowhere else."""
    source: Any
    if library in ("diffusers", "transformers"):
        source = importlib.import_module(library)
    else:
        source = getattr(importlib.import_module("diffusers.pipelines"), library, None)
    # The name that older models give to the same class.
    kind = getattr(source, {"CLIPFeatureExtractor": "CLIPImageProcessor"}.get(name, name), None)
    if kind is None:
        raise ModelError(
            f"'{folder}' asks for {library}.{name}, which neither diffusers nor transformers has; "
            "upgrade them, or choose another model: code inside a model is never run."
        )
    is_module = isinstance(kind, type) and issubclass(kind, torch.nn.Module)
    names = [file.name for file in folder.iterdir()]
    weights = weights_of(names, variant, str(folder)) if is_module else []
    try:
        if not is_module:
            part = kind.from_pretrained(str(folder), local_files_only=True)
            if "Tokenizer" in name:
                _check_reading(part, folder)
            return part
        has_variant = any(f".{variant}" in file for file in weights)
        part, missing = read_module(kind, folder, dtype, variant if has_variant else None)
    except ModelError:
        raise
    except Exception as error:  # damaged files trip any of the parsers below
        reason = first_line(error)
        raise ModelError(
            f"'{folder}' could not be loaded: {reason}; {next_step(folder)}."
        ) from error
    if missing:
        raise ModelError(
            f"'{folder}' lacks {len(missing)} weights that {name} needs ({missing[0]}, ...); it "
            f"was saved incomplete, or by another version of the library: {next_step(folder)}, or "
            "upgrade."
        )
    return part


def _check_reading(tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer without its words, to which every prompt is the same."""
    read = {tuple(tokenizer(text)["input_ids"]) for text in ("snowy", "a red car", "q")}
    if len(read) < 3:
        raise ModelError(
            f"'{folder}' reads different prompts as the same tokens, for its vocabulary is absent "
            f"or damaged; {next_step(folder)}."
        )


def read_module(
    module_class: Any, folder: Path, dtype: torch.dtype, variant: str | None = None
) -> tuple[Any, list[str]]:
    """Read a module from safetensors here; also return the tensors that are missing.

    A missing tensor would silently be a random one.
    """
    module, report = module_class.from_pretrained(
        str(folder),
        dtype=dtype,
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    return module, sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))


def _add_adapters(pipe: Any, spec: ModelSpec) -> None:
    names: list[str] = []
    weights: list[float] = []
    for adapter in spec.adapters:
        file = adapter_file(adapter)
        try:
            parts = finetuned.tensor_names(file)
            weights.append(weight_of(adapter))
            if parts and all(map(TOKEN.fullmatch, parts)):
                if weights.pop() != 1:
                    raise ValueError("learned embeddings have no weight.")
                _add_embeddings(pipe, file)
                continue
            require("peft")
            names.append(f"adapter{len(names)}")
            pipe.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=names[-1],
                use_safetensors=True,
                local_files_only=True,
            )
            # This also fails for an adapter of which nothing fits, which loading silently ignores.
            pipe.set_adapters(names, weights)
            _check_layers(pipe, names[-1], parts, file, spec)
        except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            # Diffusers looks up what the weights of another model have not.
            bare = isinstance(error, LookupError)
            reason = "its weights are those of another model." if bare else first_line(error)
            raise ModelError(
                f"the adapter '{file}' does not fit '{spec.model}': {reason}"
            ) from error


def _check_layers(pipe: Any, name: str, tensors: list[str], file: Path, spec: ModelSpec) -> None:
    """Refuse an adapter of which most layers find no place in a model; warn of any that do not."""
    layers = sum(bool(_FIRST_HALF.search(tensor)) for tensor in tensors)
    placed = sum(
        name in getattr(module, half, {})
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for module in part.modules()
        for half in ("lora_A", "lora_embedding_A")
    )
    if placed >= layers:
        return
    unplaced = f"{layers - placed} of its {layers} layers have no place in it"
    if 2 * placed < layers:
        raise ValueError(f"{unplaced}; choose one that was made for this model.")
    warnings.warn(
        f"the adapter '{file}' fits '{spec.model}' in part: {unplaced}.", UserWarning, stacklevel=1
    )


def _add_embeddings(pipe: Any, file: Path) -> None:
    """Teach a pipeline tokens; diffusers' own loader takes one token a file and draws numbers."""
    from safetensors.torch import load_file

    rows = load_file(file)
    if hasattr(pipe, "text_encoder_2") or not hasattr(pipe, "text_encoder"):
        raise ValueError("learned embeddings need a model with one text encoder.")
    table = pipe.text_encoder.get_input_embeddings().weight
    for token, row in rows.items():
        if row.shape != table.shape[1:]:
            raise ValueError(
                f"{token} is of shape {tuple(row.shape)}, and the text encoder takes "
                f"{tuple(table.shape[1:])}."
            )
    ids = add_tokens(pipe.tokenizer, list(rows))
    if ids[-1] >= len(table):
        table = pipe.text_encoder.resize_token_embeddings(ids[-1] + 1, mean_resizing=False).weight
    with torch.no_grad():
        table[ids] = torch.stack(list(rows.values())).to(table)


def add_tokens(tokenizer: Any, tokens: list[str]) -> list[int]:
    """Add tokens, each read as one from now on, and return their numbers.

    Raises:
        ValueError: the tokenizer has one of them already.
    """
    known = tokenizer.get_vocab()
    for token in tokens:
        if token in known:
            raise ValueError(f"its tokenizer has a token {token} already.")
    tokenizer.add_tokens(tokens)
    return [int(number) for number in tokenizer.convert_tokens_to_ids(tokens)]


def _move(pipe: Any, device: torch.device, spec: ModelSpec) -> Any:
    """Move a pipeline to its device, with the settings that belong to this device."""
    pipe.set_progress_bar_config(disable=True)
    round_noise(pipe)
    if hasattr(pipe, "watermark"):
        pipe.watermark = None  # it needs a package, so images would differ between machines
    if spec.size >= SLICING and hasattr(getattr(pipe, "vae", None), "enable_slicing"):
        pipe.vae.enable_slicing()
    if spec.offload and device.type == "cuda":
        require("accelerate")
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if device.type == "cuda" and hasattr(pipe, "unet"):
        pipe.unet.to(memory_format=torch.channels_last)
    if spec.compile and denoiser is not None:
        denoiser.compile()
    return pipe


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the loading bars of transformers, and advice that does not apply."""
    bars: Any = importlib.import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    lora_log = logging.getLogger("diffusers.loaders.lora_base")
    lora_log.addFilter(_is_needed)
    try:
        yield
    finally:
        lora_log.removeFilter(_is_needed)
        if shown:
            bars.enable_progress_bar()


def _is_needed(record: logging.LogRecord) -> bool:
    """Return False for the remark that a LoRA is for the U-Net alone, as all of ours are."""
    return "No LoRA keys associated to CLIPText" not in record.getMessage()
