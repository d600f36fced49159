"""What filtering writes into a set's manifest, and what it leaves alone."""

import shutil

import numpy as np
import pytest
import torch
from elsewhere import OnMps
from image_folders import contents, picture, save, save_photos

from diffaug import FractalBank, FractalBlend, PromptEdit, RecordingBackend, augment_folder
from diffaug.errors import DestinationError, UnreadableImageError
from diffaug.filtering.similarity import SimilarityFilter
from diffaug.filtering.verdicts import filter_set
from diffaug.images import read_image
from diffaug.offline.destination import Destination
from diffaug.offline.manifest import read_manifest, write_manifest


class Given:
    """Score each row by the number in its column."""

    def __init__(self, column, name=None, batch_size=2):
        self.column, self.name, self.batch_size = column, name or column, batch_size
        self.seen = []

    def score(self, images, rows):
        self.seen.append([tuple(image.shape) for image in images])
        return torch.tensor([row[self.column] for row in rows], dtype=torch.float64)


def make_set(folder, **columns):
    """Write a set whose n-th row has the n-th value of each column."""
    rows = []
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        name = f"cat/{number:03d}__0.png"
        save(folder / name, picture(number, 8 + number % 3, 10))
        row = {"file_name": name, "label": "cat", "method": "PromptEdit"}
        rows.append({**row, **dict(zip(columns, values, strict=True))})
    write_manifest(folder, rows)
    return folder


def column(folder, name):
    return [row[name] for row in read_manifest(folder)]


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", ["cat/1.png", "cat/2.png", "dog/1.png"])


def test_scores_may_lie_on_mps_which_has_no_float64(tmp_path):
    class OnAnApple(Given):
        def score(self, images, rows):
            return super().score(images, rows).as_subclass(OnMps)

    folder = make_set(tmp_path / "set", quality=[0.25, 0.5, 0.75])
    filter_set(folder, OnAnApple("quality"))
    assert [0.25, 0.5, 0.75] == column(folder, "quality_score")


@pytest.mark.parametrize("keep", [None, 0.9, 0.5, 0.33, 1])
@pytest.mark.parametrize("count", [1, 2, 10, 11, 23])
def test_what_lies_under_the_percentile_is_dropped(tmp_path, count, keep):
    generator = torch.Generator().manual_seed(count)
    scores = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    folder = make_set(tmp_path / "set", quality=scores)
    done = filter_set(folder, Given("quality"), keep=keep)
    # The percentile that interpolates between the neighbours of its rank among the sorted scores.
    rank = (1 - (keep or 0.9)) * (count - 1)
    below = sorted(scores)[int(rank)]
    above = sorted(scores)[min(int(rank) + 1, count - 1)]
    assert below + (rank - int(rank)) * (above - below) == pytest.approx(done.threshold)
    assert done.threshold == pytest.approx(np.percentile(scores, 100 * (1 - (keep or 0.9))))
    expected = [score >= done.threshold for score in scores]
    assert expected == column(folder, "quality_kept") == column(folder, "kept")
    assert scores == column(folder, "quality_score")
    assert (count, sum(expected), ()) == (done.scored, done.kept, done.unreadable)
    if keep == 1:
        assert count == done.kept


def test_the_paper_drops_one_of_eleven(tmp_path):
    folder = make_set(tmp_path / "set", quality=[float(n) for n in range(11)])
    done = filter_set(folder, Given("quality"))
    assert (1.0, 10) == (done.threshold, done.kept)
    assert [False] + [True] * 10 == column(folder, "kept")


def test_equal_scores_keep_everything(tmp_path):
    folder = make_set(tmp_path / "set", quality=[0.1] * 7)
    assert 7 == filter_set(folder, Given("quality"), keep=0.1).kept
    assert [True] * 7 == column(folder, "kept")


def test_the_same_scorer_again_changes_nothing_and_another_rule_replaces_its_verdict(tmp_path):
    folder = make_set(tmp_path / "set", quality=[3.0, 1.0, 2.0, 4.0])
    filter_set(folder, Given("quality"), keep=0.5)
    before = contents(folder)
    filter_set(folder, Given("quality"), keep=0.5)
    assert before == contents(folder)
    assert [True, False, False, True] == column(folder, "kept")
    filter_set(folder, Given("quality"), keep=1)
    assert [True] * 4 == column(folder, "kept")


