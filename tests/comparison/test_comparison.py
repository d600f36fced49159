"""A comparison recommends what helps, advises against what does not, and never does work twice."""

import json

import pytest
import torch
from image_folders import contents
from planted import CLASSES, QUICK, Planted, confused, network, noise, photo, photos, real

from diffaug import Arm, Comparison, compare
from diffaug.backends import devices
from diffaug.comparison import pools, run, training
from diffaug.comparison.split import photographs
from diffaug.errors import GenerationError
from diffaug.images import read_image


@pytest.fixture
def source(tmp_path):
    return photos(tmp_path / "photos", 8)


@pytest.fixture
def test(tmp_path):
    return photos(tmp_path / "test", 60, first=100)


def test_a_perfect_model_is_recommended(source, test, tmp_path):
    done = compare(
        source, test=test, shots=3, seeds=3, arms=["real-gen", "mixup"],
        backend=Planted(real), out=tmp_path / "out", **QUICK,
    )  # fmt: skip
    best = done.row("real-gen")
    assert best.mean > done.row("none").mean + 0.1
    assert 0 < best.simultaneous[0] < best.difference_interval[0] < best.difference
    assert done.advice.startswith("Use 'real-gen': it gains ")
    assert True in done.known.values() and False not in done.known.values()


def test_classifiers_on_a_cpu_though_there_is_a_gpu_are_trained_aloud(source, test, monkeypatch):
    monkeypatch.setattr(devices, "why_no_gpu", lambda: "its driver is too old")
    with (
        pytest.warns(UserWarning, match=r"on the CPU: .* \(its driver is too old\)") as caught,
        pytest.raises(ValueError, match="'size' must be at least 8"),  # before anything is trained
    ):
        compare(source, test=test, arms=[], size=1)
    assert 1 == len(caught)


