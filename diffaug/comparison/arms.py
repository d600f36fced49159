"""The arms by name: what each generates, and how its classifier sees images."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from diffaug.arguments import choice, same_name, texts, unit, whole
from diffaug.checked import checked
from diffaug.labels.label import check_gamma
from diffaug.transforms.strategies import STRATEGIES

#: Those of :class:`MixedDataset` that replace an image, and add none.
REPLACEMENTS = ("global", "class", "local")


@checked
@dataclass(frozen=True)
class Arm:
    """One way to train the classifier; all ways share crops, flips and the number of steps.

    Args:
        name: what the rows call it.
        generate: ``""``, ``"edit"`` for the edits of DiffuseMix, or a strategy of
            :class:`DiffMix`.
        halves: join half of the image with half of its edit, afresh each time.
        fractal: blend a fractal into the image, afresh each time.
        mix: ``""``, ``"mixup"`` or ``"cutmix"``.
        randaugment: apply RandAugment with torchvision's settings.
        p: probability that an image is replaced by a generated one, or that a fractal is blended
            in; None for that of the comparison, and so for what follows.
        strength: how far to translate.
        gamma: of the soft label.
        per_image: generated images for each photograph.
        options: further arguments of :class:`PromptEdit` or :class:`DiffMix`, in plain values,
            such as ``{"prompts": ["snowy"]}`` or ``{"pairs": "other"}``.
        replacement: which generated image replaces a photograph: ``"global"``, ``"class"`` or
            ``"local"``, as :class:`MixedDataset` has them. None is ``"local"`` for edits,
            ``"class"`` where ``options`` have ``targets``, and else ``"global"``.

    Raises:
        ValueError: ``generate``, ``mix`` or ``replacement`` is none of these.

    Example:
        >>> from diffaug import Arm
        >>> Arm("real-mix, then CutMix", "real-mix", mix="cutmix", p=0.3).p
        0.3
    """

    name: str
    generate: str = ""
    halves: bool = False
    fractal: bool = False
    mix: str = ""
    randaugment: bool = False
    p: float | None = None
    strength: float | None = None
    gamma: float | None = None
    per_image: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    replacement: str | None = None

    def __post_init__(self) -> None:
        if self.generate not in ("", "edit", *STRATEGIES):
            raise ValueError(
                f"'generate' must be '', edit or a strategy ({', '.join(STRATEGIES)}), got "
                f"{self.generate!r}."
            )
        if self.mix not in ("", "mixup", "cutmix"):
            raise ValueError(f"'mix' must be '', mixup or cutmix, got {self.mix!r}.")
        if self.replacement is not None:
            choice("replacement", self.replacement, REPLACEMENTS)

    @property
    def replaced_by(self) -> str:
        """Which generated image replaces a photograph: ``replacement``, or what None stands for."""
        if self.replacement is not None:
            return choice("replacement", self.replacement, REPLACEMENTS)
        if self.generate == "edit":
            return "local"
        # Where not all classes may be targets, the others must not become rarer.
        return "class" if "targets" in self.options else "global"

    @property
    def learned(self) -> bool:
        """Whether it needs a fine-tuned model."""
        return self.generate in STRATEGIES and STRATEGIES[self.generate].model != "none"

    def filled(
        self,
        p: float,
        strength: float,
        gamma: float,
        per_image: int,
        targets: Iterable[str] | None = None,
    ) -> "Arm":
        """Return the arm with the settings of a comparison where it has none of its own."""
        options = dict(self.options)
        if targets is not None and self._draws_targets():
            options["targets"] = texts("targets", targets)
        own = {"p": p, "strength": strength, "gamma": gamma, "per_image": per_image}
        given = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        values = own | given
        return replace(
            self,
            p=unit("p", values["p"]),
            strength=unit("strength", values["strength"]),
            gamma=check_gamma(values["gamma"]),
            per_image=whole("per_image", values["per_image"], 1),
            options=options,
        )

    def _draws_targets(self) -> bool:
        """Return whether it has target classes of which nothing says among which they are."""
        free = self.generate in STRATEGIES and STRATEGIES[self.generate].target == "any"
        return free and not {"targets", "pairs"} & self.options.keys()

    def recipe(self) -> dict[str, Any]:
        """Return what changes the classifier beside its pool, in plain values."""
        values = asdict(self)
        for name in ("name", "strength", "per_image", "options"):  # the pool has these
            del values[name]
        if not (self.generate or self.fractal):
            del values["p"]
        if self.generate not in STRATEGIES:
            del values["gamma"]
        del values["replacement"]
        if self.replaced_by != ("local" if self.generate == "edit" else "global"):
            values["replacement"] = self.replaced_by
        return values


#: Arms that need no more than a name. ``none`` has crops and flips alone, as all others have, too.
NAMED: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("none"),
        Arm("randaugment", randaugment=True),
        Arm("mixup", mix="mixup"),
        Arm("cutmix", mix="cutmix"),
        Arm("fractal", fractal=True),
        Arm("diffusemix", "edit", halves=True, fractal=True),
        Arm("edit", "edit"),
        Arm("edit-halves", "edit", halves=True),
        *(Arm(name, name) for name in STRATEGIES),
    )
}
#: What is compared by default: the usual arms that need no fine-tuned model, and two pairs that did
#: best without and with generated images where the model knew the classes.
DEFAULT = (
    *("none", "randaugment", "mixup", "cutmix", "randaugment + cutmix", "fractal"),
    *("diffusemix", "real-mix", "real-aug", "real-gen", "real-mix + randaugment"),
)


def named(text: str) -> Arm:
    """Return the arm of a name, or of several names with ``+`` between them.

    Raises:
        ValueError: there is no such arm, or two of them do the same part of the work.

    Example:
        >>> arm = named("real-mix+CutMix")
        >>> arm.name, arm.generate, arm.mix
        ('real-mix + cutmix', 'real-mix', 'cutmix')
    """
    names = []
    for part in text.split("+") if isinstance(text, str) else [text]:
        if (name := same_name(part.strip() if isinstance(part, str) else part, NAMED)) is None:
            raise ValueError(
                f"'arms' must be among {', '.join(NAMED)}, or several with + between them, got "
                f"{text!r}."
            )
        names.append(name)
    if len(names) == 1:
        return NAMED[names[0]]
    joined: dict[str, Any] = {}
    for name in names:
        own = {key: value for key, value in vars(NAMED[name]).items() if value and key != "name"}
        if not own or own.keys() & joined.keys():
            raise ValueError(
                f"'arms' with + between them must each add something of its own, got {text!r}."
            )
        joined |= own
    return Arm(" + ".join(names), **joined)


def find_arms(given: str | Arm | Iterable[str | Arm]) -> list[Arm]:
    """Return the arms of these names, each once; ``none`` is always among them, and first."""
    listed = [given] if isinstance(given, (str, Arm)) else list(given)
    arms = [NAMED["none"]]
    for item in listed:
        arm = item if isinstance(item, Arm) else named(item)
        if arm.name == "none" and arm != arms[0]:
            raise ValueError("'arms' must have one arm 'none', which changes nothing; rename it.")
        if arm.name != "none":
            if any(arm.name == other.name for other in arms):
                raise ValueError(f"'arms' must have each name once, got '{arm.name}' twice.")
            arms.append(arm)
    return arms
