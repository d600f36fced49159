"""One live model per process and spec, shared, fork-safe and freed on demand."""

import multiprocessing
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_pipelines import make_requests, model_folder, tiny_spec

from diffaug import CachedBackend, DiffusersBackend, RecordingBackend, backend_for, unload
from diffaug.backends import registry


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path))
    yield
    unload()


def test_everyone_who_names_a_model_gets_the_same_backend():
    spec = tiny_spec("edit")
    backend = backend_for(spec)
    assert isinstance(backend, CachedBackend)
    assert backend_for(tiny_spec("edit")) is backend
    assert backend_for(replace(spec, model=spec.model + "/")) is backend
    assert backend_for(tiny_spec("translate")) is not backend
    assert backend_for(replace(spec, steps=3)) is not backend


def test_a_folder_may_be_a_path_or_a_text():
    folder = model_folder("edit")
    assert backend_for(folder) is backend_for(str(folder))


def test_without_cache_the_same_model_is_shared_unwrapped():
    spec = tiny_spec("edit")
    plain = backend_for(spec, cache=False)
    assert isinstance(plain, DiffusersBackend)
    assert backend_for(spec, cache=False) is plain
    plain.generate(make_requests(count=1))
    pipe = plain._pipe
    generated = backend_for(spec).generate(make_requests(count=2))
    assert len(generated) == 2 and plain._pipe is pipe


def test_an_instance_is_used_as_given():
    mine = RecordingBackend()
    assert backend_for(mine) is mine and backend_for(mine, cache=False) is mine


@pytest.mark.parametrize(
    ("backend", "error", "message"),
    [
        ("tinny", ValueError, "Did you mean 'tiny'"),
        (3, TypeError, "'backend' must be .* got int"),
        (None, TypeError, "'backend' must be .* got NoneType"),
        ([], TypeError, "'backend' must be .* got list"),
    ],
)
def test_what_names_no_backend_is_refused(backend, error, message):
    with pytest.raises(error, match=message):
        backend_for(backend)


def test_unload_frees_and_forgets_and_the_next_use_loads_again():
    backend = backend_for(tiny_spec("edit"), cache=False)
    [before] = backend.generate(make_requests(count=1))
    unload()
    assert backend._pipe is None
    again = backend_for(tiny_spec("edit"), cache=False)
    assert again is not backend
    assert again.generate(make_requests(count=1))[0].image.equal(before.image)
    unload()
    unload()


def test_threads_that_ask_at_once_get_one_backend():
    barrier, backends = threading.Barrier(8), []

    def ask():
        barrier.wait()
        backends.append(backend_for(tiny_spec("edit")))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, backends))) == 1


def _in_child(inherited, queue):
    backend = backend_for(tiny_spec("edit"), cache=False)
    [generated] = backend.generate(make_requests(count=1))
    queue.put((id(backend) != inherited, generated.image.numpy()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_backends_of_its_own_even_if_the_lock_was_held():
    backend = backend_for(tiny_spec("edit"), cache=False)
    [expected] = backend.generate(make_requests(count=1))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with registry._lock:
        child = context.Process(target=_in_child, args=(id(backend), queue), daemon=True)
        child.start()
    fresh, image = queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    assert fresh and (image == expected.image.numpy()).all()
    assert backend._pipe is not None


def test_at_exit_models_are_closed_quietly():
    script = (
        "import sys\n"
        "from diffaug import DiffusersBackend, ModelSpec, backend_for\n"
        "DiffusersBackend.close = lambda self: print('closed')\n"
        "backend_for(ModelSpec(sys.argv[1]), cache=False)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(model_folder("edit"))],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
    assert "Traceback" not in done.stderr
