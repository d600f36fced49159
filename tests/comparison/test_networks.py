"""Classifiers by name, from a file of weights, or of the caller's own; and how they are trained."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffaug.comparison import training
from diffaug.comparison.arms import NAMED, Arm, find_arms, named
from diffaug.comparison.batches import Batches, Data
from diffaug.comparison.networks import Normalized, SmallResNet, build
from diffaug.errors import ModelError


@pytest.mark.parametrize("name", ["small", "squeezenet1_1", "timm:resnet10t"])
def test_a_classifier_has_a_score_for_each_class(name):
    assert (2, 5) == build(name, 5).eval()(torch.rand(2, 3, 64, 64)).shape


def test_published_models_get_images_as_they_were_trained_on():
    model = Normalized(nn.Identity())
    grey = torch.tensor([0.485, 0.456, 0.406])[:, None, None].expand(1, 3, 2, 2)
    assert 0 == model(grey).abs().max()


def test_weights_of_a_file_are_taken_but_for_a_head_of_another_size(tmp_path):
    given = SmallResNet(7)
    save_file(given.state_dict(), tmp_path / "base.safetensors")
    made = build("small", 3, tmp_path / "base.safetensors")
    assert torch.equal(given.body[0].weight, made.body[0].weight)
    assert (3, 256) == made.head.weight.shape


def test_a_file_of_another_model_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="must hold the weights of this classifier, and 0 of its"):
        build("small", 3, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="could not be read as safetensors"):
        build("small", 3, tmp_path / "none.safetensors")


def test_what_makes_no_module_is_refused():
    with pytest.raises(TypeError, match=r"'classifier' must make a torch.nn.Module, got str"):
        build(lambda classes: "model", 3)


def data(count=8, pool=None):
    """Return black photographs, and a white pool."""
    images = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
    labels = torch.nn.functional.one_hot(torch.arange(count) % 2, 2).float()
    if pool is None:
        return Data(images, labels)
    white = torch.full((pool, 3, 16, 16), 255, dtype=torch.uint8)
    own = torch.arange(pool).view(count, -1).tolist()
    return Data(images, labels, white, torch.full((pool, 2), 0.5), own)


def batches(arm, of=None, steps=40):
    return list(Batches(of or data(), arm, steps=steps, batch=8, seed=0))


def test_a_generated_image_stands_in_with_probability_p_and_brings_its_label():
    arm = Arm("a", "edit", p=0.25)
    images, labels = (torch.cat(parts) for parts in zip(*batches(arm, data(pool=16)), strict=True))
    white = images.amin((1, 2, 3)) > 0.9
    assert 0.25 == pytest.approx(white.float().mean().item(), abs=0.08)
    assert torch.equal(white, labels.amax(1) == 0.5)


def test_half_of_an_edit_is_joined_to_half_of_its_photograph():
    arm = Arm("a", "edit", halves=True, p=1.0)
    images, _ = batches(arm, data(pool=16), steps=1)[0]
    shares = images.mean((1, 2, 3))
    assert (shares > 0.1).all() and (shares < 0.9).all()
    assert images.amax() > 0.99 and images.amin() < 0.01


def test_edits_are_those_of_the_photograph_itself():
    photos, pool = torch.arange(4), torch.arange(8) // 2
    pictures = torch.stack([torch.full((3, 16, 16), 60 * int(n), dtype=torch.uint8) for n in pool])
    own = torch.stack([torch.full((3, 16, 16), 60 * int(n), dtype=torch.uint8) for n in photos])
    given = Data(own, torch.eye(4), pictures, torch.eye(4)[pool], [[0, 1], [2, 3], [4, 5], [6, 7]])
    for images, labels in batches(Arm("a", "edit", p=0.5), given, steps=5):
        assert torch.equal(labels.argmax(1), (images.mean((1, 2, 3)) * 255 / 60).round().long())


def test_a_photograph_stays_where_nothing_may_replace_it():
    given = data(pool=16)
    given = replace(given, own=[[n] if n % 2 else [] for n in range(8)])
    images, labels = (
        torch.cat(parts) for parts in zip(*batches(Arm("a", "edit", p=1.0), given), strict=True)
    )
    white = images.amin((1, 2, 3)) > 0.9
    assert torch.equal(white, labels.amax(1) == 0.5) and 160 == int(white.sum())
    assert {0} == set(labels[~white].argmax(1).tolist())


def test_arms_may_be_joined():
    joined = named("Real_Mix+randaugment + cutmix")
    assert joined == Arm(
        "real-mix + randaugment + cutmix", "real-mix", randaugment=True, mix="cutmix"
    )
    assert "local" == named("diffusemix+mixup").replaced_by and named("fractal").fractal
    assert joined in find_arms(["cutmix", joined.name])


@pytest.mark.parametrize("name", ["cutmix+mixup", "real-mix+edit", "none+cutmix", "cutmix+cutmix"])
def test_arms_that_do_the_same_part_cannot_be_joined(name):
    with pytest.raises(ValueError, match="'arms' with . between them must each add something of"):
        named(name)


@pytest.mark.parametrize("name", ["cutmix+", "+", "magic+cutmix", 3])
def test_what_is_no_arm_is_named(name):
    with pytest.raises(
        ValueError, match=f"'arms' must be among none, .*got {re.escape(repr(name))}"
    ):
        named(name)


def test_targets_are_for_arms_that_draw_them_and_have_none_of_their_own():
    filled = [arm.filled(0.5, 0.7, 0.5, 5, ["bee"]) for arm in (
        Arm("a", "real-mix"), Arm("b", "real-mix", replacement="local"), Arm("c", "real-aug"),
        Arm("d", "edit"), Arm("e", "real-gen", options={"targets": ["ant"]}), Arm("f"),
        Arm("g", "real-mix", options={"pairs": "other"}),
    )]  # fmt: skip
    assert [arm.options.get("targets") for arm in filled] == [
        ("bee",), ("bee",), None, None, ["ant"], None, None,
    ]  # fmt: skip
    assert ["class", "local", "global"] == [arm.replaced_by for arm in filled[:3]]
    explicit = Arm("h", "real-mix", replacement="global").filled(0.5, 0.7, 0.5, 5, ["bee"])
    assert "global" == explicit.replaced_by


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (Arm("a", "edit"), "local"),
        (Arm("a", "real-mix"), "global"),
        (Arm("a", "real-mix", options={"targets": ["bee"]}), "class"),
        (Arm("a", "real-mix", options={"targets": ["bee"]}, replacement="Global"), "global"),
    ],
)
def test_what_replaces_a_photograph_follows_from_what_is_generated(arm, expected):
    assert expected == arm.replaced_by == replace(arm, p=0.5).replaced_by


def test_a_replacement_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="'replacement' must be one of global, class, local, got"):
        Arm("a", "real-mix", replacement="concat")


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixing_weighs_labels_as_it_weighs_pixels(mix):
    images = torch.cat([torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 255)]).to(torch.uint8)
    for mixed, labels in batches(Arm("a", mix=mix), Data(images, torch.eye(2)), steps=10):
        assert torch.allclose(labels.sum(1), torch.ones(8))
        assert torch.allclose(labels[:, 1], mixed.mean((1, 2, 3)), atol=0.02)


def test_a_fractal_is_blended_in_with_its_weight():
    images, labels = batches(Arm("a", fractal=True, p=1.0), steps=1)[0]
    assert 0 < images.amax() <= 0.21 and torch.equal(labels.amax(1), torch.ones(8))


def test_randaugment_changes_images_and_not_labels():
    of = data()
    noise = torch.randint(0, 256, of.images.shape, dtype=torch.uint8)
    of = Data(noise, of.labels)
    plain, changed = (batches(Arm("a", randaugment=on), of, steps=2) for on in (False, True))
    assert not torch.equal(plain[0][0], changed[0][0])
    assert torch.equal(plain[0][1], changed[0][1])


def test_the_recipe_trains():
    pictures = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(4)
    pictures = pictures[:, None, None, None].expand(8, 3, 16, 16)
    of = Data(pictures, torch.eye(2).repeat_interleave(4, 0))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    made = Batches(of, NAMED["none"], steps=300, batch=8, seed=0)
    assert training.train(model, made, steps=300, rate=0.05) < 0.3
    assert not model.training
    found = training.predict(model, of.images, torch.device("cpu")).argmax(1)
    assert torch.equal(found, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))


def test_none_is_always_among_the_arms_and_each_name_is_there_once():
    assert ["none", "real-mix"] == [arm.name for arm in find_arms("Real Mix")]
    with pytest.raises(ValueError, match="'arms' must have each name once, got 'mixup' twice"):
        find_arms(["mixup", "mixup"])
    with pytest.raises(ValueError, match="'arms' must have one arm 'none'"):
        find_arms([Arm("none", mix="mixup")])
    with pytest.raises(ValueError, match="'mix' must be '', mixup or cutmix, got 'puzzle'"):
        Arm("a", mix="puzzle")
    with pytest.raises(ValueError, match="'generate' must be '', edit or a strategy"):
        Arm("a", "magic")
