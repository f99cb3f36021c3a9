"""bench.comparison: two reports."""

import dataclasses
import json

import pytest

from bitvit import bench
from bitvit.bench import BenchReport
from tests.support.bench_reports import changed, scaled


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [
        (1.0, 0.0, "same"),
        (0.5, 0.1, "faster"),
        (2.0, 0.1, "slower"),
        (1.1, 0.15, "unclear"),
        (1.05, 0.1, "same"),
        (1.015, 0.0, "same"),
    ],
)
def test_verdict_is_as_good_as_the_runs(factor: float, spread: float, verdict: str, report: BenchReport) -> None:
    comparison = bench.compare(changed(report, spread=0.0), scaled(report, factor, spread))
    assert [pair.verdict for pair in comparison.pairs] == [verdict] * 4
    assert comparison.pairs[0].ratio == pytest.approx(factor)


def test_what_else_differs_is_said(report: BenchReport) -> None:
    report = changed(report, spread=0.0)
    assert bench.compare(report, report).differences == []
    other = dataclasses.replace(
        report,
        environment=dataclasses.replace(report.environment, cpu="Another", versions={"numpy": "1"}),
        results=report.results[1:],
    )
    comparison = bench.compare(report, other)
    assert f"cpu: {report.environment.cpu} | Another" in comparison.differences
    assert f"numpy: {report.environment.versions['numpy']} | 1" in comparison.differences
    assert comparison.alone == ["only in the first: latency, 1 thread, batch 1"]
    text = bench.comparison_markdown(comparison)
    assert "only in the first" in text
    assert json.loads(comparison.to_json())["cells"][0]["verdict"] == "same"
