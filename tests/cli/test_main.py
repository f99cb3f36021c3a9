"""The program itself: help, exit codes, signals, pipes and terminals."""

import errno
import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import bitvit
from bitvit.bench import BenchReport
from bitvit.cli import app
from bitvit.cli.application import paragraphs
from bitvit.cli.ending import told
from bitvit.errors import BitvitError
from tests.support.command import run, shell, words
from tests.support.paths import ROOT
from tests.support.patience import patience


def test_version_is_printed() -> None:
    assert run("--version")[0] == f"bitvit {bitvit.__version__}\n"


@pytest.mark.parametrize(
    "verb", ["convert", "classify", "evaluate", "inspect", "verify", "warmup", "bench", "bundle", "push"]
)
def test_every_command_has_help(verb: str) -> None:
    assert verb in run("--help")[0]
    assert "Usage: " in run(verb, "--help")[0]


@pytest.mark.parametrize("verb", ["", "classify", "evaluate", "bench", "bundle"])
def test_help_names_no_python_types(verb: str) -> None:
    """Newer typers would write <bool> behind a flag, and <list[Path]> behind an argument's name."""
    text = run(*verb.split(), "--help")[0]
    assert "--help" in text
    assert not re.search(r"<bool>|list\[", text)


def test_help_sets_paragraphs_to_the_width_of_the_terminal() -> None:
    assert paragraphs("First line\n    and more.\n\n    Second\n    paragraph.\n    ") == (
        "First line and more.\n\nSecond paragraph."
    )


def test_help_needs_no_engine() -> None:
    code = "import sys, bitvit.cli; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", [256 * "A", 5000 * "A", "dir/" + 300 * "é"])
