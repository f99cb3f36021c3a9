"""Two reports side by side: which cells became faster, by how much, and whether the runs may be compared at all."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from bitvit.bench.report import UNSTEADY, BenchReport, Result, cell_name

LEAST = 0.02  # a smaller difference is noise, however steady the runs were


@dataclass(frozen=True)
class Pair:
    """One cell in both reports."""

    first: Result
    second: Result

    @property
    def ratio(self) -> float:
        """Median time of a call, second over first: below 1 the second is faster."""
        return self.second.p50_ms / self.first.p50_ms

    @property
    def noise(self) -> float:
        """The relative difference that the spread of the two runs alone may cause."""
        return max(LEAST, self.first.spread, self.second.spread)

    @property
    def verdict(self) -> str:
        """How the second compares: faster, slower, same (within a small noise), or unclear (within a large one)."""
        if abs(self.ratio - 1) <= self.noise:
            return "same" if self.noise <= UNSTEADY else "unclear"
        return "faster" if self.ratio < 1 else "slower"


@dataclass(frozen=True)
class ReportComparison:
    """Cells of two reports, matched by mode, threads and batch size.

    differences: what else differs between the runs, a line each. alone: cells of one report only.
    """

    pairs: list[Pair]
    differences: list[str]
    alone: list[str]
    warnings: list[str]

    def to_json(self) -> str:
        """{"schema": "bitvit-bench-comparison/1", "cells": [{mode, threads, infer_batch_size, first, second, ratio,
        noise, verdict}], "differences", "alone", "warnings"}; first and second are Results."""
        cells: list[dict[str, Any]] = [
            {
                "mode": pair.first.mode,
                "threads": pair.first.threads,
                "infer_batch_size": pair.first.infer_batch_size,
                "first": dataclasses.asdict(pair.first),
                "second": dataclasses.asdict(pair.second),
                "ratio": pair.ratio,
                "noise": pair.noise,
                "verdict": pair.verdict,
            }
            for pair in self.pairs
        ]
        rest = {"differences": self.differences, "alone": self.alone, "warnings": self.warnings}
        return json.dumps({"schema": "bitvit-bench-comparison/1", "cells": cells, **rest}, indent=1) + "\n"


def compare(first: BenchReport, second: BenchReport) -> ReportComparison:
    """Compare two reports, of two models, versions or machines."""
    one, two = ({_key(r): r for r in report.results} for report in (first, second))
    alone = [f"only in the first: {cell_name(r)}" for key, r in one.items() if key not in two]
    alone += [f"only in the second: {cell_name(r)}" for key, r in two.items() if key not in one]
    return ReportComparison(
        pairs=[Pair(r, two[key]) for key, r in one.items() if key in two],
        differences=_differences(first, second),
        alone=alone,
        warnings=[f"first: {w}" for w in first.warnings] + [f"second: {w}" for w in second.warnings],
    )


def _key(result: Result) -> tuple[str, int, int]:
    return result.mode, result.threads, result.infer_batch_size


def _differences(first: BenchReport, second: BenchReport) -> list[str]:
    """Facts about model and machine that are not the same."""
    facts = [
        ("model", first.model.name, second.model.name),
        ("model's sha256", first.model.sha256[:12], second.model.sha256[:12]),
    ]
    environments = first.environment, second.environment
    for name in (
        *("bitvit", "commit", "cpu", "target", "instruction_set", "cores", "affinity", "cgroup_quota", "system"),
        *("python", "versions", "variables"),
    ):
        values = [getattr(e, name) for e in environments]
        if isinstance(values[0], dict):
            one, two = values
            facts += [(key, one.get(key), two.get(key)) for key in sorted(one.keys() | two.keys())]
        else:
            facts.append((name, *values))
    return [f"{name}: {a} | {b}" for name, a, b in facts if a != b]
