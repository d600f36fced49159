"""The code in README and documentation runs as it stands, and links lead somewhere."""

import doctest
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import diffaug

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Whose Python examples run here; test_trainers.py runs those of trainers.md.
RUN = [page for page in PAGES if page.name != "trainers.md"]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [] == [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "photos").symlink_to(ROOT / "examples" / "photos")
    names: dict = {"__name__": "__main__"}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S)):
        exec(compile(block, f"{page.name}, example {number + 1}", "exec"), names)
    assert page.name not in ("README.md", "transforms.md") or "torch" in names
    if page.name == "own_transform.md":  # offline, in a preview and in the cache
        assert (7, 14) == (names["summary"].made, names["warmed"].requests)
        assert (names["work"] / "preview.png").stat().st_size


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

    folder = ROOT / "diffaug" / "assets" / "tiny"
    figures = json.loads((folder / "figures.json").read_text())
    card = (folder / "README.md").read_text()
    assert f"{figures['autoencoder_psnr']:.1f} dB" in card
    assert f"{100 * figures['style_accuracy_on_edits']:.0f} %" in card

    folder = ROOT / "diffaug" / "assets" / "tiny-translate"
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


@pytest.mark.parametrize("page", ["README.md", "docs/which.md"])
def test_gains_that_a_page_names_are_in_the_tables_of_measurements(page):
    measured = (ROOT / "docs" / "benchmarks.md").read_text()
    gain = re.compile(r"[+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)")
    prose = re.sub(r"<!-- \w+ -->.*?<!-- end -->", "", (ROOT / page).read_text(), flags=re.DOTALL)
    found = gain.findall(prose)
    assert found
    assert set(found) <= set(gain.findall(measured))


def test_tables_of_measurements_are_those_of_their_files():
    path = ROOT / "examples" / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location("tables", path)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for path, made in tables.PAGES.items():
        page = path.read_text()
        assert tables.filled(page, path) == page
        assert all(f"<!-- {name} -->" in page for name in made)
