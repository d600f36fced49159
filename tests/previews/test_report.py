"""A report: what its rows say of photographs and of a set, and what may be in a page."""

import itertools
import json
import re

import pytest
import torch
from answers import refused
from image_folders import save_photos

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
    sample_photos,
    sweep,
)
from diffaug.errors import UnreadableImageError
from diffaug.offline.destination import rewriting
from diffaug.offline.manifest import read_run
from diffaug.previews.page import Album, Report, ReportRow, render
from diffaug.previews.report_rows import settings_lines, side_for

BANK = FractalBank(2, 16)


@pytest.fixture
def photos(tmp_path):
    names = ["cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png"]
    return save_photos(tmp_path / "photos", names, 48, 64)


def data_of(page):
    """Return what the script of a page reads."""
    text = page.read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))


def translated(photos, folder, answer=None, **options):
    backend = RecordingBackend(16, answer=answer)
    mix = DiffMix(["cat", "dog"], strategy="real-mix", pairs="other", backend=backend)
    augment_folder(photos, folder, mix, per_image=2, **options)
    return folder


def test_a_row_shows_every_stage_of_a_photograph(photos, tmp_path):
    mix = DiffuseMix(["snowy"], backend=RecordingBackend(16), fractals=BANK)
    assert [] == preview(photos, tmp_path / "report.html", mix)
    data = data_of(tmp_path / "report.html")
    assert ["original", "edit", "halves joined", "fractal", "result"] == data["columns"]
    assert ["cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png"] == [r["name"] for r in data["rows"]]
    row = data["rows"][0]
    assert "snowy" == row["prompt"] and [["cat", 100]] == row["classes"]
    assert ["mask", "fractal", "alpha"] == [name for name, _ in row["facts"]]
    assert -1 <= row["scores"]["similarity"] <= 1


def test_the_settings_are_those_that_ran(photos, tmp_path):
    mix = DiffuseMix(["snowy"], alpha=(0.1, 0.3), backend=RecordingBackend(16), fractals=BANK)
    augment_folder(photos, tmp_path / "set", mix)
    settings = dict(settings_lines(read_run(tmp_path / "set")["identity"]))
    assert ("DiffuseMix", "snowy", "0.1 to 0.3") == tuple(
        settings[name] for name in ("method", "prompts", "weight of the fractal")
    )
    translated(photos, tmp_path / "mixed")
    settings = dict(settings_lines(read_run(tmp_path / "mixed")["identity"]))
    assert ("real-mix", "other", "0.7") == tuple(
        settings[name] for name in ("strategy", "pairs", "strength")
    )


def test_a_set_is_shown_with_its_soft_labels_beside_its_sources(photos, tmp_path):
    folder = translated(photos, tmp_path / "set", include_originals=True)
    assert [] == preview(folder, tmp_path / "report.html")
    rows = data_of(tmp_path / "report.html")["rows"]
    originals = [row for row in rows if "original" in row["marks"]]
    assert (8, 4) == (len(rows) - len(originals), len(originals))
    assert {84, 16} == {share for _, share in rows[0]["classes"]}
    assert all(isinstance(row["pictures"]["result"], int) for row in rows)
    assert {"this is the original"} == {row["pictures"]["original"] for row in originals}


def test_a_source_is_in_the_page_once(photos, tmp_path):
    folder = tmp_path / "set"
    augment_folder(photos, folder, PromptEdit(backend=RecordingBackend(16)), per_image=3)
    preview(folder, tmp_path / "report.html")
    data = data_of(tmp_path / "report.html")
    sources = {row["pictures"]["original"] for row in data["rows"]}
    assert (4, 12) == (len(sources), len(data["rows"]))
    results = {row["pictures"]["result"] for row in data["rows"]}
    assert len(sources | results) == len(data["pictures"])


def test_images_that_need_a_second_look_are_marked(photos, tmp_path):
    turns = itertools.count()
    noise = torch.Generator().manual_seed(0)

    def answer(request, usual):
        turn = next(turns)
        if turn == 0:
            return refused(request, usual)
        if turn == 1:
            return Generated(request.image, usual.seed, 1)
        if turn == 2:
            lost = torch.randint(0, 256, (3, 48, 64), generator=noise).to(torch.uint8)
            return Generated(lost, usual.seed, 1)
        return Generated(request.image.flip(-1), usual.seed, 2)

    backend = RecordingBackend(64, answer=answer)
    augment_folder(photos, tmp_path / "set", PromptEdit(["snowy"], backend=backend), format="png")
    with rewriting(tmp_path / "set") as rows:
        rows[3] |= {"clip_score": 0.1, "clip_kept": False, "kept": False}
    preview(tmp_path / "set", tmp_path / "report.html")
    data = data_of(tmp_path / "report.html")
    marks = [set(row["marks"]) for row in data["rows"]]
    assert [{"stand-in"}, {"near-copy"}, {"lost"}] == marks[:3]
    assert {"rejected", "retried"} <= marks[3]
    assert "rejected by clip" == data["rows"][3]["marks"]["rejected"]
    assert 0.1 == data["rows"][3]["scores"]["clip"]


def test_a_similarity_that_a_filter_recorded_is_not_measured_again(photos, tmp_path):
    folder = translated(photos, tmp_path / "set")
    filter_set(folder, SimilarityFilter(low=-1, high=1))
    with rewriting(folder) as rows:
        for row in rows:
            row["similarity_score"] = 0.0
    preview(folder, tmp_path / "report.html")
    assert {0.0} == {r["scores"]["similarity"] for r in data_of(tmp_path / "report.html")["rows"]}


