"""The folder of compiled functions and its files."""

import errno
import stat
from pathlib import Path

import pytest

from bitvit.jit import cache
from bitvit.kernels import target
from tests.support.paths import ROOT

CODE = bytes(range(256)) * 4


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))


# ------------------------------------------------------------------------------------------------------- folder
def test_the_folder_is_private(tmp_path: Path) -> None:
    folder = cache.folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def test_a_folder_that_others_may_write_to_is_not_used() -> None:
    folder = cache.folder()
    assert folder is not None
    cache.write("pool", CODE)
    folder.chmod(0o777)
    assert cache.folder() is None
    assert cache.read("pool") is None


def test_no_place_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert cache.folder() is None
    cache.write("pool", CODE)
    assert cache.read("pool") is None


def fingerprint() -> str:
    """As a process of its own would compute it."""
    found: str = cache._fingerprint.__wrapped__()
    return found


def test_an_edit_gives_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a helper's file too, which is inlined into many kernels."""
    before = fingerprint()
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    for source in (ROOT / "bitvit" / "kernels").glob("*.py"):
        (kernels / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(cache, "_KERNELS", kernels)
    assert fingerprint() == before
    with (kernels / "simd.py").open("a") as file:
        file.write("# edited\n")
    assert fingerprint() != before


@pytest.mark.parametrize(("name", "value"), [("CPU", "nehalem"), ("FEATURES", "+sse4.2")])
def test_another_processor_gives_another_folder(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    monkeypatch.setattr(target, name, value)
    assert fingerprint() != before


def test_another_numba_gives_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    assert "version" in cache._numba_version()
    monkeypatch.setattr(cache, "_numba_version", lambda: "0")
    assert fingerprint() != before


# -------------------------------------------------------------------------------------------------------- files
def file_of(name: str) -> Path:
    folder = cache.folder()
    assert folder is not None
    return folder / f"{name}.o"


def test_what_is_written_is_read() -> None:
    assert cache.read("pool") is None
    cache.write("pool", CODE)
    assert cache.read("pool") == CODE
    assert file_of("pool").read_bytes().startswith(CODE)
    cache.write("pool", CODE[::-1])
    assert cache.read("pool") == CODE[::-1]
    assert [f.name for f in file_of("pool").parent.iterdir()] == ["pool.o"]


def test_a_damaged_file_is_not_read() -> None:
    cache.write("pool", CODE)
    whole = file_of("pool").read_bytes()
    flipped = bytearray(whole)
    for damaged in (b"", whole[:10], whole[:-1], whole + b"\0", CODE, bytes(len(whole))):
        file_of("pool").write_bytes(damaged)
        assert cache.read("pool") is None
    for at in (0, 500, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        file_of("pool").write_bytes(flipped)
        assert cache.read("pool") is None


def test_a_file_under_another_name_is_not_read() -> None:
    cache.write("pool", CODE)
    file_of("pool").rename(file_of("classify"))
    assert cache.read("classify") is None


def test_a_full_disk_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    cache.write("pool", CODE)
    assert cache.read("pool") is None
    assert list(file_of("pool").parent.iterdir()) == []
