"""Offline sets of DiffMix: whose images, in whose folder, with what row, and how they resume."""

import multiprocessing
import os
import shutil
import signal
import warnings
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from answers import at, raise_error, refuse
from image_folders import contents, picture, save
from PIL import Image
from tiny_pipelines import SIZE, save_classes, save_learned, tiny_spec
from torchvision.datasets import ImageFolder

from diffaug import (
    ClassPairSampler,
    DiffMix,
    RecordingBackend,
    augment_dataset,
    augment_folder,
    backend_for,
    class_counts,
    unload,
)
from diffaug.errors import DestinationError, UnreadableImageError
from diffaug.functional import resize
from diffaug.images import read_image
from diffaug.offline.manifest import read_manifest, read_run

NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def photos(tmp_path):
    """Six images of ants, one of them deeper, two of bees, one of a cat."""
    files = ["ant/1.png", "ant/2.png", "ant/3.png", "ant/4.png", "ant/5.png", "ant/nest/1.png"]
    for number, name in enumerate([*files, "bee/1.png", "bee/2.png", "cat/1.png"]):
        save(tmp_path / "photos" / name, picture(number, 20 + number, 30 - number))
    return tmp_path / "photos"


def mixer(names=NAMES, **options):
    return DiffMix(names, **{"backend": RecordingBackend(16), "gamma": 0.8, **options})


def test_there_are_so_many_images_as_sources_times_copies_in_the_target_s_folder(photos, tmp_path):
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=4)
    rows = read_manifest(tmp_path / "set")
    assert (36, 36) == (done.planned, done.made) == (len(rows), len(rows))
    assert {row["label"] for row in rows} == set(NAMES)
    for row in rows:
        folder, _, name = row["file_name"].rpartition("/")
        nested = "ant/nest" if row["source"] == "ant/nest/1.png" and row["label"] == "ant" else None
        assert (nested or row["label"]) == folder
        stem = row["source"].rpartition("/")[2].removesuffix(".png")
        assert name.startswith(f"{stem}__") and (tmp_path / "set" / row["file_name"]).is_file()
    assert NAMES == ImageFolder(tmp_path / "set").classes
    assert len(set(contents(tmp_path / "set"))) == 40  # and the four files of every set


def test_by_default_there_are_as_many_as_the_pool(photos, tmp_path):
    assert 45 == augment_folder(photos, tmp_path / "five", mixer()).planned
    assert 18 == augment_folder(photos, tmp_path / "two", mixer(pool=2)).planned


def test_a_row_says_what_was_asked_and_the_file_is_what_came_back(photos, tmp_path):
    backend = RecordingBackend(16)
    mix = mixer(strength=[0.3, 0.9], backend=backend, metaclass="animal")
    augment_folder(photos, tmp_path / "set", mix, per_image=3, format="png")
    rows = read_manifest(tmp_path / "set")
    asked = {request.seed: request for request in backend.requests}
    assert 27 == len(asked) == len(rows)
    for row in rows:
        request = asked[row["seed"]]
        assert (request.prompt, request.strength) == (row["prompt"], row["strength"])
        assert f"a photo of a {row['label']} animal" == row["prompt"]
        assert row["source_label"] == row["source"].partition("/")[0]
        assert ("DiffMix", 1, False) == (row["method"], row["attempts"], row["fallback"])
        source = read_image(photos / row["source"])
        assert torch.equal(mix.shrink(source[None])[0], request.image)
        [made] = RecordingBackend(16).generate([request])
        expected = resize(made.image, tuple(source.shape[-2:]))
        assert torch.equal(expected, read_image(tmp_path / "set" / row["file_name"]))
    assert {0.3, 0.9} == {row["strength"] for row in rows}


# The draw of sources and targets.


def chi_square(found, expected):
    return sum((found[key] - expected[key]) ** 2 / expected[key] for key in expected)


#: 99.9 % of a chi-square's mass lies below, by degrees of freedom.
BOUND = {2: 13.8, 8: 26.1}


def drawn(mix, copies=400, seed=3):
    keys = [f"ant/{n}" for n in range(6)] + ["bee/0", "bee/1", "cat/0"]
    return list(mix.pair_up(keys, [key.split("/")[0] for key in keys], copies, seed))


def test_sources_are_uniform_over_classes_and_then_over_images_whatever_their_number():
    sources = Counter(source for source, _ in drawn(mixer()))
    total = sources.total()
    classes = Counter()
    for source, count in sources.items():
        classes[source.split("/")[0]] += count
    assert 3600 == total
    assert chi_square(classes, dict.fromkeys(NAMES, total / 3)) < BOUND[2]
    expected = {source: total / 3 / {"a": 6, "b": 2, "c": 1}[source[0]] for source in sources}
    assert 9 == len(expected) and chi_square(sources, expected) < BOUND[8]


