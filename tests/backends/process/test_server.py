"""The server in a thread of the test: what it batches, says and gives back."""

import errno
import logging
import os
import random
import socket
import threading
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from answers import raise_error
from model_processes import wait_for
from tiny_pipelines import make_request, make_requests, tiny_spec

from diffaug import Generated
from diffaug.backends.batches import kind
from diffaug.backends.hub import pin
from diffaug.backends.process import protocol
from diffaug.backends.process import server as server_module
from diffaug.backends.process.client import WorkerBackend, _Address
from diffaug.backends.process.pool import PoolBackend
from diffaug.backends.process.server import MAX_SKIPPED, Server, _Call
from diffaug.errors import GenerationError
from diffaug.functional import resize

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
    address = _Address(pin(spec))
    address.path.with_suffix(".key").write_bytes(KEY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address.path))
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
        address.path.unlink()


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


class Choosing(Model):
    """A model that chooses its batch size as it is loaded."""

    def __init__(self, size):
        super().__init__()
        self.size_of_a_batch, self.limits = size, []

    @property
    def batch_size(self):
        return min([self.size_of_a_batch, *self.limits])

    def choose_batch_size(self):
        return self.batch_size

    def limit_batch_size(self, most):
        self.limits.append(most)


def test_several_processes_take_the_batch_size_of_the_one_with_the_least_memory():
    specs = [tiny_spec("edit", batch_size="auto", device=name) for name in ("cpu:0", "cpu:1")]
    large, small = Choosing(12), Choosing(5)
    with served(large, specs[0], batch_size=8), served(small, specs[1], batch_size=8):
        pool = PoolBackend([WorkerBackend(spec) for spec in specs])
        assert 5 == pool.choose_batch_size() == pool.batch_size
        pool.generate(make_requests(count=10))
        assert [5, 5] == sorted(len(batch) for model in (large, small) for batch in model.batches)
        # A process that was started again is told with each request.
        assert {5} == {*large.limits} and large.limits
        pool.close()


def test_a_model_that_cannot_choose_says_why_to_the_caller():
    model = Choosing(3)
    model.choose_batch_size = partial(raise_error, GenerationError("it is broken."))
    spec = tiny_spec("edit", batch_size="auto")
    with served(model, spec, batch_size=8), pytest.raises(GenerationError, match="it is broken"):
        WorkerBackend(spec).choose_batch_size()


def test_a_model_that_is_idle_is_freed_and_answers_again():
    model = Model()
    with served(model, idle=0.1):
        backend = WorkerBackend(SPEC)
        backend.generate(make_requests(count=1))
        assert wait_for(lambda: model.closed)
        assert backend.generate(make_requests(count=1))
        assert 1 == model.closed


def test_requests_of_other_kinds_wait_until_their_batch_is_full():
    """Each caller asks for one image at a time, of one of four strengths."""
    model = Model()
    spec = tiny_spec("translate", steps=10, batch_size=4)
    generate, strengths = model.generate, (0.3, 0.5, 0.7, 0.9)

    def slow(requests):
        time.sleep(0.01)
        return generate(requests)

    model.generate = slow

    def ask(number):
        with WorkerBackend(spec) as backend:
            for n in range(8):
                strength = strengths[(number + 3 * n * n) % 4]
                [image] = backend.generate([make_request("translate", n, strength=strength)])
                assert n == image.seed

    with served(model, spec, kind=partial(kind, spec)), ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(16)))
    assert 128 == sum(map(len, model.batches))
    assert all(1 == len({kind(spec, request) for request in batch}) for batch in model.batches)
    assert 128 / len(model.batches) > 2.5  # 1.0 when four at a time were cut by their strengths


def test_a_batch_waits_for_a_caller_that_asks_again_a_little_later():
    """One caller asks again at once, and one after an eighth of the time of a batch."""
    model = Model()
    generate = model.generate

    def slow(requests):
        time.sleep(0.4)
        return generate(requests)

    def ask(pause):
        with WorkerBackend(SPEC) as backend:
            for n in range(5):
                backend.generate([make_request(n=n)])
                time.sleep(pause)

    model.generate = slow
    with served(model), ThreadPoolExecutor(2) as threads:
        list(threads.map(ask, (0.0, 0.05)))
    assert len(model.batches) <= 8  # 10 when they took turns


