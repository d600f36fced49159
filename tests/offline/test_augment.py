"""The offline job: what it makes, from what, and what it refuses."""

import errno
import itertools
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from answers import at, refused
from image_folders import contents, picture, save
from PIL import Image
from torchvision.datasets import ImageFolder

from diffaug import (
    DiffuseMix,
    FractalBank,
    FractalBlend,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
)
from diffaug.backends.request import Generated
from diffaug.backends.spec import ModelSpec
from diffaug.errors import (
    DestinationError,
    GenerationError,
    ModelUnavailableError,
    UnreadableImageError,
)
from diffaug.functional import resize
from diffaug.images import read_image
from diffaug.offline.card import FILES
from diffaug.offline.manifest import read_manifest, read_run
from diffaug.offline.plan import Planned, plan
from diffaug.offline.sources import Skipped
from diffaug.seeds import derive_seed

BANK = FractalBank(count=4, size=32)


@pytest.fixture
def photos(tmp_path):
    """Three classes, seven images of several sizes."""
    names = [
        "cat/1.jpg",
        "cat/2.png",
        "cat/indoors/1.jpg",
        "dog/a.jpg",
        "dog/b.jpg",
        "-owl/x.jpg",
    ]
    for number, name in enumerate([*names, "white  tern/ö.webp"]):
        save(
            tmp_path / "photos" / name,
            picture(number, 20 + 3 * number, 40 - 2 * number),
        )
    return tmp_path / "photos"


def mixer(**options):
    return DiffuseMix(**{"fractals": BANK, "backend": RecordingBackend(16), **options})


def names(folder):
    return sorted(name for name in contents(folder) if "/" in name)


class Failing:
    """A recording backend that does something at its n-th call."""

    def __init__(self, call, action):
        self.inner, self.calls, self.call, self.action = (
            RecordingBackend(16),
            0,
            call,
            action,
        )
        self.fingerprint, self.size = self.inner.fingerprint, 16

    def generate(self, requests):
        self.calls += 1
        if self.calls == self.call:
            self.action()
        return self.inner.generate(requests)

    def close(self):
        pass

    __enter__ = __exit__ = lambda self, *_: self


def test_the_same_tree_comes_out_with_a_manifest(photos, tmp_path):
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=2)
    expected = [
        f"{base}__{n}.jpg"
        for base in (
            "-owl/x",
            "cat/1",
            "cat/2",
            "cat/indoors/1",
            "dog/a",
            "dog/b",
            "white  tern/ö",
        )
        for n in (0, 1)
    ]
    assert expected == [row["file_name"] for row in read_manifest(tmp_path / "set")]
    assert sorted(expected) == names(tmp_path / "set")
    assert {*expected, *FILES} == contents(tmp_path / "set").keys()
    assert (14, 14, 0, ()) == (done.planned, done.made, done.taken_over, done.skipped)


def test_a_row_says_how_its_image_was_made(photos, tmp_path):
    mix = mixer(masks=["left"], prompts=["snowy"], alpha=0.25)
    augment_folder(photos, tmp_path / "set", mix, per_image=1, seed=3, format="png")
    [row] = [row for row in read_manifest(tmp_path / "set") if row["file_name"].startswith("-owl")]
    assert "file_name" == next(iter(row))
    said = {name: row[name] for name in ("source", "label", "method", "prompt", "mask", "alpha")}
    expected = ["-owl/x.jpg", "-owl", "DiffuseMix", "snowy", "left", 0.25]
    assert expected == list(said.values())
    drawn = mix.draw_copy(0, torch.Generator().manual_seed(derive_seed(3, "-owl/x.jpg", 0)))
    source = read_image(photos / "-owl/x.jpg")[None]
    [request] = mix.requests(source, [drawn])
    assert request.seed == row["seed"]
    assert BANK.name(drawn["fractal"]) == row["fractal"]
    [made] = mix.finish(source, mix.backend.generate([request]), [drawn]).images
    assert torch.equal(made, read_image(tmp_path / "set/-owl/x__0.png"))


def test_torchvision_loads_it(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=2)
    loaded = ImageFolder(tmp_path / "set")
    assert (["-owl", "cat", "dog", "white  tern"], 14) == (loaded.classes, len(loaded))


