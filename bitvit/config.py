"""Config: the shape of one BHViT, the rules that it keeps, and the order of its parts (SPEC sections 2, 7.2, 10)."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bitvit.errors import ConfigError
from bitvit.messages import shown

__all__ = ["Config", "Four", "MergePadding", "Place", "PlaceKind", "check_field", "map_sides", "valid_windows"]

Norm = Literal["batch", "layer"]
Downsampling = Literal["float", "binary"]
Quantizer = Literal["levels", "gsb"]
Positions = Literal["learned", "sinusoidal"]
Pooling = Literal["mean", "attention", "top"]
MergePadding = Literal["half", "three"]
PlaceKind = Literal["stem", "downsample", "conv_block", "attention_block", "head"]
Four = tuple[int, int, int, int]

# No network comes near these; a config out of a damaged file must not cost time and memory.
_LIMIT = 1 << 16
_MAX_DEPTH = 1 << 10


@dataclass(frozen=True)
class Place:
    """One part of the network; `Config.places` walks them in order.

    A conv_block is the paper's GC block: token mixer and MLP. An attention_block is its ViT block: attention and MLP.
    """

    kind: PlaceKind
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

    # What forks have added (SPEC 7.9). A file without these fields is of a network without the additions.
    merge_padding: MergePadding = "half"
    """By how much the grid of merged tokens is shifted against the windows: half a window, or three pixels."""
    image_norm: bool = False
    """Whether each channel of each image is normalised before the stem."""
    coordinates: bool = False
    """Whether the stem also sees where a pixel is."""
    positions: Positions = "learned"
    """Where the stem's positions come from; sinusoidal ones are computed when a checkpoint is converted."""
    pooling: Pooling = "mean"
    """How the head makes one vector of all tokens."""
    top_tokens: int = 0
    """How many tokens of the largest norm the head takes the mean of; 0 unless pooling is "top"."""

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            check_field(name, kind, getattr(self, name))
        _check_image(self.image_size)
        _check_window(self.window_size, self.merge_padding, self.image_size)
        self._check_pooling()
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

    def _check_pooling(self) -> None:
        least, most = (1, self.map_sides[3] ** 2) if self.pooling == "top" else (0, 0)
        if not least <= self.top_tokens <= most:
            raise ConfigError(
                f"top_tokens is {self.top_tokens}, expected {least} to {most} for pooling {self.pooling!r}"
            )

    @property
    def padding(self) -> int:
        """Pixels that the grid of merged tokens is shifted by."""
        return _padding(self.window_size, self.merge_padding)

    @property
    def map_sides(self) -> Four:
        """S_0 .. S_3, the side of each stage's feature map."""
        return map_sides(self.image_size)

    def places(self) -> Iterator[Place]:
        """The network in its order: the stem, each stage's downsampling (but for the first) and blocks, the head."""
        yield Place("stem", 0)
        for stage in range(4):
            if stage > 0:
                yield Place("downsample", stage)
            for index in range(self.depths[stage]):
                yield Place("conv_block" if stage < 2 else "attention_block", stage, index)
        yield Place("head", 3)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them: lists in place of tuples; without additions that the network has not."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if name not in _OPTIONAL or value != _OPTIONAL[name]
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Config":
        """The inverse of to_dict; ConfigError for missing or unknown fields and for wrong types."""
        if not isinstance(fields, Mapping):
            raise ConfigError(f"config is {shown(fields)}, expected an object with the fields {list(_KINDS)}")
        missing, unknown = _KINDS.keys() - _OPTIONAL.keys() - fields.keys(), fields.keys() - _KINDS.keys()
        if missing or unknown:
            raise ConfigError(
                f"config with missing fields {sorted(missing)} and unknown fields {sorted(map(str, unknown))}, "
                f"expected exactly {[name for name in _KINDS if name not in _OPTIONAL]}, and perhaps {list(_OPTIONAL)}"
            )
        values: dict[str, Any] = {
            name: tuple(item) if isinstance(item, list) else item for name, item in fields.items()
        }
        return cls(**values)


# ------------------------------------------------------------------------------------------------- rules of section 10

_KINDS: Mapping[str, Any] = {field.name: field.type for field in dataclasses.fields(Config)}
_OPTIONAL = {
    field.name: field.default for field in dataclasses.fields(Config) if field.default is not dataclasses.MISSING
}


def check_field(name: str, kind: Any, value: object) -> None:
    """ConfigError unless a field of a Config, or of what is to become one, has its type and a sane size.

    kind: bool, int, Four or a Literal.
    """
    least = 0 if name in ("num_classes", "nb_classes", "top_tokens") else 1
    most = _MAX_DEPTH if name == "depths" else _LIMIT
    if kind is bool:
        valid, expected = isinstance(value, bool), "true or false"
    elif kind is int:
        valid, expected = _is_count(value, least, most), f"an integer from {least} to {most}"
    elif kind == Four:
        valid = isinstance(value, tuple) and len(value) == 4 and all(_is_count(item, least, most) for item in value)
        expected = f"four integers from {least} to {most}"
    else:
        valid, expected = value in get_args(kind), f"one of {list(get_args(kind))}"
    if not valid:
        raise ConfigError(f"{name} is {shown(value)}, expected {expected}")


def _is_count(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def map_sides(image_size: int) -> Four:
    """S_0 .. S_3, the sides of the feature maps for an image side; trailing pixels are dropped (SPEC section 1)."""
    side = image_size // 4
    return (side, side // 2, side // 4, side // 8)


def valid_windows(image_size: int, merge_padding: MergePadding = "half") -> tuple[int, ...]:
    """The attention windows an image size allows; none for an invalid image size.

    They are divisors of S_2 and S_3 of more than twice the padding: else the windows and merged tokens of a map are not
    of the same number.
    """
    side = image_size // 4
    if image_size > _LIMIT or (side != 12 and side % 8):
        return ()
    _, _, third, fourth = map_sides(image_size)
    return tuple(
        window
        for window in range(1, fourth + 1)
        if third % window == 0 and fourth % window == 0 and 2 * _padding(window, merge_padding) < window
    )


def _padding(window: int, merge_padding: MergePadding) -> int:
    return window // 2 if merge_padding == "half" else 3


def _check_image(image_size: int) -> None:
    if not valid_windows(image_size):
        raise ConfigError(
            f"image_size is {image_size}, {image_size // 4} patches a side, expected a multiple of 8 patches, or 12: "
            "image sizes 32, 64, 96, ... or 48, each with up to 3 pixels more"
        )


def _check_window(window: int, merge_padding: MergePadding, image_size: int) -> None:
    valid = valid_windows(image_size, merge_padding)
    if window not in valid:
        kind = "an odd divisor" if merge_padding == "half" else "a divisor above 6"
        raise ConfigError(
            f"window_size is {window}, expected {kind} of the map sides {map_sides(image_size)[2:]} of image size "
            f"{image_size}: {_only(valid)}"
        )


def _only(values: Sequence[int]) -> str:
    if not values:
        return "there is none"
    return f"only {values[0]} is possible" if len(values) == 1 else f"one of {list(values)}"


def _chunks_of_four(width: int) -> int:
    """How many chunks of ceil(width / 4) channels there are (SPEC section 7.6)."""
    return math.ceil(width / math.ceil(width / 4))
