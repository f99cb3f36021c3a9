"""bitvit evaluate: what it prints and writes, its exit codes, and how it goes on after Ctrl-C."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from bitvit.cli import app
from bitvit.cli.evaluate import progress_bar
from bitvit.conversion import convert
from bitvit.evaluation import Progress, evaluate
from bitvit.modelfile import load_model_file, save_model_file
from tests.support.command import Terminal, words
from tests.support.paths import ROOT
from tests.support.patience import patience

COUNT = 24


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    """stdout and stderr of a command, which must end with this exit code."""
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == code, f"{result.exit_code}: {result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, since the state of what is stopped is kept there."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def model(packed: Callable[[str], Path]) -> Path:
    return packed("micro96_somefp")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """COUNT images of classes 0 to 2, and a table with folds."""
    rng = np.random.default_rng(0)
    rows = ["path,label,fold"]
    for number in range(COUNT):
        name = f"{number % 3}/{number:02}.png"
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (100, 110, 3), np.uint8)).save(tmp_path / "data" / name)
        rows.append(f"data/{name},{number % 3},{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "data"


def test_report(model: Path, data: Path, here: Path) -> None:
    stdout, stderr = run(model, data)
    report = evaluate(model, data)
    assert stdout.startswith(f"{model} on {data}\n")
    assert re.search(rf"top-1 +{100 * report.top1:.2f} % \(95 % interval \d+\.\d\d to \d+\.\d\d\)", stdout)
    assert re.search(rf"loss +{report.loss:.4f} \(cross-entropy\)", stdout)
    assert re.search(r"images +24 of \d+ classes, [\d,]+ a second with decoding", stdout)
    assert "note: classes are matched by class numbers" in stdout
    assert re.search(r"LABEL_2 +8 +\d+\.\d %", stdout)
    assert stderr == ""
    assert list(here.iterdir()) == []


def test_notes_of_some_models_name_them(model: Path, data: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.safetensors"
    file = load_model_file(model)
    save_model_file(
        named,
        file.tensors,
        config=file.config,
        preprocessing=file.preprocessing,
        labels=tuple(f"{number:03}" for number in range(file.config.num_classes)),
        source_sha256=file.source_sha256,
    )
    stdout, _ = run(model, named, data)
    assert f"\nnote: {model}: classes are matched by class numbers\n" in stdout
    assert f"\nnote: {named}: classes are matched by the model's class names; not to the letter: " in stdout


def test_json(model: Path, data: Path) -> None:
    found = json.loads(run(model, data, "--format", "json")[0])
    expected = evaluate(model, data).to_dict()
    for report in (found, expected):
        del report["seconds"]
    assert found == json.loads(json.dumps(expected))


def test_several_models_and_folds(model: Path, data: Path) -> None:
    stdout, _ = run(model, model, data)
    assert stdout.startswith(f"2 models on {data}\n")
    assert stdout.count(f"\n{model} ") == 2
    assert re.search(r"mean +\d+\.\d\d %", stdout)
    assert re.search(r"standard deviation +0\.00 %", stdout)
    assert "note: the standard deviation is over 2 models, with n - 1" in stdout
    assert "\nnote: classes are matched by class numbers\n" in stdout  # of both
    stdout, _ = run(model, model, data.parent / "labels.csv", "--folds", "--format", "json")
    assert [report["images"] for report in json.loads(stdout)["reports"]] == [12, 12]
    _, stderr = run(model, data.parent / "labels.csv", "--folds", code=1)
    assert "2 folds for 1 model, expected one for each" in stderr


def test_files(model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    run(model, data, "-o", tmp_path / "out", "--predictions", tmp_path / "answers.jsonl")
    assert (tmp_path / "out" / "confusion.png").exists()
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == COUNT


def test_classes_and_subset(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("0,1\n1,2\n2,0\n")
    (tmp_path / "some.txt").write_text("1\n2\n")
    found = json.loads(run(model, data, "--classes", tmp_path / "map.csv", "-f", "json")[0])
    assert found["notes"][0] == "classes are matched by your class map"
    for subset in (("1", "--subset", "LABEL_2"), (f"@{tmp_path / 'some.txt'}",)):
        found = json.loads(run(model, data, "--subset", *subset, "-f", "json")[0])
        assert [c["name"] for c in found["classes"]] == ["LABEL_1", "LABEL_2"]
        assert found["images"] == 16


def test_columns_of_a_table(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("where,what\n0/00.png,0\n1/01.png,1\n")
    options = ("--path-column", "where", "--label-column", "what", "--root", data)
    assert json.loads(run(model, tmp_path / "other.csv", *options, "-f", "json")[0])["images"] == 2


def test_images_that_exif_would_turn_are_counted_once(model: Path, data: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (data / "0" / "00.png", data / "1" / "01.png"):
        with Image.open(path) as image:
            image.save(path, exif=exif)
    said = "of 24 images would be turned by their EXIF data, which is ignored, as in the training code; --exif obeys it"
    for models in ([model], [model, model]):
        stdout, stderr = run(*models, data, "-f", "json")
        assert stderr == f"Note: 2 {said}\n"
    assert [report["turned"] for report in json.loads(stdout)["reports"]] == [2, 2]
    stdout, stderr = run(model, data, "-f", "json", "--exif")
    assert (stderr, json.loads(stdout)["turned"]) == ("", 0)


def test_bad_images(model: Path, data: Path, here: Path) -> None:
    bad = data / "1" / "01.png"
    bad.write_bytes(b"<html>")
    stdout, stderr = run(model, data, "--batch-size", "4", code=1)
    error, note = stderr.splitlines()
    assert stdout == ""
    assert error.startswith(f"Error: {bad}: not an image")
    (state,) = here.iterdir()
    kept = re.escape(f" of 24 images, kept in {state.name}: the same command with --resume goes on")
    found = re.fullmatch(rf"Note: stopped after (\d+){kept}", note)
    assert found is not None
    stdout, stderr = run(model, data, "--resume", "--on-error", "skip", code=3)
    assert stderr.splitlines()[0] == f"Note: resumed after {found[1]} of 24 images"
    last = "Error: 1 of 24 images could not be read and are left out"
    assert stderr.splitlines()[1] == f"{last}; --on-error list names them"
    assert re.search(r"images +23 of", stdout)
    assert list(here.iterdir()) == []
    _, stderr = run(model, data, "--on-error", "list", code=3)
    assert stderr.splitlines()[0].startswith(f"Error: {bad}: not an image")
    assert stderr.splitlines()[1] == last


def test_an_error_at_the_first_image_keeps_nothing(model: Path, data: Path, here: Path) -> None:
    for path in data.rglob("*.png"):
        path.write_bytes(b"<html>")
    _, stderr = run(model, data, code=1)
    assert len(stderr.splitlines()) == 1
    assert list(here.iterdir()) == []
    assert "Note: nothing to resume, starting afresh" in run(model, data, "--resume", code=1)[1]


def test_how_far_several_models_are(model: Path, data: Path) -> None:
    """They take turns, so how far one of them is says little."""
    bad = data / "1" / "01.png"
    good = bad.read_bytes()
    bad.write_bytes(b"<html>")
    _, stderr = run(model, model, data, "--batch-size", "4", code=1)
    found = re.search(r"Note: stopped after (\d+) of 48 images of 2 models, kept in", stderr)
    assert found is not None
    assert int(found[1]) % 2 == 0
    assert 0 < int(found[1]) < 48
    bad.write_bytes(good)
    _, stderr = run(model, model, data, "--resume")
    assert stderr == f"Note: resumed after {found[1]} of 48 images of 2 models\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.safetensors", "DATA"), "Error: no.safetensors: does not exist; expected a packed model"),
        (("MODEL", "nothing"), "Error: nothing: no such folder or file; expected a folder with a folder for each"),
        (("MODEL", "MODEL"), "is a model; expected the data, which comes last"),
        (("DATA", "MODEL"), "is a model; expected the data, which comes last"),
        (("MODEL", "DATA", "--root", "no"), "Error: no: --root: no such folder; name the one where the paths"),
        (("MODEL", "IMAGE"), ".png: is an image, which has no label; expected a folder with a folder for each class"),
        (("MODEL", "."), "Error: .: holds no folders; expected one for each class"),
        (("MODEL", "DATA", "--subset", "hat"), "Error: subset: 'hat' is not a class of the model"),
        (("MODEL", "DATA", "--classes", "no.txt"), "Error: no.txt: no such file; check the path"),
        (("MODEL", "DATA", "--predictions", "answers.xls"), "Error: answers.xls: predictions are written as .csv"),
    ],
)
def test_mistakes_give_one_line(arguments: tuple[str, ...], message: str, model: Path, data: Path, here: Path) -> None:
    image = next(data.rglob("*.png"))
    places = {"MODEL": str(model), "DATA": str(data), "IMAGE": str(image)}
    stdout, stderr = run(*(places.get(argument, argument) for argument in arguments), code=1)
    assert stdout == ""
    assert stderr.startswith("Error: ")
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert list(here.iterdir()) == []


def test_wrong_usage(model: Path, data: Path) -> None:
    for arguments in ((model,), (model, data, "--batch-size", 0), (model, data, "--on-error", "ignore")):
        run(*arguments, code=2)
    for given in ((model,), ()):
        _, stderr = run(*given, code=2)
        assert "MODEL DATA: expected a model, or several, and after them the labelled images" in words(stderr)


def test_of_several_models_that_without_the_classes_is_named(
    model: Path, data: Path, checkpoint: Path, config: Path, tmp_path: Path
) -> None:
    names, other = tmp_path / "names.txt", tmp_path / "named.safetensors"
    count = load_model_file(model).config.num_classes
    names.write_text("".join(f"class {chr(97 + number)}\n" for number in range(count)))
    convert(checkpoint, other, config=config, labels=names.read_text().split("\n")[:-1])
    (data / "0").rename(data / "class a")
    (data / "1").rename(data / "class b")
    (data / "2").rename(data / "class c")
    _, stderr = run(other, model, data, code=1)
    assert stderr.startswith(f"Error: {model} on {data}: ")


def test_a_missing_package_is_named(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, stderr = run(model, data, "--output", "report", code=1)
    assert stderr.startswith("Error: drawing the confusion matrix needs matplotlib, which is not installed: ")
    assert stderr.endswith(" -m pip install 'bitvit[evaluate]'\n")


def far(done: int, units: int = 2) -> Progress:
    return Progress(
        model="a",
        unit=0,
        units=units,
        done=done,
        total=100,
        correct=25 if done else 0,
        failed=10 if done else 0,
        overall=(done, 100 * units),
        state=None,
    )


def test_progress_bar() -> None:
    screen = Terminal()
    with progress_bar(Console(file=screen, force_terminal=True, width=120)) as show:
        show(far(0))
        show(far(60))
    for text in ("1/2", "60/100", "top-1 50.00 %", "left"):
        assert text in screen.getvalue()
    log = io.StringIO()
    for console in (Console(file=log), Console(file=log, force_terminal=True)):  # the latter by FORCE_COLOR
        with progress_bar(console) as show:
            show(far(60, units=1))
    assert log.getvalue() == ""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupt_and_resume(model: Path, data: Path, here: Path) -> None:
    """A real Ctrl-C, and the same command again."""
    rows = ["path,label"]
    for copy in range(2000):
        place = here / f"{copy}.png"
        place.symlink_to(data / f"{copy % 3}" / f"{copy % COUNT:02}.png")
        rows.append(f"{place.name},{copy % 3}")
    (here / "many.csv").write_text("\n".join(rows))
    whole = json.loads(run(model, "many.csv", "-f", "json")[0])
    command = [sys.executable, "-m", "bitvit", "evaluate", str(model), "many.csv", "--format", "json", "--resume"]
    command += ["--batch-size", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "Note: nothing to resume, starting afresh\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=patience(60))
    found = re.fullmatch(r"Note: stopped after ([\d,]+) of 2,000 images, kept in (\S+): .* goes on\n", stderr)
    assert found is not None, stderr
    assert (process.returncode, stdout) == (130, "")
    assert (here / found[2]).exists()
    resumed = subprocess.run(command, capture_output=True, env=environment, text=True, check=True)
    report = json.loads(resumed.stdout)
    assert resumed.stderr.startswith("Note: resumed after ")
    for one in (whole, report):
        del one["seconds"]
    assert report == whole
    assert not (here / found[2]).exists()


def test_no_numba_once_the_kernels_are_compiled(model: Path, data: Path) -> None:
    run(model, data)
    script = (
        "import sys; from bitvit.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('numba' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, "evaluate", str(model), str(data), "-f", "json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
