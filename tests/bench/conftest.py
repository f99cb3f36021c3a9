"""Fixtures of the tests of bitvit.bench."""

from tests.support.bench_reports import quick, report

__all__ = ["quick", "report"]
