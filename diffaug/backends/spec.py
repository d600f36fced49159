"""The seam between transforms and diffusion: what is asked, of which model, and what comes back."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self, get_args, runtime_checkable

import torch
from typing_extensions import TypeIs

from diffaug.seeds import MAX_SEED, derive_seed, digest

#: Part of every key: raise it when the same request would give other pixels than before.
FORMAT_VERSION = 1

Task = Literal["edit", "translate", "generate"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class ModelSpec:
    """Describe a diffusion model and how to run it, in plain JSON values.

    Nothing is loaded: a spec is what travels to workers and what a cache key is made of.

    Args:
        model: model id on the Hugging Face Hub, or a local folder in diffusers' layout.
        task: ``"edit"`` (InstructPix2Pix: image and instruction), ``"translate"`` (image-to-image
            from a partly noised image) or ``"generate"`` (text to image).
        revision: the Hub commit, or ``"sha256:..."`` of a folder's weights; None is resolved once,
            on first use.
        variant: weight-file variant such as ``"fp16"``.
        size: side in pixels of the square the model works at, a multiple of 8.
        steps: scheduler steps, >= 1. A translation runs ``max(1, int(steps * strength))`` of them.
        guidance_scale: text guidance; 1 turns it off.
        image_guidance_scale: guidance towards the source image, ``"edit"`` only, >= 1.
        scheduler: class name of a diffusers scheduler, or None for the model's own.
        adapters: LoRA folders, files or Hub ids (``"org/name@commit"``) , in
            the order they are applied.
        safety_checker: run the model's own safety checker; refused images are made again.
        dtype: ``"auto"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        device: ``"auto"`` (cuda:LOCAL_RANK, cuda:0, mps, cpu, in this order) or a torch device.
        batch_size: images in one call of the model, >= 1.
        pad: always call the model with exactly ``batch_size`` images: bit-equal pixels whatever the
            company of an image.
        compile: ``torch.compile`` the U-Net; pads batches, since a new batch size compiles anew.
        offload: keep on the GPU only the part that runs (for cards of 6 to 8 GB).

    Raises:
        ValueError: an argument is outside its range; the message names it.

    Example:
        >>> from diffaug import ModelSpec
        >>> one, other = ModelSpec("my/model", steps=25), ModelSpec("my/model", steps=50)
        >>> one.fingerprint == other.fingerprint
        False
        >>> one.fingerprint == ModelSpec("my/model", steps=25, device="cuda:1").fingerprint
        True
    """

    model: str
    task: Task = "edit"
    revision: str | None = None
    variant: str | None = None
    size: int = 512
    steps: int = 20
    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5
    scheduler: str | None = None
    adapters: tuple[str, ...] = ()
    safety_checker: bool = False
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = 8
    pad: bool = False
    compile: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", str(self.model))
        object.__setattr__(self, "adapters", tuple(str(adapter) for adapter in self.adapters))
        if not self.model:
            raise ValueError("'model' must be a model id or a folder, got ''.")
        if self.task not in TASKS:
            raise ValueError(f"'task' must be one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.dtype not in ("auto", "float32", "float16", "bfloat16"):
            raise ValueError(
                f"'dtype' must be auto, float32, float16 or bfloat16, got {self.dtype!r}."
            )
        try:
            device = "auto" if self.device == "auto" else str(torch.device(self.device))
        except RuntimeError as error:
            raise ValueError(
                f"'device' must be 'auto' or a torch device like 'cuda:0', got {self.device!r}."
            ) from error
        object.__setattr__(self, "device", device)
        for name in ("guidance_scale", "image_guidance_scale"):  # 4 and 4.0 are one fingerprint
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("size", "steps", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"'{name}' must be an integer of at least 1, got {value!r}.")
        if self.size % 8:
            raise ValueError(f"'size' must be a positive multiple of 8, got {self.size}.")
        if self.guidance_scale < 0:
            raise ValueError(f"'guidance_scale' must be at least 0, got {self.guidance_scale}.")
        if self.image_guidance_scale < 1:
            raise ValueError(
                f"'image_guidance_scale' must be at least 1, got {self.image_guidance_scale}."
            )

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes a pixel; device and batch size, for one, do not."""
        return digest([FORMAT_VERSION, self.identity()]).hex()[:32]

    def identity(self) -> dict[str, Any]:
        """Return the fields that change a pixel, as plain values."""
        fields = dataclasses.asdict(self)
        for name in ("device", "batch_size", "pad", "compile", "offload"):
            del fields[name]
        if self.revision and self.revision.startswith("sha256:"):
            del fields["model"]  # a folder is its weights, wherever it lies
        fields["adapters"] = [name.partition("@sha256:")[2] or name for name in self.adapters]
        return fields


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """Ask for one image. Equal requests give equal images.

    Args:
        prompt: what the model is told.
        seed: in [0, 2**53); with the other fields it determines the image.
        image: the source, uint8 ``(3, H, W)``, not larger than the model works at; None for
            text-to-image.
        negative_prompt: what the model is told to avoid.
        strength: how much of the source is noised away, in [0, 1]; None for an edit.

    Raises:
        ValueError, TypeError: a field is outside its range; the message names it.
    """

    prompt: str
    seed: int
    image: torch.Tensor | None = None
    negative_prompt: str = ""
    strength: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"'prompt' must be a string, got {type(self.prompt).__name__}.")
        if not isinstance(self.negative_prompt, str):
            raise TypeError(
                f"'negative_prompt' must be a string, got {type(self.negative_prompt).__name__}."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"'seed' must be an integer, got {type(self.seed).__name__}.")
        if not 0 <= self.seed < MAX_SEED:
            raise ValueError(f"'seed' must be in [0, 2**53), got {self.seed}.")
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ValueError(f"'strength' must be in [0, 1], got {self.strength}.")
        if self.image is not None:
            check_rgb(self.image, "image")

    def key(self, fingerprint: str) -> str:
        """Hash every field, the pixels, and the model's fingerprint to 64 hexadecimal digits."""
        return digest(
            [
                FORMAT_VERSION,
                fingerprint,
                self.prompt,
                self.negative_prompt,
                self.strength,
                self.seed,
                self.image if self.image is not None else None,
            ]
        ).hex()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationRequest):
            return NotImplemented
        return self.key("") == other.key("")

    def __hash__(self) -> int:
        return hash(self.key(""))


