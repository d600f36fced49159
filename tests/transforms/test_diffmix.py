"""DiffMix: samples and batches in every form, labels that say what was made, pools, errors."""

import copy
import math
import pickle
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from answers import refuse, refused
from PIL import Image
from tiny_pipelines import SIZE, tiny_spec
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug import (
    CachedBackend,
    ClassPairSampler,
    DiffMix,
    DiffusersBackend,
    HalfConcat,
    JointTransform,
    MixCollate,
    ModelSpec,
    RecordingBackend,
    unload,
)
from diffaug.transforms.strategies import Strategy

NAMES = ["ant", "bee", "cat"]
GAMMA = 0.8


def mixer(**options):
    names = options.pop("class_names", NAMES)
    settings = {"p": 0.5, "gamma": GAMMA, "backend": RecordingBackend(16)}
    return DiffMix(names, **{**settings, **options})


def always(**options):
    """A transform that passes over no image; the warning that it should is another test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mixer(p=1.0, **options)


def expected_label(request, source, gamma=GAMMA, names=NAMES, width=None):
    """The formula, from nothing but what the model was asked for."""
    target = names.index(request.prompt.removeprefix("a photo of a "))
    weight = request.strength**gamma if request.strength else 0.0
    label = [0.0] * (width or len(names))
    for number, share in enumerate(source if isinstance(source, list) else one_hot(source)):
        label[number] += (1 - weight) * share
    label[target] += weight
    return torch.tensor(label)


def one_hot(number):
    return [float(number == one) for one in range(len(NAMES))]


def photograph(seed=0, height=24, width=30):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


# What goes in, and what comes out.

IMAGES = {
    "RGB": lambda: photograph(),
    "L": lambda: photograph().convert("L"),
    "P": lambda: photograph().convert("P"),
    "uint8": lambda: torch.randint(0, 256, (3, 24, 30), dtype=torch.uint8),
    "float": lambda: torch.rand(3, 24, 30),
    "half": lambda: torch.rand(3, 24, 30).half(),
    "grey": lambda: torch.rand(1, 24, 30),
    "tv_tensor": lambda: tv_tensors.Image(torch.rand(3, 24, 30)),
    "one pixel": lambda: torch.rand(3, 1, 1),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("compose", [v2.Compose, v1.Compose])
def test_an_image_keeps_type_dtype_and_size_and_gets_a_soft_label(kind, compose):
    image, backend = IMAGES[kind](), RecordingBackend(16)
    made, label = compose([always(backend=backend)])((image, 1))
    assert type(image) is type(made)
    if isinstance(image, Image.Image):
        assert (image.mode, image.size) == (made.mode, made.size)
        assert image.tobytes() != made.tobytes()
    else:
        assert (image.shape, image.dtype) == (made.shape, made.dtype)
        assert not torch.equal(image, made)
    assert torch.float32 == label.dtype
    torch.testing.assert_close(expected_label(backend.requests[0], 1), label)


SINGLE = {
    "int": (1, 1),
    "numpy": (np.int64(1), 1),
    "0-d": (torch.tensor(1), 1),
    "0-d uint8": (torch.tensor(1, dtype=torch.uint8), 1),
    "soft": (torch.tensor([0.2, 0.5, 0.3]), [0.2, 0.5, 0.3]),
    "soft numpy": (np.array([0.2, 0.5, 0.3]), [0.2, 0.5, 0.3]),
    "soft list": ([0.2, 0.5, 0.3], [0.2, 0.5, 0.3]),
    "soft double": (torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), [0.2, 0.5, 0.3]),
}


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_label_of_one_image_comes_in_any_form(kind, p):
    given, source = SINGLE[kind]
    backend = RecordingBackend(16)
    mix = (always if p else mixer)(backend=backend, pairs="other", **({} if p else {"p": 0.0}))
    _, label = mix((photograph(), given))
    passed = torch.tensor(source if isinstance(source, list) else one_hot(source))
    expected = expected_label(backend.requests[0], source) if p else passed
    assert (torch.float32, (3,)) == (label.dtype, label.shape)
    torch.testing.assert_close(expected, label)


ALONE = {
    "(1,)": torch.tensor([1]),
    "(1,) numpy": np.array([1]),
    "(1, 1)": torch.tensor([[1]]),
    "list": [1],
    "one-hot": torch.tensor([0, 1, 0]),
    "one-hot uint8": np.array([0, 1, 0], dtype=np.uint8),
    "one-hot half": torch.tensor([0, 1, 0]).half(),
    "(1, C)": torch.tensor([[0, 1, 0]]),
}


@pytest.mark.parametrize("kind", ALONE)
@pytest.mark.parametrize("image", [photograph(), torch.rand(3, 8, 8)], ids=["PIL", "tensor"])
def test_beside_one_image_a_label_is_one_label(kind, image):
    _, label = mixer(p=0.0)((image, ALONE[kind]))
    assert (torch.float32, [0.0, 1.0, 0.0]) == (label.dtype, label.tolist())


def test_default_collate_makes_a_batch_of_labels_of_shape_1():
    data = [(torch.rand(3, 8, 8), np.array([number])) for number in range(3)]
    _, labels = default_collate([mixer(p=0.0)(sample) for sample in data])
    assert torch.equal(torch.eye(3), labels)


@pytest.mark.parametrize("labels", [[0, 1], torch.tensor([[0], [1]]), [np.array([1, 0, 0]), 1]])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_images_with_a_label_each_is_a_batch(kind, labels):
    """As a transform of a Hugging Face data set gets them."""
    backend, pictures = RecordingBackend(16), kind([photograph(0), photograph(1)])
    made = always(backend=backend)({"image": pictures, "label": labels})
    assert kind is type(made["image"]) and (2, 3) == made["label"].shape
    for number, request in enumerate(backend.requests):
        torch.testing.assert_close(expected_label(request, number), made["label"][number])
        assert made["image"][number].tobytes() != pictures[number].tobytes()


def test_a_list_of_one_image_is_a_batch_of_one():
    for labels in ([2], torch.tensor([2]), [torch.tensor([0.0, 0.0, 1.0])]):
        made = mixer(p=0.0)({"image": [torch.rand(3, 8, 8)], "label": labels})
        assert [[0, 0, 1]] == made["label"].tolist()


def test_views_of_one_image_share_their_label():
    views = [photograph(0), photograph(1)]
    for label in (1, torch.tensor([0, 1, 0]), np.array([0.0, 1.0, 0.0])):
        made, mixed = mixer(p=0.0)((views, label))
        assert [0, 1, 0] == mixed.tolist() and views == made


def test_labels_beside_a_list_that_may_be_one_or_several_are_refused():
    with pytest.raises(
        ValueError, match=r"of shape \(3,\) beside a list of 3 images must be a list"
    ):
        mixer(p=0.0)(([photograph(n) for n in range(3)], torch.tensor([0, 0, 1])))


def test_a_hugging_face_data_set_may_have_it_as_its_transform():
    datasets = pytest.importorskip("datasets")
    columns = {"image": [photograph(n) for n in range(4)], "label": [0, 1, 2, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict(columns, features=features).with_transform(mixer(p=0.0))
    assert [0, 0, 1] == data[2]["label"].tolist()
    assert torch.equal(torch.eye(3)[[0, 1, 2, 1]], torch.as_tensor(data[:4]["label"]))


def test_the_images_decide_how_integers_are_read():
    """Beside one image they are one-hot, beside as many images class numbers."""
    integers = torch.tensor([0, 0, 1])
    assert [0, 0, 1] == mixer(p=0.0)((torch.rand(3, 8, 8), integers))[1].tolist()
    assert [[0, 0, 1]] == mixer(p=0.0)((torch.rand(1, 3, 8, 8), integers))[1].tolist()
    expected = [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert expected == mixer(p=0.0)((torch.rand(3, 3, 8, 8), integers))[1].tolist()


BATCHES = {
    "numbers": lambda numbers: numbers,
    "bytes": lambda numbers: numbers.to(torch.uint8),
    "numpy": lambda numbers: numbers.numpy(),
    "list": lambda numbers: numbers.tolist(),
    "column": lambda numbers: numbers[:, None],
    "one-hot": lambda numbers: torch.eye(3, dtype=torch.uint8)[numbers],
    "soft": lambda numbers: torch.tensor([0.6, 0.3, 0.1])[(torch.arange(3) + numbers[:, None]) % 3],
    "soft numpy": lambda numbers: np.eye(3, dtype=np.float32)[numbers.numpy()],
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_batch_has_a_label_for_each_image_whatever_its_size_and_form(kind, count):
    numbers = torch.arange(count) % 3
    given = BATCHES[kind](numbers)
    rows = torch.as_tensor(given)
    rows = (rows if rows.ndim == 2 and rows.shape[1] == 3 else torch.eye(3)[numbers]).float()
    backend = RecordingBackend(16)
    images = torch.rand(count, 3, 16, 16)
    made, labels = mixer(backend=backend, pairs="other")(images, given)
    assert (images.shape, torch.float32, (count, 3)) == (made.shape, labels.dtype, labels.shape)
    asked = iter(backend.requests)
    for image, result, row, label in zip(images, made, rows, labels, strict=True):
        changed = not torch.equal(image, result)
        expected = expected_label(next(asked), row.tolist()) if changed else row
        torch.testing.assert_close(expected, label)
    assert next(asked, None) is None


def test_an_empty_batch_comes_back_with_no_labels():
    for labels in (torch.zeros(0, dtype=torch.long), torch.zeros(0, 3)):
        images, mixed = mixer()(torch.rand(0, 3, 8, 8), labels)
        assert ((0, 3, 8, 8), (0, 3)) == (images.shape, mixed.shape)


def test_what_p_passes_over_is_the_same_object_with_a_one_hot_label():
    image = photograph().convert("P")
    made, label = mixer(p=0.0)((image, 2))
    assert image is made
    assert [0.0, 0.0, 1.0] == label.tolist()


def test_p_is_the_share_of_a_batch_that_is_translated():
    _, labels = mixer(pairs="other", p=0.3)(torch.rand(1000, 3, 4, 4), torch.zeros(1000).long())
    translated = int((labels[:, 0] < 1).sum())
    assert abs(translated - 300) < 5 * math.sqrt(1000 * 0.3 * 0.7)


class Named(NamedTuple):
    image: Any
    label: Any
    place: int


SAMPLES = {
    "tuple": lambda image: ((image, 1, 1, "one"), 1),
    "list": lambda image: ([image, 1, 1, "one"], 1),
    "dict": lambda image: ({"place": 1, "label": 1, "image": image, "name": "one"}, "label"),
    "Hugging Face": lambda image: ({"pixel_values": image, "labels": 1, "place": 1}, "labels"),
    "named": lambda image: (Named(image, 1, 1), 1),
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("image", [photograph(), torch.rand(3, 24, 30)], ids=["PIL", "tensor"])
def test_nothing_but_image_and_label_changes_not_even_equal_numbers(kind, image):
    sample, place = SAMPLES[kind](image)
    made = always()(sample)
    assert type(sample) is type(made)
    pairs = (
        [(key, sample[key], made[key]) for key in sample]
        if isinstance(sample, dict)
        else [(n, *both) for n, both in enumerate(zip(sample, made, strict=True))]
    )
    for key, before, after in pairs:
        if before is image:
            assert not np.array_equal(np.asarray(before), np.asarray(after))
        elif key == place:
            assert ((3,), torch.float32) == (after.shape, after.dtype)
        else:
            assert before is after


def test_an_inner_dict_of_targets_keeps_its_other_members():
    image, target = photograph(), {"id": 1, "label": 1}
    _, made = always()((image, target))
    assert (1, (3,)) == (made["id"], made["label"].shape)
    assert {"id": 1, "label": 1} == target


def first(sample):
    return sample["meta"]["kind"]


@pytest.mark.parametrize(
    ("getter", "sample", "place"),
    [
        ("kind", {"image": photograph(), "kind": 1}, ("kind",)),
        (2, (photograph(), "a name", 1), (2,)),
        (-1, (photograph(), "a name", 1), (2,)),
        (0, (1, photograph()), (0,)),
        (first, {"image": photograph(), "meta": {"kind": torch.tensor(1)}}, ("meta", "kind")),
    ],
)
def test_a_label_may_lie_anywhere(getter, sample, place):
    mix = always(labels_getter=getter)
    made = mix(sample)
    for step in place:
        made = made[step]
    assert ((3,), torch.float32) == (made.shape, made.dtype)
    assert len(pickle.dumps(mix)) < 4096


AGE = torch.rand(4)


@pytest.mark.parametrize(
    ("getters", "build", "places"),
    [
        (
            {"image_getter": "jpg", "labels_getter": "cls"},
            lambda image: {"age": AGE, "cls": torch.tensor(1), "jpg": image},
            ("age", "cls", "jpg"),
        ),
        (
            {"image_getter": 2, "labels_getter": 1},
            lambda image: [AGE, torch.tensor(1), image],
            (0, 1, 2),
        ),
        (
            {},
            lambda image: {"age": AGE, "label": torch.tensor(1), "image": image},
            ("age", "label", "image"),
        ),
    ],
)
@pytest.mark.parametrize("image", [photograph(), torch.rand(3, 24, 30)], ids=["PIL", "tensor"])
def test_the_image_is_found_behind_other_tensors(getters, build, places, image):
    age, label, picture = (always(**getters)(build(image))[place] for place in places)
    assert age is AGE and (3,) == label.shape
    assert type(image) is type(picture)
    assert not np.array_equal(np.asarray(image), np.asarray(picture))


def test_labels_are_as_wide_as_they_are_asked_to_be():
    backend = RecordingBackend(16)
    _, label = always(num_classes=5, backend=backend)((photograph(), 1))
    torch.testing.assert_close(expected_label(backend.requests[0], 1, width=5), label)


# What the label says is what was made.


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0])
def test_the_label_follows_the_request_that_was_sent(gamma):
    backend, count = RecordingBackend(16), 60
    mix = always(backend=backend, gamma=gamma, strength=[0.25, 0.8, 1.0])
    sources = torch.randint(3, (count,))
    _, labels = mix(torch.rand(count, 3, 8, 8), sources)
    assert 3 == len({request.strength for request in backend.requests})
    assert 3 == len({request.prompt for request in backend.requests})
    for request, source, label in zip(backend.requests, sources.tolist(), labels, strict=True):
        torch.testing.assert_close(expected_label(request, source, gamma), label)


@pytest.mark.parametrize("source", [0, torch.tensor([0.7, 0.3, 0.0])])
def test_where_the_original_stands_in_the_label_stays(source):
    image = torch.rand(3, 40, 50)
    backend = RecordingBackend(16, answer=refused)
    made, label = always(pairs="other", backend=backend)((image, source))
    assert torch.equal(image, made)
    torch.testing.assert_close(mixer(p=0.0)((image, source))[1], label)


def test_finish_says_what_was_applied_and_leaves_what_was_drawn_as_it_is():
    mix = mixer(pairs="other", backend=RecordingBackend(16, answer=refuse("bee")))
    drawn = [
        {"source": 0, "target": target, "strength": 0.7, "seed": target} for target in (1, 2, 1)
    ]
    before, image = copy.deepcopy(drawn), torch.rand(3, 3, 16, 16)
    made, applied = mix.finish(image, mix.backend.generate(mix.requests(image, drawn)), drawn)
    assert before == drawn
    assert [(0, 0.0), (2, 0.7), (0, 0.0)] == [(one["target"], one["strength"]) for one in applied]
    assert ["ant", "cat", "ant"] == [mix.label_of(one, "ant") for one in applied]
    assert torch.equal(image[0], made[0]) and not torch.equal(image[1], made[1])


@pytest.mark.parametrize("which", range(2))
def test_one_refused_image_of_several_keeps_the_label_and_the_others_their_strength(which):
    """All images of a sample share one translation and one label."""
    asked = []

    def answer(request, usual):
        asked.append(request.strength)
        return refused(request, usual) if len(asked) == which + 1 else usual

    mix = always(pairs="other", backend=RecordingBackend(16, answer=answer))
    first, label, second = mix((photograph(0), 1, photograph(1)))
    assert [0.7, 0.7] == asked and [0.0, 1.0, 0.0] == label.tolist()
    same = [first.tobytes() == photograph(0).tobytes(), second.tobytes() == photograph(1).tobytes()]
    assert [which == 0, which == 1] == same


def test_strength_0_is_the_source_and_its_label_at_any_gamma():
    for gamma in (0.0, 0.5):
        mix = always(pairs="other", strength=0, gamma=gamma)
        assert [0.0, 1.0, 0.0] == mix((photograph(), 1))[1].tolist()


def test_a_matrix_or_a_sampler_says_which_targets_there_are():
    ring = [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    for pairs in (ring, torch.tensor(ring), np.array(ring), ClassPairSampler(3, strategy=ring)):
        backend = RecordingBackend(16)
        always(pairs=pairs, backend=backend)(torch.rand(9, 3, 8, 8), torch.arange(9) % 3)
        expected = [f"a photo of a {NAMES[(number + 1) % 3]}" for number in range(9)]
        assert expected == [request.prompt for request in backend.requests]


def test_targets_are_only_among_the_classes_named_and_images_of_others_stay():
    backend, given = RecordingBackend(16), torch.arange(90) % 3
    cat, other = NAMES.index("cat"), 0
    mix = always(targets=["Cat", NAMES[other]], backend=backend)
    images = torch.rand(90, 3, 8, 8)
    made, labels = mix(images, given)
    prompts = {f"a photo of a {NAMES[number]}" for number in (cat, other)}
    assert prompts == {request.prompt for request in backend.requests}
    stays = ~torch.isin(given, torch.tensor([cat, other]))
    assert torch.equal(stays, (made == images).flatten(1).all(1)) and 30 == int(stays.sum())
    assert torch.equal(labels[stays], torch.eye(3)[given[stays]])
    # So no class becomes rarer: what one of the named classes gives, it gets from the other.
    assert torch.allclose(labels.sum(0), torch.full((3,), 30.0), atol=9)
    assert not list(mix.choices(images[:1], int(given[stays][0])))
    assert mix.pool == len(list(mix.choices(images[:1], cat)))


def test_no_image_of_a_batch_may_be_of_the_targets():
    images = torch.rand(4, 3, 8, 8)
    mix = always(targets=["Cat"], backend=RecordingBackend(16))
    made, labels = mix(images, torch.zeros(4, dtype=torch.long))
    assert torch.equal(images, made) and torch.equal(labels, torch.eye(3)[[0] * 4])


def test_a_sampler_with_targets_translates_images_of_every_class():
    backend = RecordingBackend(16)
    cat = NAMES.index("cat")
    mix = always(pairs=ClassPairSampler(3, targets=[cat]), backend=backend)
    _, labels = mix(torch.rand(9, 3, 8, 8), torch.arange(9) % 3)
    assert 9 == len(backend.requests) and bool((labels[:, cat] >= 0.7).all())


def test_a_soft_source_is_paired_by_its_likeliest_class():
    backend = RecordingBackend(16)
    always(pairs="same", backend=backend)((photograph(), torch.tensor([0.2, 0.3, 0.5])))
    assert "a photo of a cat" == backend.requests[0].prompt


def test_several_images_of_a_sample_share_one_translation():
    backend = RecordingBackend(16)
    made = always(backend=backend)((photograph(0), 1, photograph(1)))
    one, other = backend.requests
    assert (one.prompt, one.strength, one.seed) == (other.prompt, other.strength, other.seed)
    assert made[2].tobytes() != photograph(1).tobytes()


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_one_image_beside_a_batch_is_refused(order, p):
    """Which of the labels would be that of the one image?"""
    pixels = [tv_tensors.Image(torch.rand(*shape, 3, 8, 8)) for shape in [(), (4,)]][::order]
    sample = {"template": pixels[0], "image": pixels[1], "label": torch.arange(4) % 3}
    with pytest.raises(ValueError, match="must be equally many, .* got 1 and 4; take"):
        mixer(p=p)(sample)


# The pool.


def triples(images, labels, epochs, **options):
    """Return what was asked for each image, by its place."""
    backend = RecordingBackend(8)
    mix = always(backend=backend, strength=(0.1, 1.0), **options)
    for _ in range(epochs):
        mix(images, labels)
    asked = [(one.prompt, one.strength, one.seed) for one in backend.requests]
    return [set(asked[place :: len(images)]) for place in range(len(images))]


def test_an_image_has_a_pool_of_so_many_translations_and_no_more():
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    pools = triples(images, labels, epochs=60, pool=4)
    assert [4] * 6 == [len(pool) for pool in pools]
    assert 24 == len(set.union(*pools))


def test_a_pool_follows_from_the_image_and_the_seed_alone():
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4) % 3
    pools = triples(images, labels, epochs=60, pool=3)
    order = [2, 0, 3, 1]
    torch.manual_seed(99)
    again = triples(images[order], labels[order], epochs=60, pool=3)
    assert [pools[place] for place in order] == again
    others = triples(images, labels, epochs=60, pool=3, seed=1)
    assert not any(one & other for one, other in zip(pools, others, strict=True))


def test_a_pool_does_not_depend_on_the_type_of_the_image():
    pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    kinds = [pixels, pixels / 255, tv_tensors.Image(pixels), v2.functional.to_pil_image(pixels)]
    seeds = []
    for kind in kinds:
        backend = RecordingBackend(8)
        always(pool=1, backend=backend)((kind, 0))
        seeds.append(backend.requests[0].seed)
    assert 1 == len(set(seeds))


def test_without_a_pool_every_translation_is_fresh_and_uncached():
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    assert [40, 40] == [len(pool) for pool in triples(images, labels, epochs=40, pool=None)]
    assert not mixer(pool=None).cache
    assert mixer().cache and not mixer(cache=False).cache


def test_draws_follow_torch_s_global_seed():
    images, results = torch.rand(20, 3, 8, 8), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(mixer()(images, torch.zeros(20, dtype=torch.long))[1])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_a_second_epoch_finds_everything_in_the_cache(tmp_path):
    inner = RecordingBackend(16)
    mix = always(backend=CachedBackend(inner, folder=tmp_path), pool=2)
    images, labels = torch.rand(5, 3, 8, 8), torch.arange(5) % 3
    for _ in range(25):
        mix(images, labels)
    assert 10 == len(inner.requests) == len(set(inner.requests))


# A real model.


@pytest.fixture
def real():
    yield tiny_spec("translate", steps=10)
    unload()


def count_calls(backend):
    """Return a list that grows at each call of a loaded model's U-Net."""
    calls = []
    backend._loaded().unet.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_so_many_steps_run_as_the_strength_says(real):
    backend = DiffusersBackend(real)
    calls = count_calls(backend)
    for strength in (0.0, 0.05, 0.1, 0.3, 0.55, 0.7, 0.99, 1.0):
        mix = always(strategy="real-mix", strength=strength, backend=backend)
        del calls[:]
        image, label = mix((torch.rand(3, SIZE, SIZE), 0))
        expected = max(1, int(10 * strength)) if strength else 0
        assert expected == len(calls), strength
        assert (3, SIZE, SIZE) == image.shape and abs(float(label.sum()) - 1) < 1e-6


