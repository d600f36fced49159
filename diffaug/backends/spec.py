"""Which model generates, and how it is run."""

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral, Real
from typing import Any, Literal, get_args

from diffaug.backends.ranks import Choice, choice_for_child, inherit
from diffaug.checked import checked
from diffaug.seeds import digest

#: It is part of every key. Raise it when the same request would give other pixels than before.
FORMAT_VERSION = 1

Task = Literal["edit", "translate", "generate"]
#: The most steps that the schedule of a model for few steps may have.
_MOST_STEPS = 50
#: Under this name, a pickled spec brings the GPU of the process that has started a worker.
_CHOICE = "choice of a GPU"
TASKS: tuple[Task, ...] = get_args(Task)


@lru_cache(maxsize=64)
def _shapes(size: int) -> list[tuple[int, int]]:
    """Return the working shapes with about as many pixels as a square, the squarest first.

    A shape for each multiple of 8 that the longer side can be, up to twice the square's.
    """
    longer = range(size, 2 * size + 1, 8)
    wide = [(max(8, 8 * round(size * size / side / 8)), side) for side in longer]
    return [shape for pair in wide for shape in (pair, pair[::-1])]


@checked
@dataclass(frozen=True)
class ModelSpec:
    """Describe a diffusion model and how to run it, in plain JSON values.

    A spec loads nothing. Workers get it, and cache keys are made of it.

    Args:
        model: model id on the Hugging Face Hub, or a local folder in diffusers' layout.
        task: ``"edit"`` (InstructPix2Pix: image and instruction), ``"translate"`` (image-to-image
            from a partly noised image) or ``"generate"`` (text to image).
        revision: the Hub commit, or ``"sha256:..."`` of a folder's weights; None is looked up once,
            on first use.
        variant: weight-file variant such as ``"fp16"``.
        size: side in pixels of the square the model works at, a multiple of 8; None for that of
            the model's own configuration, which is looked up with the revision, on first use.
        steps: scheduler steps, >= 1. A translation runs ``max(1, int(steps * strength))`` of them.
        all_steps: a translation runs all ``steps``, not a share of them, and starts where its
            strength says. For models that need few steps: half of four would be too few.
        guidance_scale: text guidance; 1 turns it off.
        image_guidance_scale: guidance towards the source image, ``"edit"`` only, >= 1.
        scheduler: class name of a diffusers scheduler, or None for the model's own.
        adapters: LoRA folders, files or Hub ids (``"org/name@commit"``, or one of several files,
            ``"org/name/file.safetensors@commit"``), in the order in which they are applied. A
            weight may follow: ``"loras/birds*0.7"``.
        fuse_adapters: add LoRAs to the weights when the model is loaded, so that they take no time
            later. It changes the last bits of images, and so the fingerprint. Quantised models,
            and LoRAs that cannot be added, need False.
        safety_checker: run the model's own safety checker; refused images are generated again.
        dtype: ``"auto"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        device: ``"auto"`` (the GPU that this process or its parent trains on, this rank's, cuda:0,
            mps, cpu, in this order) or a torch device.
        batch_size: images in one call of the model, >= 1; or ``"auto"``: when the model is loaded,
            what fits into the free memory of its GPU, 32 at most, and 8 elsewhere.
        pad: always call the model with exactly ``batch_size`` images, so that an image is the same
            to the bit whatever other images are in its batch.
        compile: ``torch.compile`` the blocks of the U-Net and of the autoencoder, which takes a
            minute at first; batches are padded, since each new batch size would compile again.
        offload: keep on the GPU only the part that runs (for cards of 6 to 8 GB).
        keep_aspect: work at about the shape of each image instead of a square: as many pixels, each
            side a multiple of 8, none longer than four times the other. Diffusion models are
            trained on squares mostly, and the papers use these.

    Raises:
        ValueError: an argument is outside its range; the message names it.

    Example:
        >>> from diffaug import ModelSpec
        >>> fast, slow = ModelSpec("my/model", steps=25), ModelSpec("my/model", steps=50)
        >>> fast.fingerprint == slow.fingerprint
        False
        >>> fast.fingerprint == ModelSpec("my/model", steps=25, device="cuda:1").fingerprint
        True
    """

    model: str
    task: Task = "edit"
    revision: str | None = None
    variant: str | None = None
    size: int | None = None
    steps: int = 20
    all_steps: bool = False
    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5
    scheduler: str | None = None
    adapters: tuple[str, ...] = ()
    safety_checker: bool = False
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int | Literal["auto"] = 8
    pad: bool = False
    compile: bool = False
    offload: bool = False
    keep_aspect: bool = False
    fuse_adapters: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", str(self.model))
        object.__setattr__(self, "adapters", tuple(str(adapter) for adapter in self.adapters))
        if not self.model:
            raise ValueError("'model' must be a model id or a folder, got ''.")
        for name in ("revision", "variant", "scheduler"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"'{name}' must be a string, got {value!r:.200}.")
        if self.task not in TASKS:
            raise ValueError(f"'task' must be one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.dtype not in ("auto", "float32", "float16", "bfloat16"):
            raise ValueError(
                f"'dtype' must be auto, float32, float16 or bfloat16, got {self.dtype!r}."
            )
        object.__setattr__(self, "device", _device(self.device))
        for name in ("guidance_scale", "image_guidance_scale"):  # 4 and 4.0 are one fingerprint
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(f"'{name}' must be a number, got {value!r}.")
            object.__setattr__(self, name, float(value))
        for name in ("size", "steps", "batch_size"):
            value = getattr(self, name)
            if name == "size" and value is None:
                continue
            if name == "batch_size" and isinstance(value, str) and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                instead = " or 'auto'" if name == "batch_size" else ""
                raise ValueError(
                    f"'{name}' must be an integer of at least 1{instead}, got {value!r}."
                )
            object.__setattr__(self, name, int(value))  # numpy's have no JSON, so no fingerprint
        if self.size is not None and self.size % 8:
            raise ValueError(f"'size' must be a positive multiple of 8, got {self.size}.")
        if self.compile and self.offload:
            raise ValueError(
                "'compile' must be False with offload=True, got True: what moves between CPU and "
                "GPU is compiled again and again; choose one of the two."
            )
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(f"'guidance_scale' must be at least 0, got {self.guidance_scale}.")
        if not 1 <= self.image_guidance_scale < math.inf:
            raise ValueError(
                f"'image_guidance_scale' must be at least 1, got {self.image_guidance_scale}."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Also tell a worker that is started with this spec which GPU "auto" is here."""
        choice = choice_for_child()
        return vars(self) if choice is None else {**vars(self), _CHOICE: tuple(choice)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if _CHOICE in state:
            inherit(Choice(*state[_CHOICE]))
        vars(self).update({name: value for name, value in state.items() if name != _CHOICE})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that changes a pixel; device and batch size are not part of it."""
        return digest([FORMAT_VERSION, self.identity()]).hex()[:32]

    @property
    def side(self) -> int:
        """The size, where it was given or is looked up.

        Raises:
            ValueError: it is not looked up yet.
        """
        if self.size is None:
            raise ValueError(f"'size' must be known, and is that of '{self.model}' yet; pin it.")
        return self.size

    def schedule(self, strength: float | None) -> tuple[int, int]:
        """Return the steps of the scheduler, and how many of these a request runs."""
        if not strength:
            return self.steps, self.steps if strength is None else 1
        if not self.all_steps:
            return self.steps, max(1, int(self.steps * strength))
        steps = min(self.steps, max(1, int(_MOST_STEPS * strength)))
        # Rounded up, so that a translation never starts from more noise than was asked for.
        return max(steps, math.ceil(min(_MOST_STEPS, steps / strength) - 1e-9)), steps

    def real_strength(self, strength: float) -> float:
        """Return the strength at which a translation really runs: its share of whole steps.

        Example:
            >>> ModelSpec("my/model", steps=4).real_strength(0.7)
            0.5
        """
        if not strength:
            return 0.0
        scheduler_steps, steps = self.schedule(strength)
        real = steps / scheduler_steps
        if self.schedule(real) != (scheduler_steps, steps):  # 29 / 100 runs 28 steps
            real = math.nextafter(real, 1.0)
        return real

    def working_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width at which the model works on an image of this shape.

        An image that was shrunk to it, without being enlarged, has the same working shape.

        Example:
            >>> ModelSpec("my/model", size=512).working_shape(400, 1200)
            (512, 512)
            >>> ModelSpec("my/model", size=512, keep_aspect=True).working_shape(400, 1200)
            (296, 888)
        """
        if not self.keep_aspect:
            return self.side, self.side
        wanted = math.log(width / height)
        return min(
            _shapes(self.side), key=lambda shape: abs(math.log(shape[1] / shape[0]) - wanted)
        )

    def identity(self) -> dict[str, Any]:
        """Return the fields that change a pixel, as plain values."""
        fields = dataclasses.asdict(self)
        for name in ("device", "batch_size", "pad", "compile", "offload"):
            del fields[name]
        if self.revision and self.revision.startswith("sha256:"):
            del fields["model"]  # the weights identify a folder, wherever it is
        if not self.all_steps:
            del fields["all_steps"]  # older sets and caches do not know this field
        if not self.keep_aspect:
            del fields["keep_aspect"]  # nor this one
        if not (self.adapters and self.fuse_adapters):
            del fields["fuse_adapters"]  # older ones ran their LoRAs beside the model
        fields["adapters"] = [name.partition("@sha256:")[2] or name for name in self.adapters]
        return fields


def _device(name: str) -> str:
    """Return the device as torch spells it; only a spec that names one imports torch for it."""
    if name == "auto":
        return name
    import torch

    try:
        return str(torch.device(name))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"'device' must be 'auto' or a torch device like 'cuda:0', got {name!r}."
        ) from error
