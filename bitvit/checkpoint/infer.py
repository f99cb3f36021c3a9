"""Which network a state dict is of (SPEC sections 2 and 4).

Tensor shapes come first. What they do not tell is filled from config.json and from the training script's options, and
wherever two of the three speak of the same thing they must agree.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from numpy.typing import NDArray

from bitvit.checkpoint.check import refuse_foreign
from bitvit.checkpoint.claims import Claims, facts, read_claims
from bitvit.checkpoint.names import BLOCKS, STEM, downsample, in_part
from bitvit.checkpoint.shapes import Shape
from bitvit.config import Config, Four, PlaceKind, valid_windows
from bitvit.errors import CheckpointError, ConfigError
from bitvit.messages import listing

__all__ = ["assumptions", "config_of", "infer_config"]

State = Mapping[str, NDArray[Any]]

_DEFAULT_WINDOW = 7
_DEFAULT_HEADS = (4, 8)  # stages 2 and 3 of the published models


def infer_config(
    state: State,
    *,
    args: Mapping[str, Any] | None = None,
    config_json: Mapping[str, Any] | None = None,
    ignore: Collection[str] = (),
) -> Config:
    """The Config of a state dict under the authors' names.

    config_json: the fields of a config.json, perhaps only some; args: the training script's options; ignore: names in
    either that are not to be looked at. They supply what tensors cannot tell: the window (else 7, or the only possible
    one), with gsb the heads (else 4 and 8), the depths of a pair of stages that look alike, and of what forks have
    added the kind of pooling and the padding of merged tokens. Raises CheckpointError if the tensors are not a binary
    BHViT's, ConfigError if two sources disagree, if one that is needed is missing, if one says what is not understood,
    or if the result breaks a rule of SPEC section 10. `check_state` does the rest: the names and shapes that the
    inference does not look at.
    """
    refuse_foreign(state)
    return config_of(state, read_claims(config_json, args, ignore))


def config_of(state: State, claims: Claims) -> Config:
    """`infer_config` for the state dict of a BHViT and for sources that have been read."""
    _refuse_real_activations(state)
    mixers, attentions = _blocks(state, "conv_block"), _blocks(state, "attention_block")
    depths = (*_split(mixers, "conv_block", claims), *_split(attentions, "attention_block", claims))
    firsts = (mixers[0], mixers[depths[0]], attentions[0], attentions[depths[2]])
    side = _first_side(state, claims)
    image_size = _image_size(side, claims)
    fields: dict[str, Any] = {
        "image_size": image_size,
        "depths": depths,
        "hidden_sizes": _widths(state),
        "intermediate_sizes": tuple(block.hidden for block in firsts),
        "num_heads": _heads(firsts, claims),
        **_window(image_size, claims),
        **_traits(state, claims),
        **_pooling(state, side // 8, claims),
    }
    config = Config(**fields)
    for name, value in facts(config).items():
        if claims.get(name) not in (None, value):
            raise claims.disagreement(name, value, "the tensors")
    return config


def assumptions(config: Config, claims: Claims) -> list[str]:
    """What `config_of` took for granted, since neither the tensors nor another source says it."""
    gsb, others = config.quantizer == "gsb", claims.doubtful_window()
    off = listing(claims.switched_off)
    return [
        text
        for text, known in (
            (f"window {config.window_size}", claims.get("window_size") or claims.get("attn_window")),
            (
                f"window {config.window_size} as window_size says, though code that knows {others} reads attn_window",
                not others or config.window_size == _DEFAULT_WINDOW,
            ),
            ("mean over all tokens in the head", config.pooling != "mean" or claims.get("token_pool")),
            (f"{config.num_heads[2]} and {config.num_heads[3]} heads", not gsb or claims.get("num_attention_heads")),
            ("layer norm", not gsb or config.norm == "batch" or claims.get("replace_ln_bn") is not None),
            ("training with weights of one bit", claims.get("weight_bits")),
            (f"nothing is changed by {off}, which is not known here and false", not off),
        )
        if not known
    ]


def _refuse_real_activations(state: State) -> None:
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
_INIT_STATE = _in_block("attention_block", 0, "attention.quantizer.init_state")
_POSITION, _PATCHES = f"{STEM}.{in_part('stem', 'position')}", f"{STEM}.{in_part('stem', 'weight')}"
_IMAGE_NORM = f"{STEM}.{in_part('stem', 'image_norm.weight')}"


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
    first = _shape(state, _PATCHES, 4)[0]
    second, third, fourth = (
        _shape(state, f"{downsample(stage)}.{in_part('downsample', 'position')}", 3)[2] for stage in (1, 2, 3)
    )
    return (first, second, third, fourth)


def _first_side(state: State, claims: Claims) -> int:
    """S_0: of the stem's positions, or if they are not learned, twice the side of the next stage's."""
    if _POSITION in state:
        return _shape(state, _POSITION, 4)[2]
    if not claims.get("use_sinusoidal_pe"):
        raise CheckpointError(
            f"tensor {_POSITION!r} is missing, expected in every BHViT with learned positions; take the whole "
            "checkpoint, or for sinusoidal positions give the config.json that says use_sinusoidal_pe"
        )
    return 2 * math.isqrt(_shape(state, f"{downsample(1)}.{in_part('downsample', 'position')}", 3)[1])


def _traits(state: State, claims: Claims) -> dict[str, Any]:
    """The fields of a Config that the presence or shape of a tensor tells, and the number of classes."""
    weight, bias = (in_part("head", name) for name in ("weight", "bias"))
    return {
        "num_classes": 0 if weight not in state and bias not in state else _shape(state, weight, 2)[0],
        "norm": _norm(state, claims),
        "downsampling": "binary" if f"{downsample(1)}.{in_part('downsample', 'rprelu.move1')}" in state else "float",
        "quantizer": "gsb" if _CLIP in state else "levels",
        "layer_scale": _in_block("conv_block", 0, "mlp.fc2.layer_scale.alpha") in state,
        "shift3": _in_block("conv_block", 0, "mlp.shifts.h3.alpha") in state,
        "shift5": _in_block("conv_block", 0, "mlp.shifts.h5.alpha") in state,
        "image_norm": _IMAGE_NORM in state,
        "coordinates": _shape(state, _PATCHES, 4)[1] == 5,
        "positions": "learned" if _POSITION in state else "sinusoidal",
    }


def _norm(state: State, claims: Claims) -> str:
    """Batch norms have running statistics. They are buffers, as is a quantizer's state: without both, what was saved
    are parameters, which batch and layer norm have alike."""
    if in_part("head", "norm.running_mean") in state:
        return "batch"
    if _ALPHA in state and _INIT_STATE not in state and claims.get("replace_ln_bn") is not False:
        raise CheckpointError(
            f"neither running statistics such as '{in_part('head', 'norm.running_mean')}' nor '{_INIT_STATE}' are "
            "there: these are parameters without the buffers that belong to them; save model.state_dict(), not "
            "named_parameters(). For a network with layer norm, say replace_ln_bn: false in config.json"
        )
    return "layer"


def _pooling(state: State, last_side: int, claims: Claims) -> dict[str, Any]:
    """How the head pools the tokens of the last map (SPEC 7.9.4, 7.9.5)."""
    learned, told = in_part("head", "pooling.weight") in state, claims.get("token_pool")
    if told is not None and learned != (told == "attn"):
        found = "attention pooling" if learned else "no attention pooling"
        raise claims.disagreement("token_pool", found, "the tensors")
    if learned:
        return {"pooling": "attention"}
    if told in (None, "mean"):
        return {"pooling": "mean"}
    ratio = claims.get("topk_ratio")
    return {"pooling": "top", "top_tokens": max(1, int(last_side**2 * (1.0 if ratio is None else ratio)))}


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


def _split(blocks: list[_Block], kind: PlaceKind, claims: Claims) -> tuple[int, int]:
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
    told = claims.get("depths")
    if told is None:
        raise ConfigError(
            f"the {len(blocks)} blocks of {BLOCKS[kind]} are all alike: the tensors do not tell "
            "where the second stage begins; give the config.json of the training (its field depths)"
        )
    pair = told[:2] if kind == "conv_block" else told[2:]
    if sum(pair) != len(blocks):
        raise claims.disagreement("depths", f"{len(blocks)} blocks of {BLOCKS[kind]}", "the tensors")
    return (pair[0], pair[1])


def _heads(firsts: Sequence[_Block], claims: Claims) -> Four:
    """Heads by the first block of each stage, or with gsb by config.json, or the published ones."""
    third, fourth = firsts[2:]
    if third.heads and fourth.heads:
        return (1, 1, third.heads, fourth.heads)
    told: Four | None = claims.get("num_attention_heads")
    if told is not None:
        return told
    if third.width % _DEFAULT_HEADS[0] or fourth.width % _DEFAULT_HEADS[1]:
        raise ConfigError(
            f"with gsb the tensors do not tell the heads, and the usual {_DEFAULT_HEADS} do not divide the "
            f"widths {third.width} and {fourth.width}; give the config.json of the training (num_attention_heads)"
        )
    return (1, 1, *_DEFAULT_HEADS)


def _image_size(side: int, claims: Claims) -> int:
    """4 * S_0, or the up to 3 pixels more that config.json or the args name."""
    told = claims.image_size()
    if told is None:
        return 4 * side
    name, size = told
    if size // 4 != side:
        raise claims.disagreement(name, 4 * side, "the tensors")
    return size


def _window(image_size: int, claims: Claims) -> dict[str, Any]:
    """What config.json says, else 7, else the only possible one; and the padding that goes with its name."""
    named = claims.get("attn_window")
    if named is not None:
        return {"window_size": named, "merge_padding": "half" if named // 2 == 3 else "three"}
    window: int | None = claims.get("window_size")
    if window is not None:
        return {"window_size": window}
    valid = valid_windows(image_size)
    if _DEFAULT_WINDOW in valid or not valid:  # not valid: Config says what is wrong with the image size
        return {"window_size": _DEFAULT_WINDOW}
    if len(valid) > 1:
        raise ConfigError(
            f"the tensors do not tell the attention window, and image size {image_size} allows {list(valid)}; "
            "give the config.json of the training (its field window_size)"
        )
    return {"window_size": valid[0]}
