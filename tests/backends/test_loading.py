"""From a folder to a pipeline: what is missing, unsafe or of another task is an error."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from contracts import check_error
from safetensors.torch import save_file
from tiny_pipelines import (
    SIZE,
    make_request,
    model_folder,
    save_learned,
    save_pipeline,
    save_xl_pipeline,
    tiny_spec,
)

from diffaug import DiffusersBackend, ModelSpec
from diffaug.backends import devices, loading
from diffaug.backends.devices import choose_device, why_no_gpu
from diffaug.backends.hub import download, downloaded, pin
from diffaug.backends.loading import load_pipeline
from diffaug.backends.presets import resolve
from diffaug.errors import GenerationError, MissingDependencyError, ModelError


@pytest.mark.parametrize(
    ("saved", "task", "message"),
    [
        ("edit", "translate", "its U-Net takes 8 channels where that needs 4; set task='edit'"),
        ("edit", "generate", "takes 8 channels where that needs 4"),
        ("generate", "edit", "takes 4 channels where that needs 8; set task='translate'"),
    ],
)
def test_a_model_of_another_task_is_named_before_it_is_loaded(saved, task, message):
    spec = ModelSpec(model_folder(saved), task=task, size=SIZE)
    with pytest.raises(ModelError, match=message) as caught:
        DiffusersBackend(spec).generate([make_request(task)])
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(model_folder("edit"), tmp_path / "model")


def load(folder, **changes):
    return loading.load_pipeline(ModelSpec(folder, size=SIZE, device="cpu", **changes))


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_weight_is_an_error_and_not_a_random_number(folder, file):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / file)
    del weights[min(weights)]
    save_file(weights, folder / file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights that .* needs"):
        load(folder)


def test_weights_of_another_shape_are_an_error(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.weight"] = weights["conv_in.weight"][:1]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="unet"):
        load(folder)


def test_a_truncated_weight_file_is_an_error(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="unet.* could not be loaded"):
        load(folder)


def test_a_folder_of_pickles_is_refused_unread(folder):
    for file in folder.glob("*/*.safetensors"):
        file.unlink()
        (file.parent / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(ModelError, match="pickled, which can run code when read, and are refused"):
        load(folder)


@pytest.mark.parametrize("library", ["mine", "os", "torch"])
def test_a_part_from_elsewhere_than_diffusers_and_transformers_is_refused(folder, library):
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = [library, "system"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / f"{library}.py").write_text("raise SystemExit")
    with pytest.raises(ModelError, match="code inside a model is never run"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "BestScheduler"}, "'scheduler' must be a diffusers scheduler, got 'Best"),
        ({"safety_checker": True}, "has no safety checker; set safety_checker=False"),
    ],
)
def test_a_setting_that_the_model_cannot_follow_is_an_error(folder, changes, message):
    with pytest.raises(ModelError, match=message):
        load(folder, **changes)


def test_a_class_that_does_not_edit_or_is_unknown_is_an_error(folder):
    index = json.loads((folder / "model_index.json").read_text())
    del index["unet"]
    for name, task, message in (
        ("FluxPipeline", "edit", "is a FluxPipeline, which does not edit"),
        ("PipelineOfTomorrow", "translate", "a newer one has, or it is code of its author's"),
    ):
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
        with pytest.raises(ModelError, match=message):
            load(folder, task=task)


def test_a_folder_with_half_precision_files_alone_is_read_with_them(folder):
    whole = load(folder)
    for file in folder.glob("*/*model.safetensors"):
        file.rename(file.with_stem(f"{file.stem}.fp16"))
    assert downloaded(resolve(folder)) and download(resolve(folder)) == folder
    half = load(folder)
    for one, other in (
        (one.state_dict(), other.state_dict())
        for one, other in [
            (whole.unet, half.unet),
            (whole.vae, half.vae),
            (whole.text_encoder, half.text_encoder),
        ]
    ):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_variant_is_used_where_there_is_one(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    [made] = DiffusersBackend(ModelSpec(folder, size=SIZE, steps=2, variant="fp16")).generate(
        [make_request()]
    )
    [expected] = DiffusersBackend(tiny_spec("edit")).generate([make_request()])
    assert torch.equal(expected.image, made.image)


def test_a_lora_changes_the_image_and_a_foreign_one_is_an_error(tmp_path):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = StableDiffusionPipeline.from_pretrained(model_folder("translate"))
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    state = get_peft_model_state_dict(pipe.unet)
    pipe.save_lora_weights(tmp_path / "lora", unet_lora_layers=state)
    spec = tiny_spec("translate")
    adapted = DiffusersBackend(replace(spec, adapters=(tmp_path / "lora",)))
    [plain] = DiffusersBackend(spec).generate([make_request("translate")])
    [other] = adapted.generate([make_request("translate")])
    assert not torch.equal(plain.image, other.image)
    assert adapted.fingerprint != DiffusersBackend(spec).fingerprint

    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no safetensors file"):
        DiffusersBackend(replace(spec, adapters=(tmp_path / "empty",))).generate(
            [make_request("translate")]
        )
    for name, unfit in {
        "shapes": {name: weight[..., :1].contiguous() for name, weight in state.items()},
        "names": {name.replace("attentions", "others"): w for name, w in state.items()},
        "flat": {name: weight.flatten() for name, weight in state.items()},
        "first halves": {name: w for name, w in state.items() if "lora_A" in name},
        "second halves": {name: w for name, w in state.items() if "lora_B" in name},
    }.items():
        pipe.save_lora_weights(tmp_path / name, unet_lora_layers=unfit)
        with pytest.raises(ModelError, match=f"the adapter '.*{name}.*' does not fit"):
            DiffusersBackend(replace(spec, adapters=(tmp_path / name,))).generate(
                [make_request("translate")]
            )


def save_lora(folder, seed, task="translate"):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = load_pipeline(tiny_spec(task))
    torch.manual_seed(seed)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipe.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    return folder


@pytest.mark.parametrize("weights", [("",), ("*0.3",), ("*0.5", "*2")])
def test_loras_are_added_to_the_weights_as_strongly_as_they_run_beside_them(weights, tmp_path):
    folders = [save_lora(tmp_path / str(n), seed=n) for n in range(len(weights))]
    adapters = tuple(f"{folder}{weight}" for folder, weight in zip(folders, weights, strict=True))
    fused = tiny_spec("translate", adapters=adapters)
    pipes = {spec: load_pipeline(spec) for spec in (fused, replace(fused, fuse_adapters=False))}
    names = [
        {name for name, _ in pipe.unet.named_modules() if "lora_" in name}
        for pipe in pipes.values()
    ]
    assert not names[0] and names[1]
    pipes["none"] = load_pipeline(tiny_spec("translate"))
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    prompt = torch.randn(2, 7, 16, generator=generator)
    with torch.inference_mode():
        added, beside, plain = (pipe.unet(noisy, 500, prompt)[0] for pipe in pipes.values())
    assert torch.allclose(beside, added, atol=1e-5)
    assert (beside - plain).abs().max() > 1e-3


def test_a_lora_that_cannot_be_added_to_the_weights_is_an_error_with_the_way_out(
    tmp_path, monkeypatch
):
    from diffusers import StableDiffusionImg2ImgPipeline

    def refuse(*_, **__):
        raise NotImplementedError("quantised weights")

    spec = tiny_spec("translate", adapters=(save_lora(tmp_path / "lora", 0),))
    monkeypatch.setattr(StableDiffusionImg2ImgPipeline, "fuse_lora", refuse)
    with pytest.raises(ModelError, match=r"quantised weights\); set fuse_adapters=False\."):
        load_pipeline(spec)
    load_pipeline(replace(spec, fuse_adapters=False))


def test_layers_of_a_lora_without_a_place_are_said_and_most_of_them_refused(tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = load_pipeline(tiny_spec("translate"))
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    state = {f"unet.{n}": w for n, w in get_peft_model_state_dict(pipe.unet).items()}
    layers = sorted({name.partition(".lora_")[0] for name in state})

    def saved(name, kept):
        file = tmp_path / f"{name}.safetensors"
        kept = layers[:kept]
        save_file(
            {
                (n if n.partition(".lora_")[0] in kept else n.replace("blocks", "blocks.7")): w
                for n, w in state.items()
            },
            file,
        )
        return tiny_spec("translate", adapters=(str(file),))

    few, most = saved("few", 1), saved("most", len(layers) - 1)
    with pytest.raises(ModelError, match=f"{len(layers) - 1} of its {len(layers)} layers have no"):
        load_pipeline(few)
    with pytest.warns(UserWarning, match=f"in part: 1 of its {len(layers)} layers have no place"):
        load_pipeline(most)
    whole = saved("whole", len(layers))
    images = [
        DiffusersBackend(spec).generate([make_request("translate")])[0].image
        for spec in (
            whole,
            replace(whole, adapters=(f"{whole.adapters[0]}*0.5",)),
            replace(whole, adapters=(f"{whole.adapters[0]}*0",)),
            tiny_spec("translate"),
        )
    ]
    assert torch.equal(images[2], images[3])
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[1], images[3])


@pytest.mark.parametrize(
    "names",
    [
        ["text_encoder.text_model.encoder.layers.77.self_attn.q_proj.lora_A.weight"],
        ["unet.down_blocks.0.attn.to_q.lora_magnitude_vector"],
        ["lora_unet_down_blocks_0_attn.lora_down.weight"],
        ["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"],
    ],
)
def test_a_lora_of_another_kind_of_model_is_named_with_the_model(tmp_path, names):
    file = tmp_path / "foreign.safetensors"
    save_file({name: torch.zeros(2, 8) for name in names}, file)
    spec = tiny_spec("translate", adapters=(str(file),))
    with pytest.raises(ModelError) as caught:
        DiffusersBackend(spec).generate([make_request("translate")])
    assert str(caught.value).startswith(f"the adapter '{file}' does not fit '{spec.model}': ")
    assert "list index" not in str(caught.value)


@pytest.fixture(scope="module")
def learned_folder(tmp_path_factory):
    return save_learned(tmp_path_factory.mktemp("learned") / "run")


def test_learned_embeddings_are_tokens_with_their_rows_and_the_old_ones_stay(learned_folder):
    from safetensors.torch import load_file

    plain = load(model_folder("translate"), task="translate")
    before = torch.get_rng_state()
    pipe = loading.load_pipeline(replace(resolve(learned_folder), device="cpu"))
    assert torch.equal(before, torch.get_rng_state())
    table, old = (one.text_encoder.get_input_embeddings().weight for one in (pipe, plain))
    assert torch.equal(old, table[: len(old)])
    for token, row in load_file(learned_folder / "embeddings.safetensors").items():
        numbers = pipe.tokenizer(f"a photo of a {token}, bird", add_special_tokens=False).input_ids
        words = pipe.tokenizer("a photo of a", add_special_tokens=False).input_ids
        assert words == numbers[: len(words)]
        assert torch.equal(row, table[numbers[len(words)]])
        assert len(plain.tokenizer(", bird", add_special_tokens=False).input_ids) == len(
            numbers[len(words) + 1 :]
        )


def test_a_learned_word_in_a_prompt_works_and_an_unknown_one_is_refused(learned_folder):
    backend = DiffusersBackend(replace(resolve(learned_folder), device="cpu"))
    request = make_request("translate", prompt="a photo of a <class_0> bird")
    [one] = backend.generate([request])
    [other] = backend.generate([replace(request, prompt="a photo of a <class_1> bird")])
    assert not torch.equal(one.image, other.image)
    with pytest.raises(ValueError, match="must use tokens that .* has learned, got '<class_2>'"):
        backend.generate([replace(request, prompt="a photo of a <class_2> bird")])


def words_of_one_file(tmp_path, rows):
    save_file(rows, tmp_path / "toy.safetensors")
    return tiny_spec("translate", adapters=(tmp_path / "toy.safetensors",))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("name", "word"), [("<cat-toy>", "<cat-toy>"), ("emb_params", "<toy>")])
def test_a_word_of_n_vectors_is_as_many_tokens_in_a_prompt(tmp_path, name, word, count):
    rows = torch.randn(count, 16)
    backend = DiffusersBackend(words_of_one_file(tmp_path, {name: rows}))
    seen = []
    pipe = backend._loaded()
    encode = pipe.text_encoder.forward
    pipe.text_encoder.forward = lambda ids, **rest: seen.append(ids) or encode(ids, **rest)
    [one] = backend.generate([make_request("translate", prompt=f"a photo of a {word} bird")])
    table = pipe.text_encoder.get_input_embeddings().weight
    words = len(pipe.tokenizer("a photo of a").input_ids) - 1
    ids = next(ids for batch in seen for ids in batch if ids[words] >= len(table) - count)
    assert torch.equal(rows, table[ids[words : words + count]])
    others = pipe.tokenizer("bird", add_special_tokens=False).input_ids
    assert others == ids[words + count : words + count + len(others)].tolist()
    flat = rows[0] if count == 1 else -rows
    other = DiffusersBackend(words_of_one_file(tmp_path, {name: flat}))
    [again] = other.generate([make_request("translate", prompt=f"a photo of a {word} bird")])
    assert torch.equal(one.image, again.image) == (count == 1)


def test_words_that_diffusers_would_read_as_parts_of_others_are_refused(tmp_path):
    spec = words_of_one_file(tmp_path, {"toy": torch.zeros(16), "toy_1": torch.zeros(16)})
    with pytest.raises(ModelError, match="would read toy_1 as a part of toy; rename one"):
        load_pipeline(spec)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_x.hada_w1_a", "a LoHa, which diffaug cannot apply; choose a LoRA"),
        ("lora_unet_x.lokr_w1", "a LoKr"),
        ("image_proj.proj.weight", "an IP-Adapter"),
        ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole model in one file"),
        ("clip_l", "an embedding for a model with two text encoders"),
    ],
)
def test_an_adapter_of_another_kind_is_named(tmp_path, name, kind):
    spec = words_of_one_file(tmp_path, {name: torch.zeros(4, 16)})
    with pytest.raises(ModelError, match=f"toy.safetensors' does not fit '.*': it is {kind}"):
        load_pipeline(spec)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"<a>": torch.zeros(8)},
            r"<a> is of shape \(8,\), and the text encoder takes \(16,\), or",
        ),
        ({"<a>": torch.zeros(2, 2, 16)}, r"of shape \(2, 2, 16\), .* or \(n, 16\) for a word of n"),
        ({"<class_0>": torch.zeros(16)}, "has a token <class_0> already"),
    ],
)
def test_embeddings_that_do_not_fit_are_an_error_in_one_line(
    learned_folder, tmp_path, rows, message
):
    save_file(rows, tmp_path / "more.safetensors")
    spec = resolve(learned_folder)
    spec = replace(
        spec, device="cpu", adapters=(*spec.adapters, str(tmp_path / "more.safetensors"))
    )
    with pytest.raises(ModelError, match=f"more.safetensors' does not fit '.*': .*{message}"):
        loading.load_pipeline(spec)


def test_a_model_with_two_text_encoders_takes_no_embeddings(learned_folder, tmp_path):
    folder = save_xl_pipeline(tmp_path / "xl", "translate")
    rows = shutil.copy(learned_folder / "embeddings.safetensors", tmp_path / "rows.safetensors")
    with pytest.raises(ModelError, match="need a model with one text encoder"):
        load(folder, task="translate", adapters=(rows,))


@pytest.mark.parametrize("pinning", [pin, lambda spec: spec])
def test_what_was_learned_on_another_model_is_refused_before_loading(
    learned_folder, tmp_path, pinning
):
    other = save_pipeline(tmp_path / "other", "translate", seed=1)
    (other / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")  # never read
    spec = pinning(replace(resolve(learned_folder), model=str(other), revision=None))
    with pytest.raises(ModelError, match="was fine-tuned on '.*translate' .* does not fit '.*oth"):
        loading.load_pipeline(spec)


def test_a_base_that_has_only_moved_still_fits(learned_folder, tmp_path):
    moved = shutil.copytree(model_folder("translate"), tmp_path / "moved")
    loading.load_pipeline(replace(resolve(learned_folder), model=str(moved), device="cpu"))


def test_a_fine_tuned_folder_is_no_adapter(learned_folder):
    for adapter in (
        str(learned_folder),
        pin(tiny_spec("translate", adapters=(learned_folder,))).adapters[0],
    ):
        with pytest.raises(ModelError, match="is a fine-tuned folder, which names its own base"):
            loading.load_pipeline(tiny_spec("translate", adapters=(adapter,)))


def test_an_editor_of_another_kind_is_not_taken_for_instruct_pix2pix(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder("edit"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "DreamLiteMobilePipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="a DreamLiteMobilePipeline, which diffaug cannot run as"):
        load(folder)


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load(model_folder("edit"))
    assert torch.equal(torch.get_rng_state(), before)


def test_auto_takes_this_ranks_gpu_then_the_first_then_mps_then_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank, expected in (("1", "cuda:1"), ("5", "cuda:0")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert choose_device("auto") == torch.device(expected)
    monkeypatch.delenv("LOCAL_RANK")
    assert choose_device("auto") == torch.device("cuda:0")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert choose_device("auto") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert choose_device("auto") == torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert choose_device("auto") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="runs on the CPU: torch cannot use the GPU of this mach"):
        assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == torch.device("cpu")


def test_half_precision_on_a_cpu_is_refused():
    spec = tiny_spec("edit", dtype="float16")
    with pytest.raises(ModelError, match="'dtype' must be float32 or bfloat16 on a CPU"):
        loading.load_pipeline(spec)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(GenerationError, match="'device' is 'cuda:3', but torch sees 1 CUDA"):
        choose_device("cuda:3")


def test_a_gpu_that_torch_cannot_use_is_said_with_the_next_step(monkeypatch):
    def refuse():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", refuse)
    with pytest.raises(GenerationError, match="driver on your system is too old .*; update its"):
        choose_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "" == why_no_gpu()
    with pytest.raises(ValueError, match="'device' must be 'auto' or a torch device .* got 'gpu'"):
        ModelSpec("a/b", device="gpu")


@pytest.mark.parametrize(
    ("cuda", "card", "reason"),
    [(None, True, "this torch was built for CPUs"), (None, False, ""), ("13.0", True, "")],
)
def test_a_torch_without_cuda_beside_a_gpu_is_said(monkeypatch, cuda, card, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(devices.Path, "exists", lambda path: card and str(path) == "/dev/nvidia0")
    assert reason == why_no_gpu()
    if reason:
        with pytest.raises(GenerationError, match=f"torch sees 0 CUDA devices \\({reason}\\); set"):
            choose_device("cuda")


def test_the_editors_named_here_are_classes_of_diffusers():
    import diffusers

    assert all(hasattr(diffusers, name) for name in loading.EDITORS)


# ------------------------------------------------------------------------------------------ memory


def test_an_autoencoder_takes_large_images_one_by_one():
    """So their pixels do not depend on the batch, and the batch not on the decoder's memory."""
    small = load_pipeline(pin(tiny_spec("edit", size=256)))
    large = load_pipeline(pin(tiny_spec("edit", size=512)))
    many = load_pipeline(pin(tiny_spec("edit", size=256, batch_size=128)))
    slicing = [pipe.vae.use_slicing for pipe in (small, large, many)]
    assert [False, True, True] == slicing
    counts = []
    large.vae.decoder.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    with torch.no_grad():
        large.vae.decode(torch.zeros(2, large.vae.config.latent_channels, 4, 4))
    assert [1, 1] == counts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: out of memory", r"does not fit on cuda:0; set offload=True, or free"),
        (
            "CUDA-capable device(s) is/are busy or unavailable\nCompile with",
            r"cannot be loaded onto cuda:0 \(CUDA-capable .* unavailable\); see nvidia-smi, or set",
        ),
    ],
)
def test_a_device_that_cannot_take_the_model_is_one_line(text, expected, monkeypatch):
    def fail(*_):
        raise RuntimeError(text)

    monkeypatch.setattr(loading, "choose_device", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr(loading, "_move", fail)
    with pytest.raises(GenerationError, match=expected) as caught:
        load_pipeline(pin(tiny_spec("edit", dtype="float32")))
    check_error(caught.value)


@pytest.mark.parametrize("layout", ["one file", "two files"])
@pytest.mark.parametrize("words", [None, "{}"])
def test_a_tokenizer_without_its_words_is_refused(folder, layout, words):
    file = folder / "tokenizer" / "tokenizer.json"
    if layout == "two files":
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(folder / "vocabulary" / name, folder / "tokenizer" / name)
        file.unlink()
        load(folder)  # that is a whole vocabulary
        file = folder / "tokenizer" / "vocab.json"
    file.unlink() if words is None else file.write_text(words)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert f"'{folder}" in str(caught.value) and "\n" not in str(caught.value)


def test_words_that_are_one_token_or_none_of_the_text_encoder_s_are_refused(folder):
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    for change, said in (
        (lambda number: 0, "reads different prompts as the same tokens"),
        (lambda number: number + 10**6, r"reads words as tokens up to 10\d+, and '.*encoder' has"),
    ):
        content["model"]["vocab"] = {word: change(number) for word, number in words.items()}
        file.write_text(json.dumps(content))
        with pytest.raises(ModelError, match=said):
            load(folder)


def test_different_prompts_are_different_tokens_or_an_error(tmp_path):
    for name, alike in {
        "same": lambda text: [1, 2],
        "own": lambda text: list(map(ord, text)),
    }.items():
        tokenizer = lambda text, alike=alike: {"input_ids": alike(text)}  # noqa: E731
        if name == "same":
            with pytest.raises(ModelError, match="reads different prompts as the same tokens"):
                loading._check_reading(tokenizer, tmp_path)
        else:
            loading._check_reading(tokenizer, tmp_path)


def other_index(folder, unet=None, **changes):
    """Change the small files of a model."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **changes}))
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, **(unet or {})}))


@pytest.mark.parametrize(
    ("unet", "changes", "kind"),
    [
        ({"in_channels": 9}, {}, "an inpainting model, which needs a mask"),
        ({"in_channels": 5}, {}, "a depth model, which needs a depth map"),
        ({}, {"_class_name": "StableDiffusionControlNetPipeline"}, "a ControlNet, which needs"),
        ({}, {"controlnet": ["diffusers", "ControlNetModel"]}, "a ControlNet, which needs"),
        ({"in_channels": 7}, {}, "a model that enlarges"),
    ],
)
def test_a_model_that_needs_more_than_image_and_prompt_is_named(folder, unet, changes, kind):
    other_index(folder, unet, **changes)
    shutil.copytree(folder / "unet", folder / "controlnet")
    for use in (lambda: resolve(folder), lambda: load(folder, task="translate")):
        with pytest.raises(ModelError, match=f"'{folder}' is {kind}"):
            use()


@pytest.mark.parametrize(
    ("unet", "changes", "message"),
    [
        (
            {},
            {"_class_name": "StableDiffusionXLImg2ImgPipeline"},
            "does not have the parts of a St",
        ),
        ({}, {"_class_name": "LDMTextToImagePipeline"}, "does not have the parts of a LDMTextTo"),
        ({"in_channels": 3}, {}, "takes 3 channels where that needs 4; choose another model"),
        ({"in_channels": 8}, {}, "takes 8 channels where that needs 4; set task='edit', or choose"),
        ({"in_channels": "x"}, {}, "takes 'x' channels where that needs 4; choose another model"),
        ({"out_channels": None}, {}, "must say how many out_channels there are, got None"),
    ],
)
def test_a_model_whose_parts_do_not_fit_is_named_with_what_can_be_done(
    tmp_path, unet, changes, message
):
    folder = shutil.copytree(model_folder("translate"), tmp_path / "model")
    other_index(folder, unet, **changes)
    with pytest.raises(ModelError, match=message):
        load(folder, task="translate")


def test_a_model_whose_file_would_never_end_is_refused(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ModelError, match=f"'{weights}' of a model or .*it is no regular file"):
        load(folder, task="translate")
    os.mkfifo(folder / "lora.safetensors")
    with pytest.raises(ModelError, match="lora.safetensors' of a model or adapter could not be"):
        pin(tiny_spec("edit", adapters=(f"{folder}/lora.safetensors",)))


def test_an_id_that_runs_at_another_size_than_its_own_says_so(folder, caplog):
    index = json.loads((folder / "model_index.json").read_text())
    loading._check_task(folder, index, ModelSpec("org/name", size=SIZE))
    loading._check_task(folder, index, ModelSpec(folder, size=2 * SIZE))  # by choice
    loading._check_task(folder, index, resolve("instruct-pix2pix-256"))
    assert "" == caplog.text
    loading._check_task(folder, index, ModelSpec("org/name", size=512))
    assert (
        "'org/name' was made for 16 px and runs at 512; set size=16 ('--model-size')" in caplog.text
    )


def test_a_package_that_a_part_needs_is_named(folder, monkeypatch):
    import diffusers

    def needs(*_, package="scipy", **__):
        raise ImportError(f"\nLMS requires the {package} library but it was not found in your env")

    for kind in (DDIM := diffusers.DDIMScheduler, diffusers.LMSDiscreteScheduler):
        for name in ("from_pretrained", "from_config"):
            monkeypatch.setattr(kind, name, needs)
    with pytest.raises(MissingDependencyError, match="' needs the package 'scipy', .* pip"):
        load(folder)
    monkeypatch.undo()
    monkeypatch.setattr(diffusers.LMSDiscreteScheduler, "from_config", needs)
    with pytest.raises(MissingDependencyError, match="the scheduler LMSDiscreteScheduler needs"):
        load(folder, scheduler="LMSDiscreteScheduler")
    sde = partial(needs, package="torchsde")
    monkeypatch.setattr(DDIM, "from_config", sde)
    with pytest.raises(ModelError, match="scheduler' draws noise of its own"):
        load(folder, scheduler="DDIMScheduler")


@pytest.mark.parametrize("config", ["without a length", "absent"])
def test_a_tokenizer_that_knows_no_longest_prompt_has_the_one_of_its_encoder(folder, config):
    file = folder / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["model_max_length"]
    file.write_text(json.dumps(settings)) if config != "absent" else file.unlink()
    assert load(folder).tokenizer.model_max_length == 77


def test_the_libraries_say_nothing_while_images_are_made(capsys, caplog):
    backend = DiffusersBackend(tiny_spec("translate"))
    long = make_request("translate", prompt="a photo of a bird " * 20)
    with pytest.warns(UserWarning, match="the model reads 77 tokens of a prompt"):
        backend.generate([long])
    assert "" == capsys.readouterr().err.replace("\n", "")
    assert not [r for r in caplog.records if r.name.startswith(("diffusers", "transformers"))]
