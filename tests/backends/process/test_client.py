"""One model process for many callers: shared, restarted, ended with its owner, never a hang."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from child_process import command, environment
from contracts import check_backend, check_error, same_images
from fake_cuda import train_on
from gpus import on_each_device
from model_processes import Photos, servers, set_environment, wait_for, where
from tiny_pipelines import make_request, make_requests, tiny_spec
from torch.utils.data import DataLoader, Dataset

from diffaug import DiffusersBackend, PromptEdit, unload
from diffaug.backends.hub import pin
from diffaug.backends.process import client, connecting, private_folder, protocol
from diffaug.backends.process.client import WorkerBackend, _Address, wants_process
from diffaug.backends.process.watchdog import process_started
from diffaug.errors import DiffaugError, GenerationError, ModelError

SPEC = tiny_spec("edit")
pytestmark = pytest.mark.usefixtures("socket_folder")


@pytest.mark.shared_process
def test_it_keeps_what_every_backend_promises():
    bad = {"image": make_request(image=None), "strength": make_request(strength=0.5)}
    check_backend(lambda: WorkerBackend(SPEC), make_requests(count=3), bad)
    assert 1 == len(servers())


@pytest.mark.shared_process
def test_it_gives_the_images_of_the_direct_backend():
    requests = make_requests(count=5)
    answers = WorkerBackend(SPEC).generate(requests)
    for direct, answer in zip(DiffusersBackend(SPEC).generate(requests), answers, strict=True):
        assert same_images(direct.image, answer.image) and direct.seed == answer.seed


@pytest.mark.shared_process
def test_callers_of_one_process_share_it_and_each_gets_its_own():
    def ask(number, requests, answers):
        with WorkerBackend(SPEC) as backend:
            answers[number] = [backend.generate([request])[0] for request in requests]

    parts = [make_requests(count=n + 2) for n in range(3)]
    answers = {}
    threads = [
        threading.Thread(target=ask, args=(n, part, answers)) for n, part in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    direct = DiffusersBackend(SPEC)
    for number, part in enumerate(parts):
        for expected, answer in zip(direct.generate(part), answers[number], strict=True):
            assert same_images(expected.image, answer.image)
    assert 1 == len(servers())


@pytest.mark.shared_process
def test_one_caller_s_mistake_is_not_another_s():
    backend, errors_seen, fine = WorkerBackend(SPEC), [], []
    backend.generate(make_requests(count=1))

    def wrong():
        for _ in range(5):
            with pytest.raises(ValueError, match="must use tokens") as error:
                WorkerBackend(SPEC).generate([make_request(prompt="<nobody>")])
            errors_seen.append(error.value)

    def right():
        fine.extend(WorkerBackend(SPEC).generate(make_requests(count=3)) for _ in range(5))

    threads = [threading.Thread(target=target) for target in (wrong, right, right)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 5 == len(errors_seen) and 10 == len(fine)
    check_error(errors_seen[0])
    assert "In the process that runs" in errors_seen[0].__notes__[0]


def test_errors_of_loading_come_back_as_they_are(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(SPEC.model, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ModelError, match="could not be loaded"):
        WorkerBackend(replace(SPEC, model=str(folder))).generate(make_requests(count=1))
    assert 1 == len(servers())


def test_killed_under_load_it_is_started_again_and_asked_again(monkeypatch):
    monkeypatch.setattr(client, "RESTARTS", 1)  # each takes seconds
    backend = WorkerBackend(SPEC)
    before = backend.generate(make_requests(count=3))
    for _ in range(2):  # it answers in between, so that earlier deaths do not count
        [pid] = servers()
        os.kill(pid, signal.SIGKILL)
        after = backend.generate(make_requests(count=3))
        assert all(same_images(a.image, b.image) for a, b in zip(before, after, strict=True))


def test_a_process_that_dies_of_each_request_is_an_error_with_its_own_last_words(
    monkeypatch, tmp_path, socket_folder
):
    monkeypatch.setattr(client, "RESTARTS", 1)
    (tmp_path / "script.py").write_text(
        "import os, signal, sys, time\n"
        f"sys.path.insert(0, {str(Path(client.__file__).parent)!r})\n"
        "print('word', time.time_ns(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setattr(client, "_SCRIPT", tmp_path / "script.py")
    with pytest.raises(GenerationError, match="died 2 times; its last lines: word") as error:
        WorkerBackend(SPEC).generate(make_requests(count=1))
    check_error(error.value)
    [log] = socket_folder.rglob("*.log")
    assert 2 == log.read_text().count("word") and 1 == str(error.value).count("word")


def hurry(monkeypatch):
    """Wait for seconds where a user waits for minutes."""
    monkeypatch.setattr(client, "WORD_SECONDS", 3.0)
    monkeypatch.setattr(connecting, "DEAF_SECONDS", 4.0)
    monkeypatch.setattr(connecting, "STOP_SECONDS", 3.0)


def test_a_process_that_stops_answering_is_said_and_replaced(monkeypatch):
    backend = WorkerBackend(SPEC)
    before = backend.generate(make_requests(count=2))
    [pid] = servers()
    os.kill(pid, signal.SIGSTOP)  # as a driver hangs, or a container is frozen
    hurry(monkeypatch)
    # Of a busy machine, the new process may be slow, too.
    with pytest.warns(UserWarning, match=r"the process \d+ that runs .* not answered") as caught:
        after = backend.generate(make_requests(count=2))
    assert f"the process {pid} " in str(caught[0].message)
    assert all(same_images(a.image, b.image) for a, b in zip(before, after, strict=True))
    assert pid not in servers() and 1 == len(servers())


@pytest.mark.parametrize("now", [True, False])
def test_to_stop_a_process_that_does_not_answer_ends(monkeypatch, now):
    backend = WorkerBackend(SPEC)
    backend.load()
    [pid] = servers()
    os.kill(pid, signal.SIGSTOP)
    hurry(monkeypatch)
    started = time.monotonic()
    backend.stop(now=now)
    assert time.monotonic() - started < 60
    assert wait_for(lambda: not servers())


@pytest.mark.parametrize("stop", [lambda backend: backend.stop(), lambda _: unload()])
def test_a_process_that_was_killed_leaves_no_socket_once_it_is_stopped(socket_folder, stop):
    backend = WorkerBackend(SPEC)
    backend.load()
    [pid] = servers()
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: not servers())
    assert list(socket_folder.rglob("*.sock"))
    stop(backend)
    assert not [path.name for path in socket_folder.rglob("*") if path.suffix in (".sock", ".key")]


def test_what_the_process_warns_of_is_warned_of_here_and_its_log_is_kept(socket_folder):
    backend, request = WorkerBackend(SPEC), make_request(prompt="x" * 100)
    with pytest.warns(UserWarning, match="the model reads 77 tokens"):
        backend.generate([request])
    [log] = socket_folder.rglob("*.log")
    backend.stop()
    assert not servers()
    assert "the model reads 77 tokens" in log.read_text()
    assert [log] == list(log.parent.iterdir())
    os.utime(log, (0, 0))
    backend.generate(make_requests(count=1))  # another process of another name would do, too
    assert [log] == list(socket_folder.rglob("*.log")) and not log.read_text()


def test_a_process_that_cannot_start_says_why_at_once(monkeypatch, tmp_path):
    (tmp_path / "script.py").write_text("import sys; sys.exit('no such thing as a model')")
    monkeypatch.setattr(client, "_SCRIPT", tmp_path / "script.py")
    with pytest.raises(GenerationError, match="ended with code 1 .* no such thing as a model"):
        WorkerBackend(SPEC).generate(make_requests(count=1))


def test_a_process_killed_as_it_starts_is_started_again(monkeypatch, tmp_path):
    script, real = tmp_path / "script.py", client._SCRIPT
    started = tmp_path / "started"
    script.write_text(
        "import os, pathlib, runpy, signal, sys\n"
        f"if not pathlib.Path({str(started)!r}).exists():\n"
        f"    pathlib.Path({str(started)!r}).touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"runpy.run_path({str(real)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(client, "_SCRIPT", script)
    assert 1 == len(WorkerBackend(SPEC).generate(make_requests(count=1)))
    assert started.exists()


def test_a_process_whose_owner_is_killed_ends_while_it_still_imports(tmp_path):
    """Its imports take seconds; here they never end."""
    (tmp_path / "diffaug").mkdir()
    importing = tmp_path / "importing"
    (tmp_path / "diffaug" / "__init__.py").write_text(
        f"import pathlib, time; pathlib.Path({str(importing)!r}).touch(); time.sleep(600)"
    )
    mother = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    where = str(tmp_path / "1-model.sock")
    Path(where).with_suffix(".key").touch()
    job = {"owner": [mother.pid, process_started(mother.pid)], "socket": where}
    job |= {
        "path": [str(tmp_path), *sys.path],
        "call": ["diffaug.backends.process.server", "run_server"],
    }
    child = subprocess.Popen([sys.executable, "-P", client._SCRIPT], stdin=subprocess.PIPE)
    child.stdin.write(json.dumps(job).encode() + b"\n")
    child.stdin.flush()
    assert wait_for(importing.exists) and child.poll() is None
    mother.kill()
    mother.wait()
    assert 0 == child.wait(100)
    assert not Path(where).with_suffix(".key").exists()


@pytest.mark.shared_process
def test_a_pickled_backend_is_its_spec_and_finds_the_same_process():
    backend = WorkerBackend(SPEC)
    backend.generate(make_requests(count=1))
    data = pickle.dumps(backend)
    assert len(data) < 1024
    [answer] = pickle.loads(data).generate(make_requests(count=1))
    assert same_images(backend.generate(make_requests(count=1))[0].image, answer.image)
    assert 1 == len(servers())


@pytest.mark.shared_process
def test_a_connection_inherited_through_a_fork_is_left_alone():
    backend = WorkerBackend(SPEC)
    [answer] = backend.generate(make_requests(count=1))
    context = multiprocessing.get_context("fork")
    pipe, end = context.Pipe()

    def child():
        # A child's owner is its parent, so it finds the same process.
        end.send(backend.generate(make_requests(count=1))[0].image.tolist())

    process = context.Process(target=child, daemon=True)
    process.start()
    assert pipe.poll(200) and answer.image.tolist() == pipe.recv()
    process.join()
    assert same_images(answer.image, backend.generate(make_requests(count=1))[0].image)
    assert 1 == len(servers())


class _Wheres(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return where()


def _by_loader():
    [[inside, owner]] = DataLoader(_Wheres(), num_workers=1, multiprocessing_context="fork")
    return bool(inside), int(owner)


def _by_executor(method):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as executor:
        return executor.submit(where).result(timeout=200)


def _by_fork():
    end, start = os.pipe()
    if not (child := os.fork()):
        os.write(start, json.dumps(where()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return tuple(json.loads(os.read(end, 100)))


def _by_multiprocess():
    with pytest.importorskip("multiprocess").get_context("fork").Pool(1) as pool:
        return pool.apply(where)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "ask",
    [
        _by_loader,
        partial(_by_executor, "fork"),
        partial(_by_executor, "spawn"),
        _by_fork,
        _by_multiprocess,
    ],
)
def test_a_worker_of_any_kind_is_one_and_its_model_ends_with_its_parent(ask):
    assert (True, os.getpid()) == ask()
    assert not client.in_child()


def _rank(queue, group):
    torch.distributed.init_process_group("gloo", f"file://{group}", rank=0, world_size=1)
    queue.put((where(), _by_multiprocess(), os.getpid()))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_model_of_a_rank_and_of_its_workers_ends_with_the_rank(tmp_path):
    """`torch.multiprocessing.spawn` starts ranks, which have GPUs and workers of their own."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_rank, args=(queue, tmp_path / "group"))
    process.start()
    itself, worker, number = queue.get(timeout=200)
    process.join()
    assert ((False, number), (True, number)) == (itself, worker)


