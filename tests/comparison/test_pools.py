"""A fine-tuned model may know the photographs to train on, and no others."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from diffaug.backends import finetuned, presets
from diffaug.comparison.arms import NAMED, Arm
from diffaug.comparison.pools import Models
from diffaug.comparison.split import Part

TUNED = presets.PRESETS["tiny-translate"].spec
TRAIN, TEST = ("cat/1.png", "dog/1.png"), ("cat/2.png", "dog/2.png")


def models(backend):
    return Models(backend, "tiny", None, "", "cpu")


def diff_mix(monkeypatch, knows, fold):
    learned = SimpleNamespace(files=knows, folder=Path("runs/tuned"))
    monkeypatch.setattr(finetuned, "find", lambda spec: learned)
    return models(TUNED).transform(
        NAMED["diff-mix"].filled(0.5, 0.7, 0.8, 5), Part(3, fold, 1, TRAIN, TEST), ["cat", "dog"]
    )


def test_one_that_knows_a_photograph_of_the_fold_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="must not know the photographs to test on, and .* 1 of"):
        diff_mix(monkeypatch, ("cat/1.png", "dog/2.png"), fold=0)


def test_one_that_knows_more_than_the_classifier_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"knows 1 more; fine-tune with shots=1 and seed=3"):
        diff_mix(monkeypatch, (*TRAIN, "cat/7.png"), fold=None)


def test_the_path_of_a_model_may_name_the_seed_and_the_shots(tmp_path):
    (tmp_path / "tuned-3-1").symlink_to(TUNED.model)
    named = models(str(tmp_path / "tuned-{seed}-{shots}"))
    part = Part(3, None, 1, TRAIN, TEST)
    assert str(Path(TUNED.model).resolve()) == str(Path(named.translator(part).model).resolve())
    assert named.can_draw(part) and not models("tiny").can_draw(part)


def test_a_model_runs_on_the_device_of_the_comparison():
    assert "cpu" == models("tiny-translate").translator(Part(0, None, 1, TRAIN, TEST)).device


def test_an_arm_may_edit_by_prompts_of_its_own():
    arm = Arm("snow", "edit", options={"prompts": ["snowy"]}).filled(0.5, 0.7, 0.8, 5)
    part = Part(0, None, 1, TRAIN, TEST)
    edit = models("tiny-translate").transform(arm, part, ["cat", "dog"])
    assert edit.prompts == ("snowy",)
    assert len(models("tiny").transform(NAMED["edit"], part, ["cat", "dog"]).prompts) == 9
