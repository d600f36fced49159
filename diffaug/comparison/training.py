"""One classifier: trained by one recipe for all arms, tested, and written down."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffaug.backends.devices import fitting
from diffaug.comparison import pictures
from diffaug.comparison.arms import Arm
from diffaug.comparison.batches import Batches, Data
from diffaug.comparison.networks import Factory, build, name_of
from diffaug.files import write_whole
from diffaug.labels.label import soft_label
from diffaug.seeds import derive_seed
from diffaug.switches import own_switches
from diffaug.training_graphs import Recorded

#: Raised when the recipe changes, so that older classifiers are not taken for newer ones.
RECIPE = 1
WEIGHT_DECAY = 0.05
#: Learning rates of AdamW: from scratch, and from given weights.
RATES = 2e-3, 3e-4
#: Images in a step: of few photographs, and of many.
FEW, BATCHES = 512, (16, 64)
#: Images that are tested at once.
TESTED = 256


@dataclass(frozen=True)
class Recipe:
    """What all arms share.

    Args:
        classifier: as :func:`networks.build` takes it.
        weights: a file to start from.
        steps: of the optimiser.
        batch: images in a step; 0 for what suits the number of photographs.
        rate: the highest learning rate.
    """

    classifier: str | Factory
    weights: str | None
    steps: int
    batch: int
    rate: float

    def identity(self) -> list[Any]:
        """Return what names it, in plain values; the weights are not read."""
        weights = None
        if self.weights is not None:
            file = Path(self.weights)
            weights = pictures.digest_of_files(file.parent, [file.name])
        return [name_of(self.classifier), weights, [self.steps, self.batch, self.rate]]


@dataclass(frozen=True)
class Task:
    """One training, in values that another process can be given.

    Args:
        name: of its files in the folder.
        folder: where its files are written.
        arm: with all its settings.
        recipe: what all arms share.
        seed: of the first weights and of every draw.
        classes: how many there are.
        photos, test: files of pictures.
        pool: the file of what was generated; None if nothing was.
        device: where it is trained.
    """

    name: str
    folder: Path
    arm: Arm
    recipe: Recipe
    seed: int
    classes: int
    photos: Path
    test: Path
    pool: Path | None
    device: str

    @property
    def result(self) -> Path:
        """The file that says what came out; it is there once the training is done."""
        return self.folder / f"{self.name}.json"

    @property
    def weights(self) -> Path:
        """The file of the weights."""
        return self.folder / f"{self.name}.safetensors"

    def outcome(self) -> dict[str, Any] | None:
        """Return what came out; None if the training is not done."""
        try:
            found: dict[str, Any] = json.loads(self.result.read_text())
        except (OSError, ValueError):
            return None
        return found if self.weights.is_file() else None


def batch_size(given: int | None, photographs: float) -> int:
    """Return how many images a step has."""
    return given or (BATCHES[0] if photographs < FEW else BATCHES[1])


def passes(steps: int, batch: int | None, photographs: float) -> float:
    """Return how often each photograph comes in a training, replaced or not."""
    return steps * batch_size(batch, photographs) / photographs


def run(task: Task) -> dict[str, Any]:
    """Train and test a classifier, and write its weights and what came out; return that."""
    device = torch.device(task.device)
    started = time.monotonic()
    with fitting(f"a classifier ({task.arm.name})", device, "give a smaller 'batch' or 'size'"):
        data = training_data(task).to(device)
        with own_switches(device, exact=False, learn=True), own_draws(task.seed, device):
            model = build(task.recipe.classifier, task.classes, task.recipe.weights).to(device)
            batches = Batches(
                data, task.arm, steps=task.recipe.steps, batch=task.recipe.batch, seed=task.seed
            )
            loss = train(model, batches, steps=task.recipe.steps, rate=task.recipe.rate)
            test = _read(task.test)
            scores = predict(model, test.images, device)
    predicted = scores.argmax(1)
    outcome = {
        "arm": task.arm.name,
        "seed": task.seed,
        "recipe": {**task.arm.recipe(), "steps": task.recipe.steps, "batch": task.recipe.batch},
        "accuracy": (predicted == test.columns["label"]).float().mean().item(),
        "predicted": predicted.tolist(),
        "loss": loss,
        "seconds": time.monotonic() - started,
    }
    _write(task, model, outcome)
    return outcome


def train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    steps: int,
    rate: float,
    weight_decay: float = WEIGHT_DECAY,
) -> float:
    """Train on float images with soft labels; leave the model in evaluation mode.

    The optimiser is AdamW. The learning rate rises during a tenth of the steps, and then falls to
    zero as a cosine.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    on_gpu = next(model.parameters()).is_cuda
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=weight_decay, fused=on_gpu)
    model.train().to(memory_format=torch.channels_last)
    call = Recorded(model)
    losses = []
    for step, (images, labels) in enumerate(batches):
        done = step / steps
        share = min(10 * done + 1 / steps, 0.5 + 0.5 * math.cos(math.pi * done))
        optimiser.param_groups[0]["lr"] = rate * share
        images = images.contiguous(memory_format=torch.channels_last)
        loss = nn.functional.cross_entropy(call(images), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if done >= 0.9 or step == steps - 1:
            losses.append(loss.detach())  # asked for at the end: nothing waits for a GPU
    model.eval()
    return torch.stack(losses).mean().item()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Return log-probabilities (N, C) of uint8 images (N, 3, H, W), on the CPU."""
    parts = []
    for part in images.split(TESTED):
        floats = part.to(device).float() / 255
        logits = model(floats.contiguous(memory_format=torch.channels_last))
        parts.append(logits.float().log_softmax(1))
    return torch.cat(parts).cpu()


def load(task: Task) -> nn.Module:
    """Return a classifier that was trained, on the CPU, in evaluation mode."""
    from safetensors.torch import load_file

    with own_draws(task.seed, torch.device("cpu")):
        model = build(task.recipe.classifier, task.classes)
    given = {name: tensor.float() for name, tensor in load_file(task.weights).items()}
    own = model.state_dict()
    model.load_state_dict({n: t.to(own[n].dtype) for n, t in given.items()})
    return model.eval()


def training_data(task: Task) -> Data:
    """Return what a classifier is trained on, on the CPU."""
    photos = _read(task.photos)
    numbers = photos.columns["label"]
    labels = torch.nn.functional.one_hot(numbers, task.classes).float()
    if task.pool is None:
        return Data(photos.images, labels)
    pool = _read(task.pool)
    columns = {name: pool.columns[name].tolist() for name in ("source", "target", "strength")}
    gamma = 1.0 if task.arm.gamma is None else task.arm.gamma
    mixed = [
        soft_label(source, target, strength, gamma, task.classes)
        for source, target, strength in zip(*columns.values(), strict=True)
    ]
    own = None
    if task.arm.replaced_by == "local":
        origins = [pool.facts["sources"][place] for place in pool.columns["origin"].tolist()]
        keys = photos.facts["keys"]
        own = _places(keys, origins)
        missing = [key for key, places in zip(keys, own, strict=True) if not places]
        if missing and task.arm.generate == "edit":
            raise ValueError(
                "the generated set must have images of every photograph, and has none of "
                f"'{missing[0]}'; remove the set, and it is made again."
            )
    elif task.arm.replaced_by == "class":
        own = _places(numbers.tolist(), columns["target"])
    return Data(photos.images, labels, pool.images, torch.stack(mixed), own)


def _places(photographs: Sequence[Any], generated: Sequence[Any]) -> list[list[int]]:
    """Return for each photograph the places of the generated images that are alike in a value."""
    places: dict[Any, list[int]] = {value: [] for value in photographs}
    for place, value in enumerate(generated):
        if value in places:
            places[value].append(place)
    return [places[value] for value in photographs]


def _write(task: Task, model: nn.Module, outcome: dict[str, Any]) -> None:
    """Write the weights, in half precision, and then what came out: it says that both are there."""
    from safetensors.torch import save

    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_whole(task.weights, save(halves))
    write_whole(task.result, (json.dumps(outcome, ensure_ascii=False) + "\n").encode())


@lru_cache(maxsize=4)
def _read(path: Path) -> pictures.Pictures:
    """Read a file of pictures, which several trainings in a row share."""
    return pictures.read(path)


@contextmanager
def own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Draw first weights and RandAugment from a seed, and leave the caller's draws as they are."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed("compare", "weights", seed))
        yield
