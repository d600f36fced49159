"""The comparison itself: split, train, probe, generate, train again, compare."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffaug.arguments import whole
from diffaug.backends.base import spec_of
from diffaug.backends.devices import choose_device
from diffaug.checked import checked
from diffaug.comparison import pictures, probe, training
from diffaug.comparison.advice import advise, on_passes
from diffaug.comparison.arms import DEFAULT, Arm, find_arms
from diffaug.comparison.intervals import Marks
from diffaug.comparison.networks import build, name_of
from diffaug.comparison.pools import Models, Pool
from diffaug.comparison.results import Comparison
from diffaug.comparison.rows import Row, Training
from diffaug.comparison.split import Part, Photographs, first_of_each, photographs
from diffaug.comparison.training import RATES, RECIPE, Recipe, Task, batch_size, own_draws
from diffaug.comparison.workers import Workers, workers
from diffaug.folders import class_of
from diffaug.labels.class_names import numbers_of
from diffaug.labels.words import spelling, words_of
from diffaug.offline.identity import versions
from diffaug.progress import progress_bar
from diffaug.transforms.base import BackendLike

Say = Callable[[str], None]


@checked
def compare(
    source: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    folds: int | None = None,
    arms: str | Arm | Iterable[str | Arm] = DEFAULT,
    backend: BackendLike = "tiny-translate",
    editor: BackendLike = "tiny",
    shots: int | Sequence[int] | None = None,
    seeds: int | Sequence[int] | None = None,
    steps: int = 800,
    classifier: str | Callable[[int], nn.Module] = "small",
    weights: str | os.PathLike[str] | None = None,
    strength: float = 0.7,
    p: float = 0.5,
    gamma: float = 0.8,
    per_image: int = 5,
    targets: Sequence[str] | None = None,
    size: int = 64,
    batch: int | None = None,
    class_names: Mapping[str, str] | None = None,
    metaclass: str = "",
    out: str | os.PathLike[str] = "runs/compare",
    device: str = "auto",
    jobs: int = 1,
    probe: bool = True,
    judge: str | os.PathLike[str] | None = None,
    progress: bool = False,
    say: Say | None = None,
) -> Comparison:
    """Say which augmentation helps a classifier on these photographs, and at what price.

    It divides the photographs first, trains the same classifier on the same ones with each arm, and
    tests all of them on photographs that no arm, and no generated image, has seen. All of it lies
    in ``out``: after an interruption the same call resumes, and a call with other arms or settings
    makes what is missing.

    Args:
        source: a folder with one folder per class.
        test: such a folder with other photographs; None to divide the source into folds.
        folds: parts of the source, each of which is tested once; 5 by default, or fewer where a
            class has fewer images.
        arms: names, several with ``+`` between them (``"real-mix+cutmix"``), or :class:`Arm` for
            those of your own; ``none`` is always among them. A ``diff-`` arm needs a fine-tuned
            folder as ``backend``.
        backend: translates. A path may hold ``{seed}`` and ``{shots}``, for a folder that was
            fine-tuned on the photographs of each.
        editor: edits, for ``diffusemix``.
        shots: images of each class to learn from; several numbers give rows for each; None for all.
        seeds: how many, or which: each chooses its own photographs and first weights. By default 3,
            or 1 with folds.
        steps: of the optimiser, for every arm.
        classifier: ``"small"`` (a ResNet of half the width), a name of torchvision, ``"timm:NAME"``
            or a function that makes one for a number of classes.
        weights: a safetensors file to start from, such as published weights; the head stays new.
        strength, gamma, per_image: of the generated images, as for :class:`DiffMix`.
        p: probability that an image is replaced by a generated one.
        targets: classes that an image may be translated to, such as those that the model knows, for
            arms without ``options`` that say so; photographs of other classes are not replaced.
        size: side in pixels that the classifier sees.
        batch: images in a step; by default 16, or 64 from 512 photographs on.
        class_names: the words of a class for the prompt, where the name of its folder is none.
        metaclass: what all classes are, such as ``"bird"``.
        out: the folder for everything that is made.
        device: of the classifiers, and of models that do not say theirs.
        jobs: trainings at a time, each in a process with one thread.
        probe: ask first whether the base model knows the classes.
        judge: Hub id or folder of a CLIP model that answers this by the words of the classes; None
            for the classifiers that were trained on the photographs, which need some 20 of each.
        progress: show bars on stderr.
        say: called with a line for each stage.

    Raises:
        ValueError, TypeError: an argument is outside its range, there are too few photographs, or a
            fine-tuned backend knows photographs to test on.
        DiffaugError: a model cannot be loaded or run.

    Example:
        >>> from diffaug import compare
        >>> compare("photos", arms=["real-mix"], shots=5)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: 'source' must be an existing folder, got 'photos'; give the one that ...

    Reference:
        Nadeau and Bengio, Inference for the generalization error, Machine Learning 52, 2003, for
        the intervals over folds.
    """
    photos = photographs(source, test, folds)
    if targets is not None:
        numbers_of(targets, photos.classes, spelling)  # an arm may use them much later, or none
    chosen = [arm.filled(p, strength, gamma, per_image, targets) for arm in find_arms(arms)]
    where = str(choose_device(device))
    recipe = Recipe(
        classifier,
        None if weights is None else os.fspath(Path(weights).expanduser()),
        whole("steps", steps, 1),
        0 if batch is None else whole("batch", batch, 2),
        RATES[0] if weights is None else RATES[1],
    )
    with own_draws(0, torch.device("cpu")):
        build(classifier, 2)  # whoever has misspelt it should not wait for it
    comparing = _Comparing(
        photos=photos,
        arms=chosen,
        models=Models(backend, editor, class_names, metaclass, where),
        recipe=recipe,
        size=whole("size", size, 8),
        out=Path(out).expanduser(),
        device=where,
        judge=None if judge is None else os.fspath(judge),
        progress=progress,
        say=say or (lambda line: None),
    )
    numbers = [shots] if shots is None or isinstance(shots, int) else list(shots)
    if seeds is None:
        seeds = 3 if photos.folds is None else 1
    listed = range(whole("seeds", seeds, 1)) if isinstance(seeds, int) else seeds
    parts = [
        part
        for number in numbers
        for part in photos.parts(None if number is None else whole("shots", number, 1), listed)
    ]
    return comparing.run(parts, whole("jobs", jobs, 1), probe)


@dataclass
class _Comparing:
    """A comparison that runs."""

    photos: Photographs
    arms: Sequence[Arm]
    models: Models
    recipe: Recipe
    size: int
    out: Path
    device: str
    judge: str | None
    progress: bool
    say: Say
    tasks: dict[tuple[str, str], Task] = field(default_factory=dict)
    pools: dict[tuple[str, str], Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    made: int = 0
    bar: Any = None

    def run(self, parts: Sequence[Part], jobs: int, ask: bool) -> Comparison:
        """Do everything that is not done, and compare."""
        plans = {
            (arm.name, part.name): self._plan(arm, part)
            for arm in self.arms
            for part in parts
            if arm.generate
        }
        generating = [arm for arm in self.arms if arm.generate]
        verdict: probe.Probe | None = None
        bar: AbstractContextManager[Any] = progress_bar(
            self.progress, len(parts) * len(self.arms), unit="classifier"
        )
        with bar as self.bar, workers(jobs, self._count) as staff:
            for part in parts:
                self._submit(staff, self.arms[0], part)
            if ask and self.models.can_draw(parts[0]):
                staff.wait()
                verdict = self._probe(parts)
                for line in verdict.lines():
                    self._say(line)
            for arm in self.arms[1:]:
                if not arm.generate:
                    for part in parts:
                        self._submit(staff, arm, part)
            for arm in generating:
                for part in parts:
                    self._generate(plans[arm.name, part.name], arm, part)
                    self._submit(staff, arm, part)
            staff.wait()
            trained, found = staff.trained, staff.found
        return self._compared(parts, verdict, trained, found)

    def _count(self, task: Task) -> None:
        """Move the bar on by a classifier."""
        if self.bar is not None:
            self.bar.update()

    def _say(self, line: str) -> None:
        """Say a line, above the bar if there is one."""
        if self.bar is not None:
            self.bar.clear()
        self.say(line)
        if self.bar is not None:
            self.bar.refresh()

    def _plan(self, arm: Arm, part: Part) -> Pool:
        """Check an arm's model and name its pool, before anything is made."""
        transform = self.models.transform(arm, part, self.photos.classes)
        code = pictures.digest_of_files(self.photos.root, part.train)
        return Pool.plan(arm, part, transform, code, self.size)

    def _generate(self, pool: Pool, arm: Arm, part: Part) -> None:
        if not pool.file(self.out).is_file():
            count = (arm.per_image or 1) * len(part.train)
            self._say(f"generating {count} images for {arm.name} ({part.name})")
        file, made = pool.make(self.out, self.photos.root, self.photos.classes, self.progress)
        self.pools[arm.name, part.name] = file
        self.made += made

    def _submit(self, staff: Workers, arm: Arm, part: Part) -> None:
        task = self._task(arm, part)
        self.tasks[arm.name, part.name] = task
        staff.submit(task)

    def _task(self, arm: Arm, part: Part) -> Task:
        """Name a training by all that changes it, so that equal ones are done once."""
        files = self._photographs(part.train, part.test, self.size)
        for file in files:
            self.skipped.update(pictures.facts(file)["skipped"])
        batch = batch_size(self.recipe.batch, len(part.train))
        recipe = replace(self.recipe, batch=batch)
        pool = self.pools.get((arm.name, part.name))
        code = pictures.short_hash(
            RECIPE, arm.recipe(), *recipe.identity(), part.seed, len(self.photos.classes),
            [file.name for file in files], pool and pool.name,
        )  # fmt: skip
        return Task(
            name=f"{arm.name}-{part.name}-{code}",
            folder=self.out / "classifiers",
            arm=arm,
            recipe=recipe,
            seed=part.seed,
            classes=len(self.photos.classes),
            photos=files[0],
            test=files[1],
            pool=pool,
            device=self.device,
        )

    def _photographs(self, train: Sequence[str], test: Sequence[str], size: int) -> list[Path]:
        """Return the files of pictures of photographs to learn from, and to test on."""
        number = {name: place for place, name in enumerate(self.photos.classes)}
        return [
            pictures.photographs_file(
                self.out / "pictures", root, keys, [number[class_of(key)] for key in keys], size
            )
            for root, keys in ((self.photos.root, train), (self.photos.test_root, test))
        ]

    def _shown(self, part: Part, size: int) -> list[Path]:
        """Return some photographs of each class, for a judge that has not learned from them."""
        train, test = (first_of_each(keys, probe.SHOWN) for keys in (part.train, part.test))
        return self._photographs(train, test, size)

    def _probe(self, parts: Sequence[Part]) -> probe.Probe:
        """Judge by the classifiers that have seen most photographs of each class."""
        most = max(parts, key=lambda part: part.shots or math.inf).shots
        judges = [part for part in parts if part.shots == most]
        classes = self.photos.classes
        words = dict(zip(classes, words_of(classes), strict=True))
        words |= self.models.class_names or {}
        side = self.size if self.judge is None else probe.CLIP_SIZE
        file = probe.samples(self.out, self.models, judges[0], classes, side)
        tasks = [self.tasks["none", part.name] for part in judges]
        if self.judge is None:
            found = probe.judge(file, tasks, classes)
        else:
            named = [words[name] for name in classes]
            shown = self._shown(judges[0], side)
            found = probe.judge_by_clip(self.judge, file, shown, classes, named, self.device)
        backend = self.models.translator(judges[0])
        return probe.by_its_card(found, words, probe.listed_classes(spec_of(backend)))

    def _compared(
        self, parts: Sequence[Part], verdict: probe.Probe | None, trained: int, found: int
    ) -> Comparison:
        rows: list[Row] = []
        advice: list[str] = []
        methods: list[str] = []
        generating = {arm.name for arm in self.arms if arm.generate}
        known = {} if verdict is None else verdict.known
        numbers = list(dict.fromkeys(part.shots for part in parts))
        passes: dict[int | None, float] = {}
        for shots in numbers:
            own = [part for part in parts if part.shots == shots]
            learned = float(np.mean([len(part.train) for part in own]))
            passes[shots] = training.passes(self.recipe.steps, self.recipe.batch, learned)
            marks, right = self._marks(own)
            some = [self._row(arm, shots, own, marks, right) for arm in self.arms]
            names = [row.arm for row in some]
            between = {(a, b): marks.difference(a, b) for a in names for b in names if a != b}
            sentence = advise(some, between, known, generating)
            of_each = f"{shots or 'all'} image{'s' * (shots != 1)} of each class"
            advice.append(sentence if len(numbers) == 1 else f"With {of_each}: {sentence}")
            methods.append(marks.method)
            rows += some
        comparison = Comparison(
            rows=tuple(rows),
            advice=" ".join(filter(None, [*advice, on_passes(passes.values())])),
            known=known,
            probe=probe.facts_of(verdict),
            method=methods[0],
            settings=self._settings(parts, passes),
            trained=trained,
            found=found,
            made=self.made,
        )
        comparison.save(self.out / "compare.json")
        comparison.plot(self.out / "compare.png")
        return comparison

    def _marks(self, parts: Sequence[Part]) -> tuple[Marks, dict[tuple[str, str], Any]]:
        """Return what each training got right, and the same by class."""
        right: dict[str, list[Any]] = {}
        labels: dict[tuple[str, str], Any] = {}
        for arm in self.arms:
            for part in parts:
                task = self.tasks[arm.name, part.name]
                outcome = task.outcome() or {}
                truth = pictures.read(task.test).columns["label"]
                hits = (torch.tensor(outcome["predicted"]) == truth).double().numpy()
                right.setdefault(arm.name, []).append(hits)
                labels[arm.name, part.name] = truth.numpy()
        tested, learned = (
            np.mean([len(p.test) for p in parts]),
            np.mean([len(p.train) for p in parts]),
        )
        shared = self.photos.folds is None
        return Marks(right, shared, 0.0 if shared else float(tested / learned)), labels

    def _row(
        self,
        arm: Arm,
        shots: int | None,
        parts: Sequence[Part],
        marks: Marks,
        labels: Mapping[tuple[str, str], Any],
    ) -> Row:
        own = marks.right[arm.name]
        base = marks.right["none"]
        tasks = [self.tasks[arm.name, part.name] for part in parts]
        outcomes = [task.outcome() or {} for task in tasks]
        runs = tuple(
            Training(
                seed=part.seed,
                fold=part.fold,
                accuracy=float(hits.mean()),
                difference=float(hits.mean() - other.mean()),
                minutes=outcome["seconds"] / 60,
                file=str(task.weights.relative_to(self.out)),
            )
            for part, task, hits, other, outcome in zip(
                parts, tasks, own, base, outcomes, strict=True
            )
        )
        mean = marks.mean(arm.name)
        changes = np.concatenate([a - b for a, b in zip(own, base, strict=True)])
        truth = np.concatenate([labels[arm.name, part.name] for part in parts])
        classes = {
            name: float(changes[truth == number].mean())
            for number, name in enumerate(self.photos.classes)
            if (truth == number).any()
        }
        more: dict[str, Any] = {}
        if arm.name != "none":
            difference = marks.difference(arm.name, "none")
            more = {
                "difference": difference.mean,
                "difference_interval": difference.interval(),
                "simultaneous": difference.interval(len(self.arms) - 1),
            }
        files = {self.pools[arm.name, part.name] for part in parts} if arm.generate else set()
        facts = [pictures.facts(file) for file in files]
        return Row(
            arm=arm.name,
            shots=shots,
            runs=runs,
            mean=mean.mean,
            interval=mean.interval(least=0.0),
            classes=classes,
            generated=round(np.mean([fact["images"] for fact in facts])) if facts else 0,
            generation_minutes=sum(fact["seconds"] for fact in facts) / 60,
            training_minutes=sum(run.minutes for run in runs),
            bytes=sum(fact["bytes"] for fact in facts),
            **more,
        )

    def _settings(
        self, parts: Sequence[Part], passes: Mapping[int | None, float]
    ) -> dict[str, Any]:
        return {
            "source": str(self.photos.root),
            "test": None if self.photos.folds else str(self.photos.test_root),
            "folds": self.photos.folds,
            "seeds": list(dict.fromkeys(part.seed for part in parts)),
            "shots": list(passes),
            "classes": list(self.photos.classes),
            "train_images": len(parts[-1].train),
            "test_images": len(parts[-1].test),
            "arms": {arm.name: vars(arm) for arm in self.arms},
            "classifier": name_of(self.recipe.classifier),
            "weights": self.recipe.weights,
            "steps": self.recipe.steps,
            "batch": batch_size(self.recipe.batch, len(parts[-1].train)),
            "passes": list(passes.values()),
            "size": self.size,
            "device": self.device,
            "notes": list(self.photos.notes),
            "skipped": self.skipped,
            "versions": versions(),
        }
