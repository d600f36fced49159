"""What a training script may have set for itself, and what is set now."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

#: As torch would not have it.
ORDER = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


@contextmanager
def changed(get: Callable[[], Any], put: Callable[[Any], None], value: Any) -> Iterator[None]:
    """Set a value for a while."""
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


#: A context for each thing that may be set.
AMBIENT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "float64": partial(changed, torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "bfloat16": partial(changed, torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "another device": partial(torch.device, "meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "deterministic algorithms": partial(
        changed,
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        True,
    ),
    "precision of products": partial(
        changed, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "cuDNN by trial": partial(torch.backends.cudnn.flags, benchmark=True, allow_tf32=False),
    "no oneDNN": partial(
        changed, torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False
    ),
    "one kind of attention": partial(sdpa_kernel, SDPBackend.MATH),
    "an order of attention": partial(sdpa_kernel, ORDER, set_priority=True),
    "a library for products": partial(
        changed,
        torch.backends.cuda.preferred_blas_library,
        torch.backends.cuda.preferred_blas_library,
        torch._C._BlasBackend.Cublaslt,
    ),
    "attention in half precision": partial(
        changed,
        torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed,
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp,
        True,
    ),
    "anomalies": partial(torch.autograd.set_detect_anomaly, True),
    "errors of numpy": partial(np.errstate, all="raise"),
}
if torch.cuda.is_available():
    AMBIENT["autocast on a GPU"] = partial(torch.autocast, "cuda", torch.bfloat16)


def settings() -> dict[str, Any]:
    """Return what is set now, with the state of every global random generator."""
    backends = torch.backends
    return {
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "autocast on a GPU": torch.is_autocast_enabled("cuda"),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "modes": (torch.is_inference_mode_enabled(), torch.is_grad_enabled()),
        "deterministic": torch.get_deterministic_debug_mode(),
        "precision": torch.get_float32_matmul_precision(),
        "cuDNN": (
            backends.cudnn.enabled,
            backends.cudnn.benchmark,
            backends.cudnn.deterministic,
            backends.cudnn.allow_tf32,
        ),
        "oneDNN": backends.mkldnn.enabled,
        "attention": (
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
            backends.cuda.cudnn_sdp_enabled(),
            tuple(torch._C._get_sdp_priority_order()),
        ),
        "half precision in attention": backends.cuda.fp16_bf16_reduction_math_sdp_allowed(),
        "library for products": backends.cuda.preferred_blas_library(),
        "anomalies": torch.is_anomaly_enabled(),
        "numpy": np.geterr(),
        "threads": torch.get_num_threads(),
        "draws": (
            tuple(torch.default_generator.get_state().tolist()),
            random.getstate(),
            tuple(np.random.get_state()[1].tolist()),
        ),
    }
