"""Names of a data set's classes, matched with a model's."""

import unicodedata
from pathlib import Path
from random import Random

import pytest

from bitvit.errors import ConfigError
from bitvit.evaluation.classes import find_classes, match_classes, read_class_map

CLOTHES = ("T-shirt/top", "Trouser", "Ankle boot")


def numbers(*found: str | int, labels: tuple[str, ...] | None = CLOTHES, count: int = 3, **options: object) -> object:
    return match_classes(found, labels=labels, count=count, where="data", **options).numbers  # type: ignore[arg-type]


def test_names_are_matched_by_their_words_and_the_note_says_so() -> None:
    matching = match_classes(["Trouser", "T-shirt_top", "ANKLE-BOOT"], labels=CLOTHES, count=3, where="data")
    assert matching.numbers == {"Trouser": 1, "T-shirt_top": 0, "ANKLE-BOOT": 2}
    assert matching.how == (
        "the model's class names; not to the letter: 'ANKLE-BOOT' is 'Ankle boot', 'T-shirt_top' is 'T-shirt/top'"
    )


def test_the_same_text_goes_before_similar_text() -> None:
    assert numbers("a b", "ab", labels=("ab", "a b", "c")) == {"a b": 1, "ab": 0}


def test_accents_may_be_encoded_either_way() -> None:
    apart = unicodedata.normalize("NFD", "Gänge")
    assert numbers(apart, labels=("x", "Gänge", "y")) == {apart: 1}


def test_numbers() -> None:
    assert numbers("0", "02") == {"0": 0, "02": 2}
    assert numbers(1, 2) == {1: 1, 2: 2}
    assert numbers("1", labels=None) == {"1": 1}
    assert numbers("1.0", "+0", "2e0") == {"1.0": 1, "+0": 0, "2e0": 2}
    assert match_classes(["0", "02"], labels=None, count=3, where="").how == "class numbers: '02' is class 2"


def test_a_number_may_be_written_in_two_ways_in_a_table() -> None:
    assert numbers("1", "1.0", 1) == {"1": 1, "1.0": 1, 1: 1}
    with pytest.raises(ConfigError, match="'01' and '1' would both be class 1, 'Trouser'; rename one"):
        numbers("1", "01", folders=True)


@pytest.mark.parametrize("labels", [None, ("0", "1", "2"), CLOTHES])
@pytest.mark.parametrize(
    "name", ["-1", "0.5", "-0.5", "1e-1", "nan", "1.0.0", "1-", "1 2", "3.0", "1e999", "\N{MINUS SIGN}1"]
)
def test_what_is_no_class_number(name: str, labels: tuple[str, ...] | None) -> None:
    with pytest.raises(ConfigError, match=r"data: the model does not know 1 of its 2 classes: "):
        numbers(name, "1", labels=labels)


def test_images_without_a_label_are_left_out_as_a_subset() -> None:
    with pytest.raises(ConfigError, match="if a negative number stands for no label, leave such images out with --sub"):
        numbers("-1", "0", labels=None)
    matching = match_classes(["-1", "0", "1"], labels=None, count=3, where="data", partial=True)
    assert (matching.numbers, matching.unknown) == ({"0": 0, "1": 1}, ["-1"])


@pytest.mark.parametrize(
    ("name", "label"),
    [("C++", "C"), ("C", "C#"), ("-1", "1"), ("10", "1.0"), ("Rh-", "Rh"), ("ไก", "ไก่"), ("a&b", "ab")],
)
def test_names_that_differ_by_a_sign_are_not_the_same(name: str, label: str) -> None:
    with pytest.raises(ConfigError, match="the model does not know 1 of its 1 class"):
        numbers(name, labels=(label, "other", "third"))


# -------------------------------------------------------------------------------------------- folders and their order
TWELVE = [str(number) for number in range(12)]
IMAGEFOLDER = sorted(TWELVE)


def test_folders_whose_numbers_sort_otherwise_as_text_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        numbers(*TWELVE, labels=None, count=12, folders=True)
    assert str(caught.value) == (
        "data: '10' is class 2 if the model was trained with torchvision's ImageFolder, which sorts names as text, but "
        "class 10 if classes were numbered by value, and the model does not tell; say it with --classes FILE "
        "(classes=), all names in the order of the classes, one a line: 0, 1, 10, 11, 2, 3, 4, 5, 6, 7, … for "
        "ImageFolder, or 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … by value"
    )
    for order in (IMAGEFOLDER, TWELVE):
        found = numbers(*TWELVE, labels=None, count=12, folders=True, classes=order)
        assert found == {name: number for number, name in enumerate(order)}


