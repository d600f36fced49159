"""Datasets: what stands between a user's data and a loader."""
