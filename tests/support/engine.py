"""Layers of the engine alone, random networks, and the oracle's answer together with its own uncertainty.

A network of signs is chaotic: where a value lies within float32's rounding of its threshold, another sign is no fault,
and everything behind it differs. So nothing here compares whole networks. Each layer gets the oracle's input, rounded
to float32, and each token of its output may differ from the oracle by TOLERANCE of the map's spread, plus what the
oracle itself makes of an input that differs by float32's noise: where a decision hangs on the last bits, a nudge flips
the oracle's sign too, and shows how much that costs and whom it touches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.checkpoint import TrainedNetwork, names
from bitvit.config import Config
from bitvit.layers.stem import Stem
from bitvit.model import AttentionBlock, ConvBlock, Network
from bitvit.pack import pack
from bitvit.program import Builder, Map, Program, Region, aligned_zeros
from bitvit.runtime import Runner, Workspace
from bitvit.schema import Affine
from bitvit.verify import reference
from tests.support.golden_data import make_checkpoint

Array = NDArray[Any]
Floats = NDArray[np.float32]

TOLERANCE = 2e-5  # of an output's spread; honest float32 gives 2.5e-6 a block
NOISE = 4e-6  # of an input's spread: above what float32 rounding does inside a block (2.5e-6 at most)
LAST_BITS = 2.0**-22  # of a parameter: two units in its last place
SAMPLES = 8  # nudged inputs: each flips an undecided sign with a chance of a half
UNDECIDED = 1e-3  # of an output's spread: a nudge that moves a token more has flipped a sign (1e-2 and more)

CANARY = 0xDEADBEEF  # as a float -6e18: finite, as all memory beside a region must be


# -------------------------------------------------------------------------------------------------- neutral layers


def constant(size: int, value: float) -> Floats:
    return np.full(size, value, np.float32)


def identity(channels: int) -> Affine:
    return Affine(constant(channels, 1), constant(channels, 0))


# ------------------------------------------------------------------------------------------------ one layer alone


class Alone:
    """The program of one layer, run on one thread in arenas with canaries wherever no region is.

    emit: adds the layer's steps to a program; given the input map, returns the output map or region.
    """

    def __init__(self, emit: Callable[[Builder], tuple[Map | None, Map | tuple[Region, int]]]) -> None:
        builder = Builder()
        self.source, self.out = emit(builder)
        region, size = (self.out.region, 1) if isinstance(self.out, Map) else self.out
        self.program = builder.build(region, size)
        self.runner = Runner(self.program, 1)
        self.workspace = _guarded(self.program)
        self._free = {
            "state": _outside(len(self.workspace.state), list(builder._state.values())),
            "scratch": _outside(len(self.workspace.scratch), list(builder._scratch.values())),
        }
        self._free["state"][:16] = False  # the line with the address of the image
        self.workspace.state[self._free["state"]] = CANARY
        self.workspace.scratch[self._free["scratch"]] = CANARY
        self._const = self.program.const.tobytes()

    def __call__(self, x: Array) -> Floats:
        """Input map [S, S, C] (pixels [3, S, S] for the stem) -> output map, or a vector for the head."""
        image = np.ascontiguousarray(x, np.float32)
        if self.source is None:
            self.workspace.set_image(image)
        else:
            self.write(self.source, image)
        self.runner.run_steps(self.workspace, 0, len(self.program.steps))
        self.assert_nothing_else_was_written()
        return self.read()

    def write(self, target: Map, x: Floats) -> None:
        """Put a map where the layer reads it; its pad lanes are junk, for they must not matter."""
        lanes = np.full((target.rows, target.stride), 123.0, np.float32)
        lanes[:, : target.channels] = x.reshape(target.rows, target.channels)
        start = target.region.offset
        self.workspace.state[start : start + lanes.size] = lanes.reshape(-1).view(np.uint32)

    def read(self) -> Floats:
        if not isinstance(self.out, Map):
            region, size = self.out
            return self.floats(region, size)
        lanes = self.floats(self.out.region, self.out.rows * self.out.stride).reshape(self.out.rows, -1)
        return lanes[:, : self.out.channels].reshape(self.out.side, self.out.side, -1)

    def floats(self, region: Region, size: int) -> Floats:
        """A copy of the start of a state region."""
        copied: Floats = self.words(region, size).view(np.float32)
        return copied

    def words(self, region: Region, size: int, arena: str = "state") -> NDArray[np.uint32]:
        """A copy of the start of a region of either arena."""
        memory: NDArray[np.uint32] = getattr(self.workspace, arena)
        copied: NDArray[np.uint32] = memory[region.offset : region.offset + size].copy()
        return copied

    def step(self, kernel: str) -> int:
        """The index of the only step of a kernel."""
        (index,) = (i for i, step in enumerate(self.program.steps) if step.kernel.name == kernel)
        return index

    def assert_nothing_else_was_written(self) -> None:
        """Kernels write to regions only; the constants stay as they are."""
        assert (self.workspace.state[self._free["state"]] == CANARY).all(), "written beside a state region"
        assert (self.workspace.scratch[self._free["scratch"]] == CANARY).all(), "written beside a scratch region"
        assert self.program.const.tobytes() == self._const


def _guarded(program: Program) -> Workspace:
    """A workspace whose arenas go on for a while."""
    workspace = Workspace(program)
    workspace.state = aligned_zeros(program.state_size + 4096)
    workspace.scratch = aligned_zeros(program.scratch_size + 4096)
    return workspace


def _outside(size: int, regions: list[Region]) -> NDArray[np.bool_]:
    free = np.ones(size, bool)
    for region in regions:
        free[region.offset : region.offset + region.size] = False
    return free


def alone(layer: Any, side: int, channels: int) -> Alone:
    """A layer that reads a map [side, side, channels]; for the stem they do not matter."""

    def emit(b: Builder) -> tuple[Map | None, Map | tuple[Region, int]]:
        if isinstance(layer, Stem):
            return None, layer.emit(b)
        source = b.map(side, channels)
        return source, layer.emit(b, source)

    return Alone(emit)


# ----------------------------------------------------------------------------------------------- random networks


def random_state(config: Config, seed: int) -> dict[str, Array]:
    """A checkpoint of the given shape, lively as the golden ones are, but with no margins."""
    case = {
        "name": "random",
        "seed": seed,
        "config": {
            "image_size": config.image_size,
            "window_size": config.window_size,
            "hidden_size": list(config.hidden_sizes),
            "intermediate_size": list(config.intermediate_sizes),
            "depths": list(config.depths),
            "num_attention_heads": list(config.num_heads),
        },
        "options": {
            "gsb": config.quantizer == "gsb",
            "some_fp": config.downsampling == "float",
            "shift3": config.shift3,
            "shift5": config.shift5,
            "replace_ln_bn": config.norm == "batch",
            "disable_layerscale": not config.layer_scale,
            "num_labels": config.num_classes,
        },
    }
    state: dict[str, Array] = make_checkpoint().make_state_dict(case)
    add_parameters(config, state, np.random.default_rng(seed))
    return state


def add_parameters(config: Config, state: dict[str, Array], rng: np.random.Generator) -> None:
    """Make a state dict of the authors' network one of a fork's (SPEC 7.9)."""
    stem = "vit.embeddings"
    if config.image_norm:
        state[f"{stem}.stain_norm.inorm.weight"] = rng.uniform(0.5, 1.5, 3).astype(np.float32)
        state[f"{stem}.stain_norm.inorm.bias"] = rng.normal(0, 0.3, 3).astype(np.float32)
    if config.coordinates:
        weight = state[f"{stem}.patch_embeddings.proj.weight"]
        more = rng.normal(0, weight.std(), (len(weight), 2, 4, 4)).astype(np.float32)
        state[f"{stem}.patch_embeddings.proj.weight"] = np.concatenate([weight, more], axis=1)
    if config.positions == "sinusoidal":
        del state[f"{stem}.position_embeddings"]
    if config.pooling == "attention":
        width = config.hidden_sizes[3]
        state["pool.att.weight"] = rng.normal(0, width**-0.5, (1, width)).astype(np.float32)
        state["pool.att.bias"] = rng.normal(0, 1, 1).astype(np.float32)


def folded(config: Config, state: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors of the model file that `convert` would write."""
    return pack(TrainedNetwork.from_state(state, config)).tensors


