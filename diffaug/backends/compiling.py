"""Compiling the parts of a pipeline that take the time: block by block, into one shared cache."""

import os
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from diffaug.backends.spec import ModelSpec
from diffaug.errors import MissingDependencyError
from diffaug.files import cache_root

#: Blocks of a U-Net and of its autoencoder. Between them are single convolutions and sums, of which
#: compiling makes nothing faster. Diffusers' own list has only the blocks inside of the second.
_BLOCKS = ("ResnetBlock2D", "Transformer2DModel")
#: Where torch keeps what it compiled.
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
#: So many images repay the minute that compiling takes. It makes a model 1.6 times as fast, so that
#: 640 images of 512 px are enough (docs/benchmarks.md); a smaller image gains less.
REPAID = 1000


def prepare_compiler(spec: ModelSpec, device: torch.device) -> None:
    """Name the cache of the compiler; raise before a model is loaded where nothing can compile it.

    What is compiled lies in diffaug's cache, for all processes, unless the caller has named a
    folder by ``TORCHINDUCTOR_CACHE_DIR``.

    Raises:
        MissingDependencyError: there is no C++ compiler, or no Triton for a GPU.
    """
    if not spec.compile:
        return
    from torch._inductor.runtime import cache_dir_utils

    # Torch reads the folder from here alone, and importing diffusers already writes torch's own
    # choice to it: a folder for temporary files.
    if os.environ.get(_FOLDER) in (None, cache_dir_utils.default_cache_dir()):
        os.environ[_FOLDER] = str(cache_root() / "compiled")
    find_compiler(device)


def warn_of_few(spec: ModelSpec | None, images: Iterable[object], *, stacklevel: int) -> None:
    """Warn of compiling for a run of too few images; no more of them are counted than repay it."""
    if spec is None or not spec.compile:
        return
    count = sum(1 for _ in islice(images, REPAID))
    if 0 < count < REPAID:
        warnings.warn(
            f"compile=True takes about a minute at first, which some {REPAID:,} images repay, and "
            f"{count} are to be made; set compile=False for so few.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def find_compiler(device: torch.device) -> None:
    """Raise unless there is what compiles for a device."""
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise MissingDependencyError(
            "'compile' needs a C++ compiler, and there is none; install g++, or set compile=False."
        ) from error
    if device.type == "cuda" and not has_triton():
        raise MissingDependencyError(
            "'compile' needs Triton on a GPU, which is not installed or does not know this GPU; "
            "install the torch that goes with it (pytorch.org), or set compile=False."
        )


def compile_blocks(pipe: Any) -> int:
    """Let the blocks of a pipeline be compiled on their first call; return the number of kinds.

    Blocks with weights of the same shapes are compiled once, which takes less time than the whole.
    """
    compiled: dict[Any, Callable[..., Any]] = {}
    for block in _blocks(pipe):
        weights = tuple((name, weight.shape) for name, weight in block.named_parameters())
        kind = (type(block), weights, _settings(block))
        if kind not in compiled:
            compiled[kind] = _compiled(type(block).forward)
        block.forward = types.MethodType(compiled[kind], block)
    return len(compiled)


def _blocks(pipe: Any) -> Iterator[torch.nn.Module]:
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    names = _BLOCKS if hasattr(pipe, "unet") else getattr(denoiser, "_repeated_blocks", None) or ()
    for part in (denoiser, getattr(pipe, "vae", None)):
        if not isinstance(part, torch.nn.Module):
            continue
        blocks: list[Any] = [
            block for block in part.modules() if type(block).__name__ in (*names, *_BLOCKS)
        ]
        # A model without known blocks is one, and an autoencoder without any stays as it is.
        if not blocks and part is denoiser:
            blocks = [part]
        yield from blocks


def _settings(block: torch.nn.Module) -> str:
    plain = (bool, int, float, str)
    return repr({name: value for name, value in vars(block).items() if isinstance(value, plain)})


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a copy of a function, of which torch counts the versions apart from others.

    It compiles one function for eight kinds of inputs at most, and runs it uncompiled for others;
    a U-Net has more than eight shapes of each block.
    """
    copy = types.FunctionType(
        forward.__code__.replace(),
        forward.__globals__,
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    copy.__kwdefaults__ = forward.__kwdefaults__
    # Batches are padded, so shapes are few. One that may change would give slower kernels.
    compiled: Callable[..., Any] = torch.compile(copy, dynamic=False)
    return compiled
