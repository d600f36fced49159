"""Pinning, choosing and fetching a model's files; the Hub is not asked."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download
from safetensors.torch import save_file
from small_hub import COMMIT, SmallHub, point_at
from tiny_pipelines import model_folder, tiny_spec

from diffaug import DiffMix, DiffusersBackend, ModelSpec
from diffaug.backends.hub import (
    adapter_file,
    download,
    downloaded,
    pin,
)
from diffaug.backends.model_files import weights_of
from diffaug.backends.presets import PRESETS, resolve
from diffaug.backends.revisions import split_revision
from diffaug.errors import DestinationError, ModelError, ModelUnavailableError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the Hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def cache_model(hub, name, folder=None, branch="main"):
    """Lay a model into the cache as a download does."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / branch).write_text(COMMIT)
    if folder is None:
        (repository / "snapshots" / COMMIT).mkdir(parents=True)
    else:
        shutil.copytree(folder, repository / "snapshots" / COMMIT)
    return repository / "snapshots" / COMMIT


@pytest.fixture
def own_hub(tmp_path, monkeypatch):
    """A small Hub of our own on this machine, serving a folder as org/name."""
    served = shutil.copytree(model_folder("translate"), tmp_path / "served")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with SmallHub(served) as hub:
        point_at(hub.endpoint, tmp_path / "cache", monkeypatch.setattr)
        yield hub


def test_only_what_loading_reads_is_fetched_and_only_once(own_hub):
    (own_hub.folder / "v1-5-pruned.safetensors").write_bytes(b"0" * 1000)
    (own_hub.folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"0" * 1000)
    spec = ModelSpec("org/name", task="translate", size=16, steps=1)
    assert pin(spec).revision == COMMIT
    read = [
        file for file in model_folder("translate").glob("*/*") if file.parent.name != "vocabulary"
    ]
    assert not downloaded(pin(spec))
    folder = download(spec)
    fetched = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert fetched == {"model_index.json", *(f"{file.parent.name}/{file.name}" for file in read)}
    assert downloaded(pin(spec))
    own_hub.paths.clear()
    assert download(spec) == folder and own_hub.paths == []


def test_a_model_of_the_hub_works_at_the_size_of_its_own_configuration(own_hub, monkeypatch):
    spec = resolve("org/name", "translate")
    assert spec.size is None
    assert 16 == pin(spec).size == DiffusersBackend(spec).size
    asked = [path for path in own_hub.paths if "/resolve/" in path]
    assert all(path.endswith(("index.json", "config.json")) for path in asked), "only small files"
    wide = torch.zeros(1, 3, 20, 60, dtype=torch.uint8)
    edit = DiffMix(["a", "b"], strategy="real-mix", backend=replace(spec, keep_aspect=True))
    assert (8, 24) == edit.shrink(wide).shape[-2:]
    download(pin(spec))
    own_hub.paths.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert pin(spec) == pin(replace(spec, size=16)) and own_hub.paths == []


def test_a_size_that_was_given_is_not_looked_up(own_hub):
    assert 24 == pin(ModelSpec("org/name", size=24, revision=COMMIT)).size
    assert [] == own_hub.paths


FILES = sorted(
    file.relative_to(model_folder("translate")).as_posix()
    for file in model_folder("translate").rglob("*.*")
    if file.parent.name != "vocabulary"
)


@pytest.mark.parametrize("name", FILES)
def test_a_model_of_which_one_file_did_not_come_is_absent_and_fetched_next_time(own_hub, name):
    spec = ModelSpec("org/name", task="translate", size=16, steps=1, revision=COMMIT)
    own_hub.down.add(name)
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        download(spec)
    assert not downloaded(spec)
    own_hub.down.clear()
    folder = download(spec)
    assert downloaded(spec)
    fetched = {file: (folder / file).read_bytes() for file in FILES}
    assert {file: (own_hub.folder / file).read_bytes() for file in FILES} == fetched


