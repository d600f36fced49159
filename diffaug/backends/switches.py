"""The caller's switches of torch, set aside while a model runs: they must not change pixels."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def own_switches(device: torch.device, exact: bool) -> Iterator[None]:
    """Run under fixed settings of torch, and restore the caller's settings afterwards.

    Autocast is off and cuDNN chooses by rule, not by trial. ``exact`` turns TF32 off in
    convolutions, too.
    """
    cudnn: Any = torch.backends.cudnn
    with ExitStack() as stack:
        for kind in {device.type, "cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        for owner, name, value in (
            (cudnn, "enabled", True),
            (cudnn, "benchmark", False),
            (cudnn, "deterministic", True),
            *_precision(exact),
        ):
            _set(stack, owner, name, value)
        yield


def _set(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    before = getattr(owner, name)
    if before != value:
        stack.callback(setattr, owner, name, before)
        setattr(owner, name, value)


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