@pytest.mark.parametrize(
    ("folders", "count", "name"),
    [
        (TWELVE[10:], 12, "10"),  # the others are missing here, but were there in training
        (["3"], 12, "3"),
        ([*TWELVE[1:], "12"], 12, "10"),  # numbered from 1
        (["2", "10", "30"], 3, "10"),  # with gaps
        (["-2", "-1", "0"], 3, "-1"),
        (["2", "10", "background"], 3, "10"),
        ([f"class_{number}" for number in range(12)], 12, "class_10"),
        ([f"{number}th" for number in range(5, 15)], 10, "10th"),
        (["1.5", "10", "2"], 3, "10"),
        (["1_cat", "2_dog", "10_bird"], 3, "10_bird"),
        (["1. cat", "2. dog", "10. bird"], 3, "10. bird"),
        (["1", "2_dog", "10_bird"], 3, "10_bird"),
        (["c1a", "c2b", "c10c"], 3, "c10c"),
        (["a 1 b 10", "a 1 b 9"], 2, "a 1 b 10"),
        (["cat_0", "dog_1", "bird_2"], 3, "bird_2"),  # numbered, though not alike
        (["cat1", "bird2"], 2, "bird2"),
        (["background", *(f"class{number}" for number in range(1, 11)), "other"], 12, "class10"),
        (["\uff12", "\uff11\uff10"], 2, "\uff11\uff10"),  # full-width digits
        (["クラス\uff12", "クラス\uff11\uff10"], 2, "クラス\uff11\uff10"),
        (["c\u0662", "c\u0661\u0660"], 2, "c\u0661\u0660"),  # Arabic ones
    ],
)
@pytest.mark.parametrize("labels", [None, "names"])
def test_other_folders_whose_order_is_not_known(folders: list[str], count: int, name: str, labels: str | None) -> None:
    given = None if labels is None else tuple(f"kind of {'x' * number}" for number in range(count))
    expected = f"data: '{name}' is class [0-9]+ if the model was trained with torchvision's ImageFolder"
    with pytest.raises(ConfigError, match=expected if given is None else f"{expected}|the model does not know"):
        numbers(*folders, labels=given, count=count, folders=True)


@pytest.mark.parametrize(
    ("folders", "count"),
    [
        ([f"{number:02}" for number in range(12)], 12),
        ([f"{number:02}" for number in range(1, 13)], 12),
        (TWELVE[:10], 10),
        (TWELVE[1:10], 9),
        (["0", "2", "5"], 3),
        (["-1", "0", "1"], 3),
        (["0", "1", "background"], 3),
        ([f"class_{number:02}" for number in range(12)], 12),
        (["1_cat", "2_dog", "3_bird"], 3),
        (["01_cat", "02_dog", "10_bird"], 3),
        (["bird_0", "cat_1", "dog_2"], 3),
        (["c\uff11", "c\uff12"], 2),
        (["covid-19", "h1n1", "none"], 3),
        (["707-320", "727-200", "DC-10", "DC-3"], 4),
        (["A320", "DC-10", "DC-3"], 3),  # names, though with numbers in them: as ImageFolder sorts them
    ],
)
def test_folders_whose_orders_agree(folders: list[str], count: int) -> None:
    found = numbers(*folders, labels=None, count=count, folders=True)
    assert found == {name: number for number, name in enumerate(sorted(folders))}


def test_some_of_the_folders_whose_orders_agree() -> None:
    assert numbers("0", "1", labels=None, count=12, folders=True) == {"0": 0, "1": 1}
    assert numbers("0", "3", "8", labels=None, count=10, folders=True) == {"0": 0, "3": 3, "8": 8}
    assert numbers("00", "07", "10", labels=None, count=12, folders=True) == {"00": 0, "07": 7, "10": 10}


@pytest.mark.parametrize("labels", [None, CLOTHES])
def test_folders_that_may_be_numbered_from_1_are_refused(labels: tuple[str, ...] | None) -> None:
    with pytest.raises(ConfigError) as caught:
        numbers("1", "2", labels=labels, folders=True)
    assert str(caught.value) == (
        "data: there is no folder 0, so '1' is class 1 if folders were numbered from 0 in training, but class 0 if "
        "from 1, and the model does not tell; say it with --classes FILE (classes=), all names in the order of the "
        "classes, one a line: 0, 1, 2 from 0, or 1, 2, 3 from 1"
    )
    assert numbers("1", "2", labels=labels) == {"1": 1, "2": 2}  # a table's numbers are class numbers
    assert numbers("1", "2", labels=labels, folders=True, classes=["1", "2", "3"]) == {"1": 0, "2": 1}


