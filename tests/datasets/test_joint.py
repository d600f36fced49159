"""JointTransform: the label beside the image, and draws that no worker changes."""

import copy
import pickle
import random
import warnings
from collections import UserDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug import (
    DiffMix,
    DiffuseMix,
    FractalBank,
    FractalBlend,
    GeneratedDataset,
    HalfConcat,
    JointTransform,
    MixCollate,
    MixedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
)

NAMES = ["cat", "dog", "fox"]
BANK = FractalBank(count=2, size=32)


class Photos:
    """Eight small photographs of three classes, the same ones each time."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.rand(3, 16, 16, generator=generator), index % 3


class Noisy(Photos):
    """A dataset with draws of its own."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return (image + torch.rand(image.shape)) / 2, label


class EpochSeen:
    """A dataset that says which epoch it was told, as its label."""

    def __init__(self):
        self.epoch = 0
        self.told = []

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.zeros(3, 4, 4), self.epoch

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.told.append(epoch)


def mixer(**options):
    return DiffMix(NAMES, **{"pairs": "other", "p": 0.5, "backend": RecordingBackend(8), **options})


def always(**options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'p' is 1.0: above 0.5")
        return mixer(p=1.0, **options)


def composed(mix=None):
    return v2.Compose(
        [mix or mixer(), v2.RandomCrop(12), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4)]
    )


def joint(dataset=None, transforms=None, seed=0):
    return JointTransform(dataset or Photos(), transforms or composed(), seed=seed)


def read(data, order=None):
    """Read items, in some order, and return them stacked in their own order."""
    order = list(range(len(data))) if order is None else order
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the dataset is gone through again")
        items = {index: data[index] for index in order}
    pairs = [items[index] for index in sorted(items)]
    return torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs])


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# The label


def test_transforms_are_given_the_whole_sample():
    seen = []
    sample = ("image", 3, "path")
    JointTransform([sample], lambda given: seen.append(given) or given)[0]
    assert [sample] == seen


def test_image_and_label_come_out_changed_together():
    image, label = Photos()[4]
    mix = always(strength=0.49, backend=(backend := RecordingBackend(8)))
    made, soft = joint(transforms=mix)[4]
    [request] = backend.requests
    target = next(number for number, name in enumerate(NAMES) if name in request.prompt)
    expected = torch.zeros(3)
    expected[label], expected[target] = 0.3, 0.7  # 0.49 ** 0.5
    torch.testing.assert_close(expected, soft)
    assert image.shape == made.shape and not torch.equal(image, made)


@pytest.mark.parametrize("keys", [("image", "label"), ("label", "image")])
def test_a_soft_label_is_not_taken_for_the_image_whichever_comes_first(keys):
    sample = {key: Photos()[0][key == "label"] for key in keys}
    rest = [v2.RandomHorizontalFlip(p=1.0), v2.Normalize([0.5] * 3, [0.5] * 3)]
    bare = JointTransform([sample], v2.Compose([always(strength=1.0)]), seed=0)[0]
    made = JointTransform([sample], v2.Compose([always(strength=1.0), *rest]), seed=0)[0]
    assert isinstance(made["image"], tv_tensors.Image)
    torch.testing.assert_close((bare["image"].flip(-1) - 0.5) / 0.5, made["image"])
    assert torch.equal(bare["label"], made["label"])
    assert [0, 0, 1] == sorted(made["label"].tolist())


@pytest.mark.parametrize("compose", [v2.Compose, v1.Compose])
@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 16, 16),
        torch.zeros(3, 16, 16, dtype=torch.uint8),
        tv_tensors.Image(torch.zeros(1, 16, 16)),
        Image.new("RGB", (16, 16)),
        Image.new("L", (16, 16)),
    ],
)
def test_either_compose_takes_every_kind_of_image(compose, image):
    flip = v2.RandomHorizontalFlip(p=1.0)
    made, label = JointTransform([(image, 1)], compose([always(), flip]), seed=0)[0]
    assert isinstance(made, Image.Image if isinstance(image, Image.Image) else tv_tensors.Image)
    assert 1 == pytest.approx(float(label.sum())) and label[1] < 1


