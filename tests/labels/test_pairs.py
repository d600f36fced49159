"""Which classes are paired: each strategy's distribution, and the labels of its pairs."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug import ClassPairs, ClassPairSampler, soft_label
from diffaug.labels.pairs import long_tail_weights

COUNTS = [900, 90, 9, 1, 0]
WEIGHTS = [[0, 1, 3], [2, 0, 0], [1, 1, 1]]
STRATEGIES = ["uniform", "other", "same", "tail", "weights"]


def sampler(strategy, **options):
    if strategy == "weights":
        return ClassPairSampler(3, strategy=WEIGHTS, **options)
    counts = COUNTS[:3] if strategy == "tail" else None
    return ClassPairSampler(3, **{"strategy": strategy, "class_counts": counts, **options})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def follows(drawn, weights):
    """Tell by a chi-square test, at about 1 in 10,000, whether numbers were drawn by weights."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    observed = drawn.bincount(minlength=len(weights)).double()
    expected = weights / weights.sum() * len(drawn)
    free = int((expected > 0).sum()) - 1
    if observed[expected == 0].any() or free == 0:
        return not observed[expected == 0].any()
    statistic = ((observed - expected) ** 2 / expected)[expected > 0].sum()
    # Wilson and Hilferty's approximation of the quantile, 3.72 standard deviations up.
    return statistic <= free * (1 - 2 / (9 * free) + 3.72 * (2 / (9 * free)) ** 0.5) ** 3


def test_the_chi_square_test_notices_other_distributions():
    drawn = torch.randint(4, (20_000,), generator=seeded())
    assert follows(drawn, [1, 1, 1, 1])
    assert not follows(drawn, [1, 1, 1, 1.2])
    assert not follows(drawn, [1, 1, 1, 0])
    assert not follows(drawn % 3, [1, 1, 1])


# Distributions


@pytest.mark.parametrize("source", range(4))
def test_uniform_draws_each_class_alike_the_source_s_own_among_them(source):
    targets = ClassPairSampler(4).targets(torch.full((20_000,), source), seeded())
    assert follows(targets, [1, 1, 1, 1])


@pytest.mark.parametrize("source", range(4))
def test_other_draws_each_other_class_alike(source):
    pairs = ClassPairSampler(4, strategy="other")
    targets = pairs.targets(torch.full((20_000,), source), seeded())
    assert follows(targets, [float(number != source) for number in range(4)])


def test_same_keeps_the_class():
    source = torch.tensor([3, 0, 2])
    targets = ClassPairSampler(4, strategy="same").targets(source, seeded())
    assert [3, 0, 2] == targets.tolist()
    assert targets.data_ptr() != source.data_ptr()


def test_tail_draws_a_class_by_1_over_its_images_and_1():
    pairs = ClassPairSampler(5, strategy="tail", class_counts=COUNTS)
    targets = pairs.targets(torch.arange(50_000) % 5, seeded())
    assert follows(targets, [1 / 901, 1 / 91, 1 / 10, 1 / 2, 1])
    assert follows(targets[::5], [1 / 901, 1 / 91, 1 / 10, 1 / 2, 1])


def test_long_tail_weights_are_1_over_the_images_and_1():
    weights = long_tail_weights(torch.tensor(COUNTS))
    assert torch.float64 == weights.dtype
    assert [1 / 901, 1 / 91, 1 / 10, 1 / 2, 1] == weights.tolist()


@pytest.mark.parametrize("source", range(3))
@pytest.mark.parametrize("form", [list, np.array, torch.tensor, tuple])
def test_a_matrix_holds_the_weights_of_a_source_class_in_its_row(source, form):
    pairs = ClassPairSampler(3, strategy=form(WEIGHTS))
    targets = pairs.targets(torch.full((10_000,), source), seeded())
    assert follows(targets, WEIGHTS[source])


@pytest.mark.parametrize("source", range(4))
@pytest.mark.parametrize(
    ("strategy", "weights"),
    [
        ("uniform", [1, 1, 1, 1]),
        ("other", [1, 1, 1, 1]),
        ("tail", [1 / 10, 1 / 2, 1, 1 / 4]),
        ([[1, 2, 3, 4]] * 4, [1, 2, 3, 4]),
    ],
)
def test_targets_are_only_among_the_classes_allowed_for_sources_of_any_class(
    strategy, weights, source
):
    pairs = ClassPairSampler(4, strategy=strategy, class_counts=[9, 1, 0, 3], targets=[3, 1])
    drawn = pairs.targets(torch.full((10_000,), source), seeded())
    expected = [0.0, weights[1], 0.0, weights[3]]
    if strategy == "other":
        expected[source] = 0.0
    assert follows(drawn, expected)


