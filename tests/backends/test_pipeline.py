"""The backend over diffusers, on tiny random pipelines through the real classes."""

import inspect
import json
import pickle
import shutil
import threading
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from contracts import check_backend, check_error, same_images
from gpus import on_each_device
from tiny_pipelines import (
    SIZE,
    make_kontext,
    make_request,
    make_requests,
    model_folder,
    save_klein,
    save_pipeline,
    save_xl_pipeline,
    tiny_spec,
)

from diffaug import DiffusersBackend, ModelSpec
from diffaug.backends import batches, devices, pipeline
from diffaug.errors import GenerationError, ModelError, RefusedError
from diffaug.functional import resize

TASKS = ("edit", "translate", "generate")


class Batches:
    """Watch a loaded backend: the number of images in each U-Net evaluation."""

    def __init__(self, backend, arms=1):
        self.sizes = []
        backend.generate(make_requests(backend.spec.task, 1))
        backend._pipe.unet.register_forward_pre_hook(
            lambda _, inputs: self.sizes.append(len(inputs[0]) // arms)
        )


def blacken(backend, times=10**9):
    """Make a loaded backend's next decodings come out black."""
    left = [times]

    def hook(_, __, decoded):
        left[0] -= 1
        return torch.full_like(decoded, -1.0) if left[0] >= 0 else None

    backend.generate(make_requests(backend.spec.task, 1))
    backend._pipe.vae.decoder.register_forward_hook(hook)


def run_out_of_memory(backend, above, error=None):
    """Make a loaded backend's U-Net fail for more images than that (guidance off)."""

    def hook(_, inputs):
        if len(inputs[0]) > above:
            raise error or torch.OutOfMemoryError("CUDA out of memory.")

    backend.generate(make_requests(backend.spec.task, 1))
    backend._pipe.unet.register_forward_pre_hook(hook)


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_the_backend_keeps_the_contract_for_each_task(task, pad):
    wrong = {
        "edit": {"image": make_request(image=None), "strength": make_request(strength=0.5)},
        "translate": {
            "image": make_request(task, image=None),
            "strength": make_request(task, strength=None),
        },
        "generate": {"image": make_request("edit"), "strength": make_request(task, strength=0.5)},
    }
    check_backend(
        lambda: DiffusersBackend(tiny_spec(task, pad=pad)),
        make_requests(task),
        bad={**wrong[task], "prompt": make_request(task, prompt="a <unknown> bird")},
        exact=pad,
    )


def test_an_edit_is_what_the_pipeline_itself_gives():
    from diffusers import StableDiffusionInstructPix2PixPipeline

    request = make_request(negative_prompt="grey")
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(model_folder("edit"))
    pipe.set_progress_bar_config(disable=True)
    [expected] = pipe(
        prompt=request.prompt,
        negative_prompt="grey",
        image=resize(request.image, (SIZE, SIZE))[None] / 255,
        num_inference_steps=2,
        guidance_scale=3.0,
        image_guidance_scale=1.2,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="pt",
    ).images
    spec = tiny_spec("edit", guidance_scale=3.0, image_guidance_scale=1.2)
    [made] = DiffusersBackend(spec).generate([request])
    assert torch.equal((expected * 255).round().to(torch.uint8), made.image)


@pytest.mark.parametrize("task", TASKS)
def test_the_larger_sibling_works_and_empty_negative_prompts_keep_to_themselves(tmp_path, task):
    """SDXL takes an empty negative prompt beside a full one for another than none at all."""
    folder = save_xl_pipeline(tmp_path / "model", task)
    backend = DiffusersBackend(ModelSpec(folder, task=task, size=SIZE, steps=2, pad=True))
    requests = [make_request(task, 0), make_request(task, 1, negative_prompt="grey")]
    together = backend.generate(requests)
    alone = [backend.generate([request])[0] for request in requests]
    assert all(torch.equal(a.image, b.image) for a, b in zip(alone, together, strict=True))


def test_every_field_of_a_request_changes_the_image():
    backend = DiffusersBackend(tiny_spec("translate", pad=True, steps=4))
    base = make_request("translate")
    changed = [
        replace(base, prompt="a very different prompt"),
        replace(base, seed=7),
        replace(base, image=255 - base.image),
        replace(base, negative_prompt="ugly"),
        replace(base, strength=1.0),
    ]
    first, *others = backend.generate([base, *changed])
    assert not any(torch.equal(first.image, other.image) for other in others)


def test_nothing_is_loaded_before_the_first_request_and_close_frees():
    backend = DiffusersBackend(ModelSpec("org/absent", size=512))
    assert backend.size == 512 and backend._pipe is None
    assert backend.generate([]) == [] and backend._pipe is None
    with DiffusersBackend(tiny_spec("edit")) as backend:
        backend.generate(make_requests(count=1))
        assert backend._pipe is not None
    assert backend._pipe is None


def test_diffusers_looks_for_no_hooks_in_a_model_that_stays_on_its_device(monkeypatch):
    """To look through a U-Net a dozen times in each call takes longer than one of its steps."""
    from diffusers.hooks import group_offloading

    backend = DiffusersBackend(tiny_spec("edit"))
    backend.generate(make_requests())
    looked = []
    look = group_offloading._get_top_level_group_offload_hook
    monkeypatch.setattr(
        group_offloading,
        "_get_top_level_group_offload_hook",
        lambda module: looked.append(module) or look(module),
    )
    backend.generate(make_requests())
    assert not [module for module in looked if module is backend._pipe.unet]
    assert type(backend._pipe).__name__ == "StableDiffusionInstructPix2PixPipeline"


def test_a_prompt_is_checked_once():
    backend = DiffusersBackend(tiny_spec("edit"))
    requests = make_requests()
    backend.generate(requests)
    backend._pipe.tokenizer.get_added_vocab = None  # as if it were slow
    backend.generate(requests)
    with pytest.raises(TypeError):
        backend.generate([make_request(prompt="rainy")])


def test_a_used_backend_pickles_as_its_spec():
    backend = DiffusersBackend(tiny_spec("edit"))
    [made] = backend.generate(make_requests(count=1))
    packed = pickle.dumps(backend)
    [again] = pickle.loads(packed).generate(make_requests(count=1))
    assert len(packed) < 2000
    assert torch.equal(made.image, again.image)


def test_threads_take_turns():
    backend = DiffusersBackend(tiny_spec("edit"))
    results = {}

    def work(n):
        results[n] = backend.generate([make_request(n=n)])[0].image

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(3):
        assert torch.equal(results[n], backend.generate([make_request(n=n)])[0].image)


# ------------------------------------------------------------------------------- batches and steps


def test_batches_hold_at_most_batch_size_and_padding_fills_the_last():
    for pad, expected in ((False, [3, 3, 2, 2]), (True, [3, 3, 3, 3])):
        backend = DiffusersBackend(tiny_spec("edit", batch_size=3, pad=pad))
        batches = Batches(backend, arms=3)
        assert len(backend.generate(make_requests(count=5))) == 5
        assert batches.sizes == expected  # two steps each


@pytest.mark.parametrize(
    ("strength", "steps"), [(0.001, 1), (0.3, 3), (0.7, 7), (0.99, 9), (1, 10)]
)
def test_a_translation_runs_its_share_of_the_steps_and_at_least_one(strength, steps):
    backend = DiffusersBackend(tiny_spec("translate", steps=10))
    batches = Batches(backend, arms=2)
    backend.generate([make_request("translate", strength=strength)])
    assert batches.sizes == [1] * steps


@pytest.mark.parametrize(
    ("strength", "scheduler_steps", "steps"),
    [
        *((1, 4, 4), (0.9, 5, 4), (0.7, 6, 4), (0.5, 8, 4), (0.3, 14, 4), (0.07, 43, 3)),
        *((0.01, 50, 1), (1e-320, 50, 1)),
    ],
)
def test_a_model_for_few_steps_runs_all_and_starts_where_the_strength_says(
    strength, scheduler_steps, steps
):
    spec = tiny_spec("translate", steps=4, all_steps=True)
    request = make_request("translate", strength=strength)
    assert (scheduler_steps, steps) == batches.schedule(spec, request)
    assert steps / scheduler_steps == pytest.approx(strength, abs=0.101)


@pytest.mark.parametrize("scheduler", ["LCMScheduler", "EulerDiscreteScheduler"])
def test_schedulers_for_few_steps_start_there(scheduler):
    spec = tiny_spec("translate", steps=4, all_steps=True, scheduler=scheduler, guidance_scale=1)
    backend, times = DiffusersBackend(spec), []
    backend.generate([make_request("translate")])
    pipe = backend._pipe
    pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.unet.register_forward_pre_hook(lambda _, args: times.append(int(args[1])))
    for strength in (0.3, 0.5, 0.7):
        backend.generate([make_request("translate", strength=strength)])
        assert 4 == len(times) and times[0] / 1000 == pytest.approx(strength, abs=0.08)
        times.clear()


def test_keys_change_only_for_models_that_run_all_steps():
    spec = tiny_spec("translate")
    assert "all_steps" not in spec.identity()
    assert spec.fingerprint != replace(spec, all_steps=True).fingerprint


def test_requests_are_grouped_by_the_steps_they_run():
    backend = DiffusersBackend(tiny_spec("translate", steps=4))
    batches = Batches(backend, arms=2)
    requests = [
        make_request("translate", n, strength=strength)
        for n, strength in enumerate([0.25, 1.0, 0.3, 0.4, 1.0])
    ]
    made = backend.generate(requests)
    assert sorted(batches.sizes) == sorted([3] * 1 + [2] * 4)
    assert [one.seed for one in made] == [0, 1, 2, 3, 4]


def test_strength_zero_gives_the_source_resized_without_the_model():
    backend = DiffusersBackend(tiny_spec("translate"))
    batches = Batches(backend)
    request = make_request("translate", strength=0.0)
    [made] = backend.generate([request])
    assert torch.equal(resize(request.image, (SIZE, SIZE)), made.image)
    assert batches.sizes == []


@pytest.mark.parametrize(
    "scheduler",
    [
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "LCMScheduler",
        "PNDMScheduler",
    ],
)
@pytest.mark.parametrize("task", ["edit", "translate"])
def test_an_image_is_the_same_in_any_company_under_other_schedulers(task, scheduler):
    backend = DiffusersBackend(tiny_spec(task, scheduler=scheduler, pad=True, steps=4))
    before = torch.get_rng_state()
    together = backend.generate(make_requests(task, 4))
    [alone] = backend.generate([make_requests(task, 4)[2]])
    assert torch.equal(together[2].image, alone.image)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(backend._pipe.scheduler).__name__ == scheduler


@pytest.mark.parametrize(
    "scheduler", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"]
)
def test_a_scheduler_that_draws_noise_of_its_own_is_refused(scheduler, monkeypatch):
    import diffusers

    class Own(diffusers.DDIMScheduler):  # the real ones need packages that may be absent
        noise_sampler = None

    Own.__name__ = scheduler
    monkeypatch.setattr(diffusers, scheduler, Own)
    backend = DiffusersBackend(tiny_spec("translate", scheduler=scheduler))
    with pytest.raises(ModelError, match=f"{scheduler} draws noise of its own, .* set scheduler="):
        backend.generate([make_request("translate")])


# ------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_out_of_memory_halves_the_batch_for_good_and_warns_once(error):
    backend = DiffusersBackend(tiny_spec("edit", guidance_scale=1.0, batch_size=4))
    expected = backend.generate(make_requests())
    run_out_of_memory(backend, above=1, error=error)
    with pytest.warns(UserWarning, match="a batch of 4 does not fit into memory") as caught:
        made = backend.generate(make_requests())
    assert len(caught) == 1
    assert all(same_images(a.image, b.image) for a, b in zip(expected, made, strict=True))
    batches = Batches(backend)
    backend.generate(make_requests())
    assert batches.sizes == [1] * 10


def test_an_autoencoder_that_was_decoding_in_float32_as_memory_ended_is_cast_back(
    tmp_path, monkeypatch
):
    """As that of SDXL does, which diffusers casts back only if nothing fails."""
    folder = save_xl_pipeline(tmp_path / "model", "translate")
    spec = ModelSpec(
        folder, task="translate", size=SIZE, steps=2, batch_size=4, pad=True, device="cpu",
        dtype="bfloat16",
    )  # fmt: skip
    requests = make_requests("translate", 2)
    expected = DiffusersBackend(replace(spec, batch_size=2)).generate(requests)
    run, dtypes = pipeline.launch, []

    def launch(pipe, *arguments):
        dtypes.append(pipe.vae.dtype)
        if len(dtypes) == 1:
            torch.nn.Module.to(pipe.vae, torch.float32)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(pipe, *arguments)

    monkeypatch.setattr(pipeline, "launch", launch)
    with pytest.warns(UserWarning, match="a batch of 4 does not fit"):
        made = DiffusersBackend(spec).generate(requests)
    assert [torch.bfloat16] * 2 == dtypes
    assert all(torch.equal(a.image, b.image) for a, b in zip(expected, made, strict=True))


@contextmanager
def room_for(backend, requests):
    """Let a loaded backend have memory for so many requests, and for hardly any more."""
    if backend.spec.device == "cpu":
        run_out_of_memory(backend, above=len(requests))
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    backend.generate(requests)
    room = 1.3 * torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@on_each_device
def test_where_memory_is_really_short_the_batch_is_halved_until_it_fits(device, monkeypatch):
    monkeypatch.setenv("DIFFAUG_GRAPHS", "never")  # which have memory of their own
    size = SIZE if device == "cpu" else 512
    spec = tiny_spec("edit", device=device, size=size, steps=1, guidance_scale=1.0, batch_size=32)
    backend, requests = DiffusersBackend(spec), make_requests(count=32)
    backend.generate(requests[:1])
    with (
        room_for(backend, requests[:8]),
        pytest.warns(UserWarning, match="a batch of 32 does not fit into memory"),
    ):
        made = backend.generate(requests)
    assert 32 == len(made) and backend.batch_size < 32
    assert 0 == backend.fallbacks


def test_padded_batches_keep_one_size_after_halving():
    backend = DiffusersBackend(tiny_spec("edit", guidance_scale=1.0, batch_size=4, pad=True))
    run_out_of_memory(backend, above=2)
    with pytest.warns(UserWarning, match="later ones have 2"):
        backend.generate(make_requests())
    batches = Batches(backend)
    assert len(backend.generate(make_requests())) == 5
    assert batches.sizes == [2] * 6


def test_no_memory_for_one_image_is_an_error_with_the_next_step():
    backend = DiffusersBackend(tiny_spec("edit", guidance_scale=1.0, batch_size=2))
    run_out_of_memory(backend, above=0)
    with (
        pytest.warns(UserWarning, match="a batch of 2"),
        pytest.raises(GenerationError, match="memory for one image of 16 px; choose a smaller"),
    ):
        backend.generate(make_requests())
    request = make_request()
    batch = backend._prepare(backend._pipe, [batches.Job(0, request, None, 0)])
    backend._device = torch.device("cuda:0")  # where the memory of the machine can help
    with pytest.raises(GenerationError, match="16 px; set offload=True, or choose a smaller"):
        list(backend._launch(backend._pipe, batch, again=True))


def test_an_image_that_did_not_fit_is_tried_again_after_memory_was_freed(monkeypatch):
    backend = DiffusersBackend(tiny_spec("edit", guidance_scale=1.0, batch_size=1))
    expected = backend.generate(make_requests(count=2))
    full = [True]

    def fill(_, __):
        if full[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    backend._pipe.unet.register_forward_pre_hook(fill)
    monkeypatch.setattr(pipeline, "free_unused", lambda: full.__setitem__(0, False))
    made = backend.generate(make_requests(count=2))
    assert all(torch.equal(a.image, b.image) for a, b in zip(expected, made, strict=True))


def test_any_other_failure_is_one_line_that_travels():
    backend = DiffusersBackend(tiny_spec("edit"))
    run_out_of_memory(backend, above=0, error=RuntimeError("shapes do not fit\nat line 3"))
    with pytest.raises(
        GenerationError, match="failed with RuntimeError: shapes do not fit$"
    ) as caught:
        backend.generate(make_requests())
    check_error(caught.value)


# --------------------------------------------------------------------------------- blank or refused


def test_a_blank_image_is_made_again_with_the_next_seed():
    backend = DiffusersBackend(tiny_spec("edit"))
    expected = backend.generate([make_request(seed=4), make_request(seed=5)])
    blacken(backend, times=1)
    made = backend.generate([make_request(seed=3), make_request(seed=4)])
    assert [(one.seed, one.attempts, one.fallback) for one in made] == [
        (4, 2, False),
        (5, 2, False),
    ]
    assert all(same_images(a.image, b.image) for a, b in zip(expected, made, strict=True))


def test_after_four_blank_images_the_source_stands_in_counted_and_warned_of_once():
    backend = DiffusersBackend(tiny_spec("edit"))
    blacken(backend)
    requests = make_requests(count=2)
    with pytest.warns(UserWarning, match="2 of 2 generated images were blank, 4 times"):
        made = backend.generate(requests)
    for request, one in zip(requests, made, strict=True):
        assert torch.equal(resize(request.image, (SIZE, SIZE)), one.image)
        assert (one.seed, one.attempts, one.fallback) == (request.seed, 4, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.generate(requests)
    assert backend.fallbacks == 4


def test_a_dark_image_of_a_dark_source_is_kept():
    backend = DiffusersBackend(tiny_spec("edit"))
    blacken(backend)
    [made] = backend.generate([make_request(image=torch.zeros(3, 9, 9, dtype=torch.uint8))])
    assert (made.attempts, made.fallback) == (1, False)


def test_text_to_image_has_no_original_to_return():
    backend = DiffusersBackend(tiny_spec("generate"))
    blacken(backend)
    with pytest.raises(RefusedError, match=r"every image for 'snowy' \(seed 0\)") as caught:
        backend.generate([make_request("generate")])
    check_error(caught.value)


# ------------------------------------------------------------------------------------ not a number


def overflow(backend, in_float32=False):
    """Make a loaded backend's decoder overflow in half precision; count the U-Net's evaluations."""
    backend.generate(make_requests(backend.spec.task, 1))
    pipe, evaluations = backend._pipe, []
    pipe.unet.register_forward_pre_hook(lambda *_: evaluations.append(1))

    def hook(_, inputs, decoded):
        if in_float32 or inputs[0].dtype != torch.float32:
            return torch.full_like(decoded, torch.nan)
        return None

    pipe.vae.decoder.register_forward_hook(hook)
    return evaluations


def test_what_overflows_is_decoded_once_more_in_float32():
    spec = tiny_spec("edit", dtype="bfloat16", batch_size=2)
    backend = DiffusersBackend(spec)
    expected = backend.generate(make_requests())
    evaluations = overflow(backend)
    made = backend.generate(make_requests())
    assert 3 * spec.steps == len(evaluations)  # batches, each run once
    assert torch.bfloat16 == backend._pipe.vae.dtype
    assert not any(one.fallback for one in made)
    for a, b in zip(expected, made, strict=True):
        assert (a.image.int() - b.image.int()).abs().max() <= 4


def test_what_stays_not_a_number_is_said_to_be_so_after_one_run():
    backend = DiffusersBackend(tiny_spec("edit", dtype="bfloat16"))
    evaluations = overflow(backend, in_float32=True)
    requests = make_requests(count=2)
    said = "2 of 2 generated images are not a number in half precision; set dtype='float32'; their"
    with pytest.warns(UserWarning, match=said):
        made = backend.generate(requests)
    assert backend.spec.steps == len(evaluations)
    assert all(one.fallback and one.attempts == 1 for one in made)
    assert 2 == backend.fallbacks


@pytest.mark.parametrize(
    ("dtype", "step"),
    [
        ("bfloat16", "half precision; set dtype='float32'"),
        ("float32", "float32; set another scheduler"),
    ],
)
def test_first_images_that_are_all_not_a_number_are_an_error(dtype, step):
    backend = DiffusersBackend(tiny_spec("edit", dtype=dtype))
    overflow(backend, in_float32=True)
    backend._succeeded = False
    with pytest.warns(UserWarning, match="3 of 3 generated images are not a number"):
        backend.generate(make_requests(count=3))  # too few to say so of the model
    with pytest.raises(GenerationError, match=f"the first 4 images are not a number in {step}"):
        backend.generate(make_requests(count=1))


def test_weights_that_are_not_numbers_are_named():
    backend = DiffusersBackend(tiny_spec("edit"))
    bias = backend._loaded().vae.decoder.conv_out.bias
    torch.nn.init.constant_(bias, torch.nan)
    said = "first 4 images are not a number in float32; weights of its vae are not numbers: get the"
    with pytest.raises(GenerationError, match=said):
        backend.generate(make_requests(count=4))


def test_text_to_image_that_is_not_a_number_has_no_original_to_return():
    backend = DiffusersBackend(tiny_spec("generate", dtype="bfloat16"))
    overflow(backend, in_float32=True)
    with pytest.raises(RefusedError, match=r"'snowy' \(seed 0\) is not a number in half") as caught:
        backend.generate([make_request("generate")])
    check_error(caught.value)


def save_with_safety_checker(folder, refuses):
    """Add a tiny real safety checker that refuses everything, or nothing."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    shutil.copytree(model_folder("edit"), folder)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        "projection_dim": 8,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    torch.nn.init.constant_(checker.concept_embeds_weights, -2.0 if refuses else 2.0)
    torch.nn.init.constant_(checker.special_care_embeds_weights, 2.0)
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return ModelSpec(folder, size=SIZE, steps=2)


def test_the_safety_checker_runs_only_when_asked_and_its_refusals_are_not_kept(tmp_path):
    spec = save_with_safety_checker(tmp_path / "model", refuses=True)
    assert not DiffusersBackend(spec).generate([make_request()])[0].fallback
    asked = DiffusersBackend(replace(spec, safety_checker=True))
    with pytest.warns(UserWarning, match="1 of 1 generated images were refused by its safety"):
        assert asked.generate([make_request(image=torch.zeros(3, 9, 9, dtype=torch.uint8))])[
            0
        ].fallback


def test_what_the_safety_checker_passes_is_unchanged(tmp_path):
    spec = save_with_safety_checker(tmp_path / "model", refuses=False)
    [plain] = DiffusersBackend(spec).generate([make_request()])
    [checked] = DiffusersBackend(replace(spec, safety_checker=True)).generate([make_request()])
    assert torch.equal(plain.image, checked.image)


# ---------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("edit", {"image": None}, "'image' must be given for task 'edit', got None."),
        ("edit", {"strength": 0.5}, "'strength' must be None for task 'edit', got 0.5."),
        ("translate", {"strength": None}, "'strength' must be given for task 'translate'"),
        (
            "generate",
            {"image": make_request().image},
            r"'image' must be None for .* got \(3, 11, 20\)",
        ),
    ],
)
def test_a_request_that_does_not_suit_the_task_names_the_field(task, changes, message):
    backend = DiffusersBackend(ModelSpec("org/absent", task=task))  # not even looked for
    with pytest.raises(ValueError, match=message):
        backend.generate([make_request(task), make_request(task, **changes)])


def test_what_is_no_request_is_refused():
    with pytest.raises(TypeError, match="'requests' must hold GenerationRequest objects, got str"):
        DiffusersBackend(tiny_spec("edit")).generate(["snowy"])


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_token_that_nobody_learned_is_an_error(field):
    backend = DiffusersBackend(tiny_spec("edit"))
    with pytest.raises(ValueError, match=r"got '<class_3>' in 'a photo of a <class_3> bird'; use"):
        backend.generate([make_request(**{field: "a photo of a <class_3> bird"})])
    backend.generate([make_request(prompt="<|endoftext|> 3 < 4 and 5 > 4")])


def test_a_prompt_longer_than_the_model_reads_warns_once():
    backend = DiffusersBackend(tiny_spec("edit"))
    requests = [make_request(prompt="x" * 100), make_request(prompt="y" * 100)]
    with pytest.warns(UserWarning, match="the model reads 77 tokens .* the last 25") as caught:
        backend.generate(requests)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.generate(requests)


# ----------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("device", ["auto", "cuda:0"])
def test_cuda_in_a_forked_process_says_what_to_do(monkeypatch, device):
    backend = DiffusersBackend(tiny_spec("edit", device=device))
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(GenerationError, match="multiprocessing_context='spawn' or num_workers=0"):
        backend.generate(make_requests())
    assert DiffusersBackend(tiny_spec("edit")).generate(make_requests(count=1))


def test_a_model_stays_where_it_was_loaded_though_auto_is_another_gpu_by_then(monkeypatch):
    """A worker's parent says which GPU that is, until loading starts CUDA in the worker."""
    places = iter([torch.device("cpu")])
    monkeypatch.setattr(pipeline, "choose_device", lambda device: next(places))
    backend = DiffusersBackend(tiny_spec("edit", device="auto"))
    assert 1 == len(backend.generate(make_requests(count=1)))
    assert 1 == len(backend.generate(make_requests(count=1)))


def test_a_model_on_the_cpu_though_there_is_a_gpu_says_why(monkeypatch):
    monkeypatch.setattr(devices, "why_no_gpu", lambda: "its driver is too old")
    backend = DiffusersBackend(tiny_spec("edit", device="auto"))
    with pytest.warns(
        UserWarning, match=r"runs on the CPU: .* \(its driver is too old\); update"
    ) as caught:
        backend.generate(make_requests(count=1))
        backend.generate(make_requests(count=1))
    assert 1 == len(caught)
    DiffusersBackend(tiny_spec("edit", device="cpu")).generate(make_requests(count=1))


def test_a_big_model_on_a_cpu_says_once_what_to_expect(monkeypatch):
    monkeypatch.setattr(devices, "MOST_FOR_CPU", 1000)
    backend = DiffusersBackend(tiny_spec("edit"))
    with pytest.warns(UserWarning, match="runs on the CPU: expect minutes an image"):
        backend.generate(make_requests(count=1))
    backend.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        backend.generate(make_requests(count=1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", [{}, {"compile": True}, {"offload": True}])
def test_on_a_gpu_padded_images_are_the_same_in_any_company(changes):
    backend = DiffusersBackend(tiny_spec("edit", device="cuda", pad=True, **changes))
    together = backend.generate(make_requests())
    [alone] = backend.generate([make_requests()[3]])
    assert torch.equal(together[3].image, alone.image)


# -------------------------------------------------------------------------------------- one by one


def test_a_real_klein_runs_and_its_chat_template_is_part_of_it(tmp_path):
    folder = save_klein(tmp_path / "klein")
    spec = ModelSpec(folder, size=64, steps=2, guidance_scale=1.0, device="cpu", pad=True)
    backend = DiffusersBackend(spec)
    made = backend.generate(make_requests(count=2))
    assert [(3, 64, 64)] * 2 == [tuple(one.image.shape) for one in made]
    [alone] = backend.generate([make_requests(count=2)[1]])
    assert torch.equal(made[1].image, alone.image)
    (folder / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(GenerationError, match="tokenizer.chat_template is not set"):
        DiffusersBackend(spec).generate(make_requests(count=1))


def test_a_real_kontext_works_at_the_size_that_is_asked_for():
    pipe = make_kontext()
    seen = []
    pipe.vae.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-2:]))
    pipe.vae.decoder.register_forward_hook(lambda _, given, made: seen.append(made.shape[-2:]))
    backend = DiffusersBackend(ModelSpec("org/kontext", size=64, steps=1, device="cpu"))
    backend._pipe = pipe
    [made] = backend.generate([make_request()])
    assert [(64, 64)] * 2 == seen and (3, 64, 64) == tuple(made.image.shape)


def test_editors_know_the_settings_that_they_need():
    def accepted(name):
        return set(inspect.signature(getattr(diffusers, name).__call__).parameters)

    assert {"max_area", "_auto_resize", "height", "width"} <= accepted("FluxKontextPipeline")
    for name in ("QwenImageEditPipeline", "QwenImageEditPlusPipeline"):
        assert {"true_cfg_scale", "negative_prompt", "height", "width"} <= accepted(name)
    assert {"guidance_scale", "height", "width"} <= accepted("Flux2KleinPipeline")
    assert "guidance_scale" in accepted("LongCatImageEditPipeline")


class QwenImageEditPipeline:
    """Notes by what it is guided: by true_cfg_scale, and only away from a negative prompt."""

    tokenizer = None
    dtype = torch.bfloat16

    def __init__(self):
        self.calls = []

    def __call__(
        self,
        image,
        prompt,
        num_inference_steps,
        generator,
        output_type,
        negative_prompt=None,
        true_cfg_scale=4.0,
        guidance_scale=None,
    ):
        self.calls.append((negative_prompt, true_cfg_scale, guidance_scale))
        return SimpleNamespace(images=torch.full((1, 3, SIZE, SIZE), 0.5))


def test_qwen_is_guided_by_its_own_setting():
    pipe = QwenImageEditPipeline()
    for scale in (1.0, 3.0):
        backend = DiffusersBackend(ModelSpec("org/qwen", size=SIZE, guidance_scale=scale))
        backend._pipe = pipe
        backend.generate([make_request(), make_request(negative_prompt="grey")])
    assert [(None, 1, None), ("grey", 1, None), (" ", 3, None), ("grey", 3, None)] == pipe.calls


class Flux2KleinPipeline:
    """Refuses lists and tensors, as the real class does, and notes what it is given."""

    tokenizer = None
    dtype = torch.bfloat16

    def __init__(self):
        self.calls = []

    def __call__(
        self,
        image,
        prompt,
        height,
        width,
        num_inference_steps,
        guidance_scale,
        generator,
        output_type,
    ):
        assert type(image).__name__ == "Image" and isinstance(prompt, str)
        assert isinstance(generator, torch.Generator) and output_type == "pt"
        self.calls.append((prompt, height, width, num_inference_steps))
        noise = torch.rand((1, 3, 2 * height, 2 * width), generator=generator)
        return SimpleNamespace(images=noise)


def test_editors_that_take_one_image_a_call_get_one_image_a_call():
    spec = ModelSpec("org/klein", size=SIZE, steps=4, pad=True)  # padding would change nothing
    backend, pipe = DiffusersBackend(spec), Flux2KleinPipeline()
    backend._pipe = pipe
    made = backend.generate(make_requests(count=3))
    assert pipe.calls == [(f"prompt {n}", SIZE, SIZE, 4) for n in range(3)]
    assert [tuple(one.image.shape) for one in made] == [(3, SIZE, SIZE)] * 3
    [alone] = backend.generate([make_request(n=2, prompt="prompt 2")])
    assert torch.equal(made[2].image, alone.image)
    with pytest.raises(
        ValueError, match="'negative_prompt' must be empty: Flux2KleinPipeline takes"
    ):
        backend.generate([make_request(negative_prompt="grey")])


@pytest.mark.parametrize("pad", [True, False])
def test_what_an_editor_made_of_one_image_is_kept_where_the_next_does_not_fit(pad):
    spec = ModelSpec("org/klein", size=SIZE, steps=4, pad=pad)
    backend, pipe = DiffusersBackend(spec), Flux2KleinPipeline()
    backend._pipe = pipe
    expected = backend.generate(make_requests(count=8))
    fills = [5]

    class Full(Flux2KleinPipeline):
        def __call__(self, image, prompt, height, width, num_inference_steps, guidance_scale,
                     generator, output_type):  # fmt: skip
            if len(self.calls) + 1 in fills:
                fills.clear()
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().__call__(image, prompt, height, width, num_inference_steps,
                                    guidance_scale, generator, output_type)  # fmt: skip

    Full.__name__ = Flux2KleinPipeline.__name__
    backend._pipe = pipe = Full()
    made = backend.generate(make_requests(count=8))  # without a warning that a batch was halved
    assert [f"prompt {n}" for n in range(8)] == [prompt for prompt, *_ in pipe.calls]
    assert all(torch.equal(a.image, b.image) for a, b in zip(expected, made, strict=True))
    assert spec.batch_size == backend.batch_size


def test_an_editor_that_fails_on_one_image_fails_at_once():
    """Its calls never hold more than one image, so a batch of several proves nothing."""
    calls = []

    class Flux2KleinPipeline:
        tokenizer, dtype, components = None, torch.bfloat16, {}  # noqa: RUF012

        def __call__(self, image, prompt, generator, output_type):
            calls.append(prompt)
            raise RuntimeError("GET was unable to find an engine to execute this computation")

    backend = DiffusersBackend(ModelSpec("org/klein", size=SIZE))
    backend._pipe = Flux2KleinPipeline()
    with pytest.raises(GenerationError, match="failed with RuntimeError: GET was unable"):
        backend.generate(make_requests(count=8))
    assert 1 == len(calls)


def test_two_pipelines_of_one_seed_are_equal(tmp_path):
    first, second = (save_pipeline(Path(tmp_path) / name, "edit", seed=3) for name in "ab")
    assert DiffusersBackend(ModelSpec(first)).fingerprint == (
        DiffusersBackend(ModelSpec(second)).fingerprint
    )