def test_samples_may_be_dicts():
    images = [{"path": "a", "img": torch.rand(3, 16, 16), "fine_label": 2}]
    made = JointTransform(images, composed(always()), seed=0)[0]
    assert ["path", "img", "fine_label"] == list(made)
    assert ("a", (3, 12, 12), (3,)) == (made["path"], made["img"].shape, made["fine_label"].shape)
    assert isinstance(made["img"], tv_tensors.Image)
    assert 2 == images[0]["fine_label"] and type(images[0]["img"]) is torch.Tensor


def test_a_loader_collates_what_comes_out():
    loader = DataLoader(
        joint(), batch_size=3, collate_fn=MixCollate(3, mix=v2.CutMix(num_classes=3))
    )
    sizes = [(tuple(images.shape), tuple(labels.shape)) for images, labels in loader]
    assert [((3, 3, 12, 12), (3, 3))] * 2 + [((2, 3, 12, 12), (2, 3))] == sizes


# Seeded draws


def test_an_item_follows_from_seed_epoch_and_index_alone():
    first = read(joint())
    assert same(first, read(joint()))
    assert same(first, read(joint(), order=[5, 0, 7, 1, 3, 2, 6, 4]))
    torch.manual_seed(99)
    assert same(first, read(joint()))
    assert not torch.equal(first[0], read(joint(seed=1))[0])
    data = joint()
    data.set_epoch(1)
    assert not torch.equal(first[0], read(data)[0])
    data.set_epoch(0)
    assert same(first, read(data))
    assert not torch.equal(first[0], read(data)[0])


def test_items_draw_apart():
    crops = joint([Photos()[0]] * 40, v2.RandomCrop(12))
    images = [crops[index][0].numpy().tobytes() for index in range(40)]
    assert len(set(images)) > 15


def test_draws_of_the_dataset_itself_are_seeded_too():
    plain = v2.Identity()
    assert same(*[[joint(Noisy(), plain)[index][0] for index in range(8)] for _ in range(2)])
    unseeded = JointTransform(Noisy(), plain)
    assert not torch.equal(unseeded[0][0], unseeded[0][0])


@pytest.mark.parametrize("fails", [False, True])
def test_global_random_state_is_left_as_it_was(fails):
    def fail(sample):
        torch.rand(1)
        raise RuntimeError("a bad file")

    data = joint(Noisy(), fail if fails else None)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    if fails:
        with pytest.raises(RuntimeError, match="a bad file"):
            data[0]
    else:
        read(data)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


def test_without_a_seed_torch_s_global_state_decides():
    data, made = joint(seed=None), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(read(data))
    assert same(made[0], made[1]) and not torch.equal(made[0][0], made[2][0])


def loaded(data, workers, method=None, **options):
    """Read everything through a loader, as stacked images and labels."""
    loader = DataLoader(
        data,
        batch_size=3,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=workers > 0,
        timeout=120 if workers else 0,
        **options,
    )
    return loader, stacked(loader)


def stacked(loader):
    batches = list(loader)
    return tuple(torch.cat([batch[part] for batch in batches]) for part in (0, 1))


def check_workers(data, workers, method):
    """Check that workers that live on draw as this process does, and hear of every change."""
    here = joint(Noisy())
    loader, made = loaded(data, workers, method)
    assert same(read(here), made)
    for change in (here, data):
        change.set_epoch(1)
    second = stacked(loader)
    assert same(read(here), second) and not torch.equal(made[0], second[0])
    for change in (here, data):
        change.set_epoch(2)
        change.enabled = False
    off = stacked(loader)
    assert same(read(here), off)
    assert torch.equal(torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]], off[1])
    assert bool((made[1].amax(1) < 1).any())
    data.enabled = True
    data.set_epoch(1)
    assert same(second, stacked(loader))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 1, 8])
def test_forked_workers_draw_alike_and_hear_of_epoch_and_enabled(workers):
    check_workers(joint(Noisy()), workers, "fork" if workers else None)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_fresh_workers_draw_alike_and_hear_of_epoch_and_enabled(method):
    check_workers(joint(Noisy()), 1, method)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_a_copy_is_one_of_its_own_that_its_workers_hear(copied):
    original = joint(Noisy())
    data = copied(original)
    check_workers(data, 1, "fork")
    assert same(read(joint(Noisy())), read(original))
    assert original.enabled


