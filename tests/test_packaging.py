"""What is said to those who install, cite or build the package agrees with the package."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import diffaug

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
REPOSITORY = PROJECT["project"]["urls"]["Repository"]


def for_the_index(text):
    """Rewrite a README's links as the build does."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for rule in hook["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


def test_every_link_of_the_readme_leads_somewhere_from_the_index_of_packages():
    text = for_the_index((ROOT / "README.md").read_text())
    headings = {
        "#" + re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in HEADING.findall(text)
    }
    links = {*re.findall(r"\]\((.*?)\)", text)} - headings
    inside = [link.removeprefix(REPOSITORY) for link in links if link.startswith(REPOSITORY)]
    assert inside and all(link.startswith("https://") for link in links)
    for link in inside:
        kind, branch, path = link.strip("/").split("/", 2)
        assert kind in ("raw", "blob") and "main" == branch
        # Of a wheel, the package is elsewhere than the tests.
        root = Path(diffaug.__file__).parents[1] if path.startswith("diffaug/") else ROOT
        assert (root / path.partition("#")[0]).exists()


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


def test_the_package_is_asked_where_it_is_and_not_looked_for_beside_the_tests():
    """The tests of a wheel have no package beside them."""
    guessed = re.compile(r"(parents\[\d\]|ROOT) / \"diffaug\b(?!\"\))")
    files = [path for name in ("tests", "examples") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 100
    assert [] == [path.name for path in files if guessed.search(path.read_text())]


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


def test_a_release_uploads_what_the_scripts_have_tested_and_checked():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    build, upload = workflow["jobs"]["build"], workflow["jobs"]["upload"]
    runs = [step["run"] for step in build["steps"] if "run" in step]
    assert ["scripts/test-wheel", 'scripts/build "${GITHUB_REF_NAME#v}"'] == runs
    assert "build" == upload["needs"] and {"id-token": "write"} == upload["permissions"]
    for name in ("test-wheel", "build"):
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111


def test_the_changelog_has_a_line_for_this_version():
    version = diffaug.__version__.partition(".dev")[0]
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    heads = [line for line in lines if line.startswith("## ")]
    date = r"\d{4}-\d{2}-\d{2}" if version == diffaug.__version__ else "unreleased"
    assert re.fullmatch(rf"## {re.escape(version)} - {date}", heads[0])
