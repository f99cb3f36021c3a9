"""bitvit bench: its formats, its files, comparing two reports."""

import csv
import dataclasses
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitvit
from bitvit.bench import BenchReport, measuring, profile
from bitvit.bench.report import Result
from tests.support.bench_reports import changed, scaled
from tests.support.command import run, words
from tests.support.paths import ROOT

Packed = Callable[[str], Path]
QUICK = ("--iterations", "5", "--warmup", "1", "--threads", "1")


@pytest.mark.usefixtures("quick")
def test_the_table_has_a_row_for_each_combination(packed: Packed) -> None:
    path = packed("micro96_somefp")
    stdout, stderr = run("bench", path, *QUICK, "--batch-size", "1,2", "-b", "3", "--mode", "both", "--profile")
    lines = [line.split()[:3] for line in stdout.splitlines() if line.startswith(("latency", "throughput"))]
    assert lines == [[mode, "1", batch] for mode in ("latency", "throughput") for batch in "123"]
    for word in ("fresh process: import", "peak of the process", "decode", "threading layer none: own threads"):
        assert word in stdout
    assert "Where the time goes" in stdout
    assert "stages.2.blocks.0.attention" in stdout
    assert "…" not in stdout
    assert all(line.startswith("Warning: ") for line in stderr.splitlines())


@pytest.mark.usefixtures("quick")
def test_every_combination_is_measured(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bitvit.bench.measuring", "bitvit.runtime.runner"):
        monkeypatch.setattr(f"{module}.available_threads", lambda: 2)
    options = ("-n", "6", "--warmup", "1", "-t", "1,2", "-b", "1", "-b", "3", "--mode", "both", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(run("bench", packed("micro96_somefp"), *options)[0])))
    cells = [(row["mode"], row["threads"], row["infer_batch_size"]) for row in rows]
    assert cells == list(itertools.product(("latency", "throughput"), "12", "13"))
    assert {row["iterations"] for row in rows if row["threads"] == "1"} == {"6"}
    limits = {row["threads"]: row["limit_gmacs_per_sec"] for row in rows}
    assert [row["limit_gmacs_per_sec"] for row in rows] == [limits[row["threads"]] for row in rows]


@pytest.mark.usefixtures("quick")
def test_json_goes_into_a_file(packed: Packed, tmp_path: Path) -> None:
    image, out = tmp_path / "image.png", tmp_path / "report.json"
    Image.new("RGB", (200, 150)).save(image)
    stdout, _ = run("bench", packed("micro96_somefp"), *QUICK, "--image", image, "-f", "json", "-o", out)
    assert stdout == ""
    found = BenchReport.read(out)
    assert found.model.name == "micro96_somefp"
    assert found.results[0].iterations == 5
    assert found.profile is None
    assert found.preprocessing is not None
    assert found.preprocessing.image == f"{image}, 200 x 150 pixels"
    assert found.startup is not None
    assert found.startup.load_seconds > 0
    assert (found.startup.peak_rss_bytes or 2) > (found.startup.import_rss_bytes or 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.png", "report.json"]


@pytest.mark.usefixtures("quick")
def test_images_of_a_folder_are_measured(packed: Packed, tmp_path: Path) -> None:
    """A damaged one and what is no image are told; the exit code says that something is missing."""
    folder, out = tmp_path / "images", tmp_path / "report.json"
    (folder / "below").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "below/c.png"):
        Image.new("RGB", (120, 100)).save(folder / name)
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "d.heic").touch()
    options = (*QUICK[2:], "--seconds", "0.05", "--images", folder, "--images", folder / "b.jpg")
    _, stderr = run("bench", packed("micro96_somefp"), *options, "-r", "-f", "json", "-o", out, code=3)
    assert f"Error: {folder / 'bad.png'}: not an image that can be read" in stderr
    found = BenchReport.read(out).images
    assert found is not None
    assert (found.found, found.images, len(found.failures)) == (5, 4, 1)
    assert found.left_out == [f"{folder}: 1 file of formats that are not read (1 .heic; save them as JPEG or PNG)"]
    assert BenchReport.read(out).preprocessing is None
    for name in ("a.png", "b.jpg", "bad.png"):
        (folder / name).unlink()
    _, stderr = run("bench", packed("micro96_somefp"), "--images", folder, code=1)
    assert f"{folder}: no images in this folder" in stderr
    assert "--recursive (recursive=True) searches the 1 folder below" in stderr


