"""What is said to those who install, cite or build the package agrees with the package."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import diffaug

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REPOSITORY = PROJECT["project"]["urls"]["Repository"]


def for_the_index(text):
    """Rewrite a README's links as the build does."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for rule in hook["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


def test_every_link_of_the_readme_leads_somewhere_from_the_index_of_packages():
    links = re.findall(r"\]\((.*?)\)", for_the_index((ROOT / "README.md").read_text()))
    inside = [link.removeprefix(REPOSITORY) for link in links if link.startswith(REPOSITORY)]
    assert inside and all(link.startswith("https://") for link in links)
    for link in inside:
        kind, branch, path = link.strip("/").split("/", 2)
        assert kind in ("raw", "blob") and "main" == branch
        assert (ROOT / path.partition("#")[0]).exists()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[a](docs/b.md)", f"[a]({REPOSITORY}/blob/main/docs/b.md)"),
        ("![a](docs/b.png)", f"![a]({REPOSITORY}/raw/main/docs/b.png)"),
        ("[a](https://x.org), [b](#use)", "[a](https://x.org), [b](#use)"),
    ],
)
def test_files_are_linked_to_as_pages_and_pictures_as_files(written, shown):
    assert shown == for_the_index(written)


def test_every_dependency_says_its_lowest_version():
    """Without one, nobody knows what scripts/test-lowest proves."""
    extras = PROJECT["project"]["optional-dependencies"]
    asked = PROJECT["project"]["dependencies"] + extras["test"] + extras["ray"]
    assert [] == [name for name in asked if ">=" not in name]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert diffaug.__version__ == citation["version"]
    assert REPOSITORY == citation["repository-code"]
    assert PROJECT["project"]["license"] == citation["license"]


def test_the_workflow_calls_scripts_that_exist():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["test"]
    assert ["scripts/${{ matrix.script }}"] == [s["run"] for s in job["steps"] if "run" in s]
    for name in job["strategy"]["matrix"]["script"]:
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111
