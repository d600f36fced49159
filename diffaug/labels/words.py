"""The words that stand for a class in a prompt, from its name.

The name of a class is its folder, and its number; the words are what a model reads. A folder's name
often has more in it than words: ``001.Black_footed_Albatross``, ``n02085620-Chihuahua``.
"""

import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

#: How many classes a message names.
NAMED = 5
_WORDNET = re.compile(r"(?<![^\W_])n\d{8}(?![^\W_])")
#: A number in front of a name, and what stands between them.
_NUMBERED = re.compile(r"\(?(\d+)(\s*[.:)_-]\s*|\s+)(?=\S)")
#: 'class 3' says nothing about what is in the image; nor does 'c3', if all classes are like it.
_COUNTED = re.compile(r"(class|cls|label|category|id|target|group|c)\W*\d+", re.IGNORECASE)
_HASH = re.compile(r"(?=(.*\d){2})[0-9a-f]{8}[0-9a-f-]*")
_SEPARATORS = " _-.,:"


def clean_name(name: str) -> str:
    """Turn a class's name, or its folder's, into plain text.

    Underscores and runs of white space become one space, and ``%2F`` becomes a slash.

    Example:
        >>> clean_name(" Black_footed  Albatross"), clean_name("AC%2FDC")
        ('Black footed Albatross', 'AC/DC')
    """
    return _spaced(unquote(name))


def _spaced(text: str) -> str:
    return " ".join(text.replace("_", " ").split())


def spelling(name: str) -> str:
    """Return a form that is the same for all ways to write the name of a class.

    These differences do not count: upper and lower case; spaces and underscores; composed and
    decomposed letters of Unicode (file systems differ); ``%2F`` in a folder's name and a slash.

    Example:
        >>> spelling("AC%2FDC_live") == spelling("ac/dc Live")
        True
    """
    return unicodedata.normalize("NFC", clean_name(name).casefold())


def words_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the words of each class for a prompt, without what is there to number the classes.

    WordNet ids are dropped, and so are leading numbers that index the classes; see
    :func:`_indexed`. A name of which nothing else is left stays as it is.

    Args:
        names: of all classes: a leading number is an index only if others have one, too.

    Example:
        >>> words_of(["001.ak47", "002.american-flag"]), words_of(["7-up", "cola", "747"])
        (('ak47', 'american-flag'), ('7-up', 'cola', '747'))
        >>> words_of(["n02085620-Chihuahua", "n01443537"])
        ('Chihuahua', 'n01443537')
    """
    plain = [_without_ids(unquote(name)) for name in names]
    indexed = _indexed(plain)
    words = []
    for index, (text, name) in enumerate(zip(plain, names, strict=True)):
        if index in indexed:
            text = _NUMBERED.sub("", text, count=1)
        if text != unquote(name):
            text = text.strip(_SEPARATORS)
        words.append(_spaced(text) or clean_name(name))
    return tuple(words)


def without_words(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the names of classes whose words tell a model nothing: numbers, ids and hashes.

    Args:
        names: of all classes.
        words: what :func:`words_of` makes of them.

    Example:
        >>> names = ["1", "A380", "n01443537", "class_3"]
        >>> without_words(names, words_of(names))
        ['1', 'n01443537', 'class_3']
    """
    only_counted = all(map(_COUNTED.fullmatch, words))
    bare = [not any(map(str.isalpha, _without_ids(text))) for text in words]
    # '747' beside 'A380' is a name.
    most = 2 * sum(bare) > len(names)

    def is_wordless(text: str, is_bare: bool) -> bool:
        if is_bare:
            counts = text.isdecimal() and (text[0] == "0" or int(text) <= len(names))
            return most or counts or not any(map(str.isdecimal, _WORDNET.sub("", text)))
        if match := _COUNTED.fullmatch(text):
            return only_counted or match[1].casefold() != "c"
        return _HASH.fullmatch(text.casefold()) is not None

    return [
        name
        for name, text, is_bare in zip(names, words, bare, strict=True)
        if is_wordless(text, is_bare)
    ]


def words_in(names: Sequence[str], stacklevel: int) -> tuple[str, ...]:
    """Return the words of each class, and warn of names that have none."""
    words = words_of(names)
    if wordless := without_words(names, words):
        warnings.warn(
            f"'class_names' has no words for {len(wordless)} of {len(words)} classes, such as "
            f"{named(wordless)}, and the model reads these names as they are; give a mapping of "
            "each name to its words ('--class-names FILE' on the command line).",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
    return words


def _without_ids(text: str) -> str:
    """Drop WordNet's ids, which look like n02085620."""
    rest = _WORDNET.sub("", text)
    return text if rest == text else rest.strip(_SEPARATORS)


def _indexed(texts: Sequence[str]) -> set[int]:
    """Return which texts begin with a number that is there to index the classes.

    A number may be a part of the name, as in '7-up', '2 CV' or '737-200'. It is an index if more
    than half of the classes have one with the same sign behind it, no two the same one, and

    - they have leading zeros and one width (001.ak47), or
    - a full stop, a colon or a bracket follows (1. Eczema), or
    - they count the classes from 0 or 1 (0_cat, 1_dog), and without them no two are the same.
    """
    groups: dict[str, dict[int, tuple[str, str]]] = {}
    for index, text in enumerate(texts):
        if match := _NUMBERED.match(text):
            sign = match[2].strip() or " "
            groups.setdefault(sign, {})[index] = (match[1], text[match.end() :])
    for sign, group in groups.items():
        digits = [number for number, _ in group.values()]
        numbers = sorted(map(int, digits))
        if 2 * len(group) <= len(texts) or len(set(numbers)) < len(numbers):
            continue
        one_width = len(set(map(len, digits))) == 1
        padded = one_width and len(digits[0]) > 1 and any(text[0] == "0" for text in digits)
        # '5.56 rifle' and '1.5 inch' are no list.
        listed = sign in ".:)" and not any(rest[0].isdigit() for _, rest in group.values())
        rests = {spelling(rest) for _, rest in group.values()}
        counting = numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
        if padded or listed or (counting and len(rests) == len(numbers)):
            return set(group)
    return set()


def named(names: Sequence[Any]) -> str:
    """Name some of several classes."""
    more = len(names) - NAMED
    listed = ", ".join(map(repr, names[:NAMED]))
    return f"{listed} and {more} more" if more > 0 else listed
