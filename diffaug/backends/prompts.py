"""Read prompts as a model does, before any image is made."""

import re
from collections.abc import Iterable
from typing import Any

from diffaug.arguments import shown
from diffaug.backends.adapters import add_tokens, embeddings_of
from diffaug.backends.hub import download
from diffaug.backends.loading import load_tokenizer, quiet, tokens_of
from diffaug.backends.model_files import components, read_index
from diffaug.backends.spec import ModelSpec

#: What a learned word looks like in a prompt.
_TOKEN = re.compile(r"<[^<>\s]+>")
#: Prompts that are remembered, to notice two that are one to the model.
_REMEMBERED = 100_000


class PromptReader:
    """What a tokenizer makes of the prompts that it is given.

    Args:
        model: its name for the messages.
        tokenizer: of the model, with the learned words.
    """

    def __init__(self, model: str, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._seen: dict[tuple[int, ...], str] = {}

    def check_words(self, prompts: Iterable[str]) -> None:
        """Raise for a ``<word>`` that the text encoder would silently read as letters.

        Raises:
            ValueError: the model has not learned it.
        """
        known = self._tokenizer.get_added_vocab()
        for prompt in prompts:
            unknown = [token for token in _TOKEN.findall(prompt) if token not in known]
            if unknown:
                raise ValueError(
                    f"'prompt' must use tokens that '{self._model}' has learned, got "
                    f"{unknown[0]!r} in {prompt!r}; use words that any text encoder knows."
                )

    def cut(self, prompts: Iterable[str]) -> str | None:
        """Return what to say about prompts that the model does not read to their end."""
        limit = self._tokenizer.model_max_length
        for prompt in prompts:
            over = len(tokens_of(prompt, self._tokenizer)) - limit
            if over > 0:
                return (
                    f"the model reads {limit} tokens of a prompt; of {prompt[:60]!r}... it does "
                    f"not see the last {over}."
                )
        return None

    def twins(self, prompts: Iterable[str]) -> str | None:
        """Return what to say about two prompts, of these and earlier ones, that are one to it.

        Capitals and spaces do not count: whoever writes these means the same.
        """
        limit = self._tokenizer.model_max_length
        for prompt in prompts:
            if not prompt or len(self._seen) >= _REMEMBERED:
                continue
            tokens = tokens_of(prompt, self._tokenizer)
            earlier = self._seen.setdefault((*tokens[: limit - 1], tokens[-1]), prompt)
            if _plain(earlier) != _plain(prompt):
                return (
                    f"{shown(earlier)} and {shown(prompt)} are the same to '{self._model}', which "
                    "makes the same images of both"
                )
        return None


def check_prompts(spec: ModelSpec | None, prompts: Iterable[str]) -> None:
    """Read all prompts of a run before its first image; only the tokenizer is loaded.

    Raises:
        ValueError: the model has not learned a ``<word>``, or two prompts are one to it.
        ModelError: the model cannot be used.
    """
    prompts = list(dict.fromkeys(prompts))
    if (
        spec is None
        or not prompts
        or "tokenizer" not in components(read_index(download(spec)), spec)
    ):
        return
    tokenizer = load_tokenizer(spec)
    with quiet():
        _check_prompts(spec, tokenizer, prompts)


def _check_prompts(spec: ModelSpec, tokenizer: Any, prompts: list[str]) -> None:
    for adapter in spec.adapters:
        add_tokens(tokenizer, list(embeddings_of(adapter)))
    reader = PromptReader(spec.model, tokenizer)
    reader.check_words(prompts)
    if same := reader.twins(prompts):
        raise ValueError(f"'prompt' must differ to the model, and {same}; use other words.")


def _plain(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