def test_a_classifier_that_does_not_fit_into_memory_is_one_line(
    source, test, tmp_path, monkeypatch
):
    def fill(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(training, "train", fill)
    message = r"^a classifier \(none\) does not fit into the memory of this machine; .* 'batch' or"
    with pytest.raises(GenerationError, match=message):
        compare(source, test=test, arms=["none"], **QUICK, out=tmp_path / "out")


def test_a_useless_model_is_advised_against(source, test, tmp_path):
    done = compare(
        source, test=test, shots=3, seeds=3, arms=["real-gen"],
        backend=Planted(noise), out=tmp_path / "out", **QUICK,
    )  # fmt: skip
    assert done.row("real-gen").simultaneous[0] <= 0
    assert "'real-gen' is not better than 'none' beyond the noise: do not use it" in done.advice
    assert True not in done.known.values()


def test_a_model_that_draws_other_classes_does_harm_and_the_probe_says_so(source, test, tmp_path):
    said = []
    done = compare(
        source, test=test, shots=5, seeds=3, arms=["real-gen"],
        backend=Planted(confused), out=tmp_path / "out", say=said.append, **QUICK,
    )  # fmt: skip
    assert "'real-gen' does harm" in done.advice
    assert "fine-tune it" in done.advice
    assert False in done.known.values() and True not in done.known.values()
    warned = next(place for place, line in enumerate(said) if "does not know" in line)
    paid = next(place for place, line in enumerate(said) if line.startswith("generating"))
    assert warned < paid


def test_a_class_that_the_judge_does_not_know_cannot_be_judged(tmp_path):
    few = photos(tmp_path / "photos", 2)
    done = compare(
        few, arms=["none"], backend=Planted(noise), out=tmp_path / "out", **{**QUICK, "steps": 1}
    )
    assert dict.fromkeys(CLASSES, None) == done.known


def test_a_second_call_makes_nothing_and_says_the_same(source, test, tmp_path, monkeypatch):
    given = {
        "test": test, "shots": 2, "seeds": 2, "arms": ["real-mix", "diffusemix", "cutmix"],
        "backend": Planted(real), "editor": Planted(noise), "out": tmp_path / "out",
    }  # fmt: skip
    settings = {**QUICK, "steps": 5}
    first = compare(source, **given, **settings)
    assert (8, 0) == (first.trained, first.found) and first.made == 2 * 2 * 8 * 8
    monkeypatch.setattr(training, "train", None)  # whoever calls it fails
    monkeypatch.setattr(pools, "augment_folder", None)
    second = compare(source, **given, **settings)
    assert (0, 8, 0) == (second.trained, second.found, second.made)
    assert first.rows == second.rows and first.advice == second.advice


def test_other_arms_and_settings_add_what_is_missing(source, test, tmp_path):
    given = {
        "test": test,
        "shots": 2,
        "seeds": 1,
        "backend": Planted(real),
        "out": tmp_path / "out",
    }
    settings = {**QUICK, "steps": 5, "probe": False}
    compare(source, arms=["real-mix"], **given, **settings)
    more = compare(source, arms=["real-mix", "mixup"], **given, **settings)
    assert (1, 2, 0) == (more.trained, more.found, more.made)
    other_p = compare(source, arms=["real-mix"], p=0.2, gamma=0.4, **given, **settings)
    assert (1, 1, 0) == (other_p.trained, other_p.found, other_p.made)
    stronger = compare(source, arms=["real-mix"], strength=0.9, **given, **settings)
    assert (1, 1, 64) == (stronger.trained, stronger.found, stronger.made)


def test_killed_and_resumed_is_as_undisturbed(source, test, tmp_path, monkeypatch):
    given = {
        "test": test,
        "shots": 2,
        "seeds": 2,
        "arms": ["real-gen", "fractal"],
        "backend": Planted(real),
    }
    settings = {**QUICK, "steps": 5}
    whole = compare(source, out=tmp_path / "whole", **given, **settings)
    trained, right_way = [], training.train

    def dying(*args, **kwargs):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(1)
        return right_way(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "train", dying)
        compare(source, out=tmp_path / "killed", **given, **settings)
    resumed = compare(source, out=tmp_path / "killed", **given, **settings)
    assert 3 == resumed.found and 3 == resumed.trained
    assert [r.accuracies for r in whole.rows] == [r.accuracies for r in resumed.rows]
    assert whole.advice == resumed.advice
    kept = {n: c for n, c in contents(tmp_path / "whole").items() if n.endswith(".safetensors")}
    again = contents(tmp_path / "killed")
    made = {name: data for name, data in kept.items() if name.startswith("classifiers")}
    assert made and all(again[name] == data for name, data in made.items())


def test_trainings_in_processes_of_their_own_are_the_same(source, test, tmp_path):
    given = {"test": test, "shots": 2, "seeds": 2, "arms": ["mixup"], "probe": False}
    settings = {**QUICK, "steps": 5}
    alone = compare(source, out=tmp_path / "alone", **given, **settings)
    together = compare(source, out=tmp_path / "together", jobs=2, **given, **settings)
    assert [r.accuracies for r in alone.rows] == [r.accuracies for r in together.rows]


def test_targets_among_some_classes_make_no_other_class_rarer(source, test, tmp_path, monkeypatch):
    seen, train = [], training.train

    def watched(model, batches, **settings):
        batches = list(batches)
        seen.append(tuple(torch.cat(parts) for parts in zip(*batches, strict=True)))
        return train(model, batches, **settings)

    monkeypatch.setattr(training, "train", watched)
    compare(
        source, test=test, shots=3, seeds=1, backend=Planted(real), out=tmp_path / "out",
        arms=["real-gen"], targets=["bee", "cat"],
        **{**QUICK, "steps": 20, "probe": False},
    )  # fmt: skip
    (photographs_alone, labels), (images, mixed) = seen
    assert torch.equal(labels, mixed)  # an image from text is of its class alone
    replaced = (images != photographs_alone).flatten(1).any(1)
    assert {1, 2} == set(labels[replaced].argmax(1).tolist())


def test_nothing_is_made_from_a_photograph_that_is_tested_on(source, tmp_path):
    asked = Planted(noise)
    compare(
        source, folds=4, shots=3, arms=["real-aug"], backend=asked, out=tmp_path / "out",
        **{**QUICK, "steps": 2, "probe": False},
    )  # fmt: skip
    parts = list(photographs(source, folds=4).parts(3, [0]))
    assert sorted(key for part in parts for key in part.test) == sorted(
        path.relative_to(source).as_posix() for path in source.rglob("*.png")
    )
    for part in parts:
        assert not set(part.test) & set(part.train)
    sets = sorted((tmp_path / "out" / "sets").iterdir())
    assert 4 == len(sets)
    for folder in sets:
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        sources = {row["source"] for row in rows}
        assert 1 == sum(sources <= set(part.train) for part in parts)


def test_files_with_the_same_bytes_are_never_on_both_sides(tmp_path):
    source = photos(tmp_path / "photos", 6)
    for name in CLASSES:
        (source / name / "copy.png").write_bytes((source / name / "0.png").read_bytes())
    for part in photographs(source, folds=3).parts(None, [0, 1]):
        for name in CLASSES:
            sides = [f"{name}/{file}.png" in part.test for file in ("0", "copy")]
            assert sides[0] == sides[1]


def test_test_images_that_are_in_the_source_are_not_tested_on(source, tmp_path):
    test = photos(tmp_path / "test", 3, first=7)  # of these, 7 is in the source
    with pytest.warns(UserWarning, match="4 test images are in 'source', too"):
        found = photographs(source, test)
    assert {"8.png", "9.png"} == {key.split("/")[1] for key in found.test_keys}


def test_all_arms_of_a_seed_have_the_same_photographs_and_first_weights(source, tmp_path):
    data = training.Data(torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.eye(6))
    orders = [
        training.Batches(data, Arm(name, mix=mix), steps=9, batch=4, seed=1)
        for name, mix in (("none", ""), ("mixup", "mixup"))
    ]
    assert torch.equal(orders[0].order, orders[1].order)
    assert torch.equal(orders[0].maps, orders[1].maps)


def test_several_numbers_of_shots_give_rows_for_each(source, test, tmp_path):
    done = compare(
        source, test=test, shots=[1, 4], seeds=2, arms=["fractal"], out=tmp_path / "out",
        **{**QUICK, "steps": 5, "probe": False},
    )  # fmt: skip
    assert [(1, "none"), (1, "fractal"), (4, "none"), (4, "fractal")] == [
        (row.shots, row.arm) for row in done.rows
    ]
    assert 4 == done.row("fractal", 4).shots
    assert [1, 4] == done.settings["shots"]
    assert done.settings["passes"] == [5 * 16 / (1 * len(CLASSES)), 5 * 16 / (4 * len(CLASSES))]
    assert done.advice.endswith(
        "20 times and 5 times: with more steps, augmentation may gain more."
    )
    assert "With 4 images of each class: " in done.advice
    assert done.advice.startswith("With 1 image of each class: ")


def test_the_json_and_the_plot_hold_what_is_returned(source, tmp_path):
    done = compare(source, folds=2, arms=["mixup"], out=tmp_path / "out",
                   **{**QUICK, "steps": 2, "probe": False})  # fmt: skip
    saved = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert saved["advice"] == done.advice
    assert [row.mean for row in done.rows] == [row["mean"] for row in saved["rows"]]
    assert set(CLASSES) == set(saved["rows"][1]["classes"])
    assert 900 < read_image(tmp_path / "out" / "compare.png").shape[2]
    assert isinstance(done, Comparison)


def test_an_unreadable_photograph_is_named_and_left_out(source, test, tmp_path):
    (source / "ant" / "0.png").write_bytes(b"no image")
    done = compare(
        source, test=test, seeds=1, arms=["mixup"], out=tmp_path / "out",
        **{**QUICK, "steps": 2, "probe": False},
    )  # fmt: skip
    assert ["ant/0.png"] == list(done.settings["skipped"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arms": ["magic"]}, "'arms' must be among none, randaugment, .* got 'magic'"),
        ({"arms": ["diff-mix"]}, "'backend' must be a fine-tuned folder for the arm diff-mix"),
        ({"folds": 9}, "'folds' must be at most the images of each class, got 9"),
        ({"targets": ["ants"]}, "'targets' must be among the 4 class names, got 'ants'"),
        ({"shots": 9}, "'shots' must be at most the images of each class, got 9"),
        ({"steps": 0}, "'steps' must be at least 1, got 0"),
        ({"jobs": 0}, "'jobs' must be at least 1, got 0"),
        ({"classifier": "resnet"}, "'classifier' must be small, a classifier of torchvision"),
    ],
)
def test_arguments_are_checked_before_anything_is_made(source, tmp_path, given, message):
    settings = {**QUICK, "arms": ["mixup"], "probe": False, "out": tmp_path / "out"}
    with pytest.raises(ValueError, match=message):
        compare(source, **{**settings, **given})
    assert not (tmp_path / "out" / "classifiers").exists()


def test_the_test_folder_has_the_classes_of_the_source(source, tmp_path):
    other = photos(tmp_path / "test", 2, first=50, names=("ant",))
    (other / "fox").mkdir()
    (other / "ant" / "50.png").rename(other / "fox" / "50.png")
    with pytest.raises(ValueError, match="'test' must have the class folders of 'source', and"):
        compare(source, test=other)
    with pytest.raises(ValueError, match="'folds' must not be given with 'test'"):
        compare(source, test=source, folds=3)


def test_the_caller_s_draws_stay_as_they_are(source, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    compare(source, folds=2, arms=["randaugment"], out=tmp_path / "out",
            **{**QUICK, "steps": 2, "probe": False})  # fmt: skip
    assert torch.equal(before, torch.get_rng_state())


def test_the_default_arms_need_no_more_than_a_name():
    assert "none" == run.DEFAULT[0]
    assert {"real-mix", "real-aug", "real-gen"} <= set(run.DEFAULT)
    assert list(run.DEFAULT) == [arm.name for arm in run.find_arms(run.DEFAULT)]
    assert (
        photo("ant", 0).shape == (3, 16, 16) and 4 == network(4)(torch.rand(1, 3, 16, 16)).numel()
    )
