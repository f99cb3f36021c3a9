"""bitvit train, from a folder of images to the answers of the model; what it says, and what it refuses."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitvit
from bitvit.modelfile import load_model_file
from tests.support.command import run, words
from tests.support.golden_data import find
from tests.support.imagefolders import draw_folder

for package in ("torch", "matplotlib"):
    pytest.importorskip(package, reason="needs PyTorch and matplotlib: pip install 'bitvit[train]'")

from bitvit.train import training  # noqa: E402
from bitvit.train.choosing import Wishes  # noqa: E402
from bitvit.train.loop import InterruptedRunError  # noqa: E402
from bitvit.train.preparing import Request, prepare  # noqa: E402
from bitvit.train.training import Listener, train  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own

CHANGES = ("network.depths=[1, 1, 1, 1]", "network.expansion=[2, 2, 2, 2]", "learning_rate=0.005")
SMALL = ["--size", "32", "--width", "8", "--epochs", "6", "-b", "8", "--teacher", "none", "-t", "1"]
SMALL += [part for change in CHANGES for part in ("--set", change)]


@dataclass(frozen=True)
class Done:
    """A training that has come to its end."""

    images: Path
    model: Path
    stdout: str
    stderr: str

    @property
    def folder(self) -> Path:
        return self.model.with_suffix(".run")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    place = tmp_path_factory.mktemp("training")
    images = draw_folder(place / "halves")
    (images / "above" / "broken.png").write_bytes(b"no image")
    stdout, stderr = run("train", images, "-o", place / "halves.safetensors", *SMALL)
    return Done(images, place / "halves.safetensors", stdout, stderr)


# ------------------------------------------------------------------------------------------------------ end to end
def test_the_model_classifies(done: Done) -> None:
    stdout, _ = run("classify", done.model, done.images, "--recursive", "-f", "jsonl", "--top-k", "1", code=3)
    rows = [json.loads(line) for line in stdout.splitlines()]
    right = [row["predictions"][0]["label"] == Path(row["path"]).parent.name for row in rows if "predictions" in row]
    assert len(right) == 24
    assert sum(right) >= 20


def test_labels_normalization_and_resizing_are_in_the_model(done: Done) -> None:
    model = load_model_file(done.model)
    assert model.labels == ("above", "below")
    way = model.preprocessing
    assert (way.image_size, way.resize, way.crop) == (32, 32, 32)
    # Half of the pixels are 0 to 119, half of them 100 more.
    assert np.allclose(way.mean, (59.5 + 50) / 255, atol=0.01)
    assert all(50 / 255 < std < np.hypot(120 / np.sqrt(12), 50) / 255 for std in way.std)  # noise is averaged


def test_what_is_left_in_the_folder_of_the_run(done: Done) -> None:
    assert sorted(path.name for path in done.folder.iterdir()) == [
        *("README.md", "config.json", "log.csv", "model.safetensors", "plan.json", "preprocessor_config.json"),
        *("result.json", "results.png", "unreadable.txt"),
    ]
    result = json.loads((done.folder / "result.json").read_text())
    assert result["held_out"] == result["same_predictions"] == 5
    assert result["unreadable"] == 1
    assert result["top1_bitvit"] == result["top1_pytorch"]
    assert min(result["milliseconds"].values()) > 0
    assert (done.folder / "log.csv").read_text().startswith("epoch,step,seconds,task,learning_rate,flips,top1")
    with Image.open(done.folder / "results.png") as page:
        assert page.width == 1100
        assert page.height > 1300


def test_the_plan_is_shown_with_the_options_that_change_it(done: Done) -> None:
    shown, _, told = done.stdout.partition(f"{done.model}: trained\n")
    assert "20 % of each class held out, chosen with seed 0" in shown
    for line in (
        "images    20 to train on, 5 held out, of 2 classes: above, below",
        "sizes     all 40 x 36 pixels; shorter side to 32, the centre of 32 x 32",
        "network   32 px (--size), window 1 (--window), widths 8 16 32 64 (--width), depths 1 1 1 1",
        "training  6 epochs (--minutes, --epochs) of 2 steps of 8 images (--batch-size), rate 0.005",
        "teacher   none",
    ):
        assert line in shown
    assert "5 of 5 predictions are the same" in told
    assert re.search(r"speed     \d+\.\d\d ms with 1 thread", told)


def test_an_unreadable_image_is_left_out_and_told(done: Done) -> None:
    assert "1 image of 25 cannot be read and is left out" in done.stderr
    assert "broken.png: not an image" in (done.folder / "unreadable.txt").read_text()


def test_the_card_has_front_matter_and_the_command(done: Done) -> None:
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert "library_name: bitvit" in front
    value = re.search(r"- type: accuracy\n      value: (\S+)$", front, re.MULTILINE)
    assert value is not None
    result = json.loads((done.folder / "result.json").read_text())
    assert float(value[1]) == pytest.approx(result["top1_bitvit"] / 100)
    assert f"`{result['sha256']}`" in body
    assert "bitvit train halves -o halves.safetensors --size 32" in body
    assert "--set 'network.depths=[1, 1, 1, 1]'" in body
    assert str(done.model.parent) not in card
    run("push", done.model, "me/halves", "--card", done.folder / "README.md", "--dry-run")


def test_the_folder_of_the_run_converts_to_the_same_model(done: Done, tmp_path: Path) -> None:
    stdout, _ = run("convert", done.folder, "-o", tmp_path / "again.safetensors", "--resize", "32")
    assert "class names: id2label of config.json" in stdout
    assert (tmp_path / "again.safetensors").read_bytes() == done.model.read_bytes()


# -------------------------------------------------------------------------------------------- repeating and resuming
def test_a_finished_model_is_not_replaced(done: Done) -> None:
    before = done.model.read_bytes()
    _, error = run("train", done.images, "-o", done.model, *SMALL, code=1)
    assert "halves.safetensors: is there already; name another output, or replace it with --force" in error
    colour = ("--set", "augment.colour=0.25")
    stdout, _ = run("train", done.images, "-o", done.model, *SMALL, *colour, "--force", "--dry-run")
    assert "brighter or darker by up to 25 %" in words(stdout)
    assert stdout.endswith("nothing is trained (--dry-run)\n")
    assert done.model.read_bytes() == before


class Interrupting(Listener):
    """Presses Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @contextmanager
    def training(self, name: str) -> Iterator[Any]:  # noqa: ARG002
        yield lambda run: os.kill(os.getpid(), signal.SIGINT) if run.step == self.step else None


