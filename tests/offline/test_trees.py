"""Trees of images here and elsewhere: the same images, the same names, clear errors."""

import builtins
import pickle
import tarfile
import zipfile

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from diffaug import PromptEdit, RecordingBackend, augment_folder
from diffaug.errors import MissingDependencyError, SourceError, UnreadableImageError
from diffaug.image_files import FORMATS
from diffaug.images import encode_image
from diffaug.offline.folder_source import FolderSource
from diffaug.offline.manifest import read_manifest
from diffaug.offline.trees import open_tree

NAMES = ["cat/1.png", "cat/in/2.PNG", "dog/ö 3.jpg"]
HIDDEN = ["cat/.4.png", "cat/.git/5.png", "cat/notes.txt"]


def image(number):
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (3, 20, 24), generator=generator, dtype=torch.uint8)


def files():
    data = {name: encode_image(image(n), name[-3:].lower()) for n, name in enumerate(NAMES)}
    return {**data, **dict.fromkeys(HIDDEN, b"hidden")}


@pytest.fixture
def local(tmp_path):
    for name, data in files().items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    return tmp_path / "photos"


@pytest.fixture(params=["file", "memory", "zip", "zip in memory", "tar"])
def address(request, local, tmp_path):
    """The same images by another address."""
    if request.param == "file":
        return f"file://{local}"
    memory = fsspec.filesystem("memory")
    if request.param == "memory":
        memory.pipe({f"/bucket/train/{name}": data for name, data in files().items()})
        request.addfinalizer(lambda: memory.rm("/bucket", recursive=True))
        return "memory://bucket/train/"
    if request.param == "tar":
        with tarfile.open(tmp_path / "photos.tar", "w") as archive:
            archive.add(local, "train")
        return f"tar://train::{tmp_path / 'photos.tar'}"
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name, data in files().items():
            archive.writestr(f"train/{name}", data)
    if request.param == "zip":
        return f"zip://train::{tmp_path / 'photos.zip'}"
    memory.pipe("/photos.zip", (tmp_path / "photos.zip").read_bytes())
    request.addfinalizer(lambda: memory.rm("/photos.zip"))
    return "zip://train::memory://photos.zip"


def test_an_address_has_the_images_of_the_folder(address, local):
    tree = open_tree(address)
    assert NAMES == open_tree(local).list().keys
    assert open_tree(local).list() == tree.list()
    assert torch.equal(image(1), tree.read(NAMES[1]).pixels)
    file, count = tree.open(NAMES[1])
    assert 20 * 24 == count
    assert torch.equal(image(1), tree.read(NAMES[1], file).pixels)


def test_many_images_of_an_archive_are_read_whole(tmp_path):
    """Members of a tar share one position; threads would read each other's bytes."""
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for number in range(60):
            path = tmp_path / f"{number}.png"
            path.write_bytes(encode_image(image(number), "png"))
            archive.add(path, f"train/cat/{number:02}.png")
    edit = PromptEdit(backend=RecordingBackend(16))
    done = augment_folder(f"tar://train::{tmp_path / 'photos.tar'}", tmp_path / "set", edit)
    assert (60, ()) == (done.made, done.skipped)


