"""Whose files are executed."""

import os
import stat
from pathlib import Path

import pytest

from bitvit.jit.trust import fault_around, fault_of

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners and permissions")

ME = os.geteuid() if hasattr(os, "geteuid") else 0
STRANGER = 54321


def status(mode: int, owner: int, group: int | None = None) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, owner, owner if group is None else group, 0, 0, 0, 0))


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFREG])
def test_what_this_user_or_root_owns_and_nobody_else_may_write(kind: int) -> None:
    for owner in (0, ME):
        for mode in (0o700, 0o755, 0o444):
            assert fault_of("it", status(kind | mode, owner)) == ""
        for mode in (0o775, 0o757, 0o622):
            assert (
                fault_of("it", status(kind | mode, owner)) == "it: others may write to it, which chmod go-w would end"
            )
    expected = f"it: belongs to user {STRANGER}, neither to this one ({ME}) nor to root"
    assert fault_of("it", status(kind | 0o755, STRANGER)) == expected


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_what_is_neither_a_folder_nor_a_file(kind: int) -> None:
    assert fault_of("it", status(kind | 0o700, ME)) == "it: is neither a folder nor a file"


def with_status(found: dict[str, os.stat_result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that are as this says; all others do not exist."""

    def lstat(self: Path) -> os.stat_result:
        try:
            return found[str(self)]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory", str(self)) from None

    monkeypatch.setattr(Path, "lstat", lstat)


@pytest.mark.parametrize(
    ("mode", "owner", "group", "harmless"),
    [
        (0o755, 0, 0, True),
        (0o700, 1000, 1000, True),
        (0o1777, 0, 0, True),  # as /tmp
        (0o775, 1000, 1000, True),  # a group of this user alone, as many systems make one for each
        (0o775, 1000, 100, False),
        (0o775, 0, 0, False),
        (0o777, 1000, 1000, False),
        (0o755, STRANGER, STRANGER, False),
        (0o1777, STRANGER, STRANGER, False),
    ],
)
def test_folders_around(mode: int, owner: int, group: int, harmless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any of them others could put another folder in the place of ours."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    good = status(stat.S_IFDIR | 0o755, 0)
    for which in ("/a/b/c", "/a/b", "/a", "/"):
        folders = dict.fromkeys(("/a/b/c", "/a/b", "/a", "/"), good)
        with_status(folders | {which: status(stat.S_IFDIR | mode, owner, group)}, monkeypatch)
        fault = fault_around("/a/b/c")
        assert fault.startswith("" if harmless else f"{which}: ")
        assert bool(fault) != harmless


def test_a_folder_that_is_not_there_is_looked_at_again(tmp_path: Path) -> None:
    """Somebody else may be the one who makes it."""
    folder = tmp_path / "later"
    assert fault_around(str(folder)) == ""
    folder.mkdir()
    folder.chmod(0o777)
    assert fault_around(str(folder)).startswith(f"{folder}: others may write")


@pytest.mark.parametrize(("uid_map", "inside"), [("0 1000 1", True), ("0 0 4294967295", False)])
def test_a_sandbox_has_the_systems_folders_as_nobodys(
    uid_map: str, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace root outside has the number of all that are unknown there; elsewhere that is somebody."""
    texts = {"/proc/sys/kernel/overflowuid": "65534", "/proc/self/uid_map": uid_map}
    monkeypatch.setattr(Path, "read_text", lambda self, **_: texts[str(self)])
    folders = {"/": status(stat.S_IFDIR | 0o755, 65534), "/a": status(stat.S_IFDIR | 0o700, ME)}
    with_status(folders, monkeypatch)
    assert bool(fault_around("/a")) != inside
    with_status(folders | {"/": status(stat.S_IFDIR | 0o777, 65534)}, monkeypatch)
    assert fault_around("/a") != ""
