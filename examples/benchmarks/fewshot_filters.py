"""Train on a choice among the generated images of an arm: the best half, or by their score.

The score of an image is the probability that a judge gives its target. The judge is the classifier
that was trained on the same few photographs; an oracle has learned from all photographs there are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffaug.comparison import pictures
from diffaug.comparison.pools import Models, Pool
from diffaug.comparison.split import photographs
from diffaug.comparison.training import RATES, Recipe, Task, batch_size, load, predict
from diffaug.comparison.training import run as train
from diffaug.folders import class_of

SIZE = 64


def filtered(
    kind: str, arm: Any, unit: Any, run: Any, backend: Any, editor: Any
) -> Tensor:
    """Train a classifier on chosen images of an arm's pool; return the classes it names.

    Args:
        kind: "half", "weights" or "oracle".
        arm: whose images are chosen from.
        unit, run: the seed of a slice, and what all units share.
        backend, editor: the models of the arm.
    """
    part = unit.slice
    source, test = (run.work / part.setting / folder for folder in ("train", "test"))
    out = run.work / "compared" / part.setting
    photos = photographs(source, test)
    [chosen] = photos.parts(part.shots, [unit.seed])
    arm = arm.filled(0.5, 0.7, 0.5, run.per_image)
    transform = Models(backend, editor, None, "", run.device).transform(arm, chosen, photos.classes)
    code = pictures.digest_of_files(photos.root, chosen.train)
    pool = pictures.read(Pool.plan(arm, chosen, transform, code, SIZE).file(out))

    def files(keys: Any, root: Any) -> Any:
        number = {label: place for place, label in enumerate(photos.classes)}
        labels = [number[class_of(key)] for key in keys]
        return pictures.photographs_file(out / "pictures", root, keys, labels, SIZE)

    def task(label: str, images: Any, generated: Any, steps: int, arm: Any) -> Task:
        recipe = Recipe("small", None, steps, batch_size(None, len(images)), RATES[0])
        return Task(
            name=f"{label}-{part.setting}-{part.shots}-{unit.seed}-{steps}",
            folder=out / "filtered", arm=arm, recipe=recipe, seed=unit.seed,
            classes=len(photos.classes), photos=files(images, photos.root),
            test=files(photos.test_keys, photos.test_root), pool=generated, device=run.device,
        )  # fmt: skip

    plain = type(arm)("none").filled(0.5, 0.7, 0.5, 1)
    if kind == "oracle":
        # Of every photograph to train from, and of none to test on.
        judge = task("judge-of-all", photos.keys, None, 3 * run.steps, plain)
    else:
        judge = task("judge-of-few", chosen.train, None, run.steps, plain)
    if judge.outcome() is None:
        train(judge)
    model = load(judge).to(run.device)
    scores = predict(model, pool.images, torch.device(run.device)).exp()
    scores = scores.gather(1, pool.columns["target"][:, None])[:, 0]
    if kind == "weights":
        generator = torch.Generator().manual_seed(unit.seed)
        places = torch.multinomial(scores, 4 * len(scores), replacement=True, generator=generator)
    else:
        places = scores.argsort(descending=True)[: len(scores) // 2].sort().values
    kept = pictures.Pictures(
        pool.images[places], {key: column[places] for key, column in pool.columns.items()}, pool.facts
    )
    label = f"{kind}-of-{part.name}-{unit.seed}"
    file = out / "filtered" / f"{label}.pool.safetensors"
    pictures.write(file, kept)
    asked = task(label, chosen.train, file, run.steps, arm)
    outcome = asked.outcome() or train(asked)
    return torch.tensor(outcome["predicted"])
