"""One thread, one seed, no network and a cache of its own for every test."""

import os
import signal
import tempfile
from pathlib import Path

# Before torch and the Hub's client are imported, which read these once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
_folder = tempfile.TemporaryDirectory(prefix="diffaug-tests-")
os.environ["DIFFAUG_CACHE"] = str(Path(_folder.name, "cache"))

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from model_processes import servers  # noqa: E402

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def socket_folder(request, tmp_path_factory, monkeypatch):
    """A short private folder for the sockets of model processes, which end with the test.

    A test marked `shared_process` has the folder and the processes of its module instead: to start
    a process takes seconds.
    """
    from diffaug import unload

    if request.node.get_closest_marker("shared_process"):
        folder = request.getfixturevalue("_shared_folder")
    else:
        folder = tmp_path_factory.mktemp("s")
        request.addfinalizer(_kill_servers)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("DIFFAUG_CACHE", str(folder / "cache"))
    yield folder
    unload()


@pytest.fixture(scope="module")
def _shared_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")
    yield folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        _kill_servers()


@pytest.fixture
def no_launcher(monkeypatch):
    """Take away what launchers and schedulers of GPUs say about this process."""
    from diffaug.backends import ranks

    for name in (*ranks.LAUNCHERS, *ranks.VISIBLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranks, "_inherited", None)


def _kill_servers():
    for pid in servers():
        os.kill(pid, signal.SIGKILL)
