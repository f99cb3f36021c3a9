"""Learning rate and regulariser by step."""

import pytest

torch = pytest.importorskip("torch")

from bitvit.train import schedule  # noqa: E402
from tests.support.training import small  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_rate_rises_then_falls_and_the_regulariser_acts_last() -> None:
    settings = small(learning_rate=1.0, warmup=0.1, regulariser=0.3, regulariser_share=0.25)
    rates = [schedule.learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] < 1e-3
    betas = [schedule.regulariser(settings, step, 100) for step in range(100)]
    assert betas == [0.0] * 75 + [0.3] * 25
