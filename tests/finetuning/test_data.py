"""What is learned from is checked before a model is loaded: images, classes, words."""

import shutil
from dataclasses import replace

import pytest
from tiny_pipelines import model_folder, save_classes, tiny_spec

from diffaug.backends.loading import load_tokenizer
from diffaug.errors import UnreadableImageError
from diffaug.finetuning.data import Lessons, Words
from diffaug.labels.dataset import few_shot_subset


def test_classes_and_images_are_in_one_order(tmp_path):
    # By path alone "a b/" would come before "a/", and by class it does not.
    save_classes(tmp_path, **{"a b": 1, "a": 2, "ünï_code": 1, "AC%2FDC": 1})
    lessons = Lessons(tmp_path)
    assert ["AC%2FDC", "a", "a b", "ünï_code"] == lessons.names
    assert ["AC%2FDC/0.png", "a/0.png", "a/1.png", "a b/0.png", "ünï_code/0.png"] == lessons.keys
    assert [0, 1, 1, 2, 3] == lessons.pictures([], 16, False).labels


def test_the_few_shots_are_those_that_every_other_part_chooses(tmp_path):
    save_classes(tmp_path, a=5, b=4)
    chosen = few_shot_subset([0] * 5 + [1] * 4, shots=2, seed=7)
    every = Lessons(tmp_path).keys
    assert [every[place] for place in chosen] == Lessons(tmp_path, shots=2, seed=7).keys


@pytest.mark.parametrize(
    ("names", "shots", "message"),
    [
        (["a", "b"], 3, "'shots' must be at most the images of each class, got 3 and class 'a'"),
        (["a", "b"], 0, "'shots' must be at least 1, got 0"),
        (["Black_Tern", "black  tern"], None, "'Black_Tern' and 'black  tern' read the same"),
    ],
)
def test_classes_that_will_not_do_are_named(tmp_path, names, shots, message):
    save_classes(tmp_path, **dict.fromkeys(names, 2))
    with pytest.raises(ValueError, match=message):
        Lessons(tmp_path, shots)


def test_an_empty_class_folder_is_an_error_and_a_hidden_one_is_none(tmp_path):
    save_classes(tmp_path, a=1)
    (tmp_path / ".cache").mkdir()
    assert ["a"] == Lessons(tmp_path).names
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="images in every class folder, and 'empty' has none"):
        Lessons(tmp_path)


def test_no_folder_and_no_class_folder_are_errors(tmp_path):
    with pytest.raises(ValueError, match="'source' must be an existing folder"):
        Lessons(tmp_path / "absent")
    with pytest.raises(ValueError, match="'source' must hold images in one folder per class"):
        Lessons(tmp_path)


def test_an_unreadable_image_is_left_out_and_with_strict_an_error(tmp_path):
    save_classes(tmp_path, a=2, b=1)
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    lessons = Lessons(tmp_path)
    [skipped] = lessons.unreadable()
    assert "a/1.png" == skipped.source and "is not a readable image" in skipped.reason
    assert [0, 1] == lessons.pictures([skipped], 16, False).labels
    with pytest.raises(UnreadableImageError, match=r"1\.png' is not a readable image"):
        lessons.unreadable(strict=True)
    (tmp_path / "b" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a readable image of every class, and of 'b' .* none"):
        lessons.unreadable()


def test_prompts_have_single_spaces_and_no_trailing_one():
    assert ["a photo of a <class_0> sea bird", "a photo of a <class_1> sea bird"] == Words(
        " sea  bird "
    ).prompts(2)
    assert ["a photo of a <class_0>"] == Words().prompts(1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"metaclass": None}, "'metaclass' must be a string, got None"),
        ({"metaclass": 3}, "'metaclass' must be a string, got 3"),
        ({"metaclass": "<bird>"}, "'metaclass' must be plain words without < and >"),
        ({"initial_token": 3}, "'initial_token' must be a string, got 3"),
        ({"initial_token": " "}, "'initial_token' must be one word, or None"),
    ],
)
def test_words_that_are_none_are_refused(words, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Words(**words)


@pytest.fixture
def tokenizer():
    return load_tokenizer(tiny_spec("translate"))


def test_new_words_start_from_the_metaclass_or_object_or_the_word_given(tokenizer):
    first = {letter: tokenizer.convert_tokens_to_ids(letter) for letter in ("b", "o", "x</w>")}
    for words, letter in (
        (Words("bird"), "b"),
        (Words(), "o"),
        (Words("bird", "x"), "x</w>"),
    ):
        assert first[letter] == words.check(load_tokenizer(tiny_spec("translate")), 2)


def test_words_that_the_model_cannot_read_are_refused(tokenizer):
    with pytest.raises(ValueError, match="'initial_token' must be one token .* 'bird' as 4: b i r"):
        Words("bird", "bird").check(tokenizer, 1)
    with pytest.raises(ValueError, match="'metaclass' must fit into a prompt of 77 tokens"):
        Words("bird " * 30).check(tokenizer, 1)
    with pytest.raises(ValueError, match="'base' cannot learn .* a token <class_0> already"):
        Words("bird").check(tokenizer, 1)  # it has it from the line before


def test_a_tokenizer_loads_without_its_model(tmp_path):
    folder = shutil.copytree(model_folder("translate"), tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert 77 == load_tokenizer(replace(tiny_spec("translate"), model=str(folder))).model_max_length
