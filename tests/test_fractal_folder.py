"""A folder of pictures to blend in, and the pictures in it that cannot be read."""

import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from answers import at, raise_error
from image_folders import contents, save_photos
from PIL import Image

from diffaug import DiffuseMix, RecordingBackend, augment_folder
from diffaug.errors import UnreadableImageError
from diffaug.fractal_folder import FractalFolder
from diffaug.offline.manifest import read_manifest


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name, size in (("b.png", (40, 20)), ("sub/a.jpg", (9, 30))):
        Image.new("RGB", size, "red").save(folder / name)
    return folder


def test_a_folder_of_pictures_serves_as_fractals(folder):
    bank = FractalFolder(folder, size=16)
    assert (2, "b.png", "sub/a.jpg") == (len(bank), bank.name(0), bank.name(1))
    assert bank.batch([1, 0]).shape == (2, 3, 16, 16)
    assert len(pickle.loads(pickle.dumps(bank))) == 2


def spoil(path):
    """Cut a file off in the middle."""
    path.write_bytes(path.read_bytes()[:60])


def test_an_unreadable_picture_is_named_once_and_the_next_one_takes_its_place(folder):
    for name in ("a.png", "z.png"):
        Image.new("RGB", (30, 30), "blue").save(folder / name)
        spoil(folder / name)
    pictures, before = FractalFolder(folder, size=16), FractalFolder(folder, 16).contents()
    with pytest.warns(UserWarning, match="1 of 4 pictures .* place of each: '.*a.png' is not a"):
        assert torch.equal(pictures[1], pictures[0])
    assert (4, "b.png", "b.png") == (len(pictures), pictures.name(0), pictures.name(1))
    with pytest.warns(UserWarning, match="z.png"):
        assert torch.equal(pictures[0], pictures[3])  # after the last one comes the first one
    assert "b.png" == pictures.name(3)
    assert before == pictures.contents()  # by which a resumed run knows the folder
    assert torch.equal(pictures.batch([0, 3]), pictures.batch([1, 1]))  # warns no more
    assert 4 == len(pickle.loads(pickle.dumps(pictures)))


def test_all_pictures_are_read_before_a_costly_run(folder):
    Image.new("RGB", (30, 30)).save(folder / "a.png")
    spoil(folder / "a.png")
    pictures = FractalFolder(folder, size=16)
    with pytest.warns(UserWarning, match="1 of 3 pictures to blend in .*a.png") as caught:
        pictures.check()
    pictures.check()
    assert 1 == len(caught)
    assert "b.png" == pictures.name(0)


def test_a_folder_in_which_nothing_can_be_read_is_refused(folder):
    for path in folder.rglob("*.*"):
        spoil(path)
    for use in (lambda: FractalFolder(folder)[1], lambda: FractalFolder(folder).check()):
        with pytest.raises(UnreadableImageError, match="none of the 2 in '.*' can be read: '.*b.p"):
            use()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FractalFolder(".", size=0), "'size' must be at least 1, got 0"),
        (lambda: FractalFolder("nowhere"), "must be a folder of images, got 'nowhere'"),
        (lambda: FractalFolder(Path(__file__).parents[1] / "scripts"), "holds none"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def augment(photos, destination, folder, **options):
    """Make a set with a folder of pictures; return its rows and the model's calls."""
    model = RecordingBackend(16, **options)
    mix = DiffuseMix(["snowy"], fractals=folder, backend=model, cache=False)
    augment_folder(photos, destination, mix, format="png")
    return read_manifest(destination)


def test_a_damaged_picture_is_named_before_the_model_is_called_and_the_run_goes_on(
    tmp_path, folder
):
    photos = save_photos(tmp_path / "photos", [f"cat/{number}.png" for number in range(8)])
    whole = augment(photos, tmp_path / "whole", folder)
    spoil(folder / "b.png")
    with pytest.warns(UserWarning, match="1 of 2 pictures to blend in .*b.png") as caught:

        def answer(request, usual):
            assert 1 == len(caught)
            return usual

        rows = augment(photos, tmp_path / "set", folder, answer=answer)
    assert {"sub/a.jpg"} == {row["fractal"] for row in rows}
    assert {"b.png", "sub/a.jpg"} == {row["fractal"] for row in whole}
    assert [row["mask"] for row in whole] == [row["mask"] for row in rows]


def test_a_stopped_run_with_a_damaged_picture_is_resumed(tmp_path, folder):
    photos = save_photos(tmp_path / "photos", [f"cat/{number}.png" for number in range(20)])
    spoil(folder / "b.png")
    with pytest.warns(UserWarning, match="1 of 2 pictures"):
        augment(photos, tmp_path / "whole", folder)
    stop = at(12, partial(raise_error, KeyboardInterrupt()))
    with pytest.warns(UserWarning, match="1 of 2 pictures"), pytest.raises(KeyboardInterrupt):
        augment(photos, tmp_path / "set", folder, answer=stop)
    with pytest.warns(UserWarning, match="1 of 2 pictures"):
        augment(photos, tmp_path / "set", folder)
    assert contents(tmp_path / "whole") == contents(tmp_path / "set")


def test_a_finished_set_reads_no_picture(tmp_path, folder):
    photos = save_photos(tmp_path / "photos", ["cat/1.png"])
    augment(photos, tmp_path / "set", folder)
    for path in folder.rglob("*.*"):
        path.write_bytes(bytes(path.stat().st_size))
    augment(photos, tmp_path / "set", folder)


def test_nothing_is_generated_where_no_picture_can_be_read(tmp_path, folder):
    photos = save_photos(tmp_path / "photos", ["cat/1.png"])
    for path in folder.rglob("*.*"):
        spoil(path)
    model = RecordingBackend(16)
    mix = DiffuseMix(fractals=folder, backend=model, cache=False)
    with pytest.raises(UnreadableImageError, match="none of the 2 in"):
        augment_folder(photos, tmp_path / "set", mix)
    assert [] == model.requests
