"""The command line, verb by verb: what it prints and writes, its exit codes, and one line for a user's mistake."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import types
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import bitvit
from bitvit.classify import Classifier
from bitvit.cli import app, console
from bitvit.cli.classify import progress_bar
from bitvit.config import Config
from bitvit.errors import BitvitError
from bitvit.modelfile import load_model_file
from tests.support import golden_data
from tests.support.paths import ROOT

Packed: TypeAlias = Callable[[str], Path]  # the fixture: name of a golden case -> its packed model

CASE = "micro96_somefp"


def run(*arguments: object, code: int = 0, stdin: bytes | None = None) -> tuple[str, str]:
    """stdout and stderr of a command, which must end with this exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == code, f"{result.exit_code}: {result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def words(text: str) -> str:
    """Text without the box and the line breaks of a usage error."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def shell(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "bitvit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=120, check=False, **options)


@pytest.fixture
def model(packed: Packed) -> Path:
    return packed(CASE)


@pytest.fixture
def checkpoint(model: Path) -> Path:
    return model.with_suffix(".checkpoint.safetensors")


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(dict(golden_data.load_case(CASE).config)))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three images, and one in a folder below."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "c.webp", "below/d.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (120, 130, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").touch()
    return folder


# ----------------------------------------------------------------------------------------------------------- convert


def test_convert(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    stdout, stderr = run("convert", checkpoint, "-o", out, "--config", config)
    written = load_model_file(out)
    weights = written.config.num_classes
    assert re.search(rf"model.safetensors: {out.stat().st_size:,} bytes in \d+\.\d s", stdout)
    assert f"96 x 96 pixels, {weights} classes" in stdout
    assert stderr == ""


def test_convert_options_reach_the_model_file(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    out, labels = tmp_path / "model.safetensors", tmp_path / "labels.txt"
    count = golden_data.load_case(CASE).options["num_labels"]
    labels.write_text("\n".join(f"class {number}" for number in range(count)))
    channels = ("--mean", "0.286", "--std", "0.1,0.2,0.3")
    run("convert", checkpoint, "-o", out, "--config", config, "--labels", labels, *channels, "--pad", "2")
    written = load_model_file(out)
    assert written.labels == tuple(f"class {number}" for number in range(count))
    assert written.preprocessing.mean == (0.286, 0.286, 0.286)
    assert written.preprocessing.std == (0.1, 0.2, 0.3)
    assert (written.preprocessing.pad, written.preprocessing.crop, written.preprocessing.resize) == (2, 92, 92)


@pytest.mark.parametrize(("text", "resize"), [("none", None), ("auto", 109), ("100", 100)])
def test_convert_resize(text: str, resize: int | None, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    run("convert", checkpoint, "-o", out, "--config", config, "--resize", text)
    assert load_model_file(out).preprocessing.resize == resize


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "a"), "Invalid value for --mean: 'a', expected a number or three"),
        (("--std", "1,2"), "Invalid value for --std: '1,2', expected a number or three"),
        (("--resize", "big"), "Invalid value for --resize: 'big', expected a number of pixels, none or auto"),
        (("--pad", "-1"), "Invalid value for '--pad'"),
    ],
)
def test_convert_wrong_usage(options: Sequence[str], message: str, checkpoint: Path, tmp_path: Path) -> None:
    _, stderr = run("convert", checkpoint, "-o", tmp_path / "out", *options, code=2)
    assert message in words(stderr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "no.txt"), "no.txt: no such file; check the path"),
        (("--config", "no.json"), "no.json: cannot be read"),
        (("--resize", "20"), "preprocessing: resize is 20, expected an integer from 96"),
        (("--std", "0"), "preprocessing: std is (0.0, 0.0, 0.0), expected numbers above 0"),
        (("--ema",), "checkpoint.safetensors: "),
    ],
)
def test_convert_errors_leave_no_file(
    options: Sequence[str], message: str, checkpoint: Path, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    _, stderr = run("convert", checkpoint, "-o", out, "--config", config, *options, code=1)
    assert stderr.startswith("Error: ")
    assert message in stderr
    assert list(tmp_path.iterdir()) == []


def test_convert_missing_checkpoint(tmp_path: Path) -> None:
    _, stderr = run("convert", "no.pth", "-o", tmp_path / "model.safetensors", code=1)
    assert stderr == "Error: no.pth: no such file; check the path\n"


def test_convert_does_not_overwrite_its_source(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    _, stderr = run("convert", checkpoint, "-o", checkpoint, code=1)
    assert "is the checkpoint itself" in stderr
    assert checkpoint.read_bytes() == before


def test_convert_replaces_an_older_model(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    out.write_text("old")
    run("convert", checkpoint, "-o", out, "--config", config)
    assert load_model_file(out).config.image_size == 96


def test_convert_shows_warnings(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def convert(*_arguments: object, **_options: object) -> bitvit.ConversionReport:
        warnings.warn("two weights are 0", stacklevel=2)
        shape = load_model_file(model).config
        return bitvit.ConversionReport(Path("out"), shape, 10, 20, 30, 2, ["two weights are 0"], 0.5)

    monkeypatch.setattr(sys.modules["bitvit.convert"], "convert", convert)
    stdout, stderr = run("convert", "checkpoint.pth", "-o", "out")
    assert stderr == "Warning: two weights are 0\n"
    assert "20 weights of 1 bit, 30 float32" in stdout


# ---------------------------------------------------------------------------------------------------------- classify


def test_classify_table(model: Path, images: Path) -> None:
    stdout, stderr = run("classify", model, images / "a.png", images / "b.jpg", "--top-k", "2")
    lines = stdout.splitlines()
    assert [lines[0], lines[3]] == [str(images / "a.png"), str(images / "b.jpg")]
    best = Classifier(model)(images / "a.png", top_k=1)[0]
    assert lines[1] == f"  {100 * best['score']:6.2f} %  {best['label']}"
    assert len(lines) == 6
    assert stderr == ""


def test_classify_json_and_jsonl(model: Path, images: Path) -> None:
    expected = [
        {"path": str(images / name), "predictions": Classifier(model)(images / name, top_k=3)}
        for name in ("a.png", "b.jpg", "c.webp")
    ]
    assert json.loads(run("classify", model, images, "-k", "3", "--format", "json")[0]) == expected
    lines = run("classify", model, images, "-k", "3", "--format", "jsonl")[0].splitlines()
    assert [json.loads(line) for line in lines] == expected


def test_classify_csv(model: Path, images: Path) -> None:
    stdout, _ = run("classify", model, images / "a.png", "--format", "csv", "-k", "2")
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert list(rows[0]) == ["path", "rank", "label", "index", "score"]
    found = [(row["path"], row["rank"], row["label"], int(row["index"]), float(row["score"])) for row in rows]
    first, second = Classifier(model)(images / "a.png", top_k=2)
    path = str(images / "a.png")
    assert found == [
        (path, "1", first["label"], first["index"], first["score"]),
        (path, "2", second["label"], second["index"], second["score"]),
    ]


@pytest.mark.parametrize("options", [("--batch-size", 1), ("--batch-size", 3), ("--threads", 1)])
def test_classify_does_not_depend_on_batch_size_and_threads(
    options: Sequence[object], model: Path, images: Path
) -> None:
    assert run("classify", model, images, "-f", "jsonl", *options) == run("classify", model, images, "-f", "jsonl")


def test_classify_folders(model: Path, images: Path) -> None:
    def names(*options: object) -> list[str]:
        lines = run("classify", model, *options, "-f", "jsonl")[0].splitlines()
        return [Path(json.loads(line)["path"]).name for line in lines]

    assert names(images) == ["a.png", "b.jpg", "c.webp"]
    assert names(images, "--recursive") == ["a.png", "b.jpg", "d.png", "c.webp"]
    assert names(images / "below", images) == ["d.png", "a.png", "b.jpg", "c.webp"]


def test_classify_stdin(model: Path, images: Path) -> None:
    stdout, _ = run("classify", model, "-", "-f", "jsonl", stdin=(images / "a.png").read_bytes())
    expected = {"path": "-", "predictions": Classifier(model)(images / "a.png")}
    assert json.loads(stdout) == expected


def test_classify_stdin_twice(model: Path) -> None:
    _, stderr = run("classify", model, "-", "-", code=1)
    assert stderr == "Error: -: named twice, but stdin can be read only once\n"


def test_classify_goes_on_after_bad_images(model: Path, images: Path) -> None:
    (images / "bad.png").write_bytes(b"<html>")
    stdout, stderr = run("classify", model, "no.png", images, "-f", "json", code=3)
    records = json.loads(stdout)
    assert [Path(record["path"]).name for record in records] == ["no.png", "a.png", "b.jpg", "bad.png", "c.webp"]
    assert [record.get("error") for record in records[:2]] == ["no.png: no such file; check the path", None]
    assert "not an image that can be read" in records[3]["error"]
    assert stderr.splitlines()[0] == "Error: no.png: no such file; check the path"
    assert stderr.splitlines()[-1] == "Error: 2 of 5 images could not be read"


@pytest.mark.parametrize("form", ["table", "csv"])
def test_classify_leaves_bad_images_out_of_tables(form: str, model: Path, images: Path) -> None:
    stdout, _ = run("classify", model, "no.png", images / "a.png", "-f", form, code=3)
    assert "no.png" not in stdout
    assert "a.png" in stdout


def test_classify_bad_images_only(model: Path) -> None:
    assert run("classify", model, "no.png", "-f", "json", code=3)[0] == (
        '[\n{"path": "no.png", "error": "no.png: no such file; check the path"}\n]\n'
    )


def test_classify_folder_without_images(model: Path, tmp_path: Path) -> None:
    _, stderr = run("classify", model, tmp_path, code=1)
    assert "no images in this folder" in stderr


def test_classify_missing_model(images: Path) -> None:
    _, stderr = run("classify", "no.safetensors", images / "a.png", code=1)
    assert stderr.startswith("Error: no.safetensors: does not exist; expected a packed model")


def test_classify_checkpoint_in_place_of_a_model(checkpoint: Path, images: Path) -> None:
    _, stderr = run("classify", checkpoint, images / "a.png", code=1)
    assert "not a packed model" in stderr


@pytest.mark.parametrize("options", [("--top-k", 0), ("--batch-size", 0), ("--threads", 0), ("--format", "xml")])
def test_classify_wrong_usage(options: Sequence[object], model: Path, images: Path) -> None:
    _, stderr = run("classify", model, images, *options, code=2)
    assert f"Invalid value for '{options[0]}'" in words(stderr)


def test_classify_without_images_is_wrong_usage(model: Path) -> None:
    assert "Missing argument" in words(run("classify", model, code=2)[1])


def test_classify_explain(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "a.jpg").write_bytes((images / "b.jpg").read_bytes())
    (images / "bad.png").write_bytes(b"<html>")
    out = tmp_path / "heat" / "maps"
    stdin = (images / "a.png").read_bytes()
    stdout, stderr = run("classify", model, images, "-", "-f", "jsonl", "--explain", out, code=3, stdin=stdin)
    assert (stdout, stderr) == run("classify", model, images, "-", "-f", "jsonl", code=3, stdin=stdin)
    assert sorted(path.name for path in out.iterdir()) == ["a-2.png", "a.png", "b.png", "c.png", "stdin.png"]
    with Image.open(out / "a-2.png") as drawn, Image.open(out / "stdin.png") as same:
        assert drawn.size == (354, 327)  # 109 pixels on the shorter edge, three times
        assert np.array_equal(np.asarray(drawn), np.asarray(same))
    _, stderr = run("classify", model, images, "--explain", images / "a.png", code=1)
    assert stderr.startswith(f"Error: {images / 'a.png'}: cannot be made")


def test_names_are_escaped_for_the_terminal(model: Path, images: Path) -> None:
    strange = images / "\x1b[31mred.png"
    (images / "a.png").rename(strange)
    stdout, _ = run("classify", model, strange)
    assert stdout.splitlines()[0] == f"{images}/\\x1b[31mred.png"
    assert json.loads(run("classify", model, strange, "-f", "jsonl")[0])["path"] == str(strange)


@pytest.mark.parametrize(("total", "shown"), [(100, True), (3, False)])
def test_progress_bar_is_for_long_work_only(total: int, shown: bool) -> None:
    screen = io.StringIO()
    with progress_bar(Console(file=screen, force_terminal=True), total, io.StringIO()) as advance:
        advance()
    assert (f"1/{total}" in screen.getvalue()) == shown


def test_progress_bar_is_not_for_files_and_pipes() -> None:
    log = io.StringIO()
    with progress_bar(Console(file=log), 100, io.StringIO()) as advance:
        advance()
    assert log.getvalue() == ""


# ------------------------------------------------------------------------------------------------------ output files


def test_output_file(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    out.write_text("old")
    assert run("classify", model, images, "-f", "csv", "-o", out)[0] == ""
    assert out.read_text() == run("classify", model, images, "-f", "csv")[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "results.csv"]


def test_output_file_is_written_though_an_image_is_bad(model: Path, images: Path, tmp_path: Path) -> None:
    run("classify", model, "no.png", images, "-f", "json", "-o", tmp_path / "out.json", code=3)
    assert len(json.loads((tmp_path / "out.json").read_text())) == 4


def test_output_file_is_never_half_written(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_self: Classifier, _images: object, _top_k: int) -> Any:
        yield [{"label": "cat", "index": 0, "score": 1.0}]
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "attempt", interrupted)
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    run("classify", model, images, "-f", "jsonl", "-o", out, code=130)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "is a folder; name a file to write"), ("no/out.csv", "cannot be written: No such file or directory; choose")],
)
def test_output_that_cannot_be_written(name: str, message: str, model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    _, stderr = run("classify", model, images, "-o", out, code=1)
    assert stderr.startswith(f"Error: {out}: {message}")


def test_output_to_a_device_does_not_replace_it(model: Path, images: Path) -> None:
    run("classify", model, images, "-o", os.devnull)
    assert not Path(os.devnull).is_file()


def test_output_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with console.output(tmp_path / "link") as stream:
        stream.write("text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


def test_output_file_may_be_read_by_others_as_usual(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with console.output(tmp_path / "file"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


# ----------------------------------------------------------------------------------------------------------- inspect


def test_inspect_table(model: Path) -> None:
    stdout, _ = run("inspect", model)
    size = model.stat().st_size
    assert f"{model}: packed model, bitvit {bitvit.__version__}" in stdout
    assert re.search(r"image_size +96\n", stdout)
    assert re.search(r"stages\.0\.blocks\.0\.mixer\.convs\.2 +binary conv 3x3, dilation 5 +\d+ x \d+ x 3 x 3", stdout)
    assert re.search(rf"total .* {size:,} *\n", stdout)
    assert re.search(rf"file: {size:,} bytes   OPs = .* = [\d.]+ M", stdout)
    assert "…" not in stdout


def test_inspect_json(model: Path, checkpoint: Path, config: Path) -> None:
    packed = json.loads(run("inspect", model, "--format", "json")[0])
    source = json.loads(run("inspect", checkpoint, "--config", config, "--format", "json")[0])
    assert (packed["kind"], source["kind"]) == ("packed model", "checkpoint")
    assert packed["config"] == source["config"]
    assert Config.from_dict(packed["config"]).image_size == 96
    assert packed["sha256"] == source["sha256"]
    assert packed["total"]["bytes"] == model.stat().st_size == sum(layer["bytes"] for layer in packed["layers"])
    for name in ("binary_weights", "binary_macs", "float_macs", "ops"):
        assert packed["total"][name] == source["total"][name] > 0
    assert source["preprocessing"] is None


def test_inspect_checkpoint(checkpoint: Path, config: Path) -> None:
    stdout, _ = run("inspect", checkpoint, "--config", config)
    assert f"{checkpoint}: training checkpoint" in stdout


def test_inspect_shows_labels(model: Path, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "out.safetensors"
    count = load_model_file(model).config.num_classes
    labels.write_text("\n".join(f"class {number}" for number in range(count)))
    run("convert", checkpoint, "-o", out, "--config", config, "--labels", labels)
    assert f"class 0, class 1, class 2, class 3, ... ({count})" in run("inspect", out)[0]


def test_inspect_check(model: Path, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    """Unchanged, changed, without a checksum, and a file that has none."""
    out, _ = run("inspect", model, "--check")
    checksum = load_model_file(model).checksum
    assert out == f"{model}: unchanged, its bytes give its checksum {checksum}\n"
    assert f"checksum            {checksum}" in run("inspect", model)[0]
    assert json.loads(run("inspect", model, "-f", "json")[0])["checksum"] == checksum
    changed = tmp_path / "changed.safetensors"
    data = bytearray(model.read_bytes())
    data[-100] ^= 4
    changed.write_bytes(data)
    for options in (["--check"], []):
        _, error = run("inspect", changed, *options, code=1)
        assert f"{changed}: changed since it was written" in error
    old = ROOT / "weights" / "bhvit-digits.safetensors"
    if load_model_file(old).checksum is None:
        assert "checksum            none" in run("inspect", old)[0]
        assert "carries no checksum" in run("inspect", old, "--check", code=1)[1]
    _, error = run("inspect", checkpoint, "--config", config, "--check", code=1)
    assert "a checkpoint carries no checksum" in error


def test_inspect_missing_file() -> None:
    assert run("inspect", "no.pth", code=1)[1] == "Error: no.pth: no such file; check the path\n"


# ------------------------------------------------------------------------------------------------------------ verify


def test_verify(model: Path, checkpoint: Path, config: Path) -> None:
    stdout, _ = run("verify", model, checkpoint, "--config", config)
    assert re.search(r"stages\.0\.blocks\.0 +\d\.\d\de-\d\d", stdout)
    assert "whole network: top-1 is the reference's on 1 of 1 inputs\n" in stdout
    assert stdout.endswith("PASSED: all 10 parts compute what the checkpoint says\n")


def test_verify_on_images(model: Path, checkpoint: Path, config: Path, images: Path) -> None:
    options = ("--images", images, "--images", images / "below" / "d.png")
    assert "on 4 of 4 inputs" in run("verify", model, checkpoint, "--config", config, *options)[0]


def test_verify_draws(
    model: Path, checkpoint: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bitvit[evaluate]'")
    run("verify", model, checkpoint, "--config", config, "--draw", tmp_path / "verify.png")
    with Image.open(tmp_path / "verify.png") as drawn:
        assert drawn.format == "PNG"
    for name, message in (("verify.jpg", "drawings are PNG files"), ("no/verify.png", "in an existing folder")):
        assert message in run("verify", "no", "no", "--draw", tmp_path / name, code=1)[1]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, stderr = run("verify", model, checkpoint, "--config", config, "--draw", tmp_path / "other.png", code=1)
    assert stderr == "Error: drawing needs matplotlib, which is not installed: pip install 'bitvit[evaluate]'\n"


def test_verify_another_checkpoint(packed: Packed, checkpoint: Path, config: Path) -> None:
    _, stderr = run("verify", packed("micro96_binary"), checkpoint, "--config", config, code=1)
    assert stderr.startswith("Error: ")


def test_verify_that_fails_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitvit.verify.verifying import VerifyReport, VerifyRow

    row = VerifyRow("stem", 0.5, 0.25, sign_disagreements=3, signs=1000, undecided=1, wrong=2, places=9)
    report = VerifyReport(rows=[row], inputs=2, apart=1, top1_agreement=0.5, max_relative_logit_error=1.5)
    fake = types.SimpleNamespace(verify=lambda *_, **__: report)
    monkeypatch.setitem(sys.modules, "bitvit.verify", fake)
    stdout, _ = run("verify", "model", "checkpoint", code=1)
    assert re.search(r"stem +5\.00e-01 +2\.50e-01 +3 of 1,000 +WRONG at 2 of 9 places", stdout)
    assert "whole network: top-1 is the reference's on 1 of 2 inputs" in stdout
    assert "largest logit error 1.50e+00" in stdout
    assert "note:" not in stdout  # that the networks went apart needs no excuse here
    assert stdout.endswith("FAILED: stem differs from the checkpoint\n")


def test_verify_explains_why_networks_went_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitvit.verify.verifying import VerifyReport, VerifyRow

    row = VerifyRow("stages.0.blocks.0", 0.5, 1e-7, sign_disagreements=1, signs=1000, undecided=9, wrong=0, places=36)
    report = VerifyReport(rows=[row], inputs=1, apart=1, top1_agreement=0.0, max_relative_logit_error=0.4)
    monkeypatch.setitem(sys.modules, "bitvit.verify", types.SimpleNamespace(verify=lambda *_, **__: report))
    stdout, _ = run("verify", "model", "checkpoint")
    assert "1 of 1,000   a sign on the edge of float32 reaches 9 of 36 places" in stdout
    assert "whole network: top-1 is the reference's on 0 of 1 inputs" in stdout
    assert "note: on 1 of 1 inputs the two went apart, as float32 and float64 do" in stdout
    assert "It is no fault of the model file" in stdout
    assert stdout.endswith("PASSED: all 1 parts compute what the checkpoint says\n")


# --------------------------------------------------------------------------------------------------- the program itself


def test_version() -> None:
    assert run("--version")[0] == f"bitvit {bitvit.__version__}\n"


@pytest.mark.parametrize("verb", ["convert", "classify", "evaluate", "inspect", "verify", "warmup", "bench"])
def test_help(verb: str) -> None:
    assert verb in run("--help")[0]
    assert "Usage: " in run(verb, "--help")[0]


def test_help_needs_no_engine() -> None:
    code = "import sys, bitvit.cli; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_mistake_gives_one_line_and_no_traceback() -> None:
    result = shell("inspect", "no.pth")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr == b"Error: no.pth: no such file; check the path\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("bitvit.summary.summarize", broken)
    result = CliRunner().invoke(app, ["inspect", "model"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_same_error_text_as_the_library(tmp_path: Path) -> None:
    with pytest.raises(BitvitError) as error:
        bitvit.convert("no.pth", tmp_path / "out")
    assert run("convert", "no.pth", "-o", tmp_path / "out", code=1)[1] == f"Error: {error.value}\n"


def test_tool_is_the_same_command() -> None:
    tool = [sys.executable, str(ROOT / "tools" / "convert.py"), "no.pth", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(tool, capture_output=True, env=environment, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (1, b"Error: no.pth: no such file; check the path\n")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupt(model: Path, images: Path) -> None:
    arguments = [str(model), str(images / "a.png"), "-", "--batch-size", "1", "-f", "jsonl"]
    command = [sys.executable, "-m", "bitvit", "classify", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"path"')  # from now on it waits for stdin
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == b""


def test_reader_that_goes_away(model: Path, images: Path) -> None:
    command = [sys.executable, "-m", "bitvit", "classify", str(model), *[str(images)] * 20, "-f", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""


def test_images_that_pillow_warns_of(model: Path, images: Path) -> None:
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
def test_full_disk(model: Path, images: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "bitvit", "classify", str(model), str(images)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr == b"Error: the output cannot be written: No space left on device\n"


def test_output_that_the_terminal_cannot_encode(model: Path, images: Path) -> None:
    strange = images / "k\u00f6pek.png"
    (images / "a.png").rename(strange)
    result = shell("classify", model, strange, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert result.stdout.splitlines()[0].endswith(b"k\\xf6pek.png")
