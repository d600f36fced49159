"""The code in README and documentation runs as it stands, and links lead somewhere."""

import ast
import dataclasses
import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import diffaug
from diffaug.backends.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SITE = "https://github.com/diffaug/diffaug/blob/main/docs/"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PACKAGE = Path(diffaug.__file__).parent  # of a wheel, it is elsewhere than the pages


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    places = {target: (page.parent / target).resolve() for target in targets}
    for target, place in places.items():
        if place.is_relative_to(ROOT / "diffaug"):
            places[target] = PACKAGE / place.relative_to(ROOT / "diffaug")
    assert [] == [target for target, place in places.items() if not place.exists()]


def blocks_of(page):
    """Return the Python examples of a page, and those that say in which file they belong."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    files = {name[1]: block for block in blocks if (name := re.match(r"# (\w+\.py)\n", block))}
    return blocks, files


BLOCKS = [(page, number) for page in PAGES for number in range(len(blocks_of(page)[0]))]
#: How torchrun starts a single process; only the recipe for it gets this.
ALONE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "1", "RANK": "0"}


@pytest.mark.parametrize(
    ("page", "number"), BLOCKS, ids=lambda value: getattr(value, "name", value)
)
def test_each_python_example_runs_alone_in_an_empty_folder(page, number, tmp_path, monkeypatch):
    blocks, files = blocks_of(page)
    code = blocks[number]
    for package in imported(code) - set(sys.stdlib_module_names) - {Path(f).stem for f in files}:
        pytest.importorskip(package, reason=f"{page.name} needs {package}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    one_step(monkeypatch)
    for name, text in files.items():
        Path(name).write_text(text)
    if "init_process_group" in code:
        for name, value in ALONE.items():
            monkeypatch.setenv(name, value)
    if "datasets" in imported(code):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    try:
        exec(compile(code, f"{page.name}, example {number + 1}", "exec"), {"__name__": "__main__"})
    finally:
        for name in files:
            sys.modules.pop(Path(name).stem, None)
        if "accelerate.state" in sys.modules:  # which other tests would find as it was left
            sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


def one_step(monkeypatch):
    """Let the embedded editor take one step: other tests look at its pictures."""
    for name in ("tiny", "tiny-256"):
        preset = PRESETS[name]
        quick = dataclasses.replace(preset, spec=dataclasses.replace(preset.spec, steps=1, size=64))
        monkeypatch.setitem(PRESETS, name, quick)


def imported(code):
    """Return the packages that code imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def said_by(source):
    """Return every text in a module, with dots where a value is filled in."""
    texts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (
                part.value if isinstance(part, ast.Constant) else "..." for part in node.values
            )
            texts.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(re.sub("%[srd]", "...", node.value))
    return texts


def test_each_error_in_troubleshooting_is_one_that_the_package_raises():
    said = "\n".join(t for path in PACKAGE.rglob("*.py") for t in said_by(path.read_text()))
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"```text\n(.*?)\n```", page, re.S)
    assert len(quoted) > 20
    for text in quoted:
        parts = [part.strip() for part in text.replace("\n", " ").split("...")]
        assert [] == [part for part in parts if part not in said]
        assert any(len(part) > 15 for part in parts)


def test_the_first_page_lists_every_page_in_the_order_of_its_tree():
    index = (ROOT / "docs" / "index.md").read_text()
    listed = re.findall(r"^- \[[^\]]*\]\((\w+)\.md\)", index, re.M)
    trees = re.findall(r"```{toctree}\n(?::[^\n]*\n)+\n(.*?)```", index, re.S)
    assert listed == " ".join(trees).split()
    assert {page.stem for page in PAGES} == {*listed, "index", "README"}


def test_the_list_for_language_models_has_every_page():
    listed = re.findall(rf"\({SITE}(\w+)\.md\): \S", (ROOT / "docs" / "llms.txt").read_text())
    assert {page.stem for page in PAGES} - {"index", "README"} == set(listed)
    assert len(listed) == len(set(listed))