def test_it_pickles_as_it_stands_and_stays_small():
    data = joint()
    data.set_epoch(3)
    data.enabled = False
    read(data)
    travelled = pickle.dumps(data)
    assert len(travelled) < 4096 + len(pickle.dumps((data.dataset, data.transforms)))
    data_again = pickle.loads(travelled)
    assert not data_again.enabled
    assert same(read(data), read(data_again))


# Epochs


def test_an_item_asked_for_twice_in_an_epoch_is_drawn_twice():
    data = joint([Photos()[0]], v2.RandomCrop(12))
    data.set_epoch(0)
    first = [data[0][0] for _ in range(6)]
    assert 5 <= len({image.numpy().tobytes() for image in first})
    data.set_epoch(0)
    assert same(first, [data[0][0] for _ in range(6)])


def warned(data, indices):
    """Ask for items, and return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for index in indices:
            data[index]
    return caught


def test_a_second_pass_without_an_epoch_is_warned_of_once_in_the_caller_s_line():
    data = joint()
    [warning] = warned(data, [*range(8), 3, 3, *range(8)])
    message = (
        "the dataset is gone through again (item 3), and set_epoch was never called: each pass "
        "draws anew, but a resumed run cannot repeat it; call set_epoch(epoch) before each epoch."
    )
    assert (message, UserWarning) == (str(warning.message), warning.category)
    assert __file__ == warning.filename


def test_the_last_batch_may_be_dropped_from_a_pass():
    data = joint([Photos()[0]] * 20, v2.Identity())
    assert 1 == len(warned(data, [*range(18), *range(2, 20), *range(20)]))


def test_a_look_at_an_item_hides_no_second_pass():
    data = joint([Photos()[0]] * 20, v2.Identity())
    assert [] == warned(data, [0, *range(20)])
    assert 1 == len(warned(data, range(20)))


@pytest.mark.parametrize(
    "indices",
    [[3, 3, 5, *range(8), *range(8)], [n for n in range(8) for _ in range(3)]],
    ids=["weighted", "repeated"],
)
def test_oversampling_is_not_warned_of(indices):
    assert [] == warned(joint(transforms=v2.Identity()), indices)


def test_once_an_epoch_was_set_nothing_is_warned_of():
    data = joint(transforms=v2.Identity())
    data.set_epoch(0)
    assert [] == warned(data, [*range(8), *range(8)])


def test_a_new_epoch_or_no_seed_is_no_reason_to_warn():
    data, unseeded = joint(), joint(seed=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in range(3):
            data.set_epoch(epoch)
            for index in range(8):
                data[index], unseeded[index]


@pytest.mark.timeout(120)
def test_what_a_worker_was_asked_for_counts():
    data = joint()
    loader, made = loaded(data, 2, "fork")
    with pytest.warns(UserWarning, match="is gone through again .item 6., and set_epoch"):
        image, _ = data[6]
    assert not torch.equal(made[0][6], image)


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: inner,
        lambda inner: Subset(inner, [1, 0]),
        lambda inner: Subset(Subset(inner, [1, 0]), [1]),
        lambda inner: ConcatDataset([Photos(), Subset(inner, [0])]),
        lambda inner: JointTransform(Subset(inner, [0]), v2.Identity()),
        lambda inner: ConcatDataset([inner, inner]),
        lambda inner: ConcatDataset([JointTransform(inner, v2.Identity())] * 2),
        lambda inner: ConcatDataset([JointTransform(inner, v2.Identity()) for _ in range(2)]),
    ],
)
def test_a_dataset_within_is_told_the_epoch_once(around):
    inner = EpochSeen()
    data = JointTransform(around(inner), v2.Identity())
    data.set_epoch(7)
    assert 7 == data[-1][1]
    data.set_epoch(8)
    assert [7, 8] == inner.told


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    augment_dataset(Photos(), folder, mixer(), class_names=NAMES, per_image=2)
    return folder


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("seed", [None, 0])
def test_a_mixed_dataset_within_draws_by_epoch_and_index(folder, subset, seed):
    def make():
        mixed = MixedDataset(Photos(), GeneratedDataset(folder, classes=NAMES), p=0.5, seed=seed)
        inner = Subset(mixed, range(8)) if subset else mixed
        both = v2.Compose([v2.ToImage(), v2.Resize((8, 8)), v2.ToDtype(torch.float32, scale=True)])
        return joint(inner, both)

    data, epochs = make(), []
    for epoch in range(3):
        data.set_epoch(epoch)
        epochs.append(read(data, order=[6, 2, 4, 0, 1, 7, 3, 5]))
    again = make()
    again.set_epoch(1)
    assert same(epochs[1], read(again))
    assert not torch.equal(epochs[0][1], epochs[1][1])
    assert not torch.equal(epochs[1][1], epochs[2][1])
    labels = torch.cat([labels for _, labels in epochs])
    assert 3 <= (labels.amax(1) < 1).sum() <= 21
    torch.testing.assert_close(torch.ones(24), labels.sum(1))


# Off


def image_transforms():
    edit = PromptEdit(backend=RecordingBackend(8))
    fractal = FractalBlend(0.5, fractals=BANK)
    return {
        "alone": edit,
        "DiffuseMix": DiffuseMix(p=1.0, fractals=BANK, backend=RecordingBackend(8)),
        "half": HalfConcat(edit),
        "v2.Compose": v2.Compose([edit, fractal]),
        "v1.Compose": v1.Compose([edit]),
        "Compose within Compose": v2.Compose([v1.Compose([v2.Compose([fractal])])]),
        "RandomApply": v2.RandomApply([edit], p=1.0),
        "RandomChoice": v2.RandomChoice([edit, fractal]),
        "RandomOrder": v2.RandomOrder([edit, fractal]),
        "Sequential": nn.Sequential(v2.Compose([edit]), nn.Identity()),
        "ModuleList": v2.RandomApply(nn.ModuleList([edit]), p=1.0),
        "function": lambda sample: edit(*sample),
    }


@pytest.mark.parametrize("kind", image_transforms())
def test_off_diffaug_s_images_pass_wherever_they_are_composed(kind):
    image, _ = Photos()[0]
    data = JointTransform(Photos(), image_transforms()[kind], seed=0)
    assert data.enabled and not torch.equal(image, data[0][0])
    data.enabled = False
    data.set_epoch(0)
    made, label = data[0]
    assert torch.equal(image, made) and 0 == label
    data.enabled = True
    data.set_epoch(0)
    assert not torch.equal(image, data[0][0])


def test_off_everything_else_is_as_with_p_of_0():
    data = joint(transforms=composed(mixer(p=0.5)))
    data.enabled = False
    off = read(data)
    assert same(read(joint(transforms=composed(mixer(p=0.0)))), off)
    assert torch.equal(torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]], off[1])


def test_off_labels_are_one_hot_and_nothing_is_generated():
    backend = RecordingBackend(8)
    data = joint(transforms=v2.Compose([always(backend=backend)]))
    data.enabled = False
    image, label = data[4]
    assert torch.equal(Photos()[4][0], image)
    assert [0, 1, 0] == label.tolist() and torch.float32 == label.dtype
    assert [] == backend.requests


def test_off_it_turns_off_those_within():
    data = JointTransform(joint(transforms=composed(always())), v2.Identity())
    data.enabled = False
    assert [0, 1, 0] == data[4][1].tolist()


def test_one_transform_in_two_datasets_follows_the_one_that_is_read():
    transforms = composed(always())
    train, plain = joint(transforms=transforms), joint(transforms=transforms)
    plain.enabled = False
    labels = [(train[index][1].max() < 1, plain[index][1].max() == 1) for index in range(8)]
    assert all(mixed and one_hot for mixed, one_hot in labels)


# Then


def test_what_comes_then_is_given_the_image_alone():
    seen = []
    mix = always(strength=0.49)
    data = joint(transforms=mix)
    then = JointTransform(
        Photos(), mix, then=lambda image: seen.append(image) or image.flip(-1), seed=0
    )
    (image, label), (flipped, same_label) = data[4], then[4]
    assert torch.equal(image, seen[0]) and isinstance(seen[0], tv_tensors.Image)
    assert torch.equal(image.flip(-1), flipped) and torch.equal(label, same_label)


class ManyDice(torch.nn.Module):
    """A transform that draws from every global generator."""

    def forward(self, image):
        return torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])


def test_with_a_seed_what_comes_then_draws_alike_from_every_generator():
    data = [JointTransform(Photos(), v2.Identity(), then=ManyDice(), seed=0) for _ in range(2)]
    state = random.getstate(), np.random.get_state()[1].tolist()
    first = data[0][3][0]
    assert state == (random.getstate(), np.random.get_state()[1].tolist())
    random.seed(7), np.random.seed(7)
    assert torch.equal(first, data[1][3][0])
    assert not (first == data[1][3][0]).any()


def test_a_trainer_that_sets_the_transform_of_a_dataset_sets_what_comes_then():
    data = joint()
    assert data.transform is None
    data.transform = flip = v2.RandomHorizontalFlip(p=1.0)
    assert flip is data.transform is data.then
    assert torch.equal(joint()[2][0].flip(-1), data[2][0])
    data.transform = None
    data.set_epoch(0)
    assert torch.equal(joint()[2][0], data[2][0])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: JointTransform(Photos(), v2.Identity(), then=3), TypeError, "'then' must be"),
        (lambda: setattr(joint(), "transform", 3), TypeError, "'transform' must be callable, got"),
        (
            lambda: setattr(
                JointTransform(Photos(), v2.Identity(), then=v2.Identity()), "transform", abs
            ),
            ValueError,
            "'transform' must not be set where 'then' was given, for it would replace it; leave",
        ),
    ],
)
def test_what_cannot_come_then_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


class Albumentations:
    """It takes the image by its name alone, and returns a dict, as albumentations' Compose does."""

    def __call__(self, *args, image=None):
        if args:
            raise KeyError("You have to pass data to augmentations as named arguments")
        return {"image": image}


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (
            Albumentations(),
            r"'then' must take the image alone \(You have .* named argument",
        ),
        (lambda image: Albumentations()(image=image), r"return an image, got dict; for albument"),
        (lambda image: None, "'then' must return an image, got NoneType.$"),
    ],
)
def test_what_comes_then_and_returns_no_image_is_told_what_to_do(then, message):
    with pytest.raises(TypeError, match=message) as caught:
        JointTransform(Photos(), v2.Identity(), then=then)[0]
    cure = "give lambda image: augment(image=np.asarray(image))['image']."
    assert ("NoneType" in message) != (cure in str(caught.value))


