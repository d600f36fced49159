"""The prompt of each class: a learned token or words, and the metaclass."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from diffaug.backends import finetuned, presets
from diffaug.backends.spec import ModelSpec
from diffaug.labels.class_names import twins
from diffaug.labels.words import clean_name, spelling, words_in
from diffaug.transforms.strategies import Strategy


def class_prompts(
    names: Sequence[str],
    class_names: Any,
    strategy: Strategy,
    metaclass: str,
    model: ModelSpec | None,
) -> tuple[str, ...]:
    """Return the prompt of each class: with its token where the strategy uses learned ones.

    Warn of a model that has learned nothing, and of names that are no words.

    Args:
        names: of the classes, distinct.
        class_names: the argument that they are from; a mapping has their words.
        strategy: says which parts of a fine-tuned model are used.
        metaclass: what all classes are; "" for that of the fine-tuned model.
        model: as it was given; None for a backend that has none.

    Raises:
        TypeError, ValueError: a word is not text, two classes have the same words, or the model has
            not learned a class.
    """
    if not isinstance(metaclass, str):
        raise TypeError(f"'metaclass' must be a string, got {metaclass!r}.")
    given = _given_words(class_names) if isinstance(class_names, Mapping) else None
    learned = finetuned.find(model) if model else None
    if learned is not None:
        metaclass = metaclass or learned.metaclass
    if learned is not None and strategy.model != "none":
        subjects = tuple(learned.token(name) for name in names)
    else:
        if model is not None and strategy.model != "none":
            warnings.warn(
                f"'{presets.name_of(model.model)}' has learned none of the classes; fine-tune it "
                "first ('diffaug finetune'), or choose strategy='real-mix', which needs no "
                "fine-tuning.",
                UserWarning,
                stacklevel=4,
            )
        subjects = given or words_in(names, stacklevel=4)
        _check_twins(names, subjects)
    return tuple(finetuned.class_prompt(subject, metaclass.strip()) for subject in subjects)


def _given_words(class_names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words that a mapping gives each class."""
    for name, words in class_names.items():
        if not isinstance(words, str):
            raise TypeError(
                f"'class_names' must map each class to its words, got {words!r} for {name!r}; "
                "give list(...) of it for the names alone."
            )
        if not words.strip():
            raise ValueError(
                f"'class_names' must have words for every class, got {words!r} for {name!r}."
            )
    return tuple(" ".join(words.split()) for words in class_names.values())


def _check_twins(names: Sequence[str], words: Sequence[str]) -> None:
    """Raise where two classes have the same words: no prompt could tell them apart.

    Warn where only capitals differ, which most models read alike.
    """
    for earlier, later in twins(words, spelling):
        if spelling(names[earlier]) == spelling(names[later]):
            continue  # it was noticed when the names were checked
        got = f"{names[earlier]!r} and {names[later]!r}"
        if clean_name(words[earlier]) == clean_name(words[later]):
            raise ValueError(
                f"'class_names' must differ in a prompt, and {got} are both {words[later]!r} "
                "there; give a mapping of each name to words of its own."
            )
        warnings.warn(
            f"'class_names' has words for {got} that a model reads alike, {words[earlier]!r} and "
            f"{words[later]!r}; it makes the same images for both classes.",
            UserWarning,
            stacklevel=5,
        )
