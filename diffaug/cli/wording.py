"""Messages in the words of the command line: options as they are typed, presets by name.

The library names an argument as Python does: ``'per_image' must be ...``, ``dtype='float32'``. Who
typed ``--per-image`` reads ``'--per-image' must be ...`` and ``--dtype float32``.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial

#: An argument's name in quotes is one before 'must', and after a word that says what to do with it.
_TO_DO = r"(?:(?<=\blower )|(?<=\bsmaller )|(?<=\braise )|(?<=\bset )|(?<=\bgive )|(?<=\bwithout ))"


def as_typed(text: str, options: Iterable[tuple[str, str]]) -> str:
    """Name options as they are typed.

    Args:
        text: a message of the library.
        options: the name in Python and the option of each that the command has.

    Example:
        >>> as_typed("'model_size' must be 8; set dtype='float32'.",
        ...          [("model_size", "--model-size"), ("dtype", "--dtype")])
        "'--model-size' must be 8; set --dtype float32."
    """
    for name, option in options:
        text = re.sub(rf"'{name}'(?= must\b)|{_TO_DO}'{name}'", f"'{option}'", text)
        # What shows the option already, in brackets behind it, stays as it is.
        value = rf"\b(?<!\.){name}=(?:'([^']*)'|(\w[\w.]*\w|\w))(?! \('--)"
        text = re.sub(value, partial(_given, option), text)
    return text


def _given(option: str, found: re.Match[str]) -> str:
    """Write an option with its value: a switch has none."""
    value = found[1] or found[2]
    if value in ("False", "None"):
        return f"no {option}"
    return option if value == "True" else f"{option} {value}"


def with_presets(text: str, typed: Sequence[str]) -> str:
    """Name models by their presets, unless the model's own id was typed.

    Args:
        text: a message of the library.
        typed: the words of the command line; of several presets of a model, the one there is meant.
    """
    presets = sys.modules.get("diffaug.backends.presets")  # without it, no model was named
    known = {} if presets is None else presets.PRESETS
    words = {part for word in typed for part in word.split("=")}
    for model in {preset.spec.model for preset in known.values()} - words:
        names = [name for name, preset in known.items() if preset.spec.model == model]
        name = next((name for name in names if name in words), names[0])
        text = text.replace(f"'{model}'", f"'{name}'")
    return text
