"""A sheet of a finished set: which images, beside which sources, and what is said of each."""

import itertools
import shutil

import pytest
import torch
from answers import refused
from image_folders import save_photos

from diffaug import (
    DiffMix,
    DiffuseMix,
    FractalBank,
    Generated,
    PromptEdit,
    RecordingBackend,
    augment_dataset,
    augment_folder,
    preview,
)
from diffaug.errors import UnreadableImageError
from diffaug.images import read_image
from diffaug.offline.destination import rewriting
from diffaug.offline.manifest import read_manifest, write_manifest
from diffaug.previews.captions import label_shares, mixed_label
from diffaug.previews.drawing import GUTTER
from diffaug.previews.finished_set import FinishedSet, lines_of, sheet_rows


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", ["cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png"])


def edited(photos, folder, answer=None, **options):
    edit = PromptEdit(["snowy"], backend=RecordingBackend(16, answer=answer))
    augment_folder(photos, folder, edit, **options)
    return folder


def translated(photos, folder):
    mix = DiffMix(["cat", "dog"], strategy="real-mix", pairs="other", backend=RecordingBackend(16))
    augment_folder(photos, folder, mix, per_image=2)
    return folder


def chosen(folder, count, seed=0):
    return [image.row["file_name"] for image in FinishedSet(folder).choose(count, seed)]


def test_a_set_is_shown_beside_its_sources_and_no_model_is_asked(photos, tmp_path):
    folder = edited(photos, tmp_path / "set")
    assert [] == preview(folder, tmp_path / "sheet.png", count=2, tile=64)
    assert 2 * (64 + GUTTER) + GUTTER < read_image(tmp_path / "sheet.png").shape[2]
    rows, _ = sheet_rows(folder, FinishedSet(folder).choose(2, 0))
    assert [["source", "generated"]] * 2 == [list(row.pictures) for row in rows]
    assert torch.equal(read_image(photos / "cat/1.png"), rows[0].pictures["source"])
    assert torch.equal(read_image(folder / "cat/1__0.jpg"), rows[0].pictures["generated"])


def test_images_are_spread_over_the_classes_and_over_each_class(photos, tmp_path):
    folder = edited(photos, tmp_path / "set", per_image=2)
    assert ["cat/1__0.jpg", "dog/1__0.jpg"] == chosen(folder, 2)
    assert ["cat/1__0.jpg", "cat/2__1.jpg", "dog/1__0.jpg", "dog/1__1.jpg"] == chosen(folder, 4)
    everything = [row["file_name"] for row in read_manifest(folder)]
    assert everything == chosen(folder, 8) == chosen(folder, 100)
    assert 1 == len(chosen(folder, 1))


def test_another_seed_shows_other_images(photos, tmp_path):
    folder = edited(photos, tmp_path / "set", per_image=5)
    sheets = {tuple(chosen(folder, 2, seed)) for seed in range(5)}
    assert len(sheets) > 1 and chosen(folder, 2, 3) == chosen(folder, 2, 3)


def test_a_translation_is_captioned_with_its_soft_label(photos, tmp_path):
    [row, *_] = read_manifest(translated(photos, tmp_path / "set"))
    source, target = row["source_label"], row["label"]
    assert [
        row["file_name"],
        f"label {target} .84, {source} .16",
        f"prompt a photo of a {target}",
        f"strength 0.7   ·   seed {row['seed']}",
    ] == lines_of(row)


def test_an_edit_is_captioned_with_its_class_and_what_was_drawn(photos, tmp_path):
    mix = DiffuseMix(["snowy"], backend=RecordingBackend(16), fractals=FractalBank(2, 16))
    augment_folder(photos, tmp_path / "set", mix)
    [row, *_] = read_manifest(tmp_path / "set")
    assert [
        "cat/1__0.jpg",
        "label cat",
        "prompt snowy",
        f"seed {row['seed']}",
        f"mask {row['mask']}   ·   {row['fractal']}   ·   alpha 0.2",
    ] == lines_of(row)


def test_what_went_wrong_is_marked(photos, tmp_path):
    turns = itertools.count()

    def again(request, usual):
        return Generated(usual.image, usual.seed, 2)

    def refuse_half(request, usual):
        return refused(request, usual) if next(turns) < 2 else usual

    for name, answer, mark in (
        ("retried", again, "made at attempt 2"),
        ("refused", refuse_half, "refused: the original stands in"),
    ):
        folder = edited(photos, tmp_path / name, answer)
        assert mark == lines_of(read_manifest(folder)[0])[-1]
    with rewriting(folder) as rows:
        rows[0] |= {"clip_kept": False, "own_kept": True, "kept": False}
        rows[1] |= {"clip_kept": True, "own_kept": True, "kept": True}
    first, second, *_ = read_manifest(folder)
    assert "rejected by clip" == lines_of(first)[-1]
    assert "refused: the original stands in" == lines_of(second)[-1]
    assert f"'{photos}' by PromptEdit" in FinishedSet(folder).title
    assert FinishedSet(folder).title.startswith(
        "refused: 4 images, 2 refused, 1 rejected; a generated set"
    )


