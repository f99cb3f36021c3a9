"""The tensors of a network in training, by our names (SPEC section 3)."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from bitvit.checkpoint.names import in_part, module
from bitvit.config import Config, PlaceKind

__all__ = ["Expected", "Shape", "expected_shapes", "expected_tensors", "is_optional", "parameter_shapes"]

Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]


class Expected(NamedTuple):
    """A tensor that a network must have; `is_optional` says of which this is not quite true."""

    name: str
    authors_name: str
    shape: Shape


def expected_tensors(config: Config) -> Iterator[Expected]:
    """Every tensor, in the network's order."""
    # A part is like any other of its kind and stage. Anybody may claim 4,096 blocks: their names are only put together.
    inside: dict[tuple[PlaceKind, int], list[Expected]] = {}
    for place in config.places():
        key = (place.kind, place.stage)
        if key not in inside:
            shapes = _PARTS[place.kind](config, place.stage)
            inside[key] = [Expected(name, in_part(place.kind, name), shape) for name, shape in shapes]
        ours, theirs = f"{place.name}.", f"{path}." if (path := module(config, place)) else ""
        yield from (Expected(ours + name, theirs + authors, shape) for name, authors, shape in inside[key])


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Our name -> shape of every tensor."""
    return {tensor.name: tensor.shape for tensor in expected_tensors(config)}


def expected_shapes(config: Config) -> dict[str, Shape]:
    """The same under the authors' names: what a state dict must hold."""
    return {tensor.authors_name: tensor.shape for tensor in expected_tensors(config)}


def is_optional(name: str) -> bool:
    """Whether the tensor, by our name, has no influence on the output and may be absent."""
    return name.endswith((".num_batches_tracked", ".quantizer.init_state"))


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return ((f"{prefix}.{name}", shape) for name, shape in shapes)


def _norm(name: str, width: int, config: Config) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var") if config.norm == "batch" else ("weight", "bias")
    yield from ((f"{name}.{vector}", (width,)) for vector in vectors)
    if config.norm == "batch":
        yield f"{name}.num_batches_tracked", ()


def _rprelu(name: str, width: int) -> Shapes:
    yield from ((f"{name}.{vector}", (width,)) for vector in ("move1", "slope", "move2"))


def _scale(name: str, width: int) -> Shapes:
    yield from ((f"{name}.{vector}", (width,)) for vector in ("alpha", "move"))


def _stem(config: Config, _stage: int) -> Shapes:
    width, side = config.hidden_sizes[0], config.map_sides[0]
    if config.image_norm:
        yield "image_norm.weight", (3,)
        yield "image_norm.bias", (3,)
    if config.positions == "learned":
        yield "position", (1, width, side, side)
    yield "weight", (width, 5 if config.coordinates else 3, 4, 4)
    yield "bias", (width,)
    yield from _norm("norm", width, config)


def _downsample(config: Config, stage: int) -> Shapes:
    before, width = config.hidden_sizes[stage - 1], config.hidden_sizes[stage]
    yield from _norm("norm", before, config)
    yield "weight", (width, before, 2, 2)
    yield from _norm("out_norm", width, config)
    yield "position", (1, config.map_sides[stage] ** 2, width)
    if config.downsampling == "binary":
        yield "move", (1, before, 1, 1)
        yield from _rprelu("rprelu", width)


def _conv_block(config: Config, stage: int) -> Shapes:
    yield from _under("mixer", _mixer(config, config.hidden_sizes[stage]))
    yield from _under("mlp", _mlp(config, stage))


def _mixer(config: Config, width: int) -> Shapes:
    yield from _norm("norm", width, config)
    yield "move", (1, width, 1, 1)
    for k in range(3):
        yield f"convs.{k}.weight", (width, width // 4, 3, 3)
        yield f"convs.{k}.bias", (width,)
        yield from _rprelu(f"convs.{k}.rprelu", width)
    yield from _norm("out_norm", width, config)


def _attention_block(config: Config, stage: int) -> Shapes:
    yield from _under("attention", _attention(config, config.hidden_sizes[stage], config.num_heads[stage]))
    yield from _under("mlp", _mlp(config, stage))


def _attention(config: Config, width: int, heads: int) -> Shapes:
    yield from _norm("norm", width, config)
    yield "max_share", (1, 1, width)
    yield "token_norm.weight", (width,)
    yield "token_norm.bias", (width,)
    for name in ("query", "key", "value"):
        yield f"{name}.move", (width,)
        yield f"{name}.weight", (width, width)
        yield from _norm(f"{name}.norm", width, config)
        yield from _rprelu(f"{name}.rprelu", width)
        yield f"{name}.out_move", (width,)
    if config.quantizer == "gsb":
        yield from ((f"clip.{k}", ()) for k in range(3))
    else:
        yield "quantizer.alpha", (heads,)
        yield "quantizer.zero_point", (heads,)
        yield "quantizer.init_state", (1,)
    yield from _norm("context.norm", width, config)
    yield from _rprelu("context.rprelu", width)
    yield "fine_share", (1, width, 1, 1)
    yield from _dense("output", width, width, config)
    if config.layer_scale:
        yield from _scale("output.layer_scale", width)


def _dense(name: str, inputs: int, outputs: int, config: Config) -> Shapes:
    """A binary linear layer with its offset, norm and RPReLU."""
    yield f"{name}.move", (inputs,)
    yield f"{name}.weight", (outputs, inputs)
    yield from _norm(f"{name}.norm", outputs, config)
    yield from _rprelu(f"{name}.rprelu", outputs)


def _mlp(config: Config, stage: int) -> Shapes:
    """MLP and shift residuals."""
    width, hidden = config.hidden_sizes[stage], config.intermediate_sizes[stage]
    yield from _norm("norm", width, config)
    yield from _dense("fc1", width, hidden, config)
    yield from _dense("fc2", hidden, width, config)
    if config.layer_scale:
        yield from _scale("fc2.layer_scale", width)
    for reach, present in ((3, config.shift3), (5, config.shift5)):
        for way in ("h", "w", "ch") if present else ():
            yield from _scale(f"shifts.{way}{reach}", width)


def _head(config: Config, stage: int) -> Shapes:
    width = config.hidden_sizes[stage]
    yield from _norm("norm", width, config)
    if config.pooling == "attention":
        yield "pooling.weight", (1, width)
        yield "pooling.bias", (1,)
    if config.num_classes:
        yield "weight", (config.num_classes, width)
        yield "bias", (config.num_classes,)


_PARTS: Mapping[PlaceKind, Callable[[Config, int], Shapes]] = {
    "stem": _stem,
    "downsample": _downsample,
    "conv_block": _conv_block,
    "attention_block": _attention_block,
    "head": _head,
}
