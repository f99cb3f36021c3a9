"""Random networks: any shape that a Config allows, and its layers beside the oracle's."""

import functools
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit.config import Config, valid_windows
from bitvit.errors import ConfigError
from bitvit.model import Network
from bitvit.runtime import Runner
from bitvit.runtime.trace import Trace
from bitvit.verify import reference
from tests.support.engine import alone, ask, folded, nudged_states, parts, random_state


@st.composite
def configs(draw: st.DrawFn, widest: int = 160) -> Config:
    """Any valid shape of small size, with maps of at most `widest` channels."""
    image = draw(st.sampled_from([32, 35, 48, 50, 64, 96, 97]))
    window = draw(st.sampled_from(valid_windows(image)))
    pooling: Any = draw(st.sampled_from(["mean", "mean", "attention", "top"]))
    binary = draw(st.booleans())
    widths = [4 * draw(st.integers(1, 13)), 0, 0, 0]
    large = widest > 160 and draw(st.integers(0, 3)) == 0
    for s in (1, 2, 3):
        free = (
            4 * draw(st.integers(1, 64 if large else 16)) if s == 1 else draw(st.integers(3, widest if large else 80))
        )
        widths[s] = widths[s - 1] * draw(st.integers(1, 3)) if binary else free
    assume(max(widths) <= widest)
    hidden = [width * draw(st.integers(1, max(1, min(8, 300 // width)))) for width in widths]
    heads = [1, 1, *(draw(st.sampled_from([h for h in range(1, 17) if width % h == 0])) for width in widths[2:])]
    depths = [draw(st.integers(1, 2)), 1, draw(st.integers(1, 2)), 1]
    sizes = {"hidden_sizes": widths, "intermediate_sizes": hidden, "num_heads": heads, "depths": depths}
    fields: dict[str, Any] = {name: tuple(values) for name, values in sizes.items()}
    try:
        return Config(
            image_size=image, window_size=window, num_classes=draw(st.integers(0, 70)),
            norm=draw(st.sampled_from(["batch", "layer"])), downsampling="binary" if binary else "float",
            quantizer=draw(st.sampled_from(["levels", "gsb"])), layer_scale=draw(st.booleans()),
            shift3=draw(st.booleans()), shift5=draw(st.booleans()),
            image_norm=draw(st.booleans()), coordinates=draw(st.booleans()), pooling=pooling,
            positions=draw(st.sampled_from(["learned", "sinusoidal"])),
            top_tokens=draw(st.integers(1, (image // 32) ** 2)) if pooling == "top" else 0,
            **fields,
        )  # fmt: skip
    except ConfigError:  # shifts want four chunks of channels
        assume(False)
        raise


def check_layers(config: Config, seed: int, pixels: NDArray[np.float32] | None = None) -> tuple[int, int, bool]:
    """Compare each layer with the oracle, alone and, bit for bit, as a part of the whole program.

    seed: of the weights, and of the pixels if there are none. pixels: float32 [3, S, S]. Returns how many tokens of how
    many hang on the last bits of a value, and whether the logits of the whole network agree with the oracle's.
    """
    state = random_state(config, seed)
    network = Network.read(config, folded(config, state))
    runner = Runner(network.program(), 1)
    trace = Trace(runner)
    if pixels is None:
        shape = 3, config.image_size, config.image_size
        pixels = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    trace.workspace.set_image(pixels)
    x: NDArray[np.float32] = pixels
    undecided = tokens = 0
    states = nudged_states(state)
    others = (parts(config, other, network) for other in states)
    for part, *nudged in zip(parts(config, state, network), *others, strict=True):
        answer = ask(part.oracle, x, [other.oracle for other in nudged])
        got = alone(part.layer, x.shape[0], x.shape[-1])(x)
        answer.assert_close(got, f"{part.name} of {config}, seed {seed}")
        undecided += int(answer.undecided.sum())
        tokens += answer.undecided.size
        if part.name != "head":
            source = None if part.name == "stem" else x
            inside, _ = trace.run_layer(part.name, source, got.shape[0], got.shape[-1])
            assert inside.tobytes() == got.tobytes(), f"{part.name} of {config} differs inside its network"
        x = answer.value.astype(np.float32)
    geometry: dict[str, Any] = {
        name: getattr(config, name) for name in ("depths", "num_heads", "window_size", "padding", "top_tokens")
    }  # fmt: skip

    def forward(images: NDArray[Any]) -> NDArray[Any]:
        if images.dtype == np.float64:
            return reference.forward(state, images, **geometry)
        for part in parts(config, state, network):  # as a whole, or a stem, the reference computes in float64
            images = part.oracle(images).astype(np.float32)
        return images

    whole = ask(forward, pixels, [functools.partial(reference.forward, other, **geometry) for other in states])
    undecided += int(whole.undecided.sum())
    try:
        whole.assert_close(runner(pixels[None])[0], "logits")
    except AssertionError:
        return undecided, tokens, False
    return undecided, tokens, True
