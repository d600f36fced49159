"""What others made stays where it is: names lead nowhere else, reading ends, no program starts."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from image_folders import picture, save, save_photos

from diffaug import FractalBank, FractalBlend, augment_folder, load_image
from diffaug.errors import SourceError, UnreadableImageError, is_of_machine
from diffaug.image_files import FORMATS
from diffaug.images import pixel_count
from diffaug.untrusted import (
    LARGEST_JSON,
    is_name_below,
    open_regular,
    parse_json,
    path_below,
    read_json,
)

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
#: A program that is slow to import nothing: it only reads a FIFO that nobody writes to.
READ = "import sys; from diffaug import load_image; load_image(sys.argv[1])"


@pytest.mark.parametrize(
    "name",
    ["", "/", "/etc/passwd", "..", "../a.jpg", "cat/../../a.jpg", "cat//a.jpg", "cat/./a.jpg"]
    + [".hidden", "cat/.hidden.jpg", "nul\0.jpg", "\ud800.jpg", None, 5, ["a.jpg"]],
)
def test_a_name_that_leads_elsewhere_is_refused_before_the_disk_is_asked(tmp_path, name):
    assert not is_name_below(name)
    with pytest.raises(ValueError, match="leads elsewhere; remove it"):
        path_below(tmp_path, name)


def test_a_link_on_the_way_of_a_name_leads_nowhere_else(tmp_path):
    save_photos(tmp_path, ["set/cat/a.png", "home/a.png"])
    (tmp_path / "set/out").symlink_to(tmp_path / "home")
    (tmp_path / "set/cat/b.png").symlink_to("../../home/a.png")
    (tmp_path / "set/within").symlink_to("cat")
    (tmp_path / "alias").symlink_to("set")
    for root in ("set", "alias"):  # the folder itself may be a link
        for name in ("cat/a.png", "within/a.png", "cat/new.png"):
            assert tmp_path / root / name == path_below(tmp_path / root, name)
        for name in ("out/a.png", "cat/b.png"):
            with pytest.raises(ValueError, match="leads elsewhere"):
                path_below(tmp_path / root, name)


def test_a_fifo_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="it is no regular file"):
            open_regular(path)
    ended = subprocess.run(
        [sys.executable, "-c", READ, tmp_path / "a.png"], capture_output=True, timeout=100
    )
    assert ended.stderr.decode().strip().endswith(f"it is no regular file: '{tmp_path}/a.png'.")


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, "[1, 2", "9" * 5000],
    ids=["list", "dict", "cut", "long"],
)
def test_json_that_no_program_means_is_a_value_error(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError):
        parse_json(text)
    with pytest.raises(ValueError):
        read_json(tmp_path / "a.json")


def test_a_large_json_file_is_not_read_into_memory(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(ValueError, match="larger than 256,000,000 bytes"):
        read_json(tmp_path / "a.json")


def test_postscript_named_like_an_image_starts_no_program(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    save(tmp_path / "src/cat/a.png", picture(1))
    (tmp_path / "src/cat/photo.jpg").write_bytes(POSTSCRIPT)
    blend = FractalBlend(fractals=FractalBank(2, 32))
    done = augment_folder(tmp_path / "src", tmp_path / "set", blend, per_image=1)
    assert not (tmp_path / "ran").exists()
    assert ["cat/photo.jpg"] == [skipped.source for skipped in done.skipped]
    assert f"none of {', '.join(FORMATS)}" in done.skipped[0].reason
    assert 0 == pixel_count(tmp_path / "src/cat/photo.jpg")


def test_trouble_of_the_machine_is_not_damage_of_an_image(tmp_path, monkeypatch):
    save(tmp_path / "a.png", picture(1))
    (tmp_path / "b.jpg").symlink_to("/proc/self/mem")  # reading it is an input/output error
    with pytest.raises(SourceError, match=r"'.*b.jpg' could not be read: .*Input/output error"):
        load_image(tmp_path / "b.jpg")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    with pytest.raises(UnreadableImageError, match="is not a readable image"):
        load_image(tmp_path / "c.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: bytes(2**62))
    with pytest.raises(SourceError, match="it is not left out; run the same command again"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_what_was_wrapped_is_still_trouble_of_the_machine(count):
    error = trouble = OSError(24, "Too many open files")
    for _ in range(count):
        error = RuntimeError("item 3 failed")
        error.__cause__, trouble = trouble, error
    assert is_of_machine(error)
    assert not is_of_machine(RuntimeError("item 3 failed"))


def test_a_run_on_a_disk_that_fails_stops_and_drops_no_good_image(tmp_path):
    save_photos(tmp_path / "src", [f"cat/{number}.png" for number in range(12)])
    (tmp_path / "src/cat/5.png").unlink()
    (tmp_path / "src/cat/5.png").symlink_to("/proc/self/mem")
    blend = FractalBlend(fractals=FractalBank(2, 32))
    with pytest.raises(SourceError, match="5.png' could not be read"):
        augment_folder(tmp_path / "src", tmp_path / "set", blend, per_image=1)
    (tmp_path / "src/cat/5.png").unlink()
    save(tmp_path / "src/cat/5.png", picture(5))
    done = augment_folder(tmp_path / "src", tmp_path / "set", blend, per_image=1)
    assert (12, ()) == (done.made + done.taken_over, done.skipped)


@pytest.mark.parametrize(
    "trouble",
    [
        MemoryError(),
        *(OSError(getattr(errno, name), name) for name in ("EMFILE", "ENFILE", "ESTALE", "EACCES")),
    ],
    ids=repr,
)
def test_a_run_whose_machine_fails_amid_it_stops_and_goes_on_with_every_image(
    tmp_path, monkeypatch, trouble
):
    save_photos(tmp_path / "src", [f"cat/{number}.png" for number in range(4)])
    blend = FractalBlend(fractals=FractalBank(2, 32))

    def fails(path):
        if str(path).endswith("2.png"):
            raise trouble
        return open_regular(path)

    with monkeypatch.context() as patch:
        patch.setattr("diffaug.image_files.open_regular", fails)
        with pytest.raises(SourceError, match="2.png' could not be read: .* the same command"):
            augment_folder(tmp_path / "src", tmp_path / "set", blend, per_image=1)
    done = augment_folder(tmp_path / "src", tmp_path / "set", blend, per_image=1)
    assert (4, ()) == (done.made + done.taken_over, done.skipped)


def test_a_name_that_a_terminal_would_obey_is_shown_and_not_obeyed(tmp_path):
    name = "a\x1b]0;OWNED\x07\x1b[2J\r\u202egnp.jpg"
    save(tmp_path / "src/cat/b.png", picture(1))
    (tmp_path / "src/cat" / name).write_bytes(b"no image")
    command = ["augment", tmp_path / "src", tmp_path / "set", "--backend", "tiny", "--steps", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "diffaug", *command], capture_output=True, timeout=300
    )
    said = (ended.stdout + ended.stderr).decode()
    assert 0 == ended.returncode, said
    assert r"a\x1b]0;OWNED\x07\x1b[2J\r\u202egnp.jpg" in said
    assert not {"\x1b", "\r", "\u202e", "\x07"} & set(said.split("skipped", 1)[1].splitlines()[0])
