"""Datasets: the steps between a user's data and a loader."""
