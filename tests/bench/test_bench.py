"""bitvit bench: statistics, what a report holds and says, its forms, the command line."""

import csv
import dataclasses
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import bitvit
from bitvit import bench, system
from bitvit.bench import BenchReport, forms, limits, machine, measuring, plot, profile, startup
from bitvit.bench.limits import Limits
from bitvit.bench.machine import Load
from bitvit.bench.report import Part, Result
from bitvit.cli import app
from bitvit.errors import BenchError, ImageError, ModelFileError
from bitvit.summary import summarize
from tests.support.paths import ROOT

CASES = ("micro96_somefp", "micro96_binary", "micro96_gsb", "micro96_ln")
Packed = Callable[[str], Path]
WINDOW_OF_ONE = ROOT / "weights" / "bhvit-cifar10.safetensors"  # as many merged tokens as pixels
QUICK = ("--iterations", "5", "--warmup", "1", "--threads", "1")


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    """stdout and stderr of `bitvit bench`, which must end with this exit code."""
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    assert result.exit_code == code, f"{result.exit_code}: {result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


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


@pytest.fixture(scope="module")
def report(packed: Packed) -> BenchReport:
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


# ------------------------------------------------------------------------------------------------------ statistics
def test_percentiles_are_those_of_numpy() -> None:
    times = np.random.default_rng(0).exponential(size=1000)
    for percent in (90, 95, 99):
        assert measuring.percentile_ms(times, percent) == pytest.approx(1e3 * np.percentile(times, percent))


@pytest.mark.parametrize(("calls", "told"), [(9, 0), (10, 1), (19, 1), (20, 2), (99, 2), (100, 3)])
def test_a_percentile_needs_a_call_beyond_it(calls: int, told: int) -> None:
    found = [measuring.percentile_ms(np.arange(calls, dtype=np.float64), percent) for percent in (90, 95, 99)]
    assert [value is not None for value in found] == [True] * told + [False] * (3 - told)


def test_results_are_those_of_the_calls() -> None:
    cell = measuring._Cell("latency", 2, 4, [[0.001, 0.002], [0.003, 0.006]], seconds=0.02)
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
        import threading

        threads.add(threading.get_ident())

    assert len(measuring.timed_together(call, measuring.Amount(8, 0.0), 4)) == 8
    assert len(threads) >= 1
    assert len(measuring.timed_together(call, measuring.Amount(None, 0.01), 2)) >= 2


def test_share_of_others() -> None:
    before, after = Load(100.0, 10.0, 0.0), Load(106.0, 12.0, 4.0)
    cores = os.cpu_count() or 1
    assert machine.share_of_others(before, after) == pytest.approx(min(1.0, 4 / 4 / cores))
    assert machine.share_of_others(None, after) is None
    assert machine.share_of_others(before, before) is None
    tick = Load(100.01, 10.0, 0.02)  # all that can be told of a fiftieth of a second is 0, 50 or 100 %
    assert machine.share_of_others(before, tick) is None


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
        "the machine was busy: others used up to 50% of its processors in 1 of 1 results"
    )


def test_warnings_need_a_reason(report: BenchReport) -> None:
    calm = dataclasses.replace(changed(report, others=0.01, spread=0.02), profile=None)
    assert calm.warnings == []
    assert changed(calm, others=None).warnings == []
    assert changed(calm, spread=0.3).warnings == [
        "unsteady: medians of five parts of a run lie up to 30% apart (latency, 1 thread, batch 1) in 4 of 4 results"
    ]
    assert report.profile is not None
    off = dataclasses.replace(report.profile, calling_seconds=0.0, end_to_end_seconds=2 * report.profile.seconds)
    assert dataclasses.replace(calm, profile=off).warnings[0].startswith("the profile adds up to 50% of the calls")


# --------------------------------------------------------------------------------------------------------- limits
@pytest.mark.usefixtures("quick")
def test_limits_are_sane() -> None:
    found = limits.measure_limits()
    assert all(value > 0 for value in dataclasses.astuple(found))
    assert limits.popcount_rate(2) > 0


