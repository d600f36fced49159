"""Filters judge the images of a generated set and write into its manifest which to keep."""

from diffaug.filtering.scorer import Scorer
from diffaug.filtering.verdicts import FilterSummary

__all__ = ["FilterSummary", "Scorer"]
