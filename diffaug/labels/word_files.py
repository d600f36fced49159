"""Files that give the words of classes: JSON, CSV, or lines with a tab."""

import csv
import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from diffaug.labels.words import named, spelling

_LINE_ENDS = re.compile(r"\r\n|\r|\n")


def read_words(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a file that gives words for classes: JSON, CSV, or lines with a tab.

    ``{"001.ak47": "rifle"}``, or ``001.ak47,rifle`` or ``001.ak47<TAB>rifle`` on each line. Empty
    lines and lines that begin with ``#`` count for nothing. Text is UTF-8.

    Raises:
        ValueError: it cannot be read, a line is none of these, or a class is there twice.
    """
    text = _text(path)
    if text.lstrip().startswith(("{", "[")):
        pairs = _json_pairs(path, text)
    else:
        pairs = _line_pairs(path, text)
    if not pairs:
        raise ValueError(f"'class_names' must give words for classes, and '{path}' has no line.")
    seen: dict[str, str] = {}
    for name, _ in pairs:
        if (read := spelling(name)) in seen:
            raise ValueError(
                f"'class_names' must name each class once, and '{path}' has {seen[read]!r} and "
                f"{name!r}; remove one of them."
            )
        seen[read] = name
    return dict(pairs)


def _text(path: str | os.PathLike[str]) -> str:
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(
            f"'class_names' must be a file that can be read, got '{path}': "
            f"{error.strerror or error}."
        ) from error
    # Spreadsheets write either; each begins with a mark.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'class_names' must be a text file in UTF-8, and '{path}' is not; save it as UTF-8."
        ) from error


def _json_pairs(path: str | os.PathLike[str], text: str) -> list[tuple[str, str]]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise ValueError(f"'class_names' must be valid JSON in '{path}': {error}.") from error
    if not text.lstrip().startswith("{"):
        raise ValueError(
            f"'class_names' must be a JSON object in '{path}', which gives words by names, got a "
            'list; write {"owl": "barn owl"}.'
        )
    for name, words in pairs:
        if not isinstance(words, str):
            raise ValueError(
                f"'class_names' must give each class a string in '{path}', got {words!r:.60} for "
                f"{name!r}."
            )
    return [(name, words) for name, words in pairs]


def _line_pairs(path: str | os.PathLike[str], text: str) -> list[tuple[str, str]]:
    lines = [
        (number, line)
        for number, line in enumerate(_LINE_ENDS.split(text), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    # A name in quotes may hold a tab, but no file of one kind has one in its first line by chance.
    tabs = bool(lines) and "\t" in lines[0][1]
    pairs = []
    for number, line in lines:
        [cells] = csv.reader([line], delimiter="\t" if tabs else ",", skipinitialspace=True)
        if len(cells) != 2 or not cells[0].strip():
            expected = "'folder<TAB>words'" if tabs else "'folder,words' or 'folder<TAB>words'"
            raise ValueError(
                f"'class_names' must have {expected} on each line, and line {number} of '{path}' "
                f"is {line.strip()!r:.80}; put quotation marks around words with a comma."
            )
        pairs.append((cells[0].strip(), cells[1]))
    return pairs


def for_classes(
    words: Mapping[str, str],
    classes: Iterable[str],
    file: str | os.PathLike[str] | None = None,
) -> dict[str, str]:
    """Return the words of these classes, in their order; classes beside them are left out.

    So one file serves the subsets of a dataset, too.

    Args:
        words: by the names of classes, however these are spelt; see :func:`spelling`.
        classes: the names to look for.
        file: where the words are from, for errors.

    Raises:
        ValueError: a class has no words; the message names it, and what comes close.
    """
    by_spelling = {spelling(name): name for name in words}
    found: dict[str, str] = {}
    missing = []
    for name in classes:
        known = name if name in words else by_spelling.get(spelling(name))
        if known is None:
            missing.append(name)
        else:
            found[name] = words[known]
    if missing:
        close = difflib.get_close_matches(spelling(missing[0]), by_spelling, n=1)
        hint = f" (it has {by_spelling[close[0]]!r})" if close else ""
        raise ValueError(
            "'class_names' must give words for every class, and "
            + (f"'{file}' has none for " if file else "has none for ")
            + f"{named(missing)}{hint}; add the words of each."
        )
    return found
