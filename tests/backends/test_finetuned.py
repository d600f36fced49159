"""A fine-tuned folder says what it is, and what does not belong together is an error."""

import json
import shutil
from dataclasses import replace

import pytest
from tiny_pipelines import TOKENS, model_folder, save_learned

from diffaug.backends import finetuned
from diffaug.backends.hub import pin
from diffaug.backends.presets import resolve
from diffaug.errors import ModelError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_learned(tmp_path_factory.mktemp("learned") / "run")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def test_a_folder_says_what_it_was_made_of(folder):
    found = finetuned.read(folder)
    assert TOKENS == found.tokens and list(TOKENS) == list(found.tokens)
    assert ("bird", 1, 3) == (found.metaclass, found.shots, found.seed)
    assert ("A two/0.png", "b_one/1.png") == found.files
    assert str(model_folder("translate")) == found.base
    assert pin(resolve(model_folder("translate"))).revision == found.revision
    assert folder.resolve() == found.folder
    assert finetuned.is_learned(folder) and not finetuned.is_learned(folder / "adapters")


@pytest.mark.parametrize("name", ["A two", "A_two", " a  TWO", "A%20two"])
def test_a_class_is_found_however_its_name_is_spelt(folder, name):
    assert "<class_0>" == finetuned.read(folder).token(name)
    assert "a photo of a <class_0> bird" == finetuned.read(folder).prompt(name)


def test_an_exact_name_goes_before_one_that_only_reads_the_same(folder):
    classes = {"metaclass": "", "classes": {"a two": "<class_0>", "A two": "<class_1>"}}
    (folder / "classes.json").write_text(json.dumps(classes))
    assert "<class_1>" == finetuned.read(folder).token("A two")


def test_an_unknown_class_is_an_error_that_says_what_comes_close(folder):
    message = (
        r"'.*run' must have learned every class, and 'a tow' is not among its 2 classes; "
        r"did you mean 'A two'\?$"
    )
    with pytest.raises(ValueError, match=message):
        finetuned.read(folder).token("a tow")
    with pytest.raises(ValueError, match=r"'zebra' is not among its 2 classes\.$"):
        finetuned.read(folder).token("zebra")


def test_composed_and_decomposed_letters_are_one_name():
    assert finetuned.spelling("Caf\u00e9") == finetuned.spelling("cafe\u0301")
    assert finetuned.spelling("cafe") != finetuned.spelling("Caf\u00e9")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("embeddings.safetensors", "embeddings.safetensors' could not be read"),
        ("adapters/pytorch_lora_weights.safetensors", "lora_weights.safetensors' could not be rea"),
        ("classes.json", "classes.json' could not be read"),
        ("finetune.json", "finetune.json' could not be read"),
    ],
)
@pytest.mark.parametrize("damage", ["absent", "cut"])
def test_a_part_that_is_absent_or_cut_short_is_named(folder, part, message, damage):
    whole = (folder / part).read_bytes()
    (folder / part).unlink()
    if damage == "cut":
        (folder / part).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=message) as caught:
        finetuned.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finished": False}, "a fine-tuning that has not ended; start it again as before"),
        ({"format": 9}, "must be of format 1, got 9; use the diffaug that wrote it"),
        ({"spec": {"model": "a/b", "style": 1}}, "not as finetune writes it .*'style'"),
        ({"subset": {}}, "not as finetune writes it .*'shots'"),
    ],
)
def test_a_record_that_will_not_do_says_why(saved, tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        finetuned.read(save_learned(tmp_path / "other", **changes))


def test_a_class_without_an_embedding_is_an_error(folder):
    classes = {"metaclass": "", "classes": {**TOKENS, "c": "<class_2>"}}
    (folder / "classes.json").write_text(json.dumps(classes))
    with pytest.raises(ModelError, match="lacks '<class_2>', the token of class 'c' in classes"):
        finetuned.read(folder)


def test_a_spec_leads_back_to_its_folder_pinned_or_not(folder):
    spec = resolve(folder)
    assert folder.resolve() == finetuned.find(spec).folder
    assert folder.resolve() == finetuned.find(pin(spec)).folder
    assert finetuned.find(resolve("sd15-lcm")) is None


@pytest.mark.parametrize("pinning", [pin, lambda spec: spec])
def test_reducing_leaves_out_what_was_learned_and_nothing_else(folder, pinning):
    spec = resolve(folder)
    lora, embeddings = pinning(spec).adapters
    other = "org/lcm@" + "0" * 40
    spec = replace(spec, adapters=(other, lora, embeddings))
    assert (other, lora, embeddings) == finetuned.reduce(spec, "all").adapters
    assert (other, embeddings) == finetuned.reduce(spec, "embeddings").adapters
    assert (other,) == finetuned.reduce(spec, "none").adapters
    with pytest.raises(ValueError, match="'keep' must be one of all, embeddings, none, got 'lora'"):
        finetuned.reduce(spec, "lora")


def test_a_reduced_spec_has_another_fingerprint(folder):
    spec = pin(resolve(folder))
    assert 3 == len(
        {
            finetuned.reduce(spec, keep).fingerprint
            for keep in finetuned.get_args(finetuned.LearnedParts)
        }
    )
