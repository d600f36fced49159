"""What is wrong with one member of an archive is that member's fault alone."""

import io
import tarfile
import zipfile

import pytest
from image_folders import picture

from diffaug import FractalBank, FractalBlend, augment_folder
from diffaug.errors import SourceError
from diffaug.images import encode_image
from diffaug.offline import trees
from diffaug.offline.folder_source import FolderSource

PNG = encode_image(picture(1), "png")
BLEND = FractalBlend(fractals=FractalBank(2, 32))


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, PNG)
    return f"zip://::{path}"


def made_of(address, tmp_path):
    done = augment_folder(address, tmp_path / "set", BLEND, per_image=1)
    return done.made, dict(done.skipped)


def test_a_damaged_member_is_skipped_and_named(tmp_path):
    address = zipped(tmp_path / "p.zip", [f"cat/{number}.png" for number in range(4)])
    data = bytearray((tmp_path / "p.zip").read_bytes())
    data[data.find(b"IDAT") + 8] ^= 255
    (tmp_path / "p.zip").write_bytes(data)
    made, skipped = made_of(address, tmp_path)
    assert (3, ["cat/0.png"]) == (made, list(skipped))
    assert "cannot be read from its archive: Bad CRC-32" in skipped["cat/0.png"]


def test_an_encrypted_member_is_skipped_and_named(tmp_path):
    address = zipped(tmp_path / "p.zip", ["cat/0.png", "cat/1.png"])
    data = bytearray((tmp_path / "p.zip").read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(mark) + flags] |= 1
    (tmp_path / "p.zip").write_bytes(data)
    made, skipped = made_of(address, tmp_path)
    assert (1, ["cat/0.png"]) == (made, list(skipped))
    assert "encrypted" in skipped["cat/0.png"]


def test_a_device_in_a_tar_is_skipped_and_named(tmp_path):
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        for name in ("cat/0.png", "cat/1.png"):
            member = tarfile.TarInfo(name)
            member.size = len(PNG)
            archive.addfile(member, io.BytesIO(PNG))
        device = tarfile.TarInfo("cat/2.png")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    made, skipped = made_of(f"tar://::{tmp_path}/p.tar", tmp_path)
    assert (2, ["cat/2.png"]) == (made, list(skipped))


def test_names_that_no_disk_takes_are_skipped_before_the_run(tmp_path):
    long = [f"{'c' * 300}/0.png", f"cat/{'d' * 256}/1.png", f"cat/{('e' * 200 + '/') * 16}2.png"]
    made, skipped = made_of(zipped(tmp_path / "p.zip", ["cat/3.png", *long]), tmp_path)
    assert (1, set(long)) == (made, set(skipped))
    assert all("longer than" in reason for reason in skipped.values())


def test_a_member_larger_than_any_image_is_not_read(tmp_path, monkeypatch):
    address = zipped(tmp_path / "p.zip", ["cat/0.png"])
    with zipfile.ZipFile(tmp_path / "p.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(100_000))
    monkeypatch.setattr(trees, "LARGEST_FILE", 50_000)
    made, skipped = made_of(address, tmp_path)
    assert (1, {"cat/1.png": "it is larger than any image; remove it"}) == (made, skipped)


def test_an_archive_that_is_gone_stops_the_run_and_is_no_fault_of_its_members(tmp_path):
    source = FolderSource(zipped(tmp_path / "p.zip", ["cat/0.png"]))
    source.files.files.zip.close()
    source.files.files.zip.fp = None

    class Gone(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

    source.files.files.zip.open = lambda *_, **__: Gone()
    with pytest.raises(SourceError, match="Input/output error; once it can, run the same command"):
        source.load("cat/0.png")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ftp://bob:SECRET@127.0.0.1:9/x", "ftp://127.0.0.1:9/x"),
        ("ftp://bob:SEC/RET@127.0.0.1:9/x", "ftp://127.0.0.1:9/x"),
        ("https://127.0.0.1:9/x?X-Amz-Signature=SECRET", "https://127.0.0.1:9/x"),
        ("zip://a::https://u:SECRET@h/x?t=SECRET", "zip://a::https://h/x"),
        ("s3://bucket/train@2", "s3://bucket/train@2"),
    ],
)
def test_no_secret_of_an_address_is_shown(address, shown):
    assert shown == trees.without_secrets(address)


def test_an_address_that_fails_shows_no_secret(tmp_path):
    for address in ("ftp://bob:SECRET@127.0.0.1:9/x", "nosuch://bob:SECRET@host/x?key=SECRET"):
        with pytest.raises((SourceError, ValueError)) as caught:
            augment_folder(address, tmp_path / "set", BLEND)
        assert "SECRET" not in str(caught.value)


def test_a_file_address_is_decoded(tmp_path):
    (tmp_path / "a b/cat").mkdir(parents=True)
    (tmp_path / "a b/cat/0.png").write_bytes(PNG)
    assert ["cat/0.png"] == FolderSource((tmp_path / "a b").as_uri()).keys
