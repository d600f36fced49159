"""The folder of one fine-tuning: checked, trained into, resumed and finished."""

import gc
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from diffaug import images
from diffaug.backends import finetuned
from diffaug.backends.hub import pin
from diffaug.backends.loading import load_pipeline
from diffaug.backends.presets import PRESETS
from diffaug.backends.spec import ModelSpec
from diffaug.errors import DestinationError
from diffaug.files import write_whole
from diffaug.finetuning.data import Lessons, Words
from diffaug.finetuning.settings import Settings
from diffaug.finetuning.trainer import Trainer
from diffaug.offline.identity import versions
from diffaug.offline.sources import Skipped
from diffaug.progress import progress_bar
from diffaug.seeds import derive_seed

CHECKPOINT = "checkpoint.safetensors"
#: What a process that was killed amid writing leaves behind.
_CUT = re.compile(r".+\.[0-9a-f]{16}\.tmp")


class RunFolder:
    """A fine-tuned folder in the making."""

    def __init__(
        self,
        destination: str | os.PathLike[str],
        lessons: Lessons,
        words: Words,
        spec: ModelSpec,
        settings: Settings,
        base: str,
    ) -> None:
        self.base = base
        self.folder = Path(destination).expanduser().absolute()
        self.checkpoint = self.folder / CHECKPOINT
        if self.folder.resolve().is_relative_to(lessons.root.resolve()):
            raise DestinationError(
                f"'{destination}' lies inside the source '{lessons.root}', whose next run would "
                "take it for a class; choose a folder outside it."
            )
        self.lessons, self.words, self.settings = lessons, words, settings
        self.spec = pin(spec)
        self.skipped: list[Skipped] = []
        self.losses: list[float] = []

    def _identity(self) -> dict[str, Any]:
        """Say what makes a run this one; what is long is a hash."""
        lessons = self.lessons
        return {
            **self.settings.identity(),
            **asdict(self.words),
            "shots": lessons.shots,
            "classes": f"{len(lessons.names)} ({derive_seed(lessons.names):x})",
            "images": f"{len(lessons.keys)} ({derive_seed(lessons.keys):x})",
            **{f"base.{name}": value for name, value in self.spec.identity().items()},
        }

    def _record(self, finished: bool) -> dict[str, Any]:
        lessons = self.lessons
        local = ("device", "batch_size", "pad", "compile", "offload")
        spec = {name: value for name, value in asdict(self.spec).items() if name not in local}
        return {
            "format": finetuned.FORMAT,
            "finished": finished,
            "base": self.base,
            "spec": spec,
            "settings": {**asdict(self.settings), **asdict(self.words)},
            "subset": {"shots": lessons.shots, "seed": self.settings.seed, "files": lessons.keys},
            "skipped": [one._asdict() for one in self.skipped],
            "source": lessons.source.name,
            "versions": versions(),
            "identity": self._identity(),
        }

    def recorded(self) -> dict[str, Any]:
        """Return what the folder says of this run so far, nothing for a new one.

        Raises:
            DestinationError: it holds something else; the message says what.
        """
        file = self.folder / finetuned.RECORD
        with self._told("read"):
            found = sorted(os.listdir(self.folder)) if self.folder.exists() else []
        names = [name for name in found if not name.startswith(".") and not _CUT.fullmatch(name)]
        if not names:
            return {}
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
            known, self.skipped = there["identity"], [Skipped(**one) for one in there["skipped"]]
            steps = int(there["settings"]["steps"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DestinationError(
                f"'{self.folder}' must be empty or hold a run of this fine-tuning, and it holds "
                f"'{names[0]}' and no {finetuned.RECORD} of diffaug's; choose another folder."
            ) from error
        here = json.loads(json.dumps(self._identity()))
        for name in [*here, *known]:
            if name not in known or known[name] != here.get(name):
                raise DestinationError(
                    f"'{self.folder}' holds a different run: '{name}' is {known.get(name)!r} there "
                    f"and {here.get(name)!r} here; choose another folder, or the same settings."
                )
        if there["finished"] and steps != self.settings.steps:
            raise DestinationError(
                f"'{self.folder}' was finished after {steps} steps, and cannot be trained to "
                f"{self.settings.steps}, for the optimizer's state is gone; choose another folder."
            )
        return dict(there)

    def go(
        self,
        initial: int,
        device: torch.device,
        precision: str,
        checkpoint_every: int,
        sample_every: int,
        progress: bool,
    ) -> None:
        """Train from the last checkpoint, or from the start, to the end."""
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        if self.settings.batch_size < state.num_processes:
            raise ValueError(
                f"'batch_size' must be at least the number of processes, {state.num_processes}, "
                f"got {self.settings.batch_size}."
            )
        main = state.process_index == 0
        trainer = self._trainer(initial, device, precision)
        trainer.rank, trainer.world = state.process_index, state.num_processes
        self._restore(trainer)
        # None may still be looking at the folder when the first writes to it.
        state.wait_for_everyone()
        if main:
            for abandoned in filter(lambda path: _CUT.fullmatch(path.name), self.folder.rglob("*")):
                abandoned.unlink(missing_ok=True)
            self._write({finetuned.RECORD: self._record(finished=False)})
        try:
            size, steps = self.settings.batch_size, self.settings.steps
            done = trainer.step * size
            with progress_bar(progress and main, steps * size, done=done) as bar:
                while trainer.step < self.settings.steps:
                    self.losses.append(trainer.train())
                    if bar is not None:
                        bar.set_postfix(step=trainer.step, loss=f"{self.losses[-1]:.4f}")
                        bar.update(self.settings.batch_size)
                    if main and sample_every and trainer.step % sample_every == 0:
                        self._sample(trainer)
                    if main and trainer.step % checkpoint_every == 0:
                        self._save(trainer)
        except KeyboardInterrupt:
            if main and trainer.whole and trainer.step:
                self._save(trainer)
            raise
        finally:
            trainer.close()
        if main:
            self._finish(trainer)
        state.wait_for_everyone()
        del trainer
        gc.collect()
        torch.cuda.empty_cache()  # nothing where CUDA was never used

    def _trainer(self, initial: int, device: torch.device, precision: str) -> Trainer:
        dtype = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision]
        # Not compiled or offloaded: the paths that gradients take are for eager modules.
        changes: dict[str, Any] = {"device": str(device), "dtype": dtype, "safety_checker": False}
        pipe = load_pipeline(
            replace(self._plain(), compile=False, offload=False, pad=False, **changes)
        )
        count = len(self.lessons.names)
        pictures = self.lessons.pictures(self.skipped, self.spec.size, self.settings.balanced)
        words = self.words.tokens(count), self.words.prompts(count)
        return Trainer(pipe, pictures, *words, initial, self.settings, precision)

    def _plain(self) -> ModelSpec:
        """Return the base without its own adapters, and with its own scheduler if it had any."""
        if not self.spec.adapters:
            return self.spec
        return replace(self.spec, adapters=(), scheduler=None, steps=25, guidance_scale=7.5)

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DestinationError(
                f"'{self.folder}' could not be {done}: {error.strerror or error}; once it can, the "
                "same call goes on where it stopped."
            ) from error

    def _write(self, files: Mapping[str, Any]) -> None:
        """Write files whole: bytes, text, or plain values as JSON; in this order."""
        with self._told("written to"):
            for name, content in files.items():
                if not isinstance(content, (bytes, str)):
                    content = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
                data = content.encode() if isinstance(content, str) else content
                write_whole(self.folder / name, data)

    def _save(self, trainer: Trainer) -> None:
        from safetensors.torch import save

        tensors, texts = trainer.state()
        self._write({CHECKPOINT: save(tensors, texts)})

    def _restore(self, trainer: Trainer) -> None:
        from safetensors import SafetensorError, safe_open

        if not self.checkpoint.is_file():
            return
        try:
            with safe_open(self.checkpoint, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                trainer.restore(tensors, opened.metadata() or {})
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise DestinationError(
                f"'{self.checkpoint}' is damaged ({type(error).__name__}: {reason}); remove it to "
                "start from the first step, or put back a whole one."
            ) from error
        if trainer.step > self.settings.steps:
            raise DestinationError(
                f"'{self.folder}' has seen {trainer.step} steps already, and 'steps' is "
                f"{self.settings.steps}; ask for as many, or choose another folder."
            )

    def _sample(self, trainer: Trainer) -> None:
        pictures = trainer.pictures_of(self._plain())
        data = images.encode_image(pictures, "png")
        self._write({f"samples/step-{trainer.step:06d}.png": data})

    def _finish(self, trainer: Trainer) -> None:
        """Write what was learned, and last that it is whole."""
        from safetensors.torch import save

        lora, rows = trainer.results()
        classes = dict(zip(self.lessons.names, trainer.tokens, strict=True))
        self._write(
            {
                finetuned.LORA: save(lora, {"format": "pt"}),
                finetuned.EMBEDDINGS: save(rows, {"format": "pt"}),
                finetuned.CLASSES: {"metaclass": self.words.metaclass, "classes": classes},
                "README.md": self._card(),
                finetuned.RECORD: self._record(finished=True),
            }
        )
        self.checkpoint.unlink(missing_ok=True)

    def _card(self) -> str:
        lessons, settings = self.lessons, self.settings
        preset = PRESETS.get(self.base)
        terms = f" ({preset.licence}; commercial use: {preset.commercial})" if preset else ""
        prompt = finetuned.class_prompt(self.words.tokens(1)[0], self.words.metaclass)
        return f"""# {self.folder.name}

Fine-tuned with diffaug for Diff-Mix (Wang et al., 2024, arXiv 2403.19600): a LoRA of the U-Net, and
a word for each class, learned together.

- Base model: `{self.base}`, revision `{self.spec.revision}`.
- Classes: {len(lessons.names)}, from {len(lessons.keys) - len(self.skipped)} images.
- Training: {settings.steps} steps of {settings.batch_size} images at {self.spec.size} px; LoRA of
  rank {settings.rank}. All settings and images: `{finetuned.RECORD}`.
- Prompt: `{prompt}` for `{lessons.names[0]}`; the other words: `{finetuned.CLASSES}`.
- Use: give this folder as `backend`. It may be moved; the base model is loaded from its own place.
- Terms: those of the base model{terms} and of the training images.
"""
