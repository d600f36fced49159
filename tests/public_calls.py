"""Every public callable with arguments that it takes, and what is then done with the result."""

import inspect
import itertools
import random
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from image_folders import picture, save, save_photos
from odd_values import ODD
from torch import nn

import diffaug
from diffaug import functional

#: Records that the package makes itself, and what cannot be called with arguments.
NOT_TRIED = {
    "Backend": "a protocol", "ImageTransform": "abstract", "ClassPairs": "a result",
    "Comparison": "a result", "Finished": "a result", "Generated": "a result",
    "Summary": "a result", "WarmSummary": "a result", "errors": "a module",
    "functional": "a module", "sample_photos": "takes nothing", "unload": "takes nothing",
}  # fmt: skip


#: Faults that are not ours to answer, by callable and argument.
NOT_OURS = {
    ("ClassifierFilter", "size"): "the network of the caller does not take images of this size",
    ("ClassifierFilter", "transform"): "the function of the caller returns something else",
}
#: Mixtures of odd arguments for each callable.
MIXTURES = 60


class Call(NamedTuple):
    """A callable, arguments that it takes, and what is done with what it returns."""

    function: Callable[..., Any]
    given: Mapping[str, Callable[[], Any]]
    use: Callable[[Any], Any] = lambda result: result


def always(value: Any) -> Callable[[], Any]:
    """Return a factory of one value that nobody changes."""
    return lambda: value


