"""What the package exports, and that each name explains itself."""

import inspect
import re
from pathlib import Path

import pytest

import diffaug

API = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
CALLABLES = [name for name in diffaug.__all__ if not inspect.ismodule(getattr(diffaug, name))]
#: Protocols, bases and records are explained where they are used.
WITHOUT_EXAMPLE = {"Backend", "ClassPairs", "Generated", "GenerationRequest", "ImageTransform"}
WITHOUT_EXAMPLE |= {"Finished", "Summary", "WarmSummary"}


def test_names_are_sorted_and_exist():
    assert sorted(diffaug.__all__) == diffaug.__all__
    assert set(diffaug.__all__) <= set(dir(diffaug))


@pytest.mark.parametrize("name", diffaug.__all__)
def test_every_name_is_in_the_documentation(name):
    assert re.search(rf"\b{name}\b", API), f"add {name} to docs/api.md"


@pytest.mark.parametrize("name", CALLABLES)
def test_every_name_starts_with_a_sentence(name):
    first = inspect.getdoc(getattr(diffaug, name)).split("\n\n")[0]
    assert first.endswith(".") and len(first) > 15


@pytest.mark.parametrize("name", sorted(set(CALLABLES) - WITHOUT_EXAMPLE))
def test_every_name_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(diffaug, name))


@pytest.mark.parametrize("name", CALLABLES)
def test_every_argument_is_explained(name):
    exported = getattr(diffaug, name)
    if name in ("Backend", "ImageTransform"):
        return
    parameters = set(inspect.signature(exported).parameters) - {"args", "kwargs"}
    described = inspect.getdoc(exported)
    assert [] == sorted(one for one in parameters if not re.search(rf"\b{one}\b", described))


@pytest.mark.parametrize(
    "name", ["DiffMix", "DiffuseMix", "PromptEdit", "HalfConcat", "FractalBlend"]
)
def test_transforms_tell_of_label_shape_errors_and_source(name):
    text = inspect.getdoc(getattr(diffaug, name))
    assert "label" in text.split("Args:")[0]
    for section in ("Args:", "Shape:", "Raises:", "Example:", "Reference:"):
        assert section in text