@pytest.mark.parametrize("damage", ["gone", "cut"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_leads_nowhere_or_was_cut_is_fetched_again(own_hub, name, damage):
    spec = ModelSpec("org/name", task="translate", size=16, steps=1, revision=COMMIT)
    folder = download(spec)
    blob = (folder / name).resolve()
    whole = blob.read_bytes()
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(whole[: len(whole) // 2])
    assert not downloaded(spec)
    assert whole == (download(spec) / name).read_bytes()
    assert downloaded(spec)


def test_a_download_can_be_forced_and_offline_it_spoils_nothing(own_hub, monkeypatch):
    from huggingface_hub import constants

    spec = ModelSpec("org/name", task="translate", size=16, steps=1, revision=COMMIT)
    folder = download(spec)
    config = (folder / "vae" / "config.json").resolve()
    content = config.read_bytes()
    config.write_text("{}")  # reads, and is not what was fetched
    assert downloaded(spec) and download(spec) == folder and config.read_text() == "{}"
    assert content == (download(spec, force=True) / "vae" / "config.json").read_bytes()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailableError):
        download(spec, force=True)
    assert downloaded(spec)


def test_a_hub_model_with_pickles_only_is_refused_before_they_are_fetched(own_hub):
    weights = own_hub.folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="'org/name/unet/diffusion_pytorch_model.bin' are pickled"):
        download(ModelSpec("org/name"))
    assert not any(".bin" in path for path in own_hub.paths)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_taken_for_a_hub_that_cannot_be_reached(own_hub, monkeypatch, code):
    spec = ModelSpec("org/name", task="translate", size=16, steps=1)
    get, sent = file_download.http_get, []

    def fills(url, temp_file, **settings):
        sent.append(url)
        if len(sent) == 4:
            temp_file.write(b"half of it")
            raise OSError(code, os.strerror(code))
        get(url, temp_file, **settings)

    monkeypatch.setattr(file_download, "http_get", fills)
    said = f"models--org--name' could not be written to: {os.strerror(code)}; once it can, run the"
    with pytest.raises(DestinationError, match=said):
        download(spec)
    assert not downloaded(pin(spec))
    monkeypatch.setattr(file_download, "http_get", get)
    folder = download(spec)
    fetched = {name: (folder / name).read_bytes() for name in FILES}
    assert {name: (own_hub.folder / name).read_bytes() for name in FILES} == fetched


def test_a_branch_that_a_full_disk_left_empty_is_asked_for_again(own_hub):
    spec = ModelSpec("org/name")
    assert COMMIT == pin(spec).revision
    [branch] = Path(constants.HF_HUB_CACHE).rglob("refs/main")
    branch.write_text("")
    assert COMMIT == pin(spec).revision == branch.read_text()


def test_an_id_that_the_hub_does_not_know_is_an_error_with_the_next_step(own_hub):
    with pytest.raises(ModelError, match="'org/other', .* nor on the Hub; check its name"):
        pin(ModelSpec("org/other"))


def test_a_repository_that_is_no_diffusers_model_is_named(own_hub):
    (own_hub.folder / "model_index.json").unlink()
    with pytest.raises(ModelError, match="'org/name' has no model_index.json"):
        download(ModelSpec("org/name"))


def test_a_folders_revision_is_the_hash_of_its_files_wherever_it_lies(tmp_path):
    first = pin(tiny_spec("edit"))
    copy = shutil.copytree(model_folder("edit"), tmp_path / "copy")
    second = pin(replace(first, model=str(copy)))
    assert first.revision.startswith("sha256:")
    assert second.revision == first.revision and second.fingerprint == first.fingerprint
    assert pin(first) == first


def test_a_changed_file_changes_the_revision_and_is_noticed(tmp_path):
    folder = shutil.copytree(model_folder("edit"), tmp_path / "model")
    before = pin(ModelSpec(folder))
    with (folder / "unet" / "config.json").open("a") as config:
        config.write("\n")
    assert pin(ModelSpec(folder)).revision != before.revision
    with pytest.raises(ModelError, match="holds other files than revision"):
        pin(before)
    changed = pin(ModelSpec(folder))
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    assert pin(ModelSpec(folder)).revision != changed.revision


def test_files_that_loading_does_not_read_do_not_change_the_revision(tmp_path):
    folder = shutil.copytree(model_folder("edit"), tmp_path / "model")
    before = pin(ModelSpec(folder))
    (folder / "README.md").write_text("a card")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "notes.json").write_text("{}")
    for name in (
        "NOTES.txt",
        "figures.json",
        "v1-5.safetensors",
        "unet/LICENSE.txt",
        "vae/ema.bin",
    ):
        (folder / name).write_text("nothing reads it")
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    assert pin(ModelSpec(folder)) == before
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_stem(f"{weights.stem}.fp16"))
    assert pin(ModelSpec(folder)) == before
    half = pin(ModelSpec(folder, variant="fp16"))
    assert half.revision != before.revision
    assert pin(replace(before, variant="fp16")) == half  # the same folder, read otherwise


