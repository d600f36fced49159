"""Train the embedded models' parts: within a budget, in slices, on a CPU or as fast as a GPU can.

The models are so small that a GPU waits for Python between their kernels. There the whole step
(draws, gathers, forward, backward, optimiser, average) is captured once as a CUDA graph and then
replayed, so every tensor that a step needs must already lie on the device.

    trained = fit({"unet": unet}, loss, folder / "unet.safetensors", Options(steps=100),
                  minutes=5, learning_rate=1e-3)
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

log = logging.getLogger("tiny")

#: Steps before a capture: libraries choose their kernels and the compiler compiles in them.
WARM_UP_STEPS = 12


@dataclass(frozen=True)
class Options:
    """How to train, whatever is trained.

    Args:
        steps: stop each stage after so many steps, if its time is not used up before.
        slice_minutes: pause after so long, to be called again.
        batch_size: samples a step.
        learning_rate: the peak; None means the stage's own. It is reached after 200 steps or 2 %
            of `steps`, and falls linearly to zero with the used part of the budget.
        ema: decay of the averaged weights, which are the result.
        compile: use `torch.compile`: one minute to start, or two, then half as fast again.
        capture: on a GPU, replay the step as a CUDA graph.
        device: where to train.
        seed: salts the weights and the draws.
        init: folder of a pipeline whose weights are the start; None starts anew.
    """

    steps: int | None = None
    slice_minutes: float = math.inf
    batch_size: int = 16
    learning_rate: float | None = None
    ema: float = 0.999
    compile: bool = False
    capture: bool = True
    device: str = "cpu"
    seed: int = 0
    init: Path | None = None

    @staticmethod
    def add_to(parser: argparse.ArgumentParser) -> None:
        """Give a command line these options."""
        parser.add_argument("--steps", type=int, help="stop each stage after so many steps")
        parser.add_argument("--slice-minutes", type=float, default=math.inf, help="pause after")
        parser.add_argument("--batch-size", type=int, default=16)
        parser.add_argument("--learning-rate", type=float)
        parser.add_argument("--ema", type=float, default=0.999, help="decay of the average")
        parser.add_argument("--compile", action="store_true")
        parser.add_argument("--no-capture", dest="capture", action="store_false")
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--init", type=Path, help="pipeline to start from")

    @classmethod
    def of(cls, args: argparse.Namespace) -> Options:
        """Take the options from a parsed command line."""
        return cls(**{name: getattr(args, name) for name in cls.__dataclass_fields__})


class TrainingState:
    """What a training run has to keep: weights, their average, the optimiser, the clock."""

    def __init__(self, modules: dict[str, nn.Module], learning_rate: float) -> None:
        self.modules = nn.ModuleDict(modules)
        self.averages = copy.deepcopy(self.modules).requires_grad_(False)
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        # Rate and weight are tensors: a captured step reads them anew at each replay.
        self.rate = torch.tensor(learning_rate, device=self.device)
        self.weight = torch.tensor(1.0, device=self.device)
        self.optimiser = torch.optim.AdamW(
            self.parameters, self.rate, weight_decay=1e-4, betas=(0.9, 0.99), fused=True,
            capturable=self.device.type == "cuda",
        )  # fmt: skip
        self.step = 0
        self.seconds = 0.0

    def set_average(self, decay: float) -> None:
        """Set how far the averaged weights move towards the current ones in the next step."""
        # A short memory at first: the random initial weights must not linger.
        self.weight.fill_(1 - min(decay, (1 + self.step) / (10 + self.step)))

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards the current ones."""
        averages = list(self.averages.parameters())
        gaps = torch._foreach_sub(list(self.modules.parameters()), averages)
        torch._foreach_mul_(gaps, self.weight)
        torch._foreach_add_(averages, gaps)

    def save(self, path: Path) -> None:
        """Write everything into one safetensors file, replacing the last one at once."""
        tensors = {f"raw.{k}": v for k, v in self.modules.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.averages.state_dict().items()}
        for index, entry in self.optimiser.state_dict()["state"].items():
            tensors |= {f"opt.{index}.{k}": v for k, v in entry.items()}
        metadata = {"step": str(self.step), "seconds": str(self.seconds)}
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        save_file({k: v.contiguous() for k, v in tensors.items()}, new, metadata)
        new.replace(path)

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        with safe_open(path, "pt", device=str(self.device)) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        for prefix, module in (("raw.", self.modules), ("ema.", self.averages)):
            part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(part)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("opt."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        for group in self.optimiser.param_groups:  # loading has put a copy there
            group["lr"] = self.rate
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])


