"""The new words that a model learns, one for each class, and the word that they start from."""

from typing import Any

from diffaug.backends.adapters import add_tokens
from diffaug.backends.finetuned import class_prompt
from diffaug.finetuning.settings import Settings


def class_tokens(count: int) -> list[str]:
    """Return a new token for each class."""
    return [f"<class_{index}>" for index in range(count)]


def initial_token_id(tokenizer: Any, settings: Settings) -> int:
    """Return the number of the token that all new ones start from.

    It is the initial token, or else the first token of the metaclass or of "object".

    Raises:
        ValueError: the initial token is more than one token of this model.
    """
    text = settings.initial_token or settings.metaclass or "object"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if settings.initial_token and len(ids) != 1:
        parts = " ".join(tokenizer.convert_ids_to_tokens(ids))
        raise ValueError(
            f"'initial_token' must be one token of the base model, and it reads "
            f"{settings.initial_token!r} as {len(ids)}: {parts}; choose a commoner word."
        )
    return int(ids[0])


def check_words(tokenizer: Any, settings: Settings, count: int) -> None:
    """Check that a model can learn so many classes; the tokenizer gets their tokens.

    Raises:
        ValueError: the initial token is more than one token, the model has one of the new tokens
            already, or a prompt is too long for it.
    """
    initial_token_id(tokenizer, settings)
    tokens = class_tokens(count)
    try:
        add_tokens(tokenizer, tokens)
    except ValueError as error:
        raise ValueError(f"'base' cannot learn these classes: {error}") from error
    prompt = class_prompt(tokens[0], settings.metaclass)
    length = len(tokenizer(prompt, verbose=False)["input_ids"])
    if length > tokenizer.model_max_length:
        raise ValueError(
            f"'metaclass' must fit into a prompt of {tokenizer.model_max_length} tokens, and "
            f"with it there are {length}; shorten it."
        )
