"""Which network a state dict is of (SPEC sections 2 and 4).

Tensor shapes come first. What they do not tell is filled from config.json and from the training script's options, and
wherever two of the three speak of the same thing they must agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from numpy.typing import NDArray

from bitvit.checkpoint.check import refuse_foreign
from bitvit.checkpoint.names import BLOCKS, STEM, downsample, in_part
from bitvit.checkpoint.shapes import Shape
from bitvit.config import Config, Four, PlaceKind, check_field, valid_windows
from bitvit.errors import CheckpointError, ConfigError
from bitvit.messages import listing

__all__ = ["infer_config"]

State = Mapping[str, NDArray[Any]]
Claims = Mapping[str, Any]

_DEFAULT_WINDOW = 7
_DEFAULT_HEADS = (4, 8)  # stages 2 and 3 of the published models

_CONFIG_KINDS: Claims = {
    **dict.fromkeys(("image_size", "window_size", "patch_size", "num_hidden_layersA", "num_hidden_layersB"), int),
    **dict.fromkeys(("hidden_size", "depths", "num_attention_heads", "intermediate_size"), Four),
}
_ARGS_KINDS: Claims = {
    **dict.fromkeys(("shift3", "shift5", "replace_ln_bn", "disable_layerscale", "gsb", "some_fp"), bool),
    **dict.fromkeys(("weight_bits", "input_bits", "input_size", "nb_classes"), int),
}
_CONFIG_ORIGIN, _ARGS_ORIGIN = "config.json", "the checkpoint's args"


def infer_config(
    state: State, *, args: Mapping[str, Any] | None = None, config_json: Mapping[str, Any] | None = None
) -> Config:
    """The Config of a state dict under the authors' names.

    config_json: the fields of a config.json, perhaps only some; args: the training script's options. They supply what
    tensors cannot tell: the window (else 7, or the only possible one), with gsb the heads (else 4 and 8), and the
    depths of a pair of stages that look alike. Raises CheckpointError if the tensors are not a binary BHViT's,
    ConfigError if two sources disagree, if one that is needed is missing, or if the result breaks a rule of SPEC
    section 10. `check_state` does the rest: the names and shapes that the inference does not look at.
    """
    refuse_foreign(state)
    told = _claims(config_json or {}, _CONFIG_KINDS, _CONFIG_ORIGIN)
    options = _claims(args or {}, _ARGS_KINDS, _ARGS_ORIGIN)
    _refuse_bits(state, options)
    mixers, attentions = _blocks(state, "conv_block"), _blocks(state, "attention_block")
    depths = (*_split(mixers, "conv_block", told), *_split(attentions, "attention_block", told))
    firsts = (mixers[0], mixers[depths[0]], attentions[0], attentions[depths[2]])
    image_size = _image_size(state, told, options)
    fields: dict[str, Any] = {
        "image_size": image_size,
        "window_size": _window(image_size, told),
        "depths": depths,
        "hidden_sizes": _widths(state),
        "intermediate_sizes": tuple(block.hidden for block in firsts),
        "num_heads": _heads(firsts, told),
        **_traits(state),
    }
    config = Config(**fields)
    _check_agreement(config, told, options)
    return config


# ------------------------------------------------------------------------------------------------------ what is claimed


def _claims(source: Mapping[str, Any], kinds: Claims, origin: str) -> Claims:
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
            check_field(name, kind, value)
        except ConfigError as problem:
            raise ConfigError(f"{origin}: {problem}") from None
        claims[name] = value
    return claims


def _check_agreement(config: Config, told: Claims, options: Claims) -> None:
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
                raise _disagreement(name, claims[name], origin, value, "the tensors")


def _disagreement(name: str, value: object, origin: str, other: object, other_origin: str) -> ConfigError:
    return ConfigError(
        f"{name} is {value} in {origin} but {other} in {other_origin}; "
        "give the checkpoint and the config.json of one and the same training"
    )


def _refuse_bits(state: State, options: Claims) -> None:
    """Weights and activations of one bit (SPEC 7.8: others can be trained)."""
    for name in ("weight_bits", "input_bits"):
        if options.get(name, 1) != 1:
            raise ConfigError(
                f"{name} is {options[name]} in {_ARGS_ORIGIN}, expected 1; only binary networks can be converted"
            )
    if _CLIP not in state and _ALPHA not in state:
        raise CheckpointError(
            f"neither {_CLIP!r} nor {_ALPHA!r} is there: the activations are not binary (input_bits is not 1); "
            "only binary networks can be converted"
        )


# -------------------------------------------------------------------------------------------------- what tensors tell


def _in_block(kind: PlaceKind, index: int, name: str) -> str:
    """The authors' name of a tensor that is ours by `name` in a block."""
    return f"{BLOCKS[kind]}.{index}.{in_part(kind, name)}"


# The quantizer of the first block with attention is every block's.
_CLIP = _in_block("attention_block", 0, "attention.clip.0")
_ALPHA = _in_block("attention_block", 0, "attention.quantizer.alpha")
_POSITION = f"{STEM}.{in_part('stem', 'position')}"


@dataclass(frozen=True)
class _Block:
    """What tells the stages of a pair apart."""

    width: int
    hidden: int  # of the MLP
    heads: int  # 0: none, or not to be seen (gsb)


def _shape(state: State, name: str, ndim: int) -> Shape:
    if name not in state:
        raise CheckpointError(f"tensor {name!r} is missing, expected in every BHViT; take the whole checkpoint")
    if state[name].ndim != ndim:
        raise CheckpointError(
            f"{name!r} has shape {state[name].shape}, expected {ndim} dimensions; take an unmodified checkpoint"
        )
    return state[name].shape


