"""bitvit verify: its table, its JSON and verdict."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from bitvit.verify import verifying
from bitvit.verify.verifying import VerifyReport, VerifyRow
from tests.support.command import run

Packed = Callable[[str], Path]  # the fixture: name of a golden case -> its packed model


def test_a_converted_model_passes(model: Path, checkpoint: Path, config: Path) -> None:
    stdout, _ = run("verify", model, checkpoint, "--config", config)
    assert re.search(r"stages\.0\.blocks\.0 +\d\.\d\de-\d\d", stdout)
    assert "whole network: top-1 is the reference's on 1 of 1 inputs\n" in stdout
    assert stdout.endswith("PASSED: all 10 parts compute what the checkpoint says\n")


def test_images_and_folders_are_compared_on(model: Path, checkpoint: Path, config: Path, images: Path) -> None:
    options = ("--images", images, "--images", images / "below" / "d.png")
    assert "on 4 of 4 inputs" in run("verify", model, checkpoint, "--config", config, *options)[0]


def test_errors_are_drawn_as_a_png(
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
    assert stderr.startswith("Error: drawing needs matplotlib, which is not installed: ")


def test_json_has_the_verdict_and_every_part(model: Path, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    arguments = ("verify", model, checkpoint, "--config", config, "--format", "json")
    printed = run(*arguments)[0]
    assert run(*arguments[:-2], "-o", tmp_path / "report.json")[0] == ""  # whose name says the format
    assert (tmp_path / "report.json").read_text() == printed
    found = json.loads(printed)
    report = verifying.verify(model, checkpoint, config=config)
    assert (found["passed"], found["inputs"], found["apart"]) == (True, 1, 0)
    assert found["max_relative_logit_error"] == report.max_relative_logit_error
    assert [part["name"] for part in found["parts"]] == [row.name for row in report.rows]
    assert [part["max_error"] for part in found["parts"]] == [row.max_error for row in report.rows]
    assert found["parts"][0].keys() == {
        *(
            "name",
            "max_error",
            "relative_error",
            "sign_disagreements",
            "signs",
            "undecided",
            "wrong",
            "places",
            "passed",
        )
    }


def test_a_table_goes_into_a_file_too(model: Path, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    assert run("verify", model, checkpoint, "--config", config, "-o", tmp_path / "table.txt")[0] == ""
    assert (tmp_path / "table.txt").read_text() == run("verify", model, checkpoint, "--config", config)[0]


def test_swapped_and_repeated_arguments_are_told(model: Path, checkpoint: Path) -> None:
    told = f"Error: {model}: is a packed model, expected the training checkpoint that the model was converted from"
    assert run("verify", model, model, code=1)[1] == f"{told}\n"
    swapped = f"{told}; the packed model comes first, then {checkpoint}\n"
    assert run("verify", checkpoint, model, code=1)[1] == swapped


def test_a_folder_without_images_is_named(model: Path, checkpoint: Path, tmp_path: Path) -> None:
    _, stderr = run("verify", model, checkpoint, "--images", tmp_path, code=1)
    assert stderr == f"Error: {tmp_path}: --images: no images in this folder; name one that has some, or the files\n"


def test_another_checkpoint_is_refused(packed: Packed, checkpoint: Path, config: Path) -> None:
    _, stderr = run("verify", packed("micro96_binary"), checkpoint, "--config", config, code=1)
    assert stderr.startswith("Error: ")


def test_a_model_that_fails_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    row = VerifyRow("stem", 0.5, 0.25, sign_disagreements=3, signs=1000, undecided=1, wrong=2, places=9)
    report = VerifyReport(rows=[row], inputs=2, apart=1, top1_agreement=0.5, max_relative_logit_error=1.5)
    monkeypatch.setattr(verifying, "verify", lambda *_, **__: report)
    stdout, _ = run("verify", "model", "checkpoint", code=1)
    assert re.search(r"stem +5\.00e-01 +2\.50e-01 +3 of 1,000 +WRONG at 2 of 9 places", stdout)
    assert "whole network: top-1 is the reference's on 1 of 2 inputs" in stdout
    assert "largest logit error 1.50e+00" in stdout
    assert "the two networks diverged" not in stdout  # that the networks diverged needs no explanation here
    assert stdout.endswith("FAILED: stem differs from the checkpoint\n")


def test_networks_that_diverge_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    row = VerifyRow("stages.0.blocks.0", 0.5, 1e-7, sign_disagreements=1, signs=1000, undecided=9, wrong=0, places=36)
    report = VerifyReport(rows=[row], inputs=1, apart=1, top1_agreement=0.0, max_relative_logit_error=0.4)
    monkeypatch.setattr(verifying, "verify", lambda *_, **__: report)
    stdout, _ = run("verify", "model", "checkpoint")
    assert re.search(r"1 of 1,000  9 places by rounding\n", stdout)
    assert "note: 'by rounding' are places where float32's last bits decide a sign, which is no fault\n" in stdout
    assert "whole network: top-1 is the reference's on 0 of 1 inputs" in stdout
    assert "note: on 1 of 1 inputs the two networks diverged, as float32 and float64 do" in stdout
    assert "The model file is not at fault" in stdout
    assert stdout.endswith("PASSED: the one part computes what the checkpoint says\n")


def test_what_was_found_in_the_checkpoint_is_noted(model: Path, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    state = {f"net.{name}": tensor for name, tensor in load_file(checkpoint).items()}
    save_file(state, tmp_path / "prefixed.safetensors")
    arguments = ("verify", model, tmp_path / "prefixed.safetensors", "--config", config)
    note = "the names begin with 'net.', which was taken off"
    assert f"\nnote: {note}\nnote: assumed, as neither" in run(*arguments)[0]
    assert json.loads(run(*arguments, "--format", "json")[0])["notes"][0] == note
