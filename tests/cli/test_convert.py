"""bitvit convert: options, warnings, and one line for a mistake."""

import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

import bitvit
from bitvit.modelfile import load_model_file
from tests.support import golden_data
from tests.support.command import in_terminal, run, without_escapes, words

CASE = "micro96_somefp"


def test_the_report_tells_size_and_shape(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    stdout, stderr = run("convert", checkpoint, "-o", out, "--config", config)
    written = load_model_file(out)
    weights = written.config.num_classes
    assert re.search(rf"model.safetensors: {out.stat().st_size:,} bytes in \d+\.\d s", stdout)
    assert f"96 x 96 pixels, {weights} classes" in stdout
    assert "  note: no class names (none were given): classes are called by their numbers" in stdout
    assert "  note: preprocessing: shorter edge to 109 pixels, centre crop of 96 x 96 pixels; mean 0.485" in stdout
    assert stderr == ""


def test_a_folder_is_all_that_is_needed(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    place, out = tmp_path / "net", tmp_path / "model.safetensors"
    place.mkdir()
    (place / "model.safetensors").symlink_to(checkpoint)
    count = golden_data.load_case(CASE).options["num_labels"]
    labels = {"id2label": {number: f"name {number}" for number in range(count)}}
    (place / "config.json").write_text(json.dumps(json.loads(config.read_text()) | labels))
    stdout, _ = run("convert", place, "-o", out)
    assert "  note: class names: id2label of config.json" in stdout
    assert load_model_file(out).labels == tuple(f"name {number}" for number in range(count))
    run("convert", checkpoint, "-o", out, "--config", place)
    assert load_model_file(out).labels == tuple(f"name {number}" for number in range(count))


def test_options_reach_the_model_file(checkpoint: Path, config: Path, tmp_path: Path) -> None:
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
def test_resize_is_a_number_none_or_auto(
    text: str, resize: int | None, checkpoint: Path, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    run("convert", checkpoint, "-o", out, "--config", config, "--resize", text)
    assert load_model_file(out).preprocessing.resize == resize


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "a"), "Invalid value for --mean: 'a', expected one number or three"),
        (("--std", "1,2"), "Invalid value for --std: '1,2', expected one number or three"),
        (("--resize", "big"), "Invalid value for --resize: 'big', expected a number of pixels, none or auto"),
        (("--pad", "-1"), "Invalid value for '--pad'"),
    ],
)
def test_wrong_usage_is_explained(options: Sequence[str], message: str, checkpoint: Path, tmp_path: Path) -> None:
    _, stderr = run("convert", checkpoint, "-o", tmp_path / "out", *options, code=2)
    assert message in words(stderr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "no.txt"), "no.txt: no such file; check the path"),
        (("--config", "no.json"), "no.json: no such file; check the path"),
        (("--resize", "20"), "preprocessing: resize is 20, expected an integer from 96"),
        (("--std", "0"), "preprocessing: std is (0.0, 0.0, 0.0), expected numbers of at least 1e-06"),
        (("--ema",), "checkpoint.safetensors: "),
        (("--mean", "123,117,104"), "mean is 123,117,104, expected numbers from 0 to 1"),
        (("-o", "model.onnx"), "model.onnx: a model of bitvit would be written, which is no .onnx file"),
    ],
)
def test_errors_leave_no_file(
    options: Sequence[str], message: str, checkpoint: Path, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    _, stderr = run("convert", checkpoint, "-o", out, "--config", config, *options, code=1)
    assert stderr.startswith("Error: ")
    assert message in stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_known_stops_every_command_that_reads_a_checkpoint(
    checkpoint: Path, config: Path, model: Path, tmp_path: Path
) -> None:
    told = {**json.loads(config.read_text()), "use_rel_pos": True}
    (tmp_path / "config.json").write_text(json.dumps(told))
    out = tmp_path / "model.safetensors"
    for command in (("convert", checkpoint, "-o", out), ("verify", model, checkpoint), ("inspect", checkpoint)):
        _, stderr = run(*command, "--config", tmp_path / "config.json", code=1)
        assert "config.json: use_rel_pos (True): not known here, and may change the network" in stderr
        assert "--ignore use_rel_pos" in stderr
        assert not out.exists()
        run(*command, "--config", tmp_path / "config.json", "--ignore", "use_rel_pos")
        out.unlink(missing_ok=True)


def test_what_was_assumed_is_said(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    stdout, _ = run("convert", checkpoint, "-o", tmp_path / "model.safetensors", "--config", config)
    assert "note: assumed, as neither the checkpoint nor a config.json says it: mean over all tokens" in stdout


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    _, stderr = run("convert", "no.pth", "-o", tmp_path / "model.safetensors", code=1)
    assert stderr == "Error: no.pth: no such file; check the path\n"


def test_the_source_is_not_overwritten(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    _, stderr = run("convert", checkpoint, "-o", checkpoint, code=1)
    assert "is the checkpoint itself" in stderr
    assert checkpoint.read_bytes() == before


def test_an_older_model_is_replaced(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    out.write_text("old")
    run("convert", checkpoint, "-o", out, "--config", config)
    assert load_model_file(out).config.image_size == 96


def test_warnings_are_shown(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def convert(*_arguments: object, **_options: object) -> bitvit.ConversionReport:
        warnings.warn("two weights are 0", stacklevel=2)
        shape = load_model_file(model).config
        return bitvit.ConversionReport(Path("out"), shape, 10, 20, 30, 2, ["two weights are 0"], 0.5)

    monkeypatch.setattr("bitvit.conversion.convert", convert)
    stdout, stderr = run("convert", "checkpoint.pth", "-o", "out")
    assert stderr == "Warning: two weights are 0\n"
    assert "20 weights of 1 bit, 30 float32" in stdout


@pytest.mark.skipif(os.name == "nt", reason="terminal")
def test_a_terminal_gets_notes_wrapped_and_a_pipe_does_not(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    command = ("convert", checkpoint, "-o", tmp_path / "model.safetensors", "--config", config)
    lines = without_escapes(in_terminal(60, *command)).splitlines()
    notes = [place for place, line in enumerate(lines) if line.startswith("  note: ")]
    assert len(notes) == 3
    assert all(len(line) <= 60 for line in lines[notes[0] :])
    wrapped = re.sub(r"\n {4}(?=\S)", " ", "\n".join(lines[notes[0] :]))
    stdout, _ = run(*command)
    assert wrapped.splitlines() == [line for line in stdout.splitlines() if line.startswith("  note: ")]


@pytest.mark.skipif(os.name == "nt", reason="terminal")
def test_a_terminal_gets_warnings_wrapped_and_errors_whole(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    """An error may hold a command that is to be copied."""
    (tmp_path / "labels.txt").write_text("\n".join(["cat", "dog"] * 5))
    command = ("convert", checkpoint, "--config", config, "--labels", tmp_path / "labels.txt", "-o")
    lines = without_escapes(in_terminal(60, *command, tmp_path / "model.safetensors")).splitlines()
    warning = lines[: next(place for place, line in enumerate(lines) if "bytes in" in line)]
    assert len(warning) > 1
    assert all(len(line) <= 60 for line in warning)
    assert " ".join(map(str.strip, warning)).startswith("Warning: labels: one name stands for several classes, which")
    (error,) = without_escapes(in_terminal(60, *command, tmp_path / "model.onnx", code=1)).splitlines()
    assert "model.onnx: a model of bitvit would be written" in error