@dataclass(frozen=True)
class Part:
    """One layer of a network and the oracle's function of a batch of its inputs, float64 throughout."""

    name: str  # as in the program
    layer: Any
    oracle: Callable[[Array], Array]


def parts(config: Config, state: Mapping[str, Array], network: Network) -> Iterator[Part]:
    """All layers in order: the stem, then mixer or attention, MLP, downsamplings, the head."""
    yield Part("stem", network.stem, lambda x: reference.stem(state, x))
    for place, layer in network.middle:
        module = names.module(config, place)
        match layer:
            case ConvBlock(mixer, mlp):
                yield Part(mixer.name, mixer, _mixer(state, module))
                yield Part(mlp.name, mlp, _mlp(state, module))
            case AttentionBlock(attention, mlp):
                heads = config.num_heads[place.stage]
                yield Part(
                    attention.name, attention, _attention(state, module, heads, (config.window_size, config.padding))
                )
                yield Part(mlp.name, mlp, _mlp(state, module))
            case _:
                yield Part(layer.name, layer, _downsample(state, module))
    yield Part("head", network.head, lambda x: reference.head(state, x, top_tokens=config.top_tokens))


def _downsample(state: Mapping[str, Array], prefix: str) -> Callable[[Array], Array]:
    return lambda x: reference.downsample(state, prefix, x, None)


