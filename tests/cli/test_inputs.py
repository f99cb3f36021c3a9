"""Patterns and lists of names as arguments of bitvit classify."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvit.cli.inputs import LONGEST_NAME, NameList, is_pattern, matches
from bitvit.errors import ImageError
from tests.support.command import run
from tests.support.paths import ROOT
from tests.support.patience import patience


def names_of(stdout: str) -> list[str]:
    return [json.loads(line)["path"] for line in stdout.splitlines()]


# -------------------------------------------------------------------------------------------------------- patterns
@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = ("a.jpg", "b[1].jpg", "x/c.jpg", "x/.d.jpg", "x/y/e.jpg", "x/y/e.png", ".h/f.jpg", "x[1]/y/g.jpg", "@l.jpg")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if os.name != "nt":
        (tmp_path / "x" / "back").symlink_to("..")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["@l.jpg", "a.jpg", "b[1].jpg"]),
        ("x/*.jpg", ["x/c.jpg"]),
        ("x/**/*.jpg", ["x/c.jpg", "x/y/e.jpg"]),
        ("./x/**/*.jpg", ["./x/c.jpg", "./x/y/e.jpg"]),
        ("**/e.*", ["x/y/e.jpg", "x/y/e.png"]),
        ("**/y/**/*.jpg", ["x/y/e.jpg", "x[1]/y/g.jpg"]),
        ("x/**", ["x/c.jpg", "x/y/e.jpg", "x/y/e.png"]),
        ("**/**/[ac].jpg", ["a.jpg", "x/c.jpg"]),
        ("?/?", ["x/y"]),
    ],
)
def test_a_pattern_stands_for_files(pattern: str, expected: list[str], tree: Path) -> None:
    assert is_pattern(pattern)
    assert [name.replace(os.sep, "/") for name in matches(pattern)] == expected
    if not pattern.startswith("."):
        assert matches(f"{tree}/{pattern}") == [str(tree / name) for name in expected]


def test_a_file_of_the_very_name_is_no_pattern(tree: Path) -> None:
    assert [is_pattern(name) for name in ("b[1].jpg", "a.jpg", "c[1].jpg")] == [False, False, True]
    with pytest.raises(ImageError, match=r"^\*\*/\*\.gif: no file matches this pattern; check it, or name"):
        matches("**/*.gif")
    (tree / "-").touch()
    assert matches("[-]") == ["./-"]  # not stdin


def test_patterns_at_the_command_line(model: Path, images: Path) -> None:
    stdout, stderr = run("classify", model, f"{images}/**/[ad].*", images / "b.jpg", "-f", "jsonl")
    assert (names_of(stdout), stderr) == ([str(images / name) for name in ("a.png", "below/d.png", "b.jpg")], "")
    stdout, _ = run("classify", model, f"{images}/b*w", "-f", "jsonl")  # a folder alone
    assert names_of(stdout) == [str(images / "below" / "d.png")]
    _, stderr = run("classify", "no.safetensors", f"{images}/*.gif", code=1)
    assert stderr.startswith(f"Error: {images}/*.gif: no file matches this pattern")


# ----------------------------------------------------------------------------------------------------------- lists
class Pieces:
    """A stdin that gives what has been written piece by piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.buffer = self

    def read1(self, _: int) -> bytes:
        return next(self._pieces, b"")


def portions(pieces: Iterable[bytes], *, null: bool = False) -> list[list[str]]:
    with mock.patch.object(sys, "stdin", Pieces(pieces)):
        return list(NameList("-", null=null))


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r\ufeff"), min_size=1).filter(
        lambda name: name.encode().strip() and name != "-"
    )
)


@settings(deadline=None, max_examples=40)
@given(NAMES, st.integers(1, 9), st.sampled_from(["\n", "\r\n", "\0"]), st.booleans())
def test_lists_are_read_however_they_are_cut(names: list[str], size: int, end: str, ended: bool) -> None:
    text = (end.join(names) + (end if ended and names else "")).encode()
    pieces = [text[k : k + size] for k in range(0, len(text), size)]
    found = portions(pieces, null=end == "\0")
    assert [name for portion in found for name in portion] == names
    assert all(found)


