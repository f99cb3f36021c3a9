"""Logits in a file: the same figures, without the memory."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitvit.evaluation import Outputs, evaluate, spill
from bitvit.evaluation.spill import release, zeros
from tests.support.evaluations import same
from tests.support.paths import ROOT

linux = pytest.mark.skipif(sys.platform != "linux", reason="reserves room and releases pages as on Linux")


@linux
def test_a_large_array_is_in_a_file_and_keeps_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert zeros((3, 4)).base is None
    monkeypatch.setattr(spill, "LARGE", 48)
    array = zeros((3, 4))
    assert array.base is not None
    assert array.dtype == np.float32
    assert array.tolist() == [[0] * 4] * 3
    array[1] = 7
    release(array)
    assert array.tolist() == [[0] * 4, [7] * 4, [0] * 4]
    assert pickle.loads(pickle.dumps(array)).tolist() == array.tolist()


def test_without_a_folder_or_room_for_it_an_array_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    monkeypatch.setattr(spill, "LARGE", 0)
    array = zeros((3, 4))
    assert array.base is None
    release(array)
    assert not array.any()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_report_is_the_same(
    damaged: bool, model: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damaged:
        (noise / "1" / "bad.png").write_bytes(b"x")
    first, second = (Outputs(predictions=tmp_path / name) for name in ("memory.csv", "file.csv"))
    whole = evaluate(model, noise, on_error="skip", outputs=first)
    monkeypatch.setattr(spill, "LARGE", 0)
    assert same(evaluate(model, noise, on_error="skip", outputs=second), whole)
    assert (tmp_path / "memory.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()


PROGRAM = """
import resource
import numpy as np
from bitvit.evaluation import metrics, spill

spill.LARGE, metrics.CHUNK_ELEMENTS, metrics.BLOCK_ELEMENTS = 0, 1 << 18, 1 << 18
images, classes = 1000, 40_000
rng = np.random.default_rng(0)
targets, names, numbers = rng.integers(0, classes, images), tuple(map(str, range(classes))), tuple(range(classes))
metrics.measure(rng.random((2, classes), np.float32), targets[:2], names, numbers)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
logits = spill.zeros((images, classes))
for row in logits:
    row[:] = rng.random(classes, np.float32)
    spill.release(logits)
metrics.measure(logits, targets, names, numbers)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@linux
def test_memory_does_not_grow_with_images_times_classes() -> None:
    """The logits are 160 MB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000  # kB
