"""What the released code of Diff-Mix has learned becomes a fine-tuned folder."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import make_request, model_folder, save_learned

from diffaug import DiffMix, DiffusersBackend, import_checkpoint
from diffaug.backends import finetuned
from diffaug.backends.presets import resolve
from diffaug.errors import DestinationError, ModelError

PAGE = Path(__file__).parents[2] / "docs" / "released.md"


def as_older_diffusers_saves(name):
    """Name a weight as ``save_attn_procs`` of diffusers 0.25 does."""
    name = name.removeprefix("unet.").replace("to_out.0", "to_out")
    return re.sub(
        r"\.(to_\w+)\.lora_([AB])\.",
        lambda m: f".processor.{m[1]}_lora.{'down' if m[2] == 'A' else 'up'}.",
        name,
    )


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A fine-tuned folder of ours, whose parts are those of the checkpoint."""
    return save_learned(tmp_path_factory.mktemp("learned") / "run")


@pytest.fixture
def checkpoint(learned, tmp_path):
    """The same parts as train_lora.py of Diff-Mix saves them."""
    folder = tmp_path / "shot-1-lora-rank10"
    folder.mkdir()
    lora = load_file(learned / finetuned.LORA)
    lora = {as_older_diffusers_saves(name): weight for name, weight in lora.items()}
    save_file(lora, folder / "pytorch_lora_weights.safetensors")
    names = finetuned.read(learned).tokens
    rows = load_file(learned / finetuned.EMBEDDINGS)
    # Views of one tensor with a gradient, as indexing the table of embeddings gives them.
    table = torch.stack([rows[token] for token in names.values()]).requires_grad_()
    parts = {
        "learned_embeds_dict": dict(zip(names.values(), table * 1, strict=True)),
        "name2placeholder": names,
        "placeholder2name": {token: name for name, token in names.items()},
    }
    torch.save(parts, folder / "learned_embeds-steps-last.bin")
    return folder


@pytest.fixture
def converted(checkpoint, monkeypatch):
    """After the lines of the documentation."""
    monkeypatch.chdir(checkpoint)
    [block] = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile(block, "released.md", "exec"), {})
    return checkpoint


def test_an_imported_checkpoint_makes_the_images_that_its_parts_make(learned, converted, tmp_path):
    base = model_folder("translate")
    names = import_checkpoint(converted, tmp_path / "tuned", base=base, metaclass="bird")
    assert tuple(finetuned.read(learned).tokens) == names
    mixes = [
        DiffMix(names, backend=replace(resolve(folder), device="cpu", steps=2))
        for folder in (learned, tmp_path / "tuned")
    ]
    assert mixes[0].prompts == mixes[1].prompts
    request = make_request("translate", prompt=mixes[1].prompts[0])
    first, second = (DiffusersBackend(mix.backend).generate([request])[0] for mix in mixes)
    assert torch.equal(first.image, second.image)
    plain = replace(mixes[1].backend, adapters=mixes[1].backend.adapters[1:])
    assert not torch.equal(first.image, DiffusersBackend(plain).generate([request])[0].image)


@pytest.mark.parametrize("kind", ["pickled", "converted"])
def test_a_checkpoint_given_as_a_model_says_what_to_do(checkpoint, request, kind):
    if kind == "converted":
        request.getfixturevalue("converted")
    with pytest.raises(ModelError) as caught:
        resolve(checkpoint)
    message = str(caught.value)
    assert f"run 'diffaug import {checkpoint} DESTINATION --base sd15'" in message
    assert ("a pickle" in message) == (kind == "pickled")
    assert "model_index.json" not in message


def test_a_folder_with_a_lora_alone_is_called_an_adapter(checkpoint):
    (checkpoint / "learned_embeds-steps-last.bin").unlink()
    with pytest.raises(ModelError, match="holds a LoRA, and no model; give it as an adapter"):
        resolve(checkpoint)


def test_the_pickle_is_never_read(checkpoint, tmp_path):
    with pytest.raises(ModelError, match="lacks learned_embeds.safetensors.*docs/released.md"):
        import_checkpoint(checkpoint, tmp_path / "tuned", base=model_folder("translate"))
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "does not say which class <class_0> is"),
        ({"<class_0>": "a"}, "does not say which class <class_1> is"),
        ({"<class_0>": "a b", "<class_1>": "A_b"}, "gives one name to two classes"),
    ],
)
def test_names_of_classes_that_are_missing_or_doubled_are_an_error(
    converted, tmp_path, metadata, message
):
    rows = {"<class_0>": torch.zeros(8), "<class_1>": torch.ones(8)}
    save_file(rows, converted / "learned_embeds.safetensors", metadata)
    with pytest.raises(ModelError, match=message):
        import_checkpoint(converted, tmp_path / "tuned", base=model_folder("translate"))


def test_classes_are_in_the_order_of_their_tokens(converted, tmp_path):
    tokens = [f"<class_{number}>" for number in range(12)]
    rows = {token: torch.full((8,), float(n)) for n, token in enumerate(tokens)}
    names = {token: f"bird {number}" for number, token in enumerate(tokens)}
    save_file(rows, converted / "learned_embeds.safetensors", names)
    base = model_folder("translate")
    classes = import_checkpoint(converted, tmp_path / "tuned", base=base)
    assert tuple(names.values()) == classes


def test_a_damaged_file_or_a_wrong_folder_is_named(converted, tmp_path):
    base = model_folder("translate")
    with pytest.raises(ValueError, match="'base' must translate or generate images"):
        import_checkpoint(converted, tmp_path / "tuned", base="tiny")
    import_checkpoint(converted, tmp_path / "tuned", base=base)
    with pytest.raises(DestinationError, match="holds a different run"):
        import_checkpoint(converted, tmp_path / "tuned", base=base, metaclass="cat")
    (converted / "pytorch_lora_weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="pytorch_lora_weights.safetensors' could not be read"):
        import_checkpoint(converted, tmp_path / "other", base=base)
    with pytest.raises(ValueError, match="'folder' must be an existing folder"):
        import_checkpoint(tmp_path / "none", tmp_path / "other", base=base)


def test_a_checkpoint_is_imported_on_the_command_line(converted, tmp_path):
    from typer.testing import CliRunner

    from diffaug.cli.app import app

    command = ["import", str(converted), str(tmp_path / "tuned"), "--base"]
    done = CliRunner().invoke(app, [*command, str(model_folder("translate"))])
    assert 0 == done.exit_code, done.output
    assert f"in {tmp_path / 'tuned'}: give it as --backend" in done.stdout
    assert 2 == CliRunner().invoke(app, [*command, "sd15", "--filtered"]).exit_code
