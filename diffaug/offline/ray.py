"""The images of a set made by a Ray cluster: a model on each GPU, the files written here."""

import json
import logging
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from diffaug.backends.process.connecting import why_deaf
from diffaug.errors import GenerationError, one_line, remade, require
from diffaug.offline.generate import Keep, Made, Maker
from diffaug.offline.identity import versions_line
from diffaug.offline.plan import Planned
from diffaug.offline.sources import Skipped

#: Batches in one task: enough that reading and encoding overlap with the model, few to lose.
BATCHES = 4
#: Seconds in which a cluster must take a connection; one may just be starting.
ANSWERS_WITHIN = 5.0


def require_ray() -> Any:
    """Return Ray, or say how to install it."""
    return require("ray", "ray")


def make_with_ray(maker: Maker, planned: Iterable[Planned], keep: Keep) -> None:
    """Make images in Ray actors, one for each GPU, or for each machine where there is none.

    The cluster is that of ``ray.init``, if it was called, or of ``RAY_ADDRESS``. Without either, a
    cluster is started on this machine, and stopped at the end.
    """
    ray, data = require_ray(), require("ray.data", "ray")
    tasks = [{"planned": json.dumps(portion)} for portion in _portions(maker, planned)]
    if maker.spec is not None:
        maker.spec = replace(maker.spec, device="auto")  # an actor sees its own GPU only
    try:
        with ExitStack() as stack:
            if not ray.is_initialized():
                _start(ray)
                stack.callback(ray.shutdown)
            context = data.DataContext.get_current()
            stack.callback(setattr, context, "enable_progress_bars", context.enable_progress_bars)
            context.enable_progress_bars = False
            count, needs = _actors(ray, maker)
            # A block for each task; in larger blocks, results would come only once many are done.
            results = data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
                _Actor,
                fn_constructor_args=(maker, torch.get_num_threads()),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=min(count, len(tasks))),
                **needs,
            )
            for part in results.iter_batches(batch_size=None, prefetch_batches=0):
                outcomes, error = _outcomes(part, maker)
                keep(outcomes)
                if error is not None:
                    raise error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise GenerationError(
            f"the Ray cluster failed: {one_line(error):.500}; run the same command again to resume."
        ) from error


def _actors(ray: Any, maker: Maker) -> tuple[int, dict[str, Any]]:
    """Return how many actors there are, and what each needs."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and maker.spec is not None:
        # An actor with a GPU asks for no CPU, so that it can start where there are few CPUs.
        return gpus, {"num_gpus": 1, "num_cpus": 0}
    return sum(1 for node in ray.nodes() if node["Alive"]), {"num_cpus": 1}


def _start(ray: Any) -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address := os.environ.get("RAY_ADDRESS"):
        _check_address(address)
        ray.init(address=address, **quiet)
    else:  # not a cluster that already runs here, which may be someone else's
        ray.init(address="local", include_dashboard=False, **quiet)


def _check_address(address: str) -> None:
    """Refuse the address of a cluster that is not there, for which Ray itself waits for minutes.

    Raises:
        GenerationError: nobody accepts connections there.
    """
    match = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address)
    # Anything else, such as "auto", is Ray's to look up; it does so at once.
    if match and (reason := why_deaf(match[1], int(match[2]), ANSWERS_WITHIN)):
        raise GenerationError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({reason}); start one, or unset "
            "RAY_ADDRESS to use this machine alone."
        )


def _portions(maker: Maker, planned: Iterable[Planned]) -> Iterator[list[Planned]]:
    remaining = iter(planned)
    while portion := list(islice(remaining, BATCHES * maker.batch_size)):
        yield portion


class _Actor:
    """The maker, with its model, in a process of the cluster."""

    def __init__(self, maker: Maker, threads: int) -> None:
        torch.set_num_threads(threads)  # with Ray's own setting, pixels differ in their last bits
        self.maker = maker

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        planned = [Planned(*fields) for text in batch["planned"] for fields in json.loads(text)]
        about: list[Any] = []
        files: list[bytes] = []

        def keep(outcomes: list[Made | Skipped]) -> None:
            for outcome in outcomes:
                if isinstance(outcome, Made):
                    about.append({"row": outcome.row})
                    files.append(outcome.data)
                else:
                    about.append({"skipped": outcome})
                    files.append(b"")

        try:
            _check_versions(self.maker)
            self.maker.make(planned, keep)
        except Exception as error:  # Ray would wrap it, and log it over pages
            trace = "".join(traceback.format_exception(error)[-3:])
            about.append({"error": [type(error).__name__, str(error)], "trace": trace})
            files.append(b"")
        return {"about": [json.dumps(entry) for entry in about], "file": files}


def _check_versions(maker: Maker) -> None:
    here = versions_line()
    if here != maker.versions:
        raise GenerationError(
            f"a machine of the cluster has other versions ({here}) than this one "
            f"({maker.versions}), and its images would differ; install the same versions."
        )


def _outcomes(part: dict[str, Any], maker: Maker) -> tuple[list[Made | Skipped], Exception | None]:
    """Return what an actor made, and the error that ended it."""
    outcomes: list[Made | Skipped] = []
    error = None
    for text, data in zip(part["about"], part["file"], strict=True):
        about = json.loads(text)
        if "error" in about:
            error = remade(
                *about["error"], what=maker.spec.model if maker.spec else "the transform"
            )
            error.add_note(f"In the Ray cluster:\n{about['trace']}")
        elif "row" in about:
            outcomes.append(Made(about["row"], data))
        else:
            outcomes.append(Skipped(*about["skipped"]))
    return outcomes, error