@pytest.mark.parametrize(
    ("counts", "sources"),
    [
        (None, ["bee/1", "bee/1", "ant/2", "bee/1", "ant/1", "ant/1"]),
        ([2, 1], ["ant/1", "bee/1", "ant/1", "ant/1", "ant/2", "ant/2"]),
    ],
)
def test_the_sources_of_a_seed_are_always_these(counts, sources):
    """A set that was begun with an older version is resumed with the same pairs."""
    mix = mixer(["ant", "bee"], pairs=ClassPairSampler(2, class_counts=counts))
    keys, labels = ["ant/1", "ant/2", "bee/1"], ["ant", "ant", "bee"]
    assert sources == [source for source, _ in mix.pair_up(keys, labels, 2, 0)]
    assert sources[:3] == [source for source, _ in mix.pair_up(keys, labels, 1, 0)]


@pytest.mark.parametrize("strategy", ["tail", "uniform"])
def test_sources_of_a_long_tail_are_uniform_over_images(strategy):
    """The paper's long tail: a sampler that knows how many images a class has."""
    pairs = ClassPairSampler(3, strategy=strategy, class_counts=[6, 2, 1])
    sources = Counter(source for source, _ in drawn(mixer(pairs=pairs)))
    assert 9 == len(sources)
    assert chi_square(sources, dict.fromkeys(sources, 400.0)) < BOUND[8]


def test_targets_do_not_depend_on_the_source(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=30, size=8)
    rows = read_manifest(tmp_path / "set")
    pairs = Counter((row["source_label"], row["label"]) for row in rows)
    expected = {(one, other): 270 / 9 for one in NAMES for other in NAMES}
    assert chi_square(pairs, expected) < BOUND[8]


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"pairs": "other"}, lambda row: row["source_label"] != row["label"]),
        ({"pairs": "same"}, lambda row: row["source_label"] == row["label"]),
        ({"strategy": "diff-aug"}, lambda row: row["source_label"] == row["label"]),
        (
            {"pairs": [[0, 1, 0], [0, 0, 1], [1, 0, 0]]},
            lambda row: row["source_label"] != row["label"],
        ),
    ],
)
def test_pairs_are_as_asked(photos, tmp_path, options, allowed):
    augment_folder(photos, tmp_path / "set", mixer(**options), per_image=4)
    assert all(allowed(row) for row in read_manifest(tmp_path / "set"))


# However it came about.


