"""The rows and the folder of a generated set."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffaug.errors import DestinationError
from diffaug.offline import destination
from diffaug.offline.card import FILES
from diffaug.offline.destination import Destination, Journal, rewriting
from diffaug.offline.manifest import COLUMNS, read_manifest, read_run, write_manifest, write_run


def row(name, **values):
    return {"file_name": f"cat/{name}__0.jpg", "source": f"cat/{name}", **values}


def by_name(row):
    return row["file_name"]


def test_rows_come_back_in_order_with_every_column(tmp_path):
    rows = [row("b", prompt="«été»\u2028\n", alpha=0.25), row("a", variant=3)]
    write_manifest(tmp_path, rows)
    read = read_manifest(tmp_path)
    assert [list(one) for one in read] == [[*COLUMNS, "variant"]] * 2
    assert [{**one, "seed": None} for one in read] == read
    assert "«été»\u2028\n" == read[0]["prompt"]
    assert read[0]["variant"] is None


def test_large_seeds_survive_readers_that_know_doubles_only(tmp_path):
    write_manifest(tmp_path, [row("a", seed=2**53 - 1)])
    text = (tmp_path / "metadata.jsonl").read_text()
    assert 2**53 - 1 == int(json.loads(text, parse_int=float)["seed"])


def test_a_folder_without_a_manifest_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no metadata.jsonl; make one with"):
        read_manifest(tmp_path)


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a"}\n{"file": "b"}\n')
    with pytest.raises(ValueError, match="line 2, is not a row"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"other": 1}'])
def test_a_foreign_run_file_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DestinationError, match="choose another folder"):
        read_run(tmp_path)


def test_a_run_comes_back(tmp_path):
    assert read_run(tmp_path) is None
    write_run(tmp_path, {"identity": {"prompts": ["été"]}, "images": 3})
    assert {"identity": {"prompts": ["été"]}, "images": 3} == read_run(tmp_path)


def test_a_journal_cut_anywhere_keeps_its_whole_rows_and_takes_more(tmp_path):
    journal = Journal(tmp_path)
    assert [] == list(journal.rows())
    journal.start()
    rows = [row("a", prompt="é"), row("b")]
    for one in rows:
        journal.append(one)
    data = journal.path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in range(len(data) + 1):
        journal.path.write_bytes(data[:length])
        whole = [one for one, end in zip(rows, ends, strict=True) if end <= length]
        assert whole == list(journal.rows())
        journal.start()
        journal.append(row("c"))
        assert [*whole, row("c")] == list(journal.rows())


def test_an_append_to_a_journal_that_vanished_fails(tmp_path):
    journal = Journal(tmp_path)
    journal.start()
    journal.path.unlink()
    with pytest.raises(FileNotFoundError):
        journal.append(row("a"))


def test_a_finished_folder_holds_images_manifest_and_run_only(tmp_path):
    with Destination(tmp_path / "set", {"seed": 1}) as place:
        place.begin({})
        for name in "ba":
            place.add(row(name), b"image")
        place.finish({"per_image": 1}, by_name)
    files = {path.relative_to(tmp_path / "set").as_posix() for path in tmp_path.rglob("*.*")}
    assert {"cat/a__0.jpg", "cat/b__0.jpg", *FILES} == files
    assert ["cat/a__0.jpg", "cat/b__0.jpg"] == [
        one["file_name"] for one in read_manifest(tmp_path / "set")
    ]
    counted = {"images_per_class": {}, "classes_without_images": []}
    counted |= {"sources": 2, "differs": {}}
    expected = {"identity": {"seed": 1}, "per_image": 1, "images": 2, **counted}
    assert expected == read_run(tmp_path / "set")


def test_a_row_whose_image_is_missing_or_empty_is_not_taken_over(tmp_path):
    place = Destination(tmp_path, {})
    with place:
        place.begin({})
        for name in "abc":
            place.add(row(name), b"image")
    (tmp_path / "cat/a__0.jpg").unlink()
    (tmp_path / "cat/b__0.jpg").write_bytes(b"")
    assert [row("c")] == list(place.rows())


def test_a_row_in_manifest_and_journal_counts_once(tmp_path):
    with Destination(tmp_path, {}) as place:
        place.begin({})
        place.add(row("a"), b"image")
        write_manifest(tmp_path, place.rows())  # and killed before the journal went
    place = Destination(tmp_path, {})
    with place:
        assert 1 == place.finish({}, by_name)
    assert 1 == len(read_manifest(tmp_path))
    assert not place.journal.path.exists()


@pytest.mark.parametrize("part", [1, 3, 100])
def test_rows_are_sorted_in_parts_and_the_last_of_each_counts(tmp_path, monkeypatch, part):
    monkeypatch.setattr(destination, "PART", part)
    names = [f"{number * 7 % 10}" for number in range(10)]
    with Destination(tmp_path, {}) as place:
        place.begin({})
        for name in names:
            place.add(row(name, seed=1, **({"extra": 5} if name == "3" else {})), b"image")
        place.add(row("4", seed=2), b"image")
        assert 10 == place.finish({}, by_name)
    rows = read_manifest(tmp_path)
    assert sorted(row(name)["file_name"] for name in names) == [one["file_name"] for one in rows]
    assert [2 if number == 4 else 1 for number in range(10)] == [one["seed"] for one in rows]
    assert [5 if number == 3 else None for number in range(10)] == [one["extra"] for one in rows]
    assert {"cat", *FILES} == {path.name for path in tmp_path.iterdir()}


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / ".diffaug.0123456789abcdef.tmp").write_bytes(b"half an ima")
    with Destination(tmp_path, {}):
        pass
    assert [] == list(tmp_path.iterdir())


def test_an_error_before_the_first_image_leaves_no_trace(tmp_path):
    with pytest.raises(ZeroDivisionError), Destination(tmp_path / "new/er/set", {}):
        raise ZeroDivisionError
    assert [] == list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_leaves_no_trace(tmp_path, monkeypatch):
    make = os.mkdir

    def full(path, *rest, **more):
        if Path(path).name == "set" and Path(path).parent.exists():
            raise OSError(28, "No space left on device")
        make(path, *rest, **more)

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(DestinationError, match="could not be written to: No space left"):
        Destination(tmp_path / "new/er/set", {}).__enter__()
    assert [] == list(tmp_path.iterdir())


def test_leftovers_that_cannot_be_removed_leave_the_folder_unlocked(tmp_path, monkeypatch):
    (tmp_path / ".diffaug.0123456789abcdef.tmp").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    place = Destination(tmp_path, {})
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(DestinationError, match="could not be written to: Permission denied"):
        place.__enter__()
    monkeypatch.undo()
    with Destination(tmp_path, {}):
        pass
    assert [] == list(tmp_path.iterdir())


def test_one_run_at_a_time_and_then_the_next(tmp_path):
    with Destination(tmp_path, {}):
        with pytest.raises(DestinationError, match="another run; wait for it, or choose"):
            Destination(tmp_path, {}).__enter__()
        with pytest.raises(DestinationError, match="another run"):
            Destination(tmp_path, {}).__enter__()
    with Destination(tmp_path, {}):
        pass


def test_a_run_that_was_killed_unlocks_its_folder(tmp_path):
    code = (
        "import os, sys; from diffaug.offline.destination import Destination; "
        "Destination(sys.argv[1], {}).__enter__().begin({}); os.kill(os.getpid(), 9)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        timeout=300,
        env={**os.environ},
        check=False,
    )
    assert -9 == process.returncode
    assert (tmp_path / ".diffaug.lock").exists()
    with Destination(tmp_path, {}) as place:
        assert {"identity": {}} == place.recorded()


def test_rows_are_rewritten_in_place_whole_and_nothing_is_left_behind(tmp_path):
    write_manifest(tmp_path, [row("b", prompt="é"), row("a")])
    with rewriting(tmp_path) as rows:
        for number, one in enumerate(rows):
            one["kept"] = number == 0
    read = read_manifest(tmp_path)
    assert [("b", "é", True), ("a", None, False)] == [
        (one["source"][-1], one["prompt"], one["kept"]) for one in read
    ]
    assert FILES - {"run.json"} == {path.name for path in tmp_path.iterdir()}


def test_an_error_while_rewriting_leaves_the_manifest_as_it_was(tmp_path):
    write_manifest(tmp_path, [row("a")])
    before = (tmp_path / "metadata.jsonl").read_bytes()
    with pytest.raises(ZeroDivisionError), rewriting(tmp_path) as rows:
        rows[0]["kept"] = 1 / 0
    assert before == (tmp_path / "metadata.jsonl").read_bytes()
    assert ["metadata.jsonl"] == [path.name for path in tmp_path.iterdir()]


def test_a_set_is_not_rewritten_by_two_nor_while_a_run_adds_to_it(tmp_path):
    write_manifest(tmp_path, [row("a")])
    with (
        rewriting(tmp_path),
        pytest.raises(DestinationError, match="is being written to by another run"),
        rewriting(tmp_path),
    ):
        pass
    with Destination(tmp_path, {}) as place:
        place.begin({})
        with (
            pytest.raises(DestinationError, match="is being written to by another run"),
            rewriting(tmp_path),
        ):
            pass


@pytest.mark.parametrize("finished_before", [True, False])
def test_the_set_of_a_run_that_was_stopped_is_not_rewritten(tmp_path, finished_before):
    if finished_before:
        write_manifest(tmp_path, [row("a")])
    with Destination(tmp_path, {}) as place:
        place.begin({})
        place.add(row("b"), b"image")
    message = "holds the set of a run that was stopped; finish it first: run the same command again"
    with pytest.raises(DestinationError, match=message), rewriting(tmp_path):
        pass
    assert [row("b")] == list(place.journal.rows())


def test_a_folder_without_a_set_is_not_touched_by_rewriting(tmp_path):
    with pytest.raises(ValueError, match="has no metadata.jsonl"), rewriting(tmp_path / "none"):
        pass
    assert [] == list(tmp_path.iterdir())