@pytest.mark.parametrize(
    ("steps", "few", "strength", "runs"),
    [
        *((4, False, 0.7, 0.5), (4, False, 0.05, 0.25), (10, False, 0.99, 0.9)),
        *((4, True, 0.9, 0.8), (4, True, 0.7, 0.7), (10, False, 0.55, 0.55), (25, False, 0.7, 0.7)),
    ],
)
def test_the_label_is_that_of_the_steps_that_run(steps, few, strength, runs, caplog):
    spec = tiny_spec("translate", steps=steps, all_steps=few)
    for backend in (spec, DiffusersBackend(spec)):
        caplog.clear()
        mix = mixer(strategy="real-mix", pairs="other", strength=strength, backend=backend)
        said = f"it runs {strength} as {runs}, and labels follow" if runs != strength else ""
        assert said in caplog.text and bool(said) == bool(caplog.text)
        row = mix.draw_copy(0, torch.Generator().manual_seed(0), "cat")
        assert runs == row["strength"] == mix.describe(row)["strength"]
        assert spec.schedule(strength) == spec.schedule(runs)
        image = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
        assert runs == mix.requests(image, [row])[0].strength


def test_the_strengths_that_a_model_can_run_are_said(caplog):
    mixer(strategy="real-mix", strength="uniform", backend=tiny_spec("translate", steps=4))
    assert "of 'strength' it runs 0.7 as 0.5 and 0.9 as 0.75, and labels follow" in caplog.text
    assert "it can run 0.25, 0.5, 0.75, 1." in caplog.text


