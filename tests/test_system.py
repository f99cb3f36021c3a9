"""How many cores a process may use."""

from pathlib import Path

import pytest

from bitvit import system
from bitvit.system import available_threads


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "BITVIT_NUM_THREADS"])
def test_environment_limits_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("BITVIT_NUM_THREADS", raising=False)
    free = available_threads()
    monkeypatch.setenv(name, "1")
    assert available_threads() == 1
    for ignored in ("0", "many", "", "-3"):
        monkeypatch.setenv(name, ignored)
        assert available_threads() == free
    monkeypatch.setenv(name, str(free + 5))
    assert available_threads() == free


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)])
def testcgroup_quota(text: str, quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(system, "_CGROUP", tmp_path)
    assert system.cgroup_quota() == quota
