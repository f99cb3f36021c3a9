"""Signs and levels: exact forwards, and the gradients that their formulas say."""

import numpy as np
import pytest

from bitvit.verify import reference

torch = pytest.importorskip("torch")

from bitvit.train import estimators  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_gradient_of_sign() -> None:
    x = torch.linspace(-2, 2, 401, dtype=torch.float64).requires_grad_()
    y = estimators.sign(x)
    assert y.tolist() == np.sign(x.detach().numpy()).tolist()
    y.sum().backward()
    a = x.detach().numpy()
    expected = np.where((a >= -1) & (a <= 0), 2 + 2 * a, np.where((a > 0) & (a <= 1), 2 - 2 * a, 0))
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-12)


def test_sign_of_zero_is_zero() -> None:
    assert estimators.sign(torch.tensor([0.0, -0.0])).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(5, 12), (4, 3, 3, 3)])
def test_gradient_of_binary_weight(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    value = estimators.binary_weight(weight)
    w, g = weight.detach().numpy().reshape(shape[0], -1), grad.numpy().reshape(shape[0], -1)
    scale, signs = reference.binary_weight(weight.detach().numpy(), np.float64)
    expected = scale[:, None] * signs.reshape(shape[0], -1)
    np.testing.assert_allclose(value.detach().numpy().reshape(shape[0], -1), expected, rtol=1e-15)  # sums' order
    (value * grad).sum().backward()
    masked = g * (np.abs(w - w.mean(1, keepdims=True)) <= 1)
    expected = masked - masked.mean(1, keepdims=True)
    np.testing.assert_allclose(weight.grad.numpy().reshape(shape[0], -1), expected, atol=1e-12)


def test_recu_changes_the_gradient_and_not_the_value() -> None:
    weight = torch.randn(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    value = estimators.binary_weight(weight, recu=True)
    assert value.equal(estimators.binary_weight(weight))
    value.sum().backward()
    w = weight.detach().numpy()
    centred = w - w.mean(1, keepdims=True)
    factor = 2 * np.sqrt(2) / np.sqrt(centred.var(1, ddof=1, keepdims=True) + 1e-5)
    scaled = centred * factor
    mask = (np.abs(scaled) <= -np.log(2 - 2 * 0.92) * np.abs(scaled).mean()).astype(float)
    assert 0.02 < 1 - mask.mean() < 0.3
    # Through the factor: d(scaled_j)/d(centred_i) = factor·δ_ij − factor³/8 · centred_i·centred_j / (n − 1).
    through = factor * mask - factor**3 / 8 * centred * (mask * centred).sum(1, keepdims=True) / (w.shape[1] - 1)
    np.testing.assert_allclose(weight.grad.numpy(), through - through.mean(1, keepdims=True), atol=1e-10)


def test_gradient_of_levels() -> None:
    generator = torch.Generator().manual_seed(3)
    x = (3 * torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    step = torch.tensor([0.5, 0.9, 0.31], dtype=torch.float64).requires_grad_()
    zero = torch.tensor([0.1, -0.2, 0.0], dtype=torch.float64).requires_grad_()
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    y = estimators.levels(x, step, zero)
    (y * grad).sum().backward()
    a, z = (t.detach().numpy()[:, None, None] for t in (step, zero))
    v, g = x.detach().numpy(), grad.numpy()
    rounded = np.rint(v / a + z)
    level, inside = np.clip(rounded, 0, 3), (rounded >= 0) & (rounded <= 3)
    np.testing.assert_array_equal(y.detach().numpy(), level * a)
    factor = 3 / np.sqrt(v.size * 3)
    np.testing.assert_allclose(x.grad.numpy(), g * inside, atol=1e-12)
    np.testing.assert_allclose(step.grad.numpy(), factor * (g * (level - inside * v / a)).sum((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(zero.grad.numpy(), factor * (g * inside * a).sum((0, 2, 3)), atol=1e-12)


def test_gradient_of_gsb() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64).softmax(-1).requires_grad_()
    steps = [torch.tensor(value, dtype=torch.float64).requires_grad_() for value in (0.3, 1.8, 2.5)]
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    y = estimators.gsb(x, *steps)
    (y * grad).sum().backward()
    a, a2, a3 = (step.item() for step in steps)
    v, g = x.detach().numpy(), grad.numpy()
    q = v / a
    top = q.max(-1, keepdims=True)
    t1, t2 = (q > 0.7 * top).astype(float), (q > 0.9 * top).astype(float)
    masks = np.clip(np.rint(q), 0, 1) - t1, t1 - t2, t2
    weighted = masks[0] + a2 * masks[1] + a3 * masks[2]
    h = np.where((q >= 0) & (q <= 1), -q, 0)
    np.testing.assert_allclose(y.detach().numpy(), a * weighted, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), g * a * weighted, atol=1e-12)
    expected = (g * weighted * (1 + h)).sum(), (g * a * masks[1]).sum(), (g * a * masks[2]).sum()
    np.testing.assert_allclose([step.grad.item() for step in steps], expected, atol=1e-12)
