"""The card of a set: README.md for people and Hugging Face, croissant.json for other readers.

Both follow from the manifest and ``run.json`` alone, so a run that was killed writes the same
bytes when it is resumed.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffaug.backends.presets import PRESETS
from diffaug.offline.contents import Contents, contents_of, digest, meaning
from diffaug.offline.manifest import MANIFEST, RUN, write_file

CARD, CROISSANT = "README.md", "croissant.json"
#: The files of a set beside its images: no class can be called so.
FILES = frozenset({MANIFEST, RUN, CARD, CROISSANT})
#: Whoever removes this line keeps the card as it is.
OURS = "<!-- diffaug writes this file anew when the set changes; without this line it does not. -->"
#: Prompts, and classes, that a card lists.
PROMPTS, CLASSES = 30, 1000
#: Hugging Face's groups of sizes.
_SIZES = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
_MEDIA = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
_CROISSANT_TYPES = {"bool": "sc:Boolean", "int": "sc:Integer", "float": "sc:Float"}


def write_card(folder: Path, *, anew: bool = False) -> None:
    """Write the card of a finished set, unless it is the user's own.

    Unless ``anew`` is set, one that is up to date stays, which takes less time.
    """
    if not anew and _states(folder) == digest(folder) and (folder / CARD).exists():
        return
    contents = contents_of(folder)
    if _is_ours(folder / CARD):
        write_file(folder, CARD, card(contents).encode())
    # Last, since it holds the digest by which the next run sees that both are up to date.
    text = json.dumps(croissant(contents), ensure_ascii=False, indent=2) + "\n"
    write_file(folder, CROISSANT, text.encode())


def _states(folder: Path) -> str | None:
    """Return the digest of the manifest that a card was written for."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        description = json.loads((folder / CROISSANT).read_text(encoding="utf-8"))
        return str(description["distribution"][0]["sha256"])
    return None


def _is_ours(path: Path) -> bool:
    """Return whether a card may be written: there is none, or it is one that we wrote."""
    try:
        return OURS in path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return True


def card(contents: Contents, *, paths: Sequence[str] = (), code: str = "") -> str:
    """Write the text of README.md.

    Args:
        contents: of the set.
        paths: of the files that hold the images; by default those of a set.
        code: how to read them.
    """
    title = f"{contents.source}, augmented"
    paths = paths or [MANIFEST, *(f"**/*{suffix}" for suffix in contents.suffixes)]
    size = next((name for most, name in _SIZES.items() if contents.images < most), "n>1M")
    front = [
        "---",
        f"pretty_name: {_quoted(title)}",
        "task_categories:",
        "- image-classification",
        "size_categories:",
        f"- {size}",
        "tags:",
        *(f"- {tag}" for tag in ("synthetic", "diffaug", "image", "data-augmentation")),
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path:",  # else a class called 'test' would be a split
        *(f"    - {_quoted(path)}" for path in paths),
        "---",
        OURS,
    ]
    loading = [f"## Load it\n\n```python\n{code}\n```"] if code else _loading(contents)
    sections = (_classes, _prompts, _models, _columns, _marks)
    rest = (part for section in sections for part in section(contents))
    text = [f"# {_cell(title)}", *_about(contents), *loading, *rest]
    return "\n".join(front) + "\n\n" + "\n\n".join(text) + "\n"


def _about(contents: Contents) -> list[str]:
    made = ", ".join(
        f"{count} {'copies of originals' if name == 'original' else f'by {_cell(name)}'}"
        for name, count in sorted(contents.methods.items())
    )
    kept = f" A filter has dropped {contents.dropped} of them: `kept` is false." * (
        contents.dropped > 0
    )
    standing = f" Of {contents.fallbacks}, the original stands in." * (contents.fallbacks > 0)
    return [
        f"{contents.images} images ({made}), made by diffaug from "
        f"`{_cell(contents.source)}` to train image classifiers. {contents.synthetic} of them are "
        f"synthetic.{kept}{standing}",
        "**Do not evaluate on this set.** Its images come from the images that it was made from: "
        "use it for training only, and evaluate on photographs that no image here was made from.",
    ]


