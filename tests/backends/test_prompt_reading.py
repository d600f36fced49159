"""All prompts of a run are read before its first image."""

import json
from dataclasses import replace

import pytest
import torch
from image_folders import save_photos
from safetensors.torch import save_file
from tiny_pipelines import make_request, tiny_spec

from diffaug import (
    DiffMix,
    DiffuseMix,
    DiffusersBackend,
    HalfConcat,
    PromptEdit,
    augment_folder,
    warm_cache,
)
from diffaug.backends.hub import pin
from diffaug.backends.prompts import check_prompts

LONG = "of a very long kind " * 5


def translating(words, **changes):
    """Make Diff-Mix for classes with these words."""
    names = dict(zip(("cat", "dog"), words, strict=True))
    return DiffMix(names, strategy="real-mix", backend=tiny_spec("translate"), **changes)


def test_an_unknown_word_of_any_class_ends_a_run_before_its_first_image(tmp_path):
    source = save_photos(tmp_path / "photos", ["cat/1.png", "cat/2.png", "dog/1.png"])
    mix = translating(["a cat", "C++ & <T>"], pairs="same")
    with pytest.raises(ValueError, match="'prompt' must use tokens .* has learned, got '<T>' in"):
        augment_folder(source, tmp_path / "set", mix, per_image=1)
    assert [] == [*(tmp_path / "set").rglob("*.jpg")]
    # What has been made needs no model again.
    augment_folder(source, tmp_path / "whole", translating(["a cat", "a dog"]), per_image=1)
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert 3 == record["images"]


def test_an_unknown_prompt_ends_warming_before_its_first_image(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(DiffusersBackend, "_generate", lambda *_: made.append(1))
    edit = PromptEdit(["snowy", "<T>"], backend=tiny_spec("edit"))
    with pytest.raises(ValueError, match="got '<T>' in '<T>'"):
        warm_cache([(torch.zeros(3, 8, 8), 0)], edit)
    assert [] == made


def test_two_classes_whose_words_the_model_cannot_tell_apart_are_refused(tmp_path):
    source = save_photos(tmp_path / "photos", ["cat/1.png", "dog/1.png"])
    mix = translating([f"{LONG}cat", f"{LONG}dog"])
    with pytest.raises(
        ValueError, match="'prompt' must differ to the model, and '.*cat' and '.*dog"
    ):
        augment_folder(source, tmp_path / "set", mix, per_image=1)


def test_in_training_the_same_is_said_once():
    backend = DiffusersBackend(tiny_spec("translate"))
    first, second = (make_request("translate", prompt=f"a {LONG}{n}") for n in ("cat", "dog"))
    with pytest.warns(UserWarning, match="tokens of a prompt"):
        backend.generate([first])
    with pytest.warns(UserWarning, match="'.*cat' and '.*dog' are the same to .*, which makes the"):
        backend.generate([second])
    backend.generate([second])


def test_capitals_and_spaces_are_no_second_prompt():
    check_prompts(pin(tiny_spec("edit")), ["a Snowy day", "a snowy  day", "a snowy day"])


def test_learned_words_are_known_with_all_their_vectors(tmp_path):
    save_file({"<toy>": torch.randn(70, 16)}, tmp_path / "toy.safetensors")
    spec = pin(tiny_spec("translate", adapters=(tmp_path / "toy.safetensors",)))
    check_prompts(spec, ["a <toy>", "two <toy>"])
    with pytest.raises(ValueError, match="are the same to"):
        check_prompts(spec, ["<toy> in the snow", "<toy> in the sand"])
    with pytest.raises(ValueError, match="got '<boy>'"):
        check_prompts(spec, ["a <toy>", "a <boy>"])
    with pytest.raises(ValueError, match="got '<toy>'"):
        check_prompts(replace(spec, adapters=()), ["a <toy>"])


def test_every_transform_knows_its_prompts():
    edit = PromptEdit(["snowy", "sunset"], template="make it {prompt}", backend=tiny_spec("edit"))
    assert ("make it snowy", "make it sunset") == edit.all_prompts()
    assert edit.all_prompts() == HalfConcat(edit).all_prompts()
    mix = DiffuseMix(["snowy"], backend=tiny_spec("edit"))
    assert ("A transformed version of image into snowy",) == mix.all_prompts()
    assert ("a photo of a x bird", "a photo of a y bird") == translating(
        ["x", "y"], metaclass="bird"
    ).all_prompts()
