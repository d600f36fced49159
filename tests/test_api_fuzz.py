"""Every public callable with every odd value for every argument: taken, or refused in a line."""

from contextlib import chdir

import pytest
from odd_values import fault_of
from public_calls import NOT_TRIED, Everything, mixed_calls, odd_calls

import diffaug
from diffaug.finetuning import run

#: Of a sample in the default tests, one call in so many; each run of the tests has the same.
ONE_IN = 16


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return Everything(tmp_path_factory.mktemp("calls"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Names without a folder must not meet a file; and to train a model takes seconds."""
    monkeypatch.setattr(run, "_train", lambda *_: [])
    with chdir(tmp_path):
        yield


def faults(everything, trials):
    """Run trials; return those with a fault, each in words, and how many there were."""
    found, count = [], 0
    for trial in trials:
        count += 1
        if (fault := fault_of(trial.run)) is not None:
            found.append(f"{trial.name}({trial.what}): {fault}")
    everything.clean()
    return found, count


@pytest.mark.filterwarnings("ignore")
def test_a_sample_of_odd_arguments_is_taken_or_refused_in_one_line_of_ours(everything):
    found, count = faults(everything, odd_calls(everything.calls(), one_in=ONE_IN))
    assert [] == found
    assert count > 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("trials", "least"), [(odd_calls, 20_000), (mixed_calls, 3_000)])
def test_odd_arguments_are_taken_or_refused_in_one_line_of_ours(everything, trials, least):
    found, count = faults(everything, trials(everything.calls()))
    assert [] == found
    assert count > least


def test_every_public_name_is_tried_or_has_a_reason(everything):
    tried_names = {name.partition(".")[0].rstrip("[]()") for name in everything.calls()}
    assert set(diffaug.__all__) == (tried_names | set(NOT_TRIED))


def test_the_fuzz_sees_what_is_wrong():
    """A fault is an error of Python amid our code, several lines, or a kind that nobody expects."""
    assert fault_of(lambda: None) is None
    assert fault_of(lambda: diffaug.FractalBank(size="x")) is None
    assert "foreign" in fault_of(lambda: len(5))
    assert "foreign" in fault_of(lambda: diffaug.errors.one_line.nothing)
