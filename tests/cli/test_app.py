"""The program: its help, completion in the shell, and what it says on stderr while it works."""

import logging
import os
import shlex
import subprocess
import sys
import warnings

import pytest
import tiny_pipelines
import typer
from PIL import Image
from typer.testing import CliRunner

from diffaug.cli.app import SECTIONS, err
from diffaug.cli.commands import app
from diffaug.cli.wording import as_typed, with_presets

PROGRAM = typer.main.get_command(app)
runner = CliRunner()


def test_every_command_is_in_the_help_with_its_whole_sentence():
    shown = " ".join(runner.invoke(app, ["--help"]).stdout.split())
    assert set(PROGRAM.commands) <= {name for names in SECTIONS.values() for name in names}
    for name, command in PROGRAM.commands.items():
        assert f" {name} {command.help.partition(chr(10) * 2)[0]}" in shown


@pytest.mark.parametrize("name", PROGRAM.commands)
def test_every_command_has_an_example_that_it_takes(name):
    """An example is a line to copy: a wrong option or a missing argument raises here."""
    example = PROGRAM.commands[name].epilog
    assert example.startswith(f"Example: diffaug {name}") and len(example) < 78
    words = shlex.split(example.removeprefix("Example: diffaug "))
    PROGRAM.commands[name].make_context(name, words[1:])
    assert example in runner.invoke(app, [name, "--help"]).stdout


def completed(line):
    """Return what bash is offered for the last word of a command line."""
    environment = {"_DIFFAUG_COMPLETE": "complete_bash", "COMP_WORDS": line}
    done = subprocess.run(
        [sys.executable, "-m", "diffaug"], capture_output=True, text=True, timeout=300,
        env=os.environ | environment | {"COMP_CWORD": str(line.count(" "))},
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("diffaug aug", ["augment"]),
        ("diffaug augment --per", ["--per-image"]),
        ("diffaug augment photos set --backend tiny", ["tiny", "tiny-256", "tiny-translate"]),
        ("diffaug augment photos set --method diffm", ["diffmix"]),
        ("diffaug download sdx", ["sdxl-turbo"]),
    ],
)
def test_the_shell_completes_commands_options_and_presets(line, words):
    assert words == completed(line)


OPTIONS = [("per_image", "--per-image"), ("dtype", "--dtype"), ("strict", "--strict")]


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("'per_image' must be 1, got -1.", "'--per-image' must be 1, got -1."),
        (
            "set dtype='float32' or lower 'per_image'.",
            "set --dtype float32 or lower '--per-image'.",
        ),
        ("choose per_image=2, strict=True.", "choose --per-image 2, --strict."),
        ("leave it with strict=False; end.", "leave it with no --strict; end."),
        ("give dtype=a ('--dtype a').", "give dtype=a ('--dtype a')."),
        ("a class is called 'dtype', got 'strict'.", "a class is called 'dtype', got 'strict'."),
        (
            "spec.dtype='x', my_dtype=3 and 'p' must be",
            "spec.dtype='x', my_dtype=3 and 'p' must be",
        ),
    ],
)
def test_messages_name_options_as_they_are_typed(message, typed):
    assert typed == as_typed(message, OPTIONS)


def test_messages_name_models_by_the_preset_that_was_typed():
    from diffaug.backends.presets import PRESETS

    model = PRESETS["sd15-lcm"].spec.model
    assert model == PRESETS["sd15"].spec.model
    text = f"'{model}' runs on the CPU"
    assert "'sd15' runs on the CPU" == with_presets(text, ["augment"])
    assert "'sd15-lcm' runs on the CPU" == with_presets(text, ["warm", "--backend=sd15-lcm"])
    assert text == with_presets(text, ["download", model])


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (20, 30), "orange").save(tmp_path / "photos" / "cat" / "1.png")
    return tmp_path / "photos"


def test_a_run_says_what_it_loads_and_names_options_as_typed(photos, tmp_path):
    from diffaug import unload

    unload()
    model = tiny_pipelines.model_folder("edit")
    command = ["augment", str(photos), str(tmp_path / "set"), "--backend", str(model)]
    assert f"loading {model} on cpu ...\n" in runner.invoke(app, [*command, "--steps", "1"]).stderr
    refused = runner.invoke(app, [*command, "--per-image", "0"])
    assert "diffaug: error: '--per-image' must be at least 1, got 0.\n" == refused.stderr
    refused = runner.invoke(app, [*command, "--model-size", "12"])
    assert "diffaug: error: '--model-size' must be a positive mul" in refused.stderr


def test_what_a_command_sets_up_is_taken_down_again(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(type(err), "is_terminal", True)
    log = logging.getLogger("diffaug")

    def state():
        return log.level, list(log.handlers), list(sys.meta_path), warnings.showwarning

    before = state()
    runner.invoke(app, ["augment", str(photos), str(tmp_path / "set"), "--alpha", "2"])
    assert before == state()


def test_a_terminal_reads_that_torch_is_loading(tmp_path):
    code = """
import sys
from diffaug.cli import app as program, main
type(program.err).is_terminal = True
sys.argv[1:] = ["fractals", sys.argv[1], "--count", "1", "--size", "16"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "new")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "loading torch ...\n" == done.stderr and "1 fractals in" in done.stdout
