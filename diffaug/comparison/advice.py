"""The advice, which follows from the intervals and never from the mean alone."""

from collections.abc import Iterable, Mapping, Sequence

from diffaug.comparison.intervals import Estimate
from diffaug.comparison.rows import Row

#: A gain of so many points is worth knowing; if it cannot be seen, the advice says so.
WORTH_SEEING = 0.05
#: Where each photograph comes less often, augmentation may not have shown all that it can do: in
#: examples/benchmarks/fewshot.py its gains grew from 32 times to 96, and from 128 to 384, the most
#: that was tried.
OFTEN = 300


def advise(
    rows: Sequence[Row],
    between: Mapping[tuple[str, str], Estimate],
    known: Mapping[str, bool | None],
    generating: set[str],
) -> str:
    """Return the advice for the rows of one number of shots.

    Args:
        rows: of all arms.
        between: the paired difference of each two arms.
        known: the verdict of the probe.
        generating: names of the arms that generate.
    """
    others = [row for row in rows if row.arm != "none"]
    if not others:
        return _of_the_base(known) or "Name arms beside 'none' to compare them."
    better = sorted((row for row in others if row.simultaneous[0] > 0), key=lambda row: -row.mean)
    worse = [row.arm for row in others if row.simultaneous[1] < 0]
    if better:
        said = _recommend(better, between, generating, len(others))
    else:
        if len(others) == 1:
            said = (
                f"'{others[0].arm}' is not better than 'none' beyond the noise: do not use it here"
            )
        else:
            said = "No arm is better than 'none' beyond the noise: do not use any of them here"
        reach = min(row.simultaneous[1] - row.difference for row in others)
        if reach > WORTH_SEEING:
            said += (
                f" (gains of less than {100 * reach:.0f} points cannot be seen: more test images, "
                "seeds or folds would show them)"
            )
    if worse:
        said += f"; {_listed(worse)} {'does' if len(worse) == 1 else 'do'} harm"
    of_base = _of_the_base(known) if generating else ""
    return f"{said}.{f' {of_base}' if of_base else ''}"


def on_passes(passes: Iterable[float]) -> str:
    """Say that more steps may change the answer, where photographs came seldom in a training."""
    few = [often(times) for times in passes if times < OFTEN]
    if not few:
        return ""
    return (
        f"In training, each photograph came {_joined(few)}: with more steps, augmentation may gain "
        "more."
    )


def often(times: float) -> str:
    """Say how often something came."""
    return f"{times:.0f} times" if times >= 10 else f"{times:.2g} times"


def _recommend(
    better: Sequence[Row],
    between: Mapping[tuple[str, str], Estimate],
    generating: set[str],
    comparisons: int,
) -> str:
    """Recommend the best arm, or a cheaper one that is as good as far as one can see."""
    best = better[0]
    cheap = next((row for row in better if row.arm not in generating), None)
    if best.arm in generating and cheap is not None:
        lead = between[best.arm, cheap.arm].interval(comparisons)
        if lead[0] <= 0:
            return (
                f"Use '{cheap.arm}': {_gain(cheap)}, and no arm with generated images is better "
                "than it beyond the noise"
            )
    return f"Use '{best.arm}': {_gain(best)}"


def _gain(row: Row) -> str:
    low, high = (100 * bound for bound in row.simultaneous)
    return (
        f"it gains {100 * row.difference:.1f} points over 'none' (between {low:.1f} and {high:.1f})"
    )


def _of_the_base(known: Mapping[str, bool | None]) -> str:
    unknown = [name for name, verdict in known.items() if verdict is False]
    if known and all(verdict is None for verdict in known.values()):
        return (
            "Whether the base model knows the classes cannot be judged: the classifier does not "
            "know them either, from so few photographs."
        )
    if not unknown:
        return ""
    if len(unknown) == len(known):
        return "The base model knows none of the classes: fine-tune it first."
    return (
        f"The base model does not know {_listed(unknown)}: fine-tune it, or leave "
        f"{'this class' if len(unknown) == 1 else 'these'} out of the targets."
    )


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names[:6]]
    if len(names) > 6:
        return ", ".join(quoted) + f" and {len(names) - 6} more"
    return _joined(quoted)


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