def test_strengths_that_the_model_runs_alike_are_said(caplog):
    mixer(strategy="real-mix", strength=[0.5, 0.53], backend=tiny_spec("translate", steps=10))
    assert "runs some of 'strength' [0.5, 0.53] alike, in 10 steps" in caplog.text


def test_what_is_drawn_from_a_range_is_what_runs_in_request_label_and_manifest():
    spec = tiny_spec("translate", steps=10)
    mix = mixer(strategy="real-mix", strength=(0.65, 1), pairs="other", backend=spec)
    rows = [mix.draw_copy(0, torch.Generator().manual_seed(n), "cat") for n in range(40)]
    assert {0.6, 0.7, 0.8, 0.9} == {row["strength"] for row in rows}
    image = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    assert [row["strength"] for row in rows] == [mix.describe(row)["strength"] for row in rows]
    assert rows[0]["strength"] == mix.requests(image, [rows[0]])[0].strength


def test_a_real_model_makes_nothing_in_the_second_epoch_and_the_same_images(real):
    mix = always(strategy="real-mix", strength=0.3, pool=1, backend=real)
    images, labels = torch.rand(3, 3, SIZE, SIZE), torch.arange(3)
    before = mix(images, labels)
    calls = count_calls(mix.live_backend().backend)
    after = mix(images, labels)
    assert [] == calls
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.equal(images, after[0])


