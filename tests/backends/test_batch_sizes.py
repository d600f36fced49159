"""The batch size that a model chooses by the memory of its device."""

import pickle

import pytest
import torch
from contracts import same_images
from tiny_pipelines import SIZE, make_requests, save_klein, tiny_spec

from diffaug import DiffusersBackend, ModelSpec
from diffaug.backends import batch_sizes
from diffaug.backends.base import BATCH_SIZE, batch_size_of
from diffaug.backends.batch_sizes import SIZES, fitting
from diffaug.backends.cache import CachedBackend
from diffaug.errors import GenerationError

MB = 2**20


class Card:
    """A device of some memory, on which a call takes so much for itself and for each image."""

    def __init__(self, free, of_a_call=100 * MB, of_an_image=100 * MB):
        self.left, self.of_a_call, self.of_an_image = free, of_a_call, of_an_image
        self.images = 0
        self.calls = []

    def free(self):
        return self.left

    def peak_of(self, call):
        call()
        return self.of_a_call + self.images * self.of_an_image

    def run(self, images):
        self.images = images
        self.calls.append(images)
        if self.of_a_call + images * self.of_an_image > self.left:
            raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture
def card(monkeypatch):
    """A card under the models of a test, which counts the images of each call."""
    card = Card(free=1000 * MB)

    def run_batch(pipe, spec, jobs):
        card.run(len(jobs))
        return inner(pipe, spec, jobs)

    inner = batch_sizes.run_batch
    monkeypatch.setattr(batch_sizes, "run_batch", run_batch)
    monkeypatch.setattr(batch_sizes, "memory_of", lambda device: card)
    return card


@pytest.mark.parametrize(
    ("free", "copies", "expected"),
    [
        (80_000 * MB, 1, 32),  # more at once are not faster
        (2000 * MB, 1, 12),  # 80 % of it, less 100 MB for the call, are 15 images
        (2000 * MB, 2, 6),  # half of that where recordings keep as much again
        (510 * MB, 1, 3),  # exactly the few that are tried
        (400 * MB, 1, 2),  # four images do not fit, two do
        (250 * MB, 1, 1),
        (10 * MB, 1, 1),  # nothing fits: the first batch will say so
    ],
)
def test_as_many_images_are_chosen_as_fit_into_the_free_memory(free, copies, expected):
    card = Card(free)
    assert expected == fitting(card.run, card, copies)
    assert max(card.calls) <= 4


def test_a_little_more_or_less_free_memory_gives_the_same_number():
    assert 1 == len({fitting(Card(free * MB).run, Card(free * MB)) for free in (1900, 2000, 2100)})


def test_calls_that_take_equal_memory_get_the_most():
    card = Card(1000 * MB, of_an_image=0)
    assert SIZES[-1] == fitting(card.run, card)


def test_a_failure_of_another_kind_is_no_question_of_memory():
    def fail(images):
        raise RuntimeError("the model is broken")

    with pytest.raises(RuntimeError, match="the model is broken"):
        fitting(fail, Card(1000 * MB))


@pytest.mark.parametrize("task", ["edit", "translate", "generate"])
def test_a_model_chooses_when_it_is_loaded_by_short_calls_and_keeps_the_number(card, task):
    backend = DiffusersBackend(tiny_spec(task, batch_size="auto", steps=10, pad=True))
    assert BATCH_SIZE == backend.batch_size  # a guess: nothing is loaded for it
    assert [] == card.calls
    images = backend.generate(make_requests(task, 2))
    assert [1, 4] == card.calls
    assert 6 == backend.batch_size == backend.choose_batch_size()
    card.left = 300 * MB
    backend.close()
    again = backend.generate(make_requests(task, 2))
    assert (6, [1, 4]) == (backend.batch_size, card.calls)
    fixed = DiffusersBackend(tiny_spec(task, batch_size=6, steps=10, pad=True))
    for one, two, three in zip(images, again, fixed.generate(make_requests(task, 2)), strict=True):
        assert torch.equal(one.image, two.image) and torch.equal(one.image, three.image)


