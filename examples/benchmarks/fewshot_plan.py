"""What `fewshot.py` compares: slices of arms, in the order of their worth.

A slice is one table: some arms, at so many images a class, over several seeds. Each seed of it is a
unit of work, and units of one lane share generated images, so only one of a lane runs at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from diffaug.comparison.arms import NAMED, Arm, named
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

#: Gamma and p of the authors' few-shot setting, but for p: at .3 and .5 they are alike there.
SHARED = {"strength": 0.7, "gamma": 0.5, "p": 0.5, "per_image": 5}


@dataclass(frozen=True)
class Slice:
    """Some arms, compared over seeds.

    Args:
        name: of its table.
        setting: of the photographs; see `fewshot_data.SETTINGS`.
        arms: with ``none`` among them.
        shots: images of each class; None for all.
        seeds: how many.
        more: how many besides, after those of all other slices.
        classifier: "scratch", or "pretrained" on other classes.
        robust: whether its classifiers are attacked, too.
        tune: steps of fine-tuning, for arms that need it.
        steps: of each classifier.
        guidance: by the text, of what translates; None for the model's own.
        filters: ways to choose among the images of the arm that they name.
    """

    name: str
    setting: str
    arms: tuple[Arm, ...]
    shots: int | None = 5
    seeds: int = 5
    more: int = 0
    classifier: str = "scratch"
    robust: bool = False
    tune: int = 600
    steps: int = 800
    guidance: float | None = None
    filters: Mapping[str, str] = field(default_factory=dict)

    @property
    def later(self) -> range:
        """The seeds that come after those of all other slices."""
        return range(self.seeds, self.seeds + self.more)

    @property
    def kind(self) -> str:
        """What is the same in slices that differ in setting alone."""
        return self.name.removeprefix(self.setting)


class Unit(NamedTuple):
    """One seed of a slice."""

    slice: Slice
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.slice.name}.{self.seed}"

    @property
    def lane(self) -> tuple[str, int | None, int | None]:
        """What it shares generated images with: those of all photographs serve all seeds."""
        shots = self.slice.shots
        return self.slice.setting, shots, self.seed if shots else None


def arms(*names: str | Arm) -> tuple[Arm, ...]:
    """Return the arms of some names."""
    return tuple(name if isinstance(name, Arm) else named(name) for name in names)


def varied(base: str, setting: str, values: Sequence[float]) -> tuple[Arm, ...]:
    """Return an arm once for each value of a setting."""
    made = [Arm(f"{base} {setting} {value:g}", base, **{setting: value}) for value in values]
    return (NAMED["none"], *made)


# What matters most comes first: a run that is stopped has done these.
KNOWN = arms(
    "none", "real-mix", "real-gen", "cutmix",
    "diffusemix", Arm("real-mix .9", "real-mix", strength=0.9), "real-mix + cutmix",
    "real-aug", "real-gen + cutmix", "mixup",
    "randaugment", "fractal",
    "randaugment + cutmix", "real-mix + randaugment", "real-mix + randaugment + cutmix",
)  # fmt: skip
NEW = arms(
    "none", "diff-mix", "diff-aug", "cutmix",
    "real-mix", "diffusemix", "diff-mix + cutmix",
    "diff-gen", "diff-gen + cutmix", Arm("diff-mix .9", "diff-mix", strength=0.9), "mixup",
    "randaugment", "fractal",
    "randaugment + cutmix", "diff-mix + randaugment", "diff-mix + randaugment + cutmix",
)  # fmt: skip
FIVE_KNOWN = arms("none", "cutmix", "diffusemix", "real-mix", "real-gen")
FIVE_NEW = arms("none", "cutmix", "diffusemix", "diff-mix", "diff-aug")
# The strongest arm without generated images, and the best one with them, as far as we know.
SHOTS_KNOWN = (*FIVE_KNOWN, *arms("randaugment + cutmix", "real-mix + randaugment"))
SHOTS_NEW = (*FIVE_NEW, *arms("randaugment + cutmix", "diff-mix + randaugment"))
PRETRAINED_KNOWN = (*FIVE_KNOWN, *arms("randaugment", "real-gen + randaugment"))
PRETRAINED_NEW = (*FIVE_NEW, *arms("diff-gen", "diff-mix + cutmix", "randaugment"))
FILTERS = {
    "{arm}, best half": "half", "{arm}, weighted by score": "weights",
    "{arm}, best half by an oracle": "oracle",
}  # fmt: skip


def _filters(arm: str) -> dict[str, str]:
    return {name.format(arm=arm): kind for name, kind in FILTERS.items()}


def plan(classes: Mapping[str, Sequence[str]], size: str) -> list[Slice]:
    """List all slices that there are photographs for, the most important first.

    Args:
        classes: of each setting.
        size: "quick", "cpu" or "gpu".
    """
    if size == "quick":
        few = {"seeds": 1, "tune": 60, "steps": 150}
        listed = [
            Slice("drawn-5", "drawn", FIVE_KNOWN, **few),
            Slice("new-5", "new", arms("none", "diff-mix"), **few),
        ]  # fmt: skip
    else:
        gpu = size == "gpu"
        full, half = (5 if gpu else 3), 3
        numbers = (1, 20, 10) if gpu else (1, 10)
        started: dict[str, Any] = {"seeds": full, "classifier": "pretrained"}
        listed = [
            Slice("drawn-5", "drawn", KNOWN, seeds=full, robust=True),
            Slice("new-5", "new", NEW, seeds=full, robust=True),
            Slice("drawn-5-pretrained", "drawn", PRETRAINED_KNOWN, **started),
            Slice("new-5-pretrained", "new", PRETRAINED_NEW, **started),
            Slice("mixed-5", "mixed", _mixed(classes), seeds=full),
            *_shots("drawn", SHOTS_KNOWN, half, numbers),
            *_shots("new", SHOTS_NEW, half, numbers),
            *_why(half),
            *_ablations(half),
            *_longer(half, (20, 5) if gpu else (5,)),
            Slice("seen-5", "seen", KNOWN, seeds=full),
            Slice("tail", "tail", SHOTS_NEW, shots=None, seeds=half),
            *_shots("drawn", SHOTS_KNOWN, half, (50,) if gpu else ()),
            *_shots("new", SHOTS_NEW, half, (50,) if gpu else ()),
        ]
        listed = [replace(part, more=full - part.seeds) for part in listed]
    return [part for part in listed if part.setting in classes]


def _mixed(classes: Mapping[str, Sequence[str]]) -> tuple[Arm, ...]:
    """Compare targets among all classes with targets among those that the base knows."""
    known = sorted(set(classes.get("mixed", ())) & set(classes.get("drawn", ())))
    options = {"targets": known}
    arm = Arm("real-mix, known targets", "real-mix", options=options, replacement="global")
    same = replace(arm, name=f"{arm.name}, by class", replacement="class")
    mixed = (replace(other, name=f"{other.name} + cutmix", mix="cutmix") for other in (arm, same))
    return arms("none", "cutmix", "real-mix", arm, same, *mixed)


def _shots(setting: str, five: tuple[Arm, ...], seeds: int, numbers: Sequence[int]) -> list[Slice]:
    return [Slice(f"{setting}-{k}", setting, five, shots=k, seeds=seeds) for k in numbers]


def _why(seeds: int) -> list[Slice]:
    """Why it hurts on new classes, and what may help."""
    both = arms("none", "diff-mix", "diff-aug")
    joined = arms("diff-mix + randaugment", "diff-mix + randaugment + cutmix")
    surer = arms(
        Arm("diff-mix .9 + randaugment", "diff-mix", strength=0.9, randaugment=True),
        "diff-gen + randaugment",
    )
    return [
        Slice("new-5-tune-200", "new", both, seeds=seeds, tune=200),
        Slice("new-5-tune-2000", "new", (*both, *joined, *surer), seeds=seeds, tune=2000),
        Slice("new-5-guidance-8", "new", (*both[:2], *joined[:1]), seeds=seeds, guidance=8),
        Slice("new-5-tune-2000-guidance-8", "new", (*both[:2], *joined, *surer), seeds=seeds,
              tune=2000, guidance=8),
        Slice(
            "new-5-strength", "new", varied("diff-mix", "strength", (0.3, 0.5, 0.7, 0.9)),
            seeds=seeds,
        ),
        Slice("new-5-p", "new", varied("diff-mix", "p", (0.1, 0.3, 0.5)), seeds=seeds),
        Slice(
            "new-5-filters", "new", arms("none", "diff-mix"), seeds=seeds,
            filters=_filters("diff-mix"),
        ),
    ]  # fmt: skip


def _longer(seeds: int, numbers: Sequence[int]) -> list[Slice]:
    """Whether the answer is another one where a classifier is trained for three times as long."""
    plain = ("none", "randaugment", "randaugment + cutmix")
    joined = named("diff-mix + randaugment + cutmix")
    all_of_it = arms(
        "none", "randaugment + cutmix", joined,
        replace(joined, name=f"{joined.name}, 20 each", per_image=20),
    )  # fmt: skip
    return [
        Slice(
            f"{setting}-{shots}-steps-2400", setting,
            arms(*plain, f"{made} + randaugment", f"{made} + randaugment + cutmix"),
            shots=shots, seeds=seeds, steps=2400,
        )
        for shots in numbers
        for setting, made in (("drawn", "real-mix"), ("new", "diff-mix"))
    ] + [
        Slice("new-5-steps-2400-tune-2000-guidance-8", "new", all_of_it, seeds=seeds,
              steps=2400, tune=2000, guidance=8),
    ]  # fmt: skip


def _prompts(*numbers: int) -> tuple[Arm, ...]:
    """Edit by the first few of DiffuseMix's prompts, and by all of them."""
    return arms("none", *(
        Arm(f"edit, {number} of 9 prompts", "edit",
            options={"prompts": DIFFUSEMIX_PROMPTS[:number]})
        for number in numbers
    ))  # fmt: skip


