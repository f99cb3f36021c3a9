"""Locks by which processes share the work of compiling."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitvit.jit import cache, claims
from bitvit.jit.claims import SEATS, Claims, compile_once
from bitvit.kernels.catalog import Function, classify, pool
from tests.support.paths import ROOT
from tests.support.patience import patience

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX record locks")

HOLD = """
import sys
from pathlib import Path
from bitvit.jit.claims import Claims
from bitvit.kernels.catalog import pool
claims = Claims(Path(sys.argv[1]))
print(claims.seats(1), claims.take(pool), flush=True)
sys.stdin.read()
"""


class Holder:
    """A process with a seat and the claim on `pool`."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "[0] True\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=patience(60))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    process = Holder(tmp_path)
    yield process
    process.kill()


def test_what_another_process_has_is_not_taken_until_it_is_killed(holder: Holder, tmp_path: Path) -> None:
    with Claims(tmp_path) as mine:
        assert (mine.seats(2), mine.take(pool), mine.take(classify)) == ([1], False, True)
        holder.kill()
        assert (mine.seats(2), mine.take(pool)) == ([0, 1], True)


def test_what_is_released_another_process_takes(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine:
        assert (mine.seats(2), mine.take(pool)) == ([0, 1], True)
        mine.leave_seats()
        mine.release(pool)
        Holder(tmp_path).kill()


def test_claims_end_with_their_context_and_leave_an_empty_file(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine:
        assert (mine.seats(1), mine.take(pool)) == ([0], True)
    Holder(tmp_path).kill()
    assert [(file.name, file.stat().st_size, file.stat().st_mode & 0o22) for file in tmp_path.iterdir()] == [
        (claims.FILE, 0, 0)
    ]


@pytest.mark.usefixtures("holder")
def test_a_process_that_has_given_up_acts_alone(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine:
        mine.give_up()
        assert (mine.seats(2), mine.take(pool)) == ([0, 1], True)
        mine.release(pool)


@pytest.mark.usefixtures("holder")
@pytest.mark.parametrize("lacking", ["folder", "file", "link", "locks", "Windows"])
def test_where_nothing_can_be_claimed_all_is_this_processs(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cache; no way to make the file; a disk that knows no locks; a system that has others."""
    folder: Path | None = tmp_path
    if lacking == "folder":
        folder = None
    elif lacking in ("file", "link"):
        folder = tmp_path / "other"
        folder.mkdir()
        if lacking == "file":
            (folder / claims.FILE).mkdir()
        else:
            (folder / claims.FILE).symlink_to(tmp_path / claims.FILE)
    elif lacking == "locks":

        def refuse(*_: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.lockf", refuse)
    else:
        monkeypatch.setattr(claims, "fcntl", None)
    with Claims(folder) as mine:
        assert (mine.seats(2), mine.take(pool)) == (list(SEATS), True)
        mine.release(pool)
        mine.leave_seats()


def test_code_that_has_appeared_is_not_compiled(cold: Callable[[], Path]) -> None:
    with Claims(cold()) as mine:
        assert compile_once(pool, mine, lambda: lambda _: b"first") == b"first"
        assert compile_once(pool, mine, lambda: pytest.fail("asks for a compiler")) == b"first"
    assert cache.read("pool") == b"first"


def test_code_that_another_process_compiles_is_left_to_it(cold: Callable[[], Path]) -> None:
    folder = cold()
    holder = Holder(folder)
    try:
        with Claims(folder) as mine:
            assert compile_once(pool, mine, lambda: pytest.fail("asks for a compiler")) is None
            assert compile_once(classify, mine, lambda: lambda _: b"code") == b"code"
    finally:
        holder.kill()


def test_a_compiler_that_fails_keeps_no_claim(cold: Callable[[], Path]) -> None:
    def fail(_: Function) -> bytes:
        raise MemoryError

    folder = cold()
    with Claims(folder) as mine:
        with pytest.raises(MemoryError):
            compile_once(pool, mine, lambda: fail)
        assert mine.seats(1) == [0]
        mine.leave_seats()
        Holder(folder).kill()


def test_nobody_waits_for_what_cannot_be_kept(cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk: whoever meets it lets the others go on."""
    folder = cold()
    monkeypatch.setattr(cache, "write", lambda *_: False)
    with Claims(folder) as mine:
        assert mine.seats(1) == [0]
        assert compile_once(pool, mine, lambda: lambda _: b"code") == b"code"
        Holder(folder).kill()
        assert compile_once(classify, mine, lambda: lambda _: b"code") == b"code"