def test_a_daemon_whose_parent_has_ended_is_nobody_s_worker(monkeypatch):
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(client, "_IMPORTED_IN", ended.pid)
    assert not client.in_child() and os.getpid() == client.owner_here()[0]


def test_processes_of_a_map_over_a_hugging_face_dataset_share_one_model(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(os, "environ", os.environ)  # a map replaces it by a copy
    monkeypatch.setenv("DIFFAUG_WORKER", "process")
    edit = PromptEdit(["snowy"], backend=SPEC, cache=False)

    def generate(row):
        image = edit(torch.full((3, 16, 16), row["level"], dtype=torch.uint8))
        return {"kind": type(edit.live_backend()).__name__, "image": image.flatten().tolist()}

    rows = datasets.Dataset.from_dict({"level": [60, 80, 100, 120]})
    rows = rows.map(generate, num_proc=2, new_fingerprint="any")
    assert ["WorkerBackend"] * 4 == rows["kind"][:]
    assert 4 == len(set(map(tuple, rows["image"])))
    assert 1 == len(servers())


def test_processes_with_a_gpu_each_have_a_model_each(monkeypatch, no_launcher):
    paths = [_Address(SPEC).path]
    for name, value in (
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("CUDA_VISIBLE_DEVICES", "2"),
        ("HIP_VISIBLE_DEVICES", "1"),
        ("ROCR_VISIBLE_DEVICES", "1"),
        ("MV2_COMM_WORLD_LOCAL_RANK", "3"),
        ("SLURM_LOCALID", "1"),
        ("LOCAL_RANK", "2"),
    ):
        monkeypatch.setenv(name, value)
        paths.append(_Address(SPEC).path)
    assert 8 == len(set(paths))


class _Jobs(Dataset):
    """What a worker would tell the model's process, and where that would listen."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 1

    def __getitem__(self, index):
        address = _Address(self.transform.backend)
        return json.dumps([address.job(b"")["spec"]["device"], address.owner, address.path.name])


def _told_by_workers(transform, method):
    environment = partial(set_environment, dict(os.environ))
    [[job]] = DataLoader(
        _Jobs(transform),
        num_workers=1,
        multiprocessing_context=method,
        worker_init_fn=environment,
    )
    return json.loads(job)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_model_of_a_rank_s_workers_runs_on_the_gpu_that_the_rank_trains_on(
    method, monkeypatch, no_launcher
):
    """As under `torch.multiprocessing.spawn`, or after `torch.cuda.set_device(1)` alone."""
    edit, rank = PromptEdit(["snowy"], backend=replace(SPEC, device="auto")), os.getpid()
    train_on(monkeypatch, 1)
    told = _told_by_workers(edit, method)
    assert ["cuda:1", rank, _Address(edit.backend).path.name] == told
    train_on(monkeypatch, 0)  # as another rank
    assert told[2] != _Address(edit.backend).path.name


def test_loaders_of_one_rank_share_a_process_and_a_device_that_was_named_stays(
    monkeypatch, no_launcher
):
    edit = PromptEdit(["snowy"], backend=replace(SPEC, device="auto"))
    assert "auto" == _told_by_workers(edit, "fork")[0]  # CUDA is not used, and not started
    train_on(monkeypatch, 1)
    told = _told_by_workers(edit, "fork")
    assert "cuda:1" == told[0] and told == _told_by_workers(edit, "fork")
    named = PromptEdit(["snowy"], backend=replace(SPEC, device="cuda:2"))
    assert "cuda:2" == _told_by_workers(named, "fork")[0]
    assert pin(edit.backend).fingerprint == pin(SPEC).fingerprint


@on_each_device
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_loader_share_one_process(method, device, monkeypatch):
    spec = replace(SPEC, device=device, pad=True)
    if device == "cpu":
        monkeypatch.setenv("DIFFAUG_WORKER", "process")
    else:  # as a training script does before it makes its loader
        torch.zeros(1, device=device)
    edit = PromptEdit(["snowy"], backend=spec, cache=False)
    loader = DataLoader(
        Photos(edit),
        4,
        num_workers=2,
        multiprocessing_context=method,
        worker_init_fn=partial(set_environment, dict(os.environ)),
    )
    images = torch.cat(list(loader))
    assert 1 == len(servers())
    here = Photos(PromptEdit(["snowy"], backend=DiffusersBackend(spec)))
    assert torch.equal(images, torch.stack([here[index] for index in range(8)]))
    if method == "fork":  # workers of another kind take seconds to start
        assert torch.equal(images, torch.cat(list(loader)))
        assert 1 == len(servers())
    # The main process joins the one that is there, and loads nothing itself.
    assert isinstance(edit.live_backend(), WorkerBackend)


def test_unload_ends_the_process_that_workers_started(monkeypatch):
    monkeypatch.setenv("DIFFAUG_WORKER", "process")
    edit = PromptEdit(["snowy"], backend=SPEC, cache=False)
    list(DataLoader(Photos(edit), 4, num_workers=1, multiprocessing_context="fork"))
    assert 1 == len(servers())
    unload()
    assert [] == servers()


def test_in_mid_epoch_its_death_goes_unnoticed(monkeypatch):
    monkeypatch.setenv("DIFFAUG_WORKER", "process")
    edit = PromptEdit(["snowy"], backend=SPEC, cache=False)
    loader = DataLoader(Photos(edit), 1, num_workers=2, prefetch_factor=1)
    batches = []
    for number, batch in enumerate(loader):
        batches.append(batch)
        if number == 2:
            os.kill(servers()[0], signal.SIGKILL)
    assert 8 == len(batches) and 1 == len(servers())


def test_kill_9_of_the_owner_leaves_no_process_and_no_socket(socket_folder, monkeypatch):
    monkeypatch.setenv("DIFFAUG_WORKER", "process")
    process = subprocess.Popen(
        command("loader_owner"), env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert "ready" == process.stdout.readline().strip()
    assert 1 == len(servers()) and list(socket_folder.rglob("*.sock"))
    process.kill()
    process.wait()
    assert wait_for(lambda: not servers())
    assert wait_for(lambda: not list((socket_folder / f"diffaug-{os.getuid()}").iterdir()))


@pytest.mark.parametrize(
    ("asked", "child", "there", "wanted"),
    [
        ("auto", True, False, False),
        ("process", True, False, True),
        ("process", False, False, False),
        ("process", False, True, True),
        ("never", True, True, False),
    ],
)
def test_where_a_model_on_a_cpu_runs(asked, child, there, wanted, monkeypatch):
    monkeypatch.setenv("DIFFAUG_WORKER", asked)
    monkeypatch.setattr(client, "in_child", lambda: child)
    monkeypatch.setattr(client._Address, "exists", lambda self: there)
    assert wanted == wants_process(SPEC)


@pytest.mark.parametrize(("device", "wanted"), [("cuda:1", True), ("mps", True), ("cpu", False)])
def test_in_a_worker_an_accelerator_s_model_has_its_own_process(device, wanted, monkeypatch):
    monkeypatch.setattr(client, "in_child", lambda: True)
    assert wanted == wants_process(replace(SPEC, device=device))


def test_an_unknown_way_is_told(monkeypatch):
    monkeypatch.setenv("DIFFAUG_WORKER", "thread")
    with pytest.raises(ValueError, match="'DIFFAUG_WORKER' must be auto, process or never"):
        wants_process(SPEC)


def test_a_folder_that_others_may_enter_is_refused(socket_folder):
    place = socket_folder / f"diffaug-{os.getuid()}"
    place.mkdir(mode=0o755)
    with pytest.raises(DiffaugError, match="must be a folder of this user alone"):
        WorkerBackend(SPEC).generate(make_requests(count=1))


def test_a_long_path_gives_way_to_a_short_one(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert len(str(_Address(SPEC).path)) < 104


@pytest.mark.shared_process
def test_who_does_not_know_the_key_is_turned_away():
    backend = WorkerBackend(SPEC)
    backend.generate(make_requests(count=1))
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(str(_Address(pin(SPEC)).path))
    with pytest.raises(protocol.WireError):
        protocol.prove(stranger, b"guessed")
    assert backend.generate(make_requests(count=1))


@pytest.mark.shared_process
def test_an_answer_that_was_not_waited_for_is_not_the_next_one_s(monkeypatch):
    """Ctrl-C in a notebook, and another cell asks for as many images."""
    backend, receive = WorkerBackend(SPEC), protocol.receive
    first, second = make_requests(count=2)
    backend.generate([first])

    def interrupted(connection):
        raise KeyboardInterrupt

    monkeypatch.setattr(protocol, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.generate([first])
    monkeypatch.setattr(protocol, "receive", receive)
    [answer] = backend.generate([second])
    assert same_images(DiffusersBackend(SPEC).generate([second])[0].image, answer.image)


def test_too_much_at_once_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_BODY", 100)
    with pytest.raises(
        ValueError, match="'requests' must take at most 100 bytes together, got 432"
    ):
        protocol.send(None, {}, [torch.zeros(3, 12, 12, dtype=torch.uint8)])


def test_images_of_any_shape_and_layout_cross_a_socket():
    ours, theirs = socket.socketpair()
    pixels = torch.arange(5 * 7 * 3, dtype=torch.uint8).view(5, 7, 3)
    sent = [pixels.permute(2, 0, 1), torch.zeros(0, 4, dtype=torch.uint8), pixels[::2]]
    protocol.send(ours, {"ask": "echo"}, sent)
    header, received = protocol.receive(theirs)
    assert {"ask": "echo"} == header
    for before, after in zip(sent, received, strict=True):
        assert before.shape == after.shape and torch.equal(before, after)
        after.zero_()  # nobody else's memory, and writable


@pytest.mark.parametrize("shapes", [[[3, 2, 3]], [[-3, -2, 2]], [[3, 2], [2, 2]]])
def test_pixels_that_do_not_fit_their_header_are_refused(shapes):
    ours, theirs = socket.socketpair()
    text = json.dumps({"shapes": shapes}).encode()
    ours.sendall(protocol._SIZES.pack(protocol._MARK, len(text), 12) + text + bytes(12))
    with pytest.raises(protocol.WireError, match="do not fit their header"):
        protocol.receive(theirs)


def test_a_dead_process_is_told_from_a_later_one_of_its_number():
    assert process_started(os.getpid()) == process_started(os.getpid()) != process_started(1)
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert wait_for(lambda: process_started(child.pid) is None)  # ended, though not waited for
    child.wait()
    assert process_started(child.pid) is None


def test_a_full_disk_for_the_sockets_is_said_with_its_folder(socket_folder, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(client, "write_private", full)
    message = rf"'{socket_folder}/diffaug-\d+' cannot be used for model processes \(No space left"
    with pytest.raises(DiffaugError, match=message):
        WorkerBackend(tiny_spec("edit")).load()


def test_a_relative_folder_for_the_sockets_is_the_same_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", ".")
    assert private_folder.private_folder().is_absolute()