def _ablations(seeds: int) -> list[Slice]:
    """One setting at a time, where the base knows the classes."""
    mix = "real-mix"
    return [
        Slice("drawn-5-strength", "drawn", varied(mix, "strength", (0.1, 0.3, 0.5, 0.7, 0.9)),
              seeds=seeds),
        Slice("drawn-5-guidance-8", "drawn", arms("none", mix, f"{mix} + randaugment"),
              seeds=seeds, guidance=8),
        Slice("drawn-5-gamma", "drawn", varied(mix, "gamma", (0, 0.3, 0.5, 0.8, 1, 1.5)),
              seeds=seeds),
        Slice("drawn-5-p", "drawn", varied(mix, "p", (0.1, 0.3, 0.5, 0.7, 0.9, 1)), seeds=seeds),
        Slice("drawn-5-pool", "drawn", varied(mix, "per_image", (1, 2, 5, 10, 20)), seeds=seeds),
        Slice("drawn-5-stages", "drawn",
              arms("none", "edit", "edit-halves", "fractal", "diffusemix"), seeds=seeds),
        Slice("drawn-5-prompts", "drawn", _prompts(1, 3, 9), seeds=seeds),
        Slice("drawn-5-filters", "drawn", arms("none", mix), seeds=seeds, filters=_filters(mix)),
    ]  # fmt: skip
