"""Names of a data set's classes, matched with a model's."""

import unicodedata
from pathlib import Path

import pytest

from bitvit.errors import ConfigError
from bitvit.evaluation.classes import find_classes, match_classes, read_class_map

CLOTHES = ("T-shirt/top", "Trouser", "Ankle boot")


def numbers(*found: str | int, labels: tuple[str, ...] | None = CLOTHES, count: int = 3, **options: object) -> object:
    return match_classes(found, labels=labels, count=count, where="data", **options).numbers  # type: ignore[arg-type]


def test_names_are_matched_by_letters_and_digits() -> None:
    assert numbers("Trouser", "T-shirt_top", "ANKLE-BOOT") == {"Trouser": 1, "T-shirt_top": 0, "ANKLE-BOOT": 2}


def test_the_same_text_goes_before_similar_text() -> None:
    assert numbers("a b", "ab", labels=("ab", "a b", "c")) == {"a b": 1, "ab": 0}


def test_accents_may_be_encoded_either_way() -> None:
    apart = unicodedata.normalize("NFD", "Gänge")
    assert numbers(apart, labels=("x", "Gänge", "y")) == {apart: 1}


def test_numbers() -> None:
    assert numbers("0", "02") == {"0": 0, "02": 2}
    assert numbers(1, 2) == {1: 1, 2: 2}
    assert numbers("1", labels=None) == {"1": 1}


def test_names_that_are_digits_are_names_first() -> None:
    assert numbers("7", "0", labels=("7", "0", "1")) == {"7": 0, "0": 1}


def test_without_names_the_sorted_order_counts() -> None:
    matching = match_classes(["dog", "cat", "owl"], labels=None, count=3, where="data")
    assert matching.numbers == {"cat": 0, "dog": 1, "owl": 2}
    assert matching.names == ("cat", "dog", "owl")
    assert "sorted order" in matching.how
    with pytest.raises(ConfigError, match="data: has 2 classes, but the model has 3 and no names for them; say which"):
        numbers("cat", "dog", labels=None)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (("Trousers", "Trouser"), r"data: the model does not know 1 of its 2 classes: 'Trousers' \(perhaps 'Trouser'"),
        (("a", "b", "c", "d", "Trouser"), r"know 4 of its 5 classes: 'a', 'b', 'c' and 1 more; rename them"),
        (("0", "3"), r"the model does not know 1 of its 2 classes: '3'"),
        (("Trouser", "trouser"), r"'Trouser' and 'trouser' would both be class 1, 'Trouser'; rename one"),
        ((3,), "the model does not know 1 of its 1 class: '3'"),
        ((-1,), "'-1'"),
        (("0", "Trouser"), "'0'"),
    ],
)
def test_unknown_names(found: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        numbers(*found)


def test_unknown_names_may_be_left_out() -> None:
    matching = match_classes(["Trouser", "hat"], labels=CLOTHES, count=3, where="data", partial=True)
    assert (matching.numbers, matching.unknown) == ({"Trouser": 1}, ["hat"])


def test_a_name_of_two_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="data: 'crane' may be class 0 or class 2; use class numbers, or --classes"):
        numbers("crane", labels=("crane", "dog", "crane"))


def test_maps() -> None:
    assert numbers("b", "a", classes=["a", "b", "c"]) == {"a": 0, "b": 1}
    assert numbers("x", "y", "z", classes={"x": "Trouser", "y": 2, "z": "trouser"}) == {"x": 1, "y": 2, "z": 1}
    assert match_classes(["b"], labels=None, count=2, classes=["a", "b"], where="").names == ("a", "b")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "b"], "class map: 2 names, but the model has 3 classes; a list must name each"),
        (["a", "b", "a"], "class map: 'a' is listed twice"),
        ({"x": "Hat"}, "class map: 'Hat' is not a class of the model; expected a class name, or a number from 0 to 2"),
        ({"x": 3}, "class map: 3 is not a class"),
        ({"y": 1}, "data: the model does not know 1 of its 1 class: 'x'"),
    ],
)
def test_wrong_maps(classes: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        numbers("x", classes=classes)


def test_find_classes() -> None:
    assert find_classes(["trouser", "2", 0], CLOTHES, "subset") == [1, 2, 0]


# ---------------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("map.txt", "cat\ndog\n", ["cat", "dog"]),
        ("map.json", '["cat", "dog"]', ["cat", "dog"]),
        ("map.json", '{"n01": "cat", "n02": 1}', {"n01": "cat", "n02": 1}),
        ("map.csv", 'name,class\nn01,"tench, a fish"\nn02,1\n', {"n01": "tench, a fish", "n02": "1"}),
        ("map.csv", "n01,cat\nn01,cat\n", {"n01": "cat"}),
    ],
)
def test_read_class_map(name: str, text: str, expected: object, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_class_map(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("map.json", "{", "map.json: is not JSON"),
        ("map.json", '{"a": [1]}', r"map.json: 'a' is \[1\], expected a class name or number"),
        ("map.csv", "a,b,c\n", "map.csv: 'a,b,c' is not a pair of cells"),
        ("map.csv", "a,1\na,2\n", "map.csv: 'a' is '1' and '2'"),
        ("map.csv", "name,class\n", "map.csv: holds no classes"),
        ("map.txt", "", "map.txt: holds no labels"),
    ],
)
def test_wrong_files(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_class_map(tmp_path / name)


@pytest.mark.parametrize("name", ["no.csv", "no.json", "no.txt"])
def test_missing_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}: no such file; check the path"):
        read_class_map(tmp_path / name)
