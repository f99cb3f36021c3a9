"""bench.machine: what is told of the machine, and how busy others kept it."""

import os
import subprocess
from pathlib import Path

import pytest

import bitvit
from bitvit.bench import machine
from bitvit.bench.machine import Load


def test_share_of_others_is_what_other_processes_took() -> None:
    before, after = Load(100.0, 10.0, 0.0), Load(106.0, 12.0, 4.0)
    cores = os.cpu_count() or 1
    assert machine.share_of_others(before, after) == pytest.approx(min(1.0, 4 / 4 / cores))
    assert machine.share_of_others(None, after) is None
    assert machine.share_of_others(before, before) is None
    tick = Load(100.01, 10.0, 0.02)  # all that can be told of a fiftieth of a second is 0, 50 or 100 %
    assert machine.share_of_others(before, tick) is None


def test_environment_tells_cores_and_versions() -> None:
    found = machine.environment()
    assert found.threading_layer == "none: own threads"
    assert found.bitvit == bitvit.__version__
    assert found.cores >= found.available_threads >= 1
    assert {"numpy", "numba", "llvmlite"} <= found.versions.keys()
    assert found.instruction_set


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ({"avx512vpopcntdq", "avx2"}, "AVX-512 VPOPCNTDQ"),
        ({"avx2", "sse4.2", "ssse3"}, "AVX2, bits counted by tables"),
        ({"neon"}, "NEON, bits counted by bytes"),
    ],
)
def test_the_instruction_set_is_named_after_the_features(
    features: set[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitvit.kernels.target.target_has", features.__contains__)
    assert machine.instruction_set() == name


def test_a_checkout_of_another_project_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(machine, "ROOT", tmp_path / "site-packages")
    assert machine.commit() is None
