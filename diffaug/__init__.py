"""Diffusion models inside the augmentation pipeline of image classifiers."""

from diffaug import errors, functional
from diffaug.augment import Summary, augment_dataset, augment_folder
from diffaug.cache import CachedBackend
from diffaug.diffusemix import DiffuseMix
from diffaug.fractals import FractalBank
from diffaug.generation import (
    Backend,
    Generated,
    GenerationRequest,
    ModelSpec,
    RecordingBackend,
)
from diffaug.pipelines import DiffusersBackend
from diffaug.registry import backend_for, unload
from diffaug.transforms import FractalBlend, HalfConcat, ImageTransform, PromptEdit

__version__ = "0.1.0.dev0"

__all__ = [
    "Backend",
    "CachedBackend",
    "DiffuseMix",
    "DiffusersBackend",
    "FractalBank",
    "FractalBlend",
    "Generated",
    "GenerationRequest",
    "HalfConcat",
    "ImageTransform",
    "ModelSpec",
    "PromptEdit",
    "RecordingBackend",
    "Summary",
    "augment_dataset",
    "augment_folder",
    "backend_for",
    "errors",
    "functional",
    "unload",
]