def test_images_from_text_are_not_compared_with_a_photograph(photos, tmp_path):
    mix = DiffMix(["cat", "dog"], strategy="real-gen", backend=RecordingBackend(16))
    preview(photos, tmp_path / "report.html", mix)
    assert {0} == {len(row["scores"]) for row in data_of(tmp_path / "report.html")["rows"]}


def test_classes_are_counted_over_the_whole_set_and_without_classes_not_at_all(photos, tmp_path):
    folder = translated(photos, tmp_path / "set", include_originals=True)
    preview(folder, tmp_path / "report.html", count=3)
    counts = r'data-class="(\w+)".*?class="count">(\d+)<'
    shown = re.findall(counts, (tmp_path / "report.html").read_text(), re.S)
    assert 8 == sum(int(count) for _, count in shown) and ["cat", "dog"] == [n for n, _ in shown]
    with rewriting(folder) as rows:
        for row in rows:
            row |= {"label": None, "source_label": None}
    preview(folder, tmp_path / "report.html")
    assert "Images of each class" not in (tmp_path / "report.html").read_text()
    assert [] == data_of(tmp_path / "report.html")["rows"][0]["classes"]


def test_a_name_cannot_become_code(tmp_path):
    name = "</script><script>alert(1)</script>"
    row = ReportRow(name, [(name, 100)], {"original": "none"}, prompt=name)
    page = render(Report(name, name, [(name, name)], [row], Album(64)))
    assert name not in page and 2 == page.count("<script")
    assert "default-src 'none'" in page


def test_a_page_asks_for_no_other_file(photos, tmp_path):
    preview(photos, tmp_path / "report.html", FractalBlend(fractals=BANK))
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!#)|url\(|https?://|@import", page)


def test_pictures_are_smaller_the_more_there_are_and_never_enlarged():
    assert [512, 512, 256, 128] == [side_for(count) for count in (1, 100, 101, 5000)]
    album = Album(32)
    assert [0, 1, 0] == [album.add(torch.full((3, s, s), 9, dtype=torch.uint8)) for s in (8, 64, 8)]


def test_damaged_images_are_left_out_and_only_damaged_ones_are_an_error(photos, tmp_path):
    folder = translated(photos, tmp_path / "set")
    files = sorted(folder.rglob("*.jpg"))
    files[0].write_bytes(b"no image")
    [(name, _)] = preview(folder, tmp_path / "report.html")
    assert files[0].name in name and 7 == len(data_of(tmp_path / "report.html")["rows"])
    for file in files:
        file.write_bytes(b"no image")
    with pytest.raises(UnreadableImageError):
        preview(folder, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def strengths(answer=None):
    return {
        f"strength {strength}": DiffMix(
            ["cat", "dog"],
            strategy="real-mix",
            pairs="other",
            strength=strength,
            backend=RecordingBackend(16, answer=answer),
        )
        for strength in (0.3, 0.7)
    }


def test_a_grid_has_a_column_for_each_value_and_draws_the_same_for_all(photos, tmp_path):
    transforms = strengths()
    assert [] == sweep(photos, tmp_path / "grid.html", transforms, count=2)
    asked = [transform.backend.requests for transform in transforms.values()]
    assert [[0.3] * 2, [0.7] * 2] == [[r.strength for r in requests] for requests in asked]
    assert len({tuple((r.seed, r.prompt) for r in requests) for requests in asked}) == 1
    data = data_of(tmp_path / "grid.html")
    assert ["original", "strength 0.3", "strength 0.7"] == data["columns"]
    assert "label dog .84, cat .16" == data["rows"][0]["under"]["strength 0.7"]
    assert "label dog .55, cat .45" == data["rows"][0]["under"]["strength 0.3"]


def test_a_grid_shows_what_was_generated_only_where_that_differs(photos, tmp_path):
    def titles(**differing):
        names = sorted(differing)
        mixes = {
            f"{name} {value}": DiffuseMix(
                ["snowy"], backend=RecordingBackend(16), fractals=BANK, **{name: value}
            )
            for name in names
            for value in differing[name]
        }
        for mix in mixes.values():  # one model for all, as the registry gives it
            mix.backend = mix.edit.backend = mix.concat.backend = backend
        sweep(photos, tmp_path / "grid.html", mixes, count=1)
        return (tmp_path / "grid.html").read_text()

    backend = RecordingBackend(16)
    assert "the stage &#39;result&#39;" in titles(alpha=[0.1, 0.5])
    assert "the stage &#39;edit&#39;" in titles(seed=[1, 2])


def test_a_grid_can_be_a_picture_and_needs_a_transform(photos, tmp_path):
    sweep(photos, tmp_path / "grid.png", strengths(refused), count=1, tile=64)
    assert (tmp_path / "grid.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="'transforms' must hold at least one transform"):
        sweep(photos, tmp_path / "grid.png", {})


def test_the_sample_photographs_are_small_credited_and_of_three_classes():
    files = sorted(sample_photos().rglob("*.jpg"))
    assert 6 == len(files) and sum(file.stat().st_size for file in files) < 200_000
    credits = (sample_photos().parent / "CREDITS.md").read_text()
    assert all(f"`{file.relative_to(sample_photos()).as_posix()}`" in credits for file in files)
    terms = {line.split("|")[4].strip() for line in credits.splitlines() if line.startswith("| `")}
    assert {"CC0", "public domain"} == terms
