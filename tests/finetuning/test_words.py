"""The words that a model is to learn are checked with its tokenizer, before it is loaded."""

import shutil
from dataclasses import replace

import pytest
from test_trainer import SETTINGS
from tiny_pipelines import model_folder, tiny_spec

from diffaug.backends.loading import load_tokenizer
from diffaug.finetuning.words import check_words, initial_token_id


@pytest.fixture
def tokenizer():
    return load_tokenizer(tiny_spec("translate"))


def words(metaclass, initial_token=None):
    return replace(SETTINGS, metaclass=metaclass, initial_token=initial_token)


def test_words_have_single_spaces_and_none_around_them():
    assert "sea bird" == words(" sea  bird ").metaclass
    assert "tern" == words("", " tern ").initial_token


def test_new_words_start_from_the_metaclass_or_object_or_the_word_given(tokenizer):
    for settings, letter in (
        (words("bird"), "b"),
        (words(""), "o"),
        (words("bird", "x"), "x</w>"),
    ):
        assert tokenizer.convert_tokens_to_ids(letter) == initial_token_id(tokenizer, settings)


def test_words_that_the_model_cannot_read_are_refused(tokenizer):
    with pytest.raises(ValueError, match="'initial_token' must be one token .* 'bird' as 4: b i r"):
        check_words(tokenizer, words("bird", "bird"), 1)
    with pytest.raises(ValueError, match="'metaclass' must fit into a prompt of 77 tokens"):
        check_words(tokenizer, words("bird " * 30), 1)
    with pytest.raises(ValueError, match="'base' cannot learn .* a token <class_0> already"):
        check_words(tokenizer, words("bird"), 1)  # it has it from the line before


def test_a_tokenizer_loads_without_its_model(tmp_path):
    folder = shutil.copytree(model_folder("translate"), tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert 77 == load_tokenizer(replace(tiny_spec("translate"), model=str(folder))).model_max_length
