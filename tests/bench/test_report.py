"""bench.report: its warnings, and its JSON."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitvit.bench import BenchReport
from bitvit.bench.report import Part
from bitvit.errors import BenchError
from tests.support.bench_reports import changed


def test_warnings_need_a_reason(report: BenchReport) -> None:
    calm = dataclasses.replace(changed(report, others=0.01, spread=0.02), profile=None)
    assert calm.warnings == []
    assert changed(calm, others=None).warnings == []
    assert changed(calm, spread=0.3).warnings == [
        "unsteady: medians of five parts of a run lie up to 30% apart (latency, 1 thread, batch 1) in 4 of 4 results"
    ]
    assert report.profile is not None
    off = dataclasses.replace(report.profile, calling_seconds=0.0, end_to_end_seconds=2 * report.profile.seconds)
    assert dataclasses.replace(calm, profile=off).warnings[0].startswith("the profile adds up to 50% of ordinary calls")


def test_json_gives_the_same_report(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert BenchReport.read(path) == report
    content = json.loads(report.to_json())
    assert content["schema"] == "bitvit-bench/1"
    assert content["warnings"] == report.warnings
    assert BenchReport.from_dict({**content, "new in a later version": 1}) == report
    del content["model"]["computed_binary_macs"]
    assert BenchReport.from_dict(content).model.computed_binary_macs is None  # as earlier versions wrote it


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("schema"), "not a report of bitvit bench (schema None, expected 'bitvit-bench/1')"),
        (lambda c: c.update(schema="bitvit-bench/2"), "schema 'bitvit-bench/2'"),
        (lambda c: c.pop("results"), "a.json lacks the fields ['results']"),
        (lambda c: c["results"][1].pop("p50_ms"), "a.json: results[1] lacks the fields ['p50_ms']"),
        (lambda c: c["results"][0].update(p50_ms="fast"), "results[0]: p50_ms is 'fast', expected a number"),
        (lambda c: c["results"][0].update(threads=1.5), "threads is 1.5, expected an integer"),
        (lambda c: c["results"][0].update(mode="idle"), "mode is 'idle', expected one of ['latency', 'throughput']"),
        (lambda c: c.update(model=[]), "model is [], expected an object with the fields"),
        (lambda c: c["environment"].update(affinity=[0, "a"]), "affinity[1] is 'a', expected an integer"),
        (lambda c: c["environment"].update(versions={"numpy": 2}), "versions.numpy is 2, expected text"),
    ],
)
def test_a_damaged_report_is_named(damage: Callable[[Any], Any], message: str, report: BenchReport) -> None:
    content = json.loads(report.to_json())
    damage(content)
    with pytest.raises(BenchError) as error:
        BenchReport.from_dict(content, "a.json")
    assert str(error.value).startswith("a.json")
    assert message in str(error.value)


def test_a_file_that_is_not_a_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no\.json: no such file; check the path"):
        BenchReport.read(tmp_path / "no.json")
    for content, message in ((b"{", "is not JSON"), (b"\xff", "is not UTF-8 text"), (b"[" * 100_000, "is not JSON")):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(
            BenchError, match=rf"bad\.json: .*{message}.*; expected a report of bitvit bench --format json"
        ):
            BenchReport.read(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BenchError, match="not a report of bitvit bench"):
        BenchReport.read(tmp_path / "list.json")


def test_share_of_limit_is_least_time_over_time() -> None:
    part = Part("stem", "stem", "embedding", 2.0, 6, 4, 100, 20, 0.5, "fma")
    assert (part.macs, part.bytes, part.share_of_limit) == (10, 120, 0.25)
    assert dataclasses.replace(part, seconds=0.0).share_of_limit == 0.0