@pytest.mark.parametrize("originals", [False, True])
def test_hugging_face_loads_it(photos, tmp_path, originals):
    datasets = pytest.importorskip("datasets")
    augment_folder(photos, tmp_path / "set", mixer(), per_image=2, include_originals=originals)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache")
    )["train"]
    rows = read_manifest(tmp_path / "set")
    by_source = {(row["source"], row["prompt"], row["mask"]): row["label"] for row in rows}
    assert len(rows) == len(loaded)
    for item in loaded:
        assert by_source[item["source"], item["prompt"], item["mask"]] == item["label"]
        assert item["image"].size[0] > 1


def test_hugging_face_loads_classes_that_are_called_like_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    for name in ("test/1.png", "cat/val_1.png"):
        save(tmp_path / "photos" / name, picture(1))
    augment_folder(tmp_path / "photos", tmp_path / "set", mixer())
    loaded = datasets.load_dataset(
        "imagefolder",
        data_dir=str(tmp_path / "set"),
        data_files={"train": "**"},
        cache_dir=str(tmp_path / "cache"),
    )
    assert ["cat", "test"] == sorted(loaded["train"]["label"])


@pytest.mark.parametrize("transform", ["mix", "blend"])
def test_the_same_seed_gives_the_same_set_and_another_seed_another(photos, tmp_path, transform):
    make = mixer if transform == "mix" else lambda: FractalBlend((0.1, 0.9), fractals=BANK)
    sets = []
    for place, seed in (("one", 5), ("two", 5), ("three", 6)):
        augment_folder(photos, tmp_path / place, make(), per_image=3, seed=seed)
        sets.append(contents(tmp_path / place))
    assert sets[0] == sets[1]
    assert sets[0] != sets[2]


def test_a_set_does_not_depend_on_where_its_source_lies_or_what_else_is_in_it(photos, tmp_path):
    augment_folder(photos, tmp_path / "all", mixer(), per_image=2)
    shutil.copytree(photos / "dog", tmp_path / "elsewhere" / "dog")
    augment_folder(tmp_path / "elsewhere", tmp_path / "dogs", mixer(), per_image=2)
    whole, part = contents(tmp_path / "all"), contents(tmp_path / "dogs")
    assert 4 == len(names(tmp_path / "dogs"))
    assert all(whole[name] == part[name] for name in names(tmp_path / "dogs"))


def test_the_same_pixels_in_two_classes_draw_their_own_numbers(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "photos" / name / "same.png", picture(1))
    augment_folder(tmp_path / "photos", tmp_path / "set", mixer(alpha=(0, 1)), per_image=4)
    rows = read_manifest(tmp_path / "set")
    assert 8 == len({row["alpha"] for row in rows})
    assert 1 == len({row["seed"] for row in rows})  # the edits are the same, for the cache's sake


def test_more_copies_are_added_and_fewer_remove_none(photos, tmp_path):
    augment_folder(photos, tmp_path / "three", mixer(), per_image=3)
    augment_folder(photos, tmp_path / "grown", mixer(), per_image=2)
    done = augment_folder(photos, tmp_path / "grown", mixer(), per_image=3)
    assert (21, 7, 14) == (done.planned, done.made, done.taken_over)
    assert contents(tmp_path / "three") == contents(tmp_path / "grown")
    done = augment_folder(photos, tmp_path / "grown", mixer(), per_image=1)
    assert (7, 0, 7) == (done.planned, done.made, done.taken_over)
    assert contents(tmp_path / "three") == contents(tmp_path / "grown")


def test_a_finished_run_reads_nothing_and_asks_for_nothing(photos, tmp_path, monkeypatch):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    before = contents(tmp_path / "set")
    monkeypatch.setattr("diffaug.images.read_image", None)
    backend = RecordingBackend(16)
    done = augment_folder(photos, tmp_path / "set", mixer(backend=backend), per_image=1)
    assert (0, 7, []) == (done.made, done.taken_over, backend.requests)
    assert before == contents(tmp_path / "set")