# As a dataset


class Row(dict):
    """A row of a library that has a class for them."""


@pytest.mark.parametrize("kind", [Row, UserDict])
def test_samples_of_a_kind_of_dict_are_looked_into(kind):
    row = kind(label=1, image=Photos()[1][0], id=7)
    mix = always()
    made = JointTransform([row], v2.Compose([v2.Resize((4, 4)), mix]))[0]
    assert (dict, (3, 4, 4), (3,), 7) == (
        type(made),
        tuple(made["image"].shape),
        tuple(made["label"].shape),
        made["id"],
    )
    assert (1, 7) == (row["label"], row["id"]) and (3, 16, 16) == tuple(row["image"].shape)
    assert (3,) == tuple(mix(row)["label"].shape)
    photo = Image.new("RGB", (8, 8))
    edited = PromptEdit(["snowy"], backend=RecordingBackend(8))(kind(image=photo, label=1))
    assert np.asarray(photo).tolist() != np.asarray(edited["image"]).tolist()


@pytest.mark.parametrize("getter", ["jpg", lambda sample: sample["jpg"]])
def test_the_image_may_be_elsewhere(getter):
    data = [{"cls": 0, "jpg": Photos()[0][0]}]
    mix = always(labels_getter="cls")
    made = JointTransform(data, mix, image_getter=getter, then=v2.CenterCrop(4))[0]
    assert (3, 4, 4) == made["jpg"].shape and (3,) == made["cls"].shape
    with pytest.raises(TypeError, match="its image under one of the keys image, img, pixel_value"):
        JointTransform(data, mix)[0]


