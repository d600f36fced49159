"""Every public callable with every odd value for every argument: taken, or refused in a line."""

import inspect
import random
import zlib
from contextlib import chdir

import pytest
from odd_values import ODD, fault_of
from public_calls import NOT_TRIED, Everything

import diffaug
from diffaug.finetuning import run

#: Of a sample in the default tests, one call in so many; each run of the tests has the same.
ONE_IN = 16
#: Faults that are not ours to answer, by callable and argument.
NOT_OURS = {
    ("ClassifierFilter", "size"): "the network of the caller does not take images of this size",
    ("ClassifierFilter", "transform"): "the function of the caller returns something else",
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return Everything(tmp_path_factory.mktemp("calls"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Names without a folder must not meet a file; and to train a model takes seconds."""
    monkeypatch.setattr(run, "_train", lambda *_: [])
    with chdir(tmp_path):
        yield


def tried(calls, sample):
    """Yield each call with each odd value for one argument, or one in ``ONE_IN`` of these."""
    for name, call in calls.items():
        for argument in inspect.signature(call.function).parameters:
            for label, make in ODD.items():
                chosen = zlib.crc32(f"{name} {argument} {label}".encode()) % ONE_IN == 0
                if (chosen or not sample) and (name, argument) not in NOT_OURS:
                    yield name, f"{argument}={label}", {**call.given, argument: make}


def faults(everything, sample):
    calls, found, count = everything.calls(), [], 0
    for name, what, given in tried(calls, sample):
        call, count = calls[name], count + 1
        fault = fault_of(
            lambda call=call, given=given: call.use(
                call.function(**{name: make() for name, make in given.items()})
            )
        )
        if fault is not None:
            found.append(f"{name}({what}): {fault}")
    everything.clean()
    return found, count


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("sample", "least"), [(True, 1000), pytest.param(False, 20_000, marks=pytest.mark.slow)]
)
def test_odd_arguments_are_taken_or_refused_in_one_line_of_ours(everything, sample, least):
    found, count = faults(everything, sample)
    assert [] == found
    assert count > least


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mixtures_of_odd_arguments_are_taken_or_refused_in_one_line_of_ours(everything):
    chance, found = random.Random(0), []
    for name, call in everything.calls().items():
        names = list(inspect.signature(call.function).parameters)
        for _ in range(60):
            given = {n: m() for n, m in call.given.items()}
            mixed = {n: ODD[chance.choice(list(ODD))]() for n in names if chance.random() < 0.5}
            if any((name, argument) in NOT_OURS for argument in mixed):
                continue
            fault = fault_of(
                lambda call=call, given=given, mixed=mixed: call.use(
                    call.function(**{**given, **mixed})
                )
            )
            found += [f"{name}({mixed!r:.300}): {fault}"] if fault else []
    everything.clean()
    assert [] == found


def test_every_public_name_is_tried_or_has_a_reason(everything):
    tried_names = {name.partition(".")[0].rstrip("[]()") for name in everything.calls()}
    assert set(diffaug.__all__) == (tried_names | set(NOT_TRIED))


def test_the_fuzz_sees_what_is_wrong():
    """A fault is an error of Python amid our code, several lines, or a kind that nobody expects."""
    assert fault_of(lambda: None) is None
    assert fault_of(lambda: diffaug.FractalBank(size="x")) is None
    assert "foreign" in fault_of(lambda: len(5))
    assert "foreign" in fault_of(lambda: diffaug.errors.one_line.nothing)