@pytest.mark.parametrize("options", [{}, {"include_originals": True}])
def test_an_interrupted_run_goes_on_to_the_same_set(photos, tmp_path, options):
    settings = {"per_image": 5, "format": "png", **options}
    strengths = [0.2, 0.5, 0.9]
    augment_folder(photos, tmp_path / "whole", mixer(strength=strengths), **settings)
    third_batch = at(16, partial(raise_error, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        broken = mixer(strength=strengths, backend=RecordingBackend(16, answer=third_batch))
        augment_folder(photos, tmp_path / "set", broken, **settings)
    before = len(contents(tmp_path / "set"))
    done = augment_folder(photos, tmp_path / "set", mixer(strength=strengths), **settings)
    assert 8 <= before < 45 and 0 < done.taken_over < 45
    assert contents(tmp_path / "whole") == contents(tmp_path / "set")


def test_more_copies_are_added_to_those_that_are_there(photos, tmp_path):
    augment_folder(photos, tmp_path / "three", mixer(), per_image=3)
    augment_folder(photos, tmp_path / "grown", mixer(), per_image=1)
    before = contents(tmp_path / "grown")
    done = augment_folder(photos, tmp_path / "grown", mixer(), per_image=3)
    assert (27, 18, 9) == (done.planned, done.made, done.taken_over)
    after = contents(tmp_path / "grown")
    assert all(after[name] == data for name, data in before.items() if "/" in name)
    assert contents(tmp_path / "three") == after
    assert 0 == augment_folder(photos, tmp_path / "grown", mixer(), per_image=2).made


def die_at_the_seventh(run):
    """Run in a process that is killed while it finishes its seventh image."""
    finish, left = DiffMix.finish, [7]

    def dying(self, *arguments):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(self, *arguments)

    DiffMix.finish = dying
    torch.set_num_threads(1)
    run()


@pytest.fixture
def real():
    yield tiny_spec("translate", steps=5)
    unload()


def test_a_real_model_s_run_killed_in_the_middle_ends_bit_equal(photos, tmp_path, real):
    """Mixed targets and strengths; killed, grown, and with another batch size asked for."""

    def augment(destination, per_image=2, **changes):
        spec = tiny_spec("translate", steps=5, **changes)
        mix = mixer(strategy="real-mix", strength=[0.2, 0.5, 1.0], backend=spec)
        return augment_folder(
            photos, tmp_path / destination, mix, per_image=per_image, format="png"
        )

    child = multiprocessing.get_context("fork").Process(
        target=die_at_the_seventh, args=(lambda: augment("killed"),)
    )
    child.start()
    child.join(120)
    assert -signal.SIGKILL == child.exitcode
    left = sum(1 for name in contents(tmp_path / "killed") if name.endswith(".png"))
    assert 0 < left < 18
    assert left == augment("killed").taken_over
    # Always full batches, twice as many for guidance: what makes an image whatever its company.
    sizes = set()
    live = backend_for(tiny_spec("translate", steps=5, pad=True), cache=False)
    live._loaded().unet.register_forward_hook(lambda _, given, __: sizes.add(len(given[0])))
    augment("whole")
    assert {8} == sizes
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")

    augment("grown", per_image=1)
    augment("grown", batch_size=3)
    assert contents(tmp_path / "whole") == contents(tmp_path / "grown")
    rows = read_manifest(tmp_path / "whole")
    assert 3 == len({row["strength"] for row in rows}) == len({row["label"] for row in rows})
    assert all(row["revision"].startswith("sha256:") for row in rows)


def test_the_seed_makes_the_set_and_the_transform_s_own_does_not_matter(photos, tmp_path):
    for place, mix, seed in (
        ("one", mixer(seed=0, gamma=0.5, p=0.1), 5),
        ("two", mixer(seed=9, gamma=0.9, num_classes=7), 5),
        ("three", mixer(), 6),
    ):
        augment_folder(photos, tmp_path / place, mix, per_image=3, seed=seed)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") != contents(tmp_path / "three")
    assert (
        27
        == augment_folder(
            photos, tmp_path / "one", mixer(gamma=0.1), per_image=3, seed=5
        ).taken_over
    )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"strength": 0.5}, "transform.strength"),
        ({"pairs": "other"}, "transform.pairs"),
        ({"metaclass": "animal"}, "transform.prompts"),
        ({"strategy": "diff-gen"}, "transform.strategy"),
        ({"names": [*NAMES, "dog"]}, "transform.class_names"),
        ({"pairs": ClassPairSampler(3, strategy=[[1, 2, 3]] * 3)}, "transform.pairs"),
    ],
)
def test_another_run_is_refused_and_the_difference_named(photos, tmp_path, change, name):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    with pytest.raises(DestinationError, match=f"holds a different run: '{name}' is "):
        augment_folder(photos, tmp_path / "set", mixer(**change), per_image=1)


@pytest.mark.parametrize("change", ["added", "removed"])
def test_a_source_that_has_changed_is_refused(photos, tmp_path, change):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    if change == "added":
        save(photos / "bee/9.png", picture(9))
    else:
        (photos / "bee/2.png").unlink()
    before = contents(tmp_path / "set")
    with pytest.raises(DestinationError, match="holds a different run: 'sources' is "):
        augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    assert before == contents(tmp_path / "set")


def test_a_source_that_was_moved_is_not_another(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    photos.rename(tmp_path / "moved")
    assert (
        9 == augment_folder(tmp_path / "moved", tmp_path / "set", mixer(), per_image=1).taken_over
    )


# What is in it, and what is not.


def test_originals_lie_beside_in_their_own_class(photos, tmp_path):
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=2, include_originals=True)
    rows = [row for row in read_manifest(tmp_path / "set") if row["method"] == "original"]
    assert (27, 27, 9) == (done.planned, done.made, len(rows))
    for row in rows:
        assert row["source"].replace(".png", "__original.jpg") == row["file_name"]
        assert row["label"] == row["source"].partition("/")[0]
        assert row["source_label"] is row["strength"] is row["prompt"] is None


def test_only_the_images_named_are_translated(photos, tmp_path):
    chosen = ["ant/2.png", "bee/1.png", "cat/1.png"]
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=6, only=chosen)
    assert 18 == done.made
    assert set(chosen) == {row["source"] for row in read_manifest(tmp_path / "set")}
    with pytest.raises(
        ValueError, match="'only' must name images .* 1 of 2 .* such as 'ant/9.png'"
    ):
        augment_folder(photos, tmp_path / "no", mixer(), only=["ant/1.png", "ant/9.png"])


