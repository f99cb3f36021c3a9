"""How many binary weights flip."""

import pytest

torch = pytest.importorskip("torch")

from bitvit.train import oscillation  # noqa: E402
from bitvit.train.network import BHViT, binary_weights  # noqa: E402
from tests.support.training import SMALL  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


@torch.no_grad()
def test_flips_are_counted_once_a_weight_and_forgotten_after_the_window() -> None:
    model = BHViT(SMALL.config(2))
    name, weight = next(iter(binary_weights(model)))
    row = weight[0].view(-1)
    row.copy_(torch.linspace(-1, 1, len(row)))
    row[len(row) // 2] = 0.1
    counter = oscillation.FlipCounter(model)
    total = sum(weight.numel() for _, weight in binary_weights(model))
    for step in range(4):
        if step < 2:  # one weight there and back, far enough from the row's mean
            row[-1] *= -1
            row[0] *= -1
        counter.update()
    assert counter.signs[name][0].view(-1)[-1]
    assert counter.share(3) == pytest.approx(2 / total)
    assert counter.share(2) == 0