class Stepper:
    """One step of training, callable; on a GPU it is captured after a few calls."""

    def __init__(
        self, state: TrainingState, loss: Callable[[Generator], Tensor], capture: bool
    ) -> None:
        self.state, self.loss = state, loss
        self.generator = Generator(state.device)
        self.total = torch.zeros((), device=state.device)
        self.capture = capture and state.device.type == "cuda"
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream() if self.capture else None

    def _run(self) -> None:
        kind = self.state.device.type
        self.state.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda", cache_enabled=False):
            value = self.loss(self.generator)
        value.backward()
        nn.utils.clip_grad_norm_(self.state.parameters, 1.0)
        self.state.optimiser.step()
        self.state.average()
        self.total.add_(value.detach())

    def __call__(self, seed: int) -> None:
        """Make one step with draws that follow from the seed."""
        self.generator.manual_seed(seed)
        self.calls += 1
        if self.graph is not None:
            self.graph.replay()
        elif self.stream is None:
            self._run()
        elif self.calls <= WARM_UP_STEPS:  # on a side stream, as capturing asks for
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self._run()
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            with torch.cuda.graph(self.graph):
                self._run()
            self.graph.replay()


def fit(
    modules: dict[str, nn.Module],
    loss: Callable[[Generator], Tensor],
    checkpoint: Path,
    options: Options,
    *,
    minutes: float,
    learning_rate: float,
    save_minutes: float = 2.0,
) -> tuple[dict[str, nn.Module], dict[str, object]] | None:
    """Train modules until a budget of time or steps is used up, over any number of slices.

    Args:
        modules: what to train; resumed from `checkpoint` where that exists.
        loss: draws its batch and noise from the generator given, which lies on the modules'
            device, and returns a scalar without waiting for the device.
        checkpoint: the safetensors file that carries the run.
        options: budget of steps, batch, average, device.
        minutes: wall-clock time in all, over all slices.
        learning_rate: the peak, unless the options name another.
        save_minutes: how often the checkpoint is written.

    Returns:
        The averaged modules and the figures of the run, or None if the slice ended first.
    """
    peak = options.learning_rate or learning_rate
    state = TrainingState(modules, peak)
    if checkpoint.exists():
        state.load(checkpoint)
        log.info("%s: resumed at step %d", checkpoint.stem, state.step)
    step = Stepper(state, loss, options.capture)
    steps = options.steps
    warm_up = 200 if steps is None else max(1, min(200, steps // 50))
    began = last = saved = logged = time.monotonic()
    since = state.step
    while True:
        if state.device.type == "cuda" and state.step % 50 == 0:
            torch.cuda.synchronize()  # else the clock below runs ahead of the device
        now = time.monotonic()
        state.seconds += now - last
        last = now
        # Whichever of time and steps is further on, so a busy machine still ends well trained.
        done = max(state.seconds / (60 * minutes), state.step / steps if steps else 0.0)
        ended, paused = done >= 1, now - began > 60 * options.slice_minutes
        if ended or paused or now - saved > 60 * save_minutes:
            state.save(checkpoint)
            saved = now
        if ended:
            return dict(state.averages.items()), {
                "steps": state.step,
                "minutes": round(state.seconds / 60, 1),
                "batch_size": options.batch_size,
                "device": device_name(state.device),
            }
        if paused:
            return None
        if now - logged > 15 and state.step > since:
            count = state.step - since
            log.info(
                "%s: step %d, %.1f min, loss %.4f, %.0f samples/s",
                checkpoint.stem, state.step, state.seconds / 60, step.total.item() / count,
                count * options.batch_size / (now - logged),
            )  # fmt: skip
            step.total.zero_()
            logged, since = now, state.step
        state.rate.fill_(peak * min(1.0, (state.step + 1) / warm_up) * (1 - done))
        state.set_average(options.ema)
        step(options.seed * 1_000_003 + state.step)
        state.step += 1


def device_name(device: torch.device) -> str:
    """Say what a model was trained on, for its card."""
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return "one CPU core" if threads == 1 else f"{threads} CPU cores"
