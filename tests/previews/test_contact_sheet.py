"""The contact sheet: what is on it, where, and what happens to images that cannot be read."""

import numpy as np
import pytest
import torch
from answers import CallCounting, refused
from PIL import Image

from diffaug import (
    DiffMix,
    DiffuseMix,
    FractalBank,
    FractalBlend,
    Generated,
    PromptEdit,
    RecordingBackend,
    SimilarityFilter,
    augment_folder,
    filter_set,
    preview,
)
from diffaug.errors import UnreadableImageError
from diffaug.images import read_image, wrap_text
from diffaug.previews import jobs
from diffaug.previews.drawing import BACKGROUND, EMPTY, GUTTER, SheetRow, contact_sheet
from diffaug.previews.finished_set import images_of, sheet_rows


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name, size in (("cat/1.png", (40, 20)), ("cat/2.png", (20, 40)), ("dog/1.png", (30, 30))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "orange").save(folder / name)
    return folder


def mixer(**options):
    return DiffuseMix(backend=RecordingBackend(16), fractals=FractalBank(2, 32), **options)


def test_pictures_are_in_their_columns_and_keep_their_proportions():
    picture = torch.full((3, 10, 20), 7, dtype=torch.uint8)
    sheet = contact_sheet([SheetRow("one", {"a": picture, "b": picture})], tile=64)
    covered = (sheet == 7).all(0)
    assert sheet.dtype == torch.uint8 and sheet.shape[2] == GUTTER + 2 * (64 + GUTTER)
    assert 2 * 64 * 32 == covered.sum()
    assert tuple(sheet[:, 0, 0].tolist()) == BACKGROUND
    columns = covered.any(0).nonzero().flatten().tolist()
    assert [GUTTER, 2 * GUTTER + 64 + 63] == [columns[0], columns[-1]]


def test_a_sheet_shows_every_stage_and_asks_the_backend_once(photos, tmp_path):
    backend = CallCounting(16)
    transform = DiffuseMix(backend=backend, fractals=FractalBank(2, 32))
    assert [] == preview(photos, tmp_path / "sheet.png", transform, tile=64)
    assert [3] == backend.calls
    assert read_image(tmp_path / "sheet.png").shape[2] == GUTTER + 5 * (64 + GUTTER)


@pytest.mark.parametrize(
    "transform",
    [FractalBlend(fractals=FractalBank(2, 32)), PromptEdit(backend=RecordingBackend(16))],
)
def test_any_transform_can_be_previewed(photos, tmp_path, transform):
    preview(photos, tmp_path / "new" / "sheet.png", transform, tile=64)
    assert read_image(tmp_path / "new" / "sheet.png").shape[2] == GUTTER + 2 * (64 + GUTTER)


@pytest.fixture
def captions(monkeypatch):
    """The captions of the rows that are drawn."""
    rows, draw = [], jobs.contact_sheet
    monkeypatch.setattr(jobs, "contact_sheet", lambda *a: (rows.extend(a[0]), draw(*a))[1])
    return lambda: [row.caption for row in rows]


def again(request, usual):
    return Generated(usual.image, usual.seed, 3)


@pytest.mark.parametrize(
    ("answer", "strategy", "words"),
    [
        (None, "real-mix", "label dog .84, cat .16   ·   strength 0.7"),
        (again, "real-mix", "label dog .84, cat .16   ·   strength 0.7   ·   made at attempt 3"),
        (refused, "real-mix", "label cat   ·   refused: the original stands in"),
        (None, "real-gen", "label dog   ·   strength 1"),
    ],
)
def test_a_caption_has_the_label_that_the_picture_is_trained_with(
    photos, tmp_path, captions, answer, strategy, words
):
    backend = RecordingBackend(16, answer=answer)
    mix = DiffMix(["cat", "dog"], strategy=strategy, pairs="other", backend=backend)
    preview(photos, tmp_path / "sheet.png", mix, count=1, tile=64)
    assert [f"cat/1.png   ·   {words}"] == captions()


def test_a_refused_edit_is_said_under_the_picture(photos, tmp_path, captions):
    edit = PromptEdit(["snowy"], backend=RecordingBackend(16, answer=refused))
    preview(photos, tmp_path / "sheet.png", edit, count=1, tile=64)
    assert ["cat/1.png   ·   prompt snowy   ·   refused: the original stands in"] == captions()


