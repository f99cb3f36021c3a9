"""The authors' names of tensors, and ours.

    stem                          vit.embeddings
    stages.{S}.downsample         vit.encoder.patch_embed{S}
    stages.{0,1}.blocks.{n}       vit.encoder.layerA.{i}     i counts over both stages
    stages.{2,3}.blocks.{n}       vit.encoder.layerB.{i}     i counts over both stages
    head                          (the top)

and inside these the pairs of `PAIRS`. Our names are those of the model file as far as it has such a tensor; a name
that a pair does not change (weight, running_mean, alpha, move1, ...) is the same in both.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TypeVar

from bitvit.config import Config, Place, PlaceKind

__all__ = ["BLOCKS", "PAIRS", "STEM", "authors_name", "downsample", "in_part", "module", "rename"]

T = TypeVar("T")
Pairs = Iterator[tuple[str, str]]

STEM = "vit.embeddings"
BLOCKS: Mapping[PlaceKind, str] = {"conv_block": "vit.encoder.layerA", "attention_block": "vit.encoder.layerB"}


def downsample(stage: int) -> str:
    """The authors' module of the downsampling that leads to a stage, 1 to 3."""
    return f"vit.encoder.patch_embed{stage}"


def module(config: Config, place: Place) -> str:
    """The authors' module of a part of the network; '' for the head, whose parts lie at the top."""
    match place.kind:
        case "stem":
            return STEM
        case "downsample":
            return downsample(place.stage)
        case "head":
            return ""
        case _:
            before = config.depths[place.stage - 1] if place.stage in (1, 3) else 0
            return f"{BLOCKS[place.kind]}.{before + place.index}"


# --------------------------------------------------------------------------------------------- ours, then the authors'


def _rprelu(ours: str, theirs: str) -> Pairs:
    yield ours, theirs
    yield f"{ours}.slope", f"{theirs}.prelu.weight"


def _dense(ours: str, theirs: str) -> Pairs:
    """A binary linear layer with its offset, norm, RPReLU and layer scale."""
    yield ours, theirs
    yield f"{ours}.weight", f"{theirs}.dense.weight"
    yield f"{ours}.layer_scale", f"{theirs}.layerscale"
    yield from _rprelu(f"{ours}.rprelu", f"{theirs}.rprelu")


def _projection(ours: str, theirs: str, letter: str) -> Pairs:
    """Query, key or value, whose parts the authors tell apart by a letter."""
    yield f"{ours}.weight", f"{theirs}.{ours.rpartition('.')[2]}.weight"
    yield f"{ours}.norm", f"{theirs}.norm{letter}"
    yield from _rprelu(f"{ours}.rprelu", f"{theirs}.rprelu{letter}")
    yield f"{ours}.move", f"{theirs}.move{letter}"
    yield f"{ours}.out_move", f"{theirs}.move{letter}2"


def _conv(k: int) -> Pairs:
    """A convolution of the token mixer; the authors count from 1."""
    yield f"mixer.convs.{k}", f"GC.cov{k + 1}"
    yield from _rprelu(f"mixer.convs.{k}.rprelu", f"GC.act{k + 1}")


_INNER = "attention.attention"

_MLP = (
    ("mlp.norm", "layernorm_after"),
    *_dense("mlp.fc1", "intermediate"),
    *_dense("mlp.fc2", "output"),
    *((f"mlp.shifts.{way}{reach}", f"layerscale_{way}{reach}") for reach in (3, 5) for way in ("h", "w", "ch")),
)

PAIRS: Mapping[PlaceKind, Mapping[str, str]] = {
    "stem": {
        "weight": "patch_embeddings.proj.weight",
        "bias": "patch_embeddings.proj.bias",
        "norm": "patch_embeddings.norm",
        "position": "position_embeddings",
        "image_norm": "stain_norm.inorm",
    },
    "downsample": {
        "norm": "norm0",
        "weight": "proj.weight",
        "out_norm": "norm",
        "position": "position_embeddings",
        "move": "move",
        **dict(_rprelu("rprelu", "rprelu")),
    },
    "conv_block": {
        "mixer.norm": "layernorm_before",
        "mixer.move": "GC.move.bias",
        **{ours: theirs for k in range(3) for ours, theirs in _conv(k)},
        "mixer.out_norm": "GC.norm",
        **dict(_MLP),
    },
    "attention_block": {
        "attention.norm": "layernorm_before",
        "attention.max_share": f"{_INNER}.token_FA.a1",
        "attention.token_norm": f"{_INNER}.token_FA.norm",
        **dict(_projection("attention.query", _INNER, "q")),
        **dict(_projection("attention.key", _INNER, "k")),
        **dict(_projection("attention.value", _INNER, "v")),
        "attention.quantizer": f"{_INNER}.att_prob_quantizer",
        "attention.clip.0": f"{_INNER}.att_prob_clip",
        "attention.clip.1": f"{_INNER}.att_prob_clip2",
        "attention.clip.2": f"{_INNER}.att_prob_clip3",
        "attention.context.norm": f"{_INNER}.norm_context",
        **dict(_rprelu("attention.context.rprelu", f"{_INNER}.rprelu_context")),
        "attention.fine_share": f"{_INNER}.parm",
        **dict(_dense("attention.output", "attention.output")),
        **dict(_MLP),
    },
    "head": {
        "norm": "vit.layernorm",
        "pooling": "pool.att",
        "weight": "classifier.weight",
        "bias": "classifier.bias",
    },
}
"""For each kind of part: tensors and groups of tensors, our name -> the authors', both inside the part."""

_OURS: Mapping[PlaceKind, Mapping[str, str]] = {
    kind: {theirs: ours for ours, theirs in pairs.items()} for kind, pairs in PAIRS.items()
}


# --------------------------------------------------------------------------------------------------- from one to other


def in_part(kind: PlaceKind, name: str) -> str:
    """The authors' name, inside a part, of a tensor that is ours by `name` in there. KeyError for an unknown one."""
    return _exchanged(name, PAIRS[kind])


def authors_name(config: Config, name: str) -> str:
    """The authors' name of one of the network's tensors. KeyError if it has no such tensor."""
    places = _by_name(config)
    place, inner = _split(name, places)
    theirs = in_part(places[place].kind, inner)
    return f"{path}.{theirs}" if (path := module(config, places[place])) else theirs


def rename(config: Config, state: Mapping[str, T]) -> dict[str, T]:
    """A state dict under our names, in its own order. KeyError for a tensor that the network has not."""
    modules = {module(config, place): place for place in config.places()}
    renamed: dict[str, T] = {}
    for name, tensor in state.items():
        place, inner = _split(name, modules)
        ours = _exchanged(inner, _OURS[modules[place].kind])
        renamed[f"{modules[place].name}.{ours}"] = tensor
    return renamed


@lru_cache(maxsize=8)
def _by_name(config: Config) -> Mapping[str, Place]:
    return {place.name: place for place in config.places()}


def _split(name: str, modules: Mapping[str, object]) -> tuple[str, str]:
    """The module of a tensor, and its name in there; the module '' has what no other has."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (start := ".".join(parts[:end])) in modules:
            return start, ".".join(parts[end:])
    if "" in modules:
        return "", name
    raise KeyError(name)


def _exchanged(name: str, pairs: Mapping[str, str]) -> str:
    """A name whose longest known beginning is exchanged for its counterpart."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if (start := ".".join(parts[:end])) in pairs:
            return ".".join([pairs[start], *parts[end:]])
    raise KeyError(name)