def test_a_batch_waits_in_vain_for_a_caller_once_and_not_again():
    with (
        served(Model()) as server,
        ThreadPoolExecutor(1) as regular,  # each thread has a connection of its own
        ThreadPoolExecutor(1) as gone,
    ):
        backend = WorkerBackend(SPEC)

        def seconds_of_a_call():
            server.took = 2.0
            began = time.monotonic()
            regular.submit(backend.generate, [make_request()]).result()
            return time.monotonic() - began

        for _ in range(3):
            calls = [
                caller.submit(backend.generate, [make_request()]) for caller in (regular, gone)
            ]
            [call.result() for call in calls]
            server.took = 2.0
        assert seconds_of_a_call() > 0.4 > seconds_of_a_call()


def test_the_process_says_how_full_its_batches_were():
    with served(Model()):
        backend = WorkerBackend(SPEC)
        backend.generate(make_requests(count=SPEC.batch_size + 1))
        done = backend.done()
    assert [2, SPEC.batch_size + 1] == [done["batches"], done["images"]]
    assert done["seconds"] > 0


def test_a_request_of_a_rare_kind_is_not_skipped_for_ever():
    model = Model()
    server = Server(model, None, KEY, batch_size=2, kind=lambda request: request.prompt)
    for prompt in ["rare", *["common"] * 20]:
        server._take(_Call([make_request(prompt=prompt)]))
    batches = [[item.request.prompt for item in server._choose()] for _ in range(MAX_SKIPPED + 2)]
    assert ["rare"] == batches[MAX_SKIPPED]
    assert 1 == sum("rare" in batch for batch in batches)


def test_a_long_call_is_cut_into_batches_and_one_error_ends_it():
    model = Model()
    with served(model):
        images = WorkerBackend(SPEC).generate(make_requests(count=7))
        assert [list(range(7)), [4, 3]] == [[i.seed for i in images], list(map(len, model.batches))]
        model.generate = lambda requests: {}[len(requests)]
        with pytest.raises(GenerationError, match="failed with KeyError: 4"):
            WorkerBackend(SPEC).generate(make_requests(count=7))


def test_what_fails_without_company_is_not_tried_again():
    asked = []

    def fail(requests):
        asked.append(len(requests))
        raise GenerationError("no memory")

    model = Model()
    model.generate = fail
    with served(model), pytest.raises(GenerationError, match="no memory"):
        WorkerBackend(SPEC).generate(make_requests(count=SPEC.batch_size))
    assert [SPEC.batch_size] == asked


def test_sources_are_resized_before_the_model_s_thread_gets_them():
    for changes in ({}, {"keep_aspect": True}):
        model = Model()
        model.spec = tiny_spec("edit", **changes)
        image = torch.randint(0, 256, (3, 10, 30), dtype=torch.uint8)
        shape = model.spec.working_shape(10, 30)
        with served(model, model.spec):
            WorkerBackend(model.spec).generate([make_request(image=image)])
        assert torch.equal(resize(image, shape), model.batches[0][0].image)


def test_an_answer_beyond_one_message_is_an_error_and_not_asked_for_again(monkeypatch):
    model = Model()
    with served(model):
        backend = WorkerBackend(SPEC)
        requests = make_requests(count=4)
        backend.generate(requests)
        monkeypatch.setattr(protocol, "MAX_BODY", sum(r.image.numel() for r in requests))
        images = [Generated(torch.zeros(3, 512, 512, dtype=torch.uint8), r.seed) for r in requests]
        model.generate = lambda _, answers=[images]: answers.pop()
        with pytest.raises(ValueError, match="'requests' must take at most .*ask for fewer"):
            backend.generate(requests)
        model.generate = Model().generate
        assert 4 == len(backend.generate(requests))  # by the same connection


class Failing:
    """A listener that fails a few times before it accepts."""

    def __init__(self, listener, *numbers):
        self.listener, self.numbers = listener, list(numbers)

    def accept(self):
        if self.numbers:
            raise OSError(self.numbers.pop(0), "no")
        return self.listener.accept()


