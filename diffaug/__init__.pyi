# The public names and where they are: type checkers read this file, and __init__.py does, which
# imports a name when it is first used. Add a name here, at both places, and nowhere else.

from diffaug import errors, functional
from diffaug.backends.base import Backend
from diffaug.backends.cache import CachedBackend, cache_info
from diffaug.backends.pipeline import DiffusersBackend
from diffaug.backends.process.pool import serve
from diffaug.backends.recording import RecordingBackend
from diffaug.backends.registry import backend_for, unload
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.backends.spec import ModelSpec
from diffaug.comparison.arms import Arm
from diffaug.comparison.results import Comparison
from diffaug.comparison.run import compare
from diffaug.datasets.batch import BatchAugment
from diffaug.datasets.generated import GeneratedDataset
from diffaug.datasets.joint import JointTransform
from diffaug.datasets.mixed import MixedDataset
from diffaug.datasets.warm import WarmSummary, warm_cache
from diffaug.export.formats import export_set
from diffaug.filtering.classifier import ClassifierFilter
from diffaug.filtering.clip import ClipFilter
from diffaug.filtering.similarity import SimilarityFilter
from diffaug.filtering.verdicts import filter_set
from diffaug.finetuning.released import import_checkpoint
from diffaug.finetuning.run import finetune
from diffaug.fractals import FractalBank
from diffaug.images import load_image
from diffaug.labels.class_names import class_names_of
from diffaug.labels.collate import MixCollate
from diffaug.labels.dataset import class_counts
from diffaug.labels.few_shot import few_shot_subset
from diffaug.labels.label import soft_label
from diffaug.labels.origins import image_paths
from diffaug.labels.pairs import ClassPairs, ClassPairSampler
from diffaug.offline.augment import augment_dataset, augment_folder
from diffaug.offline.released import import_set
from diffaug.offline.shards import merge
from diffaug.offline.summary import Summary
from diffaug.photos import sample_photos
from diffaug.previews.jobs import preview, sweep
from diffaug.transforms.base import Finished, ImageTransform
from diffaug.transforms.diffmix import DiffMix
from diffaug.transforms.diffusemix import DiffuseMix
from diffaug.transforms.fractal_blend import FractalBlend
from diffaug.transforms.half_concat import HalfConcat
from diffaug.transforms.prompt_edit import PromptEdit

__version__: str

__all__ = [
    "Arm",
    "Backend",
    "BatchAugment",
    "CachedBackend",
    "ClassPairSampler",
    "ClassPairs",
    "ClassifierFilter",
    "ClipFilter",
    "Comparison",
    "DiffMix",
    "DiffuseMix",
    "DiffusersBackend",
    "Finished",
    "FractalBank",
    "FractalBlend",
    "Generated",
    "GeneratedDataset",
    "GenerationRequest",
    "HalfConcat",
    "ImageTransform",
    "JointTransform",
    "MixCollate",
    "MixedDataset",
    "ModelSpec",
    "PromptEdit",
    "RecordingBackend",
    "SimilarityFilter",
    "Summary",
    "WarmSummary",
    "augment_dataset",
    "augment_folder",
    "backend_for",
    "cache_info",
    "class_counts",
    "class_names_of",
    "compare",
    "errors",
    "export_set",
    "few_shot_subset",
    "filter_set",
    "finetune",
    "functional",
    "image_paths",
    "import_checkpoint",
    "import_set",
    "load_image",
    "merge",
    "preview",
    "sample_photos",
    "serve",
    "soft_label",
    "sweep",
    "unload",
    "warm_cache",
]
