"""Presets are whole, and names, folders and ids resolve without network."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import SIZE, make_request, model_folder, save_learned, tiny_spec

from diffaug import DiffusersBackend, ModelSpec
from diffaug.backends.hub import pin
from diffaug.backends.model_files import read_index
from diffaug.backends.presets import PRESETS, has_image_guidance, resolve, show_licence
from diffaug.errors import ModelError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_its_terms_and_names_a_commit_or_none(name):
    preset = PRESETS[name]
    assert preset.licence and preset.commercial in ("yes", "no", "check the card")
    assert preset.spec.revision is None or re.fullmatch(r"[0-9a-f]{40}", preset.spec.revision)
    assert resolve(name) is preset.spec


def test_the_paper_preset_is_the_published_setting():
    spec = resolve("instruct-pix2pix-paper")
    assert (spec.steps, spec.size, spec.dtype) == (100, 512, "float16")
    assert (spec.guidance_scale, spec.image_guidance_scale) == (4.0, 1.5)
    assert spec.scheduler == "EulerAncestralDiscreteScheduler"


def test_models_for_few_steps_run_all_of_them():
    few = {name for name, preset in PRESETS.items() if preset.spec.all_steps}
    assert {"sd15-lcm", "sd-turbo", "sdxl-turbo"} == few


def test_only_what_was_never_tried_is_experimental():
    experimental = {name for name, preset in PRESETS.items() if preset.experimental}
    assert experimental == {"instruct-pix2pix-lcm", "flux2-klein-4b", "longcat-edit-turbo"}


def test_variants_of_instruct_pix2pix_are_its_weights_in_fewer_pixels_or_steps():
    base = resolve("instruct-pix2pix")
    assert resolve("instruct-pix2pix-256") == replace(base, size=256)
    fast = resolve("instruct-pix2pix-lcm")
    assert (base.model, base.revision) == (fast.model, fast.revision)
    assert ("LCMScheduler", 4, 2, 1) == (
        *(fast.scheduler, fast.steps, fast.guidance_scale, fast.image_guidance_scale),
    )
    assert fast.adapters == resolve("sd15-lcm").adapters


def test_variants_in_12_steps_are_their_bases_with_a_solver_for_few_steps():
    solver = {"scheduler": "DPMSolverMultistepScheduler", "steps": 12}
    for base in ("instruct-pix2pix", "instruct-pix2pix-256", "sd15"):
        assert resolve(f"{base}-12") == replace(resolve(base), **solver)
    assert (12, 8) == resolve("sd15-12").schedule(0.7)
    # An id, or a copy in a folder, has the settings of the base, not of a variant.
    assert resolve("instruct-pix2pix") == resolve("timbrooks/instruct-pix2pix")


@pytest.mark.parametrize("base", ["instruct-pix2pix-12", "sd15-12"])
def test_variants_in_12_steps_run_on_small_models_of_their_kind(base):
    preset = resolve(base)
    changes = {"scheduler": preset.scheduler, "guidance_scale": preset.guidance_scale}
    spec = tiny_spec(preset.task, **changes, steps=preset.steps, pad=True)
    request = make_request(preset.task)
    [made] = DiffusersBackend(spec).generate([request])
    assert not made.fallback
    [other] = DiffusersBackend(replace(spec, steps=11)).generate([request])
    assert not torch.equal(made.image, other.image)


def test_every_preset_from_the_hub_has_a_commit_and_a_size():
    hub = [preset for preset in PRESETS.values() if not Path(preset.spec.model).is_absolute()]
    assert all(preset.spec.revision and preset.gigabytes for preset in hub)


@pytest.mark.parametrize(
    ("saved", "task"), [("edit", "edit"), ("translate", "translate"), ("generate", "translate")]
)
def test_a_folder_tells_its_task_and_size(saved, task):
    spec = resolve(model_folder(saved))
    assert (spec.task, spec.size, spec.model) == (task, SIZE, str(model_folder(saved).resolve()))
    assert resolve(str(model_folder(saved))) == spec


@pytest.mark.parametrize(
    ("sample_size", "size"),
    [(8, 16), ([8, 8], 16), ([8, 16], 24), (12, 24), (None, None), (True, None), ([], None)]
    + [
        (0, None),
        (-8, None),
        (10**9, None),
        (10**4000, None),
        ("8", None),
        ([8, None], None),
        ([8, 8, 8], None),
    ],
)
def test_the_size_of_a_folder_is_that_of_its_latents_in_pixels(tmp_path, sample_size, size):
    folder = shutil.copytree(model_folder("translate"), tmp_path / "model")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "sample_size": sample_size}))
    assert size == resolve(folder).size
    assert (size or 512) == pin(resolve(folder)).size


def test_eight_channels_make_an_editor_whatever_the_class_is_called(tmp_path):
    for name, content in {
        "model_index.json": {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "U"]},
        "unet/config.json": {"in_channels": 8, "sample_size": 64},
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    assert ("edit", None) == (resolve(tmp_path).task, resolve(tmp_path).size)


def say_where_a_copy_is_from(folder, how):
    """Leave in a folder what shows that it is instruct-pix2pix; return the folder."""
    spec = PRESETS["instruct-pix2pix"].spec
    index = json.loads((folder / "model_index.json").read_text())
    if how == "saved by diffusers":
        index["_name_or_path"] = spec.model
    if how == "saved from the Hub's cache":
        cached = f"models--timbrooks--instruct-pix2pix/snapshots/{spec.revision}"
        index["_name_or_path"] = f"/home/me/.cache/huggingface/hub/{cached}"
    (folder / "model_index.json").write_text(json.dumps(index))
    if how == "downloaded into a folder":
        mark = folder / ".cache" / "huggingface" / "download" / "model_index.json.metadata"
        mark.parent.mkdir(parents=True)
        mark.write_text(f"{spec.revision}\netag\n17e8\n")
    if how == "with its card":
        (folder / "README.md").write_text(f'# A card\nmodel_id = "{spec.model}"\n')
    if how == "a snapshot":
        place = folder.parent / "models--timbrooks--instruct-pix2pix" / "snapshots" / spec.revision
        return shutil.copytree(folder, place)
    return folder


@pytest.mark.parametrize(
    "how",
    [
        "saved by diffusers",
        "saved from the Hub's cache",
        "downloaded into a folder",
        "with its card",
        "a snapshot",
    ],
)
def test_a_copy_of_a_preset_s_model_has_its_settings_and_says_so(tmp_path, how, caplog):
    folder = shutil.copytree(model_folder("edit"), tmp_path / "ip2p-copy")
    folder = say_where_a_copy_is_from(folder, how)
    preset = PRESETS["instruct-pix2pix"].spec
    assert replace(preset, model=str(folder), revision=None, size=SIZE) == resolve(folder)
    assert f"'{folder}' is a copy of the model of 'instruct-pix2pix', whose" in caplog.text


def test_a_model_made_from_a_preset_s_or_only_called_like_it_has_its_own_settings(tmp_path, caplog):
    folder = shutil.copytree(model_folder("edit"), tmp_path / "sd-turbo")
    own = resolve(folder)
    assert (20, 7.5) == (own.steps, own.guidance_scale)
    assert "does not say that it is the model of 'sd-turbo', and has settings of its" in caplog.text
    card = "---\nbase_model: x\n---\nmodel_id = 'timbrooks/instruct-pix2pix'"
    (folder / "README.md").write_text(card)
    assert own == resolve(folder)
    say_where_a_copy_is_from(folder, "saved by diffusers")
    index = json.loads((folder / "model_index.json").read_text())
    index["_name_or_path"] = PRESETS["sd15"].spec.model  # an editor that was trained from it
    (folder / "model_index.json").write_text(json.dumps(index))
    assert own == resolve(folder)


@pytest.mark.parametrize("spelt", ["SD15", "sd_15", "Instruct_Pix2Pix_Paper", "TINY"])
def test_a_preset_is_found_however_it_is_spelt(spelt):
    name = spelt.lower().replace("_", "-").replace("sd-15", "sd15")
    assert PRESETS[name].spec == resolve(spelt)


def test_only_some_editors_have_image_guidance(tmp_path):
    guided = {name for name, preset in PRESETS.items() if has_image_guidance(preset.spec)}
    assert guided == {
        "tiny",
        "tiny-256",
        *(name for name in PRESETS if name.startswith("instruct-pix2pix")),
    }
    assert has_image_guidance(resolve("org/some-editor"))
    for kind, expected in {"StableDiffusionInstructPix2Pix": True, "Flux2Klein": False}.items():
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": f"{kind}Pipeline"}))
        assert expected == has_image_guidance(ModelSpec(str(tmp_path)))


def test_a_spec_comes_back_as_it_is_and_a_hub_id_edits():
    spec = ModelSpec("org/name", task="translate")
    assert resolve(spec) is spec
    assert resolve("org/name") == ModelSpec("org/name", task="edit")


def test_an_id_does_what_it_is_asked_to_and_a_preset_s_has_its_settings(caplog):
    assert resolve("org/name", "translate") == ModelSpec("org/name", task="translate")
    assert "" == caplog.text
    for name in ("instruct-pix2pix", "sd15", "sd-turbo", "sdxl-turbo"):
        assert PRESETS[name].spec == resolve(PRESETS[name].spec.model, "translate")
        assert f"is the model of the preset '{name}', whose settings it has" in caplog.text


@pytest.mark.parametrize("name", ["org/model.safetensors", "ckpts/v1.ckpt", "./x.PT", "here/file"])
def test_a_single_file_is_never_an_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("here/file").touch()
    with pytest.raises(ValueError, match=f"got the file '{name}'; .* from_single_file|converted"):
        resolve(name)


@pytest.mark.parametrize("name", ["unet.up.lora_A.weight", "<toy>"])
def test_an_adapter_that_was_given_as_a_model_is_called_one(name, tmp_path):
    file = tmp_path / "birds.safetensors"
    save_file({name: torch.zeros(1, 2)}, file)
    for given, error in {file: ValueError, tmp_path: ModelError}.items():
        with pytest.raises(error, match=f"as an adapter \\('--adapter {file}', or ModelSpec"):
            resolve(given)


def test_a_folder_that_is_no_model_says_what_it_holds(tmp_path):
    file = tmp_path / "one" / "dreamshaper_8.safetensors"
    cached = tmp_path / "models--org--name"
    snapshot = shutil.copytree(model_folder("edit"), cached / "snapshots" / "ab")
    for folder, message in {
        file.parent: f"holds '{file.name}' and no model folder; .* must be converted once: .*save_",
        cached: f"is the Hub's cache of a model, .*; give '{snapshot}'",
        snapshot.parent: f"holds the model folder '{snapshot}'; give that",
        snapshot / "unet": "holds UNet2DConditionModel alone, and a model has other parts",
    }.items():
        folder.mkdir(exist_ok=True)
        file.parent.mkdir(exist_ok=True)
        file.touch()
        with pytest.raises(ModelError, match=f"'{folder}' {message}"):
            resolve(folder)


def test_a_fine_tuned_folder_is_its_base_with_what_was_learned_wherever_it_lies(tmp_path):
    folder = save_learned(tmp_path / "first").rename(tmp_path / "second")
    base = resolve(model_folder("translate"))
    spec = resolve(folder)
    assert ("translate", SIZE, base.model) == (spec.task, spec.size, spec.model)
    names = ("adapters/pytorch_lora_weights.safetensors", "embeddings.safetensors")
    assert tuple(str(folder.resolve() / name) for name in names) == spec.adapters
    assert spec.revision.startswith("sha256:")


def test_the_base_s_own_adapters_come_before_what_was_learned(tmp_path):
    base = {"model": "org/name", "task": "translate", "adapters": ["org/lcm@" + "0" * 40]}
    spec = resolve(save_learned(tmp_path / "run", base="org/name", spec=base))
    assert "org/lcm@" + "0" * 40 == spec.adapters[0] and 3 == len(spec.adapters)


def test_a_base_that_is_a_preset_is_where_diffaug_is_installed_now(tmp_path):
    there = {"model": "/elsewhere/diffaug/assets/tiny", "size": 64}
    assert (
        resolve("tiny").model
        == resolve(save_learned(tmp_path / "run", base="tiny", spec=there)).model
    )


def test_a_base_folder_that_is_gone_is_an_error(tmp_path):
    base = shutil.copytree(model_folder("translate"), tmp_path / "base")
    folder = save_learned(tmp_path / "run", base)
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="fine-tuned on the model folder '.*base', which is gone"):
        resolve(folder)


def test_a_wrong_name_is_answered_with_what_comes_close():
    with pytest.raises(ValueError, match=r"'backend' must be .* got 'tinny'. Did you mean 'tiny'"):
        resolve("tinny")


@pytest.mark.parametrize("name", ["", "./absent", "/absent/model", "a/b/c", Path("org/name")])
def test_what_is_no_name_folder_or_id_is_refused(name):
    with pytest.raises(ValueError, match="'backend' must be a preset"):
        resolve(name)


@pytest.mark.parametrize(
    ("pasted", "hint"),
    [
        ("https://huggingface.co/org/name", "Give 'org/name'."),
        ("https://huggingface.co/org/name/tree/main", "Give 'org/name', and revision='main'."),
        ("hf://org/name", "Give 'org/name'."),
        ("org/name@fp16", "Give 'org/name', and revision='fp16'."),
        ("org/name/", "Give 'org/name'."),
        ("x" * 5000, "got 'xxx"),
    ],
)
def test_an_id_as_it_is_pasted_is_answered_with_the_id(pasted, hint):
    with pytest.raises(ValueError, match="'backend' must be a preset") as told:
        resolve(pasted)
    assert hint in str(told.value)


def test_another_type_is_refused():
    with pytest.raises(TypeError, match="'backend' must be .* got int"):
        resolve(3)


def test_a_folder_without_or_with_a_broken_index_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"model_index.json' could not be read"):
        resolve(tmp_path)
    (tmp_path / "model_index.json").write_text("[1]")
    with pytest.raises(ModelError, match="must hold a JSON object"):
        resolve(tmp_path)


def test_an_index_that_brings_its_own_class_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": ["mine", "Pipeline"]}')
    with pytest.raises(ModelError, match="code inside a model is never run"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("name", "level"), [("tiny", "INFO"), ("sdxl-turbo", "WARNING"), ("org/name", "WARNING")]
)
def test_the_licence_is_shown_and_loudly_unless_it_is_free(name, level, caplog):
    caplog.set_level("INFO", "diffaug")
    show_licence(resolve(name))
    assert [record.levelname for record in caplog.records] == [level]
    assert "commercial use" in caplog.text
