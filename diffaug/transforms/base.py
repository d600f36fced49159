"""The base of the transforms: types in and out, the gate ``p``, and the hooks that jobs call."""

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torchvision.transforms import v2

from diffaug import functional, images
from diffaug.arguments import unit
from diffaug.backends import presets, registry
from diffaug.backends.base import Backend, is_backend, spec_of
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.labels import samples
from diffaug.switches import own_defaults
from diffaug.transforms.pausing import answers_here, is_again
from diffaug.transforms.recurrence import Recurrence, dataset_length

#: What was drawn for one image: plain JSON values.
Params = dict[str, Any]
BackendLike = str | Path | ModelSpec | Backend


class Finished(NamedTuple):
    """What a transform made of some images.

    Args:
        images: the result ``(N, 3, H, W)``.
        params: what was really applied to each image. It is what was drawn, except where the model
            refused an image and its label must not change.
    """

    images: torch.Tensor
    params: list[Params]


#: Longer tuples are cut in a ``repr``: DiffuseMix has nine prompts, ImageNet a thousand classes.
SHOWN = 9

_augmenting = ContextVar("augmenting", default=True)
_generator: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)
_length: ContextVar[int | None] = ContextVar("length", default=None)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let transforms draw from a generator instead of torch's global one, in this thread."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


@contextmanager
def augmenting(switch: bool, length: int | None = None) -> Iterator[None]:
    """While the switch is off, pass every image as if ``p`` were 0, in this thread.

    The length is that of the dataset that the images are from.
    """
    on = switch and _augmenting.get()  # one within does not turn it on again
    tokens = _augmenting.set(on), _length.set(length)
    try:
        yield
    finally:
        _augmenting.reset(tokens[0])
        _length.reset(tokens[1])