def test_a_class_that_only_leaves_out_is_still_a_target(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=20, only=["ant/1.png"])
    assert set(NAMES) == {row["label"] for row in read_manifest(tmp_path / "set")}
    assert NAMES == read_run(tmp_path / "set")["classes"]


def test_where_the_original_stands_in_nothing_is_put_under_another_class(photos, tmp_path):
    mix = mixer(backend=RecordingBackend(16, answer=refuse("bee")), gamma=0.0)
    done = augment_folder(photos, tmp_path / "set", mix, per_image=10, format="png")
    rows = read_manifest(tmp_path / "set")
    bees = [row for row in rows if row["label"] == "bee"]
    assert bees and all(row["fallback"] and row["strength"] == 0 for row in bees)
    assert {"bee"} == {row["source_label"] for row in bees}
    for row in bees:
        made = read_image(tmp_path / "set" / row["file_name"])
        assert torch.equal(read_image(photos / row["source"]), made)
    assert all("blank or refused each time" in one.reason for one in done.skipped)
    assert done.skipped and done.planned > done.made == len(rows)
    assert len(bees) == done.fallbacks


def test_what_is_made_from_text_and_refused_is_left_out(photos, tmp_path):
    model = RecordingBackend(16, answer=refuse("bee", outright=True))
    mix = mixer(strategy="diff-gen", backend=model)
    with pytest.warns(UserWarning, match=r"^classes without images: bee; .* GeneratedDataset"):
        augment_folder(photos, tmp_path / "set", mix, per_image=4)
    rows = read_manifest(tmp_path / "set")
    assert {"ant", "cat"} == {row["label"] for row in rows}
    assert {1.0} == {row["strength"] for row in rows}


ODD = ["__x", "50%", "AC/DC", "a_b", "naïve ö", "trailing.", "猫"]


def test_any_class_name_of_a_dataset_has_one_folder(tmp_path):
    data = [(picture(number), number) for number in range(len(ODD))]
    augment_dataset(data, tmp_path / "set", mixer(ODD), class_names=ODD, per_image=8)
    rows = read_manifest(tmp_path / "set")
    assert set(ODD) == {row["label"] for row in rows} == {row["source_label"] for row in rows}
    folders = {row["label"]: row["file_name"].partition("/")[0] for row in rows}
    assert len(ODD) == len({row["file_name"].partition("/")[0] for row in rows})
    assert ("AC%2FDC", "猫", "%5F_x") == (folders["AC/DC"], folders["猫"], folders["__x"])
    assert len(ODD) == len(ImageFolder(tmp_path / "set").classes)
    assert "a photo of a a b" in {row["prompt"] for row in rows}


def test_any_folder_s_name_stays_one_folder(tmp_path):
    names = sorted(["AC%2FDC", "a_b", "50%", "naïve ö", "__x", "trailing."])
    for number, name in enumerate(names):
        save(tmp_path / "photos" / name / "1.png", picture(number))
    augment_folder(tmp_path / "photos", tmp_path / "set", mixer(names), per_image=8)
    assert names == ImageFolder(tmp_path / "photos").classes
    assert names == ImageFolder(tmp_path / "set").classes
    assert len({row["file_name"] for row in read_manifest(tmp_path / "set")}) == 48


class Numbered(torch.utils.data.Dataset):
    """As torchvision's: PIL images, and labels that need no image."""

    targets = [0, 0, 2, 1, 1, 1]
    classes = NAMES

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return Image.fromarray(np.full((12, 14, 3), 20 * index, np.uint8)), self.targets[index]


def test_a_dataset_gives_indices_as_sources(tmp_path):
    data = Numbered()
    done = augment_dataset(data, tmp_path / "set", mixer(), per_image=5)
    rows = read_manifest(tmp_path / "set")
    assert 30 == done.made == len(rows)
    for row in rows:
        assert NAMES[data.targets[int(row["source"])]] == row["source_label"]
        assert row["file_name"].startswith(f"{row['label']}/{int(row['source']):06d}__")
    assert [2, 3, 1] == class_counts(data).tolist()


def test_a_subset_counts_its_own_images(tmp_path):
    subset = torch.utils.data.Subset(Numbered(), [5, 2])
    augment_dataset(subset, tmp_path / "set", mixer(), per_image=8)
    rows = read_manifest(tmp_path / "set")
    assert {("0", "bee"), ("1", "cat")} == {(row["source"], row["source_label"]) for row in rows}


