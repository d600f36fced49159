"""The rules that keep the package easy to find one's way in, held against its source."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import diffaug

PACKAGE = Path(diffaug.__file__).parent

#: The floors of the house, from the ground up: each imports only from those before it.
FLOORS = """
errors arguments checked seeds files untrusted progress ahead switches training_graphs
file_warnings pil_modes image_files images
folders functional fractals fractal_folder photos
labels backends transforms offline datasets export filtering finetuning previews comparison cli
""".split()

#: Who may import what is outside: a module, or a package with all its modules.
OWNERS = {
    "PIL": {"images", "image_files", "pil_modes"},
    "torchvision.tv_tensors": {"images"},
    "diffusers": {"backends.loading", "backends.named_classes", "finetuning"},
    "transformers": {"backends.loading", "filtering.clip"},
    "peft": {"backends.adapters", "finetuning"},
    "accelerate": {"backends.loading", "finetuning"},
    "kornia": {"filtering.similarity"},
    "huggingface_hub": {"backends.hub"},
    "ray": {"offline.ray"},
    "fsspec": {"offline.trees"},
    "filelock": {"offline.destination", "backends.process.client"},
    "tqdm": {"progress"},
    "jinja2": {"previews.page"},
    "typer": {"cli"},
    "rich": {"cli"},
    "socket": {"backends.process"},
    "subprocess": {"backends.process.client"},
    # Trainings run in several processes; the client knows whether it is in a worker; a lock keeps
    # the counts of a seeded dataset.
    "multiprocessing": {"comparison.workers", "backends.process.client", "datasets.draws"},
    "pickle": set(),
}
HEAVY = "diffusers transformers kornia peft accelerate ray typer rich tqdm huggingface_hub".split()
#: What takes numbers already drawn, or a generator.
WITHOUT_GLOBAL_DRAWS = [
    *(
        "functional",
        "fractals",
        "pil_modes",
        "image_files",
        "images",
        "labels",
        "transforms",
        "backends.pipeline",
        "backends.batches",
    ),
]
RANDOM = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal", "random_"}
FORBIDDEN = {"torch.load", "pickle.load", "pickle.loads", "eval", "exec"}


def name_of(path: Path) -> str:
    """Name a module by its path below the package: ``backends.hub``; a package by its own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
#: Without the front door, through which everything is imported, and the back door.
MODULES = [name for name in SOURCES if name not in ("", "__main__")]


