"""The words of a class in a prompt: from its folder's name, or from a file."""

import pytest

from diffaug.labels.word_files import for_classes, read_words
from diffaug.labels.words import without_words, words_of


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["001.ak47", "002.american-flag"], ("ak47", "american-flag")),  # Caltech-256
        (
            ["001.Black_footed_Albatross", "200.Common_Yellowthroat"],  # CUB
            ("Black footed Albatross", "Common Yellowthroat"),
        ),
        (["104.American_Pipit", "7.Owl"], ("American Pipit", "Owl")),
        (["001.ak47"], ("ak47",)),
        (["n02085620-Chihuahua", "n02113624-toy_poodle"], ("Chihuahua", "toy poodle")),
        (["goldfish_n01443537", "n01440764 tench"], ("goldfish", "tench")),
        (
            ["00000_Animalia_Annelida", "00001_Animalia_Aves"],
            ("Animalia Annelida", "Animalia Aves"),
        ),
        (["0 - zero", "1 - one", "2 - two"], ("zero", "one", "two")),  # torchvision's MNIST
        (["1. Eczema", "10. Warts", "2. Melanoma"], ("Eczema", "Warts", "Melanoma")),
        (["(1) cat", "(2) dog"], ("cat", "dog")),
        (["0_normal", "1_abnormal"], ("normal", "abnormal")),
        (["1-cat", "2-dog", "background"], ("cat", "dog", "background")),
        (["01-cat", "02-dog"], ("cat", "dog")),
        (["001.犬", "002.猫"], ("犬", "猫")),
        (["001.AC%2FDC", "002.cat"], ("AC/DC", "cat")),
    ],
)
def test_what_numbers_the_classes_is_dropped(names, words):
    assert words == words_of(names)
    assert [] == without_words(names, words)


@pytest.mark.parametrize(
    "names",
    [
        ["7-up", "cola"],
        ["7-up"],
        ["747", "A380", "Concorde"],
        ["2 CV", "4 CV"],
        ["1 euro", "2 euro"],
        ["3 euro", "5 pounds"],
        ["model 3", "model S"],
        ["Audi A4 2012", "2012 Audi"],
        [
            "707-320",
            "727-200",
            "737-200",
            "737-300",
            "A300B4",
            "ATR-42",
            "BAE 146",
            "DC-3",
            "MD-11",
        ],
        ["5.56 rifle", "7.62 rifle"],
        ["3D printer", "4x4"],
        ["n1 rocket", "n01 road", "n012345678"],
        ["black-and-tan", "ukiyo-e", "T-shirt/top", "facade"],
        ["c0", "A380"],
    ],
)
def test_numbers_that_are_part_of_a_name_stay(names):
    assert tuple(names) == words_of(names)
    assert [] == without_words(names, words_of(names))


@pytest.mark.parametrize(
    ("names", "wordless"),
    [
        (["1", "10", "100"], ["1", "10", "100"]),  # Flowers
        (["cat", "1"], ["1"]),
        (["00000", "00042", "cat"], ["00000", "00042"]),
        (["n01443537", "n02085620-Chihuahua"], ["n01443537"]),  # Tiny ImageNet
        (["class1", "Class_2", "owl"], ["class1", "Class_2"]),
        (["c0", "c1"], ["c0", "c1"]),
        (["a1b2c3d4e5f6", "0f8fad5b-d9cb-469f-a165-70867728950e", "owl"],
         ["a1b2c3d4e5f6", "0f8fad5b-d9cb-469f-a165-70867728950e"]),
        (["001.1", "002.2"], ["001.1", "002.2"]),
        (["-", "owl"], ["-"]),
    ],
)  # fmt: skip
def test_names_that_are_no_words_are_found(names, wordless):
    assert wordless == without_words(names, words_of(names))


WORDS = {"001.ak47": "rifle, old", "a_b": "ant"}


@pytest.mark.parametrize(
    "data",
    [
        b'{"001.ak47": "rifle, old", "a_b": "ant"}',
        b'\xef\xbb\xbf{"001.ak47":\r\n"rifle, old", "a_b": "ant"}\r\n',
        b'001.ak47,"rifle, old"\na_b,ant',
        b'\xef\xbb\xbf# from the lab\r\n\r\n001.ak47, "rifle, old"\r\n"a_b",ant\r\n',
        b"001.ak47\trifle, old\na_b\tant\n",
        b"001.ak47\trifle, old\r  \r# more\ra_b\tant\r",
        "001.ak47\trifle, old\r\na_b\tant\r\n".encode("utf-16"),
    ],
)
def test_a_file_of_words_is_json_csv_or_lines_with_a_tab(tmp_path, data):
    (tmp_path / "words").write_bytes(data)
    assert WORDS == read_words(tmp_path / "words")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "'class_names' must give words for classes, and '.*' has no line."),
        (b"# nothing\n\n", "has no line"),
        (b'["cat"]', "must be a JSON object in '.*', .* got a list"),
        (b'{"cat": ', "must be valid JSON in"),
        (b'{"0": ["n01", "tench"]}', r"a string in '.*', got \['n01', 'tench'\] for '0'"),
        (b'{"cat": "a", "cat": "b"}', "each class once, and '.*' has 'cat' and 'cat'; remove"),
        (b"a_b,ant\ncat,b\nA b,bee\n", "each class once, and '.*' has 'a_b' and 'A b'; remove"),
        (b"cat,pet\ndog\n", "'folder,words' or 'folder<TAB>words' on each line, and line 2 of"),
        (b"cat,house, old\n", "line 1 of '.*' is 'cat,house, old'; put quotation marks around"),
        (b"cat\tpet\ndog,pet\n", "must have 'folder<TAB>words' on each line, and line 2"),
        (b",pet\n", "on each line, and line 1"),
        (b"caf\xe9,bar\n", "must be a text file in UTF-8, and '.*' is not; save it as UTF-8."),
    ],
)
def test_a_file_that_gives_no_words_is_named_with_its_line(tmp_path, data, message):
    (tmp_path / "words").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_words(tmp_path / "words")


def test_a_file_of_words_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="'class_names' must be a file that can be read, got '.*no"
    ):
        read_words(tmp_path / "no")


def test_words_are_found_however_a_class_is_spelt_and_others_are_left_out():
    words = {"folder": "words", "Caf\u00e9_x": "bar", "b": "bee"}
    assert {"b": "bee", "cafe\u0301 x": "bar"} == for_classes(words, ["b", "cafe\u0301 x"], "f.csv")


def test_classes_without_words_are_named_with_what_comes_close():
    with pytest.raises(ValueError, match=r"'f.csv' has none for 'Owls', 'c' \(it has 'owl'\); add"):
        for_classes({"owl": "bird", "b": "bee"}, ["b", "Owls", "c"], "f.csv")
