"""Intervals cover what they say, advice follows from them alone, and the probe judges by ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffaug.backends.presets import PRESETS
from diffaug.comparison import pictures, probe
from diffaug.comparison.advice import advise, on_passes
from diffaug.comparison.chart import INK, LINE, by_gain, chart
from diffaug.comparison.intervals import Estimate, Marks, critical, ranks_apart
from diffaug.comparison.probe import Probe, by_its_card, listed_classes, verdicts
from diffaug.comparison.rows import Row

#: From printed tables of Student's t, two-sided.
TABLE = {(0.95, 1): 12.706, (0.95, 2): 4.303, (0.95, 30): 2.042, (0.99, 4): 4.604, (0.9, 8): 1.860}


@pytest.mark.parametrize(("level", "degrees"), TABLE)
def test_critical_values_are_those_of_the_tables(level, degrees):
    assert TABLE[level, degrees] == pytest.approx(critical(level, degrees), abs=2e-3)


def simulated(generator, *, gain, seeds, images, arms=3):
    """Draw marks of arms that are all alike but for a gain of the first one over ``none``."""
    hardness = generator.normal(0, 1, images)
    right = {}
    for number in range(arms):
        level = gain if number == 1 else 0.0
        runs = [hardness + level + generator.normal(0, 0.3) for _ in range(seeds)]
        noisy = [run + generator.normal(0, 1, images) for run in runs]
        right["none" if not number else f"arm{number}"] = [(n > 0).astype(float) for n in noisy]
    return Marks(right, shared=True)


@pytest.mark.parametrize("seeds", [2, 5])
def test_an_interval_misses_the_truth_about_once_in_twenty_times(seeds):
    generator = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        low, high = (
            simulated(generator, gain=0.0, seeds=seeds, images=80)
            .difference("arm1", "none")
            .interval()
        )
        missed += not low <= 0 <= high
    assert 2 <= missed <= 28  # 20 are expected; more than 28 would be 2 standard errors off


def test_one_training_has_an_interval_over_the_test_images_and_says_so():
    marks = Marks({"none": [np.zeros(100)], "arm": [np.repeat([0.0, 1.0], [50, 50])]}, shared=True)
    assert (0.4, 0.6) == pytest.approx(marks.difference("arm", "none").interval(), abs=0.01)
    assert "of one training" in marks.method


def test_folds_count_the_photographs_that_they_share():
    folds = [np.repeat([1.0, 0.0], [ones, 40 - ones]) for ones in (0, 10, 20, 30, 40)]
    right = {"none": [np.zeros(40)] * 5, "arm": folds}
    alone, shared = (
        Marks(right, shared=False, ratio=ratio).difference("arm", "none").error
        for ratio in (0.0, 0.25)
    )
    assert shared == pytest.approx(alone * ((1 / 5 + 1 / 4) / (1 / 5)) ** 0.5)


def test_all_alike_is_no_proof():
    marks = Marks({"none": [np.ones(9)] * 3, "arm": [np.ones(9)] * 3}, shared=True)
    low, high = marks.difference("arm", "none").interval()
    assert low <= 0 <= high


def test_more_comparisons_make_wider_intervals():
    one = Estimate(0.0, 0.1, 10)
    assert one.interval(8)[1] > one.interval()[1] == pytest.approx(0.2228, abs=1e-3)


def row(arm, gain, reach):
    """Return a row with a gain and half the width of its interval."""
    bounds = (gain - reach, gain + reach)
    return Row(arm, None, (), 0.5 + gain, (0, 1), gain, bounds, bounds)


def advice(*rows, lead=None, known=None, generating=("real-mix", "diffusemix")):
    """Advise on rows; ``lead`` is the estimate between any two arms."""
    names = [r.arm for r in rows]
    between = dict.fromkeys(((a, b) for a in names for b in names), lead)
    return advise(rows, between, known or {}, set(generating))


NONE = row("none", 0.0, 0.0)


def test_the_mean_alone_recommends_nothing():
    assert "do not use any of them here" in advice(
        NONE, row("real-mix", 0.08, 0.09), row("mixup", 0.01, 0.02)
    )


def test_a_large_noise_is_said():
    assert "gains of less than 9 points cannot be seen" in advice(NONE, row("real-mix", 0.08, 0.09))
    assert "cannot be seen" not in advice(NONE, row("real-mix", 0.0, 0.01))


def test_the_best_arm_beyond_the_noise_is_recommended():
    said = advice(NONE, row("mixup", 0.05, 0.06), row("real-mix", 0.08, 0.03))
    assert said == "Use 'real-mix': it gains 8.0 points over 'none' (between 5.0 and 11.0)."


def test_a_cheaper_arm_that_is_as_good_is_recommended():
    rows = NONE, row("mixup", 0.06, 0.03), row("real-mix", 0.08, 0.03)
    said = advice(*rows, lead=Estimate(0.02, 0.02, 20))
    assert said.startswith("Use 'mixup': it gains 6.0 points")
    assert advice(*rows, lead=Estimate(0.02, 0.002, 20)).startswith("Use 'real-mix'")


def test_a_short_training_is_said():
    assert on_passes([500, 32.4]) == (
        "In training, each photograph came 32 times: with more steps, augmentation may gain more."
    )
    assert "came 0.64 times and 128 times: " in on_passes([0.64, 128])
    assert "" == on_passes([300])


def test_what_does_harm_is_named():
    said = advice(NONE, row("real-mix", -0.08, 0.03), row("mixup", 0.0, 0.02))
    assert said.endswith("; 'real-mix' does harm.")


def test_the_base_is_named_where_it_does_not_know_the_classes():
    rows = NONE, row("real-mix", 0.0, 0.02)
    assert "knows none of the classes: fine-tune it first." in advice(
        *rows, known={"cat": False, "dog": False}
    )
    assert "does not know 'dog': fine-tune it, or leave this class out" in advice(
        *rows, known={"cat": True, "dog": False}
    )
    assert "cannot be judged" in advice(*rows, known={"cat": None})
    assert "base model" not in advice(*rows, known={"cat": True})


def scores(classes, each, told, generator):
    """Return log-probabilities in which the classes of ``told`` stand out, and the labels."""
    labels = np.repeat(np.arange(classes), each)
    values = generator.normal(0, 1, (len(labels), classes))
    for number in told:
        values[labels == number, number] += 3
    return values, labels


def test_a_class_is_known_unknown_or_not_judged():
    generator = np.random.default_rng(0)
    photos = scores(4, 20, told=(0, 1, 2), generator=generator)
    made = scores(4, 10, told=(0, 2), generator=generator)
    found = verdicts(*photos, *made, ["ant", "bee", "cat", "dog"])
    assert {"ant": True, "bee": False, "cat": True, "dog": None} == found.known
    assert found.details["ant"]["generated"] > 0.9
    [knows, does_not, open_] = found.lines()
    assert "the base model knows 2 of 4 (ant, cat)" == knows
    assert does_not == (
        "the base model does not know 1 of 4 (bee): fine-tune, or leave these out of the targets"
    )
    assert "cannot be judged with these photographs 1 of 4 (dog)" == open_


def test_what_photographs_leave_open_the_list_of_the_model_decides():
    listed = listed_classes(PRESETS["tiny-translate"].spec)
    assert listed is not None and "egyptian cat" in listed
    probe = Probe({"Egyptian_cat": None, "okapi": None, "bee": True}, {})
    words = {"Egyptian_cat": "Egyptian cat", "okapi": "okapi", "bee": "humming insect"}
    decided = by_its_card(probe, words, listed)
    assert {"Egyptian_cat": None, "okapi": False, "bee": True} == decided.known
    assert "1 of these by the list of classes" in decided.lines()[-1]
    assert probe == by_its_card(probe, words, None)
    assert listed_classes(PRESETS["sd15"].spec) is None


def test_ranks_are_half_by_chance():
    assert (0.5, 1.0) == (ranks_apart(np.ones(3), np.ones(4))[0],
                          ranks_apart(np.ones(3), np.zeros(4))[0])  # fmt: skip
    assert torch.isclose(torch.tensor(ranks_apart(np.ones(3), np.ones(4))[1]),
                         torch.tensor((8 / 144) ** 0.5))  # fmt: skip


def test_clip_judges_by_the_words_of_the_classes(tmp_path, monkeypatch):
    asked = []

    def scores(model, images, captions, *, device):
        asked.append((model, tuple(captions), device))
        # It knows an image by its colour: red is the first class, green is the second.
        bright = torch.stack([image.float().mean((1, 2))[:2] for image in images])
        return (bright / 16).log_softmax(1)

    monkeypatch.setattr(probe, "caption_scores", scores)

    def painted(name, colours):
        images = torch.zeros(len(colours), 3, 4, 4, dtype=torch.uint8)
        labels = torch.tensor([label for label, _ in colours])
        for place, (_, channel) in enumerate(colours):
            images[place, channel] = 200 + place % 7
        made = pictures.Pictures(images, {"label": labels}, {})
        return pictures.stored(tmp_path / f"{name}.safetensors", lambda: made)

    photographs = painted("photos", [(0, 0), (1, 1)] * 12)
    right = painted("right", [(0, 0), (1, 1)] * 10)
    wrong = painted("wrong", [(0, 0), (1, 0)] * 10)
    names, words = ["n01", "n02"], ["robin", "frog"]
    found = probe.judge_by_clip("clip", right, [photographs], names, words, "cpu")
    assert found.known == {"n01": True, "n02": True}
    assert asked == [("clip", ("a photo of a robin", "a photo of a frog"), "cpu")]
    found = probe.judge_by_clip("clip", wrong, [photographs], names, words, "cpu")
    assert found.known["n02"] is False


def test_a_picture_begins_with_none_and_the_largest_gain():
    rows = [row("real-mix", 0.05, 0.1), row("cutmix", 0.2, 0.1), row("none", 0.0, 0.0)]
    assert ["none", "cutmix", "real-mix"] == [found.arm for found in by_gain(rows)]
    few = [replace(found, shots=1) for found in rows]
    assert [None] * 3 + [1] * 3 == [found.shots for found in by_gain(rows + few)]


@pytest.mark.parametrize(
    "name", ["a", " ", "real-mix, known targets, by class + cutmix", "long " * 40]
)
def test_the_scale_of_a_picture_begins_behind_the_names(name):
    pixels = chart([row("none", 0.0, 0.0), row(name, 0.1, 0.05)], "Use it.").permute(1, 2, 0)
    line, ink = torch.tensor(LINE), torch.tensor(INK)
    scale = (pixels[86] == line).all(1).nonzero().min()
    written = (pixels[90:170] == ink).all(2).any(0).nonzero()
    assert 200 <= scale <= 1020 - 270 - 200
    if len(name) < 100:
        assert written.max() < scale