def check_rgb(image: torch.Tensor, name: str) -> None:
    """Raise unless ``image`` is a uint8 tensor of shape (3, H, W)."""
    if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8:
        kind = image.dtype if isinstance(image, torch.Tensor) else type(image).__name__
        raise TypeError(f"'{name}' must be a uint8 tensor, got {kind}.")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"'{name}' must have shape (3, H, W), got {tuple(image.shape)}.")


@dataclass(frozen=True, eq=False)
class Generated:
    """One generated image and how it came about.

    Args:
        image: uint8 ``(3, H, W)``, at the model's working size.
        seed: the seed that really made it: the request's, or a later one after a blank output.
        attempts: how many images were made for it, >= 1.
        fallback: True if every attempt was blank or refused and the source stands in.
    """

    image: torch.Tensor
    seed: int
    attempts: int = 1
    fallback: bool = False


@runtime_checkable
class Backend(Protocol):
    """Turn requests into images: a pure function of the requests and the fingerprint.

    ``generate`` keeps the order, takes an empty list, and raises before the model runs if a request
    is bad. ``close`` may be called twice. Implementations are final: variation is by wrapping.
    """

    @property
    def fingerprint(self) -> str:
        """Identify everything but the request that changes a pixel."""

    @property
    def size(self) -> int | None:
        """Side in pixels that the model works at; sources are shrunk to it. None: any."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Return one image for each request, in order."""

    def close(self) -> None:
        """Free what the backend holds; it may be loaded again by the next call."""

    def __enter__(self) -> Self:
        """Return the backend itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the backend."""


def is_backend(value: object) -> TypeIs[Backend]:
    """Tell whether a value is a backend, without touching its properties, which may need a hub."""
    return callable(getattr(type(value), "generate", None))


def spec_of(backend: Any) -> ModelSpec | None:
    """Return the spec of a model, or of a backend that has one, however it is wrapped."""
    while backend is not None and not isinstance(backend, ModelSpec):
        backend = getattr(backend, "spec", None) or getattr(backend, "backend", None)
    return backend


@dataclass(eq=False)
class RecordingBackend:
    """Stand in for a model: remember every request and answer at once with a recognisable image.

    The answer is the source with its channels rotated and a tint that depends on prompt and seed,
    so tests and documentation see at a glance which pixels are generated.

    Args:
        size: side in pixels of the answers, and of sources as transforms send them.
        requests: the requests so far, in order.

    Example:
        >>> from diffaug import GenerationRequest, RecordingBackend
        >>> backend = RecordingBackend(size=8)
        >>> [made] = backend.generate([GenerationRequest("sunset", seed=1)])
        >>> made.image.shape, backend.requests[0].prompt
        (torch.Size([3, 8, 8]), 'sunset')
    """

    size: int = 64
    requests: list[GenerationRequest] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return f"recording-{self.size}"

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        self.requests.extend(requests)
        return [self._answer(request) for request in requests]

    def _answer(self, request: GenerationRequest) -> Generated:
        tint = derive_seed(request.prompt, request.negative_prompt, request.strength, request.seed)
        colour = torch.tensor([tint & 255, tint >> 8 & 255, tint >> 16 & 255])
        image = torch.full((3, self.size, self.size), 128)
        if request.image is not None:
            rows = torch.arange(self.size) * request.image.shape[1] // self.size
            columns = torch.arange(self.size) * request.image.shape[2] // self.size
            image = request.image[:, rows][:, :, columns].roll(1, 0).int()
        mixed = (image + colour[:, None, None]) // 2
        return Generated(mixed.to(torch.uint8), seed=request.seed)

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