def test_the_choice_neither_changes_keys_nor_the_global_random_state(card):
    auto = tiny_spec("edit", batch_size="auto")
    assert tiny_spec("edit").fingerprint == auto.fingerprint
    state = torch.get_rng_state()
    assert 6 == batch_size_of(CachedBackend(DiffusersBackend(auto)))
    assert torch.equal(state, torch.get_rng_state())
    copy = pickle.loads(pickle.dumps(DiffusersBackend(auto)))
    assert "auto" == copy.spec.batch_size


def test_a_batch_that_does_not_fit_after_all_is_halved(card):
    backend = DiffusersBackend(tiny_spec("edit", batch_size="auto"))
    assert 6 == backend.choose_batch_size()

    def hook(_, inputs):
        if len(inputs[0]) > 3 * 3:  # three arms of guidance
            raise torch.OutOfMemoryError("CUDA out of memory.")

    backend._pipe.unet.register_forward_pre_hook(hook)
    with pytest.warns(UserWarning, match="a batch of 6 does not fit into memory; later ones"):
        backend.generate(make_requests(count=6))
    assert 3 == backend.batch_size


def test_a_limit_holds_before_and_after_the_model_chose(card):
    backend = DiffusersBackend(tiny_spec("edit", batch_size="auto"))
    backend.limit_batch_size(4)
    assert 4 == backend.batch_size == backend.choose_batch_size()
    backend.limit_batch_size(2)
    backend.limit_batch_size(3)
    assert 2 == backend.batch_size


def test_nothing_is_compiled_to_choose(card, monkeypatch):
    compiled = []

    def note(function, **settings):
        def run(*args, **kwargs):
            compiled.append(torch.compiler.is_compiling())
            return function(*args, **kwargs)

        return run

    stances = []
    stance = torch.compiler.set_stance
    monkeypatch.setattr(torch, "compile", note)
    monkeypatch.setattr(
        torch.compiler, "set_stance", lambda name: stances.append(name) or stance(name)
    )
    DiffusersBackend(tiny_spec("edit", batch_size="auto", compile=True)).choose_batch_size()
    assert ["force_eager"] == stances and compiled


def test_a_model_that_fails_as_it_is_measured_is_one_line_and_is_not_kept(monkeypatch):
    def fail(*_):
        raise RuntimeError("a kernel\nis broken")

    monkeypatch.setattr(batch_sizes, "run_batch", fail)
    monkeypatch.setattr(batch_sizes, "memory_of", lambda device: Card(1000 * MB))
    backend = DiffusersBackend(tiny_spec("edit", batch_size="auto"))
    with pytest.raises(GenerationError, match=r"failed with RuntimeError: a kernel"):
        backend.choose_batch_size()
    assert backend._pipe is None


def test_without_a_gpu_and_for_one_image_editors_it_is_the_usual_number(tmp_path, card):
    klein = ModelSpec(save_klein(tmp_path), size=64, device="cpu", steps=1, batch_size="auto")
    assert BATCH_SIZE == DiffusersBackend(klein).choose_batch_size()
    assert [] == card.calls


def test_on_a_cpu_it_is_the_usual_number():
    assert batch_sizes.memory_of(torch.device("cpu")) is None
    auto = DiffusersBackend(tiny_spec("edit", batch_size="auto", pad=True))
    assert BATCH_SIZE == auto.choose_batch_size()
    plain = DiffusersBackend(tiny_spec("edit", batch_size=BATCH_SIZE, pad=True))
    for one, two in zip(*(b.generate(make_requests()) for b in (auto, plain)), strict=True):
        assert same_images(one.image, two.image, exact=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_chosen_batch_runs():
    spec = tiny_spec("edit", batch_size="auto", device="cuda", pad=True)
    backend = DiffusersBackend(spec)
    assert 32 == backend.choose_batch_size()  # of such a small model
    assert (SIZE, SIZE) == tuple(backend.generate(make_requests())[0].image.shape[1:])
