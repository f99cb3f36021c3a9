"""How many cores a process may use, and how much memory it has used."""

from pathlib import Path

import pytest

from bitvit.system import available_threads, cgroup_quota, peak_rss


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
def test_the_quota_of_a_control_group(text: str, quota: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota_us", "quota"), [("250000", 2.5), ("-1", None)])
def test_the_quota_of_a_control_group_of_version_1(quota_us: str, quota: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota_us)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cgroup_quota(tmp_path) == quota


def test_the_peak_of_memory_is_that_of_this_process() -> None:
    before = peak_rss()
    if before is None:
        pytest.skip("this system does not tell")
    assert 1 << 24 < before < 1 << 40  # an interpreter with NumPy has 30 MB
    held = bytearray(before)
    assert (peak_rss() or 0) >= before + len(held) // 2
