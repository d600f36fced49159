"""Sets of the authors' released code are read with the right labels, and ours written for it."""

import csv
import shutil

import pytest
import torch
from image_folders import contents, save_photos
from torchvision.datasets import ImageFolder

from diffaug import (
    DiffMix,
    GeneratedDataset,
    MixedDataset,
    PromptEdit,
    RecordingBackend,
    SimilarityFilter,
    augment_dataset,
    augment_folder,
    export_set,
    filter_set,
    import_set,
    preview,
)
from diffaug.errors import DestinationError
from diffaug.images import read_image
from diffaug.offline.destination import rewriting
from diffaug.offline.layouts import COLUMNS
from diffaug.offline.manifest import read_manifest, read_run

#: Source, target, number, strength; as scripts/sample_mp.py of Diff-Mix names and lists them.
MADE = [
    ("Black footed Albatross", "Laysan Albatross", 0, 0.7),
    ("Black footed Albatross", "Black footed Albatross", 3, 0.5),
    ("Laysan Albatross", "Black footed Albatross", 1, 0.7),
    ("Sooty Albatross", "Laysan Albatross", 2, 0.9),
]


def folder_name(name):
    return name.replace(" ", "_")


def line_of(source, target, number, strength):
    path = f"{folder_name(source)}/{folder_name(target)}-{number:06d}-{strength}.png"
    return [source, target, number, strength, path]


def write_table(path, lines):
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture
def release(tmp_path):
    """What Diff-Mix's code writes; one class has a folder and no image."""
    folder = tmp_path / "diff-mix_-1_fixed_0.7"
    lines = [line_of(*made) for made in MADE]
    save_photos(folder / "data", [line[-1] for line in lines])
    (folder / "data" / "Wandering_Albatross").mkdir()
    write_table(folder / "meta.csv", lines)
    return folder


def add_line(release, line):
    with (release / "meta.csv").open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(line)


def test_a_set_of_diff_mix_has_its_soft_labels_and_the_folder_of_its_target(release, tmp_path):
    done = import_set(release, tmp_path / "set")
    classes = [*sorted({made[0] for made in MADE}), "Wandering Albatross"]
    assert (4, 4, tuple(classes), ()) == (done.images, done.kept, done.classes, done.skipped)
    data = GeneratedDataset(tmp_path / "set", gamma=1.0)
    assert classes == data.classes
    for (source, target, _, strength), (image, label), row in zip(
        MADE, data, data.rows, strict=True
    ):
        expected = torch.zeros(4)
        expected[classes.index(source)] += 1 - strength
        expected[classes.index(target)] += strength
        torch.testing.assert_close(expected, label)
        assert target == row["file_name"].split("/")[0] and image.size == (32, 24)
    assert classes == sorted(path.name for path in (tmp_path / "set").iterdir() if path.is_dir())


def test_the_pixels_are_those_of_the_release(release, tmp_path):
    import_set(release, tmp_path / "set")
    for row in read_manifest(tmp_path / "set"):
        original = read_image(release / "data" / row["released_path"])
        assert torch.equal(original, read_image(tmp_path / "set" / row["file_name"]))


def test_what_is_imported_can_be_previewed_filtered_and_mixed(release, tmp_path):
    import_set(release, tmp_path / "set")
    assert [] == preview(tmp_path / "set", tmp_path / "sheet.png", tile=64)

    class Darkness:
        name = "dark"

        def score(self, images, rows):
            return torch.arange(len(images))

    assert 2 == filter_set(tmp_path / "set", Darkness(), keep=0.5).kept
    with pytest.raises(ValueError, match="run.json names none"):
        filter_set(tmp_path / "set", SimilarityFilter())
    names = ["Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross"]
    save_photos(tmp_path / "photos", [f"{name}/1.png" for name in [*names, "Wandering_Albatross"]])
    import_set(release, tmp_path / "named", source=tmp_path / "photos")
    mixed = MixedDataset(ImageFolder(tmp_path / "photos"), tmp_path / "named", p=1 / 2, gamma=1)
    assert [*names, "Wandering_Albatross"] == mixed.generated.classes


def test_classes_may_be_given_in_any_order_and_spelling(release, tmp_path):
    names = ["sooty_albatross", "Wandering/Albatross", "Laysan Albatross", "Black_footed_Albatross"]
    done = import_set(release, tmp_path / "set", classes=names)
    assert tuple(names) == done.classes and 4 == done.images
    assert [2, 3, 3, 2] == GeneratedDataset(tmp_path / "set").targets


