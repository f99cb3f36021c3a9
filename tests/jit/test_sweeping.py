"""Folders of the cache that nothing uses any more."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bitvit.jit import cache, loader, sweeping
from bitvit.kernels.catalog import pool

OLD, RECENT, LAST = "0123456789abcdef01234567", "89abcdef0123456789abcdef", "fedcba9876543210fedcba98"
DAY = 86400


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """The folder in use; beside it is one that another version uses."""
    made(tmp_path / LAST, 3)
    return made(tmp_path / ("a" * 24), 0)


def made(folder: Path, days: int, *files: str) -> Path:
    """A folder of the cache that was last used so many days ago."""
    folder.mkdir()
    for name in files or ("pool.o", "classify_columns.o", f".pool.{16 * 'f'}"):
        (folder / name).write_bytes(b"code")
    age(folder, days)
    return folder


def age(path: Path, days: int) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def test_only_what_nothing_has_used_for_long_is_removed(used: Path) -> None:
    old = made(used.parent / OLD, 3 + sweeping.KEPT_DAYS + 1)
    recent = made(used.parent / RECENT, 3 + sweeping.KEPT_DAYS - 1)
    age(used, 100)
    sweeping.sweep(used)
    assert (old.exists(), recent.exists(), used.exists()) == (False, True, True)
    assert len(list(recent.iterdir())) == len(list(used.iterdir())) == 3


@pytest.mark.parametrize("days", [-20000, -1, 1, 5000])
def test_a_clock_that_is_wrong_removes_nothing(days: int, used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [made(used.parent / RECENT, 20), used.parent / LAST]
    wrong = time.time() + days * DAY
    monkeypatch.setattr(time, "time", lambda: wrong)
    age(used, 0)
    sweeping.sweep(used)
    assert all(len(list(other.iterdir())) == 3 for other in others)


def test_a_time_in_the_future_counts_for_nothing(used: Path) -> None:
    """The clock was wrong when that folder was used."""
    ahead, recent = made(used.parent / OLD, -5000), made(used.parent / RECENT, 20)
    sweeping.sweep(used)
    assert ahead.exists()
    assert recent.exists()


def test_the_only_other_folder_stays(tmp_path: Path) -> None:
    """Until a later one than that has been used."""
    used, old = made(tmp_path / RECENT, 0), made(tmp_path / OLD, 100)
    sweeping.sweep(used)
    assert old.exists()


@pytest.mark.parametrize("name", ["0123", "My_kernels", OLD.upper(), OLD + "0"])
def test_a_folder_of_another_name_is_not_touched(used: Path, name: str) -> None:
    other = made(used.parent / name, 100)
    sweeping.sweep(used)
    assert len(list(other.iterdir())) == 3


@pytest.mark.parametrize("name", ["notes.txt", "pool.o.bak", ".pool.ff", "a b.o"])
def test_a_folder_with_any_other_file_is_not_touched(used: Path, name: str) -> None:
    other = made(used.parent / OLD, 100, "pool.o", name)
    sweeping.sweep(used)
    assert {file.name for file in other.iterdir()} == {"pool.o", name}


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_links_are_not_followed(used: Path, tmp_path: Path) -> None:
    elsewhere = made(tmp_path / "elsewhere", 100, "pool.o")
    (used.parent / OLD).symlink_to(elsewhere)
    inside = made(used.parent / RECENT, 100, "pool.o")
    (inside / "pool.o").unlink()
    (inside / "pool.o").symlink_to(elsewhere / "pool.o")
    age(inside, 100)
    sweeping.sweep(used)
    assert (elsewhere / "pool.o").read_bytes() == b"code"
    assert (used.parent / OLD).is_symlink()
    assert (inside / "pool.o").is_symlink()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners")
def test_what_is_anothers_is_not_touched(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = made(used.parent / OLD, 100)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    sweeping.sweep(used)
    assert len(list(other.iterdir())) == 3


def test_use_is_noted_once_a_day(used: Path) -> None:
    age(used, 2)
    sweeping.mark_used(used)
    noted = used.stat().st_mtime
    assert time.time() - noted < DAY / 2
    age(used, 0)
    noted = used.stat().st_mtime_ns
    sweeping.mark_used(used)
    assert used.stat().st_mtime_ns == noted
    age(used, -5000)  # the clock was ahead
    sweeping.mark_used(used)
    assert abs(time.time() - used.stat().st_mtime) < DAY / 2
    sweeping.mark_used(used / "nothing")


def test_compiling_sweeps_and_loading_notes_the_use(cold: Callable[[], Path]) -> None:
    folder = cold()
    made(folder.parent / LAST, 1)
    old = made(folder.parent / OLD, 100)
    loader.addresses([pool])
    assert not old.exists()
    age(folder, 100)
    old = made(folder.parent / OLD, 100)
    cold()
    loader.addresses([pool])
    assert cache.read("pool") is not None
    assert time.time() - folder.stat().st_mtime < DAY / 2
    assert old.exists()
