"""tools/train/gpu.py and what is behind it: training by the clock, on a CPU in small."""

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bitvit
from tests.support.paths import ROOT

torch = pytest.importorskip("torch")

from bitvit.train import loop, operators  # noqa: E402
from bitvit.train.settings import Network, Settings, TrainingError  # noqa: E402
from tools.train import compact, gpu, parts, probe, timed  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own

SMALL = Network(image_size=32, depths=(1, 1, 1, 1), widths=(8, 16, 16, 32), expansion=(2, 2, 2, 2), heads=(1, 1, 2, 2))
TEACHER = Network(kind="teacher", image_size=32, widths=(8, 8, 8, 8))
WITHOUT = ("numba", "llvmlite", "typer", "rich", "sklearn", "matplotlib")  # what the other machine may lack


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that are bright above, below, left or right, as four classes."""
    generator = np.random.default_rng(3)
    labels = np.arange(count, dtype=np.uint8) % 4
    pixels = generator.integers(0, 120, (count, 32, 32, 3), dtype=np.uint8)
    halves = (np.s_[:16], np.s_[16:], np.s_[:, :16], np.s_[:, 16:])
    for image, label in zip(pixels, labels, strict=True):
        image[halves[label]] += 100
    return pixels, labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train, test = images(96), images(40)
    np.savez(tmp_path / "cifar10.npz", train_x=train[0], train_y=train[1], test_x=test[0], test_y=test[1])
    return tmp_path


@pytest.fixture(autouse=True)
def _as_on_a_gpu() -> Iterator[None]:
    with operators.plain():
        yield


def write(path: Path, settings: Settings) -> str:
    path.write_text(json.dumps(settings.to_dict()))
    return str(path)


def student(**changes: object) -> Settings:
    return Settings(network=SMALL, batch_size=16, learning_rate=5e-3, ema=0.9, mixup=0.2, **changes)  # type: ignore[arg-type]


def timed_run(settings: Settings, say: list[str] | None = None) -> timed.TimedRun:
    pixels, labels = (torch.from_numpy(array) for array in images(96))
    half = torch.full((3,), 0.5)
    torch.manual_seed(0)
    said: list[str] = []
    return timed.TimedRun(
        settings,
        loop.build(settings, 4),
        timed.Images(pixels, labels.long(), half, half),
        None,
        (said if say is None else say).append,
    )


# ------------------------------------------------------------------------------------------------------ end to end


def test_from_parts_to_a_packed_model(folder: Path) -> None:
    out, keep = folder / "out", folder / "keep"
    config = write(folder / "network.json", student())
    teacher = write(
        folder / "teacher.json", Settings(network=TEACHER, batch_size=16, optimizer="sgd", learning_rate=0.1)
    )
    assert gpu.main(["pack", "--data-folder", str(folder), "--out", str(folder), "--test", "40", "--workers", "1"]) == 0
    # In a process without what the other machine may lack.
    command = f"""
