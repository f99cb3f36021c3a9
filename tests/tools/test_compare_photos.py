"""tools/compare_photos.py: engines behind a pool that prepares photographs, in order; its table."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bitvit import Classifier, Preprocessing
from bitvit.images import open_image
from tests.support.golden_data import load_case
from tests.support.paths import ROOT
from tools import compare_photos
from tools.bench_pipeline import make_small
from tools.compare_photos import Timed, bitvit_job, measure, peer_job, record, table
from tools.peers import packages
from tools.peers.contenders import CONTENDERS, Pixels
from tools.results import read_results

CIFAR = ROOT / "weights" / "bhvit-cifar10.safetensors"
with_onnx = pytest.mark.skipif(
    not packages.installed("onnx", "onnxruntime"), reason="needs onnx and onnxruntime: pip install 'bitvit[bench]'"
)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    make_small(tmp_path / "small", 9)
    return sorted((tmp_path / "small").rglob("*.png"))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_gets_every_image_prepared_and_in_order(paths: list[Path], threads: int) -> None:
    preprocessing = Preprocessing.for_image_size(32)
    seen: list[Pixels] = []

    def run(pixels: Pixels) -> Any:
        seen.append(pixels)
        return np.eye(10)[[len(seen) % 10]]

    assert peer_job(run, preprocessing, threads)(paths) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert np.array_equal(np.concatenate(seen), [preprocessing(open_image(path)) for path in paths])


def test_bitvits_labels_are_those_of_a_classifier(paths: list[Path]) -> None:
    expected = Classifier(CIFAR, threads=1).logits(paths).argmax(axis=1)
    assert bitvit_job(CIFAR, 1)(paths) == expected.tolist()


def test_contenders_take_turns(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_photos, "say", lambda _: None)
    calls: list[tuple[str, int]] = []

    def job(name: str) -> compare_photos.Job:
        def answer(given: Sequence[Path]) -> list[int]:
            calls.append((name, len(given)))
            return [7] * len(given)

        return answer

    found = measure({"one": job("one"), "two": job("two")}, paths, rounds=2)
    assert calls == [("one", 2), ("two", 2), ("one", 9), ("two", 9), ("one", 9), ("two", 9)]
    assert [len(runs) for runs in found.values()] == [2, 2]
    assert found["one"][0].answers == [7] * 9
    assert found["one"][0].wall > 0


def test_the_table_has_ratios_and_same_labels() -> None:
    known = {contender.key: contender for contender in CONTENDERS}
    chosen = [known[key] for key in ("bitvit", "bhvit-onnxruntime", "mobilenet-int8")]
    found = {
        "bitvit": [Timed(0.02, 0.04, [1, 2])] * 2,
        "bhvit-onnxruntime": [Timed(0.6, 1.2, [1, 3])] * 2,
        "mobilenet-int8": [Timed(0.01, 0.02, [8, 9])] * 2,
    }
    stored = json.loads(json.dumps(record("BHViT-small", chosen, found, threads=2, photos=2, others=0.01)))
    lines = table(stored).splitlines()
    assert lines[2:5] == [
        "| **BHViT-small** | **bitvit** | **100** | **10.0 ms** | **20.0 ms** | **2 of 2** |",
        "| BHViT-small | ONNX Runtime float32 | 3 | 300 ms (30 x) | 600 ms | 1 of 2 |",
        "| MobileNetV2 | OpenVINO INT8 | 200 | 5.00 ms (0.50 x) | 10.0 ms | – |",
    ]
    assert lines[6].startswith(
        "2 JPEGs of 500 x 375 pixels, 2 threads; in brackets how many times bitvit's: medians of 2"
    )
    assert "numpy" in lines[6]
    assert table(stored | {"others": 0.25}).endswith(" Other processes used 25% of the processors.\n")


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.compare_photos", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_mistake_is_told(tmp_path: Path) -> None:
    done = compare(tmp_path / "no.pth", "--contenders", "bitvit")
    assert done.returncode == 1
    assert done.stderr.startswith("compare_photos: ")
    assert "no.pth: no such file" in done.stderr


@with_onnx
def test_a_whole_run_stores_its_results(tmp_path: Path) -> None:
    case = load_case("micro96_binary")
    save_file(dict(case.state), tmp_path / "checkpoint.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(dict(case.config)))
    options = ("--photos", 4, "--rounds", 1, "--threads", 1, "--contenders", "bhvit-onnxruntime")
    stored = tmp_path / "stored.json"
    done = compare(
        tmp_path / "checkpoint.safetensors", "--config", tmp_path / "config.json", *options, "--record", stored
    )
    assert done.returncode == 0, done.stderr
    rows = read_results(stored)["peers-photos"]["results"]
    assert [row["engine"] for row in rows] == ["bitvit", "ONNX Runtime float32"]
    assert "| ONNX Runtime float32 |" in done.stdout