def _loading(contents: Contents) -> list[str]:
    if contents.labels_are_classes:
        names = json.dumps(contents.classes, ensure_ascii=False)
        label = (
            f"\nnames = {names}\n"
            'data = data.cast_column("label", ClassLabel(names=names))  # numbers for the names'
        )
    else:
        label = ""
    kept = '\ndata = data.filter(lambda kept: kept is not False, input_columns="kept")'
    imports = "ClassLabel, load_dataset" if label else "load_dataset"
    soft = (
        " Labels here are soft: an image has something of the class of its source, too. diffaug "
        "gives them as `GeneratedDataset(folder)`, and so does `diffaug export --format parquet`."
    )
    return [
        "## Load it",
        "```python\n"
        f"from datasets import {imports}\n\n"
        'data = load_dataset("path/of/this/folder", split="train")  # or its name on the Hub'
        f"{kept if contents.dropped else ''}{label}\n```",
        "With diffaug: `GeneratedDataset(folder)`." + soft * contents.soft,
    ]


def _classes(contents: Contents) -> list[str]:
    if not contents.labels_are_classes:
        return []
    shown = list(contents.per_class.items())[:CLASSES]
    rows = [f"| {number} | {_cell(name)} | {n} |" for number, (name, n) in enumerate(shown)]
    more = [f"And {len(contents.per_class) - CLASSES} more."] * (len(contents.per_class) > CLASSES)
    table = ["| number | class | images |", "| --: | --- | --: |", *rows]
    return ["## Classes", "\n".join(table), *more]


def _prompts(contents: Contents) -> list[str]:
    if not contents.prompts:
        return []
    # Of equal counts the first by name, so that the order of the rows does not matter.
    ranked = sorted(contents.prompts.items(), key=lambda item: (-item[1], item[0]))
    rows = [f"| {_cell(prompt)} | {count} |" for prompt, count in ranked[:PROMPTS]]
    more = [f"And {len(ranked) - PROMPTS} more."] * (len(ranked) > PROMPTS)
    return ["## Prompts", "\n".join(["| prompt | images |", "| --- | --: |", *rows]), *more]


def _models(contents: Contents) -> list[str]:
    lines = []
    for model in sorted(contents.models):
        preset = PRESETS.get(model)
        terms = preset.licence if preset else "see its card"
        on_hub = preset and not Path(preset.spec.model).is_absolute()
        found = f" ({preset.spec.model})" if preset and on_hub else ""
        lines.append(f"- `{_cell(model)}`{found}; licence: {terms}")
    text = "The licence of the images that it was made from holds for this set, too."
    models = ["\n".join(lines)] if lines else []
    return ["## Model and licence", *models, text]


def _columns(contents: Contents) -> list[str]:
    methods = sorted(contents.methods.keys() - {"original"})
    rows = [f"| `{name}` | {meaning(name, methods)} |" for name in contents.types]
    return [
        "## Columns",
        "\n".join(["| column | what it holds |", "| --- | --- |", *rows]),
    ]


def _marks(contents: Contents) -> list[str]:
    where = (
        "Files of synthetic images have IPTC's DigitalSourceType in their XMP metadata."
        if contents.mark
        else "The files have no mark in their metadata."
    )
    return [
        "## Marks",
        f"The columns `synthetic` and `digital_source_type` say which images are synthetic. {where}"
        " The pixels have no watermark, which a classifier would learn.",
    ]


def croissant(contents: Contents) -> dict[str, Any]:
    """Describe a set in the vocabulary of MLCommons Croissant 1.0."""
    methods = sorted(contents.methods.keys() - {"original"})
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"images/{name}",
            "name": name,
            "description": meaning(name, methods),
            "dataType": _CROISSANT_TYPES.get(kind, "sc:Text"),
            "source": {"fileObject": {"@id": "manifest"}, "extract": {"column": name}},
        }
        for name, kind in contents.types.items()
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": f"{contents.source}, augmented",
        "description": f"{contents.images} images made by diffaug from {contents.source}, to train "
        "image classifiers; not to evaluate them.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "manifest",
                "name": "manifest",
                "description": "A row for each image.",
                "contentUrl": MANIFEST,
                "encodingFormat": "application/jsonlines",
                "sha256": contents.sha256,
            },
            {
                "@type": "cr:FileSet",
                "@id": "files",
                "name": "files",
                "description": "The images, in a folder for each class.",
                "encodingFormat": sorted({_MEDIA.get(s, "image/*") for s in contents.suffixes}),
                "includes": [f"*/*{suffix}" for suffix in contents.suffixes],
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "description": "A record for each image.",
                "field": fields,
            }
        ],
    }


#: As the specification has it; keys that are not in it are those of schema.org.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # YAML reads it, too


def _cell(text: str) -> str:
    """Write a text so that it breaks no table."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown.replace("\\", "\\\\").replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
