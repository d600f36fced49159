"""Short memory, of a device or of the machine: known as such, and said in one line."""

import errno
import re
import warnings
from dataclasses import replace

import pytest
import torch
from contracts import check_error
from tiny_pipelines import save_learned, tiny_spec

from diffaug.backends import loading
from diffaug.backends.devices import AsManyAsFit, free_unused, is_out_of_memory
from diffaug.backends.hub import pin
from diffaug.backends.loading import load_pipeline
from diffaug.backends.presets import resolve
from diffaug.errors import GenerationError


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_BACKEND_TENSOR_DESCRIPTOR cudnnFinalize failed: CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "cudaErrorMemoryAllocation",
        "NVML_SUCCESS == DriverAPI::get()->nvmlDeviceGetHandleByPciBusId_v2_( pci_id, &device)\n"
        'INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1016, please report a',
        "HIP out of memory. Tried to allocate 2.00 GiB",
        "HIP error: hipErrorOutOfMemory",
        "rocBLAS error: rocblas_status_memory_error",
        "MIOpen Error: miopenStatusAllocFailed",
        "MPS backend out of memory (MPS allocated: 9.05 GB)",
        "Failed to create indirect Metal buffer",
        "Invalid buffer size: 12.00 GB",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory",
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "unable to mmap 1234 bytes from file <model.safetensors>: Cannot allocate memory (12)",
    ],
)
def test_every_wording_of_short_memory_is_known(text):
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasGemmEx`",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "CUDA error: HIPBLAS_STATUS_NOT_INITIALIZED when calling `hipblasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph.",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
    ],
)
def test_an_error_that_mostly_means_short_memory_counts_for_more_than_one_image(text):
    assert is_out_of_memory(RuntimeError(text), images=2)
    assert not is_out_of_memory(RuntimeError(text), images=1)


def test_short_memory_is_known_by_what_an_error_was_raised_from():
    for error in (MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")):
        one_line = GenerationError("a batch does not fit")
        one_line.__cause__ = error
        assert is_out_of_memory(one_line)
    try:
        raise MemoryError
    except MemoryError:
        try:
            raise RuntimeError("shapes differ")
        except RuntimeError as error:  # in a program that handles another one
            assert not is_out_of_memory(error)


NO_MEMORY = (
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("unable to mmap 12 bytes from file </x>: Cannot allocate memory (12)"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
)


@pytest.mark.parametrize("error", NO_MEMORY)
@pytest.mark.parametrize("part", ["diffusers", "transformers", "tokenizer", "size", "LoRA"])
def test_a_model_that_is_read_without_the_memory_for_it_is_not_called_damaged(
    part, error, monkeypatch, tmp_path
):
    """Each error is raised where the library reads, which may replace it."""

    def fail(*_, **__):
        raise error

    spec = pin(tiny_spec("translate"))
    load_pipeline(spec)  # so that what is lazily imported is there
    if part == "LoRA":
        spec = pin(replace(resolve(save_learned(tmp_path / "learned")), device="cpu"))
    owner, name = {
        "diffusers": ("safetensors.torch", "load_file"),
        "transformers": ("transformers.modeling_utils", "safe_open"),
        "tokenizer": ("transformers.CLIPTokenizer", "from_pretrained"),
        "size": ("diffusers.UNet2DConditionModel", "from_config"),
        "LoRA": ("diffusers.StableDiffusionImg2ImgPipeline", "load_lora_weights"),
    }[part]
    monkeypatch.setattr(f"{owner}.{name}", fail)
    expected = f"^'{re.escape(str(spec.model))}' does not fit into the memory of this machine; end "
    with pytest.raises(GenerationError, match=expected) as caught:
        load_pipeline(spec)
    check_error(caught.value)
    if part == "tokenizer":
        with pytest.raises(GenerationError, match=expected):
            loading.load_tokenizer(spec)


@pytest.mark.parametrize(
    ("device", "changes", "step"),
    [
        ("cuda:0", {}, "set offload=True, or free the device."),
        ("cuda:0", {"offload": True}, "free the device, or choose a smaller model."),
        ("mps", {}, "free the device, or choose a smaller model."),
    ],
)
def test_a_model_too_large_for_a_device_is_told_what_helps_there(
    device, changes, step, monkeypatch
):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loading, "choose_device", lambda _: torch.device(device))
    monkeypatch.setattr(loading, "_move", fail)
    with pytest.raises(GenerationError, match=f"does not fit on {device}; {step}$"):
        load_pipeline(pin(tiny_spec("edit", dtype="float32", **changes)))
    with pytest.raises(GenerationError, match=f"{device}; free the device, or choose a smaller"):
        load_pipeline(pin(tiny_spec("edit", dtype="float32", **changes)), offloads=False)


def test_unused_memory_is_given_back_to_cuda_and_to_mps(monkeypatch):
    freed = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: freed.append("mps"))
    for available, expected in ((False, ["cuda"]), (True, ["cuda", "mps"])):
        freed.clear()
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=available: there)
        free_unused()
        assert expected == freed


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_as_many_items_as_fit_are_given_in_their_order_and_only_so_many_from_then_on(most):
    sizes = []

    def call(items):
        sizes.append(len(items))
        if len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.tensor(items) * 2

    in_parts, cpu = AsManyAsFit("the judge"), torch.device("cpu")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert list(range(0, 16, 2)) == in_parts(call, range(8), cpu).tolist()
        sizes.clear()
        in_parts(call, range(8), cpu)
    assert max(sizes) <= most
    assert [True] * (most < 8) == ["a batch of 8 does not fit" in str(w.message) for w in warned]


def test_one_item_that_does_not_fit_is_one_line_and_another_error_stays():
    def fail(error):
        def call(_):
            raise error

        return lambda: AsManyAsFit("the judge")(call, [0], torch.device("cuda:0"))

    with pytest.raises(GenerationError, match="^one image for the judge does not fit on cuda:0; f"):
        fail(torch.OutOfMemoryError("CUDA out of memory."))()
    with pytest.raises(KeyError):
        fail(KeyError("x"))()
