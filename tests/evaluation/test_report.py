"""What a report and a comparison write."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitvit
from bitvit.evaluation import Outputs, compare, evaluate
from tests.support.colours import IMAGES, Colours
from tests.support.evaluations import rows_of

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bitvit[evaluate]'")


def test_saved_files(folder: Path, tmp_path: Path) -> None:
    (folder / "red" / "0.png").write_bytes(b"x")
    report = evaluate(Colours(), folder, on_error="skip", outputs=Outputs(report=tmp_path / "out" / "deep"))
    out = tmp_path / "out" / "deep"
    assert sorted(path.name for path in out.iterdir()) == [
        "calibration.png",
        "classes.csv",
        "confusion.csv",
        "confusion.png",
        "confusions.csv",
        "failures.csv",
        "report.json",
    ]
    saved = json.loads((out / "report.json").read_text())
    assert saved == json.loads(json.dumps(report.to_dict()))
    assert (saved["top1"], saved["images"], saved["versions"]["bitvit"]) == (0.75, 4, bitvit.__version__)
    rows = list(csv.reader(io.StringIO((out / "confusion.csv").read_text())))
    assert rows == [["true \\ answer", "red", "green", "blue"], ["red", "1", "0", "0"], ["green", "0", "1", "0"], [
        "blue", "0", "1", "1"]]  # fmt: skip
    assert saved["confusion"] == [[0, 0, 1], [1, 1, 1], [2, 1, 1], [2, 2, 1]]
    assert [tuple(row.values()) for row in rows_of(out / "confusions.csv")] == [
        ("red", "red", "1"),
        ("green", "green", "1"),
        ("blue", "green", "1"),
        ("blue", "blue", "1"),
    ]
    classes = rows_of(out / "classes.csv")
    assert [(row["name"], row["images"], row["recall"]) for row in classes][2] == ("blue", "2", "0.5")
    assert rows_of(out / "failures.csv")[0]["path"].endswith("0.png")
    for name in ("confusion.png", "calibration.png"):
        with Image.open(out / name) as drawn:
            assert min(drawn.size) > 300
    (folder / "red" / "0.png").unlink()
    evaluate(Colours(), folder, outputs=Outputs(report=out))
    assert not (out / "failures.csv").exists()


def test_of_many_classes_there_is_no_matrix(tmp_path: Path) -> None:
    class Many(Colours):
        def __call__(self, pixels: Any, /) -> Any:
            return np.repeat(super().__call__(pixels), 100, axis=1)

    (tmp_path / "confusion.csv").write_text("of an earlier evaluation")
    report = evaluate(Many(labels=None, classes=300), (IMAGES, [0, 0, 100, 200, 200]))
    written = report.save(tmp_path)
    assert sorted(written) == sorted(tmp_path.iterdir())
    assert "confusion.csv" not in {path.name for path in written}
    assert len(rows_of(tmp_path / "confusions.csv")) == 4
    assert (tmp_path / "report.json").stat().st_size < 100_000


def test_saved_comparison(folder: Path, tmp_path: Path) -> None:
    compare([Colours(), Colours()], folder, outputs=Outputs(report=tmp_path / "out"))
    rows = rows_of(tmp_path / "out" / "summary.csv")
    assert [(row["model"], row["top1"]) for row in rows] == [
        ("Colours", "0.8"),
        ("Colours", "0.8"),
        ("mean", "0.8"),
        ("standard deviation", "0.0"),
    ]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["mean"]["top1"] == 0.8
    assert (tmp_path / "out" / "1-Colours" / "confusion.png").exists()