def test_what_either_of_two_scorers_drops_is_dropped_whatever_their_order(tmp_path):
    values = {"sharp": [1.0, 2.0, 3.0, 4.0], "clear": [4.0, 1.0, 3.0, 2.0]}
    sets = []
    for order in (("sharp", "clear"), ("clear", "sharp")):
        folder = make_set(tmp_path / order[0], **values)
        for name in order:
            filter_set(folder, Given(name), keep=0.7)
        sets.append(read_manifest(folder))
    assert sets[0] == sets[1]
    assert [False, True, True, True] == column(folder, "sharp_kept")
    assert [True, False, True, True] == column(folder, "clear_kept")
    assert [False, False, True, True] == column(folder, "kept")


def test_nothing_but_manifest_and_card_change_and_of_the_rows_only_the_new_columns(tmp_path):
    folder = make_set(tmp_path / "set", quality=[1.0, 2.0], prompt=["«été»", None])
    files, rows = contents(folder), read_manifest(folder)
    filter_set(folder, Given("quality"))
    changed = {name for name, data in contents(folder).items() if data != files.get(name)}
    assert {"metadata.jsonl", "README.md", "croissant.json"} == changed
    added = {"quality_score", "quality_kept", "kept"}
    left = [{k: v for k, v in row.items() if k not in added} for row in read_manifest(folder)]
    assert rows == left


@pytest.mark.parametrize("score", [0.2, 0.5, 0.8])
def test_within_bounds_is_kept_and_the_ends_count(tmp_path, score):
    folder = make_set(tmp_path / "set", quality=[0.1, score, 0.9])
    scorer = Given("quality")
    scorer.bounds = (0.2, 0.8)
    done = filter_set(folder, scorer)
    assert [False, True, False] == column(folder, "kept")
    assert (3, 1, None) == (done.scored, done.kept, done.threshold)


def test_originals_are_neither_judged_nor_dropped(tmp_path):
    methods = ["original", "PromptEdit", "PromptEdit", "original", "PromptEdit"]
    folder = make_set(tmp_path / "set", method=methods, quality=[-9.0, 1.0, 2.0, 9.0, 3.0])
    scorer = Given("quality")
    done = filter_set(folder, scorer, keep=0.5)
    assert (3, 2, 2.0) == (done.scored, done.kept, done.threshold)
    assert (
        [None, False, True, None, True] == column(folder, "quality_kept") == column(folder, "kept")
    )
    assert [None, 1.0, 2.0, None, 3.0] == column(folder, "quality_score")
    assert 3 == sum(map(len, scorer.seen))


def test_a_fallback_is_judged_like_any_other_image(tmp_path):
    folder = make_set(tmp_path / "set", fallback=[True, False, False], quality=[1.0, 2.0, 3.0])
    filter_set(folder, Given("quality"), keep=0.5)
    assert [False, True, True] == column(folder, "kept")


