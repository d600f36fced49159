"""Filters: they judge the images of a generated set, whose manifest then says which to keep."""

from diffaug.filtering.verdicts import FilterSummary, Scorer

__all__ = ["FilterSummary", "Scorer"]
