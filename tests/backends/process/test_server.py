"""The server in a thread of the test: what it batches, says and gives back."""

import logging
import socket
import threading
import warnings
from contextlib import contextmanager

import pytest
import torch
from model_processes import wait_for
from tiny_pipelines import make_request, make_requests, tiny_spec

from diffaug import Generated
from diffaug.backends.hub import pin
from diffaug.backends.process.client import WorkerBackend, _Place
from diffaug.backends.process.server import Server

SPEC = tiny_spec("edit")
KEY = b"k" * 32
pytestmark = pytest.mark.usefixtures("socket_folder")


class Model:
    """A model that notes its batches."""

    def __init__(self):
        self.batches = []
        self.closed = 0

    def generate(self, requests):
        self.batches.append(list(requests))
        return [Generated(torch.zeros(3, 2, 2, dtype=torch.uint8), r.seed) for r in requests]

    def close(self):
        self.closed += 1


@contextmanager
def served(model, spec=SPEC, **settings):
    """Serve a model where its callers look for the process of a spec."""
    place = _Place(pin(spec))
    place.path.with_suffix(".key").write_bytes(KEY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place.path))
    listener.listen()
    server = Server(model, listener, KEY, **{"batch_size": spec.batch_size, **settings})
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.calls.put(None)
        thread.join(10)
        listener.close()
        place.path.unlink()


def test_what_the_process_says_is_repeated_once_by_each_caller(caplog):
    with served(Model()) as server:
        first, second = WorkerBackend(SPEC), WorkerBackend(SPEC)
        first.generate(make_requests(count=1))
        server.messages += [("warning", "it is slow"), ("log", "it is not free")]
        for caller in (first, second):
            with pytest.warns(UserWarning, match="it is slow"):
                caller.generate(make_requests(count=1))
        assert ["it is not free"] * 2 == caplog.messages
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            first.close()  # its next connection is a new one to the server
            first.generate(make_requests(count=1))


def test_only_what_diffaug_says_is_passed_on(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", lambda *_: None)
    log = logging.getLogger("diffaug")
    monkeypatch.setattr(log, "handlers", list(log.handlers))
    with served(Model()) as server:
        server.pass_on_messages()
        warnings.showwarning(UserWarning("ours"), UserWarning, logging.__file__, 1)
        warnings.showwarning(UserWarning("ours"), UserWarning, WorkerBackend.__module__, 1)
        log.info("quiet")
        log.warning("loud, %s", "too")
    assert [("log", "loud, too")] == server.messages


def test_originals_and_the_batch_size_that_fits_are_known_to_the_caller():
    model = Model()
    model.batch_size = 2
    model.generate = lambda requests: [
        Generated(request.image, request.seed, fallback=True) for request in requests
    ]
    with served(model):
        backend = WorkerBackend(SPEC)
        backend.generate([make_request(n=n) for n in range(3)])
    assert (3, 2) == (backend.fallbacks, backend.batch_size)


def test_a_model_that_is_idle_is_freed_and_answers_again():
    model = Model()
    with served(model, idle=0.1):
        backend = WorkerBackend(SPEC)
        backend.generate(make_requests(count=1))
        assert wait_for(lambda: model.closed)
        assert backend.generate(make_requests(count=1))
        assert 1 == model.closed
