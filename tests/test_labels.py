"""Label files: what is read, and an error that names the line or class for what is not."""

import json
from pathlib import Path

import pytest

from bitvit.errors import ConfigError
from bitvit.labels import read_labels


def written(folder: Path, text: str | bytes, name: str = "labels.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("text", ["cat\ndog\n", "cat\ndog", "\ufeffcat\r\ndog\r\n\r\n", "  cat \ndog\t\n\n\n"])
def test_text_has_one_name_a_line(tmp_path: Path, text: str) -> None:
    assert read_labels(written(tmp_path, text)) == ["cat", "dog"]


def test_names_may_hold_anything_printable_and_repeat(tmp_path: Path) -> None:
    names = ["crane", "n01440764 tench, Tinca tinca", "crane", "köpek\u2028", "[x]"]
    assert read_labels(written(tmp_path, "\n".join(names))) == [name.strip() for name in names]


@pytest.mark.parametrize("content", [["a", "b", "c"], {"0": "a", "1": "b", "2": "c"}, {"2": "c", "0": " a", "1": "b"}])
def test_json_holds_a_list_or_an_object(tmp_path: Path, content: object) -> None:
    assert read_labels(written(tmp_path, json.dumps(content), "labels.JSON")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no labels, expected one name a line, or JSON"),
        ("\n \n", "holds no labels"),
        ("cat\n\ndog\n", "line 2: is empty, expected a name; classes are counted, so none may be left out"),
        ("0\tcat\n", r"line 1: '0\\tcat' holds control characters or halves of surrogate pairs, expected only a name"),
        (b"cat\n\xff\xfe", "byte 4 is not UTF-8 text; expected one name a line"),
    ],
)
def test_wrong_text(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=f"labels.txt: {message}"):
        read_labels(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog\n", "is not JSON .*; expected one name a line, or JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ('["\\ud800"]', r"class 0: '\\ud800' holds control characters or halves of surrogate pairs"),
        ('"cat"', "holds a JSON str, expected one name a line"),
        ("[]", "holds no labels"),
        ('["cat", 3]', "class 1: is 3, expected a name in quotes"),
        ('{"0": ["n01440764", "tench"]}', r"class 0: is \['n01440764', 'tench'\], expected a name in quotes"),
        ('["cat", ""]', "class 1: is empty, expected a name"),
        ('{"1": "cat", "2": "dog"}', r"2 entries, but no class '0' \(instead '2'\); expected the class numbers 0 to 1"),
        ('{"cat": 0}', r"1 entry, but no class '0' \(instead 'cat'\)"),
    ],
)
def test_wrong_json(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"labels.json: {message}"):
        read_labels(written(tmp_path, text, "labels.json"))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.txt: no such file; check the path"):
        read_labels(tmp_path / "nothing.txt")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, expected a file with one name a line"):
        read_labels(tmp_path)


def test_path_with_nul() -> None:
    with pytest.raises(ConfigError, match=r"'a\\x00b': is not a path"):
        read_labels("a\0b")