class ImageTransform(v2.Transform):
    """Base of the transforms: types in and out, the gate ``p``, and three hooks.

    A subclass overrides ``draw`` (every random number, once), ``requests`` (which images it needs
    generated) and ``finish`` (the result, from the image, what was generated, and what was drawn).
    Online use, offline sets and previews call these three hooks. No hook changes its arguments.
    """

    _transformed_types: tuple[Any, ...] = images.TRANSFORMED_TYPES
    backend: ModelSpec | Backend | None = None
    #: Whether it needs ``(image, label)``, and not an image alone.
    needs_label = False
    cache = False
    #: Where a sample keeps its image and its label; ``"default"`` for the usual places.
    image_getter: samples.Getter = "default"
    labels_getter: samples.Getter = "default"
    #: How many augmented copies of one image an offline set has by default.
    copies = 1
    #: Settings that do not change an offline set.
    online_only: frozenset[str] = frozenset({"p"})

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = unit("p", p)
        self._recurrence = Recurrence()

    def __call__(self, *inputs: Any) -> Any:
        with own_defaults():
            return super().__call__(*inputs)

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        """Draw what is random about ``n`` images; None is torch's global generator, as in v2."""
        return [{} for _ in range(n)]

    def draw_copy(self, copy: int, generator: torch.Generator, label: str | None = None) -> Params:
        """Draw for the copy of this number of an image of an offline set; ``p`` is ignored.

        ``label`` is the name of the image's class.
        """
        return self.draw(1, generator)[0]

    def choices(self, image: torch.Tensor, label: Any) -> Iterator[Params]:
        """List all params that can be drawn for an image (1, 3, H, W) and give different requests.

        ``warm_cache`` asks for it. Where ``draw`` draws nothing, there is one choice.

        Raises:
            TypeError: the transform overrides ``draw`` and does not say what can be drawn.
            ValueError: there is no end to what can be drawn.
        """
        if type(self).draw is not ImageTransform.draw:
            raise TypeError(
                f"{type(self).__name__} must override 'choices' to fill the cache: a method that "
                "lists all params that 'draw' can return for an image."
            )
        return iter([{}])

    def check_files(self) -> None:
        """Read once what the transform takes from disk; a run calls it before the model."""

    def pair_up(
        self, keys: Sequence[str], labels: Sequence[str], copies: int, seed: int
    ) -> Iterator[tuple[str, int]] | None:
        """Choose the source of each image of an offline set; None: each one ``copies`` times."""
        return None

    def label_of(self, params: Params, label: str) -> str:
        """Return the name of the class that an image of this class has after the transform."""
        return label

    def requests(self, image: torch.Tensor, params: list[Params]) -> list[GenerationRequest]:
        """Return the requests for what must be generated for the images (N, 3, H, W)."""
        return []

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> Finished:
        """Make the result (N, 3, H, W), in the dtype and on the device of the images."""
        return Finished(image, params)

    def stages(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> dict[str, torch.Tensor]:
        """Return the images of each stage by name, the result last; for previews."""
        return {"result": self.finish(image, generated, params).images}

    def all_prompts(self) -> tuple[str, ...]:
        """Return every prompt that a request can have, where these are known beforehand."""
        return ()

    def describe(self, params: Params) -> Params:
        """Say in plain values what was applied, for a manifest."""
        return dict(params)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """List the arguments of the constructor that are kept, and the prompts, each once."""
        settings = self._settings()
        names = dict.fromkeys([*inspect.signature(type(self)).parameters, "prompts"])
        return ", ".join(f"{name}={_shown(settings[name])}" for name in names if name in settings)

    def _settings(self) -> dict[str, Any]:
        """Return what the arguments of the constructor have become, by their names."""
        return dict(vars(self))

    def sample(self, n: int, generator: torch.Generator | None = None) -> list[Params | None]:
        """Draw for ``n`` images; None for the images that ``p`` leaves as they are."""
        generator = generator or _generator.get()
        gate = (torch.rand(n, generator=generator) < self.p).tolist()
        drawn = self.draw(n, generator)
        on = _augmenting.get()  # asked afterwards, so that what is drawn next is the same
        return [
            params if on and passes else None for params, passes in zip(drawn, gate, strict=True)
        ]

    def forward(self, *inputs: Any) -> Any:
        """Augment an image, or a sample with an image in it, as torchvision's transforms do."""
        return self.augment_sample(inputs if len(inputs) > 1 else inputs[0])

    def augment_sample(
        self,
        sample: Any,
        image_getter: samples.Getter = "default",
        labels_getter: samples.Getter = "default",
    ) -> Any:
        """Augment the image of a sample, or of a batch; a getter goes before the transform's."""
        if image_getter == "default":
            image_getter = self.image_getter
        if labels_getter == "default":
            labels_getter = self.labels_getter
        if isinstance(sample, Mapping) and type(sample) not in samples.DICTS:
            sample = dict(sample)  # torchvision would not look into it
        place = _unmarked_place(sample, image_getter)
        if place is None:
            return self._augment_marked(sample, labels_getter)
        marked = samples.put(sample, place, images.mark_image(samples.get(sample, place)))
        made = self._augment_marked(marked, labels_getter)
        return samples.put(made, place, images.unmark_image(samples.get(made, place)))

    def _augment_marked(self, sample: Any, labels_getter: samples.Getter) -> Any:
        """Augment the images of a sample, in which torchvision finds them."""
        return super().forward(sample)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        if any(images.is_video(value) for value in flat_inputs):
            raise TypeError(
                f"{type(self).__name__} takes images, got a Video; "
                "pass its frames as a tv_tensors.Image of shape (T, C, H, W)."
            )

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        if not flat_inputs:
            raise TypeError(
                f"{type(self).__name__} found no image in its input: no PIL image and no tensor; "
                "put v2.ToImage() before it."
            )
        drawn = self.sample(max(images.check_image(image) for image in flat_inputs))
        if self.cache and any(drawn) and not is_again():
            self._note(flat_inputs[0])
        return {"drawn": drawn}

    def _note(self, image: Any) -> None:
        """Warn once if the images are new ones in each epoch, so that the cache never has any."""
        length = _length.get() or dataset_length()
        if not length or (is_backend(self.backend) and not hasattr(self.backend, "holds")):
            return
        if different := self._recurrence.note(image, length):
            warnings.warn(
                f"{type(self).__name__} got {different:,} different images of a dataset of "
                f"{length:,}: if a step before it is random, every image is generated anew, and "
                "the cache never has it; put random crops and flips behind it.",
                UserWarning,
                stacklevel=3,
            )

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self.augment(inpt, params["drawn"])[0]

    def augment(
        self, image: Any, drawn: list[Params | None], unpacked: images.Unpacked | None = None
    ) -> tuple[Any, list[Params | None]]:
        """Augment an image, or a batch of them; return what was really applied beside it.

        The image is one that ``make_params`` has checked; ``unpacked`` is it, if that is there.
        """
        count = images.count(image)
        live = {index: params for index, params in enumerate(drawn[:count]) if params is not None}
        if not live:
            return image, drawn
        pixels, restore = unpacked or images.unpack(image)  # (N, 3, H, W)
        chosen, params = take(pixels, list(live)), list(live.values())
        requests = self.requests(chosen, params)
        generated = answers_here(self.live_backend(), requests) if requests else []
        result, params = self.finish(chosen, generated, params)
        if len(live) < count:
            finished, result = result, pixels.clone()
            result[list(live)] = finished
        elif isinstance(image, torch.Tensor) and _shares(
            result, [pixels, *(answer.image for answer in generated)]
        ):
            result = result.clone()  # it is the caller's, who may change it in place
        applied = dict(enumerate(drawn)) | dict(zip(live, params, strict=True))
        return restore(result), list(applied.values())

    def shrink(self, image: torch.Tensor) -> torch.Tensor:
        """Return images as the backend gets them: uint8, on the CPU, not larger than it works."""
        height, width = image.shape[-2:]
        rows = columns = self._model_size() or max(height, width)
        if (spec := spec_of(self.backend)) and spec.keep_aspect:
            rows, columns = replace(spec, size=rows).working_shape(height, width)
        small = (min(height, rows), min(width, columns))
        # On the CPU first: a GPU resizes by other arithmetic, and keys are hashes of the pixels.
        return functional.resize(images.to_uint8(image).cpu(), small)

    def _model_size(self) -> int | None:
        """Return the side that the model works at; one that its spec does not say is looked up."""
        if isinstance(self.backend, ModelSpec) and self.backend.size is None:
            return registry.named(self.backend).size
        return self.backend.size if self.backend is not None else None

    def live_backend(self) -> Backend:
        """Return the process's backend for this transform; it loads on first use."""
        if self.backend is None:
            raise TypeError(f"{type(self).__name__} generates nothing and has no backend.")
        return registry.backend_for(self.backend, cache=self.cache)


def _unmarked_place(sample: Any, getter: samples.Getter) -> samples.Place | None:
    """Return where a sample keeps a pure tensor that is its image; None where there is none.

    torchvision takes the first pure tensor of a sample for the image, and a label that comes first
    is one, too. So the tensor at this place must be marked.
    """
    if not isinstance(sample, (Mapping, tuple, list)):
        return None
    try:
        place = samples.image_place(sample, getter)
    except TypeError:
        if getter != "default":
            raise
    else:
        image = samples.get(sample, place)
        if getter != "default" or _may_be_image(image):
            return place if images.is_pure_tensor(image) else None
    parts = list(sample.items() if isinstance(sample, Mapping) else enumerate(sample))
    pictures = [(step, part) for step, part in parts if _may_be_image(part)]
    lone = len(pictures) == 1 and images.is_pure_tensor(pictures[0][1])
    return (pictures[0][0],) if lone else None


def listed_images(
    sample: Any, getter: samples.Getter
) -> tuple[samples.Place, list[Any] | tuple[Any, ...]] | None:
    """Return where a sample keeps a list of images, as Hugging Face's batches do, and the list."""
    try:
        place = samples.image_place(sample, getter)
    except TypeError:
        return None
    pictures = samples.get(sample, place)
    listed = isinstance(pictures, (list, tuple)) and len(pictures) > 0
    return (place, pictures) if listed and all(map(images.is_image, pictures)) else None


def _may_be_image(value: Any) -> bool:
    """Return whether a value is an image, or a pure tensor in the shape of one."""
    return images.is_image(value) and getattr(value, "ndim", 3) > 2


def _shown(value: Any) -> str:
    """Show a setting on one line: a model by its name, a backend by its class, a few of many."""
    if isinstance(value, ModelSpec):
        value = presets.name_of(value.model)
    elif is_backend(value):
        return type(value).__name__
    if type(value) is tuple and len(value) > SHOWN:
        first = ", ".join(map(repr, value[:SHOWN]))
        return f"({first}, ... {len(value) - SHOWN} more)"
    return repr(value) if isinstance(value, str) else str(value)


def take(image: torch.Tensor, live: list[int]) -> torch.Tensor:
    """Return the images at these indices, which rise; nothing is copied if these are all."""
    return image if len(live) == len(image) else image[live]


def fit(image: torch.Tensor, generated: list[Generated]) -> torch.Tensor:
    """Return what was generated for the images (N, 3, H, W) in their size, dtype and device.

    It may be in the memory of what was generated.
    """
    size = (image.shape[-2], image.shape[-1])
    fitted = [
        source
        if answer.fallback  # the source at full size, and not as the model got it
        else images.to_dtype(functional.resize(answer.image, size), like=image)
        for source, answer in zip(image, generated, strict=True)
    ]
    return fitted[0][None] if len(fitted) == 1 else torch.stack(fitted)


def _shares(image: torch.Tensor, others: Iterable[torch.Tensor]) -> bool:
    """Return whether an image is in the memory of another one."""
    memory = image.untyped_storage().data_ptr()
    return any(memory == other.untyped_storage().data_ptr() for other in others)
