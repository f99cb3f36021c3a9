"""bitvit inspect: tables, JSON, and the checksum."""

import json
import re
from pathlib import Path

from safetensors.numpy import load_file, save_file

import bitvit
from bitvit.config import Config
from bitvit.modelfile import load_model_file
from tests.support.command import run
from tests.support.paths import ROOT


def test_the_table_has_every_layer_and_the_totals(model: Path) -> None:
    stdout, _ = run("inspect", model)
    size = model.stat().st_size
    assert f"{model}: packed model, bitvit {bitvit.__version__}" in stdout
    assert re.search(r"image_size +96\n", stdout)
    assert re.search(r"stages\.0\.blocks\.0\.mixer\.convs\.2 +binary conv 3x3, dilation 5 +\d+ x \d+ x 3 x 3", stdout)
    assert re.search(rf"total .* {size:,} *\n", stdout)
    assert re.search(rf"file: {size:,} bytes   OPs = .* = [\d.]+ M", stdout)
    assert "…" not in stdout


def test_json_of_model_and_checkpoint_agree(model: Path, checkpoint: Path, config: Path) -> None:
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


def test_a_checkpoint_is_inspected_too(checkpoint: Path, config: Path) -> None:
    stdout, _ = run("inspect", checkpoint, "--config", config)
    assert f"{checkpoint}: training checkpoint" in stdout


def test_labels_are_shown(model: Path, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "out.safetensors"
    count = load_model_file(model).config.num_classes
    labels.write_text("\n".join(f"class {number}" for number in range(count)))
    run("convert", checkpoint, "-o", out, "--config", config, "--labels", labels)
    assert f"class 0, class 1, class 2, class 3, ... ({count})" in run("inspect", out)[0]


def test_check_tells_unchanged_changed_and_unknown(model: Path, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    """Unchanged, changed, without a checksum, and a file that has none."""
    out, _ = run("inspect", model, "--check")
    checksum = load_model_file(model).checksum
    assert out == f"{model}: unchanged, its bytes match its checksum {checksum}\n"
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
    assert "--check: is not a packed model" in error
    assert "--check: is not a packed model" in run("inspect", checkpoint, "--check", code=1)[1]  # whatever its window


def test_a_config_for_a_packed_model_is_refused(model: Path) -> None:
    _, error = run("inspect", model, "--config", "no.json", code=1)
    told = "is a packed model, which holds its configuration; leave out --config (config=), it is for checkpoints"
    assert error == f"Error: {model}: {told}\n"


def test_a_missing_file_is_named() -> None:
    assert run("inspect", "no.pth", code=1)[1] == "Error: no.pth: no such file; check the path\n"


def test_what_was_found_and_assumed_is_noted(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    """Names with a prefix, and a window that nothing tells: the table and the JSON say so."""
    state = {f"net.{name}": tensor for name, tensor in load_file(checkpoint).items()}
    save_file(state, tmp_path / "prefixed.safetensors")
    note = "the names begin with 'net.', which was taken off"
    assert f"  note: {note}\n" in run("inspect", tmp_path / "prefixed.safetensors", "--config", config)[0]
    found = json.loads(run("inspect", tmp_path / "prefixed.safetensors", "--config", config, "-f", "json")[0])
    plain = json.loads(run("inspect", checkpoint, "--config", config, "-f", "json")[0])
    assert found["notes"] == [note, *plain["notes"]]
    assert plain["notes"][0].startswith("assumed, as neither the checkpoint nor a config.json says it: mean over all")