def test_the_getter_of_a_transform_within_is_used():
    class Getting:
        image_getter = "jpg"

        def __call__(self, sample):
            return sample

    data = JointTransform([{"jpg": Photos()[0][0]}], v1.Compose([v2.Identity(), Getting()]))
    assert isinstance(data[0]["jpg"], tv_tensors.Image)


def test_it_has_the_classes_of_its_dataset_where_that_has_any():
    class Named(Photos):
        classes, class_to_idx, targets = NAMES, {"cat": 0}, [0, 1]

    data = JointTransform(joint(Named()), v2.Identity())
    assert (NAMES, {"cat": 0}, [0, 1]) == (data.classes, data.class_to_idx, data.targets)
    for name in ("classes", "class_to_idx", "targets", "target_transform"):
        assert not hasattr(joint(), name)


class Growing(Photos):
    """A dataset that has more items in later epochs."""

    length = 2

    def __len__(self):
        return self.length

    def set_epoch(self, epoch):
        self.length = 2 + epoch


def test_a_dataset_may_grow():
    data = joint(Growing(), v2.RandomCrop(4))
    data.dataset.length = 8
    assert not torch.equal(data[7][0], data[7][0])
    data.dataset.length = 2
    data.set_epoch(3)
    assert not torch.equal(data[4][0], data[4][0])