def test_allowing_all_classes_draws_as_without_a_choice():
    drawn = ClassPairSampler(3, targets=range(3)).targets(torch.zeros(20_000).long(), seeded())
    assert follows(drawn, [1, 1, 1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_targets_do_not_depend_on_one_another(strategy):
    source = torch.arange(30_000) % 3
    targets = sampler(strategy).targets(source, seeded())
    for number in range(3):
        of_class = targets[source == number]
        after_the_first = of_class[1:][of_class[:-1] == of_class[0]]
        assert follows(after_the_first, of_class.bincount(minlength=3))


@pytest.mark.parametrize("strategy", ["uniform", "other", "same", "weights"])
def test_a_plan_draws_source_classes_alike(strategy):
    plan = sampler(strategy).plan(20_000, 0.7, gamma=0.5, generator=seeded())
    assert follows(plan.source, [1, 1, 1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_images_were_counted_a_plan_draws_sources_by_image(strategy):
    pairs = sampler(strategy, class_counts=[60, 30, 0])
    plan = pairs.plan(20_000, 0.7, gamma=0.5, generator=seeded())
    assert follows(plan.source, [60, 30, 0])


def test_a_plan_for_a_long_tail_draws_rare_targets_whatever_the_source():
    plan = sampler("tail").plan(20_000, 0.7, gamma=0.5, generator=seeded())
    for number in (0, 1):
        assert follows(plan.target[plan.source == number], [1 / 901, 1 / 91, 1 / 10])


def test_source_and_target_of_a_plan_are_equal_once_in_so_many_classes():
    plan = ClassPairSampler(5).plan(20_000, 0.7, gamma=0.5, generator=seeded())
    assert follows(plan.source * 5 + plan.target, [1] * 25)


# Labels


@given(
    st.integers(2, 7),
    st.integers(0, 7),
    st.floats(0, 1),
    st.floats(0, 2),
    st.sampled_from(["uniform", "other", "same", "tail"]),
)
def test_labels_are_those_of_the_pairs(classes, size, strength, gamma, strategy):
    pairs = ClassPairSampler(classes, strategy=strategy, class_counts=range(1, classes + 1))
    source = torch.randint(classes, (size,), generator=seeded(size))
    made = pairs(source, strength, gamma=gamma, generator=seeded())
    assert torch.equal(source, made.source)
    assert ((size,), torch.int64) == (tuple(made.target.shape), made.target.dtype)
    assert bool(((made.target >= 0) & (made.target < classes)).all())
    torch.testing.assert_close(torch.full((size,), strength), made.strength)
    weight = strength**gamma if made.strength.any() else 0.0
    torch.testing.assert_close(torch.full((size,), weight), made.weight, atol=1e-5, rtol=1e-5)
    expected = soft_label(made.source, made.target, made.strength, gamma, classes)
    assert torch.equal(expected, made.soft_labels)
    assert (torch.float32, (size, classes)) == (expected.dtype, tuple(expected.shape))
    torch.testing.assert_close(torch.ones(size), made.soft_labels.sum(1), atol=1e-6, rtol=0)


def test_each_pair_may_have_its_own_strength():
    strength = torch.tensor([0.0, 0.25, 1.0])
    made = ClassPairSampler(2, strategy="other")([0, 0, 0], strength, gamma=0.5)
    assert [[1, 0], [0.5, 0.5], [0, 1]] == made.soft_labels.tolist()
    assert [0, 0.5, 1] == made.weight.tolist()


@pytest.mark.parametrize("source", [[0, 2], (0, 2), np.array([0, 2]), torch.tensor([0, 2]).int()])
def test_sources_come_in_every_form(source):
    made = sampler("other")(source, 0.5, gamma=0.5)
    assert [0, 2] == made.source.tolist()
    assert all(made.target != made.source)
    assert [0, 2] == sampler("same").targets(source).tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "source",
    [
        torch.tensor([0, 1, 2], dtype=torch.uint8),  # as an index it would be a mask
        np.array([0, 1, 2], dtype=np.uint16),
        torch.tensor([[0], [1], [2]]),
        torch.eye(3),
        np.eye(3, dtype=np.uint8),
    ],
)
def test_every_form_of_sources_draws_the_same_pairs(strategy, source):
    draw = sampler(strategy)
    drawn = [draw(form, 0.7, gamma=0.5, generator=seeded()) for form in (torch.arange(3), source)]
    assert torch.equal(drawn[0].source, drawn[1].source)
    assert torch.equal(drawn[0].target, drawn[1].target)
    assert torch.equal(drawn[0].soft_labels, drawn[1].soft_labels)


def test_one_class_is_paired_with_itself():
    made = ClassPairSampler(1)(torch.zeros(3, dtype=torch.long), 0.7, gamma=0.5)
    assert [[1], [1], [1]] == made.soft_labels.tolist()


def test_pairs_cannot_be_reassigned():
    made = sampler("uniform").plan(3, 0.5, gamma=0.5)
    assert isinstance(made, ClassPairs)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.target = made.source


# Determinism


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_generator_decides_and_the_global_one_is_left_alone(strategy):
    before = torch.get_rng_state()
    plans = [
        sampler(strategy).plan(500, 0.7, gamma=0.5, generator=seeded(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(plans[0].source, plans[1].source)
    assert torch.equal(plans[0].soft_labels, plans[1].soft_labels)
    assert not torch.equal(plans[0].source, plans[2].source)
    assert not torch.equal(plans[0].target, plans[2].target)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_generator_torch_s_global_seed_decides(strategy):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(sampler(strategy).plan(500, 0.7, gamma=0.5).source)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sampler_travels_and_draws_the_same(strategy):
    pairs = sampler(strategy)
    plans = [
        one.plan(100, 0.7, gamma=0.5, generator=seeded()).soft_labels
        for one in (pairs, copy.deepcopy(pairs), pickle.loads(pickle.dumps(pairs)))
    ]
    assert torch.equal(plans[0], plans[1]) and torch.equal(plans[0], plans[2])


def test_a_fingerprint_tells_apart_whatever_changes_a_draw():
    samplers = [
        *(sampler(strategy) for strategy in STRATEGIES),
        ClassPairSampler(4),
        ClassPairSampler(3, strategy="tail", class_counts=[1, 2, 3]),
        ClassPairSampler(3, strategy=torch.eye(3)),
        ClassPairSampler(3, targets=[0, 1]),
        ClassPairSampler(3, targets=[0, 2]),
    ]
    assert len(samplers) == len({pairs.fingerprint for pairs in samplers})
    assert sampler("weights").fingerprint == sampler("weights").fingerprint


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_image_needs_no_pair(strategy):
    made = sampler(strategy).plan(0, 0.5, gamma=0.5)
    assert ((0,), (0,), (0, 3)) == (made.source.shape, made.target.shape, made.soft_labels.shape)


def test_a_choice_of_targets_shows_in_the_name_and_weighs_little():
    pairs = ClassPairSampler(1000, targets=[7, 3])
    assert "ClassPairSampler(1000, strategy='uniform', targets=[3, 7])" == repr(pairs)
    assert len(pickle.dumps(pairs)) < 3000


def test_a_thousand_classes_are_paired_at_once():
    pairs = ClassPairSampler(1000, strategy="tail", class_counts=range(1000))
    made = pairs.plan(2000, 0.7, gamma=0.5, generator=seeded())
    assert (2000, 1000) == tuple(made.soft_labels.shape)
    assert made.target.float().mean() < 250 and made.source.float().mean() > 600


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "'num_classes' must be at least 1, got 0"),
        ({"num_classes": 2.0}, TypeError, "'num_classes' must be an integer, got 2.0"),
        (
            {"strategy": "tale"},
            ValueError,
            "must be one of uniform, other, same, tail or a matrix of weights, got 'tale'",
        ),
        ({"num_classes": 1, "strategy": "other"}, ValueError, "other needs at least 2 classes"),
        ({"strategy": "tail"}, ValueError, r"tail needs 'class_counts'; count them with class_c"),
        ({"strategy": None}, TypeError, "'strategy' must hold numbers, got None"),
        ({"strategy": [[1, 2]]}, ValueError, r"\(3, 3\) matrix of weights, got shape \(1, 2\)"),
        ({"strategy": [1, 2, 3]}, ValueError, r"\(3, 3\) matrix of weights, got shape \(3,\)"),
        ({"strategy": -torch.eye(3)}, ValueError, "must hold weights of at least 0"),
        ({"strategy": torch.eye(3) * np.nan}, ValueError, "must hold weights of at least 0"),
        ({"strategy": torch.eye(3) / 0}, ValueError, "must hold weights of at least 0"),
        ({"strategy": [[1, 0, 0], [0, 0, 0], [1, 1, 1]]}, ValueError, "positive in each row"),
        ({"class_counts": [1, 2]}, ValueError, r"number for each of 3 classes, got shape \(2,\)"),
        ({"class_counts": [1, -2, 3]}, ValueError, "'class_counts' must be at least 0, got -2"),
        ({"class_counts": [0, 0, 0]}, ValueError, "must count at least one image, got none"),
        ({"class_counts": [1.5, 2, 3]}, TypeError, "must hold integers, got torch.float32"),
        ({"class_counts": [True] * 3}, TypeError, "must hold integers, got torch.bool"),
        ({"targets": []}, ValueError, r"'targets' must be class numbers, at least one, got \[\]"),
        ({"targets": [0, 3]}, ValueError, r"'targets' must be in \[0, 3\), got 3"),
        ({"targets": [0.0]}, TypeError, "'targets' must hold integers, got torch.float32"),
        (
            {"strategy": "same", "targets": [0]},
            ValueError,
            "'targets' must not be given with strategy same, .* leave out the images of the other",
        ),
        (
            {"strategy": "other", "targets": [2]},
            ValueError,
            r"'targets' must leave each class a target, got \[2\], and class 2 has none; name more",
        ),
        (
            {"strategy": WEIGHTS, "targets": [1, 2]},
            ValueError,
            r"must leave each class a target, got \[1, 2\], and class 1 has none; name more",
        ),
        ({"class_counts": "abc"}, TypeError, "'class_counts' must hold numbers, got 'abc'"),
    ],
)
def test_a_sampler_that_cannot_be_is_one_clear_line(options, error, message):
    with pytest.raises(error, match=message) as caught:
        ClassPairSampler(**{"num_classes": 3, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": [0, 3]}, ValueError, r"'source' must be in \[0, 3\), got 3"),
        ({"source": [-1, 0]}, ValueError, r"'source' must be in \[0, 3\), got -1"),
        ({"source": [0.0, 1.0]}, TypeError, "'source' must hold integers, got torch.float32"),
        ({"source": "ab"}, TypeError, "'source' must hold numbers, got 'ab'"),
        ({"source": 1}, ValueError, r"'source' must have shape \(B,\), got \(\)"),
        (
            {"source": [[[0]], [[1]]]},
            ValueError,
            r"'source' must have shape \(B,\), got \(2, 1, 1\)",
        ),
        ({"source": [[0], [3]]}, ValueError, r"'source' of sample 1 must be in \[0, 3\), got 3"),
        (
            {"source": [True, False]},
            TypeError,
            "'source' must be numbers, and no booleans, got sha",
        ),
        ({"strength": 1.2}, ValueError, r"'strength' must be in \[0, 1\], got 1.2\."),
        ({"strength": [0.5, -0.2]}, ValueError, r"'strength' must be in \[0, 1\], got -0.2"),
        (
            {"strength": [0.5] * 3},
            ValueError,
            r"'strength' must be a number or one for each of 2 sources, got shape \(3,\)",
        ),
        ({"strength": "much"}, TypeError, "'strength' must hold numbers, got 'much'"),
        ({"gamma": -1}, ValueError, "'gamma' must be at least 0, got -1"),
        ({"gamma": None}, TypeError, "'gamma' must be a number, got None"),
    ],
)
def test_pairs_that_cannot_be_are_one_clear_line(changes, error, message):
    arguments = {"source": [0, 1], "strength": 0.5, "gamma": 0.5, **changes}
    with pytest.raises(error, match=message) as caught:
        sampler("uniform")(arguments.pop("source"), arguments.pop("strength"), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), (2.0, TypeError)])
def test_a_plan_of_a_wrong_size_is_named(n, error):
    with pytest.raises(error, match="'n' must be"):
        sampler("uniform").plan(n, 0.5, gamma=0.5)