@pytest.mark.parametrize(
    "command",
    [
        "convert NAME -o OUT.safetensors", "convert MODEL -o NAME.safetensors", "classify NAME IMAGE",
        "classify MODEL NAME", "classify MODEL @NAME", "classify MODEL IMAGE -o NAME",
        "classify MODEL IMAGE --explain NAME", "classify MODEL NAME.parquet -o OUT",
        "classify MODEL --watch NAME -f csv", "evaluate NAME IMAGE", "evaluate MODEL NAME", "inspect NAME",
        "inspect NAME --check", "verify NAME MODEL", "warmup NAME", "bench NAME", "bench MODEL --images NAME",
        "bundle NAME -o OUT", "bundle MODEL -o NAME", "serve NAME", "train NAME -o OUT.safetensors",
        "train DATA -o NAME.safetensors", "push NAME owner/name",
    ],
)  # fmt: skip
def test_a_name_that_is_too_long_is_a_mistake(command: str, name: str, tiny: Path, tmp_path: Path) -> None:
    """As base64 is, the text form of an image."""
    if command.startswith("train"):
        pytest.importorskip("torch")
    image = ROOT / "weights" / "samples-digits" / "3.png"
    (tmp_path / "data").mkdir()
    texts = {"NAME": name, "MODEL": tiny, "IMAGE": image, "OUT": tmp_path / "out", "DATA": tmp_path / "data"}
    arguments = [
        re.sub("NAME|MODEL|IMAGE|OUT|DATA", lambda found: str(texts[found[0]]), word) for word in command.split()
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (1, 3), result.exception
    assert isinstance(result.exception, SystemExit)
    assert "Error: " in result.stderr
    assert len(result.stderr) < 1500
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_mistake_gives_one_line_and_no_traceback() -> None:
    result = shell("inspect", "no.pth")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr == b"Error: no.pth: no such file; check the path\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("bitvit.summary.summarize", broken)
    result = CliRunner().invoke(app, ["inspect", "model"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_same_error_text_as_the_library(tmp_path: Path) -> None:
    with pytest.raises(BitvitError) as error:
        bitvit.convert("no.pth", tmp_path / "out")
    assert run("convert", "no.pth", "-o", tmp_path / "out", code=1)[1] == f"Error: {error.value}\n"


def test_tool_is_the_same_command() -> None:
    tool = [sys.executable, "-m", "tools.convert", "no.pth", "-o", "out"]
    result = subprocess.run(tool, capture_output=True, cwd=ROOT, timeout=patience(60), check=False)
    assert (result.returncode, result.stderr) == (1, b"Error: no.pth: no such file; check the path\n")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_with_130(model: Path, images: Path) -> None:
    arguments = [str(model), str(images / "a.png"), "-", "--batch-size", "1", "-f", "jsonl"]
    command = [sys.executable, "-m", "bitvit", "classify", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"path"')  # from now on it waits for stdin
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=patience(60)) == 130
        assert process.stderr.read() == b""


def test_a_reader_that_goes_away_ends_with_141(model: Path, images: Path) -> None:
    command = [sys.executable, "-m", "bitvit", "classify", str(model), *[str(images)] * 20, "-f", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=patience(60)) == 141
        assert process.stderr.read() == b""


def test_pillows_warnings_are_not_shown(model: Path, images: Path) -> None:
    """One error an image, and nothing of Pillow's."""
    header = (images / "a.png").read_bytes()
    large = images / "large.png"
    large.write_bytes(header[:16] + (9460).to_bytes(4, "big") * 2 + header[24:])
    data = large.read_bytes()
    large.write_bytes(data[:29] + zlib.crc32(data[12:29]).to_bytes(4, "big") + data[33:])
    result = shell("classify", model, large)
    assert result.returncode == 3
    assert b"more than 89478485 pixels; scale the image down" in result.stderr
    assert b"Warning" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_error(model: Path, images: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "bitvit", "classify", str(model), str(images)]
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=patience(60), check=False
        )
    assert result.returncode == 1
    assert result.stderr == b"Error: the output cannot be written: No space left on device\n"


def test_what_the_terminal_cannot_encode_is_escaped(model: Path, images: Path) -> None:
    strange = images / "k\u00f6pek.png"
    (images / "a.png").rename(strange)
    result = shell("classify", model, strange, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert result.stdout.splitlines()[0].endswith(b"k\\xf6pek.png")


# ------------------------------------------------------------------------------------------------ closed streams
@pytest.mark.parametrize(("platform", "code"), [("linux", None), ("win32", 141)])
def test_windows_calls_a_closed_pipe_an_invalid_argument(
    platform: str, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises((SystemExit, OSError)) as ended, told():
        raise OSError(errno.EINVAL, "Invalid argument")
    assert getattr(ended.value, "code", None) == code


def closed(redirections: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """A finished `python -m bitvit` that a shell started with these redirections."""
    command = ["bash", "-c", f'"$@" {redirections}', "bash", sys.executable, "-m", "bitvit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=patience(120), check=False)


@pytest.mark.skipif(os.name == "nt", reason="shell")
@pytest.mark.parametrize("verb", ["convert", "classify", "evaluate", "inspect", "verify", "warmup", "bench"])
def test_closed_streams_leave_no_traceback(
    verb: str, model: Path, checkpoint: Path, config: Path, images: Path, report: BenchReport, tmp_path: Path
) -> None:
    out = tmp_path / ("out.safetensors" if verb == "convert" else "out.csv")
    (tmp_path / "labels.csv").write_text(f"path,label\n{images / 'a.png'},1\n{images / 'b.jpg'},2\n")
    (tmp_path / "report.json").write_text(report.to_json())
    arguments = {
        "convert": (checkpoint, "--config", config, "-o", out),
        "classify": (model, images, "-f", "csv", "-o", out),
        "evaluate": (model, tmp_path / "labels.csv", "--predictions", out),
        "inspect": (model, "--check"),
        "verify": (model, checkpoint, "--config", config, "-f", "json", "-o", out),
        "warmup": (model,),
        "bench": ("--compare", *[tmp_path / "report.json"] * 2, "-f", "csv", "-o", out),
    }
    begins = {"convert": model.read_bytes(), "classify": b"path,rank", "verify": b"{", "bench": b"mode,threads"}
    for redirections in ("<&- >&- 2>&-", ">&-"):
        done = closed(redirections, verb, *arguments[verb])
        assert (done.returncode, done.stdout, b"Traceback" in done.stderr) == (0, b"", False)
        if verb in begins:  # nothing that was printed is in the file
            assert out.read_bytes().startswith(begins[verb])


@pytest.mark.skipif(os.name == "nt", reason="shell")
def test_results_with_nowhere_to_go_are_refused_before_the_work(model: Path) -> None:
    told = b"Error: stdout is closed; name an output file, or redirect stdout to one\n"
    for arguments in (("inspect", model), ("verify", model, "no"), ("evaluate", model, "no"), ("bench", model)):
        done = closed(">&-", *arguments)
        assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.skipif(os.name == "nt", reason="shell")
def test_a_stdout_that_cannot_be_written_to_is_one_error(model: Path) -> None:
    done = closed("1</dev/null", "inspect", model)
    assert (done.returncode, done.stderr) == (1, b"Error: the output cannot be written: Bad file descriptor\n")


def test_options_have_the_same_letters_everywhere() -> None:
    letters: dict[str, set[str]] = {}
    for verb in ("convert", "classify", "evaluate", "inspect", "verify", "warmup", "bench"):
        for parameter in get_command(app).commands[verb].params:  # type: ignore[attr-defined]
            for name in (option for option in parameter.opts if option.startswith("--")):
                short = [option for option in parameter.opts if not option.startswith("--")]
                letters.setdefault(name, set()).update(short or {""})
    assert {name: found for name, found in letters.items() if len(found) > 1} == {}
    assert (letters["--batch-size"], letters["--threads"]) == ({"-b"}, {"-t"})


@pytest.mark.parametrize(
    "arguments",
    [("classify", "model.safetensors", ""), ("classify", "", "a.png"), ("inspect", ""), ("convert", "a.pth", "-o", "")],
)
def test_an_empty_argument_is_called_empty(arguments: tuple[str, ...]) -> None:
    """A variable of the shell that is not set; it was taken for the working folder."""
    before = arguments[arguments.index("") - 1]
    _, stderr = run(*arguments, code=2)
    assert f"Invalid value: the argument after '{before}' is empty, perhaps from a variable" in words(stderr)
