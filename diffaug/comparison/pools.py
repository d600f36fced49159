"""What an arm generates from the photographs that its classifier may see, and from no others."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffaug.arguments import same_name
from diffaug.backends import finetuned, presets
from diffaug.backends.base import spec_of
from diffaug.backends.hub import pin
from diffaug.backends.spec import ModelSpec
from diffaug.comparison import pictures
from diffaug.comparison.arms import Arm
from diffaug.comparison.split import Part
from diffaug.datasets.generated import GeneratedDataset
from diffaug.offline.augment import augment_folder
from diffaug.offline.identity import identity, pinned
from diffaug.offline.manifest import source_label
from diffaug.offline.summary import SummaryWarning
from diffaug.transforms.base import BackendLike, ImageTransform
from diffaug.transforms.diffmix import DiffMix
from diffaug.transforms.prompt_edit import PromptEdit
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS, DIFFUSEMIX_TEMPLATES
from diffaug.transforms.strategies import STRATEGIES

#: Sets of smaller images are lossless: they are small anyway, and traces of JPEG tell a classifier
#: which images are generated.
LOSSLESS = 128


@dataclass(frozen=True)
class Models:
    """What generates.

    Args:
        backend: translates; a path may hold ``{seed}`` and ``{shots}``.
        editor: edits.
        class_names: the words of each class, if its folder's name is none.
        metaclass: what all classes are.
        device: where it runs, unless the backend says so.
    """

    backend: BackendLike
    editor: BackendLike
    class_names: Mapping[str, str] | None
    metaclass: str
    device: str

    def translator(self, part: Part) -> BackendLike:
        """Return the model that translates the photographs of a part."""
        backend: Any = self.backend
        if isinstance(backend, (str, Path)):
            text = str(backend).replace("{seed}", str(part.seed))
            backend = presets.resolve(text.replace("{shots}", str(part.shots)), "translate")
        return self._placed(backend)

    def can_draw(self, part: Part) -> bool:
        """Return whether the backend can make images of classes from text."""
        spec = spec_of(self.translator(part))
        return spec is None or spec.task != "edit"

    def transform(self, arm: Arm, part: Part, classes: Sequence[str]) -> ImageTransform:
        """Return what makes the images of an arm."""
        if arm.generate == "edit":
            editor: Any = self.editor
            if isinstance(editor, (str, Path)):
                editor = presets.resolve(editor, "edit")
            words = {"prompts": DIFFUSEMIX_PROMPTS, "template": DIFFUSEMIX_TEMPLATES["paper"]}
            return PromptEdit(backend=self._placed(editor), **{**words, **arm.options})
        backend = self.translator(part)
        if arm.learned:
            _check_learned(arm, part, spec_of(backend))
        names: Any = list(classes)
        if self.class_names is not None and not arm.learned:
            names = {name: self.class_names.get(name, name) for name in classes}
        from_text = STRATEGIES[arm.generate].start == "text"
        options = dict(arm.options)
        strength = options.pop("strength", arm.strength)
        return DiffMix(
            names,
            strategy=arm.generate,
            strength=None if from_text else strength,
            metaclass=self.metaclass,
            backend=backend,
            **options,
        )

    def _placed(self, backend: BackendLike) -> BackendLike:
        if isinstance(backend, ModelSpec) and backend.device == "auto":
            return replace(backend, device=self.device)
        return backend


def _check_learned(arm: Arm, part: Part, spec: ModelSpec | None) -> None:
    """Refuse a model that is not fine-tuned, or that was on photographs it must not know."""
    learned = None if spec is None else finetuned.find(spec)
    if learned is None:
        raise ValueError(
            f"'backend' must be a fine-tuned folder for the arm {arm.name}, got "
            f"{'a backend' if spec is None else repr(presets.name_of(spec.model))}; run 'diffaug "
            "finetune' on the photographs to train on."
        )
    seen = set(learned.files)
    if part.fold is not None and (leak := seen & set(part.test)):
        raise ValueError(
            f"'backend' must not know the photographs to test on, and '{learned.folder}' was "
            f"fine-tuned on {len(leak)} of them; give 'test', a folder of other photographs."
        )
    if extra := seen.difference(part.train):
        raise ValueError(
            f"'backend' must be fine-tuned on the photographs to train on alone, and "
            f"'{learned.folder}' knows {len(extra)} more; fine-tune with shots={part.shots} and "
            f"seed={part.seed}, and give a path with {{seed}} in it."
        )


@dataclass(frozen=True)
class Pool:
    """The generated images of an arm for some photographs, and how they are made.

    Args:
        name: of the set and of its pictures.
        arm: with all its settings.
        part: the photographs.
        transform: what makes them.
        size: side in pixels that the classifier sees.
    """

    name: str
    arm: Arm
    part: Part
    transform: ImageTransform
    size: int

    @classmethod
    def plan(
        cls, arm: Arm, part: Part, transform: ImageTransform, photos: str, size: int
    ) -> "Pool":
        """Name a pool by all that changes it, so that equal ones are made once."""
        settings = identity(transform, pinned(transform.backend), {"per_image": arm.per_image})
        code = pictures.short_hash(settings, photos, size)
        label = same_name(arm.generate, STRATEGIES) or arm.generate
        return cls(f"{label}-{part.shots or 'all'}-{code}", arm, part, transform, size)

    def file(self, folder: Path) -> Path:
        """Return the file of its pictures, which may not be there yet."""
        return folder / "pictures" / f"{self.name}.safetensors"

    def make(
        self, folder: Path, root: Path, classes: Sequence[str], progress: bool = False
    ) -> tuple[Path, int]:
        """Generate what is missing; return the file of pictures, and how many were made now."""
        file = self.file(folder)
        if file.is_file():
            return file, 0
        destination = folder / "sets" / self.name
        started = time.monotonic()
        spec = spec_of(self.transform.backend)
        side = max(self.size, self.size if spec is None else pin(spec).side)
        with warnings.catch_warnings():
            # Its lines are for those who load the set by ImageFolder; pairs are drawn at random, so
            # a small set may have no image of a class.
            warnings.simplefilter("ignore", SummaryWarning)
            summary = augment_folder(
                root,
                destination,
                self.transform,
                per_image=self.arm.per_image,
                size=side,
                format="png" if side <= LOSSLESS else "jpg",
                only=self.part.train,
                progress=progress,
            )
        seconds = time.monotonic() - started
        if summary.made and summary.taken_over:  # as if nothing had been there before
            seconds *= (summary.made + summary.taken_over) / summary.made
        pictures.write(file, self._read(destination, classes, seconds))
        return file, summary.made

    def _read(self, folder: Path, classes: Sequence[str], seconds: float) -> pictures.Pictures:
        made = GeneratedDataset(folder, classes=classes)
        keys = [row["file_name"] for row in made.rows]
        squares, places, skipped = pictures.read_squares(folder, keys, self.size)
        rows = [made.rows[place] for place in places]
        sources = sorted({str(row.get("source")) for row in rows})
        place_of = {source: place for place, source in enumerate(sources)}
        strengths = [1.0 if row.get("strength") is None else row["strength"] for row in rows]
        return pictures.Pictures(
            torch.stack(squares),
            {
                "source": torch.tensor([made.class_to_idx[source_label(row)] for row in rows]),
                "target": torch.tensor([made.class_to_idx[row["label"]] for row in rows]),
                "strength": torch.tensor(strengths, dtype=torch.float64),
                "origin": torch.tensor([place_of[str(row.get("source"))] for row in rows]),
            },
            {
                "sources": sources,
                "skipped": skipped,
                "seconds": seconds,
                "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
                "images": len(rows),
            },
        )