def test_what_bounds_a_step() -> None:
    roofs = Limits(binary_macs=1000.0, float_macs=100.0, cache_bytes=10.0, memory_bytes=1.0)
    for work, least, bound in (
        ((1000, 50, 10), 1.5, "popcount"),
        ((100, 100, 10), 1.1, "fma"),
        ((0, 100, 20), 2, "bytes"),
    ):
        assert roofs.seconds(*work)[0] == pytest.approx(least)
        assert roofs.seconds(*work)[1] == bound


# -------------------------------------------------------------------------------------------------------- profile
@pytest.mark.parametrize("case", CASES)
def test_profile_has_all_the_work_of_the_model(case: str, packed: Packed) -> None:
    """Every multiply-add and every weight that `inspect` counts belongs to one step."""
    summary, model = summarize(packed(case)), bitvit.load(packed(case), threads=1)
    found = profile.profile(model, summary.rows, seconds=0.0, limits=Limits(1e12, 1e11, 1e11, 1e10))
    assert sum(p.binary_macs for p in found.parts) == summary.computed_binary_macs
    assert sum(p.float_macs for p in found.parts) == summary.float_macs
    header = next(row.bytes for row in summary.rows if row.name == "(header)")
    assert sum(p.weight_bytes for p in found.parts) == summary.bytes - header
    assert [p.kind for p in found.kinds] == list(profile.KINDS)
    assert len(found.parts) == len(model.runner.program.steps)
    assert all(p.activation_bytes > 0 and p.seconds >= 0 and p.limit_seconds > 0 for p in found.parts)


def test_merged_tokens_count_once_an_image() -> None:
    """The engine projects them once, however many windows see them: S² + M rows, not M·(w² + M)."""
    summary, model = summarize(WINDOW_OF_ONE), bitvit.load(WINDOW_OF_ONE, threads=1)
    found = profile.profile(model, summary.rows, seconds=0.0, limits=Limits(1e12, 1e11, 1e11, 1e10))
    rows = {step.layer: step for step in model.runner.program.steps if step.kernel.name == "project"}
    parts = [part for part in found.parts if part.kernel == "project"]
    assert len(parts) == len(rows) > 0
    for part in parts:
        arguments = rows[part.layer].arguments
        assert part.binary_macs == 3 * int(arguments["rows"]) * int(arguments["channels"]) ** 2
    assert summary.computed_binary_macs < 0.8 * summary.binary_macs


@pytest.mark.usefixtures("quick")
def test_results_count_what_is_computed() -> None:
    found = bench.measure(WINDOW_OF_ONE, threads=[1], iterations=5, warmup=0, startup=False)
    summary, r = summarize(WINDOW_OF_ONE), found.results[0]
    assert found.model.binary_macs == summary.binary_macs
    assert found.model.computed_binary_macs == summary.computed_binary_macs
    assert r.binary_gmacs_per_sec == pytest.approx(r.infer_samples_per_sec * summary.computed_binary_macs / 1e9)
    assert r.share_of_limit == pytest.approx(r.binary_gmacs_per_sec / r.limit_gmacs_per_sec)
    assert f"(of which {forms.digits(summary.computed_binary_macs / 1e6)} computed)" in bench.markdown(found)


def test_profile_adds_up(report: BenchReport) -> None:
    found = report.profile
    assert found is not None
    assert found.seconds == pytest.approx(sum(p.seconds for p in found.parts))
    for name in ("seconds", "binary_macs", "float_macs", "weight_bytes", "activation_bytes", "limit_seconds"):
        parts, kinds = (sum(getattr(p, name) for p in group) for group in (found.parts, found.kinds))
        assert kinds == pytest.approx(parts), name
    assert found.runs >= profile.LEAST_RUNS
    assert found.end_to_end_seconds > found.calling_seconds > 0
    covered = (sum(p.seconds for p in found.kinds) + found.calling_seconds) / found.end_to_end_seconds
    assert found.covered == pytest.approx(covered)


def test_typical_times_add_up_and_leave_interruptions_out() -> None:
    """Steps whose delays hit other runs each: their medians would add up to 3, but no run takes less than 4."""
    runs = np.array([[2.0, 1, 1], [1, 2, 1], [1, 1, 2], [2, 1, 1], [1, 2, 1], [1, 1, 2], [1, 1, 900], [1, 900, 1]])
    assert np.median(runs, axis=0).sum() < 4
    assert profile.typical(runs).sum() == pytest.approx(4)
    for count in (1, 2, 3, 5, 10, 11):
        whole = np.random.default_rng(count).exponential(size=(count, 7))
        assert profile.typical(whole).sum() == pytest.approx(profile.typical(whole.sum(axis=1)[:, None])[0])