def request(images: Path, output: Path, **changes: Any) -> Request:
    """What the command makes of SMALL."""
    wishes = Wishes(size=32, width=8, epochs=6, batch_size=8)
    fields: dict[str, Any] = {"wishes": wishes, "changes": CHANGES, "teacher": "none", "threads": 1}
    return Request(folder=images, output=output, **{**fields, **changes})


def test_a_training_that_was_stopped_goes_on_and_ends_with_the_same_bits(done: Done, tmp_path: Path) -> None:
    output = tmp_path / "halves.safetensors"
    with pytest.raises(InterruptedRunError):
        train(prepare(request(done.images, output)), Interrupting(5))
    assert not output.exists()
    assert (tmp_path / "halves.run" / "state.pt").exists()
    _, error = run("train", done.images, "-o", output, *SMALL, "--set", "seed=3", code=1)
    assert "holds a training that was begun with other arguments" in error
    stdout, _ = run("train", done.images, "-o", output, *SMALL)
    assert "(goes on where it stopped)" in stdout
    assert output.read_bytes() == done.model.read_bytes()


def test_other_images_do_not_go_on(done: Done, tmp_path: Path) -> None:
    images = Path(shutil.copytree(done.images, tmp_path / "halves"))
    output = tmp_path / "model.safetensors"
    with pytest.raises(InterruptedRunError):
        train(prepare(request(images, output)), Interrupting(1))
    (images / "above" / "00.png").unlink()
    _, error = run("train", images, "-o", output, *SMALL, code=1)
    assert "are not those that this training was begun with" in error


