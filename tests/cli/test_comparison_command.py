"""The command compare prints a table and one sentence of advice, and says what is wrong."""

import pytest
from image_folders import save_photos
from test_commands import refused, run

from diffaug import Comparison
from diffaug.cli.comparison import changes
from diffaug.comparison.rows import Row


@pytest.fixture
def photos(tmp_path):
    names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(4)]
    return save_photos(tmp_path / "photos", names)


def test_compare_prints_a_table_advice_and_where_everything_is(photos, tmp_path):
    given = (
        "compare", photos, "--folds", 2, "--arms", "none,mixup", "--steps", 1, "--size", 16,
        "--no-probe", "--device", "cpu", "--out", tmp_path / "out",
    )  # fmt: skip
    done = run(*given)
    assert 0 == done.exit_code, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["arm", "per", "class"]
    assert ["none", "mixup"] == [line.split()[0] for line in lines[1:3]]
    assert "intervals: paired over 2 folds" in done.stdout
    assert "steps: 1, in which each photograph comes 4 times" in done.stdout
    assert "'mixup' is not better than 'none' beyond the noise" in done.stdout
    assert "trained 4 classifiers, 0 already there; made 0 images" in done.stdout
    assert f"in {tmp_path / 'out'}: compare.json, compare.png" == lines[-1]
    assert "trained 0 classifiers, 4 already there" in run(*given).stdout


def test_with_several_numbers_each_line_says_which(photos, tmp_path):
    done = run(
        "compare", photos, "--folds", 2, "--arms", "mixup", "--shots", "1,2", "--steps", 6,
        "--size", 16, "--no-probe", "--device", "cpu", "--out", tmp_path / "out",
    )  # fmt: skip
    assert 0 == done.exit_code, done.output
    assert "comes 48 times with 1 of each class, 24 times with 2 of each class" in done.stdout
    rows = [
        Row("mixup", number, (), 0.5, (0.4, 0.6), classes={"cat": 0.25, "dog": -0.5})
        for number in (1, 2)
    ]
    several = Comparison(rows=tuple(rows), advice="", settings={"shots": [1, 2]})
    assert changes(several) == [
        f"by class, mixup with {number} of each class: cat +25, dog -50" for number in (1, 2)
    ]
    alone = Comparison(rows=tuple(rows[:1]), advice="", settings={"shots": [1]})
    assert changes(alone) == ["by class, mixup: cat +25, dog -50"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--shots", "few"), "'--shots' must be a number, or several with commas, got 'few'"),
        (("--arms", "magic"), "'--arms' must be among none"),
        (("--p", "1.5"), "'--p' must be in [0, 1], got 1.5"),
        (("--test", "nowhere"), "'--test' must be an existing folder, got 'nowhere'"),
    ],
)
def test_compare_says_what_is_wrong_in_one_line(photos, tmp_path, given, message):
    line = refused(2, "compare", photos, "--no-probe", "--out", tmp_path / "out", *given)
    assert message in line
