"""The folder of compiled functions and its files."""

import contextlib
import errno
import importlib.metadata
import os
import shutil
import stat
import sys
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
def test_nobody_else_may_write_to_the_folder(tmp_path: Path) -> None:
    """Whatever the umask is, and to those around it that had to be made."""
    before = os.umask(0)
    try:
        folder = cache.folder()
    finally:
        os.umask(before)
    assert folder is not None
    assert folder.is_relative_to(tmp_path)
    for path in (folder, folder.parent):
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
    assert cache.place() == folder
    assert cache.problem() == ""


def test_a_umask_that_lets_nobody_look_is_obeyed() -> None:
    before = os.umask(0o077)
    try:
        cache.write("pool", CODE)
    finally:
        os.umask(before)
    file = file_of("pool")
    for path in (file, file.parent):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


needs_permissions = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners and permissions")


@needs_permissions
def test_a_folder_that_others_may_write_to_is_not_used() -> None:
    cache.write("pool", CODE)
    folder = file_of("pool").parent
    folder.chmod(0o777)
    assert cache.folder() is cache.place() is None
    assert cache.read("pool") is None
    assert cache.problem() == f"{folder}: others may write to it, which chmod go-w would end"
    folder.chmod(0o755)
    assert cache.read("pool") == CODE
    assert cache.problem() == ""


@needs_permissions
def test_a_folder_inside_one_that_others_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could put another in its place."""
    cache.write("pool", CODE)
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "bitvit").rename(shared / "bitvit")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(shared))
    shared.chmod(0o777)
    assert cache.folder() is cache.place() is None
    assert cache.read("pool") is None
    assert cache.problem() == f"{shared}: others may write to it, which chmod go-w would end"
    shared.chmod(0o755)
    assert cache.read("pool") == CODE


@needs_permissions
def test_a_file_that_others_may_write_to_is_not_read(tmp_path: Path) -> None:
    cache.write("pool", CODE)
    file = file_of("pool")
    file.chmod(0o664)
    assert cache.read("pool") is None
    file.chmod(0o644)
    assert cache.read("pool") == CODE
    file.rename(tmp_path / "elsewhere.o")
    file.symlink_to(tmp_path / "elsewhere.o")
    assert cache.read("pool") is None


@needs_permissions
def test_a_folder_on_a_read_only_disk_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system tells it; tests/jit/test_containers.py has a real one."""
    cache.write("pool", CODE)
    folder = cache.folder()
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    assert cache.folder() is None
    assert cache.place() == folder
    assert cache.read("pool") == CODE
    assert cache.problem() == f"{folder}: this user may not write to it, or it is on a read-only disk"
    cache.write("classify", CODE)
    assert cache.read("classify") is None


def test_kernels_for_another_processor_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that was filled on another machine and cannot be added to."""
    (tmp_path / "bitvit" / "0123456789abcdef01234567").mkdir(parents=True)

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    place = tmp_path / "bitvit" / own_fingerprint()
    assert cache.problem() == f"{place}: Read-only file system (beside it are kernels for other processors or versions)"


def test_no_place_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert cache.folder() is None
    assert cache.problem() == f"{tmp_path / 'file' / 'bitvit'}: Not a directory"
    cache.write("pool", CODE)
    assert cache.read("pool") is None


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a user number that the system does not know."""

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    assert cache.folder() is cache.place() is None
    assert cache.problem() == "there is no folder of this user's (Could not determine home directory.)"


@pytest.mark.parametrize(
    ("platform", "place"), [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")]
)
def test_the_folder_lies_where_the_platform_has_caches(
    platform: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    folder = cache.folder()
    assert folder is not None
    assert folder.parent == tmp_path / place / "bitvit"


def own_fingerprint() -> str:
    """As a process of its own would compute it."""
    return cache.fingerprint(cache.toolchain(), cache.sources())


def test_the_folder_is_named_by_the_fingerprint() -> None:
    folder = cache.folder()
    assert folder is not None
    assert folder.name == own_fingerprint()


@pytest.mark.parametrize("edited", ["kernels/simd.py", "kernels/catalog.py", "jit/compiler.py"])
def test_an_edit_gives_another_folder(edited: str, tmp_path: Path) -> None:
    """Of a helper's file too, which is inlined into many kernels, and of what says how they are compiled."""
    copies = []
    for source in cache.sources():
        copy = tmp_path / source.relative_to(ROOT / "bitvit")
        copy.parent.mkdir(exist_ok=True)
        copies.append(Path(shutil.copy(source, copy)))
    assert cache.fingerprint(cache.toolchain(), copies) == own_fingerprint()
    with (tmp_path / edited).open("a") as file:
        file.write("# edited\n")
    assert cache.fingerprint(cache.toolchain(), copies) != own_fingerprint()


def test_a_source_under_another_name_gives_another_folder(tmp_path: Path) -> None:
    *others, last = cache.sources()
    renamed = Path(shutil.copy(last, tmp_path / "renamed.py"))
    assert cache.fingerprint(cache.toolchain(), [*others, renamed]) != own_fingerprint()


@pytest.mark.parametrize(
    ("name", "value"), [("CPU", "nehalem"), ("FEATURES", "+sse4.2"), ("TRIPLE", "riscv64-unknown-linux-gnu")]
)
def test_another_processor_gives_another_folder(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own_fingerprint()
    monkeypatch.setattr(target, name, value)
    assert own_fingerprint() != before


def test_another_numba_gives_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = own_fingerprint()
    assert importlib.metadata.version("numba") in cache.numba_version()
    monkeypatch.setattr(cache, "numba_version", lambda: "0")
    assert own_fingerprint() != before


def test_another_python_gives_another_folder_only_if_its_bytecode_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.11.2 and 3.11.7 do not compile the same kernels twice."""
    before = own_fingerprint()
    monkeypatch.setattr(sys, "version", f"{sys.version} of another day")
    assert own_fingerprint() == before
    monkeypatch.setattr(sys.implementation, "cache_tag", "cpython-399")
    assert own_fingerprint() != before


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


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_nobody_else_may_write_to_a_file() -> None:
    """Whatever the umask is: what is in it gets executed."""
    before = os.umask(0)
    try:
        cache.write("pool", CODE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file_of("pool").stat().st_mode) & 0o022 == 0


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing_behind(problem: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is not an error; Ctrl-C is passed on."""

    def fail(*_: Path) -> None:
        raise problem

    monkeypatch.setattr(Path, "replace", fail)
    with contextlib.suppress(KeyboardInterrupt):
        cache.write("pool", CODE)
    assert cache.read("pool") is None
    assert list(file_of("pool").parent.iterdir()) == []
