"""A packed model's parameters compute what it computes, and training goes on from them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bitvit
from bitvit.checkpoint import TrainedNetwork
from bitvit.modelfile import load_model_file
from bitvit.pack import pack
from tests.support.golden_data import case_names, load_case

torch = pytest.importorskip("torch")

from bitvit.train.network import BHViT, binary_weights  # noqa: E402
from bitvit.train.start import calibrate, read_start  # noqa: E402
from bitvit.train.unpack import unpack  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def network(path: Path) -> BHViT:
    model = load_model_file(path)
    module = BHViT(model.config).eval()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in unpack(model).items()})
    return module


@pytest.mark.parametrize("name", [name for name in case_names() if name != "edge_zeros"])  # which is refused
def test_unpacked_parameters_pack_to_the_same_model(name: str, packed: Callable[[str], Path]) -> None:
    """Signs bit for bit, and every folded vector to float32's rounding."""
    model = load_model_file(packed(name))
    again = pack(TrainedNetwork.from_state(unpack(model), model.config)).tensors
    assert again.keys() == model.tensors.keys()
    for key, tensor in model.tensors.items():
        if tensor.dtype == np.uint64:
            assert np.array_equal(again[key], tensor), key
        else:
            np.testing.assert_allclose(again[key], tensor, rtol=2e-5, atol=2e-5 * np.abs(tensor).max(), err_msg=key)


@pytest.mark.parametrize("name", ["micro96_binary", "micro96_gsb", "micro96_ln", "micro96_somefp"])
def test_the_network_answers_as_the_packed_model(name: str, packed: Callable[[str], Path]) -> None:
    path, case = packed(name), load_case(name)
    pixels = case.input.astype(np.float32)
    expected = bitvit.load(path)(pixels)
    with torch.no_grad():
        logits = network(path)(torch.from_numpy(pixels)).numpy()
    assert np.median(np.abs(logits - expected)) <= 1e-4 * expected.std()


@torch.no_grad()
def test_calibrating_changes_the_statistics_and_not_the_answers(packed: Callable[[str], Path]) -> None:
    path, case = packed("micro96_somefp"), load_case("micro96_somefp")
    model = network(path).double()
    pixels = torch.from_numpy(case.input.astype(np.float64))
    before = model(pixels)
    calibrate(model, pixels)
    assert torch.allclose(model(pixels), before, rtol=1e-6, atol=1e-6)
    norm = model.vit.encoder.layerA[0].intermediate.norm
    assert not torch.allclose(norm.running_mean, torch.zeros(()).double())
    x = torch.randn(4, 5, norm.running_mean.numel()).double()
    assert not torch.allclose(norm.running_var, torch.ones(()).double())
    assert norm(x).shape == x.shape


def test_latent_weights_are_signs_times_one_scale(packed: Callable[[str], Path]) -> None:
    start = read_start(packed("micro96_somefp"))
    assert start.packed
    assert not start.start.calibrated
    model = BHViT(start.network.config(10))
    model.load_state_dict(dict(start.start.state))
    for name, weight in binary_weights(model):
        rows = weight.detach().flatten(1).abs()
        assert torch.allclose(rows, rows[:, :1].expand_as(rows)), name
