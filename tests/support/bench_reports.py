"""Reports of bitvit bench for tests: one that is measured, and variants of it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitvit import bench
from bitvit.bench import BenchReport, limits, measuring, startup


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits and start-up measured for no longer than it takes to measure them."""
    monkeypatch.setattr(limits, "STEPS", 10)
    monkeypatch.setattr(limits, "REPEATS", 1)
    monkeypatch.setattr(limits, "CACHED", (1 << 12,))
    monkeypatch.setattr(limits, "UNCACHED", 1 << 16)
    monkeypatch.setattr(startup, "PROCESSES", 1)
    monkeypatch.setattr(measuring, "PREPROCESSING_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "WARM_UP_SECONDS", 0.0)


@pytest.fixture(scope="session")
def report(packed: Callable[[str], Path]) -> BenchReport:
    """Of a small model, with everything in it but start-up."""
    return bench.measure(
        packed("micro96_somefp"),
        batch_sizes=[1, 2],
        threads=[1],
        modes=["latency", "throughput"],
        warmup=1,
        iterations=10,
        profile=True,
        startup=False,
    )


def changed(report: BenchReport, **fields: Any) -> BenchReport:
    """A report whose results have other values in these fields."""
    return dataclasses.replace(report, results=[dataclasses.replace(r, **fields) for r in report.results])


def scaled(report: BenchReport, factor: float, spread: float) -> BenchReport:
    """A report whose median times are `factor` times as long."""
    results = [dataclasses.replace(r, p50_ms=factor * r.p50_ms, spread=spread) for r in report.results]
    return dataclasses.replace(report, results=results)