def test_copies_of_originals_are_marked_and_do_not_crowd_out_the_others(photos, tmp_path):
    folder = edited(photos, tmp_path / "set", include_originals=True)
    names = chosen(folder, 3)
    assert ["cat/1__0.jpg", "dog/1__0.jpg", "cat/1__original.jpg"] == names
    row = next(row for row in read_manifest(folder) if row["method"] == "original")
    assert [row["file_name"], "label cat", "the original, copied"] == lines_of(row)


def test_a_source_that_is_not_there_leaves_an_empty_box_with_the_reason(photos, tmp_path):
    def source(folder):
        [row], _ = sheet_rows(folder, FinishedSet(folder).choose(1, 0))
        return row.pictures["source"]

    folder = edited(photos, tmp_path / "set")
    (photos / "cat/1.png").unlink()
    assert "the source is gone: cat/1.png" == source(folder)
    shutil.rmtree(photos)
    assert f"the source is not here: {photos}" == source(folder)
    preview(folder, tmp_path / "sheet.png", tile=64)
    data = [(torch.rand(3, 16, 16), 0)]
    augment_dataset(data, tmp_path / "other", PromptEdit(backend=RecordingBackend(16)))
    assert source(tmp_path / "other").startswith("the source is not here: ")
    (folder / "run.json").unlink()
    assert "the source is not recorded" == source(folder)


def test_a_source_outside_its_folder_is_not_read(photos, tmp_path):
    folder = edited(photos, tmp_path / "set")
    rows = [{**row, "source": "../secret.png"} for row in read_manifest(folder)]
    save_photos(tmp_path, ["secret.png"])
    write_manifest(folder, rows)
    [row], _ = sheet_rows(folder, FinishedSet(folder).choose(1, 0))
    assert "the source is outside its folder: ../secret.png" == row.pictures["source"]


def test_a_set_that_is_half_made_shows_what_is_there(photos, tmp_path):
    folder, calls = tmp_path / "set", []

    def stop(request, usual):
        calls.append(request)
        if len(calls) > 16:
            raise KeyboardInterrupt
        return usual

    with pytest.raises(KeyboardInterrupt):
        edited(photos, folder, stop, per_image=8)
    assert not (folder / "metadata.jsonl").exists()
    preview(folder, tmp_path / "sheet.png", tile=64)
    assert "a generated set that is not finished" in FinishedSet(folder).title


def test_parts_that_are_not_merged_are_shown(photos, tmp_path):
    folder = edited(photos, tmp_path / "set", shard="1/2")
    [image, *_] = FinishedSet(folder).choose(1, 0)
    assert (image.folder / image.row["file_name"]).is_file()
    preview(folder, tmp_path / "sheet.png", tile=64)


def test_a_damaged_image_is_left_out_and_named_and_only_damaged_ones_are_an_error(photos, tmp_path):
    folder = edited(photos, tmp_path / "set")
    (folder / "cat/1__0.jpg").write_bytes(b"no image")
    [(name, reason)] = preview(folder, tmp_path / "sheet.png", tile=64)
    assert "cat/1__0.jpg" == name and "not a readable image" in reason
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(UnreadableImageError):
        preview(folder, tmp_path / "none.png", tile=64)
    assert not (tmp_path / "none.png").exists()


def test_images_that_are_gone_are_counted(photos, tmp_path):
    folder = edited(photos, tmp_path / "set")
    (folder / "cat/1__0.jpg").unlink()
    assert FinishedSet(folder).title.startswith(
        "set: 3 images, 1 missing; a generated set made from"
    )
    assert "cat/1__0.jpg" not in chosen(folder, 4)


def test_a_set_without_images_says_what_to_do(tmp_path):
    write_manifest(tmp_path, [])
    (tmp_path / "run.json").write_text('{"identity": {}}')
    with pytest.raises(ValueError, match="has none yet; run the same command again"):
        preview(tmp_path, tmp_path / "sheet.png")


def test_a_transform_is_refused_with_a_set(photos, tmp_path):
    folder = edited(photos, tmp_path / "set")
    with pytest.raises(
        ValueError, match="'transform' must be None for a generated set.*PromptEdit"
    ):
        preview(folder, tmp_path / "sheet.png", PromptEdit(backend=RecordingBackend(16)))


@pytest.mark.parametrize(
    ("strength", "gamma", "words"),
    [
        (0.7, 0.5, "dog .84, cat .16"),
        (0.3, 1.0, "cat .70, dog .30"),
        (1.0, 0.5, "dog"),
        (0.0, 0.5, "cat"),
        (None, 0.5, "dog"),
        (0.999, 1.0, "dog"),
    ],
)
def test_a_soft_label_in_words_names_the_larger_weight_first(strength, gamma, words):
    assert words == mixed_label(label_shares("cat", "dog", strength, gamma))
    assert "cat" == mixed_label(label_shares("cat", "cat", strength, gamma))


def test_a_link_in_a_set_that_leads_out_of_it_is_not_followed(photos, tmp_path):
    folder = edited(photos, tmp_path / "set")
    private = tmp_path / "private.png"
    shutil.copy(photos / "dog/1.png", private)
    linked = folder / "cat/1__0.jpg"
    linked.unlink()
    linked.symlink_to(private)
    rows, skipped = sheet_rows(folder, FinishedSet(folder).choose(4, 0))
    assert 3 == len(rows)
    [(name, reason)] = skipped
    assert "cat/1__0.jpg" == name and "leads elsewhere" in reason