def test_it_has_the_length_and_the_indices_of_its_dataset():
    data = joint(transforms=v2.Identity(), seed=None)
    assert 8 == len(data) == len(list(data))
    assert torch.equal(Photos()[7][0], data[-1][0])
    assert torch.equal(Photos()[7][0], data[torch.tensor(7)][0])
    assert torch.equal(Photos()[7][0], data[np.int64(7)][0])
    assert 0 == len(JointTransform([], v2.Identity(), seed=0))


def test_counted_from_the_back_an_item_is_the_same():
    data = joint()
    image, label = data[7]
    data.set_epoch(0)
    assert same((image, label), data[-1])


class Endless(IterableDataset):
    def __iter__(self):
        yield from ()

    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: JointTransform(iter([]), v2.Identity()), TypeError, "a length and integer indic"),
        (
            lambda: JointTransform(Endless(), v2.Identity()),
            TypeError,
            "indices, got Endless; map the transform over what can .* iterated: dataset.map.mix",
        ),
        (
            lambda: JointTransform({"train": Photos()}, v2.Identity()),
            TypeError,
            "indices, got dict; pass one of its splits.",
        ),
        (lambda: JointTransform(Photos(), None), TypeError, "must be callable, got NoneType"),
        (lambda: JointTransform(Photos(), [v2.Identity()]), TypeError, "callable, got list"),
        (lambda: joint(seed=-1), ValueError, "'seed' must be at least 0, got -1"),
        (lambda: joint(seed=0.5), TypeError, "'seed' must be an integer, got 0.5"),
        (lambda: joint().set_epoch(-1), ValueError, "'epoch' must be at least 0, got -1"),
        (lambda: joint().set_epoch("1"), TypeError, "'epoch' must be an integer, got '1'"),
        (lambda: joint()[8], IndexError, "'index' must be below 8, got 8"),
        (lambda: joint()[-9], IndexError, "got -9"),
        (lambda: joint()["0"], TypeError, "'index' must be an integer, got '0'"),
        (lambda: joint()[0.0], TypeError, "'index' must be an integer, got 0.0"),
        (lambda: joint()[0:2], TypeError, r"'index' must be an integer, got slice\(0, 2, None\)"),
        (lambda: joint()[True], TypeError, "'index' must be an integer, got True"),
        (
            lambda: joint([torch.zeros(3, 4, 4)])[0],
            TypeError,
            r"a sample must be \(image, label\) or a dict of them, got Tensor",
        ),
        (
            lambda: joint([{"x": 0, "label": 0}])[0],
            TypeError,
            "its image under one of the keys image, img, pixel_values, got x, label; rename it",
        ),
        (lambda: joint([(torch.zeros(3, 16, 16), 3)])[0], ValueError, r"in \[0, 3\), got 3"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


class Named(list):
    """Samples of a dataset that names its classes."""

    classes = ("owl", "cat")


def test_classes_in_another_order_than_the_dataset_s_are_an_error():
    data, backend = Named([(torch.rand(3, 8, 8), 0)]), RecordingBackend(8)
    words = {"cat": "a cat", "owl": "an owl"}
    inside = v2.Compose([v2.Resize(8), DiffMix(words, p=0.5, backend=backend)])
    with pytest.raises(ValueError, match="'owl' is class 0 there and class 1 in DiffMix"):
        JointTransform(data, inside)
    right = {name: words[name] for name in Named.classes}
    assert 1 == len(JointTransform(data, DiffMix(right, p=0.5, backend=backend)))
    others = ["an owl", "a cat"]  # words alone are not compared
    assert 1 == len(JointTransform(data, DiffMix(others, p=0.5, backend=backend)))