def test_rows_of_classes_that_are_not_given_are_skipped_and_named(release, tmp_path):
    done = import_set(
        release, tmp_path / "set", classes=["Laysan Albatross", "Black footed Albatross"]
    )
    assert 3 == done.images
    [(place, reason)] = done.skipped
    assert "Sooty_Albatross/Laysan_Albatross-000002-0.9.png" == place
    assert "'Sooty Albatross' is not among the 2 classes" == reason


@pytest.mark.parametrize("table", ["remained_meta.csv", "meta_10-100per.csv"])
def test_the_authors_filter_becomes_a_verdict_where_it_is_asked_for(release, tmp_path, table):
    write_table(release / table, [line_of(*made) for made in MADE[1:]])
    assert 4 == import_set(release, tmp_path / "all").kept
    done = import_set(release, tmp_path / "kept", filtered=True)
    assert (4, 3) == (done.images, done.kept)
    assert [False, True, True, True] == [row["kept"] for row in read_manifest(tmp_path / "kept")]
    assert 3 == len(GeneratedDataset(tmp_path / "kept"))


def test_a_verdict_of_the_authors_outlives_another_filter(release, tmp_path):
    write_table(release / "remained_meta.csv", [line_of(*made) for made in MADE[1:]])
    import_set(release, tmp_path / "set", filtered=True)

    class All:
        name = "all"
        bounds = (0.0, 1.0)

        def score(self, images, rows):
            return torch.ones(len(images))

    filter_set(tmp_path / "set", All())
    assert [False, True, True, True] == [row["kept"] for row in read_manifest(tmp_path / "set")]


def test_a_filtered_table_alone_is_the_table(release, tmp_path):
    (release / "meta.csv").rename(release / "remained_meta.csv")
    assert 4 == import_set(release, tmp_path / "set").images


def test_images_that_the_table_lacks_are_left_out_and_named(release, tmp_path):
    save_photos(release / "data", ["Sooty_Albatross/Laysan_Albatross-000009-0.7.png"])
    done = import_set(release, tmp_path / "set")
    [(place, reason)] = done.skipped
    assert 4 == done.images and "meta.csv does not list it" == reason
    assert "Sooty_Albatross/Laysan_Albatross-000009-0.7.png" == place


def test_rows_that_only_the_filtered_table_has_are_named(release, tmp_path):
    extra = line_of("Sooty Albatross", "Laysan Albatross", 9, 0.7)
    write_table(release / "remained_meta.csv", [line_of(*made) for made in MADE] + [extra])
    [(place, reason)] = import_set(release, tmp_path / "set", filtered=True).skipped
    assert extra[-1] == place and "remained_meta.csv has it, and meta.csv has not" == reason


def test_without_a_table_the_files_say_what_they_are(release, tmp_path):
    expected = import_set(release, tmp_path / "listed")
    (release / "meta.csv").unlink()
    save_photos(release / "data", ["Sooty_Albatross/holiday.png"])
    done = import_set(release, tmp_path / "set")
    assert (expected.images, expected.classes) == (done.images, done.classes)
    [(place, _)] = done.skipped
    assert "Sooty_Albatross/holiday.png" == place


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (["a", "b", 5, 0.7, "../../secret.png"], "must be that of an image in a class folder"),
        (["a", "b", 5, 0.7, "../secret.png"], "must be that of an image in a class folder"),
        (["a", "b", 5, 0.7, "/etc/secret.png"], "must be that of an image in a class folder"),
        (["a", "b", 5, 0.7, "C:\\data\\secret.png"], "must be that of an image in a class folder"),
        (["a", "b", 5, 0.7, "\\\\host\\secret.png"], "must be that of an image in a class folder"),
        (["a", "b", 5, 0.7, ""], "must be that of an image in a class folder"),
        (
            ["a", "b", 5, 0.7, "a/deep/b-000005-0.7.png"],
            "must be that of an image in a class folder",
        ),
        (["a", "b", 5, 0.7, "a/.b-000005-0.7.png"], "must be that of an image in a class folder"),
        (["a", "b", 5, 0.7, "a/b-000005-0.7.sh"], "must be that of an image in a class folder"),
        (["a", "b", 5, 1.7, "a/b-000005-1.7.png"], r"strength in [0, 1], got '5' and '1.7'"),
        (["a", "b", 5, -0.1, "a/b-000005--0.1.png"], "strength in [0, 1], got '5' and '-0.1'"),
        (["a", "b", 5, "nan", "a/b-000005-nan.png"], "strength in [0, 1], got '5' and 'nan'"),
        (["a", "b", 5, "", "a/b-000005-0.7.png"], "strength in [0, 1], got '5' and ''"),
        (["a", "b", 5.5, 0.7, "a/b-000005-0.7.png"], "number must be whole"),
        (["a", "b", "inf", 0.7, "a/b-000005-0.7.png"], "number must be whole"),
        (["a", "b", 5, 0.7, "a/c-000005-0.7.png"], "its name says otherwise than the table"),
        (["a", "b", 5, 0.5, "a/b-000005-0.7.png"], "its name says otherwise than the table"),
        (["a", "b", 6, 0.7, "a/b-000005-0.7.png"], "its name says otherwise than the table"),
        (["c", "b", 5, 0.7, "a/b-000005-0.7.png"], "its folder says otherwise than the table"),
        (["", "b", 5, 0.7, "a/b-000005-0.7.png"], "it lacks the name of a class"),
        (["a", "b", 5, 0.7, "a/b-000005-0.7.png"], "it is not there"),
        (["a", "b", 5, 0.7, "a/b-000005-0.7\0.png"], ""),
        (["a", "b", 5, 0.7, f"{'a' * 200}/{'b' * 200}-000005-0.7.png"], ""),
        (["a", "b"], "must be that of an image in a class folder"),
        (line_of(*MADE[0]), "its path is listed twice"),
    ],
)
def test_a_hostile_or_damaged_line_is_skipped_and_named(release, tmp_path, line, reason):
    save_photos(tmp_path, ["secret.png"])
    add_line(release, line)
    done = import_set(release, tmp_path / "set")
    assert 4 == done.images
    [(place, said)] = done.skipped
    assert reason in said
    assert "line 6" in place or line[-1] == place
    files = contents(tmp_path / "set")
    assert 4 == sum(name.endswith(".png") for name in files)