@pytest.mark.parametrize(("calls", "within"), [(1.0, True), (0.92, True), (1.2, False), (0.5, False)])
def test_the_rule_of_ten_percent(calls: float, within: bool, report: BenchReport) -> None:
    assert report.profile is not None
    changed = dataclasses.replace(report.profile, seconds=0.9, calling_seconds=0.1, end_to_end_seconds=calls)
    found = dataclasses.replace(report, profile=changed)
    assert changed.adds_up is within
    told = f"the profile adds up to {1 / calls:.0%} of the calls beside it, expected 90 to 110%"
    assert any(warning.startswith(told) for warning in found.warnings) is not within
    share = f"add up to {1 / calls:.1%} of ordinary calls beside it ({calls * 1e3:.3f} ms)"
    assert f"{share}, {'within' if within else 'NOT within'} 10%;" in bench.markdown(found)


@pytest.mark.usefixtures("quick")
def test_a_profile_that_does_not_add_up_is_told(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    def times(model: bitvit.BHViT, seconds: float) -> tuple[Any, list[float], float]:  # noqa: ARG001
        steps = len(model.runner.program.steps)
        return np.full((20, steps), 0.9 / steps), [2.0] * 20, 0.1

    monkeypatch.setattr(profile, "_times", times)
    stdout, stderr = run(packed("micro96_somefp"), *QUICK, "--profile")
    assert "add up to 50.0% of ordinary calls beside it (2000.000 ms), NOT within 10%; 20 runs" in stdout
    assert "Warning: the profile adds up to 50% of the calls beside it, expected 90 to 110%" in stderr


def test_timed_steps_compute_what_a_call_computes(packed: Packed) -> None:
    from bitvit.runtime import Workspace

    model = bitvit.load(packed("micro96_somefp"), threads=1)
    program, pixels = model.runner.program, np.full((1, 3, 96, 96), 0.25, np.float32)
    workspace, ticks = Workspace(program), np.zeros(len(program.steps) + 1, np.int64)
    workspace.set_image(pixels[0])
    model.runner.timed_steps(workspace, ticks)()
    start = program.output.offset
    logits = workspace.state[start : start + program.outputs].view(np.float32)
    np.testing.assert_array_equal(logits, model(pixels)[0])
    assert (np.diff(ticks) >= 0).all()


# ---------------------------------------------------------------------------------------------------------- forms
def test_json_round_trip(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert BenchReport.read(path) == report
    content = json.loads(report.to_json())
    assert content["schema"] == "bitvit-bench/1"
    assert content["warnings"] == report.warnings
    assert BenchReport.from_dict({**content, "new in a later version": 1}) == report
    del content["model"]["computed_binary_macs"]
    assert BenchReport.from_dict(content).model.computed_binary_macs is None  # as earlier versions wrote it


def test_csv_round_trip(report: BenchReport) -> None:
    stream = io.StringIO()
    bench.write_csv(report, stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert len(rows) == len(report.results) == 4
    for row, result in zip(rows, report.results, strict=True):
        assert row["model"] == report.model.name
        for name, value in dataclasses.asdict(result).items():
            assert row[name] == ("" if value is None else str(value))
    timm = {"infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size", "infer_gmacs"}
    assert timm | {"param_count"} <= rows[0].keys()
    assert 1e9 * float(rows[0]["infer_gmacs"]) == pytest.approx(report.model.binary_macs + report.model.float_macs)


def test_markdown_has_every_number_of_the_tables(report: BenchReport) -> None:
    text = bench.markdown(report)
    assert report.profile is not None
    for grid in (forms.results_grid(report), forms.kinds_grid(report.profile), forms.layers_grid(report.profile)):
        lines = forms.grid_markdown(grid).splitlines()
        assert "\n".join(lines) in text
        cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
        assert cells[0] == grid.columns
        assert cells[2:] == list(grid.rows)
        assert cells[1] == ("---",) * grid.words + ("--:",) * (len(grid.columns) - grid.words)
    assert "threading layer none: own threads" in text


def test_numbers_have_sensible_digits() -> None:
    values = (0.0, 0.1362, 0.9996, 4.1, 9.994, 9.996, 86.3, 1234.0)
    assert [forms.digits(v) for v in values] == ["0.00", "0.136", "1.00", "4.10", "9.99", "10.0", "86.3", "1234"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("schema"), "not a report of bitvit bench (schema None, expected 'bitvit-bench/1')"),
        (lambda c: c.update(schema="bitvit-bench/2"), "schema 'bitvit-bench/2'"),
        (lambda c: c.pop("results"), "without ['results']"),
        (lambda c: c["results"][1].pop("p50_ms"), "results[1]: without ['p50_ms']"),
        (lambda c: c["results"][0].update(p50_ms="fast"), "results[0]: p50_ms is 'fast', expected float"),
        (lambda c: c["results"][0].update(threads=1.5), "threads is 1.5, expected int"),
        (lambda c: c["results"][0].update(mode="idle"), "mode is 'idle', expected"),
        (lambda c: c.update(model=[]), "model: [], expected an object"),
        (lambda c: c["environment"].update(affinity=[0, "a"]), "affinity[1] is 'a', expected int"),
        (lambda c: c["environment"].update(versions={"numpy": 2}), "versions.numpy is 2, expected str"),
    ],
)
def test_a_damaged_report_is_named(damage: Callable[[Any], Any], message: str, report: BenchReport) -> None:
    content = json.loads(report.to_json())
    damage(content)
    with pytest.raises(BenchError) as error:
        BenchReport.from_dict(content, "a.json")
    assert str(error.value).startswith("a.json: ")
    assert message in str(error.value)


def test_a_file_that_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no\.json: cannot be read: No such file"):
        BenchReport.read(tmp_path / "no.json")
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(BenchError, match=r"bad\.json: not JSON"):
            BenchReport.read(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(BenchError, match="not a report of bitvit bench"):
        BenchReport.read(tmp_path / "list.json")


# ----------------------------------------------------------------------------------------------------- comparison
def scaled(report: BenchReport, factor: float, spread: float) -> BenchReport:
    results = [dataclasses.replace(r, p50_ms=factor * r.p50_ms, spread=spread) for r in report.results]
    return dataclasses.replace(report, results=results)


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


def test_compare_on_the_command_line(report: BenchReport, tmp_path: Path) -> None:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    paths[0].write_text(changed(report, spread=0.01).to_json())
    paths[1].write_text(scaled(report, 0.5, 0.01).to_json())
    stdout, _ = run("--compare", *paths)
    assert stdout.count("faster") == 4
    rows = list(csv.DictReader(io.StringIO(run("--compare", *paths, "--format", "csv")[0])))
    assert [float(row["ratio"]) for row in rows] == pytest.approx([0.5] * 4)
    cells = json.loads(run("--compare", *paths, "--format", "json")[0])["cells"]
    assert Result(**cells[0]["first"]).p50_ms == pytest.approx(report.results[0].p50_ms)
    assert "| latency | 1 | 1 |" in run("--compare", *paths, "-f", "markdown")[0]


def test_a_table_in_a_file_has_its_warnings(report: BenchReport, tmp_path: Path) -> None:
    paths, out = (tmp_path / "a.json", tmp_path / "b.json"), tmp_path / "table.txt"
    for path in paths:
        path.write_text(changed(report, spread=0.3).to_json())
    _, stderr = run("--compare", *paths, "-o", out)
    assert "Warning: second: unsteady: medians of five parts" in stderr
    assert "\nwarning: second: unsteady: medians of five parts" in out.read_text()
    assert "unsteady" not in run("--compare", *paths)[0]


def test_reports_with_nothing_in_common(report: BenchReport, tmp_path: Path) -> None:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, part in zip(paths, (report.results[:1], report.results[1:]), strict=True):
        path.write_text(dataclasses.replace(report, results=part).to_json())
    _, stderr = run("--compare", *paths, code=1)
    assert "have no mode, threads and batch size in common" in stderr


# -------------------------------------------------------------------------------------------------------- machine
def test_environment() -> None:
    found = machine.environment()
    assert found.threading_layer == "none: own threads"
    assert found.bitvit == bitvit.__version__
    assert found.cores >= found.available_threads >= 1
    assert {"numpy", "numba", "llvmlite"} <= found.versions.keys()
    assert found.instruction_set


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ({"avx512vpopcntdq", "avx2"}, "AVX-512 VPOPCNTDQ"),
        ({"avx2", "sse4.2", "ssse3"}, "AVX2, bits counted by bytes"),
        ({"neon"}, "NEON, bits counted by bytes"),
    ],
)
def test_instruction_set(features: set[str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitvit.kernels.target.target_has", features.__contains__)
    assert machine.instruction_set() == name


def test_a_checkout_of_another_project_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(machine, "ROOT", tmp_path / "site-packages")
    assert machine.commit() is None


def test_peak_memory() -> None:
    assert (system.peak_rss() or 1 << 30) > 1 << 24


# ----------------------------------------------------------------------------------------------- measure, arguments
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
def test_impossible_arguments(arguments: dict[str, Any], packed: Packed) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        bench.measure(packed("micro96_somefp"), **arguments)


def test_what_cannot_be_measured(packed: Packed, tmp_path: Path) -> None:
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


# ---------------------------------------------------------------------------------------------------- command line
@pytest.mark.usefixtures("quick")
def test_table(packed: Packed) -> None:
    path = packed("micro96_somefp")
    stdout, stderr = run(path, *QUICK, "--batch-size", "1,2", "-b", "3", "--mode", "both", "--profile")
    lines = [line.split()[:3] for line in stdout.splitlines() if line.startswith((" latency", " throughput"))]
    assert lines == [[mode, "1", batch] for mode in ("latency", "throughput") for batch in "123"]
    for word in ("fresh process: import", "peak of the process", "decode", "threading layer none: own threads"):
        assert word in stdout
    assert "Where the time goes" in stdout
    assert "stages.2.blocks.0.attention" in stdout
    assert "…" not in stdout
    assert all(line.startswith("Warning: ") for line in stderr.splitlines())


@pytest.mark.usefixtures("quick")
def test_every_combination_is_measured(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bitvit.bench.measuring", "bitvit.runtime"):
        monkeypatch.setattr(f"{module}.available_threads", lambda: 2)
    options = ("-n", "6", "--warmup", "1", "-t", "1,2", "-b", "1", "-b", "3", "--mode", "both", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(run(packed("micro96_somefp"), *options)[0])))
    cells = [(row["mode"], row["threads"], row["infer_batch_size"]) for row in rows]
    assert cells == list(itertools.product(("latency", "throughput"), "12", "13"))
    assert {row["iterations"] for row in rows if row["threads"] == "1"} == {"6"}
    limits = {row["threads"]: row["limit_gmacs_per_sec"] for row in rows}
    assert [row["limit_gmacs_per_sec"] for row in rows] == [limits[row["threads"]] for row in rows]


@pytest.mark.usefixtures("quick")
def test_json_on_the_command_line(packed: Packed, tmp_path: Path) -> None:
    image, out = tmp_path / "image.png", tmp_path / "report.json"
    Image.new("RGB", (200, 150)).save(image)
    stdout, _ = run(packed("micro96_somefp"), *QUICK, "--image", image, "-f", "json", "-o", out)
    assert stdout == ""
    found = BenchReport.read(out)
    assert found.model.name == "micro96_somefp"
    assert found.results[0].iterations == 5
    assert found.profile is None
    assert found.preprocessing is not None
    assert found.preprocessing.image == f"{image}, 200 x 150 pixels"
    assert found.startup is not None
    assert found.startup.load_seconds > 0
    assert (found.startup.peak_rss_bytes or 2) > (found.startup.import_rss_bytes or 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.png", "report.json"]


@pytest.mark.usefixtures("quick")
def test_a_measured_table_in_a_file_has_its_warnings(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitvit.bench.report.UNSTEADY", -1.0)
    _, stderr = run(packed("micro96_somefp"), *QUICK, "-o", tmp_path / "table.txt")
    assert "Warning: unsteady" in stderr
    assert "\nwarning: unsteady" in (tmp_path / "table.txt").read_text()


@pytest.mark.usefixtures("quick")
def test_compile_time_is_measured_beside_the_cache(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        startup, "_COMPILE", "import os; print(json.dumps([3, float('NUMBA_CACHE_DIR' in os.environ)]))"
    )
    found = startup.measure_startup(packed("micro96_somefp"), 1, 1, None, cold=True)
    assert found is not None
    assert (found.compiled_functions, found.compile_seconds) == (3, 1.0)


def test_a_process_that_fails_is_told(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_RUN", "raise SystemExit('out of luck')")
    with pytest.raises(BenchError, match="ended with 1: out of luck"):
        startup.measure_startup(packed("micro96_somefp"), 1, 1, None, cold=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a packed model, or two reports with --compare"),
        (("model", "--batch-size", "0"), "expected whole numbers of at least 1, such as 1,8"),
        (("model", "--threads", "1,a"), "expected whole numbers of at least 1, such as 1,8"),
        (("model", "-n", "5", "-s", "1"), "give --iterations or --seconds, not both"),
        (("model", "-s", "inf"), "'--seconds'"),
        (("model", "-s", "nan"), "'--seconds'"),
        (("model", "--compare", "a", "b"), "takes two reports and measures nothing"),
        (("--compare", "a", "b", "--plot", "plot.png"), "takes two reports and measures nothing"),
        (("model", "--format", "xml"), "'--format'"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    _, stderr = run(*arguments, code=2)
    assert message in " ".join(stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.safetensors",), "Error: no.safetensors: does not exist"),
        (("no.safetensors", "-o", "no/out.json"), "Error: no/out.json: cannot be written"),
        (
            ("--compare", "no.json", "no.json"),
            "Error: no.json: cannot be read: No such file or directory; check the path",
        ),
    ],
)
def test_errors_are_one_line_and_leave_no_file(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stdout, stderr = run(*arguments, code=1)
    assert stdout == ""
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_old_file(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "report.json"
    out.write_text("old")
    monkeypatch.setattr(measuring, "_measure_cells", interrupted)
    run(packed("micro96_somefp"), *QUICK, "-o", out, code=130)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_warm_process_needs_no_numba(packed: Packed, report: BenchReport, tmp_path: Path) -> None:
    """The limits and the profile too: `report` has left them in the cache."""
    assert report.profile is not None
    script = (
        "import sys; from bitvit.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('numba' in sys.modules)\n"
    )
    options = ["--iterations", "5", "--threads", "1", "--profile", "--format", "csv"]
    command = [sys.executable, "-c", script, "bench", str(packed("micro96_somefp")), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False"


# ------------------------------------------------------------------------------------------------------------ plot
def test_plot_without_matplotlib(packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "plot.png"
    _, stderr = run(packed("micro96_somefp"), "--plot", out, code=1)
    assert stderr.startswith("Error: matplotlib cannot be imported")
    assert stderr.endswith("pip install 'bitvit[plot]'\n")
    assert not out.exists()


def test_plot_that_cannot_be_written(packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "require_matplotlib", lambda: None)
    (tmp_path / "folder.png").mkdir()
    for out in (tmp_path / "folder.png", tmp_path / "no" / "plot.png"):
        _, stderr = run(packed("micro96_somefp"), "--plot", out, code=1)
        assert stderr.startswith(f"Error: {out}: cannot be written: name a .png file in an existing folder")
    _, stderr = run(packed("micro96_somefp"), "--plot", "plot.jpg", code=1)
    assert stderr == "Error: plot.jpg: drawings are PNG files; end the name with .png\n"


def test_plot(report: BenchReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.plot(report, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
    with pytest.raises(BenchError, match="no profile to draw"):
        plot.plot(dataclasses.replace(report, profile=None), tmp_path / "none.png")


def test_share_of_limit() -> None:
    part = Part("stem", "stem", "embedding", 2.0, 6, 4, 100, 20, 0.5, "fma")
    assert (part.macs, part.bytes, part.share_of_limit) == (10, 120, 0.25)
    assert dataclasses.replace(part, seconds=0.0).share_of_limit == 0.0
