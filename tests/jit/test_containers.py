"""A cache that was filled while a container was built: read by another user, and on a read-only disk."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import bitvit
from bitvit.jit import cache, loader
from bitvit.model import functions_of
from tests.support.paths import ROOT
from tests.support.patience import patience

STRANGER = 54321  # no such user

PREDICT = """
import importlib, os, sys, numpy as np, bitvit.jit.loader
model, user = sys.argv[1:]
if int(user):
    bitvit.load(model, threads=1)  # imports what the other user may not even read
    os.setgroups([]), os.setgid(int(user)), os.setuid(int(user))
    importlib.reload(bitvit.jit.loader)  # which forgets what has been loaded
model = bitvit.load(model, threads=1)
print(model(np.full((1, 3, 32, 32), 0.25, np.float32)).tobytes().hex(), "numba" in sys.modules)
print(bitvit.jit.cache.problem())
"""


@pytest.fixture
def baked(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that everybody may look into, with a model and the compiled kernels that it needs."""
    expected_of(tiny)  # compiles them, if nobody has yet
    compiled = {function.name: cache.read(function.name) for function in functions_of(tiny)}
    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o755)
        shutil.copy(tiny, place / "model.safetensors")
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(place / "cache"))
        for name, code in compiled.items():
            assert code is not None
            cache.write(name, code)
        yield place
    finally:
        shutil.rmtree(place)


def expected_of(model: Path) -> str:
    return bitvit.load(model, threads=1)(np.full((1, 3, 32, 32), 0.25, np.float32)).tobytes().hex()


def predict(baked: Path, *before: str, user: int = 0) -> "subprocess.CompletedProcess[str]":
    """A process that needs the kernels. before: a command that runs it."""
    command = [*before, sys.executable, "-c", PREDICT, str(baked / "model.safetensors"), str(user)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=patience(300))


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.mark.skipif(not is_root(), reason="only root becomes another user")
def test_kernels_that_root_has_compiled_are_used_by_another_user(baked: Path) -> None:
    done = predict(baked, user=STRANGER)
    assert done.returncode == 0, done.stderr
    place = cache.place()
    assert done.stdout.splitlines() == [
        f"{expected_of(baked / 'model.safetensors')} False",
        f"{place}: this user may not write to it, or it is on a read-only disk",
    ]
    assert done.stderr == ""


@pytest.mark.skipif(not is_root(), reason="only root becomes another user")
def test_kernels_of_a_third_user_are_not_used(baked: Path) -> None:
    """They may hold anything."""
    script = (
        "import os; from bitvit.jit import cache; cache.problem(); os.setuid(54321)\n"
        "print(cache.place(), cache.problem())\n"
    )
    folder = baked / "cache"
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 12345)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    expected = f"None {folder / 'bitvit'}: belongs to user 12345, neither to this one (54321) nor to root\n"
    assert done.stdout == expected
    assert cache.place() is None, "nor by root"


@pytest.mark.skipif(not is_root(), reason="only root becomes another user")
@pytest.mark.parametrize(
    ("closed", "mode", "told"),
    [
        ("bitvit", 0o700, "Permission denied"),
        ("bitvit/*", 0o700, "this user may not read it, which chmod -R a+rX "),
        ("bitvit/*/pool.o", 0o600, "this user may not read it, which chmod -R a+rX "),
        ("bitvit/*/pool.o", 0o666, "others may write to it, which chmod go-w would end"),
    ],
)
def test_what_another_user_may_not_read_is_told(closed: str, mode: int, told: str, baked: Path) -> None:
    """As `umask 077; bitvit warmup` leaves it. There is nothing to be used then, which is no error."""
    cache.write("pool", b"code")
    script = (
        "import os; from bitvit.jit import cache; cache.problem(); os.setgroups([]); os.setuid(54321)\n"
        "print(cache.read('pool'), cache.problem())\n"
    )
    (path,) = (baked / "cache").glob(closed)
    path.chmod(mode)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"None {path}")
    assert f": {told}" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux has them")
def test_kernels_on_a_read_only_disk_are_used(baked: Path) -> None:
    """Mounted in a namespace of the process's own."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    namespace = ["unshare", "--mount"] if is_root() else ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "sh", "-c", mount, str(baked), "true"]).returncode
    ):
        pytest.skip("this user may not mount anything")
    done = predict(baked, *namespace, "sh", "-c", mount, str(baked))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{expected_of(baked / 'model.safetensors')} False",
        f"{cache.place()}: this user may not write to it, or it is on a read-only disk",
    ]
    assert done.stderr == ""


def test_what_is_missing_is_compiled_and_the_reason_told_once(
    cold: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it cannot be kept."""
    from bitvit.kernels.catalog import coarsen, pool

    folder = cold()
    monkeypatch.setattr(cache, "folder", lambda: None)
    monkeypatch.setattr(cache, "problem", lambda: f"{folder}: Read-only file system")
    loader.addresses([pool])
    loader.addresses([coarsen])
    (told,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"every process does so, as they cannot be kept: {folder}: Read-only file system." in told.getMessage()
    assert "bitvit warmup" in told.getMessage()
