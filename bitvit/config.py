"""Config: the shape of one BHViT, what its checkpoint must hold, and how to tell it from one (SPEC sections 2-4, 10).

Tensor shapes come first. What they do not tell is filled from config.json and from the training script's options, and
wherever two of the three speak of the same thing they must agree.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from bitvit.errors import CheckpointError, ConfigError

__all__ = ["Config", "Place", "check_state", "expected_shapes", "infer_config", "map_sides", "valid_windows"]

Norm = Literal["batch", "layer"]
Downsampling = Literal["float", "binary"]
Quantizer = Literal["levels", "gsb"]
Four = tuple[int, int, int, int]
Shape = tuple[int, ...]

# No network comes near these; a config out of a damaged file must not cost time and memory.
_LIMIT = 1 << 16
_MAX_DEPTH = 1 << 10
_DEFAULT_WINDOW = 7
_DEFAULT_HEADS = (4, 8)  # stages 2 and 3 of the published models


@dataclass(frozen=True)
class Place:
    """One part of the network; `Config.places` walks them in order.

    A conv_block is the paper's GC block: token mixer and MLP. An attention_block is its ViT block: attention and MLP.
    """

    kind: Literal["stem", "downsample", "conv_block", "attention_block", "head"]
    stage: int
    """0 … 3; the stage that a downsampling leads to."""
    index: int = 0
    """Of a block in its stage."""

    @property
    def name(self) -> str:
        """As the model file and the program name it: 'stem', 'stages.1.downsample', 'stages.0.blocks.2', 'head'."""
        if self.kind in ("stem", "head"):
            return self.kind
        return f"stages.{self.stage}." + ("downsample" if self.kind == "downsample" else f"blocks.{self.index}")


@dataclass(frozen=True)
class Config:
    """Everything that fixes the shapes and the formulas of a network. ConfigError for what SPEC section 10 excludes."""

    image_size: int
    window_size: int
    depths: Four
    hidden_sizes: Four
    intermediate_sizes: Four
    num_heads: Four  # entries 0 and 1 have no meaning: those stages have no attention
    num_classes: int  # 0: no classifier, the output is the pooled features
    norm: Norm
    downsampling: Downsampling
    quantizer: Quantizer
    layer_scale: bool
    shift3: bool
    shift5: bool

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            _check_type(name, kind, getattr(self, name))
        _check_image(self.image_size)
        _check_window(self.window_size, self.image_size)
        for stage in range(4):
            self._check_stage(stage)

    def _check_stage(self, stage: int) -> None:
        width, hidden, heads = self.hidden_sizes[stage], self.intermediate_sizes[stage], self.num_heads[stage]
        if hidden % width:
            raise ConfigError(
                f"stage {stage}: intermediate size {hidden}, expected a multiple of the stage's width {width}"
            )
        if stage < 2 and width % 4:
            raise ConfigError(f"stage {stage}: width {width}, expected a multiple of 4: its convolutions have 4 groups")
        if stage >= 2 and width % heads:
            divisors = [count for count in range(1, width + 1) if width % count == 0]
            raise ConfigError(f"stage {stage}: {heads} heads, expected a divisor of the width {width}: {divisors}")
        if (self.shift3 or self.shift5) and _chunks_of_four(width) != 4:
            raise ConfigError(
                f"stage {stage}: width {width} splits into {_chunks_of_four(width)} chunks of "
                f"{math.ceil(width / 4)} for the shifts, expected 4; multiples of 4 always do"
            )
        below = self.hidden_sizes[stage - 1]
        if stage > 0 and self.downsampling == "binary" and width % below:
            raise ConfigError(
                f"stage {stage}: width {width}, expected a multiple of the width {below} before: "
                "binary downsampling repeats the channels"
            )

    @property
    def map_sides(self) -> Four:
        """S_0 .. S_3, the side of each stage's feature map."""
        return map_sides(self.image_size)

    @property
    def head_dims(self) -> Four:
        """Channels of a head; 0 in the stages without attention."""
        return (0, 0, self.hidden_sizes[2] // self.num_heads[2], self.hidden_sizes[3] // self.num_heads[3])

    @property
    def expansion_ratios(self) -> Four:
        """How many times wider than its stage an MLP's hidden layer is."""
        first, second, third, fourth = (
            hidden // width for hidden, width in zip(self.intermediate_sizes, self.hidden_sizes, strict=True)
        )
        return (first, second, third, fourth)

    def blocks(self) -> Iterator[tuple[str, int]]:
        """Each block's name in the state dict and its stage, in order: ('vit.encoder.layerA.0', 0), ..."""
        for first, letter in ((0, "A"), (2, "B")):
            stages = [first] * self.depths[first] + [first + 1] * self.depths[first + 1]
            yield from ((f"vit.encoder.layer{letter}.{index}", stage) for index, stage in enumerate(stages))

    def places(self) -> Iterator["Place"]:
        """The network in its order: the stem, each stage's downsampling (but for the first) and blocks, the head."""
        yield Place("stem", 0)
        for stage in range(4):
            if stage > 0:
                yield Place("downsample", stage)
            for index in range(self.depths[stage]):
                yield Place("conv_block" if stage < 2 else "attention_block", stage, index)
        yield Place("head", 3)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them: lists in place of tuples."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Config":
        """The inverse of to_dict; ConfigError for missing or unknown fields and for wrong types."""
        if not isinstance(fields, Mapping):
            raise ConfigError(f"config is {_short(fields)}, expected an object with the fields {list(_KINDS)}")
        missing, unknown = _KINDS.keys() - fields.keys(), fields.keys() - _KINDS.keys()
        if missing or unknown:
            raise ConfigError(
                f"config with missing fields {sorted(missing)} and unknown fields {sorted(map(str, unknown))}, "
                f"expected exactly {list(_KINDS)}"
            )
        values: dict[str, Any] = {
            name: tuple(item) if isinstance(item, list) else item for name, item in fields.items()
        }
        return cls(**values)


# ------------------------------------------------------------------------------------------------- rules of section 10

_KINDS: dict[str, Any] = {item.name: item.type for item in dataclasses.fields(Config)}


def _check_type(name: str, kind: Any, value: object) -> None:
    """ConfigError unless a field of a Config, or of what is to become one, has its type and a sane size."""
    least = 0 if name in ("num_classes", "nb_classes") else 1
    most = _MAX_DEPTH if name == "depths" else _LIMIT
    if kind is bool:
        valid, expected = isinstance(value, bool), "true or false"
    elif kind is int:
        valid, expected = _is_count(value, least, most), f"an integer from {least} to {most}"
    elif kind is Four:
        valid = isinstance(value, tuple) and len(value) == 4 and all(_is_count(item, least, most) for item in value)
        expected = f"four integers from {least} to {most}"
    else:
        valid, expected = value in get_args(kind), f"one of {list(get_args(kind))}"
    if not valid:
        raise ConfigError(f"{name} is {_short(value)}, expected {expected}")


def _is_count(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def map_sides(image_size: int) -> Four:
    """S_0 .. S_3, the sides of the feature maps for an image side; trailing pixels are dropped (SPEC section 1)."""
    side = image_size // 4
    return (side, side // 2, side // 4, side // 8)


def valid_windows(image_size: int) -> tuple[int, ...]:
    """The attention windows an image size allows: odd divisors of S_2 and S_3; none for an invalid image size."""
    side = image_size // 4
    if image_size > _LIMIT or (side != 12 and (side < 8 or side % 8)):
        return ()
    _, _, third, fourth = map_sides(image_size)
    return tuple(window for window in range(1, fourth + 1, 2) if third % window == 0 and fourth % window == 0)


def _check_image(image_size: int) -> None:
    if not valid_windows(image_size):
        raise ConfigError(
            f"image_size is {image_size}, {image_size // 4} patches a side, expected a multiple of 8 patches, or 12: "
            "image sizes 32, 64, 96, ... or 48, each with up to 3 pixels more"
        )


def _check_window(window: int, image_size: int) -> None:
    valid = valid_windows(image_size)
    if window not in valid:
        raise ConfigError(
            f"window_size is {window}, expected an odd divisor of the map sides {map_sides(image_size)[2:]} "
            f"of image size {image_size}: {_only(valid)}"
        )


def _only(values: Sequence[int]) -> str:
    return f"only {values[0]} is possible" if len(values) == 1 else f"one of {list(values)}"


def _chunks_of_four(width: int) -> int:
    """How many chunks of ceil(width / 4) channels there are (SPEC section 7.6)."""
    return math.ceil(width / math.ceil(width / 4))


# ------------------------------------------------------------------------------------------- the table of section 3


def expected_shapes(config: Config) -> dict[str, Shape]:
    """Name to shape of every tensor of the network's state dict, in SPEC section 3's order; `is_optional` names are
    included."""
    shapes = dict(_stem_shapes(config))
    for prefix, stage in config.blocks():
        shapes.update(_under(prefix, _mixer_shapes(config, stage) if stage < 2 else _attention_shapes(config, stage)))
        shapes.update(_under(prefix, _mlp_shapes(config, stage)))
    for stage in (1, 2, 3):
        shapes.update(_under(f"vit.encoder.patch_embed{stage}", _downsampling_shapes(config, stage)))
    shapes.update(_norm("vit.layernorm", config.hidden_sizes[3], config))
    if config.num_classes:
        shapes["classifier.weight"] = (config.num_classes, config.hidden_sizes[3])
        shapes["classifier.bias"] = (config.num_classes,)
    return shapes


def is_optional(name: str) -> bool:
    """Whether the tensor has no influence on the output and may be absent (SPEC section 3)."""
    return name.endswith((".num_batches_tracked", ".att_prob_quantizer.init_state"))


Shapes = Iterator[tuple[str, Shape]]


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return ((f"{prefix}.{name}", shape) for name, shape in shapes)


def _norm(name: str, width: int, config: Config) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var") if config.norm == "batch" else ("weight", "bias")
    yield from ((f"{name}.{vector}", (width,)) for vector in vectors)
    if config.norm == "batch":
        yield f"{name}.num_batches_tracked", ()


def _rprelu(name: str, width: int) -> Shapes:
    yield from ((f"{name}.{vector}", (width,)) for vector in ("move1", "prelu.weight", "move2"))


def _scale(name: str, width: int) -> Shapes:
    yield from ((f"{name}.{vector}", (width,)) for vector in ("alpha", "move"))


def _stem_shapes(config: Config) -> Shapes:
    width, side = config.hidden_sizes[0], config.map_sides[0]
    yield "vit.embeddings.position_embeddings", (1, width, side, side)
    yield "vit.embeddings.patch_embeddings.proj.weight", (width, 3, 4, 4)
    yield "vit.embeddings.patch_embeddings.proj.bias", (width,)
    yield from _norm("vit.embeddings.patch_embeddings.norm", width, config)


def _mixer_shapes(config: Config, stage: int) -> Shapes:
    """The convolutional token mixer of a GC block."""
    width = config.hidden_sizes[stage]
    yield from _norm("layernorm_before", width, config)
    yield "GC.move.bias", (1, width, 1, 1)
    for branch in (1, 2, 3):
        yield f"GC.cov{branch}.weight", (width, width // 4, 3, 3)
        yield f"GC.cov{branch}.bias", (width,)
        yield from _rprelu(f"GC.act{branch}", width)
    yield from _norm("GC.norm", width, config)


def _attention_shapes(config: Config, stage: int) -> Shapes:
    """The attention of a ViT block."""
    width = config.hidden_sizes[stage]
    yield from _norm("layernorm_before", width, config)
    yield "attention.attention.token_FA.a1", (1, 1, width)
    yield "attention.attention.token_FA.norm.weight", (width,)
    yield "attention.attention.token_FA.norm.bias", (width,)
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        yield f"attention.attention.move{letter}", (width,)
        yield f"attention.attention.{name}.weight", (width, width)
        yield from _norm(f"attention.attention.norm{letter}", width, config)
        yield from _rprelu(f"attention.attention.rprelu{letter}", width)
        yield f"attention.attention.move{letter}2", (width,)
    yield from _under("attention.attention", _quantizer_shapes(config, stage))
    yield from _norm("attention.attention.norm_context", width, config)
    yield from _rprelu("attention.attention.rprelu_context", width)
    yield "attention.attention.parm", (1, width, 1, 1)
    yield from _under("attention.output", _dense_shapes(config, width, width))
    if config.layer_scale:
        yield from _scale("attention.output.layerscale", width)


def _quantizer_shapes(config: Config, stage: int) -> Shapes:
    if config.quantizer == "gsb":
        yield from ((f"att_prob_clip{suffix}", ()) for suffix in ("", "2", "3"))
    else:
        yield "att_prob_quantizer.alpha", (config.num_heads[stage],)
        yield "att_prob_quantizer.zero_point", (config.num_heads[stage],)
        yield "att_prob_quantizer.init_state", (1,)


def _dense_shapes(config: Config, inputs: int, outputs: int) -> Shapes:
    """A binary linear layer with its offset, norm and RPReLU."""
    yield "move", (inputs,)
    yield "dense.weight", (outputs, inputs)
    yield from _norm("norm", outputs, config)
    yield from _rprelu("rprelu", outputs)


def _mlp_shapes(config: Config, stage: int) -> Shapes:
    """The second half of either block: MLP and shift residuals."""
    width, hidden = config.hidden_sizes[stage], config.intermediate_sizes[stage]
    yield from _norm("layernorm_after", width, config)
    yield from _under("intermediate", _dense_shapes(config, width, hidden))
    yield from _under("output", _dense_shapes(config, hidden, width))
    if config.layer_scale:
        yield from _scale("output.layerscale", width)
    for reach, present in ((3, config.shift3), (5, config.shift5)):
        for direction in ("h", "w", "ch") if present else ():
            yield from _scale(f"layerscale_{direction}{reach}", width)


def _downsampling_shapes(config: Config, stage: int) -> Shapes:
    """The layer before a stage; stage is 1, 2 or 3."""
    before, width = config.hidden_sizes[stage - 1], config.hidden_sizes[stage]
    yield from _norm("norm0", before, config)
    yield "proj.weight", (width, before, 2, 2)
    yield from _norm("norm", width, config)
    yield "position_embeddings", (1, config.map_sides[stage] ** 2, width)
    if config.downsampling == "binary":
        yield "move", (1, before, 1, 1)
        yield from _rprelu("rprelu", width)


# ------------------------------------------------------------------------------------------------ state dict to Config


_CONFIG_KINDS: dict[str, Any] = {
    **dict.fromkeys(("image_size", "window_size", "patch_size", "num_hidden_layersA", "num_hidden_layersB"), int),
    **dict.fromkeys(("hidden_size", "depths", "num_attention_heads", "intermediate_size"), Four),
}
_ARGS_KINDS: dict[str, Any] = {
    **dict.fromkeys(("shift3", "shift5", "replace_ln_bn", "disable_layerscale", "gsb", "some_fp"), bool),
    **dict.fromkeys(("weight_bits", "input_bits", "input_size", "nb_classes"), int),
}
_CONFIG_ORIGIN, _ARGS_ORIGIN = "config.json", "the checkpoint's args"

_ATTENTION = "vit.encoder.layerB.0.attention.attention"  # its quantizer is every block's

Claims = Mapping[str, Any]


@dataclass(frozen=True)
class _Block:
    """What tells the stages of a pair apart."""

    width: int
    hidden: int  # of the MLP
    heads: int  # 0: none, or not to be seen (gsb)


def infer_config(
    state: Mapping[str, NDArray[Any]],
    *,
    args: Mapping[str, Any] | None = None,
    config_json: Mapping[str, Any] | None = None,
    where: str,
) -> Config:
    """The Config of a state dict (SPEC section 4); `where` names the checkpoint in messages.

    config_json: the fields of a config.json, perhaps only some; args: the training script's options. They supply what
    tensors cannot tell: the window (else 7, or the only possible one), with gsb the heads (else 4 and 8), and the
    depths of a pair of stages that look alike. Raises CheckpointError if the tensors are no binary BHViT's, ConfigError
    if two sources disagree, if one that is needed lacks, or if the result breaks a rule of SPEC section 10.
    `check_state` does the rest: the names and shapes that the inference does not look at.
    """
    _refuse_foreign(state, where)
    told = _claims(config_json or {}, _CONFIG_KINDS, _CONFIG_ORIGIN, where)
    options = _claims(args or {}, _ARGS_KINDS, _ARGS_ORIGIN, where)
    _refuse_bits(state, options, where)
    mixers, attentions = _blocks(state, "A", where), _blocks(state, "B", where)
    depths = (*_split(mixers, "A", told, where), *_split(attentions, "B", told, where))
    firsts = (mixers[0], mixers[depths[0]], attentions[0], attentions[depths[2]])
    image_size = _image_size(state, told, options, where)
    fields: dict[str, Any] = {
        "image_size": image_size,
        "window_size": _window(image_size, told, where),
        "depths": depths,
        "hidden_sizes": _widths(state, where),
        "intermediate_sizes": tuple(block.hidden for block in firsts),
        "num_heads": _heads(firsts, told, where),
        **_traits(state, where),
    }
    try:
        config = Config(**fields)
    except ConfigError as problem:
        raise ConfigError(f"{where}: {problem}") from None
    _check_agreement(config, told, options, where)
    return config


def _claims(source: Mapping[str, Any], kinds: Mapping[str, Any], origin: str, where: str) -> Claims:
    """Those of a source's fields that matter, typed: tuples for lists, flags for 0 and 1; None counts as absent."""
    claims: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = source.get(name)
        if value is None:
            continue
        if isinstance(value, list):
            value = tuple(value)
        if name == "num_attention_heads" and isinstance(value, tuple):
            value = (1, 1, *value[2:])  # the first two stages have no attention, whatever is written there
        if kind is bool and type(value) is int and value in (0, 1):
            value = bool(value)
        try:
            _check_type(name, kind, value)
        except ConfigError as problem:
            raise ConfigError(f"{where}: {origin}: {problem}") from None
        claims[name] = value
    return claims


def _check_agreement(config: Config, told: Claims, options: Claims, where: str) -> None:
    """Every field of config.json and of the args says what the tensors say."""
    by_config = {
        "image_size": config.image_size,
        "hidden_size": config.hidden_sizes,
        "depths": config.depths,
        "intermediate_size": config.intermediate_sizes,
        "num_attention_heads": config.num_heads,
        "num_hidden_layersA": sum(config.depths[:2]),
        "num_hidden_layersB": sum(config.depths[2:]),
        "patch_size": 4,
    }
    by_args = {
        "input_size": config.image_size,
        "nb_classes": config.num_classes,
        "shift3": config.shift3,
        "shift5": config.shift5,
        "replace_ln_bn": config.norm == "batch",
        "disable_layerscale": not config.layer_scale,
        "gsb": config.quantizer == "gsb",
        "some_fp": config.downsampling == "float",
    }
    for claims, found, origin in ((told, by_config, _CONFIG_ORIGIN), (options, by_args, _ARGS_ORIGIN)):
        for name, value in found.items():
            if name in claims and claims[name] != value:
                raise _disagreement(name, claims[name], origin, value, "the tensors", where)


def _disagreement(name: str, value: object, origin: str, other: object, other_origin: str, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: {name} is {value} in {origin} but {other} in {other_origin}; "
        "give the checkpoint and the config.json of one and the same training"
    )


# -- what the tensors tell


def _shape(state: Mapping[str, NDArray[Any]], name: str, ndim: int, where: str) -> Shape:
    if name not in state:
        raise CheckpointError(
            f"{where}: tensor {name!r} is missing, expected in every BHViT; take the whole checkpoint"
        )
    if state[name].ndim != ndim:
        raise CheckpointError(f"{where}: {name!r} has shape {state[name].shape}, expected {ndim} dimensions")
    return state[name].shape


def _widths(state: Mapping[str, NDArray[Any]], where: str) -> Four:
    """C_0 .. C_3."""
    first = _shape(state, "vit.embeddings.position_embeddings", 4, where)[1]
    second, third, fourth = (
        _shape(state, f"vit.encoder.patch_embed{stage}.position_embeddings", 3, where)[2] for stage in (1, 2, 3)
    )
    return (first, second, third, fourth)


def _traits(state: Mapping[str, NDArray[Any]], where: str) -> dict[str, Any]:
    """The fields of a Config that the presence of a tensor tells, and the number of classes."""
    block = "vit.encoder.layerA.0"
    headless = "classifier.weight" not in state and "classifier.bias" not in state
    return {
        "num_classes": 0 if headless else _shape(state, "classifier.weight", 2, where)[0],
        "norm": "batch" if "vit.layernorm.running_mean" in state else "layer",
        "downsampling": "binary" if "vit.encoder.patch_embed1.rprelu.move1" in state else "float",
        "quantizer": "gsb" if f"{_ATTENTION}.att_prob_clip" in state else "levels",
        "layer_scale": f"{block}.output.layerscale.alpha" in state,
        "shift3": f"{block}.layerscale_h3.alpha" in state,
        "shift5": f"{block}.layerscale_h5.alpha" in state,
    }


def _blocks(state: Mapping[str, NDArray[Any]], letter: str, where: str) -> list[_Block]:
    """The blocks layerA.i or layerB.i in order; at least two, since each belongs to two stages."""
    prefix = f"vit.encoder.layer{letter}."
    indices = {name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)}
    names = [f"{prefix}{index}" for index in range(len(indices))]
    if len(indices) < 2 or indices != {name.rpartition(".")[2] for name in names}:
        raise CheckpointError(
            f"{where}: the blocks of {prefix[:-1]} are numbered {_listing(sorted(indices))}, "
            "expected 0, 1, ... without a gap, at least two; take the whole checkpoint"
        )
    return [_block(state, name, letter, where) for name in names]


def _block(state: Mapping[str, NDArray[Any]], name: str, letter: str, where: str) -> _Block:
    hidden, _ = _shape(state, f"{name}.intermediate.dense.weight", 2, where)
    if letter == "A":
        return _Block(_shape(state, f"{name}.GC.move.bias", 4, where)[1], hidden, 0)
    alpha = f"{name}.attention.attention.att_prob_quantizer.alpha"
    heads = 0 if f"{_ATTENTION}.att_prob_clip" in state else _shape(state, alpha, 1, where)[0]
    return _Block(_shape(state, f"{name}.attention.attention.moveq", 1, where)[0], hidden, heads)


# -- what needs a second source


def _split(blocks: list[_Block], letter: str, told: Claims, where: str) -> tuple[int, int]:
    """Depths of the two stages that share the list of blocks: the first block that differs begins the second stage."""
    runs = [len(list(run)) for _, run in groupby(blocks)]
    if len(runs) > 2:
        raise CheckpointError(
            f"{where}: the blocks of vit.encoder.layer{letter} change their sizes {len(runs) - 1} times, "
            "expected once, from one stage to the next; take an unmodified checkpoint"
        )
    if len(runs) == 2:
        return (runs[0], runs[1])
    if len(blocks) == 2:
        return (1, 1)
    if "depths" not in told:
        raise ConfigError(
            f"{where}: the {len(blocks)} blocks of vit.encoder.layer{letter} are all alike: the tensors do not tell "
            "where the second stage begins; give the config.json of the training (its field depths)"
        )
    pair = told["depths"][:2] if letter == "A" else told["depths"][2:]
    if sum(pair) != len(blocks):
        found = f"{len(blocks)} blocks of layer{letter}"
        raise _disagreement("depths", told["depths"], _CONFIG_ORIGIN, found, "the tensors", where)
    return (pair[0], pair[1])


def _heads(firsts: Sequence[_Block], told: Claims, where: str) -> Four:
    """Heads by the first block of each stage, or with gsb by config.json, or the published ones."""
    third, fourth = firsts[2:]
    if third.heads and fourth.heads:
        return (1, 1, third.heads, fourth.heads)
    if "num_attention_heads" in told:
        heads: Four = told["num_attention_heads"]
        return heads
    if third.width % _DEFAULT_HEADS[0] or fourth.width % _DEFAULT_HEADS[1]:
        raise ConfigError(
            f"{where}: with gsb the tensors do not tell the heads, and the usual {_DEFAULT_HEADS} do not divide the "
            f"widths {third.width} and {fourth.width}; give the config.json of the training (num_attention_heads)"
        )
    return (1, 1, *_DEFAULT_HEADS)


def _image_size(state: Mapping[str, NDArray[Any]], told: Claims, options: Claims, where: str) -> int:
    """4 * S_0, or the up to 3 pixels more that config.json or the args name."""
    side = _shape(state, "vit.embeddings.position_embeddings", 4, where)[2]
    named, trained = told.get("image_size"), options.get("input_size")
    if named is not None and trained is not None and named != trained:
        raise _disagreement("image_size", named, _CONFIG_ORIGIN, trained, f"{_ARGS_ORIGIN} (input_size)", where)
    claim = named if named is not None else trained
    return claim if claim is not None and claim // 4 == side else 4 * side


def _window(image_size: int, told: Claims, where: str) -> int:
    """config.json's window, else 7, else the only possible one."""
    if "window_size" in told:
        return int(told["window_size"])
    valid = valid_windows(image_size)
    if _DEFAULT_WINDOW in valid or not valid:  # not valid: Config says what is wrong with the image size
        return _DEFAULT_WINDOW
    if len(valid) > 1:
        raise ConfigError(
            f"{where}: the tensors do not tell the attention window, and image size {image_size} allows {list(valid)}; "
            "give the config.json of the training (its field window_size)"
        )
    return valid[0]


# ------------------------------------------------------------------------------- state dicts that are not what we want


def _refuse_bits(state: Mapping[str, NDArray[Any]], options: Claims, where: str) -> None:
    """Weights and activations of one bit (SPEC 7.8: others can be trained)."""
    for name in ("weight_bits", "input_bits"):
        if options.get(name, 1) != 1:
            raise ConfigError(
                f"{where}: {name} is {options[name]} in {_ARGS_ORIGIN}, expected 1; "
                "only binary networks can be converted"
            )
    if f"{_ATTENTION}.att_prob_clip" not in state and f"{_ATTENTION}.att_prob_quantizer.alpha" not in state:
        raise CheckpointError(
            f"{where}: {_ATTENTION} has neither 'att_prob_clip' nor 'att_prob_quantizer.alpha': its activations are "
            "not binary (input_bits is not 1); only binary networks can be converted"
        )


_ARCHITECTURES = (
    ("layer1.0.conv1.", "a ResNet"),
    ("blocks.0.attn.", "a DeiT or timm ViT"),
    ("layers.0.blocks.0.attn.", "a Swin transformer"),
    ("vit.encoder.layer.0.", "a plain Hugging Face ViT"),
)


def _refuse_foreign(state: Mapping[str, NDArray[Any]], where: str) -> None:
    """CheckpointError unless the names are a BHViT's."""
    if any(name.startswith("vit.encoder.layerA.") for name in state):
        return
    first = f"the first names are {_listing(state)}"
    for name in state:
        prefix, found, _ = name.partition("vit.encoder.layerA.")
        if found:
            raise CheckpointError(f"{where}: names begin with {prefix!r}, expected 'vit.'; save them without ({first})")
        for start, architecture in _ARCHITECTURES:
            if name.startswith(start):
                raise CheckpointError(f"{where}: this is {architecture}, expected a BHViT; {first}")
    raise CheckpointError(f"{where}: this is not a BHViT state dict: none of 'vit.encoder.layerA...'; {first}")


def _listing(names: Collection[str]) -> str:
    shown = ", ".join(map(_short, islice(names, 8)))
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def check_state(state: Mapping[str, NDArray[Any]], config: Config, where: str) -> None:
    """CheckpointError unless the state dict has exactly the names, shapes and kinds of number that SPEC section 3 gives
    for the config; tensors without influence may be absent and are not looked at."""
    expected = expected_shapes(config)
    unexpected = [name for name in state if name not in expected]
    missing = [name for name in expected if name not in state and not is_optional(name)]
    wrong = [
        f"{_short(name)} is {state[name].dtype}{list(state[name].shape)}, expected float{list(shape)}"
        for name, shape in expected.items()
        if name in state and not is_optional(name) and (state[name].shape != shape or state[name].dtype.kind != "f")
    ]
    faults = list(_describe_unexpected(unexpected, expected)) if unexpected else []
    if missing:
        faults.append(f"{len(missing)} tensors are missing: {_listing(missing)}")
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        faults.append("; ".join(wrong[:8]) + more)
    if faults:
        raise CheckpointError(f"{where}: not a BHViT as published: {'; '.join(faults)}; take an unmodified checkpoint")


def _describe_unexpected(names: Collection[str], expected: Collection[str]) -> Iterator[str]:
    """Tensors that no BHViT has, apart from whole modules that a fork has added."""
    modules = {name[:end] for name in expected for end, letter in enumerate(name) if letter == "."}
    extra: dict[str, int] = {}
    tensors = []
    for name in names:
        ends = [end for end, letter in enumerate(name) if letter == "."]
        module = next((name[:end] for end in ends if name[:end] not in modules), None)
        if module is None:
            tensors.append(name)
        else:
            extra[module] = extra.get(module, 0) + 1
    if extra:
        yield f"{_plural(len(extra), 'extra module')} of a fork, not part of BHViT: {_listing(extra)}"
    if tensors:
        yield f"{_plural(len(tensors), 'unexpected tensor')}: {_listing(tensors)}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