# What is wrong.


def test_a_class_without_a_name_is_refused_before_anything_is_made(photos, tmp_path):
    save(photos / "dog/1.png", picture(1))
    backend = RecordingBackend(16)
    with pytest.raises(ValueError, match="must be one of 3 class names, got 'dog'; put each image"):
        augment_folder(photos, tmp_path / "set", mixer(backend=backend), per_image=20)
    assert not (tmp_path / "set").exists() and not backend.requests


def test_damaged_sources_are_skipped_and_named(photos, tmp_path):
    (photos / "cat/1.png").write_bytes(b"nothing")
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=4)
    assert {"cat/1.png"} == {one.source for one in done.skipped}
    assert {"ant", "bee"} == {row["source_label"] for row in read_manifest(tmp_path / "set")}


class Damaged(torch.utils.data.Dataset):
    """Its second image cannot be read."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise OSError("image file is truncated")
        return picture(index), index


def test_a_damaged_item_is_skipped_whether_or_not_its_label_is_known(tmp_path):
    known = Damaged()
    known.targets = [0, 1, 2]
    for name, data in [("labels known", known), ("labels unknown", Damaged())]:
        done = augment_dataset(data, tmp_path / name, mixer(), per_image=4)
        [skipped] = set(done.skipped)
        assert ("1", "item 1 is not readable: image file is truncated.") == skipped
        assert {"0", "2"} == {row["source"] for row in read_manifest(tmp_path / name)}
    with pytest.raises(UnreadableImageError, match="item 1 is not readable: image file is trunca"):
        augment_dataset(Damaged(), tmp_path / "strict", mixer(), strict=True)
    assert not (tmp_path / "strict").exists()


@pytest.fixture
def tuned(tmp_path):
    return save_learned(tmp_path / "birds")


def birds(tmp_path):
    return save_classes(tmp_path / "photos", **{"A two": 2, "b_one": 2})


@pytest.mark.parametrize(
    ("only", "count"), [(None, 4), (["A two/0.png"], 1), (["A two/1.png", "b_one/1.png"], 2)]
)
def test_other_images_than_those_a_model_was_tuned_on_are_warned_of(tuned, tmp_path, only, count):
    mix, source = DiffMix(["A two", "b_one"], backend=tuned), birds(tmp_path)
    message = f"fine-tuned on 2 images .*'source' has {count} .* see 'only'"
    with pytest.warns(UserWarning, match=message) as told:
        augment_folder(source, tmp_path / "set", mix, per_image=1, only=only, dry_run=True)
    assert [__file__] == [one.filename for one in told]


@pytest.mark.parametrize("case", ["the same", "as trained", "all"])
def test_the_images_a_model_was_tuned_on_are_nothing_to_warn_of(tmp_path, case):
    subset = {"shots": None, "seed": 0, "files": []}
    changes = {"subset": subset} if case == "all" else {}
    tuned = save_learned(tmp_path / "birds", **changes)
    strategy = "real-mix" if case == "as trained" else "diff-mix"
    mix = DiffMix(["A two", "b_one"], backend=tuned, strategy=strategy)
    only = ["A two/0.png", "b_one/1.png"] if case == "the same" else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = augment_folder(
            birds(tmp_path), tmp_path / "set", mix, per_image=1, only=only, dry_run=True
        )
    assert done.planned == (2 if only else 4)


def test_a_tuned_model_makes_the_set_it_was_asked_for(tuned, tmp_path):
    source = birds(tmp_path)
    mix = DiffMix(["A two", "b_one"], backend=tuned, strength=1.0)
    only = ["A two/0.png", "b_one/1.png"]
    augment_folder(source, tmp_path / "set", mix, per_image=2, only=only, format="png")
    prompts = {row["label"]: row["prompt"] for row in read_manifest(tmp_path / "set")}
    assert set(prompts.values()) <= {"a photo of a <class_0> bird", "a photo of a <class_1> bird"}
    shutil.copytree(tuned, tmp_path / "copy")
    moved = DiffMix(["A two", "b_one"], backend=tmp_path / "copy", strength=1.0)
    done = augment_folder(source, tmp_path / "set", moved, per_image=2, only=only, format="png")
    assert 4 == done.taken_over
    unload()


def test_a_picture_is_never_larger_than_the_model_works_at(photos, tmp_path):
    backend = RecordingBackend(SIZE)
    augment_folder(photos, tmp_path / "set", mixer(backend=backend), per_image=1)
    assert {(3, SIZE, SIZE)} == {tuple(request.image.shape) for request in backend.requests}
