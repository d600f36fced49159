"""Backends: a request in, an image out."""
