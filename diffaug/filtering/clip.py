"""Judges of generated images: CLIP, a classifier, the similarity to the source."""

import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from diffaug import functional, images
from diffaug.arguments import whole
from diffaug.backends import loading
from diffaug.backends.hub import pin
from diffaug.backends.model_files import weights_of
from diffaug.backends.spec import ModelSpec
from diffaug.errors import ModelError, ModelUnavailableError, UnreadableImageError
from diffaug.offline.manifest import Row, read_run

CLIP = "openai/clip-vit-base-patch32"
#: The only revision of it that has safetensors.
CLIP_REVISION = "c237dc49a33fc61debc9276459120b7eac67e7ef"


class Scorer(Protocol):
    """Judge images: what ``filter_set`` asks of any of ours, or of your own.

    A scorer may also have ``bounds``, a pair ``(low, high)``: then images whose score lies within
    are kept, whatever the others' scores; ``batch_size``, how many images it takes at once, 32 by
    default; and ``prepare(folder, rows)``, called once before, with the set's folder and all rows.

    Example:
        >>> import torch
        >>> class Brightness:
        ...     name = "brightness"
        ...
        ...     def score(self, images, rows):
        ...         return torch.stack([image.float().mean() for image in images])
    """

    @property
    def name(self) -> str:
        """Say how the columns of its verdict start, such as ``"clip"``."""

    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return one number for each image, higher for better ones, NaN for one it cannot judge.

        The images are uint8 ``(3, H, W)``, of any sizes, each with its row of the manifest.
        """


class ClipFilter:
    """Score how likely CLIP finds it that an image shows what all classes are, such as a bird.

    It is the paper's filter: the share of "a photo with a bird on it" against "a photo without a
    bird on it". The target's share is our extension: the paper checks the metaclass only.

    Args:
        metaclass: what all classes are, one word if possible: ``"bird"``.
        target_class: multiply with the share of the row's own class, "a photo of a cardinal bird",
            among all classes of the set. Worth it where classes are named in words.
        model: Hub id or folder of a CLIP model with safetensors; the paper's by default.
        revision: Hub commit; None for a fixed one of the paper's model, and for the newest of
            others.
        device: ``"auto"`` (cuda:LOCAL_RANK, cuda:0, mps, cpu, in this order) or a torch device.
        batch_size: images in one call of the model, >= 1.

    Shape:
        Images: uint8 ``(3, H, W)``, of any sizes. Scores: ``(N,)``, float in [0, 1].

    Raises:
        ValueError: an argument is outside its range.
        ModelUnavailableError: on first use, the model is not here and cannot be fetched.
        ModelError: on first use, the model is incomplete, pickled, or no CLIP model.

    Example:
        >>> from diffaug.filtering.clip import ClipFilter
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
        self.batch_size = whole("batch_size", batch_size, 1)
        if revision is None and str(model) == CLIP:
            revision = CLIP_REVISION
        self._spec = ModelSpec(str(model), revision=revision, device=device)
        self._loaded: _Clip | None = None
        self._classes: tuple[str, ...] = ()
        self._embedded: tuple[tuple[str, ...], torch.Tensor] | None = None

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions that images are held against: with, without, and then the classes'."""
        thing = self.metaclass
        return (
            f"a photo with a {thing} on it",
            f"a photo without a {thing} on it",
            *(f"a photo of a {name} {thing}" for name in self._classes),
        )

    def prepare(self, folder: Path, rows: Sequence[Row]) -> None:
        """Take down the classes of a set."""
        if self.target_class:
            self._classes = tuple(sorted({str(row.get("label")) for row in rows}))

    @torch.no_grad()
    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return how much each image speaks for its captions."""
        if self.target_class and not {str(row.get("label")) for row in rows} <= {*self._classes}:
            self.prepare(Path(), rows)  # asked without a set: then these are the classes
        clip = self._load()
        pixels = clip.pixels(images)
        captions = self.captions
        if self._embedded is None or captions != self._embedded[0]:
            texts = clip.model(pixel_values=pixels[:1], **clip.tokens(captions)).text_embeds
            self._embedded = captions, texts
        # The model wants a text each time; one is cheaper than those of all classes.
        seen = clip.model(pixel_values=pixels, **clip.tokens(captions[:1])).image_embeds
        logits = (clip.model.logit_scale.exp() * seen @ self._embedded[1].T).cpu()  # (N, captions)
        scores = logits[:, :2].softmax(1)[:, 0]
        if self.target_class:
            own = torch.tensor([self._classes.index(str(row.get("label"))) for row in rows])
            scores = scores * logits[:, 2:].softmax(1).gather(1, own[:, None])[:, 0]
        return scores

    def _load(self) -> "_Clip":
        if self._loaded is None:
            self._loaded = _load_clip(self._spec)
        return self._loaded


class ClassifierFilter:
    """Score an image by the probability that a classifier gives to its label.

    Args:
        model: gives logits ``(B, C)`` for a batch of float images. It runs where its weights are,
            in eval mode and without gradients; its modes are as before afterwards.
        classes: their names as in the set's ``label`` column, in the order of the logits.
        transform: makes a float image for the model of a uint8 ``(3, H, W)`` one, such as the
            ``transforms()`` of torchvision's weights; None scales to [0, 1].
        size: side in pixels of the square that images are resized to where there is no transform;
            None keeps their size, which must then be the same for all.
        batch_size: images in one call of the model, >= 1.

    Shape:
        Images: uint8 ``(3, H, W)``, of any sizes. Scores: ``(N,)``, float in [0, 1].

    Raises:
        TypeError, ValueError: an argument is not what it should be, or a label is no class.

    Example:
        >>> import torch
        >>> from diffaug.filtering.clip import ClassifierFilter
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
        >>> judge = ClassifierFilter(model, ["cat", "dog"], size=32)
        >>> judge.score([torch.zeros(3, 50, 40, dtype=torch.uint8)], [{"label": "dog"}]).shape
        torch.Size([1])
    """

    name = "classifier"

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        *,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        size: int | None = None,
        batch_size: int = 32,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"'model' must be a torch module, got {type(model).__name__}.")
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise TypeError(
                f"'classes' must be the classes' names in the order of the logits, got {classes!r}."
            )
        if transform is not None and size is not None:
            raise ValueError(
                "'size' must be None where there is a 'transform', "
                f"got {size}; resize in the transform."
            )
        self.model, self.transform = model, transform
        self.size = None if size is None else whole("size", size, 1)
        self.batch_size = whole("batch_size", batch_size, 1)
        self.classes = tuple(classes)
        if not self.classes or len({*self.classes}) < len(self.classes):
            raise ValueError(f"'classes' must hold different names, got {list(self.classes)}.")

    def prepare(self, folder: Path, rows: Sequence[Row]) -> None:
        """Refuse a set with other classes before it is read."""
        self._targets(rows)

    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return the probability of each row's label."""
        targets = self._targets(rows)
        batch = self._batch(images)
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                logits = self.model(batch)
        finally:
            for module, training in modes:
                module.training = training
        expected = (len(batch), len(self.classes))
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if found != expected:
            raise ValueError(f"'model' must give logits of shape {expected}, got {found}.")
        return logits.double().softmax(1).cpu().gather(1, targets[:, None])[:, 0]

    def _targets(self, rows: Sequence[Row]) -> torch.Tensor:
        for label in dict.fromkeys(row.get("label") for row in rows):
            if label not in self.classes:
                raise ValueError(
                    f"'classes' must hold every label of the set, and lacks {label!r}; "
                    f"it has {', '.join(self.classes[:5])}{', ...' * (len(self.classes) > 5)}."
                )
        return torch.tensor([self.classes.index(row["label"]) for row in rows])

    def _batch(self, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        weights = chain(self.model.parameters(), self.model.buffers())
        like = next((weight for weight in weights if weight.is_floating_point()), torch.zeros(()))
        if self.transform is not None:
            pixels = [self.transform(image) for image in pixels]
        elif self.size is not None:
            pixels = [functional.resize(image, (self.size, self.size)) for image in pixels]
        shapes = list(dict.fromkeys(tuple(image.shape) for image in pixels))
        if len(shapes) > 1:
            needed = "'transform' must give" if self.transform else "without 'size', there must be"
            raise ValueError(f"{needed} images of one size, got {shapes[0]} and {shapes[1]}.")
        batch = torch.stack(list(pixels))  # (B, 3, H, W)
        return images.to_dtype(batch, like) if self.transform is None else batch.to(like)


class SimilarityFilter:
    """Score how similar an image is to its source, and keep what changed neither too much nor not.

    The measure is SSIM, the structural similarity, at a small common size: 1 for equal images,
    about 0 where nothing of the source can be recognised. It goes by bounds, since both ends are
    bad: an edit without effect, and one that lost the class.

    Args:
        source: the folder that the set was made from; None for the one that its ``run.json`` names.
        low: least similarity to keep, in [-1, 1].
        high: greatest similarity to keep, in [-1, 1].
        size: side in pixels of the square that both images are resized to, >= 16.

    Shape:
        Images: uint8 ``(3, H, W)``, of any sizes. Scores: ``(N,)``, float in [-1, 1].

    Raises:
        ValueError: an argument is outside its range, or there is no folder of sources.

    Example:
        >>> from diffaug.filtering.clip import SimilarityFilter
        >>> SimilarityFilter(low=0.2).bounds
        (0.2, 0.98)

    Reference:
        Wang, Bovik, Sheikh and Simoncelli, Image quality assessment, IEEE TIP 13(4), 2004; a window
        of 11 pixels, on each colour channel.
    """

    name = "similarity"

    def __init__(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        low: float = 0.1,
        high: float = 0.98,
        size: int = 64,
    ) -> None:
        for name, value in (("low", low), ("high", high)):
            if not -1 <= value <= 1:
                raise ValueError(f"'{name}' must be in [-1, 1], got {value}.")
        if low > high:
            raise ValueError(f"'low' must not be above 'high', got {low} and {high}.")
        self.bounds = (float(low), float(high))
        self.size = whole("size", size, 16)
        self.source = None if source is None else Path(source).expanduser()
        self._root = self.source

    def prepare(self, folder: Path, rows: Sequence[Row]) -> None:
        """Find the folder that a set was made from."""
        named = self.source or (read_run(folder) or {}).get("source")
        if named is None or not Path(named).is_dir():
            found = "run.json names none" if named is None else f"'{named}' is no folder here"
            raise ValueError(
                f"'source' must be the folder that the set was made from, and {found}; "
                "give SimilarityFilter that folder."
            )
        self._root = Path(named)
        sources = dict.fromkeys(str(row.get("source")) for row in rows)
        if sources and not any((self._root / source).is_file() for source in sources):
            raise ValueError(
                f"'source' must be the folder that the set was made from, and '{named}' has none "
                f"of its images, such as '{next(iter(sources))}'; give SimilarityFilter another."
            )

    def score(self, images: Sequence[torch.Tensor], rows: Sequence[Row]) -> torch.Tensor:
        """Return each image's similarity to its source, NaN where that cannot be read."""
        from kornia.metrics import ssim

        originals = {name: self._original(name) for name in {str(row["source"]) for row in rows}}
        made = torch.stack([self._small(image) for image in images])  # (N, 3, S, S)
        source = torch.stack([originals[str(row["source"])] for row in rows])
        return ssim(made, source, window_size=11).mean((1, 2, 3))

    def _original(self, name: str) -> torch.Tensor:
        if self._root is None:
            raise ValueError("'source' must be given to score images outside filter_set.")
        try:
            return self._small(images.read_image(self._root / name))
        except UnreadableImageError:
            return torch.full((3, self.size, self.size), torch.nan)

    def _small(self, image: torch.Tensor) -> torch.Tensor:
        return functional.resize(image, (self.size, self.size)).float() / 255


class _Clip(NamedTuple):
    """A CLIP model on its device, and what prepares its input."""

    model: Any
    tokenizer: Any
    processor: Any

    def pixels(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        made = self.processor(
            list(pictures), return_tensors="pt", input_data_format="channels_first"
        )
        return made["pixel_values"].to(self.model.device)

    def tokens(self, captions: Sequence[str]) -> Any:
        longest = self.model.config.text_config.max_position_embeddings
        made = self.tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        return made.to(self.model.device)


def _load_clip(spec: ModelSpec) -> _Clip:
    """Load a CLIP model onto its device; whatever is missing or unsafe is an error."""
    from transformers.utils import has_file

    device = loading.choose_device(spec.device)
    try:
        spec = pin(spec)
    except ModelUnavailableError as error:
        raise _unavailable(spec, error.__cause__ or "there is no such folder") from error
    folder = Path(spec.model)
    local = folder.is_dir()
    if local:
        weights_of([file.name for file in folder.iterdir()], None, spec.model)
        if not (folder / "config.json").is_file():  # transformers would take its default
            raise ModelError(f"'{spec.model}' is no whole CLIP model: it has no config.json.")
    try:
        try:
            clip, missing = _read_clip(spec, here=True)
        except OSError:
            # A Hub that cannot be reached is tried again for minutes, so ask first.
            if local or not has_file(spec.model, "config.json", revision=spec.revision):
                raise
            clip, missing = _read_clip(spec, here=False)
    except Exception as error:  # damaged files trip any of the parsers inside
        if isinstance(error, OSError) and not local:
            raise _unavailable(spec, error) from error
        raise ModelError(
            f"'{spec.model}' is no whole CLIP model: {_reason(error)}; get it anew."
        ) from error
    if missing:
        raise ModelError(
            f"'{spec.model}' lacks {len(missing)} weights that a CLIP model needs ({missing[0]}, "
            "...); it is another kind of model, or was saved incomplete: choose another, or get it "
            "anew."
        )
    return clip._replace(model=clip.model.to(device).eval())


def _read_clip(spec: ModelSpec, *, here: bool) -> tuple[_Clip, list[str]]:
    """Read the parts of a CLIP model; also name the weights that are random, not being there."""
    # By their own names: the Auto classes may ask whether to run code of the model's.
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    where: dict[str, Any] = {"local_files_only": here}
    if not Path(spec.model).is_dir():
        where["revision"] = spec.revision
    with torch.random.fork_rng(devices=[]), loading.quiet():
        model, report = CLIPModel.from_pretrained(
            spec.model,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **where,
        )
        tokenizer = CLIPTokenizer.from_pretrained(spec.model, **where)
        processor = CLIPImageProcessor.from_pretrained(spec.model, **where)
    # Without its vocabulary a tokenizer is read all the same, and knows no letter from another.
    if tokenizer("a").input_ids == tokenizer("b").input_ids:
        raise OSError("its tokenizer has no vocabulary")
    missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    return _Clip(model, tokenizer, processor), missing


def _reason(cause: BaseException | str) -> str:
    """Return the first sentence of what went wrong."""
    return (str(cause).splitlines() or [type(cause).__name__])[0].split(". ")[0].rstrip(".")


def _unavailable(spec: ModelSpec, cause: BaseException | str) -> ModelUnavailableError:
    return ModelUnavailableError(
        f"'{spec.model}' is not on this machine and could not be fetched ({_reason(cause)}); "
        "give ClipFilter the folder of a CLIP model, or use another scorer."
    )
