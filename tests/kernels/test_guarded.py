"""No kernel reads or writes outside its arrays: networks run among closed pages, in processes that would die of it."""

import signal
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect as Linux has it")


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-m", "tests.support.guarded", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("networks", "count", "kernels"), [("all", 36, 30), ("widths", 23, 24)])
def test_nothing_outside_its_arrays_is_touched(networks: str, count: int, kernels: int) -> None:
    """All kernels and what schedules them, over widths, tile tails, image sizes, thread splits and strange pixels.

    The last line before a crash names the network. (`python -m tests.support.guarded widths 1` runs all 68 widths.)
    """
    done = run(networks, "3")
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-600:]}\n{done.stderr[-3000:]}"
    assert done.stdout.splitlines()[-1] == f"{count} networks, {kernels} kernels, 6 scheduling functions"


@pytest.mark.parametrize("fault", ["rows of the stem", "constants", "written constants", "scratch", "image"])
def test_what_goes_too_far_is_noticed(fault: str) -> None:
    """Arguments that are wrong: too many rows, weights and buffers too far, an image too small."""
    done = run("crash", fault)
    assert done.returncode == -signal.SIGSEGV, f"exit code {done.returncode}\n{done.stderr[-2000:]}"