def test_an_archive_of_the_folder_itself_has_its_images(local, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(local, ".")  # as 'tar -C photos -c .'
    here, there = FolderSource(local), FolderSource(f"tar://::{tmp_path}/all.tar")
    assert (here.keys, here.classes) == (there.keys, there.classes)
    key = here.keys[0]
    assert torch.equal(here.load(key).pixels, there.load(key).pixels)


def test_a_folder_travels_to_a_process_that_works_elsewhere(local, tmp_path, monkeypatch):
    monkeypatch.chdir(local.parent)
    data = pickle.dumps(FolderSource("photos"))
    monkeypatch.chdir("/")
    assert torch.equal(image(0), pickle.loads(data).load(NAMES[0]).pixels[0])


def test_a_folder_that_cannot_be_seen_is_no_fault_of_its_images(local):
    source = FolderSource(local)
    local.rename(local.with_name("elsewhere"))
    with pytest.raises(SourceError, match="photos' cannot be seen from here"):
        source.load(NAMES[0])


@pytest.mark.parametrize(("separator", "odd"), [("/", "cat//b.png"), ("\\", "cat/x\\..\\b.png")])
def test_names_that_no_folder_here_can_have_are_skipped(monkeypatch, separator, odd):
    monkeypatch.setattr("diffaug.offline.folder_source.os.sep", separator)
    memory = fsspec.filesystem("memory")
    memory.pipe({"/odd/cat/a.png": b"", f"/odd/{odd}": b""})
    listed = memory.find("/odd")
    source = FolderSource("memory://odd")
    memory.store.clear()  # an older rm() asks for these names as for folders
    if f"/odd/{odd}" not in listed:
        pytest.skip("this version of fsspec does not list such a name")
    assert ["cat/a.png"] == source.keys
    assert [(odd, "its path has a slash that a name here cannot have; rename it")] == source.skipped


def test_no_password_is_written_down():
    assert "memory://host/x" == open_tree("memory://me:secret@host/x").name
    inside = "zip://a::http://me:secret@127.0.0.1:9/x.zip?key=secret"
    with pytest.raises(SourceError, match="x.zip") as told:
        open_tree(inside).list()
    assert "secret" not in str(told.value)


def images(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*__*") if path.is_file()}


def test_the_set_of_an_address_is_that_of_the_folder(address, local, tmp_path):
    edit = PromptEdit(backend=RecordingBackend(16))
    augment_folder(local, tmp_path / "whole", edit, per_image=2, format="png")
    done = augment_folder(address, tmp_path / "set", edit, per_image=2, format="png")
    assert 6 == done.made
    assert images(tmp_path / "whole") == images(tmp_path / "set")
    assert read_manifest(tmp_path / "whole") == read_manifest(tmp_path / "set")
    assert (
        6 == augment_folder(address, tmp_path / "set", edit, per_image=2, format="png").taken_over
    )


def test_the_reason_for_a_damaged_file_names_no_open_file():
    with fsspec.open("memory://damaged/cat/1.png", "wb") as file:
        file.write(b"no image")
    source = FolderSource("memory://damaged")
    with pytest.raises(UnreadableImageError) as caught:
        source.load("cat/1.png")
    reason = f"it is damaged, or none of {', '.join(FORMATS)}"
    assert f"'cat/1.png' is not a readable image: {reason}." == str(caught.value)
    fsspec.filesystem("memory").rm("/damaged", recursive=True)


def test_a_damaged_file_is_unreadable_and_named():
    memory = fsspec.filesystem("memory")
    memory.pipe("/damaged/cat/1.png", b"no image")
    with pytest.raises(UnreadableImageError, match=r"^'cat/1\.png' is not a readable image"):
        open_tree("memory://damaged").read("cat/1.png")
    with pytest.raises(UnreadableImageError, match=r"^'cat/2\.png' is not there any more"):
        open_tree("memory://damaged").read("cat/2.png")


class Failing(MemoryFileSystem):
    """A store that fails after some reads."""

    protocol = "failing"
    reads = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("failing://"))

    def cat_file(self, path, **options):
        type(self).reads += 1
        if type(self).reads == 3:
            raise TimeoutError("the bucket does not answer")
        return super().cat_file(path, **options)


def test_an_address_that_fails_stops_the_run_which_goes_on_later(local, tmp_path):
    """An image must not be left out because of the network."""
    fsspec.register_implementation("failing", Failing, clobber=True)
    Failing().pipe({f"/store/{name}": data for name, data in files().items()})
    edit = PromptEdit(backend=RecordingBackend(16))
    message = r"dog/ö 3\.jpg' could not be read: the bucket does not answer; once it can, run"
    with pytest.raises(SourceError, match=message):
        augment_folder("failing://store", tmp_path / "set", edit, per_image=2)
    assert 6 == augment_folder("failing://store", tmp_path / "set", edit, per_image=2).made


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("nope://bucket", ValueError, "'source' must be a folder or an address: Protocol not"),
        ("memory://nothing/here", ValueError, "'source' must hold images in one folder per class"),
        ("zip://train::/no/such.zip", SourceError, "could not be read: .*No such file"),
        ("no/such/folder", ValueError, "'source' must be an existing folder, got 'no/such/folder'"),
    ],
)
def test_what_is_no_tree_is_said_in_one_line(address, kind, message):
    with pytest.raises(kind, match=message):
        FolderSource(address)


def test_a_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "s3fs":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="needs a package that is not .*s3fs"):
        open_tree("s3://bucket/train")