def test_mixed_targets_and_strengths_in_one_batch_are_each_its_own(real):
    """The released code gave every image of a batch the first target and the last strength."""
    backend = DiffusersBackend(real)
    mix = always(strategy="real-mix", strength=[0.2, 0.5, 1.0], pool=1, backend=backend)
    images, labels = torch.rand(6, 3, SIZE, SIZE), torch.arange(6) % 3
    together, soft = mix(images, labels)
    for place in range(6):
        alone, label = mix((images[place], labels[place]))
        assert (alone - together[place]).abs().max() <= 1.5 / 255
        assert torch.equal(label, soft[place])


# In company.


def test_cut_mix_and_mix_up_take_what_comes_out():
    batch = default_collate([mixer()((torch.rand(3, 8, 8), n % 3)) for n in range(8)])
    for after in (v2.CutMix(num_classes=3), v2.MixUp(num_classes=3)):
        images, labels = after(*batch)
        assert ((8, 3, 8, 8), (8, 3)) == (images.shape, labels.shape)
        torch.testing.assert_close(torch.ones(8), labels.sum(1))
    images, labels = v2.Compose([mixer(), v2.MixUp(num_classes=3)])(*batch)
    assert ((8, 3, 8, 8), (8, 3)) == (images.shape, labels.shape)


