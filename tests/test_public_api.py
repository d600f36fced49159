"""What the package exports, and that each name explains itself."""

import ast
import inspect
import re
import subprocess
import sys
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


def test_the_stub_exports_what_it_imports():
    """Type checkers take __all__ from the stub; the package takes its names from the imports."""
    body = ast.parse(Path(diffaug.__file__).with_suffix(".pyi").read_text()).body
    exported = [node.value for node in body if isinstance(node, ast.Assign)]
    assert [diffaug.__all__] == [ast.literal_eval(names) for names in exported]


def run(code):
    """Return what a program prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    return done.stdout.split()


def test_a_name_is_imported_when_it_is_first_used():
    code = """
import sys, diffaug
assert set(diffaug.__all__) <= set(dir(diffaug))
assert not hasattr(diffaug, "DiffuseMax") and "torch" not in sys.modules
print("DiffuseMix" in vars(diffaug), diffaug.DiffuseMix is vars(diffaug)["DiffuseMix"])
print("torch" in sys.modules)
"""
    assert ["False", "True", "True"] == run(code)


def test_every_way_of_importing_gives_the_same():
    code = """
import diffaug.finetuning.run, diffaug.previews
from diffaug import *
from diffaug import finetune, functional, preview
import diffaug
assert all(globals()[name] is getattr(diffaug, name) for name in diffaug.__all__)
print(finetune.__module__, functional.__name__, preview.__module__)
"""
    names = ["diffaug.finetuning.run", "diffaug.functional", "diffaug.previews.jobs"]
    assert names == run(code)


def test_a_name_that_does_not_exist_is_named():
    with pytest.raises(AttributeError, match="'diffaug' has no attribute 'DiffuseMax'"):
        diffaug.DiffuseMax  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'DiffuseMax' from 'diffaug'"):
        from diffaug import DiffuseMax  # noqa: F401


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
