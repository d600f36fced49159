"""CachedBackend gives what the model gave, from disk, whatever happens to the disk."""

import errno
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from contracts import check_backend
from hypothesis import given, settings
from hypothesis import strategies as st

import diffaug
from diffaug.backends.base import Backend
from diffaug.backends.cache import CachedBackend, CacheInfo, cache_info, clear_cache
from diffaug.backends.recording import RecordingBackend
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.errors import GenerationError

FORMATS = ("jpeg", "raw")
HOUR = 3600
# Forked: they start at once, and what they share is only the folder.
fork = multiprocessing.get_context("fork")


class ScriptedBackend:
    """Answer each request with a function; remember how many requests each call had."""

    fingerprint = "scripted"
    size = None

    def __init__(self, answer: Callable[[GenerationRequest], Generated]) -> None:
        self.answer = answer
        self.calls: list[int] = []
        self.closed = 0

    def generate(self, requests):
        self.calls.append(len(requests))
        return [self.answer(request) for request in requests]

    def close(self):
        self.closed += 1


def photo(seed: int, height: int = 8, width: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def requests_for(*seeds: int) -> list[GenerationRequest]:
    return [GenerationRequest("sunset", seed=seed, image=photo(seed)) for seed in seeds]


def pixels(generated: list[Generated]) -> torch.Tensor:
    return torch.stack([answer.image for answer in generated])


def echo(request: GenerationRequest) -> Generated:
    return Generated(request.image, seed=request.seed)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def used_seconds_ago(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def write(folder: Path, *seeds: int) -> list[Path]:
    """Store an entry of equal size for each seed and return their files in this order."""
    paths = []
    for seed in seeds:
        before = set(files_in(folder))
        CachedBackend(RecordingBackend(size=8), folder=folder, format="raw").generate(
            requests_for(seed)
        )
        paths += set(files_in(folder)) - before
    return paths


@pytest.fixture
def model() -> RecordingBackend:
    return RecordingBackend(size=8)


@pytest.fixture(params=FORMATS)
def cached(request, model, tmp_path) -> CachedBackend:
    return CachedBackend(model, folder=tmp_path / "cache", format=request.param)


class TestContract:
    def test_is_a_backend_with_the_fingerprint_and_size_of_the_one_it_asks(self, cached, model):
        assert isinstance(cached, Backend)
        assert (cached.fingerprint, cached.size) == (model.fingerprint, model.size)

    def test_keeps_what_every_backend_promises(self, cached):
        def make_backend() -> Backend:
            return CachedBackend(
                RecordingBackend(size=8), folder=cached.folder, format=cached.format
            )

        check_backend(make_backend, requests_for(0, 1, 2), exact=True)

    def test_order_is_kept_and_every_missing_image_is_asked_for_once(self, cached, model):
        cached.generate(requests_for(2))
        generated = cached.generate(requests_for(3, 1, 2, 3, 0, 1))
        assert [answer.seed for answer in generated] == [3, 1, 2, 3, 0, 1]
        assert [request.seed for request in model.requests] == [2, 3, 1, 0]

    def test_all_that_is_missing_goes_to_the_backend_in_one_call(self, tmp_path):
        model = ScriptedBackend(echo)
        cached = CachedBackend(model, folder=tmp_path)
        cached.generate(requests_for(0, 1))
        cached.generate(requests_for(0, 5, 1, 6, 7))
        cached.generate(requests_for(7, 0))
        assert model.calls == [2, 3]

    def test_an_empty_list_asks_nothing_and_touches_nothing(self, cached, model):
        assert cached.generate([]) == []
        assert model.requests == []
        assert not cached.folder.exists()

    def test_requests_that_differ_in_one_field_do_not_share_an_entry(self, cached, model):
        source = photo(0)
        requests = [
            GenerationRequest("sunset", seed=1, image=source),
            GenerationRequest("snowy", seed=1, image=source),
            GenerationRequest("sunset", seed=2, image=source),
            GenerationRequest("sunset", seed=1, image=source, strength=0.5),
            GenerationRequest("sunset", seed=1, image=source, negative_prompt="blurry"),
            GenerationRequest("sunset", seed=1, image=source + 1),
        ]
        cached.generate(requests)
        assert len(model.requests) == cache_info(cached.folder).entries == len(requests)

    def test_models_and_formats_do_not_share_entries(self, tmp_path):
        for size in (8, 16):
            for format in FORMATS:
                model = RecordingBackend(size=size)
                CachedBackend(model, folder=tmp_path, format=format).generate(requests_for(0))
                assert len(model.requests) == 1

    def test_close_closes_the_backend_and_may_come_twice(self, tmp_path):
        model = ScriptedBackend(echo)
        with CachedBackend(model, folder=tmp_path) as cached:
            cached.generate(requests_for(0))
        assert model.closed == 1
        cached.close()

    def test_an_error_of_the_backend_passes_through_and_nothing_is_kept(self, tmp_path):
        def fail(request: GenerationRequest) -> Generated:
            raise GenerationError("The model ran out of memory.")

        with pytest.raises(GenerationError, match="ran out of memory"):
            CachedBackend(ScriptedBackend(fail), folder=tmp_path).generate(requests_for(0, 1))
        assert cache_info(tmp_path).entries == 0

    def test_no_random_number_is_drawn(self, cached):
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        cached.generate(requests_for(0, 1))
        cached.generate(requests_for(1, 2))
        assert torch.equal(before[0], torch.get_rng_state())
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]

    @pytest.mark.parametrize(
        ("backend", "settings", "error", "message"),
        [
            ("sd15", {}, TypeError, "'backend' must be a backend, got str."),
            (RecordingBackend(), {"max_bytes": -1}, ValueError, "'max_bytes' must be at least 1"),
            (RecordingBackend(), {"max_bytes": 0}, ValueError, "at least 1, got 0."),
            (
                RecordingBackend(),
                {"max_bytes": float("nan")},
                TypeError,
                "must be an integer, got nan",
            ),
            (
                RecordingBackend(),
                {"max_bytes": float("inf")},
                TypeError,
                "must be an integer, got inf",
            ),
            (RecordingBackend(), {"format": "png"}, ValueError, "must be jpeg or raw, got 'png'."),
        ],
    )
    def test_a_wrong_argument_is_named(self, backend, settings, error, message):
        with pytest.raises(error, match=message):
            CachedBackend(backend, **settings)


class TestHitsAndMisses:
    def test_a_hit_equals_the_miss_bit_for_bit(self, cached, model):
        missed, hit = cached.generate(requests_for(0, 1)), cached.generate(requests_for(0, 1))
        assert len(model.requests) == 2
        assert torch.equal(pixels(missed), pixels(hit))

    def test_raw_keeps_the_exact_pixels(self, model, tmp_path):
        generated = CachedBackend(model, folder=tmp_path, format="raw").generate(requests_for(0, 1))
        assert torch.equal(pixels(model.generate(requests_for(0, 1))), pixels(generated))

    def test_jpeg_keeps_a_smooth_image_within_a_few_levels(self, tmp_path):
        ramp = torch.linspace(20, 230, 64).expand(3, 64, 64).to(torch.uint8)
        request = GenerationRequest("sunset", seed=0, image=ramp)
        [generated] = CachedBackend(ScriptedBackend(echo), folder=tmp_path).generate([request])
        assert (generated.image.int() - ramp.int()).abs().max() <= 4

    @settings(deadline=None, max_examples=40)
    @given(
        height=st.integers(1, 70),
        width=st.integers(1, 70),
        seed=st.integers(0, 2**53 - 1),
        format=st.sampled_from(FORMATS),
    )
    def test_any_size_comes_back_as_it_was_stored(self, height, width, seed, format):
        request = GenerationRequest("sunset", seed=seed, image=photo(seed % 99, height, width))
        model = ScriptedBackend(echo)
        with tempfile.TemporaryDirectory() as folder:
            cached = CachedBackend(model, folder=folder, format=format)
            [missed], [hit] = cached.generate([request]), cached.generate([request])
        assert model.calls == [1]
        assert (hit.image.shape, hit.image.dtype) == ((3, height, width), torch.uint8)
        assert torch.equal(missed.image, hit.image)
        assert (hit.seed, hit.attempts, hit.fallback) == (seed, 1, False)

    def test_seed_and_attempts_are_kept(self, tmp_path):
        def second_try(request: GenerationRequest) -> Generated:
            return Generated(request.image, seed=request.seed + 1, attempts=2)

        cached = CachedBackend(ScriptedBackend(second_try), folder=tmp_path)
        for [generated] in (cached.generate(requests_for(4)), cached.generate(requests_for(4))):
            assert (generated.seed, generated.attempts) == (5, 2)

    def test_a_fallback_is_returned_and_never_kept(self, tmp_path):
        def refuse_odd(request: GenerationRequest) -> Generated:
            odd = bool(request.seed % 2)
            return Generated(request.image, seed=request.seed, attempts=3, fallback=odd)

        model = ScriptedBackend(refuse_odd)
        cached = CachedBackend(model, folder=tmp_path)
        for _ in range(2):
            generated = cached.generate(requests_for(0, 1, 2, 3))
            assert [answer.fallback for answer in generated] == [False, True, False, True]
            assert torch.equal(photo(3), generated[3].image)
        assert model.calls == [4, 2]
        assert cache_info(tmp_path).entries == 2

    def test_changing_an_image_in_place_reaches_no_other(self, cached):
        expected = cached.generate(requests_for(0))[0].image
        for _ in range(2):
            first, second = cached.generate(requests_for(0, 0))
            first.image.zero_()
            assert torch.equal(expected, second.image)

    def test_changing_a_fallback_in_place_leaves_the_source_alone(self, tmp_path):
        def refuse(request: GenerationRequest) -> Generated:
            return Generated(request.image, seed=request.seed, attempts=4, fallback=True)

        [request] = requests_for(0)
        [generated] = CachedBackend(ScriptedBackend(refuse), folder=tmp_path).generate([request])
        generated.image.zero_()
        assert torch.equal(photo(0), request.image)

    def test_another_process_finds_what_this_one_made(self, model, tmp_path):
        cached = CachedBackend(model, folder=tmp_path)
        expected = cached.generate(requests_for(0, 1))
        code = f"""
import torch
from test_cache import ScriptedBackend, pixels, requests_for
from diffaug.backends.cache import CachedBackend
class Other(ScriptedBackend):
    fingerprint = {cached.fingerprint!r}
def fail(request): raise AssertionError("the model was asked")
cached = CachedBackend(Other(fail), folder={str(tmp_path)!r})
print(pixels(cached.generate(requests_for(0, 1))).flatten().tolist())
"""
        here, root = Path(__file__).parent, Path(diffaug.__file__).parents[1]
        paths = [str(here), str(here.parent), str(root)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert run.stdout.strip() == str(pixels(expected).flatten().tolist()), run.stderr


class TestDamage:
    DAMAGES: ClassVar = {
        "a flipped bit in the pixels": lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        "a flipped bit in the text": lambda data: data.replace(b'"seed": 0', b'"seed": 1'),
        "truncated": lambda data: data[: len(data) // 2],
        "longer than written": lambda data: data + b"\0",
        "empty": lambda data: b"",
        "zeros, as after a power cut": lambda data: bytes(len(data)),
        "a foreign file": lambda data: b"\xff\xd8\xff\xe0 some photo",
        "of another version": lambda data: data.replace(b"diffaug-1", b"diffaug-0"),
    }

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_entry_is_noticed_and_made_again(self, damage, cached, model):
        expected = cached.generate(requests_for(0))[0]
        [path] = files_in(cached.folder)
        intact = path.read_bytes()
        path.write_bytes(self.DAMAGES[damage](intact))
        assert path.read_bytes() != intact
        [again] = cached.generate(requests_for(0))
        assert len(model.requests) == 2
        assert torch.equal(expected.image, again.image)
        assert path.read_bytes() == intact
        cached.generate(requests_for(0))
        assert len(model.requests) == 2

    def test_a_flip_or_a_cut_at_any_byte_is_noticed(self, tmp_path):
        model = ScriptedBackend(echo)
        cached = CachedBackend(model, folder=tmp_path, format="raw")
        request = GenerationRequest("sunset", seed=0, image=photo(0, 1, 1))
        cached.generate([request])
        [path] = files_in(tmp_path)
        intact = path.read_bytes()
        for position in range(len(intact)):
            flipped = bytearray(intact)
            flipped[position] ^= 0x40
            for damaged in (flipped, intact[:position]):
                path.write_bytes(damaged)
                cached.generate([request])
        assert len(model.calls) == 1 + 2 * len(intact)

    def test_an_entry_copied_to_another_place_is_noticed(self, cached, model):
        expected = cached.generate(requests_for(0, 1))
        shutil.copy(*files_in(cached.folder))
        assert torch.equal(pixels(expected), pixels(cached.generate(requests_for(0, 1))))
        assert len(model.requests) == 3


class TestManyAtOnce:
    def test_four_processes_writing_the_same_entries_all_get_the_same_images(self, tmp_path):
        seeds, results = range(40), fork.SimpleQueue()

        def work(order: int) -> None:
            cached = CachedBackend(RecordingBackend(size=8), folder=tmp_path)
            shuffled = random.Random(order % 2).sample(seeds, len(seeds))
            generated = {
                seed: cached.generate(requests_for(seed))[0].image.tolist() for seed in shuffled
            }
            results.put(sorted(generated.items()))

        workers = [fork.Process(target=work, args=(order,)) for order in range(4)]
        for worker in workers:
            worker.start()
        answers = [results.get() for _ in workers]
        for worker in workers:
            worker.join(60)
        model = RecordingBackend(size=8)
        expected = CachedBackend(model, folder=tmp_path).generate(requests_for(*seeds))
        assert model.requests == []
        assert len(files_in(tmp_path)) == len(seeds)
        for answer in answers:
            assert answer == [(generated.seed, generated.image.tolist()) for generated in expected]

    def test_a_process_killed_while_writing_leaves_no_half_entry(self, tmp_path):
        rounds, each = 8, 80

        def work(first: int) -> None:
            cached = CachedBackend(RecordingBackend(size=96), folder=tmp_path, format="raw")
            for seed in range(first, first + each):
                cached.generate(requests_for(seed))

        delays = random.Random(0)
        for number in range(rounds):
            before = cache_info(tmp_path).entries
            worker = fork.Process(target=work, args=(number * each,))
            worker.start()
            while cache_info(tmp_path).entries == before and worker.is_alive():
                time.sleep(0.001)
            time.sleep(delays.uniform(0, 0.02))
            os.kill(worker.pid, signal.SIGKILL)
            worker.join(60)
        kept = cache_info(tmp_path).entries
        model = RecordingBackend(size=96)
        cached = CachedBackend(model, folder=tmp_path, format="raw")
        generated = cached.generate(requests_for(*range(rounds * each)))
        assert kept >= rounds
        assert len(model.requests) == rounds * each - kept
        assert torch.equal(
            pixels(model.generate(requests_for(*range(rounds * each)))), pixels(generated)
        )

    def test_a_process_killed_before_renaming_leaves_only_a_temporary_file(self, tmp_path):
        def work() -> None:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            CachedBackend(RecordingBackend(size=8), folder=tmp_path).generate(requests_for(0))

        worker = fork.Process(target=work)
        worker.start()
        worker.join(60)
        assert worker.exitcode == -signal.SIGKILL
        [left] = files_in(tmp_path)
        assert left.suffix == ".tmp"
        assert cache_info(tmp_path) == CacheInfo(tmp_path, entries=0, bytes=0)
        clear_cache(tmp_path)
        assert files_in(tmp_path) == []

    def test_threads_may_share_one_backend(self, cached, model):
        answers = {}

        def work(number: int) -> None:
            answers[number] = pixels(cached.generate(requests_for(*range(20))))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        expected = pixels(cached.generate(requests_for(*range(20))))
        assert len(answers) == 4
        assert all(torch.equal(expected, answer) for answer in answers.values())

    def test_clearing_while_others_write_disturbs_nobody(self, cached):
        def clear_again_and_again() -> None:
            while writer.is_alive():
                clear_cache(cached.folder)

        def work() -> None:
            for seed in range(150):
                generated.extend(cached.generate(requests_for(seed)))

        generated: list[Generated] = []
        writer = threading.Thread(target=work)
        clearer = threading.Thread(target=clear_again_and_again)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            writer.start()
            clearer.start()
            writer.join(60)
            clearer.join(60)
        assert [answer.seed for answer in generated] == list(range(150))


class TestCap:
    def fill(self, folder: Path, *seeds: int, cap: int) -> None:
        """Ask for one image after the other, each time as a new process would."""
        for seed in seeds:
            model = RecordingBackend(size=8)
            CachedBackend(model, folder=folder, max_bytes=cap, format="raw").generate(
                requests_for(seed)
            )

    def test_the_least_recently_used_go_first_until_all_are_just_below_the_cap(self, tmp_path):
        paths = write(tmp_path, *range(10, 30))
        random.Random(0).shuffle(paths)
        for age, path in enumerate(paths):
            used_seconds_ago(path, HOUR - age)
        self.fill(tmp_path, 30, cap=20 * paths[0].stat().st_size)
        assert set(paths) & set(files_in(tmp_path)) == set(paths[2:])
        assert cache_info(tmp_path).entries == 19

    def test_a_hit_counts_as_use(self, tmp_path):
        oldest, *others = write(tmp_path, 0, 1, 2)
        used_seconds_ago(oldest, 3 * HOUR)
        for path in others:
            used_seconds_ago(path, 2 * HOUR)
        self.fill(tmp_path, 0, 3, cap=3 * oldest.stat().st_size)
        assert oldest.exists()
        assert not all(path.exists() for path in others)

    def test_a_hit_on_a_recently_used_entry_writes_nothing(self, tmp_path):
        [path] = write(tmp_path, 0)
        used_seconds_ago(path, 60)
        before = path.stat().st_mtime_ns
        write(tmp_path, 0)
        assert path.stat().st_mtime_ns == before

    def test_an_entry_larger_than_the_cap_is_returned_and_not_kept(self, tmp_path):
        cached = CachedBackend(RecordingBackend(size=8), folder=tmp_path, max_bytes=10)
        assert cached.generate(requests_for(0))[0].seed == 0
        assert cache_info(tmp_path).entries == 0

    def test_short_lived_processes_together_keep_to_the_cap_with_few_scans(
        self, tmp_path, monkeypatch
    ):
        scans = []
        evict = diffaug.backends.cache._evict
        monkeypatch.setattr(
            diffaug.backends.cache, "_evict", lambda *args: (scans.append(1), evict(*args))
        )
        [first] = write(tmp_path, 0)
        cap = 500 * first.stat().st_size
        scans.clear()
        self.fill(tmp_path, *range(1, 801), cap=cap)
        assert 80 <= len(scans) <= 240  # 160 expected: every fifth, a hundredth of the cap
        assert 0.95 * cap <= cache_info(tmp_path).bytes <= 1.05 * cap

    def test_abandoned_temporary_files_go_and_recent_and_foreign_files_stay(self, tmp_path):
        [entry] = write(tmp_path, 0)
        old, recent, foreign = (
            entry.with_name(entry.name + suffix)
            for suffix in (f".{'a' * 16}.tmp", f".{'b' * 16}.tmp", ".tmp")
        )
        for path in (old, recent, foreign):
            path.write_bytes(bytes(1000))
        used_seconds_ago(old, 2 * HOUR)
        used_seconds_ago(foreign, 2 * HOUR)
        self.fill(tmp_path, 1, cap=2000)
        assert not old.exists()
        assert recent.exists()
        assert foreign.exists()
        assert entry.exists(), "temporary files do not count towards the cap"


class TestUnusableFolder:
    @pytest.fixture
    def expected(self, model, tmp_path) -> torch.Tensor:
        return pixels(CachedBackend(model, folder=tmp_path / "good").generate(requests_for(0, 1)))

    def check_warns_once(self, cached: CachedBackend, expected: torch.Tensor) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            generated = [cached.generate(requests_for(0, 1)) for _ in range(3)]
        assert all(torch.equal(expected, pixels(images)) for images in generated)
        [message] = [
            str(warning.message) for warning in caught if warning.category is RuntimeWarning
        ]
        assert message.startswith(
            f"Generated images are not kept: cannot write to '{cached.folder}'"
        )

    def test_a_file_in_place_of_the_folder_warns_once_and_changes_no_pixel(
        self, expected, model, tmp_path
    ):
        (tmp_path / "file").write_text("in the way")
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            self.check_warns_once(CachedBackend(model, folder=folder), expected)
        assert (tmp_path / "file").read_text() == "in the way"

    @pytest.mark.parametrize("call", ["replace", "mkdir"])
    def test_a_full_disk_warns_once_changes_no_pixel_and_leaves_nothing(
        self, call, expected, model, tmp_path, monkeypatch
    ):
        def full(*args: object, **settings: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, call, full)
        self.check_warns_once(CachedBackend(model, folder=tmp_path / "full"), expected)
        assert files_in(tmp_path / "full") == []

    def test_keeping_starts_again_when_the_disk_has_room(self, model, tmp_path, monkeypatch):
        cached = CachedBackend(model, folder=tmp_path / "file")
        (tmp_path / "file").write_text("in the way")
        with pytest.warns(RuntimeWarning):
            cached.generate(requests_for(0))
        (tmp_path / "file").unlink()
        cached.generate(requests_for(0))
        cached.generate(requests_for(0))
        assert len(model.requests) == 2

    def test_a_folder_that_vanishes_is_made_again(self, cached, model):
        cached.generate(requests_for(0))
        shutil.rmtree(cached.folder)
        cached.generate(requests_for(0))
        cached.generate(requests_for(0))
        assert len(model.requests) == 2


class TestFolder:
    @pytest.fixture(autouse=True)
    def root(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "root"))
        return tmp_path / "root"

    def test_the_default_lies_under_the_cache_root_and_is_looked_up_on_first_use(
        self, root, model, monkeypatch
    ):
        cached = CachedBackend(model)
        monkeypatch.setenv("DIFFAUG_CACHE", str(root / "later"))
        assert not root.exists()
        cached.generate(requests_for(0))
        assert cached.folder == cache_info().folder == root / "later" / "generated"
        assert cache_info().entries == 1
        assert clear_cache().entries == 1
        assert cache_info().entries == 0

    def test_a_relative_folder_and_a_home_are_understood(self, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert CachedBackend(model, folder="here").folder == tmp_path / "here"
        assert CachedBackend(model, folder="~/there").folder == tmp_path / "home" / "there"

    def test_info_counts_entries_and_their_bytes(self, tmp_path):
        size = sum(path.stat().st_size for path in write(tmp_path, 0, 1, 2))
        assert cache_info(tmp_path) == CacheInfo(tmp_path, entries=3, bytes=size)

    def test_a_folder_that_does_not_exist_is_empty(self, tmp_path):
        empty = CacheInfo(tmp_path / "none", entries=0, bytes=0)
        assert cache_info(tmp_path / "none") == clear_cache(tmp_path / "none") == empty
        assert not (tmp_path / "none").exists()

    def test_clearing_removes_what_is_ours_and_nothing_else(self, tmp_path):
        folder = tmp_path / "cache"
        paths = write(folder, *range(5))
        foreign = [
            folder / "notes.txt",
            folder / "photo.jpeg",
            folder / "ab" / "photo.jpeg",
            paths[0].with_suffix(".png"),
            folder / "other" / paths[0].name,
        ]
        for path in foreign:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("mine")
        (folder / "ff").mkdir(exist_ok=True)
        before = cache_info(folder)
        assert clear_cache(folder) == before
        assert files_in(folder) == sorted(foreign)
        assert cache_info(folder) == CacheInfo(folder, entries=0, bytes=0)


class TestTravel:
    def test_pickles_small_before_and_after_use(self, cached):
        fresh = pickle.dumps(cached)
        cached.backend.requests.clear()
        expected = cached.generate(requests_for(0))
        cached.backend.requests.clear()
        used = pickle.dumps(cached)
        for data in (fresh, used):
            assert len(data) < 1000
            copy = pickle.loads(data)
            assert torch.equal(pixels(expected), pixels(copy.generate(requests_for(0))))
            assert copy.backend.requests == []

    def test_entries_hold_text_and_pixels_and_no_pickle(self, tmp_path):
        [path] = write(tmp_path, 7)
        first, payload = path.read_bytes().split(b"\n", 1)
        assert first.startswith(b"diffaug-1 ")
        assert first.endswith(b' {"format": "raw", "shape": [3, 8, 8], "seed": 7, "attempts": 1}')
        assert len(payload) == 3 * 8 * 8