def test_a_damaged_image_is_skipped_and_named(release, tmp_path):
    (release / "data" / line_of(*MADE[0])[-1]).write_bytes(b"no image")
    done = import_set(release, tmp_path / "set")
    assert 3 == done.images and "not a readable image" in done.skipped[0].reason
    assert done.skipped[0].source == read_run(tmp_path / "set")["skipped"][0]["source"]


def test_a_set_without_one_usable_image_is_an_error_and_nothing_is_written(release, tmp_path):
    shutil.rmtree(release / "data")
    (release / "data").mkdir()
    with pytest.raises(ValueError, match=r"of 4 in '.*data' none can: .*: it is not there"):
        import_set(release, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Path,Strength\n", "must have the columns .*, and it lacks First Directory"),
        ("", "and it lacks First Directory"),
        ("\udcff", "could not be read"),
    ],
)
def test_a_table_that_is_none_is_an_error(release, tmp_path, text, message):
    (release / "meta.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        import_set(release, tmp_path / "set")


def test_other_folders_and_wrong_arguments_say_what_is_wanted(release, tmp_path):
    photos = save_photos(tmp_path / "photos", ["cat/1.png"])
    for folder, options, message in (
        (photos, {}, r"must be what the released code of Diff-Mix writes \(data/ and meta.csv\)"),
        (tmp_path / "none", {}, "'folder' must be an existing folder"),
        (release, {"classes": [""]}, "'classes' must hold non-empty strings"),
        (release, {"filtered": True}, "'filtered' must not be given where there is no remained"),
        (release, {"source": tmp_path / "none"}, "'source' must be an existing folder"),
        (release, {"classes": ["a b", "A_b"]}, "'classes' must differ in more than case"),
    ):
        with pytest.raises(ValueError, match=message):
            import_set(folder, tmp_path / "set", **options)
    with pytest.raises(DestinationError, match="lies inside the source"):
        import_set(release, release / "set")


def test_a_set_of_ours_is_no_release(release, tmp_path):
    import_set(release, tmp_path / "set")
    with pytest.raises(ValueError, match="is a set already"):
        import_set(tmp_path / "set", tmp_path / "other")


def test_a_manifest_from_elsewhere_cannot_lead_an_export_outside(release, tmp_path):
    import_set(release, tmp_path / "set")
    with rewriting(tmp_path / "set") as rows:
        rows[0]["released_path"] = "../../outside.png"
        rows[1]["released_path"] = "/outside.png"
    export_set(tmp_path / "set", tmp_path / "new" / "back")
    paths = [line[-1] for line in read_table(tmp_path / "new/back/meta.csv")]
    assert "Black_footed_Albatross/Laysan_Albatross-000000-0.7.png" == paths[0]
    assert not any("outside" in name for name in contents(tmp_path))


def test_an_import_is_resumed_and_another_one_is_refused(release, tmp_path):
    away = line_of(*MADE[3])[-1]
    (release / "data" / away).rename(tmp_path / "away.png")
    assert 3 == import_set(release, tmp_path / "set").images
    (tmp_path / "away.png").rename(release / "data" / away)
    done = import_set(release, tmp_path / "set")
    assert (4, ()) == (done.images, done.skipped)
    before = contents(tmp_path / "set")
    import_set(release, tmp_path / "set")
    assert before == contents(tmp_path / "set")
    with pytest.raises(DestinationError, match="holds a different run"):
        import_set(release, tmp_path / "set", classes=["a", *{made[0] for made in MADE}])


def test_what_is_exported_after_an_import_is_what_was_imported(release, tmp_path):
    write_table(release / "remained_meta.csv", [line_of(*made) for made in MADE[1:]])
    import_set(release, tmp_path / "set", filtered=True)
    export_set(tmp_path / "set", tmp_path / "back")
    for name in ("meta.csv", "remained_meta.csv"):
        assert read_table(release / name) == read_table(tmp_path / "back" / name)
    assert contents(release / "data") == contents(tmp_path / "back" / "data")
    assert (tmp_path / "back" / "data" / "Wandering_Albatross").is_dir()


def test_a_round_trip_keeps_the_spelling_of_a_table(tmp_path):
    lines = [["golden_retriever", "tom-cat", 7, 1, "golden_retriever/tom-cat-000007-1.png"]]
    save_photos(tmp_path / "release/data", [lines[0][-1]])
    write_table(tmp_path / "release/meta.csv", lines)
    import_set(
        tmp_path / "release", tmp_path / "set", classes=["Tom Cat", "tom-cat", "golden retriever"]
    )
    export_set(tmp_path / "set", tmp_path / "back")
    [[*words, number, strength, path]] = read_table(tmp_path / "back/meta.csv")
    assert [lines[0][:2], 7, 1.0] == [words, int(number), float(strength)]
    assert lines[0][-1] == path


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", ["AC_DC/1.png", "golden retriever/1.png"])


def test_a_set_of_ours_is_written_as_their_code_names_it(photos, tmp_path):
    mix = DiffMix(
        ["AC_DC", "golden retriever"],
        strategy="real-mix",
        pairs="other",
        strength=(0.5, 0.7),
        backend=RecordingBackend(16),
    )
    augment_folder(photos, tmp_path / "set", mix, per_image=2, include_originals=True, format="png")
    rows = [row for row in read_manifest(tmp_path / "set") if row["method"] != "original"]
    done = export_set(tmp_path / "set", tmp_path / "back")
    assert (4, 4, ("AC_DC", "golden retriever")) == (done.images, done.kept, done.classes)
    spelled = {"AC_DC": "AC DC", "golden retriever": "golden retriever"}
    for number, (row, line) in enumerate(
        zip(rows, read_table(tmp_path / "back/meta.csv"), strict=True)
    ):
        expected = line_of(
            spelled[row["source_label"]], spelled[row["label"]], number, row["strength"]
        )
        assert [str(value) for value in expected] == line
        exported = tmp_path / "back/data" / line[-1]
        assert (tmp_path / "set" / row["file_name"]).read_bytes() == exported.read_bytes()
    assert not (tmp_path / "back/remained_meta.csv").exists()
    again = import_set(tmp_path / "back", tmp_path / "again", source=photos)
    assert ("AC_DC", "golden retriever") == again.classes
    first, second = (GeneratedDataset(tmp_path / name) for name in ("set", "again"))
    for number in range(4):
        assert torch.equal(first[number][1], second[number][1])


def test_an_edited_set_keeps_its_classes_in_their_format(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", PromptEdit(["snowy"], backend=RecordingBackend(16)))
    with rewriting(tmp_path / "set") as rows:
        rows[0]["kept"] = False
        rows[1]["kept"] = True
    done = export_set(tmp_path / "set", tmp_path / "back")
    assert (2, 1) == (done.images, done.kept)
    [first, second] = read_table(tmp_path / "back/meta.csv")
    assert ["AC DC", "AC DC", "0", "1.0", "AC_DC/AC_DC-000000-1.0.jpg"] == first
    assert [second] == read_table(tmp_path / "back/remained_meta.csv")


def test_an_export_is_resumed_and_a_folder_of_something_else_refused(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", PromptEdit(["snowy"], backend=RecordingBackend(16)))
    export_set(tmp_path / "set", tmp_path / "back")
    before = contents(tmp_path / "back")
    export_set(tmp_path / "set", tmp_path / "back")
    assert before == contents(tmp_path / "back")
    with pytest.raises(DestinationError, match="must be empty or of this run"):
        export_set(tmp_path / "set", photos)
    with pytest.raises(DestinationError, match="lies inside the source"):
        export_set(tmp_path / "set", tmp_path / "set" / "back")


def test_classes_that_their_format_would_merge_are_refused(tmp_path):
    photos = save_photos(tmp_path / "photos", ["a b/1.png", "a_b/1.png"])
    augment_folder(photos, tmp_path / "set", PromptEdit(["snowy"], backend=RecordingBackend(16)))
    with pytest.raises(ValueError, match="writes alike, got 'a b' and 'a_b'"):
        export_set(tmp_path / "set", tmp_path / "back")


def test_classes_that_no_folder_can_be_named_after_come_back_from_their_format(tmp_path):
    names = ["owl", "which?"]
    mix = DiffMix(names, pairs="other", backend=RecordingBackend())
    data = [(torch.rand(3, 32, 32), 0), (torch.rand(3, 32, 32), 1)]
    augment_dataset(data, tmp_path / "set", mix, class_names=names, per_image=1)
    exported = export_set(tmp_path / "set", tmp_path / "back")
    again = import_set(tmp_path / "back", tmp_path / "again")
    assert (2, 2) == (exported.images, again.images)
    assert (("owl", "which?"), ()) == (again.classes, again.skipped)


def test_an_image_that_is_gone_is_left_out_of_the_export_and_named(photos, tmp_path):
    augment_folder(photos, tmp_path / "set", PromptEdit(["snowy"], backend=RecordingBackend(16)))
    (tmp_path / "set/AC_DC/1__0.jpg").unlink()
    done = export_set(tmp_path / "set", tmp_path / "back")
    assert 1 == done.images and "AC_DC/1__0.jpg" == done.skipped[0].source
    assert 1 == len(read_table(tmp_path / "back/meta.csv"))


@pytest.fixture
def result(tmp_path):
    """What DiffuseMix's code writes."""
    stages = ("generated", "fractal", "concatenated", "blended")
    names = ["cat/tom.jpg", "cat/a_blended_b.png", "dog/rex.jpeg"]
    save_photos(
        tmp_path / "result",
        [f"{stage}/{name}_{stage}_{prompt}_0.jpg" for stage in stages for name in names
         for prompt in ("sunset", " Autumn")],
    )  # fmt: skip
    for name in names:
        path = tmp_path / "result/original_resized" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "result/blended/cat/tom.jpg_blended_sunset_0.jpg", path)
    return tmp_path / "result"


@pytest.mark.parametrize("stage", ["", "blended"])
def test_a_result_of_diffusemix_has_its_classes_prompts_and_sources(result, tmp_path, stage):
    done = import_set(result / stage, tmp_path / "set")
    assert (6, ("cat", "dog"), ()) == (done.images, done.classes, done.skipped)
    rows = read_manifest(tmp_path / "set")
    assert {
        ("cat/tom.jpg", "cat", "sunset"),
        ("cat/tom.jpg", "cat", "Autumn"),
        ("cat/a_blended_b.png", "cat", "sunset"),
        ("cat/a_blended_b.png", "cat", "Autumn"),
        ("dog/rex.jpeg", "dog", "sunset"),
        ("dog/rex.jpeg", "dog", "Autumn"),
    } == {(row["source"], row["label"], row["prompt"]) for row in rows}
    assert {"DiffuseMix"} == {row["method"] for row in rows}
    assert [] == preview(tmp_path / "set", tmp_path / "sheet.png", tile=64)
    assert [0, 0, 0, 0, 1, 1] == ImageFolder(tmp_path / "set").targets
    data = MixedDataset(
        ImageFolder(result / "original_resized"), tmp_path / "set", p=0.5, replacement="local"
    )
    assert 3 == len(data)


def test_a_result_of_diffusemix_can_be_given_to_the_code_of_diff_mix(result, tmp_path):
    import_set(result, tmp_path / "set")
    assert 6 == export_set(tmp_path / "set", tmp_path / "back").images
    lines = read_table(tmp_path / "back/meta.csv")
    assert 6 == len({line[-1] for line in lines})
    assert all(line[0] == line[1] for line in lines)


def test_files_of_other_names_among_a_result_are_skipped_and_named(result, tmp_path):
    save_photos(result / "blended", ["cat/holiday.jpg"])
    done = import_set(result, tmp_path / "set")
    assert ["blended/cat/holiday.jpg"] == [entry.source for entry in done.skipped]
    with pytest.raises(ValueError, match="'filtered' must not be given for a set of DiffuseMix"):
        import_set(result, tmp_path / "other", filtered=True)