def test_a_file_beside_the_configuration_of_a_part_is_not_read(tmp_path):
    folder = shutil.copytree(model_folder("edit"), tmp_path / "model")
    before = pin(ModelSpec(folder)).revision
    (folder / "unet" / "notes.json").write_text("{}")
    assert before == pin(ModelSpec(folder)).revision
    (folder / "tokenizer" / "added_tokens.json").write_text("{}")  # the tokenizer reads this one
    assert before != pin(ModelSpec(folder)).revision


def test_a_file_beside_an_adapter_is_no_part_of_it(tmp_path):
    file = tmp_path / "birds.safetensors"
    save_file({"lora.down": torch.zeros(1)}, file)
    before = pin(tiny_spec("translate", adapters=(tmp_path,)))
    (tmp_path / "notes.txt").write_text("of 2024")
    assert before == pin(tiny_spec("translate", adapters=(tmp_path,)))
    assert before.fingerprint == pin(tiny_spec("translate", adapters=(file,))).fingerprint


def test_a_revision_from_when_all_files_were_hashed_still_names_the_folder(tmp_path):
    from diffaug.backends.revisions import _files_of, _hash

    folder = shutil.copytree(model_folder("edit"), tmp_path / "model")
    (folder / "NOTES.txt").write_text("a note")
    older = _hash(folder, _files_of(folder))
    assert older != pin(ModelSpec(folder)).revision
    assert pin(ModelSpec(folder, revision=older)) == pin(ModelSpec(folder))


def test_an_adapter_file_is_pinned_by_its_content(tmp_path):
    adapter = tmp_path / "a@b.safetensors"
    adapter.write_bytes(b"1")
    spec = tiny_spec("translate", adapters=(adapter,))
    pinned = pin(spec)
    assert split_revision(pinned.adapters[0])[0] == str(adapter.resolve())
    assert pin(pinned) == pinned
    moved = adapter.rename(tmp_path / "moved.safetensors")
    assert pin(tiny_spec("translate", adapters=(moved,))).fingerprint == pinned.fingerprint
    moved.write_bytes(b"22")
    assert pin(tiny_spec("translate", adapters=(moved,))).fingerprint != pinned.fingerprint


@pytest.mark.parametrize(
    ("adapter", "parts"),
    [
        ("org/name", ("org/name", None)),
        (f"org/name@{COMMIT}", ("org/name", COMMIT)),
        ("/home/me@host/lora", ("/home/me@host/lora", None)),
        ("/home/me@host/lora@sha256:ab", ("/home/me@host/lora", "sha256:ab")),
    ],
)
def test_an_adapter_may_name_its_revision(adapter, parts):
    assert split_revision(adapter) == parts


def test_a_commit_needs_no_question_and_main_is_looked_up_in_the_cache(hub):
    spec = ModelSpec("org/name", size=512, revision=COMMIT)
    assert pin(spec) == spec
    cache_model(hub, "org/name")
    assert pin(ModelSpec("org/name", size=512)) == spec


def test_an_unreachable_hub_is_one_line_with_the_next_step(hub):
    with pytest.raises(ModelUnavailableError) as caught:
        pin(ModelSpec(PRESETS["longcat-edit-turbo"].spec.model))
    message = str(caught.value)
    assert "\n" not in message
    assert "'meituan-longcat/LongCat-Image-Edit-Turbo' is not on this machine" in message
    assert "`diffaug download longcat-edit-turbo`" in message and "backend='tiny'" in message
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        download(PRESETS["sd15"].spec)
    assert not downloaded(PRESETS["sd15"].spec)


def test_another_commit_that_is_here_is_named(hub):
    cache_model(hub, "org/name", model_folder("edit"))
    spec = ModelSpec("org/name", revision="f" * 40)
    with pytest.raises(
        ModelUnavailableError, match=f"is on this machine at commit {COMMIT}, and f"
    ) as caught:
        download(spec)
    assert f"set revision='{COMMIT}' ('--revision'" in str(caught.value)


def test_an_absent_folder_is_an_error_with_the_next_step():
    with pytest.raises(
        ModelUnavailableError, match="no model at '/absent/model'; give an existing"
    ):
        pin(ModelSpec("/absent/model"))


def test_a_whole_model_in_the_cache_is_found_without_network(hub):
    folder = cache_model(hub, "org/name", model_folder("translate"))
    spec = ModelSpec("org/name", task="translate")
    assert downloaded(spec)
    assert download(spec) == folder
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert not downloaded(spec)


def test_a_model_is_not_there_before_its_adapter_is(hub):
    cache_model(hub, "org/name", model_folder("translate"))
    spec = ModelSpec("org/name", task="translate", adapters=(f"org/lora@{COMMIT}",))
    assert not downloaded(spec)
    save_file(
        {"a": torch.zeros(1)}, cache_model(hub, "org/lora") / "pytorch_lora_weights.safetensors"
    )
    assert downloaded(spec)
    assert adapter_file(spec.adapters[0]).name == "pytorch_lora_weights.safetensors"


