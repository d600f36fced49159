"""The caller's switches of torch, set aside for a while: they must not change pixels."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

#: The kernels of attention, the preferred one first, and where cuDNN's are the fastest.
_ATTENTION = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
    SDPBackend.CUDNN_ATTENTION,
)
_ATTENTION_BY_CUDNN = (SDPBackend.CUDNN_ATTENTION, *_ATTENTION[:-1])
#: Torch prefers cuDNN's on these GPUs (data centres' Hopper and Blackwell), from a version on.
_CUDNN_GPUS, _CUDNN_VERSION = ((9, 0), (10, 0)), 91501
#: Most switches are of the whole process, so that one thread at a time may set them aside. By
#: process: a fork may copy a lock while a thread of the parent holds it.
_locks: dict[int, threading.RLock] = {}


@contextmanager
def own_defaults() -> Iterator[None]:
    """Calculate with float32 tensors on the CPU by default, and without autocast."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    try:
        moved = torch.empty(0).device.type != "cpu"  # faster than to ask
    except RuntimeError:  # a GPU, which a forked process cannot use
        moved = True
    if not (kinds or moved or torch.get_default_dtype() != torch.float32):
        yield
        return
    with _lock(), ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if moved:
            stack.enter_context(torch.device("cpu"))
        _set(stack, torch.get_default_dtype, torch.set_default_dtype, torch.float32)
        yield


@contextmanager
def own_gradients(needed: bool) -> Iterator[None]:
    """Record gradients if they are needed, or else not; what is made is no inference tensor."""
    with torch.inference_mode(False), torch.set_grad_enabled(needed):
        yield


@contextmanager
def own_switches(device: torch.device, exact: bool, *, learn: bool = False) -> Iterator[None]:
    """Run a model under fixed settings of torch, and restore the caller's settings afterwards.

    Defaults and gradients are our own, too. cuDNN and attention choose by rule, not by trial or by
    the caller's preference.

    Args:
        device: where the model is.
        exact: turn TF32 off in convolutions, too.
        learn: record gradients.
    """
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    with _lock(), own_defaults(), own_gradients(learn), ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        for owner, name, value in (
            (cudnn, "enabled", True),
            (cudnn, "benchmark", False),
            (cudnn, "deterministic", True),
            (mkldnn, "enabled", True),
            (mkldnn, "deterministic", False),
            (cuda.matmul, "allow_fp16_reduced_precision_reduction", True),
            (cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
            (cuda.matmul, "allow_fp16_accumulation", False),
            *_precision(exact),
        ):
            _set_attribute(stack, owner, name, value)
        _choose_freely(stack, cuda.preferred_blas_library)
        for name in ("flash", "mem_efficient", "math", "cudnn"):
            enabled, enable = f"{name}_sdp_enabled", f"enable_{name}_sdp"
            _set(stack, getattr(cuda, enabled), getattr(cuda, enable), True)
        reduced = cuda.fp16_bf16_reduction_math_sdp_allowed
        _set(stack, reduced, cuda.allow_fp16_bf16_reduction_math_sdp, False)
        # After that, since torch gives back the order of those alone that were enabled.
        stack.enter_context(sdpa_kernel(list(_attention_of(device)), set_priority=True))
        if not learn:  # what is not deterministic is in the way back
            debug = torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode
            _set(stack, *debug, 0)
        yield


def _attention_of(device: torch.device) -> tuple[SDPBackend, ...]:
    """Return the order of torch's own rule, which a caller can change."""
    if (
        device.type == "cuda"
        and (torch.backends.cudnn.version() or 0) >= _CUDNN_VERSION
        and torch.cuda.get_device_capability(device) in _CUDNN_GPUS
    ):
        return _ATTENTION_BY_CUDNN
    return _ATTENTION


def _lock() -> threading.RLock:
    return _locks.setdefault(os.getpid(), threading.RLock())


def _set(stack: ExitStack, get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> None:
    before = get()
    if before != value:
        stack.callback(put, before)
        put(value)


def _choose_freely(stack: ExitStack, preferred: Callable[..., Any]) -> None:
    """Let torch choose a library by its own rule."""
    before = preferred()
    try:
        preferred("default")
    except RuntimeError:  # an older torch, whose rule has no name
        preferred("cublas")
    if preferred() != before:  # asked, torch names what it chose, and never "default"
        stack.callback(preferred, before)


def _set_attribute(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    # An older torch lacks some of them.
    _set(stack, lambda: getattr(owner, name, value), lambda new: setattr(owner, name, new), value)


class _Matmul:
    """The precision of float32 matrix products as an attribute."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)


def _precision(exact: bool) -> Iterator[tuple[Any, str, Any]]:
    """List the switches for float32, by the older or the newer of torch's two interfaces.

    Once the newer one has been used, reading by the older one is an error; and some of torch reads
    by the older one as long as it can.
    """
    backends: Any = torch.backends
    try:
        torch.get_float32_matmul_precision()
        yield _Matmul(), "precision", "highest"
    except RuntimeError:
        yield backends.cuda.matmul, "fp32_precision", "ieee"
        yield backends.mkldnn.matmul, "fp32_precision", "ieee"
    try:
        backends.cudnn.allow_tf32  # noqa: B018
        yield backends.cudnn, "allow_tf32", not exact
    except RuntimeError:
        yield backends.cudnn.conv, "fp32_precision", "ieee" if exact else "tf32"
