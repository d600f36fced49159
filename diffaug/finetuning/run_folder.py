"""The folder of one fine-tuning: checked, written to, resumed from and finished."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from diffaug.backends import finetuned
from diffaug.backends.devices import is_out_of_memory
from diffaug.backends.hub import pin
from diffaug.backends.presets import PRESETS
from diffaug.backends.spec import ModelSpec
from diffaug.errors import DestinationError, first_line
from diffaug.finetuning.data import TrainingSet
from diffaug.finetuning.settings import Settings, without_adapters
from diffaug.finetuning.trainer import Trainer
from diffaug.finetuning.words import class_tokens
from diffaug.images import encode_image
from diffaug.offline.destination import OutputFolder, check_outside
from diffaug.offline.identity import versions
from diffaug.offline.sources import Skipped
from diffaug.seeds import derive_seed

CHECKPOINT = "checkpoint.safetensors"


class RunFolder(OutputFolder):
    """A fine-tuned folder while it is made.

    Args:
        destination: the folder.
        images: what the model learns from.
        spec: the base model.
        settings: how to train it.
        base: the name that the user gave to the base model.

    Raises:
        DestinationError: it lies inside the source.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str],
        images: TrainingSet,
        spec: ModelSpec,
        settings: Settings,
        base: str,
    ) -> None:
        self.images, self.settings, self.base = images, settings, base
        self.spec = pin(spec)
        self.skipped: list[Skipped] = []
        super().__init__(destination, self._identity(), finetuned.RECORD)
        self.checkpoint = self.folder / CHECKPOINT
        check_outside(self.folder, images.root)

    def _identity(self) -> dict[str, Any]:
        """Return what must not change when the run is resumed; long lists become hashes."""
        names, keys = self.images.names, self.images.keys
        return {
            **self.settings.identity(),
            "classes": f"{len(names)} ({derive_seed(names):x})",
            "images": f"{len(keys)} ({derive_seed(keys):x})",
            **{f"base.{name}": value for name, value in self.spec.identity().items()},
        }

    def _record(self, finished: bool) -> dict[str, Any]:
        shots, seed, files = self.settings.shots, self.settings.seed, self.images.keys
        local = ("device", "batch_size", "pad", "compile", "offload")
        spec = {name: value for name, value in asdict(self.spec).items() if name not in local}
        return {
            "format": finetuned.FORMAT,
            "finished": finished,
            "base": self.base,
            "spec": spec,
            "settings": self.settings.recorded(),
            "subset": {"shots": shots, "seed": seed, "files": files},
            "skipped": [image._asdict() for image in self.skipped],
            "source": self.images.source.name,
            "versions": versions(),
            "identity": self.identity,
        }

    def stage(self) -> str:
        """Return how far this run is: ``"new"``, ``"begun"`` or ``"finished"``.

        Raises:
            DestinationError: the folder holds something else, or was finished after other steps.
        """
        record = self.recorded()
        if record is None:
            return "new"
        self.skipped = [Skipped(**image) for image in record["skipped"]]
        if not record["finished"]:
            return "begun"
        if record["settings"]["steps"] != self.settings.steps:
            raise DestinationError(
                f"'{self.folder}' was finished after {record['settings']['steps']} steps, and "
                f"cannot be trained to {self.settings.steps}, for the optimizer's state is gone; "
                "choose another folder."
            )
        return "finished"

    def begin(self) -> None:
        """Record the run, before its first step."""
        self._write({finetuned.RECORD: self._record(finished=False)})

    def _write(self, files: Mapping[str, Any]) -> None:
        """Write files whole, in this order: bytes, text, or plain values as JSON."""
        for name, content in files.items():
            if not isinstance(content, (bytes, str)):
                content = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
            self.write(name, content.encode() if isinstance(content, str) else content)

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint."""
        from safetensors.torch import save

        tensors, texts = trainer.state()
        self._write({CHECKPOINT: save(tensors, texts)})

    def restore(self, trainer: Trainer) -> None:
        """Resume from the checkpoint, if there is one.

        Raises:
            DestinationError: it is damaged, or is from a later step than the last one of this run.
        """
        from safetensors import SafetensorError, safe_open

        if not self.checkpoint.is_file():
            return
        try:
            with safe_open(self.checkpoint, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                trainer.restore(tensors, opened.metadata() or {})
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise  # it may be whole
            raise DestinationError(
                f"'{self.checkpoint}' is damaged ({type(error).__name__}: {first_line(error)}); "
                "remove it to start from the first step, or put back a whole one."
            ) from error
        if trainer.step > self.settings.steps:
            raise DestinationError(
                f"'{self.folder}' has seen {trainer.step} steps already, and 'steps' is "
                f"{self.settings.steps}; ask for as many, or choose another folder."
            )

    def wants_sample(self, step: int) -> bool:
        """Return whether a picture of samples is due after a step, and not there."""
        every = self.settings.sample_every
        return (
            bool(step and every and step % every == 0)
            and not (self.folder / _sample_file(step)).exists()
        )

    def sample(self, trainer: Trainer) -> None:
        """Write a picture of what the model makes of the first classes."""
        data = encode_image(trainer.sample(without_adapters(self.spec)), "png")
        self._write({_sample_file(trainer.step): data})

    def finish(self, trainer: Trainer) -> None:
        """Write what was learned, and at last the record that says so."""
        from safetensors.torch import save

        lora, rows = trainer.results()
        classes = dict(zip(self.images.names, trainer.tokens, strict=True))
        self._write(
            {
                finetuned.LORA: save(lora, {"format": "pt"}),
                finetuned.EMBEDDINGS: save(rows, {"format": "pt"}),
                finetuned.CLASSES: {"metaclass": self.settings.metaclass, "classes": classes},
                "README.md": self._card(),
                finetuned.RECORD: self._record(finished=True),
            }
        )
        self.checkpoint.unlink(missing_ok=True)

    def _card(self) -> str:
        images, settings = self.images, self.settings
        preset = PRESETS.get(self.base)
        terms = f" ({preset.licence}; commercial use: {preset.commercial})" if preset else ""
        prompt = finetuned.class_prompt(class_tokens(1)[0], settings.metaclass)
        return f"""# {self.folder.name}

Fine-tuned with diffaug for Diff-Mix (Wang et al., 2024, arXiv 2403.19600): a LoRA of the U-Net, and
a word for each class, learned together.

- Base model: `{self.base}`, revision `{self.spec.revision}`.
- Classes: {len(images.names)}, from {len(images.keys) - len(self.skipped)} images.
- Training: {settings.steps} steps of {settings.batch_size} images at {self.spec.size} px; LoRA of
  rank {settings.rank}. All settings and images: `{finetuned.RECORD}`.
- Prompt: `{prompt}` for `{images.names[0]}`; the other words: `{finetuned.CLASSES}`.
- Use: give this folder as `backend`. It may be moved; the base model is loaded from its own place.
- Terms: those of the base model{terms} and of the training images.
"""


def _sample_file(step: int) -> str:
    return f"samples/step-{step:06d}.png"
