"""The steps of Diff-Mix's fine-tuning: draws, loss, update, and the state between two of them.

Everything random about an image of a step follows from ``(seed, step, index)`` alone. So no random
state is kept, and how many processes share a step does not matter.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from diffaug.backends.adapters import add_tokens
from diffaug.backends.batches import Job, run_batch
from diffaug.backends.devices import is_out_of_memory
from diffaug.backends.finetuned import class_prompt
from diffaug.backends.request import GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.errors import GenerationError, first_line
from diffaug.finetuning.data import ImageSampler
from diffaug.finetuning.loss import Denoiser, NoisedImage, min_snr_weights
from diffaug.finetuning.settings import Settings
from diffaug.finetuning.words import class_tokens, initial_token_id
from diffaug.seeds import derive_seed

#: The layers of each attention of the U-Net that learn.
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


class LearnedRows(nn.Module):
    """A frozen table of token embeddings, and rows that learn for the tokens after its last.

    Args:
        table: of the tokens that the model knows.
        first: number of the first new token.
        rows: the embeddings of the new tokens.
    """

    def __init__(self, table: nn.Embedding, first: int, rows: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.first = first
        self.rows = nn.Parameter(rows)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        new = words >= self.first
        known = self.table(words.masked_fill(new, 0))  # (B, length, hidden)
        learned = functional.embedding((words - self.first).clamp(min=0), self.rows)
        return torch.where(new[..., None], learned.to(known.dtype), known)


class Trainer:
    """A pipeline that learns: the LoRA of its U-Net and one embedding for each class.

    Args:
        pipe: on its device, in the precision of its frozen parts; it is changed here.
        sampler: draws the images to learn from.
        classes: how many there are.
        settings: how to train.
        precision: ``"no"``, ``"fp16"`` or ``"bf16"``.
        rank, world: which of how many processes this is.
    """

    def __init__(
        self,
        pipe: Any,
        sampler: ImageSampler,
        classes: int,
        settings: Settings,
        precision: str = "no",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.settings, self.sampler = settings, sampler
        self.tokens = class_tokens(classes)
        self.prompts = [class_prompt(token, settings.metaclass) for token in self.tokens]
        self.rank, self.world = rank, world
        self.denoiser = Denoiser(pipe)
        self.pipe, self.device = pipe, pipe.unet.device
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()  # no dropout, which would draw numbers of its own
        self._add_lora()
        self._add_rows()
        self.words = self.denoiser.words(self.prompts)
        named = [*pipe.unet.named_parameters(), ("embeddings", self.rows)]
        self.learning = {name: weight for name, weight in named if weight.requires_grad}
        self.lora = [weight for name, weight in self.learning.items() if name != "embeddings"]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.lora, "lr": settings.learning_rate},
                {"params": [self.rows], "lr": settings.embedding_learning_rate},
            ],
            betas=(0.9, 0.999),
            weight_decay=1e-2,
        )
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        # A recording reads weights where they are, and not what a cache made of them.
        self._autocast = lambda: torch.autocast(
            self.device.type, half, enabled=half is not None, cache_enabled=False
        )
        if settings.gradient_accumulation == 1 and not settings.gradient_checkpointing:
            self.denoiser.record()
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self._readers = ThreadPoolExecutor(4)
        self._ahead: tuple[int, list[Future[NoisedImage]]] = (-1, [])
        #: Steps done.
        self.step = 0
        #: False within an update, when some weights are of this step and others of the next.
        self.whole = True

    def _add_lora(self) -> None:
        from peft import LoraConfig

        unet, rank = self.pipe.unet, self.settings.rank
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(derive_seed(self.settings.seed, "lora"))
            unet.add_adapter(
                LoraConfig(
                    r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS
                )
            )
        for weight in unet.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        if self.settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()

    def _add_rows(self) -> None:
        encoder = self.pipe.text_encoder
        table = encoder.get_input_embeddings()
        initial = initial_token_id(self.pipe.tokenizer, self.settings)
        first, *_ = add_tokens(self.pipe.tokenizer, self.tokens)
        rows = table.weight[initial].detach().float().repeat(len(self.tokens), 1)
        learned = LearnedRows(table, first, rows)
        encoder.set_input_embeddings(learned)
        self.rows = learned.rows

    def item(self, step: int, index: int) -> NoisedImage:
        """Draw an image of a step; it is the same in every process."""
        generator = torch.Generator().manual_seed(derive_seed(self.settings.seed, step, index))
        return self.denoiser.with_noise(*self.sampler.draw(generator), generator)

    def _items(self) -> list[NoisedImage]:
        """Return this process's images of the step to come, and begin to read the next ones."""

        def submit(step: int) -> tuple[int, list[Future[NoisedImage]]]:
            indices = range(self.rank, self.settings.batch_size, self.world)
            return step, [self._readers.submit(self.item, step, index) for index in indices]

        step, futures = self._ahead if self._ahead[0] == self.step else submit(self.step)
        if step + 1 < self.settings.steps:
            self._ahead = submit(step + 1)
        return [future.result() for future in futures]

    def train(self) -> float:
        """Do one step; return its loss, the mean over the batch of all processes.

        Raises:
            GenerationError: the batch does not fit into memory, or the loss is not a number.
        """
        items = self._items()
        try:
            return self._step(items)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error, len(items)):
                raise
            fault = f"does not fit on {self.device}"
            if not is_out_of_memory(error):  # no smaller batch is tried, which could show it
                fault = f"fails on {self.device}, mostly for want of memory ({first_line(error)})"
            raise GenerationError(
                f"a batch of {len(items)} images {fault}; raise "
                "'gradient_accumulation', set gradient_checkpointing=True, or lower 'size'."
            ) from error

    def _step(self, items: Sequence[NoisedImage]) -> float:
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for part in _split(items, self.settings.gradient_accumulation):
            with self._autocast():
                errors = self.denoiser.errors(part, self.words[[item.label for item in part]])
            loss = (errors * self._weights(part)).sum() / self.settings.batch_size
            self._scaler.scale(loss).backward()
            total += loss.detach()
        total = self._add_up(total)
        if not math.isfinite(total):
            raise GenerationError(
                f"the loss of step {self.step} is {float(total)}; lower the learning rates, or set "
                "mixed_precision='no'."
            )
        self._scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.lora, 1.0)
        self.whole = False
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.step += 1
        self.whole = True
        return float(total)

    def _weights(self, items: Sequence[NoisedImage]) -> torch.Tensor:
        if self.settings.min_snr_gamma is None:
            return torch.ones(len(items), device=self.device)
        shares = self.denoiser.scheduler.alphas_cumprod.cpu()
        shares = shares[torch.stack([item.timestep for item in items])]
        return min_snr_weights(
            shares, self.settings.min_snr_gamma, self.denoiser.prediction_type
        ).to(self.device)

    def _add_up(self, loss: torch.Tensor) -> torch.Tensor:
        """Sum gradients and losses over all processes, whose shares of a batch may differ."""
        if self.world == 1:
            return loss
        from accelerate.utils import reduce

        weights = self.learning.values()
        loss, *gradients = reduce([loss, *(weight.grad for weight in weights)], "sum")
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        return loss

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return all that the next step depends on: tensors, and the rest as text."""
        tensors = {}
        for name, weight in self.learning.items():
            tensors[name] = weight.detach().cpu().contiguous()
            for kind, value in self.optimizer.state[weight].items():
                tensors[f"{name}:{kind}"] = value.detach().cpu().contiguous()
        return tensors, {"step": str(self.step), "scaler": json.dumps(self._scaler.state_dict())}

    def restore(self, tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> None:
        """Resume from a state.

        Raises:
            KeyError, ValueError, RuntimeError: it is of another run.
        """
        scaler, step = json.loads(texts["scaler"]), int(texts["step"])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        with torch.no_grad():
            for index, (name, weight) in enumerate(self.learning.items()):
                weight.copy_(tensors[name])
                kinds = ("step", "exp_avg", "exp_avg_sq")
                moments[index] = {kind: tensors[f"{name}:{kind}"].clone() for kind in kinds}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if scaler:
            self._scaler.load_state_dict(scaler)
        self.step = step

    def results(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the LoRA as diffusers loads it, and the embedding of each token."""
        from peft.utils import get_peft_model_state_dict

        lora = get_peft_model_state_dict(self.pipe.unet)
        rows = self.rows.detach().cpu().clone()
        return (
            {f"unet.{name}": weight.detach().cpu().contiguous() for name, weight in lora.items()},
            dict(zip(self.tokens, rows.unbind(), strict=True)),
        )

    def sample(self, spec: ModelSpec, classes: int = 4) -> torch.Tensor:
        """Generate an image of each of the first classes, side by side, uint8 (3, S, n S)."""
        from diffusers import AutoPipelineForText2Image

        pipe = AutoPipelineForText2Image.from_pipe(self.pipe)
        pipe.set_progress_bar_config(disable=True)
        jobs = [
            Job(index, GenerationRequest(prompt, index), None, derive_seed(index))
            for index, prompt in enumerate(self.prompts[:classes])
        ]
        with self._autocast():
            outputs = run_batch(pipe, replace(spec, task="generate"), jobs)
        return torch.cat([output.image for output in outputs], dim=-1)

    def close(self) -> None:
        """Stop reading ahead."""
        self._readers.shutdown(cancel_futures=True)


def _split(items: Sequence[NoisedImage], parts: int) -> Iterator[Sequence[NoisedImage]]:
    """Cut a batch into equal parts; the last one may be smaller."""
    size = math.ceil(len(items) / parts)
    yield from (items[start : start + size] for start in range(0, len(items), size))
