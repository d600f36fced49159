"""The files of generated images say that they are generated; their pixels do not."""

import io
import json
from xml.etree import ElementTree

import pytest
import torch
from answers import refused
from PIL import Image

from diffaug import DiffMix, DiffuseMix, FractalBlend, PromptEdit, RecordingBackend
from diffaug import augment_dataset as augment
from diffaug.errors import DestinationError, GenerationError
from diffaug.fractals import FractalBank
from diffaug.images import encode_image
from diffaug.offline import marks
from diffaug.offline.manifest import read_manifest, read_run, write_manifest

DATA = [(torch.rand(3, 24, 32, generator=torch.manual_seed(n)), n % 2) for n in range(4)]
EDIT = PromptEdit(["snowy"], backend=RecordingBackend(16))
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
COMPOSITE = "compositeWithTrainedAlgorithmicMedia"


def stated(path):
    """Return IPTC's word in the file of an image, as Pillow and an XML parser read it, or None."""
    with Image.open(path) as image:
        image.load()
        packet = image.info.get("xmp")
    if packet is None:
        return None
    text = packet.decode() if isinstance(packet, bytes) else packet
    [about] = ElementTree.fromstring(text.strip()).iter(f"{RDF}Description")
    return about.attrib[
        "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    ].rpartition("/")[2]


def make(folder, transform=EDIT, **options):
    augment(DATA, folder, transform, class_names=["cat", "dog"], per_image=1, **options)
    return {row["file_name"]: row for row in read_manifest(folder)}


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_a_mark_is_small_and_leaves_every_pixel(format):
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    plain, marked = (
        encode_image(pixels, format),
        encode_image(pixels, format, xmp=marks.xmp(marks.COMPOSITE)),
    )
    assert COMPOSITE == stated(io.BytesIO(marked))
    assert stated(io.BytesIO(plain)) is None
    assert 400 < len(marked) - len(plain) < 600
    assert Image.open(io.BytesIO(plain)).tobytes() == Image.open(io.BytesIO(marked)).tobytes()


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_pillows_own_reader_of_xmp_finds_the_mark(tmp_path, format):
    for name in make(tmp_path, format=format):
        with Image.open(tmp_path / name) as image:
            image.load()
            about = image.getxmp()["xmpmeta"]["RDF"]["Description"]
        assert marks.NEWSCODES + COMPOSITE == about["DigitalSourceType"]


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_edits_are_marked_and_originals_are_not(tmp_path, format):
    rows = make(tmp_path, format=format, include_originals=True)
    for name, row in rows.items():
        word = None if "__original" in name else COMPOSITE
        assert word == stated(tmp_path / name)
        assert (word is not None) == row["synthetic"]
        assert (word and marks.NEWSCODES + word) == row["digital_source_type"]


def test_a_translation_is_a_composite_and_an_image_from_words_is_generated(tmp_path):
    names, backend = ["cat", "dog"], RecordingBackend(16)
    translate = DiffMix(names, strength=0.7, backend=backend)
    words = DiffMix(names, strategy="real-gen", backend=backend)
    for folder, transform, word in (
        ("a", translate, COMPOSITE),
        ("b", words, "trainedAlgorithmicMedia"),
    ):
        for name, row in make(tmp_path / folder, transform).items():
            assert word == stated(tmp_path / folder / name)
            assert marks.NEWSCODES + word == row["digital_source_type"]
            older = {k: row[k] for k in row if k not in ("synthetic", "digital_source_type")}
            assert row == marks.described(older)


def test_where_no_model_has_made_any_of_an_image_it_has_no_mark(tmp_path):
    blend = FractalBlend(fractals=FractalBank(count=2, size=16))
    for name, row in make(tmp_path / "blend", blend).items():
        assert stated(tmp_path / "blend" / name) is None
        assert row["synthetic"] is False
    refusing = DiffuseMix(["snowy"], backend=RecordingBackend(16, answer=refused))
    with pytest.raises(GenerationError, match="all 4 images"):
        make(tmp_path / "refused", refusing)
    for row in read_manifest(tmp_path / "refused"):
        assert row["fallback"]
        assert stated(tmp_path / "refused" / row["file_name"]) is None
        assert row["digital_source_type"] is None


def test_without_marks_only_the_files_differ(tmp_path):
    marked, plain = make(tmp_path / "marked"), make(tmp_path / "plain", mark=False)
    assert marked == plain
    for name in marked:
        assert stated(tmp_path / "plain" / name) is None
        pixels = [Image.open(tmp_path / folder / name).tobytes() for folder in ("marked", "plain")]
        assert pixels[0] == pixels[1]
    assert "mark" not in read_run(tmp_path / "plain")["identity"]


def test_a_set_keeps_the_setting_that_it_was_begun_with(tmp_path):
    names = list(make(tmp_path / "plain", mark=False))
    (tmp_path / "plain" / names[0]).unlink()
    make(tmp_path / "plain")  # by default, and as a newer version resumes the set of an older one
    assert stated(tmp_path / "plain" / names[0]) is None
    make(tmp_path / "marked")
    with pytest.raises(DestinationError, match="'mark' is True there and None here"):
        make(tmp_path / "marked", mark=False)


def test_the_shares_of_a_set_that_was_begun_without_marks_have_none(tmp_path):
    options = {"class_names": ["cat", "dog"], "per_image": 1}
    augment(DATA, tmp_path, EDIT, mark=False, shard="1/2", **options)
    augment(DATA, tmp_path, EDIT, shard="2/2", **options)
    for row in read_manifest(tmp_path):
        assert stated(tmp_path / row["file_name"]) is None


def test_the_rows_of_an_older_set_get_the_columns_when_it_is_written_anew(tmp_path):
    rows = list(make(tmp_path, include_originals=True).values())
    older = [{k: row[k] for k in row if k not in marks.columns(None)} for row in rows]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in older))
    write_manifest(tmp_path, older)
    assert rows == read_manifest(tmp_path)