@pytest.mark.usefixtures("quick")
def test_a_measured_table_in_a_file_has_its_warnings(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitvit.bench.report.UNSTEADY", -1.0)
    _, stderr = run("bench", packed("micro96_somefp"), *QUICK, "-o", tmp_path / "table.txt")
    assert "Warning: unsteady" in stderr
    assert "\nwarning: unsteady" in (tmp_path / "table.txt").read_text()


@pytest.mark.usefixtures("quick")
def test_a_profile_that_does_not_add_up_is_told(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    def times(model: bitvit.BHViT, seconds: float) -> tuple[Any, list[float], float]:  # noqa: ARG001
        steps = len(model.runner.program.steps)
        return np.full((20, steps), 0.9 / steps), [2.0] * 20, 0.1

    monkeypatch.setattr(profile, "step_times", times)
    stdout, stderr = run("bench", packed("micro96_somefp"), *QUICK, "--profile")
    assert "add up to 50.0% of ordinary calls in the same run (2000.000 ms), NOT within 10%; 20 runs" in stdout
    assert "Warning: the profile adds up to 50% of ordinary calls in the same run, expected 90 to 110%" in stderr


def test_reports_are_compared_in_every_format(report: BenchReport, tmp_path: Path) -> None:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    paths[0].write_text(changed(report, spread=0.01).to_json())
    paths[1].write_text(scaled(report, 0.5, 0.01).to_json())
    stdout, _ = run("bench", "--compare", *paths)
    assert stdout.count("faster") == 4
    rows = list(csv.DictReader(io.StringIO(run("bench", "--compare", *paths, "--format", "csv")[0])))
    assert [float(row["ratio"]) for row in rows] == pytest.approx([0.5] * 4)
    cells = json.loads(run("bench", "--compare", *paths, "--format", "json")[0])["cells"]
    assert Result(**cells[0]["first"]).p50_ms == pytest.approx(report.results[0].p50_ms)
    markdown = run("bench", "--compare", *paths, "-f", "markdown")[0]
    assert "| latency | 1 | 1 |" in markdown
    run("bench", "--compare", *paths, "-o", tmp_path / "out.md")
    assert (tmp_path / "out.md").read_text() == markdown


def test_a_table_in_a_file_has_its_warnings(report: BenchReport, tmp_path: Path) -> None:
    paths, out = (tmp_path / "a.json", tmp_path / "b.json"), tmp_path / "table.txt"
    for path in paths:
        path.write_text(changed(report, spread=0.3).to_json())
    _, stderr = run("bench", "--compare", *paths, "-o", out)
    assert "Warning: second: unsteady: medians of five parts" in stderr
    assert "\nwarning: second: unsteady: medians of five parts" in out.read_text()
    assert "unsteady" not in run("bench", "--compare", *paths)[0]


def test_reports_with_nothing_in_common_are_refused(report: BenchReport, tmp_path: Path) -> None:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, part in zip(paths, (report.results[:1], report.results[1:]), strict=True):
        path.write_text(dataclasses.replace(report, results=part).to_json())
    _, stderr = run("bench", "--compare", *paths, code=1)
    assert "have no result with the same mode, threads and batch size" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a packed model, or compare two reports with --compare"),
        (("model", "--batch-size", "0"), "expected whole numbers of at least 1, such as 1,8"),
        (("model", "--threads", "1,a"), "expected whole numbers of at least 1, such as 1,8"),
        (("model", "-n", "5", "-s", "1"), "give --iterations or --seconds, not both"),
        (("model", "-s", "inf"), "'--seconds'"),
        (("model", "-s", "nan"), "'--seconds'"),
        (("model", "--compare", "a", "b"), "measures nothing: leave out MODEL"),
        (("--compare", "a", "b", "--plot", "plot.png"), "measures nothing: leave out MODEL"),
        (("model", "--format", "xml"), "'--format'"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], message: str) -> None:
    _, stderr = run("bench", *arguments, code=2)
    assert message in words(stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.safetensors",), "Error: no.safetensors: does not exist"),
        (("no.safetensors", "-o", "no/out.json"), "Error: no/out.json: cannot be written"),
        (
            ("--compare", "no.json", "no.json"),
            "Error: no.json: no such file; check the path",
        ),
    ],
)
def test_errors_are_one_line_and_leave_no_file(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stdout, stderr = run("bench", *arguments, code=1)
    assert stdout == ""
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_old_file(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "report.json"
    out.write_text("old")
    monkeypatch.setattr(measuring, "measure_cells", interrupted)
    run("bench", packed("micro96_somefp"), *QUICK, "-o", out, code=130)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_plot_needs_matplotlib(packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "plot.png"
    _, stderr = run("bench", packed("micro96_somefp"), "--plot", out, code=1)
    assert stderr.startswith("Error: drawing needs matplotlib, which is not installed: ")
    assert not out.exists()


def test_a_plot_that_cannot_be_written_is_refused_before_measuring(packed: Packed, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "folder.png").mkdir()
    for out in (tmp_path / "folder.png", tmp_path / "no" / "plot.png"):
        _, stderr = run("bench", packed("micro96_somefp"), "--plot", out, code=1)
        assert stderr.startswith(f"Error: {out}: cannot be written: name a .png file in an existing folder")
    _, stderr = run("bench", packed("micro96_somefp"), "--plot", "plot.jpg", code=1)
    assert stderr == "Error: plot.jpg: drawings are PNG files; end the name with .png\n"


def test_a_warm_process_needs_no_numba(packed: Packed, report: BenchReport, tmp_path: Path) -> None:
    """The limits and the profile too: `report` has left them in the cache."""
    assert report.profile is not None
    script = (
        "import sys; from bitvit.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('numba' in sys.modules)\n"
    )
    options = ["--iterations", "5", "--threads", "1", "--profile", "--format", "csv"]
    command = [sys.executable, "-c", script, "bench", str(packed("micro96_somefp")), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False"
