"""How far a mean can be off: intervals over trainings and over test images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
#: Points at which the density of Student's t is added up; and the largest number of degrees.
GRID, MOST = 40_001, 10_000


def critical(level: float, degrees: float) -> float:
    """Return how many standard errors an interval of Student's t reaches to either side.

    Example:
        >>> round(critical(0.95, 2), 2), round(critical(0.95, 10), 2), round(critical(0.95, 1e9), 2)
        (4.3, 2.23, 1.96)
    """
    degrees = min(max(degrees, 1.0), MOST)
    # With t = sqrt(degrees) tan(angle), the density is a power of the cosine.
    angles = np.linspace(0, math.pi / 2, GRID)
    density = np.cos(angles) ** (degrees - 1)
    reached = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(level, reached / reached[-1], angles)
    return float(math.sqrt(degrees) * math.tan(angle))


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error.

    Args:
        mean: of what was measured.
        error: its standard error.
        degrees: of freedom of the error.
    """

    mean: float
    error: float
    degrees: float

    def interval(self, comparisons: int = 1, least: float = -1.0) -> tuple[float, float]:
        """Return the 95 % interval, between ``least`` and 1.

        Of several comparisons, all hold together: the level of each is raised (Bonferroni).
        """
        reach = self.error * critical(1 - (1 - LEVEL) / max(1, comparisons), self.degrees)
        return max(least, self.mean - reach), min(1.0, self.mean + reach)


@dataclass(frozen=True)
class Marks:
    """Which test images each training got right, for all arms.

    Args:
        right: by arm, an array of zeros and ones for each training; the trainings of all arms
            belong together, as those of one seed and fold.
        shared: whether all trainings are tested on the same images.
        ratio: test images for each training image; of folds alone, whose trainings share most of
            their photographs.
    """

    right: Mapping[str, Sequence[Array]]
    shared: bool
    ratio: float = 0.0

    def mean(self, arm: str) -> Estimate:
        """Return the accuracy of an arm; the spread over trainings is that of all arms."""
        runs = self.right[arm]
        scores = np.array([run.mean() for run in runs])
        images = np.concatenate(runs)
        if len(runs) == 1:
            return Estimate(float(scores[0]), _image_error(images), len(images) - 1)
        every = np.array([[run.mean() for run in self.right[name]] for name in self.right])
        spread = float(every.var(1, ddof=1).mean())
        return self._combined(runs, float(scores.mean()), spread, len(every) * (len(runs) - 1))

    def difference(self, arm: str, base: str) -> Estimate:
        """Return the paired difference of two arms.

        Its spread over the trainings is that of all arms together (randomized blocks): a few seeds
        alone would not tell it. Its spread over the test images is that of the two arms.
        """
        pairs = zip(self.right[arm], self.right[base], strict=True)
        runs = [own - other for own, other in pairs]
        mean = float(np.mean([run.mean() for run in runs]))
        if len(runs) == 1:
            return Estimate(mean, _image_error(runs[0]), len(runs[0]) - 1)
        scores = np.array([[run.mean() for run in self.right[name]] for name in self.right])
        rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
        degrees = (scores.shape[0] - 1) * (scores.shape[1] - 1)
        return self._combined(runs, mean, 2 * float((rest**2).sum()) / degrees, degrees)

    def _combined(
        self, runs: Sequence[Array], mean: float, spread: float, degrees: float
    ) -> Estimate:
        """Join the spread over trainings, a variance, with that over the test images."""
        count = len(runs)
        if not self.shared:
            # Trainings on folds share photographs: Nadeau and Bengio (2003), equation 12.
            error = math.sqrt(spread * (1 / count + self.ratio))
            return Estimate(mean, max(error, _image_error(np.concatenate(runs))), degrees)
        table = np.stack(runs)
        over_images = _image_error(table.mean(0)) ** 2
        rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        cells = max(1, (count - 1) * (table.shape[1] - 1))
        # The noise of single predictions is in both spreads, and is counted once.
        noise = float((rest**2).sum()) / cells / table.size
        over_runs, over_images_alone = spread / count, max(0.0, over_images - noise)
        variance = max(over_runs + over_images_alone, over_images)
        parts = over_runs**2 / degrees + over_images_alone**2 / max(1, table.shape[1] - 1)
        if parts:  # Welch and Satterthwaite
            degrees = max(degrees, (over_runs + over_images_alone) ** 2 / parts)
        return Estimate(mean, math.sqrt(variance), degrees)

    @property
    def method(self) -> str:
        """Say in a sentence how the intervals are computed."""
        runs = len(next(iter(self.right.values())))
        if runs == 1:
            return (
                "paired over the test images of one training: how much another training, or other "
                "photographs to train on, would change is not in the intervals"
            )
        if self.shared:
            return (
                f"paired over {runs} seeds, with the spread over seeds pooled over all arms, and "
                "over the test images"
            )
        return (
            f"paired over {runs} folds, with the spread pooled over all arms and corrected for "
            "the photographs that the folds share (Nadeau and Bengio, 2003)"
        )


def _image_error(values: Array) -> float:
    """Return the standard error of a mean over test images, as if one more of them differed."""
    count = len(values)
    squares = float(((values - values.mean()) ** 2).sum())
    return math.sqrt((squares + 1) / count**2) if np.any(values != values[0]) or values[0] else 0.0


def ranks_apart(own: Array, others: Array) -> tuple[float, float]:
    """Return how often a value is above another's (0.5 by chance), and its standard error.

    It is the area under the ROC curve; the error is that of chance (Mann and Whitney).
    """
    above = (own[:, None] > others).mean() + 0.5 * (own[:, None] == others).mean()
    error = math.sqrt((len(own) + len(others) + 1) / (12 * len(own) * len(others)))
    return float(above), error