def test_it_mixes_the_soft_labels_of_cut_mix():
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 3
    _, mixed = v2.Compose([v2.CutMix(num_classes=3), mixer()])(images, labels)
    torch.testing.assert_close(torch.ones(8), mixed.sum(1))


def test_a_flip_behind_it_turns_the_image_and_not_the_label():
    images = torch.rand(3, 3, 8, 8)
    data = [{"label": number, "image": image} for number, image in enumerate(images)]
    steps = v2.Compose([mixer(p=0.0), v2.RandomHorizontalFlip(p=1.0)])
    joint = JointTransform(data, steps, seed=0)
    for number, image in enumerate(images):
        sample = joint[number]
        assert torch.equal(image.flip(-1), sample["image"])
        assert one_hot(number) == sample["label"].tolist()


def test_kornia_s_sequence_passes_no_label_and_the_error_says_what_to_do():
    import kornia.augmentation as kornia

    sequence = kornia.AugmentationSequential(mixer(), data_keys=["input", "class"])
    with pytest.raises(TypeError, match=r"needs the label beside .* JointTransform"):
        sequence(torch.rand(2, 3, 8, 8), torch.zeros(2, 1))


def test_kornia_takes_what_comes_out():
    import kornia.augmentation as kornia

    images, labels = mixer()(torch.rand(4, 3, 8, 8), torch.arange(4) % 3)
    flipped = kornia.AugmentationSequential(kornia.RandomHorizontalFlip(p=1.0))(images)
    assert torch.equal(images.flip(-1), flipped) and (4, 3) == labels.shape