def _mixer(state: Mapping[str, Array], prefix: str) -> Callable[[Array], Array]:
    def mix(x: Array) -> Array:
        normed = reference.norm(state, f"{prefix}.layernorm_before", x)
        return x + reference.token_mixer(state, f"{prefix}.GC", normed, None)

    return mix


def _attention(
    state: Mapping[str, Array], prefix: str, heads: int, windows: tuple[int, int]
) -> Callable[[Array], Array]:
    def attend(x: Array) -> Array:
        normed = reference.norm(state, f"{prefix}.layernorm_before", x)
        attended = reference.attention(state, f"{prefix}.attention.attention", normed, heads, windows, None)
        return x + reference.attention_output(state, f"{prefix}.attention.output", attended, None)

    return attend


def _mlp(state: Mapping[str, Array], prefix: str) -> Callable[[Array], Array]:
    return lambda x: x + reference.feed_forward(state, prefix, x, None)


# ------------------------------------------------------------------------------------------- comparing with the oracle


def spread(y: Array) -> float:
    """What errors are measured by: the standard deviation, or for a handful of values their size."""
    return max(float(y.std()), 0.1 * float(np.abs(y).max()))


@dataclass(frozen=True)
class Answer:
    """What the oracle says to an input, and how far float32 moves each token of it."""

    value: Array
    response: Array  # to noise in the input; shape of value without the channels
    rounding: Array  # of the oracle itself where it computes in float32; same shape

    @property
    def undecided(self) -> NDArray[np.bool_]:
        """Tokens in which a sign or level hangs on the last bits."""
        undecided: NDArray[np.bool_] = np.maximum(self.response, self.rounding) > UNDECIDED * spread(self.value)
        return undecided

    def assert_close(self, got: Array, what: str) -> None:
        assert got.shape == self.value.shape, what
        error = np.abs(got - self.value).max(axis=-1)
        # A layer norm of values that are nearly equal lets float32's rounding of them grow, whoever computes it. Signs
        # that hang on the same value are flipped together by a nudge, such as a pixel's and that of a merged token made
        # of this pixel alone; of those, an engine may flip one, which can move a token further than both.
        noise = self.response + 2 * self.rounding
        allowed = TOLERANCE * spread(self.value) + np.where(self.undecided, 4, 1) * noise
        worst = np.argmax(error / allowed)
        assert (error <= allowed).all(), (
            f"{what}: {(error > allowed).sum()} of {error.size} tokens differ, at worst by"
            f" {error.flat[worst] / spread(self.value):.1e} of the spread, oracle's own response"
            f" {self.response.flat[worst] / spread(self.value):.1e}"
        )


def ask(oracle: Callable[[Array], Array], x: Floats, others: Sequence[Callable[[Array], Array]] = ()) -> Answer:
    """The oracle's answer to one input. others: the same with parameters that are nudged, for `nudged_states`."""
    noise = np.random.default_rng(0).standard_normal((SAMPLES, *x.shape)) * (NOISE * spread(x))
    inputs = np.concatenate([x[None], x + noise]).astype(np.float32)
    y = oracle(inputs.astype(np.float64))
    rounding = np.abs(oracle(inputs) - y).max(axis=(0, -1))  # of all: any one may be near the truth by chance
    moved = np.concatenate([y[1:], *(other(inputs[:1].astype(np.float64)) for other in others)])
    return Answer(y[0], np.abs(moved - y[0]).max(axis=(0, -1)), rounding)


def nudged_states(state: Mapping[str, Array]) -> list[dict[str, Array]]:
    """State dicts whose parameters differ in their last bits, SAMPLES of them.

    Inside a layer some values are made of signs and of parameters alone, such as scores, which no nudge of its input
    moves; whether such a value is beyond a level hangs on how its float32 is rounded.
    """
    rng = np.random.default_rng(0)
    return [
        {
            # Of matrices the signs count, and the mean of a row, which are no matter of rounding.
            name: value
            if max(value.shape, default=1) < value.size
            else value * (1 + LAST_BITS * rng.standard_normal(value.shape))
            for name, value in state.items()
        }
        for _ in range(SAMPLES)
    ]
