"""What a set was made with: the transform's settings, the model, the versions, in plain values."""

import re
from collections.abc import Mapping
from typing import Any

from diffaug.backends.base import Backend, is_backend, spec_of
from diffaug.backends.hub import pin
from diffaug.backends.spec import FORMAT_VERSION, ModelSpec
from diffaug.fractal_folder import FractalFolder
from diffaug.seeds import derive_seed
from diffaug.transforms.base import ImageTransform


def pinned(backend: ModelSpec | Backend | None) -> ModelSpec | None:
    """Return the spec of a model, or of a backend that has one, with its revision filled in."""
    spec = spec_of(backend)
    return spec and pin(spec)


def versions() -> dict[str, str]:
    """Return the versions that pixels depend on, without importing the packages."""
    from importlib import metadata  # a third of the time that importing diffaug takes

    versions = {}
    for package in ("diffaug", "diffusers", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree
            versions[package] = "unknown"
    return versions


def versions_line() -> str:
    """Return these versions on one line, for the row of an image."""
    return ", ".join(" ".join(pair) for pair in versions().items())


def identity(
    transform: ImageTransform, spec: ModelSpec | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Say in plain values what makes a run what it is; a folder never holds images of two runs."""
    model = spec.identity() if spec else {}
    # A backend around a model may change its images, and then has a fingerprint of its own.
    backend = transform.backend if is_backend(transform.backend) else spec
    return {
        "method": type(transform).__name__,
        **options,
        **{f"transform.{name}": value for name, value in settings_of(transform).items()},
        **{f"model.{name}": value for name, value in model.items()},
        "fingerprint": backend.fingerprint if backend else None,
        "format_version": FORMAT_VERSION,
    }


def settings_of(transform: ImageTransform) -> dict[str, Any]:
    """Return the settings of a transform and of those inside it, as plain values.

    Settings that do not change an offline set, such as ``p`` and the cache, are left out, and so is
    the backend, which has a fingerprint of its own.
    """
    settings: dict[str, Any] = {}
    for path, module in transform.named_modules():
        if path:
            settings[path] = type(module).__name__
        skipped = {"training", "backend", "cache", "copies"}
        if not path:
            skipped |= transform.online_only
        for name, value in vars(module).items():
            if not name.startswith("_") and name not in skipped:
                settings[f"{path}.{name}".lstrip(".")] = _plain(value)
    return settings


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(fingerprint := getattr(value, "fingerprint", None), str):
        return fingerprint
    if isinstance(value, FractalFolder):  # what it holds, and not where it lies
        return f"{len(value)} pictures, {derive_seed(value.size, value.contents()):x}"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # an address changes from run to run