def joint():
    # A plain list: a spawned worker need not import this module, and diffusers with it.
    generator = torch.Generator().manual_seed(0)
    data = [(torch.rand(3, 8, 8, generator=generator), number % 3) for number in range(12)]
    return JointTransform(data, v2.Compose([mixer()]), seed=4)


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_give_what_the_main_process_gives(method, workers):
    data = joint()
    expected = MixCollate(3)([data[index] for index in range(12)])
    loader = DataLoader(
        joint(),
        batch_size=4,
        num_workers=workers,
        multiprocessing_context=method,
        collate_fn=MixCollate(3),
    )
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(expected[0], images) and torch.equal(expected[1], labels)
    assert 0 < int((labels.max(1).values < 1).sum()) < 12


def test_switched_off_it_gives_one_hot_labels_and_the_images_as_they_are():
    photos = [(torch.rand(3, 8, 8), 0)]
    data = JointTransform(photos, always(pairs="other"))
    assert data[0][1].max() < 1
    data.enabled = False
    image, label = data[0]
    assert torch.equal(photos[0][0], image) and [1.0, 0.0, 0.0] == label.tolist()


# How it is shown, and how light it is.


def test_its_repr_shows_each_setting_once():
    mix = mixer(strategy="real-mix", strength=(0.7, 0.9), backend="tiny-translate", metaclass="bug")
    assert repr(mix) == (
        "DiffMix(class_names=('ant', 'bee', 'cat'), strategy=real-mix, "
        "pairs=ClassPairSampler(3, strategy='uniform'), strength=(0.7, 0.9), gamma=0.8, p=0.5, "
        "pool=5, backend='tiny-translate', cache=True, seed=0, num_classes=3, "
        "labels_getter='default', image_getter='default', "
        "prompts=('a photo of a ant bug', 'a photo of a bee bug', 'a photo of a cat bug'))"
    )


@pytest.mark.parametrize(
    ("strength", "shown"), [(0.7, "0.7"), ([0.3, 0.5], "[0.3, 0.5]"), ((0.7, 0.9), "(0.7, 0.9)")]
)
def test_a_strength_is_shown_as_it_was_given(strength, shown):
    assert f"strength={shown}, " in repr(mixer(strength=strength))


def test_many_classes_are_shown_by_the_first_ones():
    shown = repr(mixer(class_names=[f"bird {number}" for number in range(200)]))
    assert "'bird 8', ... 191 more)" in shown and len(shown) < 900


def test_it_pickles_light_and_the_same_after_use():
    for pairs in ("uniform", "other", [[1, 0, 0]] * 3):
        mix = mixer(pairs=pairs, strategy="real-mix", backend=ModelSpec("a/b", task="translate"))
        assert len(pickle.dumps(mix)) < 4096
    mix, images = mixer(backend=_Fixed(16)), torch.rand(8, 3, 8, 8)
    before = pickle.dumps(mix)
    mix(images, torch.zeros(8, dtype=torch.long))
    mix((photograph(), 1))
    assert before == pickle.dumps(mix)


def test_many_classes_cost_their_names_and_prompts_and_no_more():
    names = [f"{number:03d}.Some_bird_{number}" for number in range(200)]
    mix = mixer(class_names=names, metaclass="bird")
    own = len(pickle.dumps(names)) + len(pickle.dumps(mix.prompts))
    assert len(pickle.dumps(mix)) - own < 4096


class _Fixed(RecordingBackend):
    """Remembers nothing, so that it pickles the same after use."""

    def generate(self, requests):
        return [self._answer(request) for request in requests]


_opened: list[str] | None = None


@sys.addaudithook
def _watch(event, arguments):
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


def test_making_one_opens_nothing_but_small_files(tmp_path):
    from tiny_pipelines import TOKENS, save_learned

    global _opened
    tuned = save_learned(tmp_path / "birds")
    _opened = []
    try:
        DiffMix(list(TOKENS), backend=str(tuned))
        DiffMix(NAMES, strategy="real-mix", backend=tiny_spec("translate").model)
        DiffMix(NAMES, strategy="real-mix", backend="sd15")
        opened = _opened
    finally:
        _opened = None
    # A number is a descriptor, of what was opened by its path before.
    small = (".json", "README.md", ".metadata")
    assert opened and [] == [p for p in opened if not p.endswith(small) and not p.isdigit()]


# What is wrong.


def boxes():
    return tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(24, 30))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (torch.rand(3, 8, 8), "DiffMix needs the label beside the image.*JointTransform"),
        (photograph(), "DiffMix needs the label beside the image.*JointTransform"),
        ({"image": photograph()}, "its label under one of the keys label.*JointTransform"),
        ((photograph(),), "DiffMix needs the label beside the image"),
        ((photograph(), 1, boxes()), "takes no boxes, masks or keypoints"),
        ((photograph(), 1, tv_tensors.Mask(torch.ones(24, 30))), "takes no boxes, masks"),
        ((photograph(), {"label": 1, "boxes": boxes()}), "takes no boxes, masks or keypoints"),
        ((tv_tensors.Video(torch.rand(2, 3, 4, 4)), 1), "takes images, got a Video; pass its"),
        ((np.zeros((4, 4, 3)), 1), "found no image .* put v2.ToImage"),
    ],
)
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_a_sample_of_another_kind_is_refused_whether_or_not_p_picks_it(sample, message, p):
    with pytest.raises(TypeError, match=message):
        mixer(p=p)(sample)


