"""From a spec to a diffusers pipeline on its device: only safetensors, nothing random, no code."""

import importlib
import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from diffaug.backends import finetuned
from diffaug.backends.adapters import add_adapters
from diffaug.backends.compiling import compile_blocks, prepare_compiler
from diffaug.backends.devices import choose_device, fitting, is_out_of_memory
from diffaug.backends.hub import download, is_revision, pin
from diffaug.backends.kinds import refuse_other_kind, settings_of
from diffaug.backends.model_files import (
    components,
    read_index,
    read_json,
    variant_of,
    weights_of,
)
from diffaug.backends.named_classes import (
    check_shards,
    is_of_transformers,
    part_class,
    pipeline_class,
)
from diffaug.backends.noise import round_noise
from diffaug.backends.part_sizes import check_size
from diffaug.backends.presets import name_of, show_licence
from diffaug.backends.revisions import split_revision
from diffaug.backends.spec import ModelSpec
from diffaug.backends.wholeness import next_step
from diffaug.errors import (
    DiffaugError,
    GenerationError,
    MissingDependencyError,
    ModelError,
    first_line,
    require,
)

_log = logging.getLogger("diffaug")
_loading_log = logging.getLogger("diffaug.loading")

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
#: What no tokenizer of a text-to-image model reads as the same.
_PROBES = ("snowy", "a red car", "q", "z")
#: transformers says 10**30 where a tokenizer has no longest text.
_NO_LIMIT = 10**9
#: From this side in pixels on, an autoencoder takes one image at a time, which is not slower.
SLICING = 512
#: Or from so many pixels in a batch on: those of 32 images of 512 px are a tensor of 2**31 elements
#: in it, too many for kernels that count in 32 bits.
SLICED_PIXELS = 32 * 512**2


def load_pipeline(spec: ModelSpec, *, offloads: bool = True) -> Any:
    """Load a pinned spec's pipeline onto its device; whatever is missing or unsafe is an error.

    The global random state does not change. The licence is logged. ``offloads`` says whether the
    caller can set ``offload``, which errors then advise.

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
    prepare_compiler(spec, device)
    show_licence(spec)
    _loading_log.info("loading %s on %s ...", name_of(spec.model), device)
    with _fitting(spec, device, offloads), torch.random.fork_rng(devices=[]), quiet():
        try:
            pipe = _assemble(folder, index, spec, _choose_dtype(spec.dtype, device, index))
            add_adapters(pipe, spec)
            return _move(pipe, device, spec)
        except RuntimeError as error:
            if device.type == "cpu" or is_out_of_memory(error):
                raise
            # The device is busy, or its driver does not fit torch.
            raise GenerationError(
                f"'{spec.model}' cannot be loaded onto {device} ({first_line(error)}); see "
                "nvidia-smi, or set device='cpu'."
            ) from error


def _fitting(
    spec: ModelSpec, device: torch.device, offloads: bool = True
) -> AbstractContextManager[None]:
    """Say which model does not fit into memory, and what to do."""
    offloads = offloads and device.type == "cuda" and not spec.offload
    step = "set offload=True" if offloads else None
    return fitting(f"'{spec.model}'", device, "choose a smaller model", step)


def load_tokenizer(spec: ModelSpec) -> Any:
    """Load a pinned spec's tokenizer alone, after fetching the model if it is not here."""
    folder = download(spec)
    library, kind = components(read_index(folder), spec)["tokenizer"]
    with _fitting(spec, torch.device("cpu")):
        return _load_part(folder / "tokenizer", library, kind, torch.float32, spec.variant)


def tokens_of(prompt: str, tokenizer: Any) -> list[int]:
    """Return the tokens of a prompt, uncut; a word of several vectors becomes as many tokens."""
    from diffusers.loaders import TextualInversionLoaderMixin

    read = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
    tokens: list[int] = tokenizer(read, verbose=False)["input_ids"]
    return tokens


def _check_base(spec: ModelSpec) -> None:
    for adapter in spec.adapters:
        if finetuned.is_learned(split_revision(adapter)[0]):
            raise ModelError(
                f"the adapter '{adapter}' is a fine-tuned folder, which names its own base; give "
                "it as the model."
            )
    learned = finetuned.find(spec)
    # A revision is a commit or a hash of the weights, so a model that was only moved is the same.
    if learned and not is_revision(spec, learned.revision):
        raise ModelError(
            f"'{learned.folder}' was fine-tuned on '{learned.base}' ({learned.revision}) and does "
            f"not fit '{spec.model}' ({pin(spec).revision}); give that folder as the model."
        )