import sys
sys.modules |= dict.fromkeys({WITHOUT!r})
from tools.train import gpu
joined = gpu.main(["join", "--parts", {str(folder / "a")!r}, "--keep", {str(keep)!r}, "--workers", "1"])
sys.exit(joined or gpu.main(sys.argv[1:]))
"""
    arguments = ["train", "--config", config, "--teacher-config", teacher, "--parts", str(folder / "b")]
    arguments += ["--keep", str(keep), "--out", str(out), "--device", "cpu", "--workers", "1", "--least-epochs", "1"]
    arguments += ["--seconds", "5", "--teacher-seconds", "1", "--reserve", "1", "--every", "1"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "96 images of 32 px" in done.stdout
    told = json.loads((out / "student.json").read_text())
    assert told["done"] == 1.0
    assert told["images"] == 96
    assert told["epochs"] >= 1
    assert (out / "teacher.safetensors").exists()
    finished = ["finish", str(out / "student.safetensors"), "--data-folder", str(folder), "--out", str(folder / "run")]
    assert gpu.main([*finished, "--workers", "1"]) == 0
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["top1_pytorch"] == pytest.approx(told["top1_of_some"])
    assert result["same_predictions"] == 40
    assert "PyTorch" in (folder / "run" / "CARD.md").read_text()
    assert bitvit.load(folder / "run" / "bhvit-cifar10.safetensors").config.image_size == 32


def test_mistakes_are_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["join", "--parts", str(tmp_path), "--keep", str(tmp_path), "--workers", "1"]) == 1
    assert "no part has images of the train split" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- the training


def test_a_timed_run_learns_and_ends_with_its_time() -> None:
    said: list[str] = []
    run = timed_run(student(), said)
    run.report_seconds = 0.0
    kept: list[float] = []
    run.prepare()
    run.rate(20)
    end = time.monotonic() + 1
    run.train(end, 0.0, kept.append)
    model = run.best()
    pixels, labels = images(96)
    scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    right = (model(scaled).argmax(1).numpy() == labels).mean()
    assert time.monotonic() >= end
    assert kept == sorted(kept)
    assert kept[-1] < 1
    assert "images/s" in said[-1]
    assert right > 0.5  # a quarter by chance


def test_a_run_that_diverges_goes_back_and_slows_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: on a busy machine half a second is too short for two reports."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: 0.01 * next(ticks))
    said: list[str] = []
    run = timed_run(student(), said)
    run.report_seconds = 0.0
    run.prepare()

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            run.average.values[0].fill_(math.nan)

    run.say = say
    run.train(time.monotonic() + 0.5)
    # What the first report spoils is seen at once, and the weights are those before it.
    assert any("diverged" in text for text in said)
    assert run.slower < 1
    assert all(bool(value.isfinite().all()) for value in run.average.values)


def test_best_has_the_averaged_parameters_and_fresh_statistics() -> None:
    run = timed_run(student())
    run.prepare()
    run.rate(3)
    model = run.best()
    for own, value in zip(model.parameters(), run.average.values, strict=True):
        assert own.equal(value)
    assert not model.training
    norm = model.vit.embeddings.patch_embeddings.norm
    assert not norm.running_mean.equal(run.model.vit.embeddings.patch_embeddings.norm.running_mean)
    assert run.model.training


def test_dense_convolutions_are_the_grouped_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randn(2, 7, 7, 16, generator=generator).sign()
    weight = torch.randn(16, 4, 3, 3, generator=generator, requires_grad=True)
    for dilation in (1, 3, 5):
        results = []
        for dense in (False, True):
            y = operators.grouped_convolution(bits, weight, dilation, 4, dense=dense)
            results.append((y, *torch.autograd.grad((y * y).sum(), [weight])))
        for grouped, dense_one in zip(*results, strict=True):
            torch.testing.assert_close(grouped, dense_one, rtol=1e-4, atol=1e-4)


def test_measuring_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path / "network.json", student())
    assert gpu.main(["measure", "--config", config, "--batch", "8", "--steps", "2", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images_per_second"] > 0


def test_the_probe_tells_what_failed_and_keeps_what_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        if "--compiled" in command:
            raise subprocess.CalledProcessError(1, command, stderr="no compiler")
        return subprocess.CompletedProcess(command, 0, '{"images_per_second": 123}\n', "")

    monkeypatch.setattr(subprocess, "run", run)
    probe.probe([Path("one.json")], Path("teacher.json"), tmp_path, 60, "cpu", [512])
    assert json.loads((tmp_path / "probe.json").read_text()) == {
        "one": {"eager": 123},
        "teacher": {"eager": 123},
    }
    assert "no compiler" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- files


def test_parts_are_lossless_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CHUNK", 7)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20)
    for name, (first, end) in {"a": (0, 10), "b": (10, 20)}.items():
        parts.write_part(tmp_path / name, "train", pixels, labels, first, end, 1)
        parts.write_part(tmp_path / name, "test", pixels, labels, first, first + 1, 1)
    keep = tmp_path / "keep"
    assert parts.join_parts([tmp_path / "a"], keep, 1, {20: "other"}) == {"train": 10, "test": 1}
    with pytest.raises(TrainingError, match="the 20 training images are not those of sha256 other"):
        parts.join_parts([tmp_path / "b"], keep, 1, {20: "other"})
    assert parts.join_parts([], keep, 1, {}) == {"train": 20, "test": 2}
    with np.load(keep / "cifar10.npz") as archive:
        np.testing.assert_array_equal(archive["train_x"], pixels)
        np.testing.assert_array_equal(archive["train_y"], labels)
        np.testing.assert_array_equal(archive["test_x"], pixels[[0, 10]])


@pytest.mark.parametrize("downsampling", ["float", "binary"])
def test_a_compact_file_predicts_the_same(tmp_path: Path, downsampling: str) -> None:
    network = Network(**{**vars(SMALL), "downsampling": downsampling})
    settings = Settings(network=network)
    model = loop.build(settings, 4).eval()
    path = tmp_path / "small.safetensors"
    compact.write_compact(path, model, settings, {"epochs": 3})
    read, its_settings, told = compact.read_compact(path)
    assert (its_settings, told) == (settings, {"epochs": 3})
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(read(pixels), model(pixels), rtol=1e-4, atol=1e-5)


def test_other_files_are_no_compact_ones(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="is not a network"):
        compact.read_compact(path)
