"""What forks have added, in the reference: against PyTorch's own operators, and against networks of a fork."""

from typing import Any

import numpy as np
import pytest

from bitvit.verify import reference
from tests.support.golden_data import fork_names, load_fork

torch = pytest.importorskip("torch")
functional = torch.nn.functional

STEM = "vit.embeddings"


@pytest.mark.parametrize("count", [2, 3, 7, 8, 24, 33, 56, 96, 99, 224, 227, 256, 448])
def test_line_is_torchs_linspace(count: int) -> None:
    np.testing.assert_array_equal(reference.line(count), torch.linspace(-1, 1, count).numpy())


def test_image_norm_is_an_instance_norm() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(2, 3, (2, 3, 9, 9))
    weight, bias = rng.normal(1, 0.3, 3), rng.normal(0, 0.3, 3)
    got = reference.image_norm({"n.weight": weight, "n.bias": bias}, "n", pixels)
    tensors = (torch.from_numpy(array) for array in (pixels, weight, bias))
    image, scale, shift = tensors
    expected = functional.instance_norm(image, weight=scale, bias=shift, eps=1e-5)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12, atol=1e-12)


def test_coordinates_are_y_then_x() -> None:
    y, x = reference.coordinates(5)
    np.testing.assert_array_equal(y[:, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_array_equal(y, x.T)
    assert (y == y[:, :1]).all()


def test_coordinates_run_over_pixels_that_no_patch_has() -> None:
    """227 pixels: the last 3 rows are in no patch, yet the corner of the last patch is not at 1."""
    state = {
        f"{STEM}.patch_embeddings.proj.weight": np.concatenate([np.zeros((4, 3, 4, 4)), np.ones((4, 2, 4, 4))], axis=1),
        f"{STEM}.patch_embeddings.proj.bias": np.zeros(4),
        f"{STEM}.patch_embeddings.norm.weight": np.ones(4),
        f"{STEM}.patch_embeddings.norm.bias": np.zeros(4),
    }
    seen: dict[str, Any] = {}
    reference.stem(state, np.zeros((1, 3, 35, 35)), trace=seen.__setitem__)
    line = torch.linspace(-1, 1, 35).double().numpy()
    expected = 4 * (line[28:32].sum() + line[:4].sum())
    np.testing.assert_allclose(seen[f"{STEM}.patch_embeddings.proj"][0, 7, 0], expected, rtol=1e-12)


def test_sinusoidal_positions_by_their_formula() -> None:
    got = reference.sinusoidal_positions(12, 8)
    assert got.shape == (12, 8, 8)
    t = torch.linspace(-1, 1, 8).numpy()
    for f in (1, 2, 3):
        for y, x in ((0, 7), (3, 5), (6, 1)):
            expected = [np.sin(t[y] * f), np.cos(t[y] * f), np.sin(t[x] * f), np.cos(t[x] * f)]
            np.testing.assert_allclose(got[[f - 1, f + 2, f + 5, f + 8], y, x], expected, atol=1e-7)


def test_attention_pooling_is_a_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    tokens, weight = rng.standard_normal((2, 9, 5)), rng.standard_normal((1, 5))
    state = {"pool.att.weight": weight, "pool.att.bias": np.array([3.0])}
    x = torch.from_numpy(tokens)
    shares = functional.softmax(functional.linear(x, torch.from_numpy(weight), torch.tensor([3.0]).double()), dim=1)
    np.testing.assert_allclose(reference.pool_tokens(state, tokens, 0), (shares * x).sum(1).numpy(), rtol=1e-12)


@pytest.mark.parametrize("top", [1, 4, 9])
def test_top_pooling_takes_the_longest_tokens(top: int) -> None:
    tokens = np.random.default_rng(1).standard_normal((3, 9, 5))
    x = torch.from_numpy(tokens)
    chosen = x.norm(dim=-1).topk(top, dim=1).indices
    expected = x.gather(1, chosen[..., None].expand(-1, -1, 5)).mean(1)
    np.testing.assert_allclose(reference.pool_tokens({}, tokens, top), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("window", "side", "padding"), [(8, 16, 3), (8, 8, 3), (9, 9, 3), (14, 28, 3), (7, 14, 3)])
def test_merged_tokens_with_a_padding_of_three(window: int, side: int, padding: int) -> None:
    x = np.random.default_rng(2).standard_normal((2, side, side, 3))
    planes = torch.from_numpy(x).permute(0, 3, 1, 2)
    mean = functional.avg_pool2d(planes, window, window, padding).flatten(2).transpose(1, 2).numpy()
    largest = functional.max_pool2d(planes, window, window, padding).flatten(2).transpose(1, 2).numpy()
    np.testing.assert_allclose(reference.merged_tokens(x, np.zeros(1), window, padding), mean, atol=1e-14)
    np.testing.assert_array_equal(reference.merged_tokens(x, np.ones(1), window, padding), largest)


@pytest.mark.parametrize("name", fork_names())
def test_networks_of_a_fork(name: str) -> None:
    """Trained by the fork's own code, which gave these logits in float64."""
    case = load_fork(name)
    logits = reference.forward(case.state, case.input, **case.geometry)
    assert np.abs(logits - case.logits_f64).max() <= 1e-7 * case.logits_f64.std()
