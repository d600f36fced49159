"""Filters: they judge the images of a generated set, whose manifest then says which to keep."""

from diffaug.filtering.scorer import Scorer
from diffaug.filtering.verdicts import FilterSummary

__all__ = ["FilterSummary", "Scorer"]
