"""bench.measure: statistics of calls, the parts of a run, arguments that cannot be."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitvit
from bitvit import bench
from bitvit.bench import formats, measuring
from bitvit.bench.machine import Load
from bitvit.errors import BenchError, ImageError, ModelFileError
from bitvit.summary import summarize
from tests.support.paths import ROOT

Packed = Callable[[str], Path]
WINDOW_OF_ONE = ROOT / "weights" / "bhvit-cifar10.safetensors"  # as many merged tokens as pixels


def test_percentiles_are_those_of_numpy() -> None:
    times = np.random.default_rng(0).exponential(size=1000)
    for percent in (90, 95, 99):
        assert measuring.percentile_ms(times, percent) == pytest.approx(1e3 * np.percentile(times, percent))


@pytest.mark.parametrize(("calls", "told"), [(9, 0), (10, 1), (19, 1), (20, 2), (99, 2), (100, 3)])
def test_a_percentile_needs_a_call_beyond_it(calls: int, told: int) -> None:
    found = [measuring.percentile_ms(np.arange(calls, dtype=np.float64), percent) for percent in (90, 95, 99)]
    assert [value is not None for value in found] == [True] * told + [False] * (3 - told)


def test_results_are_those_of_the_calls() -> None:
    cell = measuring.Cell("latency", 2, 4, [[0.001, 0.002], [0.003, 0.006]], seconds=0.02)
    r = cell.result(binary_macs=10**9, limit=1e13)
    times = np.array([1.0, 2.0, 3.0, 6.0])
    assert r.infer_step_time == pytest.approx(times.mean())
    assert r.std_ms == pytest.approx(times.std())
    assert (r.min_ms, r.p50_ms, r.max_ms) == pytest.approx((1.0, 2.5, 6.0))
    assert r.infer_samples_per_sec == pytest.approx(4 * 4 / 0.02)
    assert r.binary_gmacs_per_sec == pytest.approx(800)
    assert r.share_of_limit == pytest.approx(0.08)
    assert r.spread == pytest.approx((4.5 - 1.5) / 2.5)
    assert r.iterations == 4
    assert r.others is None


@pytest.mark.parametrize("iterations", [1, 5, 7, 100])
def test_parts_make_up_the_whole(iterations: int) -> None:
    parts = [measuring.Amount(iterations, 0.0).part(i).iterations for i in range(measuring.PARTS)]
    assert None not in parts
    assert sum(n or 0 for n in parts) == max(iterations, measuring.PARTS)


def test_callers_at_once_make_all_the_calls() -> None:
    threads = set()

    def call() -> None:

        threads.add(threading.get_ident())

    assert len(measuring.timed_together(call, measuring.Amount(8, 0.0), 4)) == 8
    assert len(threads) >= 1
    assert len(measuring.timed_together(call, measuring.Amount(None, 0.01), 2)) >= 2


@pytest.mark.usefixtures("quick")
def test_a_busy_machine_is_told(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others use half of all processors, by the clock of this test."""
    cores = os.cpu_count() or 1

    def loads() -> Iterator[Load]:
        for second in range(1000):
            yield Load(everybody=10.0 + 0.5 * cores * second, own=0.0, wall=float(second))

    clock = loads()
    monkeypatch.setattr(Load, "now", lambda: next(clock))
    found = bench.measure(packed("micro96_somefp"), threads=[1], iterations=5, startup=False)
    assert found.results[0].others == pytest.approx(0.5)
    assert found.warnings[0].startswith(
        "the machine was busy: other processes used up to 50% of its processors in 1 of 1 results"
    )


@pytest.mark.usefixtures("quick")
def test_results_count_what_is_computed() -> None:
    found = bench.measure(WINDOW_OF_ONE, threads=[1], iterations=5, warmup=0, startup=False)
    summary, r = summarize(WINDOW_OF_ONE), found.results[0]
    assert found.model.binary_macs == summary.binary_macs
    assert found.model.computed_binary_macs == summary.computed_binary_macs
    assert r.binary_gmacs_per_sec == pytest.approx(r.infer_samples_per_sec * summary.computed_binary_macs / 1e9)
    assert r.share_of_limit == pytest.approx(r.binary_gmacs_per_sec / r.limit_gmacs_per_sec)
    assert f"(of which {formats.digits(summary.computed_binary_macs / 1e6)} computed)" in bench.markdown(found)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_sizes": []},
        {"batch_sizes": [0]},
        {"threads": [True]},
        {"modes": []},
        {"modes": ["fast"]},
        {"iterations": 5, "seconds": 1.0},
        {"iterations": 0},
        {"seconds": 0.0},
        {"seconds": float("nan")},
        {"warmup": -1},
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], packed: Packed) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        bench.measure(packed("micro96_somefp"), **arguments)


def test_what_cannot_be_measured_is_named(packed: Packed, tmp_path: Path) -> None:
    path = packed("micro96_somefp")
    with pytest.raises(BenchError, match=r"1000 threads: this process may use \d+"):
        bench.measure(path, threads=[1000])
    for batch in (10**10, 10**20):
        with pytest.raises(BenchError, match=rf"batch size {batch}: [\d,.]+ GB of pixels do not fit into memory"):
            bench.measure(path, batch_sizes=[batch])
    with pytest.raises(ModelFileError, match="does not exist"):
        bench.measure(tmp_path / "no.safetensors")
    with pytest.raises(ModelFileError, match="not a packed model"):
        bench.measure(path.with_suffix(".checkpoint.safetensors"))
    with pytest.raises(ImageError, match="no such file"):
        bench.measure(path, image="no.png")


def test_measure_is_found_without_an_import() -> None:
    assert bitvit.bench.measure is bench.measure