def _widths(state: State) -> Four:
    """C_0 .. C_3."""
    first = _shape(state, _POSITION, 4)[1]
    second, third, fourth = (
        _shape(state, f"{downsample(stage)}.{in_part('downsample', 'position')}", 3)[2] for stage in (1, 2, 3)
    )
    return (first, second, third, fourth)


def _traits(state: State) -> dict[str, Any]:
    """The fields of a Config that the presence of a tensor tells, and the number of classes."""
    weight, bias = (in_part("head", name) for name in ("weight", "bias"))
    return {
        "num_classes": 0 if weight not in state and bias not in state else _shape(state, weight, 2)[0],
        "norm": "batch" if in_part("head", "norm.running_mean") in state else "layer",
        "downsampling": "binary" if f"{downsample(1)}.{in_part('downsample', 'rprelu.move1')}" in state else "float",
        "quantizer": "gsb" if _CLIP in state else "levels",
        "layer_scale": _in_block("conv_block", 0, "mlp.fc2.layer_scale.alpha") in state,
        "shift3": _in_block("conv_block", 0, "mlp.shifts.h3.alpha") in state,
        "shift5": _in_block("conv_block", 0, "mlp.shifts.h5.alpha") in state,
    }


def _blocks(state: State, kind: PlaceKind) -> list[_Block]:
    """The blocks of a kind in order; at least two, since each kind has two stages."""
    prefix = f"{BLOCKS[kind]}."
    indices = {name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)}
    if len(indices) < 2 or indices != {str(index) for index in range(len(indices))}:
        raise CheckpointError(
            f"the blocks of {BLOCKS[kind]} are numbered {listing(sorted(indices))}, "
            "expected 0, 1, ... without a gap, at least two; take the whole checkpoint"
        )
    return [_block(state, kind, index) for index in range(len(indices))]


def _block(state: State, kind: PlaceKind, index: int) -> _Block:
    hidden, _ = _shape(state, _in_block(kind, index, "mlp.fc1.weight"), 2)
    if kind == "conv_block":
        return _Block(_shape(state, _in_block(kind, index, "mixer.move"), 4)[1], hidden, 0)
    alpha = _in_block(kind, index, "attention.quantizer.alpha")
    heads = 0 if _CLIP in state else _shape(state, alpha, 1)[0]
    return _Block(_shape(state, _in_block(kind, index, "attention.query.move"), 1)[0], hidden, heads)


# -------------------------------------------------------------------------------------- what needs a second source


def _split(blocks: list[_Block], kind: PlaceKind, told: Claims) -> tuple[int, int]:
    """Depths of the two stages that share the list of blocks: the first block that differs begins the second stage."""
    runs = [len(list(run)) for _, run in groupby(blocks)]
    if len(runs) > 2:
        raise CheckpointError(
            f"the blocks of {BLOCKS[kind]} change their sizes {len(runs) - 1} times, "
            "expected once, from one stage to the next; take an unmodified checkpoint"
        )
    if len(runs) == 2:
        return (runs[0], runs[1])
    if len(blocks) == 2:
        return (1, 1)
    if "depths" not in told:
        raise ConfigError(
            f"the {len(blocks)} blocks of {BLOCKS[kind]} are all alike: the tensors do not tell "
            "where the second stage begins; give the config.json of the training (its field depths)"
        )
    pair = told["depths"][:2] if kind == "conv_block" else told["depths"][2:]
    if sum(pair) != len(blocks):
        found = f"{len(blocks)} blocks of {BLOCKS[kind]}"
        raise _disagreement("depths", told["depths"], _CONFIG_ORIGIN, found, "the tensors")
    return (pair[0], pair[1])


def _heads(firsts: Sequence[_Block], told: Claims) -> Four:
    """Heads by the first block of each stage, or with gsb by config.json, or the published ones."""
    third, fourth = firsts[2:]
    if third.heads and fourth.heads:
        return (1, 1, third.heads, fourth.heads)
    if "num_attention_heads" in told:
        heads: Four = told["num_attention_heads"]
        return heads
    if third.width % _DEFAULT_HEADS[0] or fourth.width % _DEFAULT_HEADS[1]:
        raise ConfigError(
            f"with gsb the tensors do not tell the heads, and the usual {_DEFAULT_HEADS} do not divide the "
            f"widths {third.width} and {fourth.width}; give the config.json of the training (num_attention_heads)"
        )
    return (1, 1, *_DEFAULT_HEADS)


def _image_size(state: State, told: Claims, options: Claims) -> int:
    """4 * S_0, or the up to 3 pixels more that config.json or the args name."""
    side = _shape(state, _POSITION, 4)[2]
    named, trained = told.get("image_size"), options.get("input_size")
    if named is not None and trained is not None and named != trained:
        raise _disagreement("image_size", named, _CONFIG_ORIGIN, trained, f"{_ARGS_ORIGIN} (input_size)")
    claim = named if named is not None else trained
    return claim if claim is not None and claim // 4 == side else 4 * side


def _window(image_size: int, told: Claims) -> int:
    """config.json's window, else 7, else the only possible one."""
    if "window_size" in told:
        return int(told["window_size"])
    valid = valid_windows(image_size)
    if _DEFAULT_WINDOW in valid or not valid:  # not valid: Config says what is wrong with the image size
        return _DEFAULT_WINDOW
    if len(valid) > 1:
        raise ConfigError(
            f"the tensors do not tell the attention window, and image size {image_size} allows {list(valid)}; "
            "give the config.json of the training (its field window_size)"
        )
    return valid[0]
