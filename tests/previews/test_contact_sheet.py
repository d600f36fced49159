"""The contact sheet: what is on it, where, and what happens to images that cannot be read."""

import pytest
import torch
from answers import CallCounting, refused
from PIL import Image

from diffaug import DiffMix, DiffuseMix, FractalBank, FractalBlend, PromptEdit, RecordingBackend
from diffaug.errors import UnreadableImageError
from diffaug.images import read_image
from diffaug.previews import contact_sheet as sheets
from diffaug.previews.contact_sheet import BACKGROUND, GUTTER, SheetRow, contact_sheet, preview


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


@pytest.mark.parametrize(
    ("answer", "words"), [(None, "label dog   ·   strength 0.7"), (refused, "strength 0.0")]
)
def test_a_caption_names_another_class_only_where_the_picture_shows_it(
    photos, tmp_path, monkeypatch, answer, words
):
    rows, draw = [], sheets.contact_sheet
    monkeypatch.setattr(sheets, "contact_sheet", lambda *a: (rows.extend(a[0]), draw(*a))[1])
    mix = DiffMix(["cat", "dog"], pairs="other", backend=RecordingBackend(16, answer=answer))
    preview(photos, tmp_path / "sheet.png", mix, count=1, tile=64)
    assert [f"cat/1.png   ·   {words}"] == [row.caption for row in rows]


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
        (".", "s.jpg", {}, "'path' must end in .png, got"),
        ("photos", "s.png", {"count": 0}, "'count' must be at least 1, got 0"),
        ("photos", "s.png", {"tile": 5}, "'tile' must be at least 32, got 5"),
    ],
)
def test_wrong_arguments_are_named(photos, tmp_path, source, target, options, message):
    with pytest.raises(ValueError, match=message):
        preview(tmp_path / source, tmp_path / target, mixer(), **options)