def test_an_image_that_was_removed_is_made_again(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    before = contents(tmp_path / "set")
    (tmp_path / "set/dog/a__0.jpg").unlink()
    (tmp_path / "set/dog/b__0.jpg").write_bytes(b"")
    assert 2 == augment_folder(photos, tmp_path / "set", mixer(), per_image=1).made
    assert before == contents(tmp_path / "set")


def test_originals_come_in_the_same_size_and_format(photos, tmp_path):
    done = augment_folder(
        photos, tmp_path / "set", mixer(), size=16, include_originals=True, format="png"
    )
    assert 14 == done.made
    made = read_image(tmp_path / "set/dog/a__original.png")
    assert (3, 16, 18) == tuple(made.shape)  # 29 x 34
    assert torch.equal(resize(read_image(photos / "dog/a.jpg"), (16, 18)), made)
    [row] = [r for r in read_manifest(tmp_path / "set") if r["file_name"] == "dog/a__original.png"]
    assert ("original", None, None) == (row["method"], row["seed"], row["prompt"])


def test_sources_may_be_resized_to_a_height_and_width(photos, tmp_path):
    options = {"per_image": 1, "include_originals": True, "format": "png"}
    augment_folder(photos, tmp_path / "set", mixer(), size=(16, 12), **options)
    for name in ("a__0", "a__original"):
        assert (3, 16, 12) == tuple(read_image(tmp_path / f"set/dog/{name}.png").shape)
    again = augment_folder(photos, tmp_path / "set", mixer(), size="16x12", **options)
    assert 0 == again.made
    with pytest.raises(DestinationError, match=r"'size' is \[16, 12\] there and 16 here"):
        augment_folder(photos, tmp_path / "set", mixer(), size=16, **options)


def test_a_transform_says_how_many_copies_it_advises(photos, tmp_path):
    done = augment_folder(photos, tmp_path / "set", mixer(recipe="release"))
    assert 63 == done.made
    assert 9 == len({r["prompt"] for r in read_manifest(tmp_path / "set") if r["label"] == "-owl"})


def test_stems_that_clash_keep_their_extension(tmp_path):
    for name in ("a.jpg", "a.png", "a.jpg.png", "b.jpg"):
        save(tmp_path / "photos/cat" / name, picture(1))
    augment_folder(tmp_path / "photos", tmp_path / "set", mixer(), per_image=1)
    expected = ["a.jpg.png__0.jpg", "a.jpg__0.jpg", "a.png__0.jpg", "b__0.jpg"]
    assert [f"cat/{name}" for name in expected] == names(tmp_path / "set")


def test_images_come_upright(tmp_path):
    path = tmp_path / "photos/cat/1.jpg"
    save(path, picture(1, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)
    augment_folder(tmp_path / "photos", tmp_path / "set", mixer(), per_image=1)
    assert (3, 40, 20) == tuple(read_image(tmp_path / "set/cat/1__0.jpg").shape)


def damage(photos):
    """Add an empty, a truncated and a mislabelled image; return their keys."""
    whole = (photos / "dog/a.jpg").read_bytes()
    (photos / "dog/0_empty.jpg").write_bytes(b"")
    (photos / "dog/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "dog/text.png").write_text("no image")
    return {"dog/0_empty.jpg", "dog/cut.jpg", "dog/text.png"}


def test_unreadable_images_are_skipped_and_named(photos, tmp_path):
    broken = damage(photos)
    save(photos / "root.jpg", picture(1))
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=2)
    assert 14 == done.made
    assert broken | {"root.jpg"} == {skipped.source for skipped in done.skipped}
    assert all(
        "is not a readable image" in skipped.reason
        for skipped in done.skipped
        if skipped.source in broken
    )
    assert 4 == len(read_run(tmp_path / "set")["skipped"])
    again = augment_folder(photos, tmp_path / "set", mixer(), per_image=2)
    assert (0, done.skipped) == (again.made, again.skipped)


def test_strict_stops_at_the_first_unreadable_image(photos, tmp_path):
    damage(photos)
    with pytest.raises(UnreadableImageError, match="0_empty.jpg"):
        augment_folder(photos, tmp_path / "set", mixer(), strict=True)
    assert not (tmp_path / "set").exists()


def test_nothing_but_unreadable_images_leaves_no_set(tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/1.jpg").write_bytes(b"")
    done = augment_folder(tmp_path / "photos", tmp_path / "new/set", mixer())
    assert (0, 1) == (done.made, len(done.skipped))
    assert not (tmp_path / "new").exists()


def test_an_image_too_long_for_the_format_is_skipped(tmp_path):
    save(tmp_path / "photos/cat/long.png", picture(1, 2, 17000))
    save(tmp_path / "photos/cat/short.png", picture(1))
    done = augment_folder(tmp_path / "photos", tmp_path / "set", mixer(), format="webp")
    assert (1, "cat/long.png") == (done.made, done.skipped[0].source)


def test_a_dry_run_counts_and_writes_nothing(photos, tmp_path):
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=2, dry_run=True)
    assert (14, 0) == (done.planned, done.made)
    assert not (tmp_path / "set").exists()
    augment_folder(photos, tmp_path / "set", mixer(), per_image=2)
    before = contents(tmp_path / "set")
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=3, dry_run=True)
    assert (21, 14) == (done.planned, done.taken_over)
    assert before == contents(tmp_path / "set")


def test_progress_goes_to_stderr_once_a_run_takes_longer_than_an_error(photos, tmp_path, capsys):
    augment_folder(photos, tmp_path / "quick", mixer(), progress=True)
    assert "" == capsys.readouterr().err

    transform = mixer(backend=RecordingBackend(answer=at(8, lambda: time.sleep(1.1))))
    augment_folder(photos, tmp_path / "set", transform, per_image=2, progress=True)
    out, err = capsys.readouterr()
    assert "" == out
    assert "14/14" in err
    assert "image/s" in err


def test_retries_and_fallbacks_are_counted_and_the_seed_is_the_one_used(photos, tmp_path):
    numbers = itertools.count()

    def moody(request, usual):
        again = Generated(usual.image, usual.seed + 1, attempts=2)
        return [again, refused(request, usual), usual][next(numbers) % 3]

    edit = PromptEdit(backend=RecordingBackend(16, answer=moody))
    done = augment_folder(photos, tmp_path / "set", edit, format="png")
    assert (7, 5, 2) == (done.made, done.retried, done.fallbacks)
    rows = read_manifest(tmp_path / "set")
    assert [2, 4, 1, 2, 4, 1, 2] == [row["attempts"] for row in rows]
    copied = [row for row in rows if row["fallback"]]
    for row in copied:  # the source itself, at its full size
        made = read_image(tmp_path / "set" / row["file_name"])
        assert torch.equal(read_image(photos / row["source"]), made)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"size": 20}, "size"),
        ({"format": "png"}, "format"),
        ({"include_originals": True}, "include_originals"),
        ({"transform": mixer(prompts=["snowy"])}, "transform.edit.prompts"),
        ({"transform": mixer(alpha=0.3)}, "transform.blend.alpha"),
        ({"transform": mixer(backend=RecordingBackend(24))}, "fingerprint"),
        ({"transform": PromptEdit(backend=RecordingBackend(16))}, "method"),
    ],
)
def test_a_different_run_is_refused_and_the_difference_named(photos, tmp_path, change, name):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    before = contents(tmp_path / "set")
    transform = change.pop("transform", mixer())
    with pytest.raises(DestinationError, match=f"'{name}' is .* there and .* here; choose another"):
        augment_folder(photos, tmp_path / "set", transform, per_image=1, **change)
    assert before == contents(tmp_path / "set")


