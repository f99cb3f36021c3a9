"""bench.startup: fresh processes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitvit.bench import startup
from bitvit.errors import BenchError

Packed = Callable[[str], Path]


@pytest.mark.usefixtures("quick")
def test_compile_time_is_measured_beside_the_cache(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        startup, "COMPILE_SCRIPT", "import os; print(json.dumps([3, float('NUMBA_CACHE_DIR' in os.environ)]))"
    )
    found = startup.measure_startup(packed("micro96_somefp"), 1, 1, None, cold=True)
    assert found is not None
    assert (found.compiled_functions, found.compile_seconds) == (3, 1.0)


def test_a_process_that_fails_is_told(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "RUN_SCRIPT", "raise SystemExit('out of luck')")
    with pytest.raises(BenchError, match="ended with 1: out of luck"):
        startup.measure_startup(packed("micro96_somefp"), 1, 1, None, cold=False)
