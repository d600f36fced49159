"""Tests that say the same of a GPU as of a CPU: the CPU rehearses what few machines can run."""

import pytest
import torch

#: For a parameter that names a device.
CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    ],
)
on_each_device = pytest.mark.parametrize("device", ["cpu", CUDA])
