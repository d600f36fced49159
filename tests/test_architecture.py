"""The rules that keep the package easy to find one's way in, held against its source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diffaug"

#: Dependency order: a module may import those before it, and no others.
ORDER = """
errors owner arguments paths images functional generation samples labels pairs collate strategies
fractals prompts learned presets weights noise loading switches pipelines wire server worker
serving cache registry image_transform transforms diffusemix diffmix batches warm manifest
provenance trees sources joint_transform datasets plans making augment_ray engines offline shards
augment scorers filtering denoising lessons training finetune gallery cli_app cli_options
cli_models cli
""".split()

#: Who may import what is outside.
OWNERS = {
    "PIL": {"images"},
    "torchvision.tv_tensors": {"images"},
    "diffusers": {"loading", "denoising", "training"},
    "transformers": {"loading", "scorers"},
    "peft": {"loading", "training"},
    "accelerate": {"loading", "training", "finetune"},
    "kornia": {"scorers"},
    "huggingface_hub": {"weights"},
    "ray": {"augment_ray"},
    "fsspec": {"trees"},
    "filelock": {"manifest", "worker"},
    "tqdm": {"offline", "warm", "filtering", "finetune"},
    "typer": {"cli", "cli_app", "cli_models", "cli_options"},
    "rich": {"cli_app", "cli_models"},
    "socket": {"server", "wire", "worker"},
    "subprocess": {"worker"},
    "multiprocessing": {"worker"},
    "pickle": set(),
}
HEAVY = "diffusers transformers kornia peft accelerate ray typer rich tqdm huggingface_hub".split()
RANDOM = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal", "random_"}
FORBIDDEN = {"torch.load", "pickle.load", "pickle.loads", "eval", "exec"}

SOURCES = {path.stem: path.read_text() for path in PACKAGE.glob("*.py")}
MODULES = [name for name in SOURCES if name not in ("__init__", "__main__")]


def imports(source):
    """Yield the dotted name of everything imported, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("require"):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def upward(name, source):
    """Return the modules that one imports although they stand at or below it in the order."""
    found = [dotted.split(".")[1] for dotted in imports(source) if dotted.startswith("diffaug.")]
    allowed = {*ORDER[: ORDER.index(name)], "__version__"}
    return [other for other in found if other not in allowed]


def trespasses(name, source):
    """Return what a module imports that others own."""
    return [
        dotted
        for dotted in imports(source)
        for outside, owners in OWNERS.items()
        if f"{dotted}.".startswith(f"{outside}.") and name not in owners
    ]


def blemishes(name, source):
    """Return calls and statements that no module of the package may hold."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            found.append(f"assert in line {node.lineno}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN or (called == "print" and name != "cli"):
                found.append(f"{called} in line {node.lineno}")
            keywords = {keyword.arg for keyword in node.keywords}
            found += sorted(keywords & {"trust_remote_code", "custom_pipeline"})
    return found


def global_draws(source):
    """Return the draws that do not say which generator they use."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in RANDOM
        and "generator" not in {keyword.arg for keyword in node.keywords}
    ]


def test_every_module_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_modules_above_it(name):
    assert [] == upward(name, SOURCES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_outside_has_one_owner(name):
    assert [] == trespasses(name, SOURCES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_forbidden_is_called(name):
    assert [] == blemishes(name, SOURCES[name])


@pytest.mark.parametrize(
    "name",
    [
        "functional",
        "fractals",
        "labels",
        "pairs",
        "collate",
        "pipelines",
        "transforms",
        "diffmix",
        "images",
    ],
)
def test_draws_name_their_generator(name):
    assert [] == global_draws(SOURCES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_is_short_enough_to_read_at_once(name):
    assert SOURCES[name].count("\n") <= 450


def test_no_module_is_a_drawer_for_odds_and_ends():
    assert not {"utils", "common", "base", "helpers", "misc"} & set(MODULES)


def test_state_that_changes_lives_in_the_registry_alone():
    users = [name for name in MODULES if "global " in SOURCES[name].replace("global generator", "")]
    writers = [
        name
        for name in users
        for node in ast.walk(ast.parse(SOURCES[name]))
        if isinstance(node, ast.Global)
    ]
    assert {"registry"} == set(writers)


def test_transforms_know_the_protocol_and_no_backend():
    assert not {"pipelines", "cache"} & {
        dotted.split(".")[1]
        for name in ("image_transform", "transforms", "diffusemix", "diffmix")
        for dotted in imports(SOURCES[name])
        if dotted.startswith("diffaug.")
    }


def test_importing_loads_nothing_heavy_and_starts_nothing():
    code = """
import os, sys, threading
import torch, torchvision.transforms.v2
before, environment, loaded = threading.active_count(), dict(os.environ), set(sys.modules)
import diffaug
assert not torch.cuda.is_initialized()
assert threading.active_count() == before, threading.enumerate()
assert dict(os.environ) == environment
print(*sorted({name.split(".")[0] for name in set(sys.modules) - loaded}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    assert not set(HEAVY) & set(done.stdout.split())


def test_the_checks_notice_what_they_are_for():
    assert ["cli"] == upward("images", "from diffaug.cli import main")
    assert ["functional"] == upward("images", "def f():\n    from diffaug import functional")
    assert ["PIL.Image"] == trespasses("functional", "from PIL import Image")
    assert ["peft"] == trespasses("cache", "def f():\n    require('peft')")
    assert 3 == len(blemishes("cache", "assert 1\nprint(2)\ntorch.load('x')"))
    assert ["trust_remote_code"] == blemishes("cache", "f(trust_remote_code=True)")
    assert ["torch.rand(3)"] == global_draws("torch.rand(3)\ntorch.rand(3, generator=g)")