def _check_task(folder: Path, index: dict[str, Any], spec: ModelSpec) -> None:
    name = index["_class_name"]
    unet = read_json(folder / "unet" / "config.json") if "unet" in index else {}
    refuse_other_kind(spec.model, index, unet)
    own = settings_of(folder).get("size", spec.size)
    if name_of(spec.model) == spec.model and not Path(spec.model).exists() and own != spec.size:
        _log.warning(
            "'%s' was made for %d px and runs at %d; set size=%d ('--model-size')",
            spec.model, own, spec.size, own,
        )  # fmt: skip
    if "unet" not in index:
        if spec.task == "edit" and name not in EDITORS:
            raise ModelError(
                f"'{spec.model}' is a {name}, which does not edit; set task='translate' or "
                "task='generate', or choose an editing model."
            )
        return
    channels, latents = unet.get("in_channels"), unet.get("out_channels", 4)
    if type(latents) is not int:
        raise ModelError(
            f"'{folder / 'unet' / 'config.json'}' must say how many out_channels there are, got "
            f"{latents!r:.60}; get it again, or choose another model."
        )
    # An editing U-Net sees the source's latents beside the noisy ones.
    wanted = (2 if spec.task == "edit" else 1) * latents
    if channels != wanted:
        tasks = {2 * latents: "task='edit'", latents: "task='translate' or task='generate'"}
        other = f"set {tasks[channels]}, or " if channels in tasks else ""
        raise ModelError(
            f"'{spec.model}' cannot do task={spec.task!r}: its U-Net takes {channels!r:.60} "
            f"channels where that needs {wanted}; {other}choose another model."
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
    pipeline = pipeline_class(name, spec.model)
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
        with _naming_the_package(f"the scheduler {spec.scheduler}"):
            parts["scheduler"] = kind.from_config(parts["scheduler"].config)
    _check_noise(parts.get("scheduler"))
    parameters = inspect.signature(pipeline.__init__).parameters
    settings = {
        key: None if isinstance(value, list) else value
        for key, value in index.items()
        if key in parameters and key not in parts and _is_plain(value)
    }
    if "requires_safety_checker" in parameters:
        settings["requires_safety_checker"] = spec.safety_checker
    try:
        pipe = pipeline(**parts, **settings)
    except (TypeError, ValueError) as error:  # a part is absent, or one too many
        raise ModelError(
            f"'{spec.model}' does not have the parts of a {name} ({first_line(error)}); get it "
            "again, or choose another model."
        ) from error
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


def _is_plain(value: Any) -> bool:
    """Return whether a setting of a pipeline is a switch or a number, and names nothing."""
    return value is None or isinstance(value, (bool, int, float, list))


def _check_noise(scheduler: Any) -> None:
    """Refuse a scheduler whose noise is not that of a request's seed: no image could come again."""
    if hasattr(scheduler, "noise_sampler"):
        raise _own_noise(f"the scheduler {type(scheduler).__name__}")


def _own_noise(scheduler: str) -> ModelError:
    return ModelError(
        f"{scheduler} draws noise of its own, so that equal requests would give other images; set "
        "scheduler='DPMSolverMultistepScheduler', or another that takes a generator."
    )


def _load_part(
    folder: Path, library: str, name: str, dtype: torch.dtype, variant: str | None
) -> Any:
    """Load one part of a pipeline, from diffusers or transformers and from nowhere else."""
    kind = part_class(library, name, folder)
    is_module = issubclass(kind, torch.nn.Module)
    names = [file.name for file in folder.iterdir()]
    weights = weights_of(names, variant, str(folder)) if is_module else []
    check_size(kind, folder, weights)
    try:
        with _naming_the_package(f"'{folder}'"):
            return _read_part(kind, folder, dtype, weights)
    except DiffaugError:
        raise
    except Exception as error:  # damaged files trip any of the parsers below
        if is_out_of_memory(error):
            raise  # it may be whole
        reason = first_line(error).rstrip(".")
        raise ModelError(
            f"'{folder}' could not be loaded: {reason}; {next_step(folder)}."
        ) from error


@contextmanager
def _naming_the_package(what: str) -> Iterator[None]:
    """Say in one line which package is missing, as neither library does."""
    try:
        yield
    except ImportError as error:
        found = re.search(r"requires the (\w+) library", str(error))
        package = found[1] if found else error.name
        if package is None:
            raise
        if package == "torchsde":  # schedulers use it for nothing else
            raise _own_noise(what) from error
        raise MissingDependencyError(
            f"{what} needs the package '{package}', which is not installed; install it with: "
            f"pip install {package}"
        ) from error


def _read_part(kind: Any, folder: Path, dtype: torch.dtype, weights: list[str]) -> Any:
    if not issubclass(kind, torch.nn.Module):
        code = {"trust_remote_code": False} if is_of_transformers(kind) else {}
        part = kind.from_pretrained(str(folder), local_files_only=True, **code)
        if "Tokenizer" in kind.__name__:
            _check_reading(part, folder)
            _fit_encoder(part, folder)
        return part
    variant = variant_of(weights[0]) if weights else None
    part, missing = read_module(kind, folder, dtype, variant)
    if missing:
        raise ModelError(
            f"'{folder}' lacks {len(missing)} weights that {kind.__name__} needs ({missing[0]}, "
            f"...); it was saved incomplete, or by another version of the library: "
            f"{next_step(folder)}, or upgrade."
        )
    return part


def _check_reading(tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer without its words, to which every prompt is the same."""
    read = {tuple(tokenizer(text)["input_ids"]) for text in _PROBES}
    if len(read) < len(_PROBES):
        raise ModelError(
            f"'{folder}' reads different prompts as the same tokens, for its vocabulary is absent "
            f"or damaged; {next_step(folder)}."
        )


def _fit_encoder(tokenizer: Any, folder: Path) -> None:
    """Let a tokenizer that knows no longest prompt cut where its text encoder ends.

    Raises:
        ModelError: it reads words as tokens that the text encoder does not have.
    """
    file = folder.parent / folder.name.replace("tokenizer", "text_encoder") / "config.json"
    config = read_json(file) if file.is_file() else {}
    words = config.get("vocab_size")
    most = max(token for text in _PROBES for token in tokenizer(text)["input_ids"])
    if type(words) is int and most >= words:
        raise ModelError(
            f"'{folder}' reads words as tokens up to {most}, and '{file.parent}' has {words}; "
            f"{next_step(folder)}."
        )
    if tokenizer.model_max_length > _NO_LIMIT:
        length = config.get("max_position_embeddings")
        if isinstance(length, int):
            tokenizer.model_max_length = length


def read_module(
    module_class: Any, folder: Path, dtype: torch.dtype, variant: str | None = None
) -> tuple[Any, list[str]]:
    """Read a module from safetensors here; also return the tensors that are missing.

    A missing tensor would silently be a random one.
    """
    check_shards(folder)
    code = {"trust_remote_code": False} if is_of_transformers(module_class) else {}
    module, report = module_class.from_pretrained(
        str(folder),
        dtype=dtype,
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **code,
    )
    return module, sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))


def _move(pipe: Any, device: torch.device, spec: ModelSpec) -> Any:
    """Move a pipeline to its device, with the settings that belong to this device."""
    pipe.set_progress_bar_config(disable=True)
    round_noise(pipe)
    if hasattr(pipe, "watermark"):
        pipe.watermark = None  # it needs a package, so images would differ between machines
    most = 1 if spec.batch_size == "auto" else spec.batch_size  # it chooses small ones
    is_large = spec.side >= SLICING or most * spec.side**2 >= SLICED_PIXELS
    if is_large and hasattr(getattr(pipe, "vae", None), "enable_slicing"):
        pipe.vae.enable_slicing()
    if spec.offload and device.type == "cuda":
        require("accelerate")
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    if device.type == "cuda" and hasattr(pipe, "unet"):
        pipe.unet.to(memory_format=torch.channels_last)
        if spec.compile:  # or else compiled convolutions would turn their weights at each call
            pipe.vae.to(memory_format=torch.channels_last)
    if spec.compile:
        compile_blocks(pipe)
    return pipe


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the bars and the advice of the libraries; what matters, diffaug says itself."""
    bars: Any = importlib.import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    logs = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        if shown:
            bars.enable_progress_bar()