@pytest.mark.skipif(not hasattr(tv_tensors, "KeyPoints"), reason="new in torchvision 0.23")
def test_keypoints_are_refused():
    points = tv_tensors.KeyPoints(torch.ones(1, 2), canvas_size=(24, 30))
    with pytest.raises(TypeError, match="takes no boxes, masks or keypoints"):
        mixer()((photograph(), 1, points))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), "labels must be one for each image, got 2 for 3: pass"),
        (1, "labels must be one for each image, got 1 for 3"),
        (torch.tensor([0, 3, 1]), r"the label of sample 1 must be in \[0, 3\), got 3."),
        (torch.tensor([0, 1, -1]), r"the label of sample 2 must be in \[0, 3\), got -1."),
        (torch.rand(3, 4), "the label of sample 0 must be a class number or 3 weights, got shape"),
        (torch.ones(3, 3), "the label of sample 0 must be .*weights that sum to 1, got a sum"),
        (
            torch.tensor([0.0, 1.0, 2.0]),
            r"sample 0 must be a class number or 3 weights, got tensor",
        ),
        (None, "labels must be one for each image, got 1 for 3"),
        ("ant", "labels must be one for each image, got 1 for 3"),
        (
            ["ant", "bee", "cat"],
            "the label of sample 0 must be a class number or 3 weights, got 'a",
        ),
        (torch.ones(3, dtype=torch.bool), "sample 0 must be numbers, and no booleans, got tensor"),
    ],
)
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_labels_that_do_not_fit_are_named(labels, message, p):
    with pytest.raises(ValueError, match=message):
        mixer(p=p)(torch.rand(3, 3, 8, 8), labels)


def test_a_class_beyond_the_names_is_named_though_labels_are_wider():
    with pytest.raises(ValueError, match="labels must be below the 3 class names, got 4."):
        mixer(num_classes=6)((photograph(), 4))


@pytest.mark.parametrize(
    ("getter", "sample", "message"),
    [
        (
            "kind",
            {"image": photograph(), "label": 1},
            "must be a place in every sample, got 'kind', and",
        ),
        (7, (photograph(), 1), "'labels_getter' must be a place in every sample, got 7, and"),
        (lambda sample: sample[1], (photograph(), 1, 1), "there 2 times; give a key or an index"),
        (lambda sample: 17.5, (photograph(), 1), "there 0 times; give a key or an index"),
    ],
)
def test_a_getter_that_finds_no_label_is_named(getter, sample, message):
    with pytest.raises(TypeError, match=message):
        mixer(labels_getter=getter)(sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.4}, r"'strength' must be in \[0, 1\], got 1.4."),
        ({"strength": "strong"}, "'strength' must be a number, a list, a range"),
        ({"gamma": -0.5}, "'gamma' must be at least 0, got -0.5."),
        ({"gamma": float("nan")}, "'gamma' must be at least 0, got nan."),
        ({"gamma": "0.5"}, "'gamma' must be a number, got '0.5'."),
        ({"p": 1.2}, r"'p' must be in \[0, 1\], got 1.2."),
        ({"pool": 0}, "'pool' must be at least 1, got 0."),
        ({"pool": 2.5}, "'pool' must be an integer, got 2.5."),
        ({"seed": -1}, "'seed' must be at least 0, got -1."),
        ({"num_classes": 2}, "'num_classes' must be at least 3, got 2."),
        ({"metaclass": None}, "'metaclass' must be a string, got None."),
        ({"labels_getter": None}, "'labels_getter' must be a key, an index or callable, got None."),
        ({"strategy": "diff"}, "'strategy' must be one of diff-mix"),
        ({"backend": "sd51"}, "'backend' must be a preset .* Did you mean 'sd15'"),
        ({"backend": 7}, "'backend' must be a name, a folder, a ModelSpec or a Backend, got int"),
        ({"pairs": "others"}, "'pairs' makes no ClassPairSampler: .* got 'others'."),
        ({"pairs": "tail"}, "'pairs' makes no ClassPairSampler: .* count them with class_counts"),
        ({"pairs": [[1, 0]] * 2}, r"'pairs' makes no ClassPairSampler: .* \(3, 3\) matrix"),
        ({"pairs": ClassPairSampler(4)}, "'pairs' must be for the 3 classes named, .* for 4."),
        ({"targets": ["cow"]}, "'targets' must be among the 3 class names, got 'cow'; the first n"),
        ({"targets": []}, "'targets' must hold at least one string, got none."),
        ({"targets": ["cat"], "pairs": "other"}, "makes no ClassPairSampler: 'targets' must leave"),
        (
            {"targets": ["cat"], "strategy": "diff-aug"},
            "'targets' must not be given with strategy same, whose targets are the sources; leave",
        ),
        (
            {"targets": ["cat"], "pairs": ClassPairSampler(3)},
            r"beside a ClassPairSampler; give .* as ClassPairSampler\(3, targets=\[2\]\)",
        ),
        ({"pairs": "other", "strategy": "diff-aug"}, "'pairs' must be 'same' for a strategy that"),
        (
            {"pairs": "uniform", "strategy": Strategy("none", "own", "image")},
            "'pairs' must be 'same' for a strategy that keeps the class, got 'uniform'",
        ),
        ({"class_names": ["a"], "pairs": "other"}, "other needs at least 2 classes, got 1."),
        ({"class_names": []}, "'class_names' must hold at least one string, got none."),
        ({"class_names": ["a", ""]}, "'class_names' must hold non-empty strings, got ''."),
        ({"class_names": ["a", 3]}, "'class_names' must hold non-empty strings, got 3."),
        ({"class_names": "ants"}, "names in the order of the labels, got 'ants'."),
        ({"class_names": {"ant"}}, "names in the order of the labels, got {'ant'}."),
        ({"class_names": None}, "names in the order of the labels, got None."),
        ({"strength": {0.5}}, "'strength' must be a number, a list, a range"),
        (
            {"class_names": ["Great_auk", "owl", "great  auk"]},
            "must differ in a prompt, got 'Great_auk' at place 0 and 'great  auk' at place 2",
        ),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(options, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        mixer(**options)
    assert "\n" not in str(caught.value)


def test_of_several_names_of_a_class_the_first_is_taken():
    names = [("tench", "Tinca tinca"), ("goldfish", "Carassius auratus")]
    assert ("tench", "goldfish") == mixer(class_names=names).class_names


def test_two_classes_of_one_name_are_named_by_their_places():
    names = [("crane", "a bird"), ("owl",), ("crane", "a machine")]
    message = "got 'crane' at place 0 and 'crane' at place 2; .* give class_names_of"
    with pytest.raises(ValueError, match=message):
        mixer(class_names=names)


def test_names_that_a_prompt_alone_makes_alike_are_warned_of():
    """EMNIST's 'A' and 'a' are two classes, with two folders."""
    message = "'A' at place 0 and 'a' at place 2, which a model reads alike"
    with pytest.warns(UserWarning, match=message):
        mix = mixer(class_names=["A", "b", "a"])
    assert ("A", "b", "a") == mix.class_names


@pytest.mark.parametrize("p", [0.51, 1.0])
def test_a_p_above_a_half_is_warned_of_where_the_caller_stands(p):
    with pytest.warns(UserWarning, match=f"'p' is {p}: above 0.5") as told:
        DiffMix(NAMES, p=p, backend=RecordingBackend())
    assert [__file__] == [one.filename for one in told]


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"gamma": 1, "strength": 0.7}, True),
        ({"gamma": 1.5, "strength": [0.3, 0.5]}, True),
        ({"gamma": 0.99, "strength": 0.7}, False),
        ({"gamma": 1, "strength": [0.3, 0.9]}, False),
        ({"gamma": 1, "strength": "uniform"}, False),
        ({"gamma": 1, "strength": 0.5, "pairs": "same", "strategy": "diff-aug"}, False),
        ({"gamma": 1, "strategy": "real-gen"}, False),
        ({"p": 0.5}, False),
    ],
)
def test_a_gamma_that_costs_accuracy_is_warned_of(options, warned):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        mixer(**options)
    assert warned == any("lost five points" in str(one.message) for one in told)
    assert warned == bool(told)