@pytest.mark.parametrize(
    ("data", "null", "expected"),
    [
        (b"\xef\xbb\xbfa.png\r\n\r\n  \n b c.png \n", False, ["a.png", " b c.png "]),
        (b"\xef\xbb\xbfa.png", False, ["a.png"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfa\n\xef\xbb\xbfb", False, ["\ufeffa", "\ufeffb"]),
        (b"a\nb.png\0\0 \0", True, ["a\nb.png", " "]),
        (b"-\n@x\n#y\n*\n", False, ["./-", "@x", "#y", "*"]),
        ("é.png\n".encode("latin-1"), False, [os.fsdecode(b"\xe9.png") if os.name != "nt" else "\udce9.png"]),
        (b"", False, []),
    ],
)
def test_names_are_taken_as_they_are(data: bytes, null: bool, expected: list[str]) -> None:
    assert [name for portion in portions([data], null=null) for name in portion] == expected


def test_a_list_is_read_no_further_than_its_names_are_used() -> None:
    read = []

    def pieces() -> Iterator[bytes]:
        for number in range(1000):
            read.append(number)
            yield f"{number}.png\n".encode()

    with mock.patch.object(sys, "stdin", Pieces(pieces())):
        names = iter(NameList("-", null=False))
        assert [next(names), next(names)] == [["0.png"], ["1.png"]]
    assert read == [0, 1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a.png\0b.png\0", "holds NUL characters; --null reads a list whose names they end"),
        ("a.png\n".encode("utf-16"), "is UTF-16; save the list as UTF-8"),
        (b"x" * (LONGEST_NAME + 1), "a name of more than 32,768 bytes; expected a list of names, one a line"),
        (b"\n \n", "names no images"),
        (None, "cannot be read: "),
    ],
)
def test_what_is_no_list(data: bytes | None, said: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    if data is not None:
        path.write_bytes(data)
    stdout, stderr = run("classify", model, f"@{path}", "-f", "json", code=1)
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert stderr.startswith(f"Error: @{path}: ")
    assert said in stderr


def test_lists_at_the_command_line(model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    expected = run("classify", model, "b.jpg", "below", "a.png", "c.webp", "-f", "jsonl")
    (tmp_path / "names").write_text("below/d.png\n\na.png\n")
    assert run("classify", model, "b.jpg", f"@{tmp_path / 'names'}", "c.webp", "-f", "jsonl") == (
        expected[0].replace(json.dumps(os.path.join("below", "d.png")), '"below/d.png"'),  # noqa: PTH118
        "",
    )
    Path("@x.png").write_bytes(Path("a.png").read_bytes())
    assert names_of(run("classify", model, "./@x.png", "-f", "jsonl")[0]) == ["./@x.png"]
    _, stderr = run("classify", model, "@x.png", code=1)
    assert stderr.startswith("Error: @x.png: the list 'x.png' cannot be read: ")
    assert stderr.endswith("for an image of this name write ./@x.png\n")


def test_lists_with_bad_names_go_on(model: Path, images: Path) -> None:
    names = f"no.png\0{images}\0{images / 'a.png'}\0https://example.org/x.png\0".encode()
    stdout, stderr = run("classify", model, "-0", "@-", "-f", "jsonl", stdin=names, code=3)
    assert [list(json.loads(line))[1] for line in stdout.splitlines()] == ["error", "error", "predictions", "error"]
    assert "is a folder, expected an image" in stderr
    assert "https://example.org/x.png: is a URL; --urls lets bitvit download images" in stderr
    assert stderr.endswith("Error: 3 of 4 images could not be read\n")


def test_heat_maps_of_a_list(model: Path, images: Path, tmp_path: Path) -> None:
    run("classify", model, "@-", "--explain", tmp_path / "heat", stdin=f"{images / 'a.png'}\n".encode())
    assert [path.name for path in (tmp_path / "heat").iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--null", "a.png"), "--null is for lists of names: @FILE, or @- for one on stdin"),
        (("@-", "-"), "-: named twice, but stdin can be read only once"),
        (("@-", "@-"), "-: named twice, but stdin can be read only once"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: tuple[str, ...], said: str, model: Path) -> None:
    assert run("classify", model, *arguments, code=1)[1] == f"Error: {said}\n"


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder, expected a list of names; leave out the @"):
        NameList(str(tmp_path), null=False)


def test_a_closed_stdin_has_no_list() -> None:
    with mock.patch.object(sys, "stdin", None), pytest.raises(ImageError, match="@-: stdin is closed"):
        NameList("-", null=False)
    broken = SimpleNamespace(buffer=SimpleNamespace(read1=mock.Mock(side_effect=OSError(5, "Input/output error"))))
    with (
        mock.patch.object(sys, "stdin", broken),
        pytest.raises(ImageError, match="@-: the list '-' cannot be read: Input/o"),
    ):
        list(NameList("-", null=False))


def test_answers_come_while_the_list_is_written(model: Path, images: Path) -> None:
    command = [sys.executable, "-m", "bitvit", "classify", str(model), "@-", "-f", "csv", "-k", "1"]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=buffered
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name in ("a.png", "b.jpg"):  # the next name is written when the answer before is read
            process.stdin.write(f"{images / name}\n".encode())
            if name == "a.png":
                assert process.stdout.readline() == b"path,rank,label,index,score\n"
            assert name in process.stdout.readline().decode()
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(timeout=patience(60)) == 0
