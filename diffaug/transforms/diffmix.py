"""Diff-Mix: an image translated towards another class, and the soft label that goes with it."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from diffaug import images
from diffaug.arguments import MOST_CLASSES, choice, whole
from diffaug.backends import finetuned, presets
from diffaug.backends.base import Backend, is_backend, spec_of
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.checked import checked
from diffaug.labels import samples
from diffaug.labels.class_names import check_names, numbers_of
from diffaug.labels.label import (
    as_probabilities,
    check_gamma,
    labels_of,
    labels_of_list,
    soft_label,
)
from diffaug.labels.pairs import ClassPairSampler
from diffaug.labels.words import spelling
from diffaug.seeds import MAX_SEED, derive_seed
from diffaug.transforms.base import (
    BackendLike,
    Finished,
    ImageTransform,
    Params,
    fit,
    listed_images,
)
from diffaug.transforms.class_prompts import class_prompts
from diffaug.transforms.strategies import (
    FEW_SHOT_P,
    SETTINGS,
    Strategy,
    Strengths,
    find_strategy,
    warn_of_large_p,
)


@checked
class DiffMix(ImageTransform):
    """Translate the image to another class and mix the label: ``(image, label)`` in and out.

    The label becomes ``(1 - s**gamma) y_source + s**gamma y_target``. A dataset's own ``transform``
    never sees the label, so wrap the dataset: ``JointTransform(dataset, Compose([DiffMix(...)]))``.

    Args:
        class_names: the name of every class, in the order of the labels; ``ImageFolder.classes``.
            Where names are no words (``n01443537``): a mapping of these names to the words for the
            prompt.
        strategy: a name in ``STRATEGIES`` or a :class:`Strategy`; ``real-*`` needs no fine-tuning.
        pairs: ``"uniform"`` (the default), ``"other"``, ``"same"`` (the default of a strategy that
            keeps the class), a ``(C, C)`` matrix of weights, or a :class:`ClassPairSampler`.
        targets: names of the classes that an image may be translated to, such as those that the
            model knows; by default all. Images of other classes stay, so that these do not become
            rarer; but a set is made from all images. A :class:`ClassPairSampler` has its own
            ``targets``, and images of every class are translated.
        metaclass: a word for what all classes are, for the prompt (``"bird"``); by default that of
            the fine-tuned folder.
        strength: how far to translate, in [0, 1]: a number, a list to draw from, a range ``(low,
            high)``, or ``"uniform"``; 0.7 by default. A model runs whole steps: a strength that it
            misses by more than 0.05, or one of a range, becomes the one that runs, for the label
            too. An image from text has none.
        gamma: at least 0; see :func:`soft_label`.
        p: probability in [0, 1] that an image is translated; others get one-hot labels.
        pool: how many translations one image has, fixed by its content and ``seed``, so that later
            epochs find them in the cache; None makes a new one each time, without the cache.
        backend: a fine-tuned folder, the name of a preset, a model id, :class:`ModelSpec` or a
            backend. ``"tiny-translate"`` comes with the package.
        cache: keep generated images on disk.
        seed: another seed gives each image another pool.
        num_classes: width of the labels; None for as many as there are names.
        labels_getter: where the label is: a key, an index or a callable; by default second in a
            tuple, or under ``label`` or ``labels``.
        image_getter: the same for the image; by default first, or under ``image`` or ``img``.

    Shape:
        ``(image, label)``, as for :class:`PromptEdit`. Beside one image, a label is an integer,
        ``(1,)`` or ``(K,)``, and comes out as float32 ``(K,)``. Beside ``(B, C, H, W)``, labels are
        ``(B,)``, ``(B, 1)`` or ``(B, K)``, and come out as float32 ``(B, K)``.

    Raises:
        TypeError: the sample has no label, or it has boxes or masks, which would no longer be true.
        ValueError: an argument or a label is outside its range, the model does not know a class, or
            a sample has one image beside a batch.

    Example:
        >>> import torch
        >>> from diffaug import DiffMix, RecordingBackend
        >>> mix = DiffMix(["cat", "dog"], pairs="other", p=0.5, backend=RecordingBackend())
        >>> images, labels = mix(torch.rand(64, 3, 16, 16), torch.zeros(64, dtype=torch.long))
        >>> labels.shape, labels.unique()  # images that were not translated have one-hot labels
        (torch.Size([64, 2]), tensor([0.0000, 0.1633, 0.8367, 1.0000]))

    Reference:
        Wang et al., Diff-Mix, CVPR 2024, arXiv 2403.19600.
    """

    needs_label = True
    online_only = ImageTransform.online_only | {
        # A set's seed is the run's.
        *("gamma", "pool", "seed", "num_classes", "labels_getter", "image_getter")
    }

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[str, str],
        *,
        strategy: str | Strategy = "diff-mix",
        pairs: str | Sequence[Sequence[float]] | torch.Tensor | ClassPairSampler | None = None,
        targets: Sequence[str] | None = None,
        metaclass: str = "",
        strength: float | Sequence[float] | str | None = None,
        gamma: float = 0.5,
        p: float = 0.3,
        pool: int | None = 5,
        backend: BackendLike = "sd15",
        cache: bool = True,
        seed: int = 0,
        num_classes: int | None = None,
        labels_getter: samples.Getter = "default",
        image_getter: samples.Getter = "default",
    ) -> None:
        super().__init__(p)
        self.class_names = check_names(class_names, spelling)
        self.strategy = find_strategy(strategy)
        among = None if targets is None else numbers_of(targets, self.class_names, spelling)
        self.pairs = self._sampler(pairs, among)
        self._translated = range(len(self.class_names)) if among is None else among
        self.strength = Strengths.of(self.strategy, strength)
        self.gamma = check_gamma(gamma)
        self.pool = None if pool is None else whole("pool", pool, 1)
        self.copies = 5 if pool is None else pool
        self.seed = whole("seed", seed, 0)
        self.num_classes = len(self.class_names)
        if num_classes is not None:
            self.num_classes = whole("num_classes", num_classes, self.num_classes, MOST_CLASSES)
        self.labels_getter = samples.check_getter("labels_getter", labels_getter)
        self.image_getter = samples.check_getter("image_getter", image_getter)
        given = spec_of(backend) if is_backend(backend) else presets.resolve(backend, "translate")
        self.backend = self._checked(backend, given)
        if (spec := self._spec_here()) is not None and self.strategy.start == "image":
            self.strength.say(spec)
        self.cache = cache and pool is not None
        self.prompts = class_prompts(self.class_names, class_names, self.strategy, metaclass, given)
        self._warn_of_settings()

    @classmethod
    def from_setting(
        cls,
        setting: str,
        class_names: Sequence[str] | Mapping[str, str],
        *,
        shots: int = 5,
        **changes: Any,
    ) -> Self:
        """Make the transform with the authors' settings for a situation.

        Args:
            setting: ``"full-shot"``, ``"few-shot"`` or ``"long-tail"``.
            class_names: as for :class:`DiffMix`.
            shots: images of a class, for ``"few-shot"``: with fewer shots, ``p`` is larger.
            changes: any argument of :class:`DiffMix`; ``"long-tail"`` needs ``pairs``, a
                ``ClassPairSampler(num_classes, class_counts=class_counts(dataset))``.

        Example:
            >>> from diffaug import RecordingBackend
            >>> DiffMix.from_setting(
            ...     "few-shot", ["cat", "dog"], shots=1, backend=RecordingBackend()
            ... ).p
            0.5
        """
        setting = choice("setting", setting, SETTINGS)
        settings = dict(SETTINGS[setting])
        if find_strategy(changes.get("strategy", "diff-mix")).start == "text":
            del settings["strength"]
        if setting == "few-shot":
            shots = whole("shots", shots, 1)
            settings["p"] = FEW_SHOT_P[max(k for k in FEW_SHOT_P if k <= shots)]
        if setting == "long-tail" and "pairs" not in changes:
            raise ValueError(
                "'pairs' must be given for the long tail: ClassPairSampler(num_classes, "
                "class_counts=class_counts(dataset))."
            )
        return cls(class_names, **{**settings, **changes})

    def _sampler(self, pairs: Any, among: Sequence[int] | None) -> ClassPairSampler:
        count = len(self.class_names)
        if pairs is None:
            pairs = "same" if self.strategy.target == "own" else "uniform"
        if isinstance(pairs, ClassPairSampler):
            if among is not None:
                raise ValueError(
                    "'targets' must not be given beside a ClassPairSampler; give the sampler the "
                    f"numbers, as ClassPairSampler({count}, targets={among})."
                )
        else:
            try:
                pairs = ClassPairSampler(count, strategy=pairs, targets=among)
            except (TypeError, ValueError) as error:
                raise type(error)(f"'pairs' makes no ClassPairSampler: {error}") from error
        if self.strategy.target == "own" and pairs.strategy != "same":
            raise ValueError(
                f"'pairs' must be 'same' for a strategy that keeps the class, got "
                f"{pairs.strategy!r}; use a strategy that ends in -mix."
            )
        if pairs.num_classes != count:
            raise ValueError(
                f"'pairs' must be for the {count} classes named, got a sampler for "
                f"{pairs.num_classes}."
            )
        return pairs

    def _checked(self, backend: BackendLike, given: ModelSpec | None) -> ModelSpec | Backend:
        adapted = given and self._spec(given)
        if not is_backend(backend):
            return adapted  # type: ignore[return-value]
        if given is not None and given != adapted:
            raise ValueError(
                "'backend' must be for the strategy's task, with the learned parts that it uses, "
                f"got one that runs {given.model!r} to {given.task}; give its ModelSpec, which is "
                "adapted."
            )
        return backend

    def _spec_here(self) -> ModelSpec | None:
        return spec_of(self.backend) if is_backend(self.backend) else self.backend

    def _spec(self, spec: ModelSpec) -> ModelSpec:
        if spec.task == "edit":
            raise ValueError(
                f"'backend' must be a model that translates, got the editor {spec.model!r}; "
                "'tiny-translate' and 'sd15' translate."
            )
        spec = finetuned.reduce(spec, self.strategy.model)
        return replace(spec, task="generate" if self.strategy.start == "text" else "translate")

    def _warn_of_settings(self) -> None:
        warn_of_large_p(self.p, "where every image was translated", stacklevel=4)
        # In the same runs of the authors, gamma of .5 gave an accuracy of 59.4 %, of 1 54.0 %.
        if self.gamma >= 1 and max(self.strength.values) <= 0.7 and self.strategy.target == "any":
            warnings.warn(
                f"'gamma' is {self.gamma:g} at a strength of at most 0.7: the authors of Diff-Mix "
                "lost five points of accuracy against 0.5.",
                UserWarning,
                stacklevel=4,
            )

    def all_prompts(self) -> tuple[str, ...]:
        return self.prompts

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Params]:
        variants = torch.randint(self.pool or MAX_SEED, (n,), generator=generator).tolist()
        return [{"variant": variant} for variant in variants]

    def choices(self, image: torch.Tensor, label: Any) -> Iterator[Params]:
        if self.pool is None:
            raise ValueError("'pool' must be a number: with None, each translation is a new one.")
        [source] = self._sources([label])
        for variant in range(self.pool if source in self._translated else 0):
            yield self._in_pool(image, source, variant)

    def draw_copy(self, copy: int, generator: torch.Generator, label: str | None = None) -> Params:
        return self._triple(self._number(label), generator)

    def _number(self, label: str | None) -> int:
        if label not in self.class_names:
            raise ValueError(
                f"an image's class must be one of {len(self.class_names)} class names, got "
                f"{label!r}; put each image into a folder named after its class."
            )
        return self.class_names.index(label)

    def _triple(self, source: int, generator: torch.Generator) -> Params:
        """Draw target, strength and seed for an image of a class."""
        target = self.pairs.targets(torch.tensor([source]), generator)
        return {
            "source": source,
            "target": int(target),
            "strength": self.strength.runs(self.strength.draw(generator), self._spec_here()),
            "seed": int(torch.randint(MAX_SEED, (), generator=generator)),
        }

    def pair_up(
        self, keys: Sequence[str], labels: Sequence[str], copies: int, seed: int
    ) -> Iterator[tuple[str, int]]:
        """Draw a class, then one of its images; for long tails, draw from all images.

        Each number has its own hash, so a share of a set, or a larger set, has the same pairs.
        """
        by_class: dict[str, list[str]] = {}
        for key, label in zip(keys, labels, strict=True):
            by_class.setdefault(label, []).append(key)
        groups = [by_class[label] for label in sorted(by_class, key=self._number)]
        if self.pairs.class_counts is not None:
            groups = [list(keys)]
        for number in range(copies * len(keys)):
            group = groups[derive_seed("class", seed, number) % len(groups)]
            yield group[derive_seed("image", seed, number) % len(group)], number

    def label_of(self, params: Params, label: str) -> str:
        return self.class_names[params["target"]]

    def _augment_marked(self, sample: Any, labels_getter: samples.Getter) -> Any:
        """Translate the images of a sample ``(image, label, ...)`` and replace its label."""
        try:
            place = samples.label_place(sample, labels_getter, asker="DiffMix")
        except TypeError as error:
            raise TypeError(
                f"DiffMix needs the label beside the image, as mix((image, label)): {error} A "
                "dataset's own transform never sees it: use JointTransform(dataset, transforms)."
            ) from error
        given = samples.get(sample, place)
        if (found := listed_images(sample, self.image_getter)) is not None:
            listed_at, pictures = found
            rows = labels_of_list(given, len(pictures), self.num_classes)
            if rows is not None:
                pairs = zip(pictures, rows, strict=True)
                made = [self._augment_marked(pair, "default") for pair in pairs]
                augmented = type(pictures)(image for image, _ in made)
                mixed = torch.stack([label for _, label in made])
                return samples.put(samples.put(sample, listed_at, augmented), place, mixed)
        # Flattened as torchvision does it, without the label, which could be taken for an image.
        leaves, structure = tree_flatten(samples.put(sample, place, None))
        self.check_inputs(leaves)
        places = [n for n, picked in enumerate(self._needs_transform_list(leaves)) if picked]
        pictures = [leaves[n] for n in places]
        drawn = self.make_params(pictures)["drawn"]
        batched = any(isinstance(image, torch.Tensor) and image.ndim > 3 for image in pictures)
        labels = labels_of(given, self._count(pictures), batched)
        sources = self._sources(labels)
        # Unpacked once, for the seeds and for the translation.
        first = images.unpack(pictures[0]) if any(drawn) else None
        drawn = self._draw_translations(first, drawn, sources)
        applied = []
        for n in places:
            leaves[n], params = self.augment(leaves[n], drawn, first)
            first = None  # the others have pixels of their own
            applied.append(params)
        # Several images of one sample share its label, which stays if one of them was refused.
        weakest = [min(params, key=_strength) for params in zip(*applied, strict=True)]
        mixed = self._relabel(labels, weakest)
        if isinstance(given, torch.Tensor):
            mixed = mixed.to(given.device)
        return samples.put(tree_unflatten(leaves, structure), place, mixed if batched else mixed[0])

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        super().check_inputs(flat_inputs)
        if any(images.is_annotation(value) for value in flat_inputs):
            raise TypeError(
                "DiffMix changes what is in an image and takes no boxes, masks or keypoints, which "
                "would no longer be true; use it for classification."
            )

    def _count(self, pictures: list[Any]) -> int:
        """Return how many images each image, or batch, of a sample holds."""
        counts = {images.count(image) for image in pictures}
        if len(counts) > 1:
            raise ValueError(
                "images of one sample must be equally many, for they share labels, got "
                f"{' and '.join(map(str, sorted(counts)))}; take the others out of the sample."
            )
        return counts.pop()

    def _draw_translations(
        self, unpacked: images.Unpacked | None, drawn: list[Params | None], sources: list[int]
    ) -> list[Params | None]:
        """Draw a translation for each image; None for one that ``p`` or its class leaves as is."""
        if unpacked is None:
            return drawn
        pixels, _ = unpacked
        return [
            self._in_pool(pixels[index : index + 1], source, params["variant"])
            if params and source in self._translated
            else None
            for index, (params, source) in enumerate(zip(drawn, sources, strict=True))
        ]

    def _in_pool(self, image: torch.Tensor, source: int, variant: int) -> Params:
        """Return the translation with this number of an image (1, 3, H, W)."""
        seed = derive_seed(self.shrink(image)[0], self.seed, variant)
        return self._triple(source, torch.Generator().manual_seed(seed))

    def _sources(self, labels: list[Any]) -> list[int]:
        """Return the class of each image; the likeliest of a soft label."""
        classes = [
            int(as_probabilities(label, self.num_classes, index).argmax())
            for index, label in enumerate(labels)
        ]
        if max(classes, default=0) >= len(self.class_names):
            raise ValueError(
                f"labels must be below the {len(self.class_names)} class names, got {max(classes)}."
            )
        return classes

    def requests(self, image: torch.Tensor, params: list[Params]) -> list[GenerationRequest]:
        from_text = self.strategy.start == "text"
        return [
            GenerationRequest(
                prompt=self.prompts[drawn["target"]],
                seed=drawn["seed"],
                image=None if from_text else source,
                strength=None if from_text else drawn["strength"],
            )
            for source, drawn in zip(self.shrink(image), params, strict=True)
        ]

    def finish(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> Finished:
        # Where the model refused, the picture is still of its source class, and so is its label.
        applied = [
            {**drawn, "target": drawn["source"], "strength": 0.0} if answer.fallback else drawn
            for drawn, answer in zip(params, generated, strict=True)
        ]
        return Finished(fit(image, generated), applied)

    def _relabel(self, labels: list[Any], applied: list[Params | None]) -> torch.Tensor:
        """Return the labels (B, C) after the translations that were really applied."""
        rows = torch.zeros(len(applied), self.num_classes)
        for row, source, params in zip(rows, labels, applied, strict=True):
            row[:] = as_probabilities(source, self.num_classes)
            if params is not None:
                target, strength = params["target"], params["strength"]
                row[:] = soft_label(row, target, strength, self.gamma, self.num_classes)
        return rows

    def stages(
        self, image: torch.Tensor, generated: list[Generated], params: list[Params]
    ) -> dict[str, torch.Tensor]:
        return {"translated": fit(image, generated)}

    def describe(self, params: Params) -> Params:
        return {
            "source_label": self.class_names[params["source"]],
            "strength": params["strength"],
        }


def _strength(params: Params | None) -> float:
    return 0.0 if params is None else float(params["strength"])