def test_a_training_that_was_killed_after_it_wrote_its_output_ends_well(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "halves.safetensors"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            train(prepare(request(done.images, output)))
    assert output.read_bytes() == done.model.read_bytes()
    stdout, _ = run("train", done.images, "-o", output, *SMALL)
    assert "(goes on where it stopped)" in stdout
    assert output.read_bytes() == done.model.read_bytes()
    assert "state.pt" not in {path.name for path in output.with_suffix(".run").iterdir()}


def test_a_file_that_a_stopped_training_has_not_written_is_not_replaced(done: Done, tmp_path: Path) -> None:
    output = tmp_path / "halves.safetensors"
    with pytest.raises(InterruptedRunError):
        train(prepare(request(done.images, output)), Interrupting(1))
    output.write_bytes(b"mine")
    _, error = run("train", done.images, "-o", output, *SMALL, code=1)
    assert "halves.safetensors: is there already" in error


# ----------------------------------------------------------------------------------------------------- starting from
@pytest.mark.parametrize("what", ["packed", "folder"])
def test_another_number_of_classes_starts_from_a_model(what: str, done: Done, tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "three", 8, ("a", "b", "c"))
    source = done.model if what == "packed" else done.folder
    arguments = ["--from", source, "--epochs", "1", "-b", "8", "--teacher", "none", "-t", "1"]
    stdout, _ = run("train", images, "-o", tmp_path / "three.safetensors", *arguments)
    kind = "the signs and scales of a packed model" if what == "packed" else "the weights of a checkpoint"
    assert f"start     {kind}" in stdout
    model = bitvit.load(tmp_path / "three.safetensors")
    assert model.labels == ("a", "b", "c")
    assert model.config.hidden_sizes == (8, 16, 32, 64)
    assert model.preprocessing.mean == load_model_file(done.model).preprocessing.mean


def test_the_authors_checkpoint_is_a_start(done: Done, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copy(find("pth/checkpoint.pth"), tmp_path / "checkpoint.pth"))
    config = json.loads(find("cases/micro96_pth.json").read_text())["config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    prepared = prepare(Request(folder=done.images, output=tmp_path / "m.safetensors", start=checkpoint, teacher="none"))
    assert prepared.plan.settings.network.image_size == 96
    assert prepared.start is not None
    assert not prepared.start.packed


# ----------------------------------------------------------------------------------------------------------- mistakes
def test_without_torch_a_line_says_how_to_get_it(done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    _, error = run("train", done.images, "-o", tmp_path / "m.safetensors", code=1)
    assert error.startswith("Error: training needs PyTorch, which is not installed: ")
    assert "-m pip install torch --index-url https://download.pytorch.org/whl/cpu" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "72"], "image_size is 72"),
        (["--window", "4", "--size", "96"], "window_size is 4"),
        (["--width", "12"], "--width 12: expected a multiple of 8"),
        (["--teacher", "nothing.safetensors", "--size", "32", "--width", "8"], "nothing.safetensors: cannot be read"),
        (["--from", "nothing.safetensors"], "nothing.safetensors"),
        (["--set", "epoch=3", "--size", "32", "--width", "8"], "unknown fields ['epoch']"),
        (["--hold-out", "1"], "--hold-out 1: expected a share between 0 and 1"),
        (["--config", "nothing.json"], "nothing.json: no such file"),
        (["-b", "50", "--size", "32", "--width", "8"], ""),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: list[str], message: str, done: Done, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    code = 0 if not message else 1
    extra = ["--dry-run"] if not message else []
    stdout, error = run("train", done.images, "-o", output, "--epochs", "1", *arguments, *extra, code=code)
    assert message in error
    assert error.count("Error: ") == code
    assert list(tmp_path.iterdir()) == []
    assert "of 20 images" in stdout if not message else stdout == ""


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("nowhere/m.safetensors", "cannot be written: its folder does not exist"),
        ("m.onnx", "which is no .onnx file; name it m.safetensors"),
        ("full.safetensors", "is there already and is not the folder of a training"),
    ],
)
def test_impossible_outputs_are_told_first(output: str, message: str, done: Done, tmp_path: Path) -> None:
    (tmp_path / "full.run").mkdir()
    (tmp_path / "full.run" / "thesis.txt").write_text("mine")
    _, error = run("train", done.images, "-o", tmp_path / output, *SMALL, code=1)
    assert message in error
    assert (tmp_path / "full.run" / "thesis.txt").read_text() == "mine"
