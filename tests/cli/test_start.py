"""The command line answers at once what it can answer without a model."""

import json
import subprocess
import sys

from diffaug.cli.commands import app

#: Runs each command line that it reads, and says which exit code it had and whether torch came in.
PROGRAM = """
import json, sys
from diffaug.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        print("\\n===", end.code, *sorted({"torch", "numpy", "PIL"} & set(sys.modules)))
"""


def started(*lines):
    """Return what each command line prints, and its exit code with what it imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(lines)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    return [line[4:] for line in done.stdout.splitlines() if line.startswith("===")], done


def test_help_and_version_need_no_torch():
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert {"augment", "preview", "export"} <= set(commands)
    codes, done = started(["--version"], ["--help"], *([name, "--help"] for name in commands))
    assert ["0"] * (len(commands) + 2) == codes
    assert "diffaug 0." in done.stdout and len(commands) + 1 == done.stdout.count("Usage: ")


def test_the_models_are_listed_without_torch():
    codes, done = started(["backends"], ["download", "tiny"])
    assert ["0", "0"] == codes and "'tiny' is here already" in done.stdout


def test_a_wrong_command_line_needs_no_torch():
    codes, done = started(
        [], ["augmant"], ["augment"], ["augment", "photos", "set", "--per-imge", "2"],
        ["augment", "photos", "set", "--per-image", "two"],
        ["augment", "photos", "set", "--method", "mixup"],
        ["augment", "photos", "set", "--engine", "ray", "--device", "cpu"],
        ["augment", "photos", "set", "--backend", "tinny"],
    )  # fmt: skip
    assert ["2"] * 8 == codes
    for message in (
        "No such command 'augmant'",
        "Missing argument",
        "--per-imge",
        "value for '--per-image'",
    ):
        assert message in done.stderr