def test_the_papers_are_those_of_the_citation():
    page = (ROOT / "docs" / "papers.md").read_text().replace("{", "").replace("}", "")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for paper in citation["references"]:
        assert f"= {paper['title']}," in page
        names = (f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
        assert f"= {' and '.join(names)}," in page
        assert paper["identifiers"][0]["value"] in page


def test_the_example_of_contributing_passes_its_tests(monkeypatch):
    files = re.findall(r"Write `(.*?)\.py`:\n\n```python\n(.*?)```", CONTRIBUTING.read_text(), re.S)
    module, tests = (ModuleType(name.replace("/", ".")) for name, _ in files)
    exec(files[0][1], vars(module))
    monkeypatch.setattr(diffaug, "KeepCentre", module.KeepCentre, raising=False)
    assert (0, 5) == doctest.testmod(module)
    exec(files[1][1], vars(tests))
    checks = [check for name, check in vars(tests).items() if name.startswith("test_")]
    assert 3 == len(checks)
    for check in checks:
        check()


def test_numbers_of_the_embedded_models_come_from_its_measurements():
    import json

    folder = PACKAGE / "assets" / "tiny"
    figures = json.loads((folder / "figures.json").read_text())
    card = (folder / "README.md").read_text()
    assert f"{figures['autoencoder_psnr']:.1f} dB" in card
    assert f"{100 * figures['style_accuracy_on_edits']:.0f} %" in card

    folder = PACKAGE / "assets" / "tiny-translate"
    figures = json.loads((folder / "figures.json").read_text())
    card = (folder / "README.md").read_text()
    for share in (figures["judge_on_samples"], *figures["judge_on_translations"].values()):
        assert f"{100 * share:.0f} %" in card


def test_numbers_of_fine_tuning_come_from_its_measurements():
    import json

    page = (ROOT / "docs" / "finetune.md").read_text()
    figures = json.loads((ROOT / "docs" / "benchmarks" / "finetune.json").read_text())
    before, after = figures["before"], figures["after"]
    for row in (
        [f"{one['held_out_loss']:.3f}" for one in (before, after)],
        [f"{100 * one['from_text']['named']:.0f} %" for one in (before, after)],
        [f"{100 * one['translated']['named']:.0f} %" for one in (before, after)],
    ):
        assert f"| {row[0]} | {row[1]} |" in page
    assert f"{100 * figures['judge_on_photographs']:.0f} % of photographs" in page
    assert f"{figures['minutes']['fine_tuning']:.1f} minutes" in page


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/which.md", "docs/compare.md"])
def test_gains_that_a_page_names_are_in_the_tables_of_measurements(page):
    docs = ROOT / "docs"
    tables = r"<!-- \w+ -->.*?<!-- end -->"
    measured = (docs / "benchmarks.md").read_text()
    measured += "".join(re.findall(tables, (docs / "which.md").read_text(), re.S))
    gain = re.compile(r"[+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)")
    prose = " ".join(re.sub(tables, "", (ROOT / page).read_text(), flags=re.DOTALL).split())
    found = gain.findall(prose)
    assert found
    assert set(found) <= set(gain.findall(measured))
    if page != "docs/which.md":  # which also quotes the papers
        for accuracy in re.findall(r"(\d+\.\d) %", prose):
            assert f"| {accuracy} |" in measured


def test_tables_of_measurements_are_those_of_their_files():
    path = ROOT / "examples" / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location("tables", path)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for path, made in tables.PAGES.items():
        page = path.read_text()
        assert tables.filled(page, path) == page
        assert all(f"<!-- {name} -->" in page for name in made)


def test_the_pages_build_without_a_warning(tmp_path):
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "kept"]
    built = subprocess.run(
        [*command, ROOT / "docs", tmp_path / "html"], capture_output=True, text=True
    )
    assert (0, "") == (built.returncode, built.stderr)
    assert (tmp_path / "html" / "llms.txt").exists()
    reference = (tmp_path / "html" / "api.html").read_text()
    for entry in reference.split('<dl class="py ')[1:]:
        assert 2 > entry.count(">Parameters<"), entry[:300]
