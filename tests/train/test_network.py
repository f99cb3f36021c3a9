"""network.py and layers.py: what they compute is the golden logits, under the authors' names."""

from typing import Any

import numpy as np
import pytest

from bitvit.checkpoint.infer import infer_config
from bitvit.checkpoint.shapes import expected_shapes
from bitvit.errors import ConfigError
from bitvit.verify import reference
from tests.support.engine import random_state
from tests.support.golden_data import case_names, load_case

torch = pytest.importorskip("torch")

from bitvit.train.layers import Options  # noqa: E402
from bitvit.train.network import BHViT  # noqa: E402
from bitvit.train.settings import Network  # noqa: E402
from tests.support.training import SMALL  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


@pytest.mark.parametrize("name", case_names())
def test_evaluation_equals_the_golden_logits(name: str) -> None:
    case = load_case(name)
    config = infer_config(case.state, config_json=case.config)
    model = BHViT(config).double().eval()
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in case.state.items()})
    with torch.no_grad():
        logits = model(torch.from_numpy(case.input.astype(np.float64))).numpy()
    # Both are float64 and differ in the order of their sums only.
    assert np.abs(logits - case.logits_f64).max() <= 1e-9 * case.logits_f64.std()


ADDITIONS: dict[str, dict[str, Any]] = {
    "all, attention": {"image_norm": True, "coordinates": True, "positions": "sinusoidal", "pooling": "attention"},
    "all, top, layer norm": {
        "norm": "layer",
        "image_norm": True,
        "coordinates": True,
        "pooling": "top",
        "topk_ratio": 0.6,
    },
    "even windows": {"image_size": 256, "window_size": 8, "merge_padding": "three"},
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions_of_forks_are_computed_and_called_as_the_reference_has_them(name: str) -> None:
    network = Network(**{"image_size": 64, "widths": (8, 12, 16, 24), "heads": (1, 1, 2, 3), **ADDITIONS[name]})
    config = network.config(5)
    state = random_state(config, 1)
    model = BHViT(config).double().eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    pixels = np.random.default_rng(0).standard_normal((2, 3, config.image_size, config.image_size))
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels)).numpy()
    shape = {key: getattr(config, key) for key in ("depths", "num_heads", "window_size", "padding", "top_tokens")}
    expected = reference.forward(state, pixels, **shape)
    # Sines of float32, which differ by its last bit, are the only thing that is not float64.
    assert np.abs(logits - expected).max() <= 1e-6 * expected.std()


@pytest.mark.parametrize("name", [name for name in case_names() if name.startswith("micro96")])
def test_names_and_shapes_are_the_authors(name: str) -> None:
    case = load_case(name)
    config = infer_config(case.state, config_json=case.config)
    shapes = {key: tuple(value.shape) for key, value in BHViT(config).state_dict().items()}
    assert shapes == expected_shapes(config)


def test_initialise_measures_the_steps_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = BHViT(SMALL.config(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise(torch.randn(4, 3, 32, 32))
    changed = {name.rpartition(".")[2] for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"alpha", "zero_point", "init_state"}
    # Tokens of a window share their attention: mean of 3P is 3/N, here with N = 1 + M.
    alphas = [v for k, v in model.state_dict().items() if k.endswith("att_prob_quantizer.alpha")]
    for alpha, tokens in zip(alphas, (5, 2), strict=True):
        torch.testing.assert_close(alpha, torch.full_like(alpha, 2 * 3 / tokens / 3**0.5))


def test_dropped_branches_leave_an_image_as_it_is() -> None:
    options = Options(drop_path=0.5)
    model = BHViT(SMALL.config(2), options)
    blocks = [*model.vit.encoder.layerA, *model.vit.encoder.layerB]
    assert [block.drop_path for block in blocks] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    block, x, y = blocks[-1].train(), torch.zeros(400, 1, 1, 2), torch.ones(400, 1, 1, 2)
    torch.manual_seed(0)
    out = block.dropped(x, y)
    kept = out[:, 0, 0, 0] != 0
    assert 140 < int(kept.sum()) < 260  # half of 400, six deviations either way
    assert torch.equal(out[kept], 2 * y[kept])
    assert block.eval().dropped(x, y) is y


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="window_size"):
        Network(image_size=32, window_size=3).config(10)