def imports(source: str) -> Iterator[str]:
    """Yield the dotted name of everything imported, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("require"):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def modules_imported(source: str) -> set[str]:
    """Return the modules of the package that one imports."""
    found = set()
    for dotted in imports(source):
        name = dotted.removeprefix("diffaug.")
        while name != dotted and name not in SOURCES and "." in name:
            name = name.rpartition(".")[0]
        if name in MODULES:
            found.add(name)
    return found


def floor(name: str) -> str:
    """Return the package that a module is in, or the module itself on the ground."""
    return name.partition(".")[0]


def upward(name: str, source: str) -> list[str]:
    """Return the modules that one imports although they are on floors above it."""
    below = {floor(name), *FLOORS[: FLOORS.index(floor(name))]}
    return sorted(other for other in modules_imported(source) if floor(other) not in below)


def circle(sources: dict[str, str]) -> list[str]:
    """Return the modules of a circle of imports, none if there is no circle."""
    try:
        TopologicalSorter({n: modules_imported(s) - {n} for n, s in sources.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def trespasses(name: str, source: str) -> list[str]:
    """Return what a module imports that others own."""
    return [
        dotted
        for dotted in imports(source)
        for outside, owners in OWNERS.items()
        if f"{dotted}.".startswith(f"{outside}.")
        and not any(f"{name}.".startswith(f"{owner}.") for owner in owners)
    ]


def blemishes(name: str, source: str) -> list[str]:
    """Return calls and statements that no module of the package may hold."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            found.append(f"assert in line {node.lineno}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN or (called == "print" and floor(name) != "cli"):
                found.append(f"{called} in line {node.lineno}")
            keywords = {keyword.arg for keyword in node.keywords if not _is_false(keyword.value)}
            found += sorted(keywords & {"trust_remote_code", "custom_pipeline"})
    return found


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def global_draws(source: str) -> list[str]:
    """Return the draws that do not say which generator they use."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in RANDOM
        and "generator" not in {keyword.arg for keyword in node.keywords}
    ]


def test_every_module_has_its_floor():
    assert sorted(FLOORS) == sorted({floor(name) for name in MODULES})


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_floors_below(name):
    assert [] == upward(name, SOURCES[name])


def test_no_module_imports_one_that_imports_it():
    assert [] == circle({name: SOURCES[name] for name in MODULES})


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_outside_has_one_owner(name):
    assert [] == trespasses(name, SOURCES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_forbidden_is_called(name):
    assert [] == blemishes(name, SOURCES[name])


@pytest.mark.parametrize("start", WITHOUT_GLOBAL_DRAWS)
def test_draws_name_their_generator(start):
    names = [name for name in MODULES if f"{name}.".startswith(f"{start}.")]
    assert names
    assert [] == [draw for name in names for draw in global_draws(SOURCES[name])]


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_is_short_enough_to_read_at_once(name):
    assert SOURCES[name].count("\n") <= 450


def test_no_module_is_a_drawer_for_odds_and_ends():
    words = {word for name in MODULES for word in name.split(".")}
    assert not {"utils", "common", "helpers", "misc"} & words


def test_no_package_or_module_bears_the_name_of_a_public_function():
    functions = {name for name in diffaug.__all__ if inspect.isfunction(getattr(diffaug, name))}
    assert not functions & {word for name in MODULES for word in name.split(".")}


def test_every_package_says_what_is_in_it():
    packages = [path for path in PACKAGE.rglob("*") if any(path.glob("*.py"))]
    assert all(ast.get_docstring(ast.parse(SOURCES[name_of(p / "__init__.py")])) for p in packages)


def test_contributing_shows_every_module_on_its_floor():
    table = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    shown = set()
    for row in re.findall(r"^\| (?:the ground|`.*/`) \|.*\|$", table, re.M):
        first, _, modules = row.strip("|").split("|")
        package = first.strip(" `").replace("/", ".") if "/" in first else ""
        shown |= {f"{package}{name}" for name in re.findall(r"`(\w+)`", modules)}
    packages = {name.rpartition(".")[0] for name in MODULES}
    assert shown == set(MODULES) - packages


def test_state_that_changes_lives_in_the_registry_and_what_a_process_inherited_with_the_ranks():
    writers = [
        name
        for name in MODULES
        for node in ast.walk(ast.parse(SOURCES[name]))
        if isinstance(node, ast.Global)
    ]
    assert {"backends.registry", "backends.ranks"} == set(writers)


def test_transforms_know_what_every_backend_is_and_no_concrete_one():
    known = {
        other
        for name in MODULES
        if floor(name) == "transforms"
        for other in modules_imported(SOURCES[name])
        if floor(other) == "backends"
    }
    seam = {"base", "finetuned", "presets", "registry", "request", "spec"}
    assert {f"backends.{name}" for name in seam} == known


def test_importing_loads_nothing_heavy_and_starts_nothing():
    code = """
import os, sys, threading
import torch, torchvision.transforms.v2
before, environment, loaded = threading.active_count(), dict(os.environ), set(sys.modules)
from diffaug import *
assert not torch.cuda.is_initialized()
assert threading.active_count() == before, threading.enumerate()
assert dict(os.environ) == environment
print(*sorted({name.split(".")[0] for name in set(sys.modules) - loaded}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    assert not set(HEAVY) & set(done.stdout.split())


@pytest.mark.parametrize("module", ["diffaug", "diffaug.cli"])
def test_the_doors_open_at_once(module):
    """Importing torch takes seconds; what needs it imports it where it is needed."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    assert not {"torch", "torchvision", "numpy", "PIL"} & set(done.stdout.split())


def test_the_checks_notice_what_they_are_for():
    assert ["fractals"] == upward("functional", "from diffaug.fractals import render")
    assert ["functional"] == upward("images", "def f():\n    from diffaug import functional")
    both = {"images": "from diffaug import files", "files": "import diffaug.images"}
    assert {"images", "files"} == set(circle(both))
    assert ["PIL.Image"] == trespasses("functional", "from PIL import Image")
    assert ["peft"] == trespasses("backends.cache", "def f():\n    require('peft')")
    assert 3 == len(blemishes("backends.cache", "assert 1\nprint(2)\ntorch.load('x')"))
    assert ["trust_remote_code"] == blemishes("backends.cache", "f(trust_remote_code=True)")
    assert ["torch.rand(3)"] == global_draws("torch.rand(3)\ntorch.rand(3, generator=g)")