def test_a_moment_without_descriptors_makes_nobody_deaf(monkeypatch):
    monkeypatch.setattr(server_module, "PAUSE", 0.01)
    init = Server.__init__

    def failing(self, backend, listener, *rest, **settings):
        trouble = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED)
        init(self, backend, Failing(listener, *trouble), *rest, **settings)

    monkeypatch.setattr(Server, "__init__", failing)
    with served(Model()):
        assert 1 == len(WorkerBackend(SPEC).generate([make_request()]))


def test_a_listener_that_fails_for_good_ends_the_process(caplog):
    model = Model()
    server = Server(model, Failing(None, errno.EBADF), KEY, 1)
    server.run()
    assert 1 == model.closed
    assert "no caller can connect any more" in caplog.text


def test_before_the_proof_nothing_large_is_taken():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        for text, body in ((protocol.MAX_UNPROVED + 1, 0), (10, 1)):
            theirs.sendall(protocol._SIZES.pack(protocol._MARK, text, body))
            with pytest.raises(protocol.WireError, match="sent no message of diffaug's"):
                protocol.receive(ours, most=protocol.MAX_UNPROVED)


#: Headers that are none, or say what cannot be.
FRAMES = [
    *(b"", b"{}", b"[]", b"null", b"[" * 50, b'{"shapes":5}', b'{"shapes":[[1e999]]}'),
    *(b'{"shapes":[[-1]]}', b'{"shapes":[[99999999999999999999]]}', b'{"shapes":[],"requests":5}'),
    *(b'{"shapes":[],"ask":"load"}', b'{"shapes":[],"requests":[{}]}'),
]


def valid_message():
    """Return the bytes of a request with an image."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        protocol.send(ours, *protocol.pack_requests([make_request()]))
        ours.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: theirs.recv(1 << 16), b""))


def malformed(draw, valid):
    """Return bytes that are no message: wrong headers, broken or cut messages, or noise."""
    kind = draw.randrange(4)
    if kind == 0:
        sizes = draw.choice((0, 2, 9, 50)), draw.choice((0, 0, 5))
        head = protocol._SIZES.pack(protocol._MARK, *sizes)
        return head + draw.choice(FRAMES) + draw.randbytes(40)
    if kind == 1:
        broken = bytearray(valid)
        for _ in range(draw.randint(1, 8)):
            broken[draw.randrange(min(len(broken), 300))] = draw.randrange(256)
        return bytes(broken)
    if kind == 2:
        return valid[: draw.randrange(len(valid))]
    return draw.randbytes(draw.randrange(200))


def send_malformed(path, count, seed):
    """Send so many malformed messages, every third one before the caller has proved its key."""
    draw, valid = random.Random(seed), valid_message()
    for place in range(count):
        with socket.socket(socket.AF_UNIX) as caller, suppress(OSError):
            caller.settimeout(10)
            caller.connect(path)
            if place % 3:
                protocol.prove(caller, KEY)
            caller.sendall(malformed(draw, valid))


def test_malformed_frames_end_their_connection_and_nothing_else():
    with served(Model()) as server:
        send_malformed(str(_Address(pin(SPEC)).path), 300, seed=0)
        assert 1 == len(WorkerBackend(SPEC).generate([make_request()]))
        assert wait_for(lambda: len(server.callers) <= 1)


def resources():
    """Return the bytes of memory of this process, and its open files."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_hundred_thousand_malformed_frames_leave_nothing_behind():
    model = Model()
    model.batches = deque(maxlen=1)  # all of them would grow
    with served(model) as server:
        path = str(_Address(pin(SPEC)).path)
        send_malformed(path, 50_000, seed=1)
        assert wait_for(lambda: not server.callers)
        memory, files = resources()
        send_malformed(path, 50_000, seed=2)
        assert 1 == len(WorkerBackend(SPEC).generate([make_request()]))
        assert wait_for(lambda: len(server.callers) <= 1)
        later, open_now = resources()
        assert later - memory < 20e6
        assert open_now <= files + 2