@pytest.mark.parametrize(
    ("folders", "count", "orders"),
    [
        (
            [f"{number:02}" for number in range(1, 12)],
            12,
            "00, 01, 02, 03, 04, … from 0, or 01, 02, 03, 04, 05, … from 1",
        ),
        (["07", "10"], 12, "00, 01, 02, 03, 04, … from 0, or 01, 02, 03, 04, 05, … from 1"),
        (
            TWELVE[1:10],
            10,
            "0, 1, 2, 3, 4, … from 0, or 1, 2, 3, 4, 5, … from 1, or 1, 10, 2, 3, 4, … from 1 as ImageFolder sorts "
            "them",
        ),
    ],
)
def test_folders_without_the_first_or_the_last(folders: list[str], count: int, orders: str) -> None:
    with pytest.raises(ConfigError) as caught:
        numbers(*folders, labels=None, count=count, folders=True)
    assert "there is no folder 0" in str(caught.value)
    assert str(caught.value).endswith(f"one a line: {orders}")


def test_numbers_in_a_table_are_class_numbers() -> None:
    assert numbers(*TWELVE, labels=None, count=12) == {name: int(name) for name in TWELVE}
    for beyond in (["1", "2", "3"], ["3", "4", "5"], [3, 4, 5]):
        with pytest.raises(ConfigError, match=r"the model does not know [13] of its 3 classes: '3'"):
            numbers(*beyond, labels=None, count=3)


def test_names_of_the_model_that_are_numbers_settle_what_folders_are() -> None:
    found = numbers(*TWELVE, labels=tuple(IMAGEFOLDER), count=12, folders=True)
    assert found == {name: number for number, name in enumerate(IMAGEFOLDER)}
    assert numbers("7", "0", labels=("7", "0", "1"), folders=True) == {"7": 0, "0": 1}
    assert numbers("01", "2", labels=("1", "2", "3"), folders=True) == {"01": 0, "2": 1}


def test_a_number_that_is_a_name_and_another_classs_number_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        numbers("2", "1", labels=("1", "2", "3"))
    assert str(caught.value) == (
        "data: '1' may be the class of that name, which is class 0, or class 1, which is '2'; say it with --classes "
        "FILE (classes=), all names in the order of the classes, one a line: 1, 2, 3 for names, or 0, 1, 2 for numbers"
    )
    with pytest.raises(ConfigError, match="'1' may be the class of that name"):
        numbers("0", "1", labels=("1", "2", "3"), folders=True)
    assert numbers(1, 2, labels=("1", "2", "3")) == {1: 1, 2: 2}
    assert numbers("1", "3", labels=("1", "2", "3")) == {"1": 0, "3": 2}  # there is no class number 3


def test_without_names_the_sorted_order_counts() -> None:
    matching = match_classes(["dog", "cat", "owl"], labels=None, count=3, where="data")
    assert matching.numbers == {"cat": 0, "dog": 1, "owl": 2}
    assert matching.names == ("cat", "dog", "owl")
    assert "sorted order" in matching.how
    with pytest.raises(ConfigError, match="data: has 2 classes, but the model has 3 and no names for them; say which"):
        numbers("cat", "dog", labels=None)


def test_numbers_in_names_may_be_of_any_length() -> None:
    long = f"a{10**4000}", f"a2{'0' * 5000}"
    assert numbers(*long, "a1", labels=None) == {"a1": 0, long[0]: 1, long[1]: 2}


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


def test_names_of_any_length_are_compared_as_far_as_messages_show_them() -> None:
    """difflib alone would take minutes."""
    rng = Random(0)
    long = "".join(chr(0x4E00 + rng.randrange(300)) for _ in range(50_000))
    with pytest.raises(ConfigError, match=rf"'{long[:20]}.*perhaps '{long[:20]}") as refused:
        numbers(long, labels=(f"{long}x", f"{long[::2]}{long[1::2]}", "x"))
    assert len(str(refused.value)) < 1000


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
    apart = unicodedata.normalize("NFD", "Gänge")
    assert numbers(apart, classes=["x", "Gänge", "y"]) == {apart: 1}


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
