"""What a fine-tuning learns from: the images of each class, and the words they go by."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from diffaug import images
from diffaug.arguments import whole
from diffaug.backends.finetuned import class_prompt, spelling
from diffaug.backends.loading import add_tokens
from diffaug.errors import UnreadableImageError
from diffaug.functional import resize
from diffaug.labels.dataset import few_shot_subset
from diffaug.offline.sources import FolderSource, Skipped
from diffaug.offline.trees import LocalTree


@dataclass(frozen=True)
class Pictures:
    """The training images: files by class, and how one is drawn."""

    files: Sequence[Path]
    labels: Sequence[int]
    size: int
    balanced: bool

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, int]:
        """Draw an image uniformly, or with weight 1/n_c; its square, and whether it is flipped."""
        among: Sequence[int] = range(len(self.files))
        if self.balanced:
            # A class, then one of its images: the same as the weight.
            among = self._classes[_draw(len(self._classes), generator)]
        place = among[_draw(len(among), generator)]
        right, down, flip = torch.rand(3, generator=generator).tolist()
        pixels = square(images.read_image(self.files[place]), self.size, right, down)
        return (pixels.flip(-1) if flip < 0.5 else pixels), self.labels[place]

    @cached_property
    def _classes(self) -> Mapping[int, Sequence[int]]:
        """The images of each class."""
        places = defaultdict(list)
        for place, label in enumerate(self.labels):
            places[label].append(place)
        return places


class Lessons:
    """The images of a class-per-folder tree that are learned from, class by class.

    Args:
        source: the tree.
        shots: images of each class; None for all.
        seed: of their choice.

    Raises:
        ValueError: no such tree, an empty class folder, fewer images than shots, or two classes of
            one name.
    """

    def __init__(
        self, source: str | os.PathLike[str], shots: int | None = None, seed: int = 0
    ) -> None:
        if shots is not None:
            whole("shots", shots, 1)
        self.source = FolderSource(source)
        if not isinstance(self.source.files, LocalTree):
            raise ValueError(
                f"'source' must be a folder on this machine, got '{source}': every image is read "
                "many times; copy it here."
            )
        self.root, self.shots = self.source.files.root, shots
        self.skipped = self.source.skipped
        keys = sorted(self.source.keys, key=lambda key: (_class_of(key), key))
        count = Counter(map(_class_of, keys))
        self.names = list(count)
        self._check_names(count)
        if shots is not None:
            chosen = few_shot_subset([_class_of(key) for key in keys], shots, seed)
            keys = [keys[place] for place in chosen]
        self.keys = keys

    def _check_names(self, count: Counter[str]) -> None:
        for folder in sorted(self.root.iterdir()):
            if folder.is_dir() and not folder.name.startswith(".") and not count[folder.name]:
                raise ValueError(
                    f"'source' must hold images in every class folder, and '{folder.name}' has "
                    "none; fill or remove it."
                )
        seen: dict[str, str] = {}
        for name in self.names:
            twin = seen.setdefault(spelling(name), name)
            if twin != name:
                raise ValueError(
                    f"'source' must hold classes of different names, and {twin!r} and {name!r} "
                    "read the same; rename or merge them."
                )

    def unreadable(self, strict: bool = False) -> list[Skipped]:
        """Read every image once and list those that cannot be.

        Raises:
            UnreadableImageError: with ``strict``, for the first of them.
            ValueError: a class has no other image.
        """
        with ThreadPoolExecutor(4) as readers:
            found = [one for one in readers.map(self._problem, self.keys) if one is not None]
        if found and strict:
            raise UnreadableImageError(found[0].reason)
        lost = Counter(_class_of(one.source) for one in found)
        for name, count in Counter(map(_class_of, self.keys)).items():
            if lost[name] == count:
                raise ValueError(
                    f"'source' must hold a readable image of every class, and of {name!r} there is "
                    f"none among {count} ({found[0].reason}) Replace it."
                )
        return found

    def _problem(self, key: str) -> Skipped | None:
        try:
            images.read_image(self.root / key)
        except UnreadableImageError as error:
            return Skipped(key, str(error))
        return None

    def pictures(self, skipped: Sequence[Skipped], size: int, balanced: bool) -> Pictures:
        """Return what is drawn from, at a size in pixels."""
        out = {one.source for one in skipped}
        number = {name: place for place, name in enumerate(self.names)}
        keys = [key for key in self.keys if key not in out]
        labels = [number[_class_of(key)] for key in keys]
        return Pictures([self.root / key for key in keys], labels, size, balanced)


@dataclass(frozen=True)
class Words:
    """The words that classes are learned as.

    Args:
        metaclass: what all classes are; may be empty.
        initial_token: the word that all start from; None for the metaclass's first token, or that
            of "object".

    Raises:
        TypeError, ValueError: not a string; a word that could be taken for a learned one.
    """

    metaclass: str = ""
    initial_token: str | None = None

    def __post_init__(self) -> None:
        for name in ("metaclass", "initial_token"):
            value = getattr(self, name)
            if value is None and name == "initial_token":
                continue
            if not isinstance(value, str):
                raise TypeError(f"'{name}' must be a string, got {value!r}.")
            if "<" in value or ">" in value:
                raise ValueError(f"'{name}' must be plain words without < and >, got {value!r}.")
            object.__setattr__(self, name, " ".join(value.split()))
        if self.initial_token == "":
            raise ValueError("'initial_token' must be one word, or None for the metaclass's own.")

    def tokens(self, count: int) -> list[str]:
        """Return a new token for each class."""
        return [f"<class_{number}>" for number in range(count)]

    def prompts(self, count: int) -> list[str]:
        """Return the sentence that each class is trained with."""
        return [class_prompt(token, self.metaclass) for token in self.tokens(count)]

    def check(self, tokenizer: Any, count: int) -> int:
        """Return the number of the token to start from; changes the tokenizer.

        Raises:
            ValueError: the model does not know the initial token, has one of the new tokens
                already, or does not read a whole prompt.
        """
        text = self.initial_token or self.metaclass or "object"
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.initial_token and len(found) != 1:
            parts = " ".join(tokenizer.convert_ids_to_tokens(found))
            raise ValueError(
                f"'initial_token' must be one token of the base model, and it reads "
                f"{self.initial_token!r} as {len(found)}: {parts}; choose a commoner word."
            )
        try:
            add_tokens(tokenizer, self.tokens(count))
        except ValueError as error:
            raise ValueError(f"'base' cannot learn these classes: {error}") from error
        length = len(tokenizer(self.prompts(1)[0], verbose=False)["input_ids"])
        if length > tokenizer.model_max_length:
            raise ValueError(
                f"'metaclass' must fit into a prompt of {tokenizer.model_max_length} tokens, and "
                f"with it there are {length}; shorten it."
            )
        return int(found[0])


def _class_of(key: str) -> str:
    return key.split("/")[0]


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def square(pixels: torch.Tensor, size: int, right: float = 0.5, down: float = 0.5) -> torch.Tensor:
    """Resize (3, H, W) to a shorter side of ``size`` and cut out a square; by default its middle.

    ``right`` and ``down`` in [0, 1] say where.
    """
    height, width = pixels.shape[-2:]
    scale = size / min(height, width)
    pixels = resize(pixels, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (
        min(int(share * (side - size + 1)), side - size)
        for share, side in zip((down, right), pixels.shape[-2:], strict=True)
    )
    return pixels[:, top : top + size, left : left + size]
