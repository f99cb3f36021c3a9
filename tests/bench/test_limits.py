"""bench.limits: what the machine can do at best."""

import dataclasses

import pytest

from bitvit.bench import limits
from bitvit.bench.limits import Limits


@pytest.mark.usefixtures("quick")
def test_limits_are_positive() -> None:
    found = limits.measure_limits()
    assert all(value > 0 for value in dataclasses.astuple(found))
    assert limits.popcount_rate(2) > 0


def test_a_step_is_bound_by_products_or_by_bytes() -> None:
    roofs = Limits(binary_macs=1000.0, float_macs=100.0, cache_bytes=10.0, memory_bytes=1.0)
    for work, least, bound in (
        ((1000, 50, 10), 1.5, "popcount"),
        ((100, 100, 10), 1.1, "fma"),
        ((0, 100, 20), 2, "bytes"),
    ):
        assert roofs.seconds(*work)[0] == pytest.approx(least)
        assert roofs.seconds(*work)[1] == bound