def test_a_long_caption_takes_several_lines():
    picture = {"a": torch.zeros(3, 10, 10, dtype=torch.uint8)}
    one, two = (contact_sheet([SheetRow("word " * n, picture)], 64).shape[1] for n in (1, 10))
    lines = len(wrap_text("word " * 10, 12, 64))
    assert lines >= 4 and (lines - 1) * 17 == two - one


def test_a_box_without_a_picture_says_why():
    sheet = contact_sheet([SheetRow("", {"source": "it is gone"})], tile=256)
    paper = torch.tensor(EMPTY, dtype=torch.uint8)[:, None, None]
    empty = (sheet == paper).all(0)
    assert 0.9 * 256 * 128 < empty.sum() < 256 * 128  # the rest of the box is the text
    long = contact_sheet([SheetRow("", {"source": "a long path " * 9})], tile=64)
    assert len(wrap_text("a long path " * 9, 12, 64 - GUTTER)) * 17 <= long.shape[1]


def test_the_same_seed_draws_the_same_sheet(photos, tmp_path):
    sheets = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        preview(photos, tmp_path / f"{name}.png", mixer(), seed=seed, tile=64)
        sheets.append((tmp_path / f"{name}.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_an_unreadable_image_is_left_out_and_named(photos, tmp_path):
    (photos / "cat" / "1.png").write_bytes(b"")
    [(name, reason)] = preview(photos, tmp_path / "sheet.png", mixer(), tile=64)
    assert "cat/1.png" == name and "not a readable image" in reason


def test_only_unreadable_images_are_an_error_and_nothing_is_written(photos, tmp_path):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UnreadableImageError):
        preview(photos, tmp_path / "sheet.png", mixer())
    assert ["photos"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        ("nowhere", "s.png", {}, "'source' must be an existing folder, got '.*nowhere'"),
        (".", "s.jpg", {}, "'path' must end in .png or .html, got"),
        ("photos", "s.png", {"count": 0}, "'count' must be at least 1, got 0"),
        ("photos", "s.png", {"tile": 5}, "'tile' must be at least 32, got 5"),
    ],
)
def test_wrong_arguments_are_named(photos, tmp_path, source, target, options, message):
    with pytest.raises(ValueError, match=message):
        preview(tmp_path / source, tmp_path / target, mixer(), **options)


def test_photographs_need_a_transform(photos, tmp_path):
    with pytest.raises(ValueError, match="'transform' must be given for a folder of photographs"):
        preview(photos, tmp_path / "sheet.png")


def scans(folder):
    """Write pictures of 12 bits, as X-rays have them."""
    levels = np.linspace(0, 4095, 32 * 32).reshape(32, 32).astype(np.uint16)
    for name in ("healthy", "ill"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(levels).save(folder / name / "scan.png")
    return folder


def test_scans_of_12_bits_are_shown_with_the_white_that_is_given_or_recorded(tmp_path):
    source, sheet = scans(tmp_path / "scans"), tmp_path / "sheet.png"
    with pytest.raises(UnreadableImageError, match="give white=4095"):
        preview(source, sheet, mixer(), tile=64)
    assert [] == preview(source, sheet, mixer(), tile=64, white=4095)
    augment_folder(source, tmp_path / "set", mixer(cache=False), white=4095)
    rows, skipped = sheet_rows(tmp_path / "set", list(images_of(tmp_path / "set")))
    assert [] == skipped
    assert [(0, 255)] * 2 == [
        (int(row.pictures["source"].min()), int(row.pictures["source"].max())) for row in rows
    ]
    with pytest.raises(ValueError, match="'white' must be None for a generated set, got 4095"):
        preview(tmp_path / "set", sheet, white=4095)


def test_a_set_of_scans_is_compared_with_its_sources(tmp_path):
    source = scans(tmp_path / "scans")
    augment_folder(source, tmp_path / "set", mixer(cache=False), white=4095)
    done = filter_set(tmp_path / "set", SimilarityFilter(low=-1, high=1))
    assert (2, 2) == (done.kept, done.scored)