def test_half_concat_takes_no_transform_that_changes_the_label():
    with pytest.raises(TypeError, match="must work on an image alone, and DiffMix changes"):
        HalfConcat(DiffMix(["cat", "dog"], backend=RecordingBackend()))


FOLDERS = ["n01443537", "n02012849", "n03126707"]
MAPPING = {"n01443537": "goldfish", "n02012849": " crane,\n the bird ", "n03126707": "crane"}


def test_words_go_into_the_prompt_and_names_stay_names():
    mix = mixer(class_names=MAPPING, metaclass="thing", strategy="real-mix")
    assert tuple(FOLDERS) == mix.class_names
    assert ("goldfish", "crane, the bird", "crane") == tuple(
        prompt.removeprefix("a photo of a ").removesuffix(" thing") for prompt in mix.prompts
    )
    assert "n03126707" == mix.label_of({"target": 2}, "n01443537")
    made = DiffMix.from_setting("full-shot", MAPPING, backend=RecordingBackend())
    assert "a photo of a goldfish" == made.prompts[0]


def test_what_numbers_the_classes_is_no_part_of_a_prompt():
    names = ["001.ak47", "002.american-flag", "003.n02085620-Chihuahua"]
    mix = mixer(class_names=names)
    assert ("a photo of a ak47", "a photo of a american-flag", "a photo of a Chihuahua") == (
        mix.prompts
    )
    assert tuple(names) == mix.class_names


@pytest.mark.parametrize("strategy", ["real-mix", "real-gen", "diff-mix"])
def test_names_that_are_no_words_are_warned_of_once_where_the_caller_stands(strategy):
    with pytest.warns(UserWarning, match="no words for 2 of 3 classes, such as '1', '2', ") as told:
        DiffMix(["1", "2", "owl"], strategy=strategy, backend=RecordingBackend())
    assert [__file__] == [one.filename for one in told]


def test_a_mapping_is_taken_at_its_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mix = mixer(class_names={"1": "747", "2": "001.ak47"})
    assert ("a photo of a 747", "a photo of a 001.ak47") == mix.prompts


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        ({"cat": 0, "dog": 1}, r"must map each class to its words, got 0 for 'cat'; give list\("),
        ({"cat": "pet", "dog": " "}, "must have words for every class, got ' ' for 'dog'"),
        ({}, "'class_names' must hold at least one string"),
        ({"cat": "a pet", "dog": "a_pet"}, "'cat' and 'dog' are both 'a_pet' there; give a map"),
        (["001.cat", "002.cat"], "'001.cat' and '002.cat' are both 'cat' there; give a mapping"),
    ],
)
def test_words_that_are_none_or_not_one_s_own_are_named(class_names, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mixer(class_names=class_names)


def test_words_that_differ_in_capitals_alone_are_warned_of():
    with pytest.warns(UserWarning, match="'41' and '61' that a model reads alike, 'A' and 'a'; it"):
        mix = mixer(class_names={"41": "A", "61": "a"})
    assert ("a photo of a A", "a photo of a a") == mix.prompts
