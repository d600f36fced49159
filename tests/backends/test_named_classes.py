"""A model's folder names its classes and its files, and gets nothing else by that."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import SIZE, model_folder

from diffaug import ModelSpec
from diffaug.backends.loading import load_pipeline, load_tokenizer
from diffaug.backends.named_classes import part_class
from diffaug.backends.part_sizes import MOST_LAYERS
from diffaug.errors import ModelError

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(model_folder("edit"), tmp_path / "model")


def load(folder):
    return load_pipeline(ModelSpec(folder, size=SIZE, device="cpu"))


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "names",
    [
        ("transformers", "AutoTokenizer"),
        ("transformers", "AutoModel"),
        ("transformers", "pipeline"),
        ("transformers", "BitsAndBytesConfig"),
        ("diffusers", "DiffusionPipeline"),
        ("diffusers", "AutoModel"),
        ("diffusers", "get_scheduler"),
        ("stable_diffusion", "StableDiffusionPipeline"),
    ],
)
def test_only_what_a_part_may_be_is_used_and_never_a_class_that_chooses(folder, names):
    change(folder / "model_index.json", tokenizer=list(names))
    with pytest.raises(ModelError, match=r"tokenizer' asks for .*(no class of a model's part|has)"):
        load(folder)


@pytest.mark.parametrize("name", ["ModularPipeline", "get_scheduler", "utils", "AutoencoderKL"])
def test_a_pipeline_that_is_none_is_refused(folder, name):
    change(folder / "model_index.json", _class_name=name, pretrained_model_name_or_path="evil/x")
    spec = ModelSpec(folder, task="translate", size=SIZE, device="cpu")
    change(folder / "unet/config.json", in_channels=4)
    with pytest.raises(ModelError, match="which is no pipeline of diffusers"):
        load_pipeline(spec)


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_code_beside_a_part_is_neither_run_nor_asked_about(folder, part, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    (folder / part / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\nclass Evil: 0\n")
    auto = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}
    name = "tokenizer_config.json" if part == "tokenizer" else "config.json"
    change(folder / part / name, auto_map={**auto, "AutoModel": "evil.Evil"})
    assert load(folder) is not None
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("file", ["weights.bin", "../weights.safetensors", "absent.safetensors", 5])
@pytest.mark.parametrize("decoy", [True, False])
def test_an_index_names_safetensors_files_of_its_folder_alone(folder, monkeypatch, file, decoy):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    weights = load_file(folder / UNET)
    torch.save(weights, folder / "unet/weights.bin")
    if decoy:
        (folder / UNET).unlink()
        save_file({"a": torch.zeros(1)}, folder / "unet/model.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, file)}
    (folder / f"{UNET}.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="(must name safetensors files of its folder|its weights)"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("unet/config.json", {"block_out_channels": [32_000] * 2}, "describes a part of "),
        ("unet/config.json", {"layers_per_block": 3_000_000}, "says layers_per_block = 3000000"),
        ("unet/config.json", {"block_out_channels": 5}, "describes no UNet2DConditionModel"),
        ("text_encoder/config.json", {"num_hidden_layers": 5_000_000}, "says num_hidden_layers"),
        ("text_encoder/config.json", {"vocab_size": 50_000_000}, "describes a part of "),
        ("vae/config.json", {"out_channels": None}, "describes no AutoencoderKL"),
        ("vae/config.json", {"block_out_channels": [8] * 5000}, "says block_out_channels"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps"),
    ],
)
def test_a_part_that_says_it_is_larger_than_its_weights_takes_neither_time_nor_memory(
    folder, file, values, said
):
    change(folder / file, **values)
    started = time.monotonic()
    with pytest.raises(ModelError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "value", [["diffusers"], [], [1, 2], [None, "UNet2DConditionModel", 3], [{}, {}], ["", ""]]
)
def test_an_odd_part_of_the_index_is_one_line(folder, value):
    change(folder / "model_index.json", unet=value)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 200_000, "5", "{", '{"_class_name": ["a", "b"]}'])
def test_an_index_that_is_none_is_one_line(folder, text):
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model_index.json' (could not be read|must )") as caught:
        load_tokenizer(ModelSpec(folder, size=SIZE))
    assert "\n" not in str(caught.value)


def test_a_part_name_leads_out_of_no_folder(folder):
    index = json.loads((folder / "model_index.json").read_text())
    change(folder / "model_index.json", **{"../unet": index["unet"]})
    with pytest.raises(ModelError, match=r"must give each part a library and a class"):
        load(folder)


def test_the_parts_of_known_models_are_allowed(tmp_path):
    for library, name in (
        *(("diffusers", "UNet2DConditionModel"), ("diffusers", "DPMSolverMultistepScheduler")),
        *(("diffusers", "FluxTransformer2DModel"), ("diffusers", "LCMScheduler")),
        *(("transformers", "CLIPFeatureExtractor"), ("transformers", "T5EncoderModel")),
        *(("transformers", "Qwen2VLProcessor"), ("transformers", "Qwen2TokenizerFast")),
        ("stable_diffusion", "StableDiffusionSafetyChecker"),
    ):
        assert isinstance(part_class(library, name, tmp_path), type)
    assert MOST_LAYERS > 100
