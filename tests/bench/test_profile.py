"""bench.profile: where the time of an image goes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bitvit
from bitvit import bench
from bitvit.bench import BenchReport, profile
from bitvit.bench.limits import Limits
from bitvit.runtime import Workspace
from bitvit.summary import summarize
from tests.support.paths import ROOT

CASES = ("micro96_somefp", "micro96_binary", "micro96_gsb", "micro96_ln")
Packed = Callable[[str], Path]
WINDOW_OF_ONE = ROOT / "weights" / "bhvit-cifar10.safetensors"  # as many merged tokens as pixels


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
def test_a_profile_adds_up_within_ten_percent(calls: float, within: bool, report: BenchReport) -> None:
    assert report.profile is not None
    changed = dataclasses.replace(report.profile, seconds=0.9, calling_seconds=0.1, end_to_end_seconds=calls)
    found = dataclasses.replace(report, profile=changed)
    assert changed.adds_up is within
    told = f"the profile adds up to {1 / calls:.0%} of ordinary calls in the same run, expected 90 to 110%"
    assert any(warning.startswith(told) for warning in found.warnings) is not within
    share = f"add up to {1 / calls:.1%} of ordinary calls in the same run ({calls * 1e3:.3f} ms)"
    assert f"{share}, {'within' if within else 'NOT within'} 10%;" in bench.markdown(found)


def test_timed_steps_compute_what_a_call_computes(packed: Packed) -> None:

    model = bitvit.load(packed("micro96_somefp"), threads=1)
    program, pixels = model.runner.program, np.full((1, 3, 96, 96), 0.25, np.float32)
    workspace, ticks = Workspace(program), np.zeros(len(program.steps) + 1, np.int64)
    workspace.set_image(pixels[0])
    model.runner.timed_steps(workspace, ticks)()
    start = program.output.offset
    logits = workspace.state[start : start + program.outputs].view(np.float32)
    np.testing.assert_array_equal(logits, model(pixels)[0])
    assert (np.diff(ticks) >= 0).all()
