"""Every layer of odd and random networks agrees with the oracle, alone and inside its network."""

from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit.config import Config
from bitvit.model import Network
from bitvit.runtime import Runner, Workspace
from tests.support.engine import SAMPLES, ask, folded, random_state
from tests.support.networks import check_layers, configs
from tests.support.shapes import ODD_SHAPES, shape
from tests.support.signs import PROFILE

Array = NDArray[Any]


@pytest.mark.parametrize("name", ODD_SHAPES)
def test_every_layer_of_an_odd_network(name: str) -> None:
    undecided, tokens, _ = check_layers(ODD_SHAPES[name], seed=1)
    assert undecided <= 0.05 * tokens


def test_every_layer_of_random_networks() -> None:
    """And the whole networks: their logits agree too, unless a sign hung on the last bits somewhere."""
    undecided, tokens, agreeing, networks = [0], [0], [0], [0]

    @settings(PROFILE, max_examples=30)
    @given(configs(), st.integers(0, 1000))
    def check(config: Config, seed: int) -> None:
        found, seen, agrees = check_layers(config, seed)
        event(f"{config.norm} norm, {config.downsampling}, {config.quantizer}")
        assert agrees or found, "no sign is in doubt, but the logits differ"
        undecided[0] += found
        tokens[0] += seen
        agreeing[0] += agrees
        networks[0] += 1

    check()
    assert networks[0] >= 30
    assert undecided[0] <= 0.01 * tokens[0]  # otherwise the comparison would be an empty one
    assert agreeing[0] >= 0.75 * networks[0]


@pytest.mark.parametrize(("widths", "positions"), [((20, 16, 3, 3), "sinusoidal"), ((4, 8, 3, 3), "learned")])
def test_a_norm_of_nearly_equal_values_is_as_wrong_as_float32_is(widths: tuple[int, ...], positions: str) -> None:
    """A layer norm of three almost equal dot products: 3e-5 of the spread, in NumPy's float32 too."""
    config = shape(32, 1, widths, (1, 1, 1, 1), norm="layer", layer_scale=False, shift3=False, shift5=False,
        num_classes=0, positions=positions)  # fmt: skip
    image = np.random.default_rng(16241).standard_normal((3, 3, 32, 32), np.float32)[1]
    undecided, _, agrees = check_layers(config, 16241, image)
    assert agrees
    assert not undecided


def test_a_sign_that_hangs_on_float32_alone_is_undecided() -> None:
    """No nudge of the input flips it, as what it hangs on is made of signs; NumPy's float32 does."""
    config = shape(97, 1, (16, 48, 144, 144), (1, 6, 1, 1), num_heads=(1, 1, 12, 1), norm="layer", num_classes=0,
        downsampling="binary", layer_scale=False, shift3=False, coordinates=True)  # fmt: skip
    images = np.random.default_rng(1).standard_normal((3, 3, 97, 97), np.float32)
    assert sum(check_layers(config, 1, image)[0] for image in images) > 0


def test_a_level_that_hangs_on_last_bits_is_undecided() -> None:
    """Of scores, which no nudge of the input moves: 1.5 in float32, 1.5 + 7e-8 in float64."""
    config = shape(96, 1, (32, 32, 96, 96), (5, 3, 1, 1), depths=(2, 1, 1, 1), num_classes=0, downsampling="binary",
        layer_scale=False, coordinates=True, positions="sinusoidal")  # fmt: skip
    images = np.random.default_rng(65536).standard_normal((3, 3, 96, 96), np.float32)
    assert sum(check_layers(config, 65536, image)[0] for image in images) > 0


@pytest.mark.parametrize("name", ["window 3", "window 5, layer norm, gsb", "binary, layer norm", "even ratios"])
def test_pieces_may_run_in_any_order_by_any_thread(name: str) -> None:
    """Backwards, by two threads with their own scratch in turn: the same bits."""
    config = ODD_SHAPES[name]
    network = Network.read(config, folded(config, random_state(config, 2)))
    runner = Runner(network.program(), 1)
    rng = np.random.default_rng(2)
    workspaces = [Workspace(runner.program), Workspace(runner.program)]
    workspaces[1].state = workspaces[0].state
    for _ in range(2):  # the second image finds what the first left behind
        pixels = rng.standard_normal((3, config.image_size, config.image_size)).astype(np.float32)
        workspaces[0].set_image(pixels)
        turn = 0
        for i, step in enumerate(runner.program.steps):
            for piece in reversed(range(step.pieces)):
                runner.run_piece(workspaces[turn % 2], i, piece)
                turn += 1
        start = runner.program.output.offset
        got = workspaces[0].state[start : start + runner.program.outputs].view(np.float32)
        assert got.tobytes() == runner(pixels[None]).tobytes()


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("widths", [(20, 36, 20, 36), (4, 52, 36, 20), (16, 32, 48, 64)])
def test_nothing_is_left_behind_by_earlier_images(norm: str, widths: tuple[int, ...]) -> None:
    """400 times the same image: the same bits. What no step rewrites, such as pad lanes, must not grow."""
    config = shape(32, 1, widths, (1, 2, 3, 1), num_heads=(1, 1, 2, 2), norm=norm)
    state = random_state(config, 2)
    for name in state:
        if name.endswith("quantizer.alpha"):  # small contexts, which layer norm scales up
            state[name] = state[name] * np.float32(0.1)
    runner = Runner(Network.read(config, folded(config, state)).program(), 1)
    pixels = np.random.default_rng(2).standard_normal((1, 3, 32, 32)).astype(np.float32)
    logits = runner(np.repeat(pixels, 400, axis=0))
    assert np.isfinite(logits[0]).all()
    different = (logits != logits[0]).any(axis=1)
    assert not different.any(), f"{different.sum()} images differ, the first is number {different.argmax()}"


def test_the_oracle_does_hang_on_last_bits() -> None:
    """The measure of doubt works: an input that is exactly on a threshold is recognised, one beside it is not."""

    def sign(x: Array) -> Array:
        return np.where(x > 1, 1.0, -1.0)

    x = np.linspace(-3, 3, 60).astype(np.float32).reshape(1, 60, 1)
    x[0, 7] = 1 + 1e-7
    x[0, 9] = 1.01
    assert SAMPLES >= 8  # a sign exactly on its threshold escapes all nudges once in 2^8
    assert np.flatnonzero(ask(sign, x).undecided).tolist() == [7]
