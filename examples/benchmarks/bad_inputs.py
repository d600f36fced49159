"""Give odd values to every argument of every public callable, and count how it answers.

    python examples/benchmarks/bad_inputs.py --out docs/benchmarks/bad_inputs.json

A value is taken, or refused by one line that diffaug raises on purpose. Anything else is a fault:
an error of Python, torch or Pillow amid the code, an answer of several lines, a call without an
end. The values and the calls are those of the tests.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from odd_values import ODD, fault_in
from public_calls import Everything, Trial, mixed_calls, odd_calls

from diffaug.finetuning import run

#: Packages whose versions are written down.
PACKAGES = ("diffaug", "torch", "numpy", "pillow")
#: A call that takes longer, in seconds, counts as one without an end.
PATIENCE = 60.0


def count(trials: Iterable[Trial]) -> dict[str, Any]:
    """Run trials; return how many were taken, refused by which error, and which had a fault."""
    answers: collections.Counter[str] = collections.Counter()
    faults, slowest, started = [], 0.0, time.monotonic()
    for trial in trials:
        begun = time.monotonic()
        try:
            trial.run()
            answers["taken"] += 1
        except Exception as error:
            if (fault := fault_in(error)) is None:
                answers[type(error).__name__] += 1
            else:
                faults.append(f"{trial.name}({trial.what}): {fault}")
        seconds = time.monotonic() - begun
        slowest = max(slowest, seconds)
        if seconds > PATIENCE:
            faults.append(f"{trial.name}({trial.what}): it took {seconds:.0f} s")
    return {
        "calls": answers.total() + len(faults),
        "answers": dict(answers.most_common()),
        "faults": faults,
        "slowest_seconds": round(slowest, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--one-in", type=int, default=1, help="try one call in so many")
    options = parser.parse_args(argv)
    trained = run._train
    run._train = lambda *_: []  # to train a model takes seconds, and no argument comes so far
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            everything = Everything(Path(folder))
            calls = everything.calls()
            Path(folder, "empty").mkdir()
            with contextlib.chdir(Path(folder, "empty")):  # names must not meet a file
                found = {
                    "one odd argument": count(odd_calls(calls, options.one_in)),
                    "mixtures": count(list(mixed_calls(calls))[:: options.one_in]),
                }
    finally:
        run._train = trained
    result = {
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "callables": len(calls),
        "values": len(ODD),
        "ways": found,
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
