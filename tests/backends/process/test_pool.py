"""Models served on several devices: shared out, travelling to workers, gone at the end."""

import pickle
import threading
import time

import pytest
import torch
from contracts import check_backend, same_images
from model_processes import Photos, servers, wait_for
from tiny_pipelines import make_requests, tiny_spec
from torch.utils.data import DataLoader

from diffaug import DiffusersBackend, PromptEdit, serve
from diffaug.backends.process.client import WorkerBackend
from diffaug.backends.process.pool import PoolBackend, devices_of
from diffaug.errors import GenerationError

SPEC = tiny_spec("edit", batch_size=2)
pytestmark = pytest.mark.usefixtures("socket_folder")
TWO = ["cpu", "cpu:0"]


def test_one_process_a_device_shares_the_work_and_ends_with_the_statement():
    requests = make_requests(count=7)
    with serve(SPEC, devices=TWO) as backend:
        assert 2 == len(servers())
        answers = backend.generate(requests)
        check_backend(lambda: pickle.loads(pickle.dumps(backend)), requests[:3])
        assert 2 == len(servers())
    assert wait_for(lambda: not servers())
    for direct, answer in zip(DiffusersBackend(SPEC).generate(requests), answers, strict=True):
        assert same_images(direct.image, answer.image)


def test_it_ends_after_an_error_too():
    with pytest.raises(RuntimeError, match="stop"), serve(SPEC, devices="cpu"):
        raise RuntimeError("stop")
    assert wait_for(lambda: not servers())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_ask_the_same_processes(method):
    with serve(SPEC, devices="cpu") as backend:
        edit = PromptEdit(["snowy"], backend=backend)
        loader = DataLoader(Photos(edit), 4, num_workers=2, multiprocessing_context=method)
        images = torch.cat(list(loader))
        assert 1 == len(servers())
        here = Photos(PromptEdit(["snowy"], backend=DiffusersBackend(SPEC)))
        direct = [here[index] for index in range(len(here))]
        assert all(same_images(a, b) for a, b in zip(direct, images, strict=True))


def test_each_process_has_one_part_at_a_time(monkeypatch):
    pool = PoolBackend([WorkerBackend(SPEC), WorkerBackend(SPEC)])
    busy, most, asked, lock = dict.fromkeys(map(id, pool.backends), 0), [0], [], threading.Lock()

    def generate(self, requests):
        with lock:
            busy[id(self)] += 1
            most[0] = max(most[0], busy[id(self)])
            asked.append(id(self))
        time.sleep(0.02)
        with lock:
            busy[id(self)] -= 1
        return requests

    monkeypatch.setattr(WorkerBackend, "load", lambda self: 0)
    monkeypatch.setattr(WorkerBackend, "generate", generate)
    requests = make_requests(count=16)
    assert requests == pool.generate(requests)
    assert 1 == most[0] and {4} == {asked.count(backend) for backend in busy}


def test_the_least_busy_is_asked(monkeypatch):
    pool = PoolBackend([WorkerBackend(SPEC), WorkerBackend(SPEC)])
    busy, asked = {id(pool.backends[0]): 9, id(pool.backends[1]): 2}, []
    monkeypatch.setattr(WorkerBackend, "load", lambda self: busy[id(self)])
    monkeypatch.setattr(WorkerBackend, "generate", lambda self, part: asked.append(self) or part)
    pool.generate(make_requests(count=2))
    assert [pool.backends[1]] == asked


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([], "'devices' must name at least one device, got none"),
        (["cpu", "cpu"], "'devices' must differ, got cpu, cpu"),
        ("warp", "'device' must be 'auto' or a torch device"),
    ],
)
def test_devices_that_are_none_are_told(devices, message):
    with pytest.raises(ValueError, match=message), serve(SPEC, devices=devices):
        pass


@pytest.mark.parametrize("devices", ["9", [0, 9], "cuda:9"])
def test_a_gpu_that_is_not_there_is_said_before_any_process_starts(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(GenerationError, match="'cuda:9', but torch sees 2 CUDA devices; set"):
        devices_of(devices)
    assert ["cuda:0", "cuda:1"] == devices_of("auto") == devices_of("0, 1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert ["auto"] == devices_of("auto")
