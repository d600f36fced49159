"""Judge an image by CLIP: does it show what all classes are?"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffaug.arguments import whole
from diffaug.backends import devices, loading
from diffaug.backends.hub import download_flat, folder_of, pin
from diffaug.backends.model_files import flat_files
from diffaug.backends.spec import ModelSpec
from diffaug.checked import checked
from diffaug.errors import DiffaugError, ModelError, ModelUnavailableError
from diffaug.labels.word_files import for_classes
from diffaug.labels.words import words_in
from diffaug.offline.manifest import Row
from diffaug.switches import own_switches

CLIP = "openai/clip-vit-base-patch32"
#: It says nothing of a CLIP, so it is not looked up.
_CLIP_SIZE = 512
#: The only revision of that model that has safetensors.
CLIP_REVISION = "c237dc49a33fc61debc9276459120b7eac67e7ef"


@checked
class ClipFilter:
    """Score how likely an image shows what all classes are, such as a bird, according to CLIP.

    This is the paper's filter: the probability of "a photo with a bird on it" against "a photo
    without a bird on it". ``target_class`` is our extension: the paper checks the metaclass only.

    Args:
        metaclass: what all classes are, one word if possible: ``"bird"``.
        target_class: multiply by the probability of the row's own class, "a photo of a cardinal
            bird", among all classes of the set.
        class_names: with ``target_class``, words for the classes of the set by their names, where
            these are no words, such as ``n01443537``.
        model: Hub id or folder of a CLIP model with safetensors; the paper's by default.
        revision: Hub commit; None for a fixed commit of the paper's model, and for the newest of
            any other.
        device: ``"auto"`` (this rank's GPU, cuda:0, mps, cpu, in this order) or a torch device.
        batch_size: images in one call of the model, >= 1.

    Shape:
        Images: uint8 ``(3, H, W)``, of any sizes. Scores: ``(N,)``, float in [0, 1].

    Raises:
        ValueError: an argument is outside its range.
        ModelUnavailableError: on first use, the model is not here and cannot be fetched.
        ModelError: on first use, the model is unknown, incomplete, pickled, or not a CLIP model.
        GenerationError: the model, or one image, does not fit into memory.

    Example:
        >>> from diffaug import ClipFilter
        >>> ClipFilter("bird").captions
        ('a photo with a bird on it', 'a photo without a bird on it')

    Reference:
        Wang et al., Diff-Mix, CVPR 2024, arXiv 2403.19600; Radford et al., CLIP, 2021,
        arXiv 2103.00020.
    """

    name = "clip"

    def __init__(
        self,
        metaclass: str,
        *,
        target_class: bool = False,
        class_names: Mapping[str, str] | None = None,
        model: str | os.PathLike[str] = CLIP,
        revision: str | None = None,
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        if not isinstance(metaclass, str) or not metaclass.strip():
            raise ValueError(
                f"'metaclass' must say what all classes are, such as 'bird', got {metaclass!r}."
            )
        self.metaclass = metaclass.strip()
        self.target_class = target_class
        if class_names is not None and not target_class:
            raise ValueError(
                "'class_names' must not be given without target_class=True, which alone uses the "
                f"words of classes, got {class_names!r:.60}."
            )
        self.class_names = class_names
        self.batch_size = whole("batch_size", batch_size, 1)
        if revision is None and str(model) == CLIP:
            revision = CLIP_REVISION
        self._spec = ModelSpec(str(model), revision=revision, size=_CLIP_SIZE, device=device)
        self._loaded: _Clip | None = None
        self._classes: tuple[str, ...] = ()
        self._words: tuple[str, ...] = ()
        self._embedded: tuple[tuple[str, ...], torch.Tensor] | None = None

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions to compare with: with the metaclass, without it, and one for each class."""
        thing = self.metaclass
        return (
            f"a photo with a {thing} on it",
            f"a photo without a {thing} on it",
            *(f"a photo of a {words} {thing}" for words in self._words),
        )

    def prepare(self, folder: Path, rows: Sequence[Row]) -> None:
        """Remember the classes of a set.

        Raises:
            ValueError: ``class_names`` lack one of them.
        """
        if self.target_class:
            self._classes = tuple(sorted({str(row.get("label")) for row in rows}))
            if self.class_names is not None:
                self._words = tuple(for_classes(self.class_names, self._classes).values())
            else:
                self._words = words_in(self._classes, stacklevel=2)

    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return the probability that each image shows what its captions say."""
        if self._loaded is None:
            self._loaded = _load_clip(self._spec)
        with own_switches(self._loaded.device, exact=True):
            return self._score(self._loaded, images, rows)

    def _score(
        self, clip: "_Clip", images: Sequence[torch.Tensor], rows: Sequence[Row]
    ) -> torch.Tensor:
        if self.target_class and not {str(row.get("label")) for row in rows} <= {*self._classes}:
            self.prepare(Path(), rows)  # without a set, the classes of the rows are all classes
        captions = self.captions
        if self._embedded is None or captions != self._embedded[0]:
            self._embedded = captions, clip.embedded(captions, images[:1])
        logits = clip.logits(images, self._embedded[1], captions[:1])
        scores = logits[:, :2].softmax(1)[:, 0]
        if self.target_class:
            own = torch.tensor([self._classes.index(str(row.get("label"))) for row in rows])
            scores = scores * logits[:, 2:].softmax(1).gather(1, own[:, None])[:, 0]
        return scores


class _Clip(NamedTuple):
    """A CLIP model on its device, and what prepares its inputs."""

    model: Any
    tokenizer: Any
    processor: Any
    in_parts: devices.AsManyAsFit

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def pixels(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        inputs = self.processor(
            list(pictures), return_tensors="pt", input_data_format="channels_first"
        )
        return inputs["pixel_values"].to(self.device)

    def tokens(self, captions: Sequence[str]) -> Any:
        longest = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        return inputs.to(self.device)

    def embedded(self, captions: Sequence[str], some: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return captions as vectors (C, D) on the CPU; each call of the model needs ``some``."""
        pixels = self.pixels(some)

        def embed(part: Sequence[str]) -> torch.Tensor:
            texts: torch.Tensor = self.model(pixel_values=pixels, **self.tokens(part)).text_embeds
            return texts

        return self.in_parts(embed, captions, self.device)

    def logits(
        self, pictures: Sequence[torch.Tensor], texts: torch.Tensor, some: Sequence[str]
    ) -> torch.Tensor:
        """Compare images with captions, (N, C) on the CPU.

        The model needs ``some`` captions in each call; one is cheaper than those of all classes.
        """
        texts, words = texts.to(self.device), self.tokens(some)

        def compare(part: Sequence[torch.Tensor]) -> torch.Tensor:
            shown = self.model(pixel_values=self.pixels(part), **words).image_embeds
            compared: torch.Tensor = self.model.logit_scale.exp() * shown @ texts.T
            return compared

        return self.in_parts(compare, pictures, self.device)


def caption_scores(
    model: str | os.PathLike[str],
    images: Sequence[torch.Tensor],
    captions: Sequence[str],
    *,
    device: str = "auto",
    batch_size: int = 32,
) -> torch.Tensor:
    """Return how likely each caption is for each image, among all captions, as logarithms (N, C).

    Args:
        model: Hub id or folder of a CLIP model, as for :class:`ClipFilter`.
        images: uint8 (3, H, W), of any sizes.
        captions: of all classes.
        device, batch_size: as for :class:`ClipFilter`.

    Raises:
        ModelUnavailableError, ModelError, GenerationError: as for :class:`ClipFilter`.
    """
    revision = CLIP_REVISION if str(model) == CLIP else None
    spec = ModelSpec(str(model), revision=revision, size=_CLIP_SIZE, device=device)
    clip = _load_clip(spec)
    with own_switches(clip.device, exact=True):
        batches = [images[at : at + batch_size] for at in range(0, len(images), batch_size)]
        texts = clip.embedded(captions, images[:1])
        scores = [clip.logits(part, texts, captions[:1]) for part in batches]
    return torch.cat(scores).log_softmax(1)


def _load_clip(spec: ModelSpec) -> _Clip:
    """Load a CLIP model onto its device; raise for anything that is missing or unsafe."""
    device = devices.choose_device(spec.device)
    # A default dtype of the caller would be that of the weights.
    with (
        devices.fitting(f"'{spec.model}'", device, "choose a smaller model", "set device='cpu'"),
        own_switches(device, exact=True),
    ):
        clip, missing = _read_whole(spec)
        if missing:
            raise ModelError(
                f"'{spec.model}' lacks {len(missing)} weights that a CLIP model needs "
                f"({missing[0]}, ...); it is another kind of model, or was saved incomplete: "
                "choose another, or get it again."
            )
        return clip._replace(model=clip.model.to(device).eval())


def _read_whole(spec: ModelSpec) -> tuple[_Clip, list[str]]:
    """Read a CLIP model on the CPU, after fetching it if it is not here; say what is wrong."""
    try:
        return _read_or_fetch(pin(spec))
    except ModelUnavailableError as error:
        raise ModelUnavailableError(
            f"'{spec.model}' is not on this machine and could not be fetched "
            f"({_reason(error.__cause__ or 'there is no such folder')}); "
            "give ClipFilter the folder of a CLIP model, or use another scorer."
        ) from error
    except DiffaugError:
        raise
    except Exception as error:  # damaged files trip any of the parsers inside
        if devices.is_out_of_memory(error):
            raise  # it may be whole
        raise ModelError(
            f"'{spec.model}' is not a whole CLIP model: {_reason(error)}; get it again."
        ) from error


def _read_or_fetch(spec: ModelSpec) -> tuple[_Clip, list[str]]:
    """Read a pinned CLIP model; fetch it first if it is not whole on this machine."""
    folder = folder_of(spec)
    if Path(spec.model).is_dir():
        flat_files([file.name for file in folder.iterdir()], spec.model)  # refuses pickles
        return _read_clip(folder)
    try:
        return _read_clip(folder)
    except OSError as error:
        if devices.is_out_of_memory(error):
            raise
        return _read_clip(download_flat(spec))


def _read_clip(folder: Path) -> tuple[_Clip, list[str]]:
    """Read the parts of a CLIP model; also return the weights that are missing."""
    # Not the Auto classes, which may ask whether to run the model's own code.
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    if not (folder / "config.json").is_file():  # transformers would use its default
        raise FileNotFoundError("it has no config.json")
    with torch.random.fork_rng(devices=[]), loading.quiet():
        model, missing = loading.read_module(CLIPModel, folder, torch.float32)
        here: Any = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = CLIPTokenizer.from_pretrained(folder, **here)
        processor = CLIPImageProcessor.from_pretrained(folder, **here)
    # A tokenizer is read even without its vocabulary, and then all letters are the same to it.
    if tokenizer("a").input_ids == tokenizer("b").input_ids:
        raise OSError("its tokenizer has no vocabulary")
    return _Clip(model, tokenizer, processor, devices.AsManyAsFit("CLIP")), missing


def _reason(cause: BaseException | str) -> str:
    """Return the first sentence of what went wrong."""
    return (str(cause).splitlines() or [type(cause).__name__])[0].split(". ")[0].rstrip(".")[:300]