def test_images_that_cannot_be_read_are_dropped_and_named_and_do_not_count(tmp_path):
    folder = make_set(tmp_path / "set", quality=[0.0, 0.0, 0.0, 1.0, 2.0, 3.0])
    (folder / "cat/000__0.png").unlink()
    (folder / "cat/001__0.png").write_bytes(b"")
    whole = (folder / "cat/002__0.png").read_bytes()
    (folder / "cat/002__0.png").write_bytes(whole[: len(whole) // 2])
    scorer = Given("quality")
    done = filter_set(folder, scorer, keep=0.5)
    assert (3, 2, 2.0) == (done.scored, done.kept, done.threshold)
    assert [f"cat/00{n}__0.png" for n in range(3)] == [
        skipped.source for skipped in done.unreadable
    ]
    assert all("is not a readable image" in skipped.reason for skipped in done.unreadable)
    assert [False] * 4 + [True] * 2 == column(folder, "quality_kept") == column(folder, "kept")
    assert [None] * 3 == column(folder, "quality_score")[:3]
    assert [1, 2] == [len(shapes) for shapes in scorer.seen]  # a batch of none is not asked for


def test_an_image_that_a_scorer_cannot_judge_is_dropped(tmp_path):
    folder = make_set(tmp_path / "set", quality=[1.0, float("nan"), float("inf"), 2.0])
    done = filter_set(folder, Given("quality"), keep=1)
    assert (2, [True, False, False, True]) == (done.scored, column(folder, "kept"))
    assert {"'quality' gave it no score"} == {skipped.reason for skipped in done.unreadable}
    assert "NaN" not in (folder / "metadata.jsonl").read_text().replace('"quality": NaN', "")


def test_a_scorer_gets_every_image_with_its_row_in_batches_of_its_size(tmp_path):
    folder = make_set(tmp_path / "set", quality=[float(n) for n in range(7)])
    seen = []

    class Looking(Given):
        def prepare(self, folder, rows):
            seen.append((folder, len(rows)))

        def score(self, images, rows):
            for image, row in zip(images, rows, strict=True):
                assert torch.equal(read_image(folder / row["file_name"]), image)
            return super().score(images, rows)

    scorer = Looking("quality", batch_size=3)
    filter_set(str(folder), scorer)
    assert [(folder, 7)] == seen
    assert [3, 3, 1] == [len(shapes) for shapes in scorer.seen]


def test_a_scorer_that_fails_halfway_leaves_the_set_as_it_was_and_free(tmp_path):
    folder = make_set(tmp_path / "set", quality=[float(n) for n in range(6)])
    filter_set(folder, Given("quality"))
    before = contents(folder)

    class Failing(Given):
        def score(self, images, rows):
            if len(self.seen) == 2:
                raise KeyboardInterrupt
            return -super().score(images, rows)

    with pytest.raises(KeyboardInterrupt):
        filter_set(folder, Failing("quality"))
    assert before == contents(folder)
    filter_set(folder, Given("quality"))


def test_a_set_is_locked_while_it_is_judged(photos, tmp_path):
    edit = PromptEdit(backend=RecordingBackend(16))
    augment_folder(photos, tmp_path / "set", edit)
    refused = []

    class Meddling(Given):
        def score(self, images, rows):
            for meddle in (
                lambda: augment_folder(photos, tmp_path / "set", edit, per_image=4),
                lambda: filter_set(tmp_path / "set", Given("seed")),
            ):
                with pytest.raises(DestinationError, match="is being written to by another run"):
                    meddle()
                refused.append(meddle)
            return super().score(images, rows)

    filter_set(tmp_path / "set", Meddling("seed", batch_size=100))
    assert 2 == len(refused)


def test_a_set_that_grows_keeps_its_verdicts_and_adds_rows_that_are_not_judged(photos, tmp_path):
    options = {"include_originals": True, "format": "png"}
    edit = PromptEdit(backend=RecordingBackend(16))
    folder = tmp_path / "set"
    augment_folder(photos, folder, edit, per_image=1, **options)
    filter_set(folder, Given("seed"), keep=0.5)
    before = {row["file_name"]: row for row in read_manifest(folder)}
    assert {True, False, None} == set(column(folder, "kept"))
    augment_folder(photos, folder, edit, per_image=2, **options)
    after = {row["file_name"]: row for row in read_manifest(folder)}
    assert before == {name: after[name] for name in before}
    new = [row for name, row in after.items() if name not in before]
    assert [(None, None, None)] * 3 == [
        (row["seed_score"], row["seed_kept"], row["kept"]) for row in new
    ]
    filter_set(folder, Given("seed"), keep=0.5)
    assert 6 == sum(verdict is not None for verdict in column(folder, "kept"))


def test_a_set_and_its_source_may_move_together(photos, tmp_path):
    edit = PromptEdit(backend=RecordingBackend(16))
    augment_folder(photos, tmp_path / "set", edit, include_originals=True, per_image=1)
    filter_set(tmp_path / "set", SimilarityFilter())
    expected = read_manifest(tmp_path / "set")
    moved = shutil.move(tmp_path / "set", tmp_path / "else" / "set")
    sources = shutil.move(photos, tmp_path / "else" / photos.name)
    filter_set(moved, SimilarityFilter())
    assert expected == read_manifest(moved)
    sources = shutil.move(sources, tmp_path / "pictures")
    with pytest.raises(ValueError, match=r"'source' must be the folder .* is no folder here"):
        filter_set(moved, SimilarityFilter())
    filter_set(moved, SimilarityFilter(sources))
    assert expected == read_manifest(moved)


def test_similarity_drops_edits_without_effect_and_those_that_lost_the_image(photos, tmp_path):
    blend = FractalBlend((0, 1), fractals=FractalBank(count=4, size=32))
    folder = tmp_path / "set"
    augment_folder(photos, folder, blend, per_image=20, include_originals=True, format="png")
    filter_set(folder, SimilarityFilter(low=0.3, high=0.9))
    rows = [row for row in read_manifest(folder) if row["method"] != "original"]
    weights = {
        kept: [row["alpha"] for row in rows if row["kept"] is kept] for kept in (True, False)
    }
    assert min(weights[False]) < min(weights[True]) < max(weights[True]) < max(weights[False])
    assert all((0.3 <= row["similarity_score"] <= 0.9) == row["kept"] for row in rows)
    assert 60 == len(rows)


def test_hugging_face_still_loads_it(photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    edit = PromptEdit(backend=RecordingBackend(16))
    augment_folder(photos, tmp_path / "set", edit, include_originals=True, per_image=1)
    filter_set(tmp_path / "set", Given("seed"), keep=0.5)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert sorted(map(str, column(tmp_path / "set", "kept"))) == sorted(map(str, loaded["kept"]))


def test_progress_goes_to_stderr_and_only_where_it_is_asked_for(tmp_path, capsys):
    folder = make_set(tmp_path / "set", quality=[1.0, 2.0])

    class Slow(Given):
        def score(self, images, rows):
            import time

            time.sleep(1.2)
            return super().score(images, rows)

    filter_set(folder, Given("quality"))
    assert ("", "") == tuple(capsys.readouterr())
    filter_set(folder, Slow("quality"), progress=True)
    shown = capsys.readouterr()
    assert "" == shown.out and "2/2" in shown.err


def test_the_global_random_state_is_left_alone(tmp_path):
    folder = make_set(tmp_path / "set", quality=[1.0, 2.0])
    before = torch.get_rng_state()
    filter_set(folder, Given("quality"))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (0, ValueError, r"'keep' must be in \(0, 1\], got 0\."),
        (1.5, ValueError, r"'keep' must be in \(0, 1\], got 1.5\."),
        (float("nan"), ValueError, r"'keep' must be in \(0, 1\], got nan\."),
        (True, TypeError, r"'keep' must be a number in \(0, 1\], got True\."),
        ("0.9", TypeError, r"'keep' must be a number in \(0, 1\], got '0.9'\."),
    ],
)
def test_keep_is_a_fraction_above_zero(tmp_path, keep, error, message):
    folder = make_set(tmp_path / "set", quality=[1.0])
    with pytest.raises(error, match=message):
        filter_set(folder, Given("quality"), keep=keep)


def test_a_fraction_for_a_scorer_that_goes_by_bounds_is_refused(tmp_path):
    message = "'keep' must be None for 'similarity', which keeps scores from 0.1 to 0.98, got"
    with pytest.raises(ValueError, match=message):
        filter_set(tmp_path, SimilarityFilter(), keep=0.9)


@pytest.mark.parametrize("scorer", ["clip", None, SimilarityFilter, Given("x", name="a b")])
def test_what_is_no_scorer_is_refused(tmp_path, scorer):
    message = "'scorer' must be a ClipFilter, or have a name like 'clip' and a score method, got"
    with pytest.raises(TypeError, match=message):
        filter_set(tmp_path, scorer)


@pytest.mark.parametrize("answer", [torch.zeros(2, 1), torch.zeros(3), torch.tensor(1.0)])
def test_a_scorer_gives_one_number_for_each_image(tmp_path, answer):
    folder = make_set(tmp_path / "set", quality=[1.0, 2.0])
    scorer = Given("quality")
    scorer.score = lambda images, rows: answer
    before = contents(folder)
    with pytest.raises(
        ValueError, match="'scorer' must return one number for each image, got shape"
    ):
        filter_set(folder, scorer)
    assert before == contents(folder)


def test_a_folder_without_anything_to_judge_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="'folder' must hold a generated set, and .* has no m"):
            filter_set(folder, Given("quality"))
    assert [] == list(tmp_path.iterdir())
    message = "'folder' must hold augmented images, and '.*' has none; make some with augment_fold"
    for rows in ([], [{"file_name": "cat/1__original.png", "method": "original"}]):
        write_manifest(tmp_path, rows)
        with pytest.raises(ValueError, match=message):
            filter_set(tmp_path, Given("quality"))


def test_a_set_without_one_readable_image_is_an_error_and_stays_as_it_was(tmp_path):
    folder = make_set(tmp_path / "set", quality=[1.0, 2.0])
    for path in folder.glob("cat/*"):
        path.write_bytes(b"")
    before = contents(folder)
    with pytest.raises(
        UnreadableImageError, match="none of the 2 images of .* could be judged: .*"
    ):
        filter_set(folder, Given("quality"))
    assert before == contents(folder)


def test_a_set_of_a_run_that_was_stopped_is_refused(tmp_path):
    folder = make_set(tmp_path / "set", quality=[1.0, 2.0])
    with Destination(folder, {}) as destination:
        destination.begin({})
    with pytest.raises(DestinationError, match="of a run that was stopped; finish it"):
        filter_set(folder, Given("quality"))
