"""What a run says: images and classes, what was left out, and where ImageFolder differs."""

import os
import shutil
import threading
import warnings

import pytest
import torch
from answers import CallCounting, refuse
from image_folders import contents, picture, save, save_photos
from PIL import Image
from torchvision.datasets import ImageFolder

from diffaug import (
    DiffMix,
    FractalBlend,
    GeneratedDataset,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
)
from diffaug.errors import DestinationError, UnreadableImageError
from diffaug.offline import estimate, generate
from diffaug.offline.manifest import read_manifest, read_run
from diffaug.offline.summary import Summary, SummaryWarning, left_out_lines

NAMES = [f"{name}/{number}.png" for name in ("bird", "cat", "dog") for number in range(2)]


def edit(**options):
    return PromptEdit(["snowy"], backend=RecordingBackend(16, **options))


def photos(folder, *more):
    return save_photos(folder / "photos", [*NAMES, *more])


def phone_photo(path, orientation=6):
    """Write a photograph whose camera was turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), "red").save(path, exif=exif)


def folders(root):
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def damaged_class(root):
    for path in (root / "cat").iterdir():
        path.write_bytes(b"no image")


def empty_class(root):
    shutil.rmtree(root / "cat")
    (root / "cat").mkdir()


WITHOUT_CATS = "classes without images: cat; torchvision's ImageFolder refuses the set: use "


@pytest.mark.parametrize("break_cats", [damaged_class, empty_class])
@pytest.mark.parametrize("way", ["whole", "again", "shards", "only"])
def test_every_class_of_the_source_has_its_folder_in_the_set(tmp_path, break_cats, way):
    """Else ImageFolder would give a dog the number of a cat."""
    root, destination = photos(tmp_path), tmp_path / "set"
    break_cats(root)
    with pytest.warns(SummaryWarning, match="^classes without images: (bird, )?cat; "):
        if way == "shards":
            augment_folder(root, destination, edit(), shard="2/2")
            done = augment_folder(root, destination, edit(), shard="1/2")
        else:
            only = {"only": ["dog/0.png"]} if way == "only" else {}
            done = augment_folder(root, destination, edit(), **only)
        if way == "again":
            (destination / "cat").rmdir()  # as in a set of an older version
            done = augment_folder(root, destination, edit())
    assert ["bird", "cat", "dog"] == folders(destination) == list(done.classes)
    assert "cat" in done.empty
    assert 0 == done.images["cat"] < done.images["dog"]
    with pytest.raises(FileNotFoundError, match="no valid file for the classes .*cat"):
        ImageFolder(destination)
    assert ["bird", "cat", "dog"] == GeneratedDataset(destination).classes
    assert {2} == set(GeneratedDataset(destination).targets) - {0}
    assert "cat" in read_run(destination)["classes_without_images"]


def test_a_class_that_no_draw_hit_has_its_folder_too(tmp_path):
    names = [f"c{number:02}" for number in range(20)]
    root = save_photos(tmp_path / "photos", [f"{name}/1.png" for name in names])
    mix = DiffMix(names, strategy="real-mix", backend=RecordingBackend(16), cache=False)
    with pytest.warns(SummaryWarning, match="^classes without images: c"):
        done = augment_folder(root, tmp_path / "set", mix, per_image=1)
    assert names == folders(tmp_path / "set") == list(done.classes)
    hit = {row["label"] for row in read_manifest(tmp_path / "set")}
    assert sorted(set(names) - hit) == list(done.empty)
    with pytest.raises(FileNotFoundError, match="no valid file for the classes"):
        ImageFolder(tmp_path / "set")


def test_a_class_that_came_out_refused_has_its_folder_too(tmp_path):
    root = photos(tmp_path)
    mix = DiffMix(
        ["bird", "cat", "dog"],
        strategy="real-gen",
        backend=RecordingBackend(16, answer=refuse("cat", outright=True)),
        cache=False,
    )
    with pytest.warns(SummaryWarning, match=WITHOUT_CATS):
        augment_folder(root, tmp_path / "set", mix, per_image=4)
    assert ["bird", "cat", "dog"] == folders(tmp_path / "set")


def test_a_dataset_has_a_folder_for_each_of_its_classes(tmp_path):
    data = [(torch.rand(3, 20, 20), 0), (torch.rand(3, 20, 20), 2)]
    names = ["a/b", "cat", "dog"]
    with pytest.warns(SummaryWarning, match=WITHOUT_CATS):
        done = augment_dataset(data, tmp_path / "set", edit(), class_names=names)
    assert ["a%2Fb", "cat", "dog"] == folders(tmp_path / "set")
    assert names == list(done.classes)


def test_an_order_that_is_not_that_of_the_folders_is_said(tmp_path):
    root = photos(tmp_path)
    mix = DiffMix(["dog", "cat", "bird"], strategy="real-mix", backend=RecordingBackend(16))
    with pytest.warns(SummaryWarning, match="another order than that of the labels: use Generat"):
        done = augment_folder(root, tmp_path / "set", mix, per_image=4)
    assert (("dog", "cat", "bird"), True) == (done.classes, done.reordered)
    assert list(done.classes) == GeneratedDataset(tmp_path / "set").classes


def test_an_empty_class_that_a_transform_does_not_know_is_no_number_of_the_set(tmp_path):
    root = photos(tmp_path)
    (root / "ant").mkdir()
    mix = DiffMix(["bird", "cat", "dog"], strategy="real-mix", backend=RecordingBackend(16))
    with pytest.warns(SummaryWarning) as told:
        augment_folder(root, tmp_path / "set", mix, per_image=4)
    assert 0 == GeneratedDataset(tmp_path / "set").classes.index("bird")
    assert 1 == ImageFolder(tmp_path / "set", allow_empty=True).class_to_idx["bird"]
    [empty, order] = [str(warning.message) for warning in told]
    assert empty.endswith("ImageFolder refuses the set: use GeneratedDataset.")
    assert "another order than that of the labels: use GeneratedDataset" in order


def test_eleven_numbers_are_in_another_order_as_folders(tmp_path):
    data = [(torch.rand(3, 20, 20), number) for number in range(11)]
    with pytest.warns(UserWarning, match="'10' is 10 in the dataset"):
        done = augment_dataset(data, tmp_path / "set", edit())
    assert ([str(number) for number in range(11)], True) == (list(done.classes), done.reordered)


def test_an_ordinary_run_warns_of_nothing_and_keeps_its_manifest(tmp_path):
    root = photos(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = augment_folder(root, tmp_path / "set", edit(), per_image=2)
    assert ["12 images of 3 classes (bird, cat, dog)"] == done.lines()
    assert (
        {"bird": 4, "cat": 4, "dog": 4}
        == done.images
        == read_run(done.destination)["images_per_class"]
    )
    assert "differs" not in read_manifest(done.destination)[0]


def test_what_was_left_out_is_counted_by_kind(tmp_path):
    root = photos(tmp_path)
    for number in range(12):
        (root / f"cat/{number}.txt").touch()
    for name in ("dog/a.heic", "dog/b.heic", "dog/c.avif", "cat/._0.png"):
        (root / name).touch()
    os.mkfifo(root / "cat/pipe.jpg")
    done = augment_folder(root, tmp_path / "set", edit())
    assert [
        "6 images of 3 classes (bird, cat, dog)",
        "left out: 12 files of kinds that are not read (.txt 12)",
        "left out: 3 files of kinds that are not read (.avif 1, .heic 2); convert them if they "
        "are images",
        "left out: 1 hidden image or folder; torchvision's ImageFolder reads it: rename or remove "
        "it",
    ] == done.lines()
    assert {".txt": 12, ".heic": 2, ".avif": 1, "hidden": 1} == read_run(done.destination)[
        "left_out"
    ]
    [skipped] = done.skipped
    assert ("cat/pipe.jpg", True) == (skipped.source, "no regular file" in skipped.reason)


def test_images_that_were_turned_are_counted_once_each_whatever_made_them(tmp_path):
    root = photos(tmp_path)
    for number in range(2):
        phone_photo(root / f"cat/phone{number}.jpg", orientation=6 + number)
    line = (
        "2 of 8 images were turned upright; torchvision's ImageFolder does not turn them: "
        "ImageFolder(root, loader=diffaug.load_image)"
    )
    with pytest.warns(SummaryWarning) as told:
        done = augment_folder(root, tmp_path / "one", edit(), per_image=2)
    assert [f"{line}."] == [str(warning.message) for warning in told]
    assert (line, {"turned upright": 2}) == (done.lines()[-1], done.differs)
    with pytest.warns(SummaryWarning):
        augment_folder(root, tmp_path / "more", edit(), per_image=1)
        again = augment_folder(root, tmp_path / "more", edit(), per_image=2)  # other copies
        for shard in ("1/3", "2/3", "3/3"):
            shared = augment_folder(root, tmp_path / "set", edit(), per_image=2, shard=shard)
        dry = augment_folder(root, tmp_path / "dry", edit(), dry_run=True)
    assert [line] * 2 == [again.lines()[-1], shared.lines()[-1]]
    assert read_manifest(tmp_path / "one") == read_manifest(tmp_path / "more")
    assert read_manifest(tmp_path / "one") == read_manifest(tmp_path / "set")
    assert line == dry.lines()[-1]


def test_a_share_says_nothing_of_classes_that_others_make(tmp_path):
    root = save_photos(tmp_path / "photos", ["a/1.png", "b/1.png"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = augment_folder(root, tmp_path / "set", edit(), shard="1/2")
        last = augment_folder(root, tmp_path / "set", edit(), shard="2/2")
    assert ["1 image of 2 classes (a, b)"] == first.lines()
    assert ["2 images of 2 classes (a, b)"] == last.lines()


def test_a_dry_run_says_the_same_and_what_it_will_take(tmp_path):
    root = photos(tmp_path, "eel/1.png")
    (root / "eel/1.png").write_bytes(b"no image")
    (root / "cat/notes.txt").touch()
    (root / "fox").mkdir()
    with pytest.warns(SummaryWarning, match="^classes without images: eel, fox; "):
        dry = augment_folder(root, tmp_path / "set", edit(), per_image=3, dry_run=True)
    assert not (tmp_path / "set").exists()
    assert [
        "18 images of 5 classes (bird, cat, dog, eel, fox)",
        "left out: 1 file of kinds that are not read (.txt 1)",
    ] == dry.lines()[:2]
    assert (21, 18) == (dry.planned, dry.estimate.images)
    assert ["eel/1.png"] == [skipped.source for skipped in dry.skipped]
    with pytest.warns(SummaryWarning):
        done = augment_folder(root, tmp_path / "set", edit(), per_image=3)
    assert done.lines() == dry.lines()
    with pytest.warns(SummaryWarning):
        again = augment_folder(root, tmp_path / "set", edit(), per_image=3, dry_run=True)
    assert (done.lines(), 0) == (again.lines(), again.estimate.images)
    size = sum(path.stat().st_size for path in done.destination.rglob("*.jpg"))
    assert 0.5 * size < dry.estimate.bytes < 2 * size


def test_a_dry_run_says_that_no_picture_to_blend_in_can_be_read(tmp_path):
    (tmp_path / "fractals").mkdir()
    (tmp_path / "fractals/1.png").touch()
    blend = FractalBlend(fractals=tmp_path / "fractals")
    for dry_run in (True, False):
        with pytest.raises(UnreadableImageError, match="none of the 1 in"):
            augment_folder(photos(tmp_path), tmp_path / "set", blend, dry_run=dry_run)
    assert not (tmp_path / "set").exists()


def test_a_class_that_the_source_has_lost_keeps_its_number_in_the_set(tmp_path):
    root = photos(tmp_path)
    augment_folder(root, tmp_path / "set", edit())
    shutil.rmtree(root / "cat")
    save_photos(root, ["eel/0.png"])
    names = ["bird", "cat", "dog", "eel"]
    dry = augment_folder(root, tmp_path / "set", edit(), dry_run=True)
    done = augment_folder(root, tmp_path / "set", edit())  # warns of no other order
    assert ["7 images of 4 classes (bird, cat, dog, eel)"] == done.lines() == dry.lines()
    assert names == read_run(tmp_path / "set")["classes"] == list(done.classes)
    assert (
        names == GeneratedDataset(tmp_path / "set").classes == ImageFolder(done.destination).classes
    )


def test_a_class_that_is_called_as_a_file_of_the_set_is_refused_before_anything_is_written(
    tmp_path,
):
    for name in ("run.json", "metadata.jsonl"):
        root = save_photos(tmp_path / name, [f"{name}/1.png", "cat/1.png"])
        for dry_run in (True, False):
            with pytest.raises(ValueError, match=f"a class must not be called '{name}'"):
                augment_folder(root, tmp_path / "set", edit(), dry_run=dry_run)
    assert not (tmp_path / "set").exists()


def test_a_name_with_a_line_break_stays_on_the_line(tmp_path):
    root = save_photos(tmp_path / "photos", ["cat\nfish/1.png"])
    assert ["1 image of 1 class (cat fish)"] == augment_folder(
        root, tmp_path / "set", edit()
    ).lines()


def test_one_image_is_spoken_of_as_one(tmp_path):
    summary = Summary(tmp_path, 2, differs={"turned upright": 1, "16 bits": 1}, sources=2)
    turned, deep = summary.lines()
    assert turned.startswith("1 of 2 images was turned upright; torchvision's ImageFolder does not")
    assert turned.split(": ")[0].endswith("does not turn it")
    assert deep.startswith("1 of 2 images differs (16 bits); torchvision's ImageFolder sees")


def test_of_many_kinds_of_files_the_commonest_are_named():
    counts = {f".x{number}": number for number in range(1, 10)}
    line = "left out: 45 files of kinds that are not read (.x4 4, .x5 5, .x6 6, .x7 7, .x8 8, .x9 9"
    assert [f"{line}, ...); convert them if they are images"] == left_out_lines(counts)


def test_a_dry_run_downloads_no_model_and_asks_no_backend_of_the_callers_own(tmp_path):
    root, own = photos(tmp_path), CallCounting(16)
    for backend in ("instruct-pix2pix", own):
        edit = PromptEdit(["snowy"], backend=backend)
        dry = augment_folder(root, tmp_path / "set", edit, dry_run=True)
        assert dry.estimate.seconds is None
        assert dry.estimate.bytes > 0
        assert dry.estimate.absent == (None if backend is own else "instruct-pix2pix")
    assert not hasattr(own, "calls")


def test_the_time_of_a_model_is_measured_after_it_was_loaded(tmp_path, monkeypatch):
    seconds = iter([9.0, 0.5])
    probe = estimate._probe
    monkeypatch.setattr(estimate, "_probe", lambda *a: (probe(*a)[0], next(seconds)))
    edit = PromptEdit(["snowy"], backend="tiny", cache=False)
    dry = augment_folder(photos(tmp_path), tmp_path / "set", edit, per_image=4, dry_run=True)
    assert 24 / 8 * 0.5 == dry.estimate.seconds  # 8 images in a batch
    assert not (tmp_path / "set").exists()


def test_names_of_many_classes_are_cut(tmp_path):
    names = tuple("abcdefgh")
    summary = Summary(tmp_path, 8, classes=names, images=dict.fromkeys(names, 1))
    assert ["8 images of 8 classes (a, b, c, d, e, f, ...)"] == summary.lines()


def test_images_of_no_class_are_counted(tmp_path):
    assert ["3 images"] == Summary(tmp_path, 4, made=2, taken_over=1).lines()


def test_other_pixels_name_a_loader_that_knows_the_white(tmp_path):
    summary = Summary(tmp_path, 4, differs={"16 bits": 3}, sources=4, white=4095)
    assert [
        "3 of 4 images differ (16 bits); torchvision's ImageFolder sees other pixels: "
        "ImageFolder(root, loader=functools.partial(diffaug.load_image, white=4095))"
    ] == summary.lines()


# Reading


def test_large_images_are_read_by_one_thread_alone_and_stay_the_same(tmp_path, monkeypatch):
    root = photos(tmp_path)
    augment_folder(root, tmp_path / "one", edit(), size=16)
    monkeypatch.setattr("diffaug.offline.folder_source.LARGE", 24 * 32 - 1)
    load, threads = generate.Maker._load, set()

    def watched(maker, read):
        threads.add(threading.get_ident())
        return load(maker, read)

    monkeypatch.setattr(generate.Maker, "_load", watched)
    augment_folder(root, tmp_path / "two", edit(), size=16)
    assert 1 == len(threads)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert {**one, "run.json": b""} == {**two, "run.json": b""}


def test_a_batch_is_not_filled_up_with_more_pixels_than_memory_holds(tmp_path, monkeypatch):
    root = photos(tmp_path)
    whole = CallCounting(16)
    augment_folder(root, tmp_path / "one", PromptEdit(["snowy"], backend=whole))
    assert [6] == whole.calls
    monkeypatch.setattr(generate, "PIXELS", 2 * 24 * 32 // 8)  # of 8 images
    parts = CallCounting(16)
    augment_folder(root, tmp_path / "two", PromptEdit(["snowy"], backend=parts), per_image=2)
    assert [5, 4, 3] == parts.calls  # each ends with the first copy of a third source


def test_an_image_of_too_many_pixels_is_skipped_by_name_before_its_pixels_are_read(
    tmp_path, monkeypatch
):
    root = photos(tmp_path)
    save(root / NAMES[0], picture(0, 30, 32))
    save(root / NAMES[2], picture(0, 60, 64))  # over twice the bound, Pillow opens it no more
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32)
    done = augment_folder(root, tmp_path / "set", edit())
    assert [NAMES[0], NAMES[2]] == [skipped.source for skipped in done.skipped]
    assert "has 960 pixels (32 x 30), and at most 768 are read" in done.skipped[0].reason
    assert "has more than 1,536 pixels, and at most 768 are read" in done.skipped[1].reason
    assert all("set PIL.Image.MAX_IMAGE_PIXELS" in skipped.reason for skipped in done.skipped)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    again = augment_folder(root, tmp_path / "set", edit())
    assert (2, ()) == (again.made, again.skipped)


def test_a_white_that_was_given_is_part_of_a_run_and_none_is_not(tmp_path):
    root = photos(tmp_path)
    augment_folder(root, tmp_path / "set", edit())
    assert "white" not in read_run(tmp_path / "set")["identity"]
    with pytest.raises(DestinationError, match="'white' is None there and 4095 here"):
        augment_folder(root, tmp_path / "set", edit(), white=4095)
    with pytest.raises(ValueError, match="'white' must be at least 1, got 0"):
        augment_folder(root, tmp_path / "set", edit(), white=0)