class Everything:
    """The calls, made over small files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._numbers = folder, itertools.count()
        self.photos = str(save_photos(folder / "photos", ["cat/1.png", "cat/2.png", "dog/1.png"]))
        self.bank = diffaug.FractalBank(2, 16)
        diffaug.augment_folder(self.photos, folder / "set", self.edit(), per_image=1, size=8)
        # What judges writes its verdicts into a set of its own.
        shutil.copytree(folder / "set", folder / "judged")
        diffaug.export_set(folder / "set", folder / "released")
        save(folder / "one.png", picture(1, 8, 8))

    def place(self) -> str:
        """Return a path where nothing is yet."""
        return str(self.folder / "made" / str(next(self._numbers)))

    def clean(self) -> None:
        """Remove what the calls made."""
        shutil.rmtree(self.folder / "made", ignore_errors=True)

    def edit(self) -> diffaug.PromptEdit:
        return diffaug.PromptEdit(["snowy"], backend=diffaug.RecordingBackend(8))

    def cached_edit(self) -> diffaug.PromptEdit:
        kept = diffaug.CachedBackend(diffaug.RecordingBackend(8), folder=self.place())
        return diffaug.PromptEdit(["snowy"], backend=kept)

    def data(self) -> list[tuple[torch.Tensor, int]]:
        return [(picture(number, 8, 8), number % 2) for number in range(3)]

    def set(self) -> diffaug.GeneratedDataset:
        return diffaug.GeneratedDataset(self.folder / "set")

    def calls(self) -> dict[str, Call]:
        """Return the calls by name; arguments that are not given here have their defaults."""
        image, destination = always(picture(3, 8, 8)), self.place
        backend = lambda: diffaug.RecordingBackend(8)  # noqa: E731
        request = diffaug.GenerationRequest("a", 1, picture(1, 8, 8))
        pair = {"image": image, "other": always(picture(4, 8, 8))}
        bank, photos, made = always(self.bank), always(self.photos), always(self.folder / "set")
        mix = lambda made: made(picture(1, 8, 8), 0)  # noqa: E731
        item = lambda made: (len(made), made[0])  # noqa: E731
        score = lambda judge: judge.score([picture(1, 8, 8)], [{"label": "cat"}])  # noqa: E731
        batch = [(picture(n, 8, 8), n % 2) for n in range(2)]
        return {
            "Arm": Call(diffaug.Arm, {"name": always("a")}),
            "BatchAugment": Call(
                diffaug.BatchAugment,
                {"loader": lambda: [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))],
                 "transform": self.edit}, list),
            "CachedBackend": Call(
                diffaug.CachedBackend, {"backend": backend, "folder": destination},
                lambda made: (made.fingerprint, made.generate([request]))),
            "ClassPairSampler": Call(
                diffaug.ClassPairSampler, {"num_classes": always(3)},
                lambda made: made.targets(torch.tensor([0, 1]))),
            "ClassPairSampler.targets": Call(
                diffaug.ClassPairSampler(3).targets, {"source": always(torch.tensor([0, 1]))}),
            "ClassPairSampler.plan": Call(
                diffaug.ClassPairSampler(3).plan,
                {"n": always(2), "strength": always(0.5), "gamma": always(0.5)}),
            "ClassifierFilter": Call(
                diffaug.ClassifierFilter,
                {"model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
                 "classes": always(["cat", "dog"])}, score),
            "ClipFilter": Call(diffaug.ClipFilter, {"metaclass": always("animal")}, score),
            "DiffMix": Call(
                diffaug.DiffMix,
                {"class_names": always(["cat", "dog"]), "backend": backend, "p": always(1.0)}, mix),
            "DiffuseMix": Call(
                diffaug.DiffuseMix,
                {"prompts": always(["snowy"]), "fractals": bank, "backend": backend,
                 "p": always(1.0)}, lambda made: made(picture(1, 8, 8))),
            "DiffusersBackend": Call(
                diffaug.DiffusersBackend, {"spec": always(diffaug.ModelSpec("tiny"))}),
            "FractalBank": Call(
                diffaug.FractalBank, {"count": always(2), "size": always(16)},
                lambda made: (made[0], made.name(1))),
            "FractalBank.batch": Call(self.bank.batch, {"indices": always([0])}),
            "FractalBank.name": Call(self.bank.name, {"index": always(0)}),
            "FractalBank[]": Call(self.bank.__getitem__, {"index": always(0)}),
            "FractalBlend": Call(
                diffaug.FractalBlend, {"fractals": bank}, lambda made: made(picture(1, 8, 8))),
            "GeneratedDataset": Call(
                diffaug.GeneratedDataset, {"folder": made, "gamma": always(0.5)}, item),
            "GeneratedDataset[]": Call(self.set().__getitem__, {"index": always(0)}),
            "GenerationRequest": Call(
                diffaug.GenerationRequest, {"prompt": always("a"), "seed": always(1)},
                lambda made: (made.key(""), hash(made), made == request)),
            "HalfConcat": Call(
                diffaug.HalfConcat, {"transform": self.edit}, lambda made: made(picture(1, 8, 8))),
            "JointTransform": Call(
                diffaug.JointTransform, {"dataset": self.data, "transforms": self.edit}, item),
            "JointTransform.set_epoch": Call(
                diffaug.JointTransform(self.data(), self.edit(), seed=1).set_epoch,
                {"epoch": always(1)}),
            "MixCollate": Call(
                diffaug.MixCollate, {"num_classes": always(3)}, lambda made: made(batch)),
            "MixCollate()": Call(
                lambda batch: diffaug.MixCollate(3)(batch), {"batch": always(batch)}),
            "MixedDataset": Call(
                diffaug.MixedDataset,
                {"dataset": self.data, "generated": self.set, "classes": always(["cat", "dog"])},
                item),
            "MixedDataset.set_epoch": Call(
                diffaug.MixedDataset(self.data(), self.set(), classes=["cat", "dog"]).set_epoch,
                {"epoch": always(1)}),
            "ModelSpec": Call(
                diffaug.ModelSpec, {"model": always("a/b")},
                lambda made: (made.fingerprint, hash(made), made == made, repr(made))),
            "PromptEdit": Call(
                diffaug.PromptEdit, {"prompts": always(["snowy"]), "backend": backend},
                lambda made: made(picture(1, 8, 8))),
            "PromptEdit()": Call(lambda image: self.edit()(image), {"image": image}),
            "RecordingBackend": Call(
                diffaug.RecordingBackend, {"size": always(8)},
                lambda made: made.generate([request])),
            "RecordingBackend.generate": Call(
                diffaug.RecordingBackend(8).generate, {"requests": always([request])}),
            "SimilarityFilter": Call(
                diffaug.SimilarityFilter, {"source": photos},
                lambda judge: diffaug.filter_set(self.folder / "judged", judge)),
            "augment_dataset": Call(
                diffaug.augment_dataset,
                {"dataset": self.data, "destination": destination, "transform": self.edit,
                 "per_image": always(1), "size": always(8)}),
            "augment_folder": Call(
                diffaug.augment_folder,
                {"source": photos, "destination": destination, "transform": self.edit,
                 "per_image": always(1), "size": always(8)}),
            "backend_for": Call(diffaug.backend_for, {"backend": backend}),
            "cache_info": Call(diffaug.cache_info, {"folder": destination}),
            "class_counts": Call(diffaug.class_counts, {"dataset": self.data}),
            "class_names_of": Call(diffaug.class_names_of, {"dataset": self.data}),
            "compare": Call(
                diffaug.compare,
                {"source": photos, "test": photos, "arms": always("none"), "shots": always(1),
                 "seeds": always([0]), "steps": always(1), "size": always(8), "batch": always(2),
                 "probe": always(False), "out": destination}),
            "export_set": Call(
                diffaug.export_set, {"folder": made, "destination": destination}),
            "few_shot_subset": Call(
                diffaug.few_shot_subset, {"labels": always([0, 1, 0]), "shots": always(1)}),
            "filter_set": Call(
                diffaug.filter_set,
                {"folder": always(self.folder / "judged"),
                 "scorer": lambda: diffaug.SimilarityFilter(self.photos)}),
            "finetune": Call(
                diffaug.finetune,
                {"source": photos, "destination": destination, "base": always("tiny-translate"),
                 "steps": always(1), "batch_size": always(1), "rank": always(1)}),
            "functional.blend": Call(
                functional.blend, {**pair, "alpha": always(0.2)}),
            "functional.half_concat": Call(
                functional.half_concat,
                {**pair, "mask": always("left")}),
            "functional.half_mask": Call(
                functional.half_mask, {"name": always("left"), "size": always((8, 8))}),
            "functional.is_blank": Call(functional.is_blank, {"image": image}),
            "functional.resize": Call(functional.resize, {"image": image, "size": always((4, 4))}),
            "image_paths": Call(diffaug.image_paths, {"dataset": self.data}),
            "import_checkpoint": Call(
                diffaug.import_checkpoint,
                {"folder": photos, "destination": destination, "base": always("tiny-translate")}),
            "import_set": Call(
                diffaug.import_set,
                {"folder": always(self.folder / "released"), "destination": destination}),
            "load_image": Call(
                diffaug.load_image, {"path": always(self.folder / "one.png")}),
            "merge": Call(diffaug.merge, {"destination": destination}),
            "preview": Call(
                diffaug.preview,
                {"source": photos, "path": lambda: self.place() + ".png", "transform": self.edit,
                 "count": always(1), "tile": always(32)}),
            "serve": Call(diffaug.serve, {"backend": always("tiny")}),
            "soft_label": Call(
                diffaug.soft_label,
                {"source": always(0), "target": always(1), "strength": always(0.5),
                 "gamma": always(0.5), "num_classes": always(3)}),
            "sweep": Call(
                diffaug.sweep,
                {"source": photos, "path": lambda: self.place() + ".png",
                 "transforms": lambda: {"a": self.edit()}, "count": always(1), "tile": always(32)}),
            "warm_cache": Call(
                diffaug.warm_cache, {"dataset": self.data, "transform": self.cached_edit}),
        }  # fmt: skip


class Trial(NamedTuple):
    """One call of a public callable: its name, what is odd about it, and what runs it."""

    name: str
    what: str
    run: Callable[[], Any]


def _trial(name: str, call: Call, odd: Mapping[str, str]) -> Trial:
    """Call with the values of these labels; those are made at the call, for some are used up."""

    def run() -> Any:
        given = {argument: make() for argument, make in call.given.items()}
        odd_ones = {argument: ODD[label]() for argument, label in odd.items()}
        return call.use(call.function(**{**given, **odd_ones}))

    return Trial(name, ", ".join(f"{argument}={label}" for argument, label in odd.items()), run)


def _arguments(name: str, call: Call) -> list[str]:
    names = inspect.signature(call.function).parameters
    return [argument for argument in names if (name, argument) not in NOT_OURS]


def odd_calls(calls: Mapping[str, Call], one_in: int = 1) -> Iterator[Trial]:
    """Yield each call with each odd value for one argument, or always the same one in so many."""
    for name, call in calls.items():
        for argument in _arguments(name, call):
            for label in ODD:
                if zlib.crc32(f"{name} {argument} {label}".encode()) % one_in == 0:
                    yield _trial(name, call, {argument: label})


def mixed_calls(calls: Mapping[str, Call]) -> Iterator[Trial]:
    """Yield each call with mixtures of odd values, the same ones each time."""
    chance, labels = random.Random(0), list(ODD)
    for name, call in calls.items():
        for _ in range(MIXTURES):
            odd = {
                n: chance.choice(labels) for n in _arguments(name, call) if chance.random() < 0.5
            }
            yield _trial(name, call, odd)
