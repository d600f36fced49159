"""Every command that a page shows runs there, on small photographs with small random models."""

import dataclasses
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest
import typer
from answers import raise_error
from image_folders import save_photos
from safetensors.torch import load_file, save_file
from tiny_pipelines import save_clip, tiny_spec
from typer.testing import CliRunner

import diffaug
from diffaug.backends import finetuned
from diffaug.backends.presets import PRESETS
from diffaug.cli.commands import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = typer.main.get_command(app)
CLASSES = ("bee", "lion")

#: What a page writes for something of another machine.
HERE = {"s3://bucket/train": "photos"}
#: Added to a command, as far as the page does not say it, so that it takes a moment.
QUICK = {
    "compare": [
        *("--arms", "none,real-mix", "--steps", "1", "--size", "32", "--per-image", "1"),
        *("--no-probe", "--device", "cpu"),
    ],
    "filter": ["--model", "clip/model", "--device", "cpu"],
    "finetune": ["--steps", "1", "--batch-size", "1", "--device", "cpu"],
    "fractals": ["--count", "1"],
    "preview": ["--count", "1"],
}
#: Added where the page gives an option: the random models are slow at 256 pixels or in many steps,
#: and a cluster is what the tests of engines start.
INSTEAD = {"--model-size": "--model-size 32", "--steps": "--steps 1", "--engine": "--dry-run"}
#: Commands that write into the folder that they name second.
WRITES = ("augment", "export", "finetune", "import")
#: How many processes a launcher starts, and what tells them apart.
LAUNCHERS = {
    "torchrun": (r"--nproc-per-node (\d+)", "RANK", "WORLD_SIZE"),
    "srun": (r"--ntasks (\d+)", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}


def commands_of(page):
    """Return the command lines of a page: those of its blocks, and those within its sentences."""
    text = page.read_text()
    fences = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```", text, re.S | re.M)
    lines = "\n".join(code for language, code in fences if not language).replace("\\\n", " ")
    found = [line for line in lines.splitlines() if re.search(r"(?:^|[\s/])diffaug [a-z]", line)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = (" ".join(code.split()) for code in re.findall(r"`(diffaug [a-z][^`]*)`", prose))
    found += [line for line in inline if is_complete(words_of(line))]
    return list(dict.fromkeys(found))


def words_of(line):
    """Return what follows `diffaug` in a command line, with what is here in the place of more."""
    words = shlex.split(re.search(r"(?:^|[\s/])diffaug ([a-z].*)", line)[1], comments=True)
    return [HERE.get(word, word) for word in words]


def is_complete(words):
    """Tell whether a sentence gives a command to run, not only its name, or SOURCE for a folder."""
    if any(word.isupper() for word in words):
        return False
    if "--help" in words:
        return True
    try:
        PROGRAM.commands[words[0]].make_context(words[0], list(words[1:]))
    except Exception as error:
        if "Missing" in str(error) or "requires an argument" in str(error):
            return False
        raise
    return True


@pytest.fixture(scope="module")
def presets():
    """The models of the pages, each a small random one of its task."""
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in PRESETS.items():
            if preset.spec.task in ("edit", "translate"):
                small = dataclasses.replace(preset, spec=tiny_spec(preset.spec.task))
                patch.setitem(PRESETS, name, small)
        yield


@pytest.fixture(scope="module")
def workshop(presets, tmp_path_factory):
    """What the reader of a page has: photographs, two sets, and what the authors' code wrote."""
    folder = tmp_path_factory.mktemp("workshop")
    for height, name in enumerate(("photos", "other_photos", "train"), 24):
        save_photos(folder / name, [f"{c}/{n}.png" for c in CLASSES for n in range(6)], height)
    edit = diffaug.PromptEdit(["snowy"], backend=diffaug.RecordingBackend(64))
    diffaug.augment_folder(folder / "photos", folder / "augmented", edit, seed=0)
    mix = diffaug.DiffMix(CLASSES, strategy="real-mix", backend=diffaug.RecordingBackend(64))
    diffaug.augment_folder(folder / "photos", folder / "generated", mix, seed=0)
    (folder / "words.csv").write_text("".join(f"{name},a {name}\n" for name in CLASSES))

    save_clip(folder / "clip")
    diffaug.export_set(folder / "generated", folder / "aug_samples/cub/diff-mix_-1_fixed_0.7")
    stages = ("original_resized", "generated", "fractal", "concatenated", "blended")
    names = [f"{stage}/bee/1.png_{stage}_sunset_0.jpg" for stage in stages[1:]]
    save_photos(folder / "result", ["original_resized/bee/1.png", *names])

    tuned = folder / "tuned"
    diffaug.finetune(folder / "photos", tuned, base="sd15", steps=1, batch_size=1, device="cpu")
    checkpoint = folder / "ckpts/cub/shot-1-lora-rank10"
    checkpoint.mkdir(parents=True)
    shutil.copy(tuned / finetuned.LORA, checkpoint / "pytorch_lora_weights.safetensors")
    tokens = {token: name for name, token in finetuned.read(tuned).tokens.items()}
    rows = load_file(tuned / finetuned.EMBEDDINGS)
    save_file(rows, checkpoint / "learned_embeds.safetensors", tokens)
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name
)
def test_the_commands_of_a_page_run_one_after_the_other(
    page, presets, workshop, tmp_path, monkeypatch
):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(workshop, tmp_path / "workshop")
    monkeypatch.chdir(folder)
    for line in commands_of(page):
        words = words_of(line)
        if words[0] in WRITES and len(words) > 2 and not words[2].startswith("-"):
            shutil.rmtree(words[2], ignore_errors=True)  # a page shows several ways to make it
        if words[0] == "merge":
            leave_in_parts(words[1])
        given = {word for word in words if word.startswith("-")}
        words += quick(words[0], given)
        for environment in processes_of(line):
            with monkeypatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                done = CliRunner().invoke(app, words)
            assert 0 == done.exit_code, f"{line}\n{done.output}"


def leave_in_parts(destination):
    """Make the shares of a set, of which the last cannot merge them."""
    shutil.rmtree(destination, ignore_errors=True)
    edit = diffaug.PromptEdit(["snowy"], backend=diffaug.RecordingBackend(64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffaug.offline.augment.join", partial(raise_error, OSError("disk full")))
        diffaug.augment_folder("photos", destination, edit, shard="1/2")
        with pytest.raises(OSError, match="disk full"):
            diffaug.augment_folder("photos", destination, edit, shard="2/2")


def quick(command, given):
    """Return the options that make a command quick, without those that are given."""
    pairs = re.findall(r"(--\S+)((?: (?!--)\S+)*)", " ".join(QUICK.get(command, [])))
    added = [f"{name}{value}" for name, value in pairs if name not in given]
    added += [option for name, option in INSTEAD.items() if name in given]
    return " ".join(added).split()


def processes_of(line):
    """Return the environment of each process that a command line starts."""
    for launcher, (count, rank, total) in LAUNCHERS.items():
        if line.strip().startswith(launcher):
            processes = re.search(count, line)[1]
            return [{rank: str(n), total: processes} for n in range(int(processes))]
    return [{}]


def test_a_command_is_found_in_blocks_and_sentences_and_a_mere_name_is_not(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Run `diffaug merge\nset/`, or `diffaug merge`.\n\n"
        "```\npip install .\ntorchrun --nproc-per-node 2 -m diffaug augment a/ b/ \\\n  --seed 1\n"
        "diffaug demo   # six\n```\n\n```text\ndiffaug cache\n```\n"
    )
    lines = commands_of(page)
    assert [["augment", "a/", "b/", "--seed", "1"], ["demo"], ["merge", "set/"]] == [
        words_of(line) for line in lines
    ]
    assert [2, 1, 1] == [len(processes_of(line)) for line in lines]