def test_of_several_files_of_an_adapter_one_is_named_or_none_is_taken(tmp_path):
    for name in ("birds-000001", "birds-000002", "birds"):
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match="must be one file, and the folder holds 3: birds-000001"):
        adapter_file(str(tmp_path))
    named = str(tmp_path / "birds.safetensors")
    assert adapter_file(named) == adapter_file(f"{named}*0.7") == Path(named)
    save_file({"a": torch.zeros(1)}, tmp_path / "pytorch_lora_weights.safetensors")
    assert adapter_file(str(tmp_path)).name == "pytorch_lora_weights.safetensors"


def test_a_file_of_an_adapter_on_the_hub_can_be_named(own_hub, monkeypatch):
    from huggingface_hub import constants

    for name in ("birds-000001", "birds"):
        save_file({"a": torch.zeros(1)}, own_hub.folder / f"{name}.safetensors")
    with pytest.raises(ModelError, match="holds 2: birds-000001.safetensors, birds.safetensors"):
        adapter_file("org/name")
    named = "org/name/birds.safetensors"
    assert adapter_file(named).name == "birds.safetensors"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert adapter_file(f"{named}@{COMMIT}*0.5").name == "birds.safetensors"
    with pytest.raises(ModelUnavailableError):  # only the Hub knows that there are others
        adapter_file("org/name")


def test_the_weight_of_an_adapter_is_part_of_the_fingerprint(tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    whole, half = (pin(tiny_spec("translate", adapters=(f"{file}{w}",))) for w in ("", "*0.5"))
    assert whole.adapters[0].startswith(f"{file}@sha256:")
    assert half.adapters[0] == f"{whole.adapters[0]}*0.5" and half == pin(half)
    assert half.fingerprint != whole.fingerprint
    assert whole == pin(tiny_spec("translate", adapters=(f"{file}*1.0",)))
    hub = f"org/name/birds.safetensors@{COMMIT}*0.5"
    assert (hub,) == pin(tiny_spec("translate", adapters=(hub,))).adapters


def test_a_local_folder_is_there_when_whole(tmp_path):
    folder = shutil.copytree(model_folder("edit"), tmp_path / "model")
    assert downloaded(ModelSpec(folder)) and download(ModelSpec(folder)) == folder
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert not downloaded(ModelSpec(folder))
    with pytest.raises(ModelError, match="lacks weights or settings"):
        download(ModelSpec(folder))


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (None, ["diffusion_pytorch_model.safetensors"]),
        ("fp16", ["diffusion_pytorch_model.fp16.safetensors"]),
        ("ema", ["diffusion_pytorch_model.safetensors"]),
    ],
)
def test_one_variant_is_chosen_and_never_a_pickle(variant, expected):
    names = [
        "config.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.non_ema.safetensors",
        "other.safetensors",
    ]
    assert weights_of(names, variant, "unet") == expected


def test_the_only_variant_is_taken_and_of_several_one_must_be_named():
    half, ema = (f"diffusion_pytorch_model.{name}.safetensors" for name in ("fp16", "ema"))
    assert weights_of(["diffusion_pytorch_model.bin", half], None, "unet") == [half]
    with pytest.raises(ModelError, match="'variant' must be one of ema, fp16, .* 'unet' has, got"):
        weights_of([half, ema], "bf16", "unet")


def test_shards_are_taken_together_or_not_at_all():
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert weights_of([*shards, "model.safetensors.index.json"], None, "unet") == shards
    with pytest.raises(ModelError, match="not all are there"):
        weights_of(shards[:1], None, "unet")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt", "weights.pt"])
def test_weights_that_are_pickles_only_are_refused(name):
    with pytest.raises(ModelError, match=f"'unet/{name}' are pickled, .* and are refused; save"):
        weights_of(["config.json", name], None, "unet")


def test_a_preset_needs_its_parts_and_neither_root_files_nor_the_safety_checker():
    from diffaug.backends.model_files import needed_files

    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "image_encoder": [None, None],
    }
    files = [
        "v1-5-pruned.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/model.onnx",
        "unet/chat_template.jinja",
        "safety_checker/model.fp16.safetensors",
        "image_encoder/model.safetensors",
        "README.md",
    ]
    needed = needed_files(files, index, PRESETS["sd15"].spec)
    assert [str(Path(file)) for file in needed] == [
        "model_index.json",
        "unet/config.json",
        "unet/chat_template.jinja",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