def test_what_does_not_change_a_pixel_is_no_difference(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", mixer(p=0.5), per_image=1)
    photos.rename(tmp_path / "moved")
    done = augment_folder(tmp_path / "moved", tmp_path / "set", mixer(p=1.0), per_image=1)
    assert 7 == done.taken_over


def test_another_source_is_refused(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    shutil.copytree(photos, tmp_path / "validation")
    with pytest.raises(DestinationError, match=f"made from '{photos}'"):
        augment_folder(tmp_path / "validation", tmp_path / "set", mixer(), per_image=1)


def test_a_folder_with_something_else_in_it_is_refused(photos, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/thesis.tex").write_text("chapter 1")
    with pytest.raises(DestinationError, match=r"holds 'thesis.tex' and no run.json; choose"):
        augment_folder(photos, tmp_path / "set", mixer())
    assert {"thesis.tex": b"chapter 1"} == contents(tmp_path / "set")


def test_an_empty_folder_is_taken(photos, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/.gitkeep").touch()
    assert 7 == augment_folder(photos, tmp_path / "set", mixer()).made


@pytest.mark.parametrize("below", ["", "set", "../photos/deep/er", "link"])
def test_a_destination_inside_the_source_is_refused(photos, below):
    (photos.parent / "photos/link").symlink_to(photos / "cat")
    before = contents(photos)
    with pytest.raises(DestinationError, match="lies inside the source"):
        augment_folder(photos, photos / below, mixer())
    assert before == contents(photos)


def test_a_missing_or_unsuitable_source_is_named(photos, tmp_path):
    with pytest.raises(ValueError, match="'source' must be an existing folder, got '.*nowhere'"):
        augment_folder(tmp_path / "nowhere", tmp_path / "set", mixer())
    (tmp_path / "empty/cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="one folder per class, and it has none"):
        augment_folder(tmp_path / "empty", tmp_path / "set", mixer())
    with pytest.raises(ValueError, match="one folder per class, and '1.jpg' lies directly in it"):
        augment_folder(photos / "cat/indoors", tmp_path / "set", mixer())
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"format": "jpeg"}, "'format' must be one of jpg, png, webp, got 'jpeg'."),
        ({"per_image": 0}, "'per_image' must be at least 1, got 0."),
        ({"size": 0}, "'size' must be at least 1, got 0."),
    ],
)
def test_options_outside_their_range_are_named(photos, tmp_path, option, message):
    with pytest.raises(ValueError) as caught:
        augment_folder(photos, tmp_path / "set", mixer(), **option)
    assert message == str(caught.value)


def test_only_our_transforms_are_taken(photos, tmp_path):
    with pytest.raises(TypeError, match="'transform' must be one of diffaug's"):
        augment_folder(photos, tmp_path / "set", torch.nn.Identity())


def test_a_model_that_is_not_there_leaves_no_trace(photos, tmp_path):
    spec = ModelSpec(str(tmp_path / "no model"))
    with pytest.raises(ModelUnavailableError, match="no model"):
        augment_folder(photos, tmp_path / "set", PromptEdit(backend=spec))
    assert not (tmp_path / "set").exists()


def stop():
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", [1, 3])
def test_an_interrupted_run_goes_on_where_it_stopped(photos, tmp_path, call):
    augment_folder(photos, tmp_path / "whole", mixer(), per_image=4)
    with pytest.raises(KeyboardInterrupt):
        augment_folder(photos, tmp_path / "set", mixer(backend=Failing(call, stop)), per_image=4)
    assert (call > 1) == (tmp_path / "set").exists()
    done = augment_folder(photos, tmp_path / "set", mixer(), per_image=4)
    assert 28 - (16 if call > 1 else 0) == done.made
    assert contents(tmp_path / "whole") == contents(tmp_path / "set")


def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_later(photos, tmp_path, monkeypatch):
    augment_folder(photos, tmp_path / "whole", mixer(), per_image=2)
    free, write = [5], Path.write_bytes

    def until_full(path, data):
        free[0] -= 1
        if free[0] < 0:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", until_full)
        with pytest.raises(
            DestinationError,
            match="No space left on device; once it can, run the same command again",
        ):
            augment_folder(photos, tmp_path / "set", mixer(), per_image=2)
    assert not list((tmp_path / "set").rglob("*.tmp"))
    augment_folder(photos, tmp_path / "set", mixer(), per_image=2)
    assert contents(tmp_path / "whole") == contents(tmp_path / "set")


def test_a_vanished_destination_is_not_made_anew(photos, tmp_path):
    def vanish():
        while len(contents(tmp_path / "set")) < 8:  # the first batch is being written meanwhile
            time.sleep(0.05)
        time.sleep(0.1)
        shutil.rmtree(tmp_path / "set")

    backend = Failing(2, vanish)
    with pytest.raises(DestinationError, match="could not be written to"):
        augment_folder(photos, tmp_path / "set", mixer(backend=backend), per_image=4)
    assert not (tmp_path / "set").exists()


def test_an_unwritable_destination_is_said_in_one_line(photos, tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/set"):
        with pytest.raises(DestinationError, match=f"'{tmp_path / place}' could not be"):
            augment_folder(photos, tmp_path / place, mixer())


def test_a_second_run_into_one_destination_is_refused(photos, tmp_path):
    running, free = threading.Event(), threading.Event()
    slow = Failing(2, lambda: (running.set(), free.wait(30)))
    arguments = (photos, tmp_path / "set", mixer(backend=slow))
    first = threading.Thread(target=augment_folder, args=arguments, kwargs={"per_image": 2})
    first.start()
    assert running.wait(30)
    try:
        with pytest.raises(DestinationError, match="being written to by another run"):
            augment_folder(photos, tmp_path / "set", mixer(), per_image=2)
    finally:
        free.set()
        first.join(30)
    augment_folder(photos, tmp_path / "alone", mixer(), per_image=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "set")


def test_a_resume_keeps_the_batch_size_it_was_begun_with(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", mixer(), per_image=1)
    run = read_run(tmp_path / "set")
    (tmp_path / "set/run.json").write_text(json.dumps({**run, "batch_size": 3}))
    backend = Failing(0, stop)
    augment_folder(photos, tmp_path / "set", mixer(backend=backend), per_image=2)
    assert 3 == backend.calls  # 7 images by 3
    assert 3 == read_run(tmp_path / "set")["batch_size"]


def test_a_set_of_nothing_but_originals_is_an_error_but_is_finished(photos, tmp_path):
    backend = RecordingBackend(16, answer=refused)
    with pytest.raises(GenerationError, match=r"all 7 images .* came out blank or refused, and"):
        augment_folder(photos, tmp_path / "set", mixer(backend=backend), per_image=1)
    assert all(row["fallback"] for row in read_manifest(tmp_path / "set"))
    with pytest.raises(GenerationError, match="all 7 images"):  # as long as there is nothing else
        augment_folder(photos, tmp_path / "set", mixer(backend=backend), per_image=1)


def test_a_small_set_of_originals_is_no_success_either(photos, tmp_path):
    one = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))[:1]
    backend = RecordingBackend(16, answer=refused)
    with pytest.raises(GenerationError, match="all 1 images that were made for"):
        augment_folder(photos, tmp_path / "set", mixer(backend=backend), only=one)


def test_a_run_records_the_batch_size_that_fitted_into_memory(photos, tmp_path):
    backend = RecordingBackend(size=16)
    backend.batch_size = 2
    augment_folder(photos, tmp_path / "set", mixer(backend=backend), per_image=1)
    assert 2 == read_run(tmp_path / "set")["batch_size"]


class Torchvision:
    classes = ("AC/DC", "cat")

    def __len__(self):
        return 5

    def __getitem__(self, index):
        pixels = picture(index)
        return (Image.fromarray(pixels.permute(1, 2, 0).numpy()), 1 - index % 2)


def test_a_torchvision_dataset_has_its_names_and_indices(tmp_path):
    done = augment_dataset(Torchvision(), tmp_path / "set", mixer(), per_image=2)
    assert 10 == done.made
    rows = read_manifest(tmp_path / "set")
    assert "AC%2FDC/000001__0.jpg" == rows[2]["file_name"]
    assert ("AC/DC", "1") == (rows[2]["label"], rows[2]["source"])
    assert 2 == len(ImageFolder(tmp_path / "set").classes)


def test_subsets_keep_the_names_and_class_names_overrule_them(tmp_path):
    subset = torch.utils.data.Subset(Torchvision(), [0, 2])
    augment_dataset(subset, tmp_path / "one", mixer())
    assert ["cat/000000__0.jpg", "cat/000001__0.jpg"] == names(tmp_path / "one")
    augment_dataset(subset, tmp_path / "two", mixer(), class_names=["bee", "tom"])
    assert ["tom/000000__0.jpg", "tom/000001__0.jpg"] == names(tmp_path / "two")


def test_a_hugging_face_dataset_has_its_features_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "owl"])}
    )
    items = {"img": [Torchvision()[i][0] for i in range(4)], "label": [0, 1, 1, 0]}
    data = datasets.Dataset.from_dict(items, features=features)
    augment_dataset(data, tmp_path / "set", mixer())
    expected = ["cat/000000", "cat/000003", "owl/000001", "owl/000002"]
    assert [f"{name}__0.jpg" for name in expected] == names(tmp_path / "set")


def test_a_dataset_of_tensors_and_of_folders_gives_the_same_pixels(photos, tmp_path):
    folder = [(read_image(photos / "dog/a.jpg"), "dog"), (picture(3) / 255, "dog")]
    augment_dataset(folder, tmp_path / "set", FractalBlend(0.0, fractals=BANK), format="png")
    for number, pixels in enumerate([folder[0][0], picture(3)]):
        assert torch.equal(pixels, read_image(tmp_path / f"set/dog/{number:06d}__0.png"))


def test_the_plan_is_the_order_of_the_manifest():
    expected = [
        Planned("b", None),
        Planned("b", 0),
        Planned("a", None),
        Planned("a", 0),
    ]
    assert expected == list(plan(["b", "a"], 1, include_originals=True))


def test_a_summary_pairs_source_and_reason():
    assert ("a", "why") == Skipped("a", "why")
