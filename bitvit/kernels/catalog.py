"""The functions that are compiled to C: where each is written, and what layers and kernels agree on.

A kernel is one C function of one signature:

    kernel(piece, arguments, const, state, scratch)

`arguments` points at a record of int64 whose field names stand here: sizes, and where buffers begin in the arenas of
4-byte units: `const` (weights, tables), `state` (activations of one image) and `scratch` (one thread's working memory).
Each is compiled apart from all others when a program first needs it, so a process compiles or loads only the kernels
of its own model.

Buffers hold float32 unless something else is said beside them. Everywhere

    rows        tokens of the map that is written; piece_rows of them are one piece's, the last one's may be fewer
    side        tokens a side of the map (of the one that is read, where there are two)
    channels    C, those that count; width is C padded to LANES, stride the distance of one token's row from the next
    words       of a packed row of signs; start is what its counters start at, -(K // 2)
    panels      weights in kernel order: [width/LANES][words][LANES] words, or [width/LANES][depth][LANES] floats
    valid       1 for lanes that hold a channel and 0 for padding, needed by layer norms alone (as is prescale)

Nothing here needs Numba, which a process imports only to compile.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from bitvit.kernels.target import LANES, LOOKUP, TILE_ROWS

Norm: TypeAlias = Literal["batch", "layer"]
Kind: TypeAlias = Literal["embedding", "mixer", "projections", "attention", "MLP", "downsampling", "head"]


@dataclass(frozen=True)
class Kernel:
    """A step function and the record of its arguments.

    norm: which norms it is written for, None if it serves both; a twin for layer norms has its sibling's name and _ln.
    kind: where its time belongs; None if to whatever step comes next.
    """

    module: str
    name: str
    arguments: "np.dtype[np.void]"
    norm: Norm | None = None
    kind: Kind | None = None

    @property
    def base(self) -> str:
        """The name that it shares with its sibling for the other norm."""
        return self.name.removesuffix("_ln")

    @property
    def signature(self) -> str:
        """As Numba writes it."""
        return "void(int64, voidptr, CPointer(uint32), CPointer(uint32), CPointer(uint32))"


@dataclass(frozen=True)
class Scheduling:
    """A function that runs or measures steps; its arguments are int64."""

    name: str
    arguments: int
    returns: bool = False
    module: str = "schedule"

    @property
    def signature(self) -> str:
        """As Numba writes it."""
        return f"{'int64' if self.returns else 'void'}({', '.join(['int64'] * self.arguments)})"


Function: TypeAlias = Kernel | Scheduling


def fields(names: str) -> "np.dtype[np.void]":
    """A record of int64 fields."""
    return np.dtype([(name, np.int64) for name in names.split()])


LANE_BITS = 32  # signs of one word of a kernel: a 32-bit lane (a model file has words of 64, see bits.py)


# ----------------------------------------------------------------------------------------------------------------- stem
PATCH = 4
DEPTH = 3 * PATCH * PATCH

IMAGE = fields(  # stands at the beginning of the state
    "address"  # of float32 [3][image_side][image_side]; or of the bytes R, G, B of the first pixel
    " row_bytes pixel_bytes"  # from one row, and from one pixel, to the next; 0 for floats
    # and for bytes
    " crop pad"  # pixels a side, and black ones around them: crop + 2·pad = image_side
    " table"  # address of float32 [3][256]: what becomes of a byte of each channel
)

STEM = fields(
    "rows piece_rows side"
    " image_side"  # pixels a side
    " channels width stride"
    # state
    " image"  # IMAGE
    " out"  # [rows][stride]
    " image_norm"  # [3][mean, scale, bias], see `image_norm`; -1 if the image is taken as it is
    # const
    " panels"  # [width/LANES][DEPTH][LANES]
    " bias"  # [rows][width] with bias_stride = width, or [width] with 0
    " bias_stride"
    " norm"  # [width/LANES][scale, bias][LANES]
    " position"  # [rows][width]
    " valid"  # [width]
    # scratch
    " patches"  # [piece_rows][DEPTH]
)

IMAGE_NORM = fields(
    "image_side"
    # state
    " image"  # IMAGE, of floats
    " out"  # [3][mean, scale, bias]
    " affine"  # const: [2][3], weights and biases
    " sums"  # scratch: [SUM_LANES]
)

SUM_LANES = 16  # of a sum over lanes that comes out the same for vectors of 8 and of 16

image_norm = Kernel("stem", "image_norm", IMAGE_NORM, None, "embedding")
stem = Kernel("stem", "stem", STEM, "batch", "embedding")
stem_ln = Kernel("stem", "stem_ln", STEM, "layer", "embedding")


# ----------------------------------------------------------------------------------------------------------- downsample
FLOAT_DOWN = fields(
    "rows piece_rows"
    " column_pieces"  # into which the columns of a piece of rows are split
    " side out_side in_width in_stride channels width stride"
    # state
    " source"  # [side²][in_stride]
    " out"  # [rows][stride]
    # const
    " norm"  # [in_width/LANES][scale, bias][LANES]
    " panels"  # [width/LANES][four pixels of in_width][LANES]
    " bias"  # [rows][width] with bias_stride = width, or [width] with 0
    " bias_stride"
    " affine"  # [width/LANES][scale, bias][LANES]
    " position"  # [rows][width]
    " valid"  # [width]
    # scratch
    " patches"  # [piece_rows][four pixels of in_width]
)

BINARY_DOWN = fields(
    "rows piece_rows side out_side in_channels in_width in_stride channels width stride"
    " words"  # of a patch: four pixels' signs, each padded to words
    " start"
    # state
    " source"  # [side²][in_stride]
    " out"  # [rows][stride]
    # const
    " norm"  # [in_width/LANES][scale, bias, threshold][LANES]
    " panels"  # uint32 [width/LANES][words][LANES]
    " affine"  # [width/LANES][scale, bias, slope - 1][LANES]
    " position"  # [rows][width]
    " prescale"  # [width/LANES][scale, bias][LANES]
    " valid"  # [width]
    # scratch
    " bits"  # uint32 [piece_rows][words]
    " pooled"  # [piece_rows][in_width + 2·LANES]
    " pairs"  # uint16, see kernels/lookup.py
    " z"  # [width/LANES][piece_rows][LANES]
)

float_down = Kernel("downsample", "float_down", FLOAT_DOWN, "batch", "downsampling")
float_down_ln = Kernel("downsample", "float_down_ln", FLOAT_DOWN, "layer", "downsampling")
binary_down = Kernel("downsample", "binary_down", BINARY_DOWN, "batch", "downsampling")
binary_down_ln = Kernel("downsample", "binary_down_ln", BINARY_DOWN, "layer", "downsampling")


# ---------------------------------------------------------------------------------------------------------------- mixer
GROUPS = 4
DILATIONS = (1, 3, 5)
BORDER = 5  # zero words around a plane

MIXER_SIGNS = fields(
    "side piece_rows stride"
    " group group_words"  # channels of a group, and the words that hold them
    " plane plane_row"  # words of a plane and of its row: (side + 2·BORDER)² and side + 2·BORDER
    # state
    " source"  # [side²][stride]
    # const
    " norm"  # [GROUPS][group to LANES][scale, bias][LANES]
    # state
    " planes"  # uint32 [GROUPS][group_words][plane]
)

MIXER = fields(
    "side piece_rows channels width stride group"
    " words start"  # of a dot over nine taps of a group's channels
    " packed taps_row"  # whether taps are packed first; words of a packed row, side to LANES
    " plane_row"
    # state
    " planes"  # uint32 [GROUPS][group_words][plane]
    " residual out"  # [side²][stride]
    # const; a chunk is LANES channels of a group
    " offsets"  # int32 [GROUPS][dilation][words]: where in planes or taps
    " entries"  # int32 [entry_count][8], see `pack_taps`
    " entry_count"
    " panels"  # uint32 [GROUPS][chunk][dilation][words][LANES]
    " affine"  # [GROUPS][chunk][dilation][scale, slope - 1][LANES]
    " biases"  # [GROUPS][chunk][dilation][16 sets of missing taps][LANES]
    " classes"  # int32 [dilation][side to TILE_ROWS]: LANES·(1 if the first tap is missing, + 2 if the last is)
    " shift"  # [width], layer norm alone
    " out_affine"  # [width/LANES][scale, bias][LANES]
    " valid"  # [width]
    # scratch
    " taps"  # uint32 [GROUPS][dilation][words][taps_row]
    " mixed"  # [side to TILE_ROWS][width + LANES]
)

mixer_signs = Kernel("mixer", "mixer_signs", MIXER_SIGNS, None, "mixer")
mixer = Kernel("mixer", "mixer", MIXER, "batch", "mixer")
mixer_ln = Kernel("mixer", "mixer_ln", MIXER, "layer", "mixer")


# ------------------------------------------------------------------------------------------------------------ attention
PROJECT = fields(
    "rows piece_rows"  # of the token list: the map's in the order of windows, then the merged ones
    " side window padding channels width stride words start"
    " plane"  # tokens of a word plane of signs: rows to TILE_ROWS
    # state
    " source"  # [side²][stride]
    " signs"  # uint32 [query, key, value][words][plane]
    " shortcut"  # [plane][stride]
    # const
    " pixels"  # int32 [side² to TILE_ROWS]: where the pixel of a token is in source
    " norm"  # [width/LANES][scale, bias, max share, average share][LANES]
    " token_norm"  # [width/LANES][weight, bias][LANES]
    " thresholds"  # [width/LANES][query, key, value][LANES]
    " panels"  # uint32 [query, key, value][width/LANES][words][LANES]
    " panels_part"  # units of each part
    " affine"  # [query, key, value][width/LANES][scale, bias, slope - 1, threshold][LANES]
    " prescale"  # [query, key, value][width/LANES][scale, bias][LANES]
    " valid"  # [width]
    # scratch
    " tokens"  # [piece_rows][stride]
    " bits"  # uint32 [query, key, value][piece_rows][words]
    " pairs"  # uint16, see kernels/lookup.py
    " z"  # [query, key, value][width/LANES][piece_rows][LANES]
    " z_part"  # units of each part
)

ATTEND = fields(
    "heads head_dim window_tokens merged"  # head_dim: d; merged: M, as many as windows
    " windows width stride"
    " row_words plane"  # words of a token's signs; tokens of a word plane
    " planes"  # P, bit planes of the quantizer
    " keys_padded key_words token_words"  # keys to LANES; d/LANE_BITS and keys/LANE_BITS, each rounded up
    " dim_padded rows_padded"  # d to LANES, keys to whole tiles
    # state
    " signs"  # uint32 [query, key, value][row_words][plane]
    " context"  # [windows][rows_padded][stride]
    # const
    " quantizer"  # high and low part of the softmax's step, then what the quantizer's kernel says
    " keys_table"  # [penalty (int32), present, floor][keys_padded], see `softmax_row`
    # scratch
    " head_bits"  # uint32 [query, key, value][key_words][keys_padded], and LANES more
    " transposed"  # uint32 [token_words][dim_padded]: the values' signs, tokens along the bits
    " scores"  # int32, then numerators [rows_padded][keys_padded]
    " plane_words"  # uint32 [planes][rows_padded][token_words]; bits behind keys_padded are 0
    " counts"  # int32 [planes][rows_padded]: 1 bits of each row of plane_words
    " weights"  # [planes]
)

ATTEND_PIXELS = fields(  # windows of one pixel: the merged tokens are as many, and tokens are [pixel, merged ones]
    "heads head_dim merged piece_rows"  # piece_rows: pixels, and as many merged tokens
    " width stride row_words plane planes keys_padded key_words token_words dim_padded"  # as above
    " rows_padded"  # rows of planes: piece_rows, then one for every distance that pixels have from a merged token
    " queries_padded pixels_padded"  # piece_rows and merged, to LANES
    " context_rows"  # rows of a window in context: 1, with layer norms all
    # state
    " signs"  # uint32 [query, key, value][row_words][plane]
    " context"  # [windows][context_rows][stride]
    " shortcut"  # [windows + merged][stride]
    " coarse"  # [merged][width], without layer norms
    # const
    " quantizer keys_table"  # as above
    " affine"  # [scale, bias, slope - 1][width and LANES more], without layer norms
    " sign_places"  # uint32 [LANES]: 2^31 / 2^lane
    # scratch
    " queries"  # uint32 [pixel, merged][key_words][queries_padded]
    " keys merged_values"  # uint32 [key_words][keys_padded] and LANES more, of [a pixel, which is 0, merged tokens]
    " pixel_keys pixel_values"  # uint32 [key_words][pixels_padded]
    " pixel_signs"  # uint32 [pixels_padded][dim_padded]: bit 31 is 1 where a pixel's value is
    " transposed"  # uint32 [token_words][dim_padded], of merged_values
    " scores"  # int32 [piece_rows to tiles][keys_padded]
    " pixel_scores"  # int32 [piece_rows to tiles][pixels_padded]
    " plane_words counts weights"  # as above
    " slots"  # int32 [head_dim + 1 to LANES]: which row of planes a distance has, from piece_rows on, or -1
    " row_scores"  # int32, then numerators [rows_padded][keys_padded], of which the planes are made
    " values"  # [rows of planes from piece_rows on][without a pixel's value, with it][LANES]
)

COARSEN = fields(
    "merged piece_rows windows window_tokens rows_padded width stride channels"
    # state
    " context"  # [windows][rows_padded][stride]
    " shortcut"  # [windows·window_tokens + merged][stride]
    " coarse"  # [merged][width]
    # const
    " affine"  # [width/LANES][scale, bias, slope - 1][LANES]
    " valid"  # [width]
)

OUTPUT = fields(
    "rows piece_rows window_tokens rows_padded channels width stride words start"
    # state
    " source out"  # [rows][stride]
    " context"  # [windows][rows_padded][stride]
    " shortcut"  # [rows …][stride]
    " coarse"  # [windows][width]
    # const
    " pixels"  # int32 [rows to TILE_ROWS]
    " context_affine"  # [width/LANES][scale, bias, slope - 1][LANES]
    " fine"  # [width]
    " thresholds"  # [width]
    " panels"  # uint32 [width/LANES][words][LANES]
    " affine"  # [width/LANES][scale, bias, slope - 1, out scale, out bias][LANES]
    " prescale"  # [width/LANES][scale, bias][LANES]
    " valid"  # [width]
    # scratch
    " mixed"  # [piece_rows][stride]
    " bits"  # uint32 [piece_rows][words]
    " pairs"  # uint16, see kernels/lookup.py
    " z"  # [width/LANES][piece_rows][LANES]
)

project = Kernel("attention", "project", PROJECT, "batch", "projections")
project_ln = Kernel("attention", "project_ln", PROJECT, "layer", "projections")
attend_levels = Kernel("quantizers", "attend_levels", ATTEND, None, "attention")
attend_gsb = Kernel("quantizers", "attend_gsb", ATTEND, None, "attention")
attend_pixels_levels = Kernel("pixels", "attend_pixels_levels", ATTEND_PIXELS, "batch", "attention")
attend_pixels_levels_ln = Kernel("pixels", "attend_pixels_levels_ln", ATTEND_PIXELS, "layer", "attention")
attend_pixels_gsb = Kernel("pixels", "attend_pixels_gsb", ATTEND_PIXELS, "batch", "attention")
attend_pixels_gsb_ln = Kernel("pixels", "attend_pixels_gsb_ln", ATTEND_PIXELS, "layer", "attention")
coarsen = Kernel("attention", "coarsen", COARSEN, "batch", "attention")
coarsen_ln = Kernel("attention", "coarsen_ln", COARSEN, "layer", "attention")
output = Kernel("attention", "output", OUTPUT, "batch", "projections")
output_ln = Kernel("attention", "output_ln", OUTPUT, "layer", "projections")


# ------------------------------------------------------------------------------------------------------------------ mlp
MLP = fields(
    "rows piece_rows side channels width stride"
    " ratio"  # hidden features a channel, I/C
    " chunk"  # with LOOKUP: channels whose hidden products are in z together
    " span period"  # of the tiled shortcut, see `tile_channels`
    " words hidden_words start1 start2"
    " shifts"  # whether there is a stencil
    # state
    " source"  # [rows][stride], of the norm and the stencil
    " residual out"  # [rows][stride]
    # const; a hidden vector p is one of ratio·width/LANES
    " norm"  # [width/LANES][scale, bias, threshold][LANES]
    " panels1"  # uint32 [p][words][LANES]
    " affine1"  # [p][scale, -bias, slope - 1, threshold][LANES]
    " panels2"  # uint32 [width/LANES][hidden_words][LANES]
    " affine2"  # [width/LANES][ratio·scale, ratio·bias, slope - 1, out scale/ratio, out bias][LANES]
    " taps"  # [width/LANES][9][LANES]
    " valid valid_hidden"  # [width], [ratio·width]
    " prescale1 prescale2"  # [p][scale, bias][LANES], [width/LANES][scale, bias][LANES]
    # scratch
    " bits"  # uint32 [piece_rows][words]
    " tiled"  # [ratio][piece_rows][span]
    " hidden_bits"  # uint32 [piece_rows][hidden_words]
    " pooled"  # [width/LANES][piece_rows][LANES]
    " pairs"  # uint16, see kernels/lookup.py
    " z"  # [width/LANES][piece_rows][LANES]; under layer norm [p][piece_rows][LANES], with LOOKUP that of a chunk
    " row"  # [width + 2·LANES]
)

mlp = Kernel("mlp", "mlp", MLP, "batch", "MLP")
mlp_ln = Kernel("mlp", "mlp_ln", MLP, "layer", "MLP")


# ----------------------------------------------------------------------------------------------------------------- norm
LAYER_NORM = fields(
    "rows piece_rows channels width stride"
    # state
    " source out"  # [rows][stride]
    # const
    " affine"  # [width/LANES][weight, bias][LANES]
    " valid"  # [width]
)

layer_norm = Kernel("norm", "layer_norm", LAYER_NORM, "layer")


# ----------------------------------------------------------------------------------------------------------------- head
CLASSIFY_COLUMNS = 4 * LANES  # classes of one classifier piece: four accumulators hide the latency of fma

POOL = fields(
    "rows"
    " piece_width"  # channels of one piece
    " width stride"
    " source"  # state: [rows][stride]
    " affine"  # const: [width/LANES][scale, bias][LANES]
    " out"  # state: [width]
)

TOKEN_WEIGHTS = fields(
    "rows"
    " top"  # how many tokens count
    " width stride"
    # state
    " source"  # [rows][stride]
    " weights"  # [rows to LANES], their sum is 1
    # const
    " affine"  # [width/LANES][scale, bias][LANES]; for `weigh_attention` [width], what scores are products with
    # scratch
    " scores"  # [rows]
    " sums"  # [SUM_LANES]
)

WEIGHTED_POOL = fields(
    "rows"
    " piece_width"  # channels of one piece
    " width stride"
    # state
    " source"  # [rows][stride]
    " weights"  # [rows]
    " affine"  # const: [width/LANES][scale, bias][LANES]
    " out"  # state: [width]
)

CLASSIFY = fields(
    "depth"  # channels
    " source"  # state: [depth]
    " panels"  # const: [classes/CLASSIFY_COLUMNS][depth][CLASSIFY_COLUMNS]
    " bias"  # const: [classes to CLASSIFY_COLUMNS]
    " out"  # state: [classes to CLASSIFY_COLUMNS]
)

pool = Kernel("head", "pool", POOL, None, "head")
weigh_attention = Kernel("head", "weigh_attention", TOKEN_WEIGHTS, None, "head")
weigh_top = Kernel("head", "weigh_top", TOKEN_WEIGHTS, None, "head")
weighted_pool = Kernel("head", "weighted_pool", WEIGHTED_POOL, None, "head")
classify = Kernel("head", "classify", CLASSIFY, None, "head")

KERNELS = tuple(value for value in list(globals().values()) if isinstance(value, Kernel))


# ----------------------------------------------------------------------------------------------------------- scheduling
STEP = fields("address arguments pieces")  # of the kernel's code, of its record; into how many pieces it splits

JOB = fields(
    "images count"  # address of IMAGE [count]
    " output_offset"  # where in the state an image's output is, in 4-byte units
    " out outputs"  # address of the answers [count][outputs]
)

LINE = 8  # int64 cells of a cache line
GATE, EPOCH, DONE, STALLED, CLAIMS = 0, 1, 2, 3, 4  # cells, see kernels/schedule.py
OPEN, INSIDE = 1, 2
MOST_RANGES = 8  # of a step's pieces


run_steps = Scheduling("run_steps", 5)
open_image = Scheduling("open_image", 2)
lead_image = Scheduling("lead_image", 7, returns=True)
help_image = Scheduling("help_image", 9)
lead_batch = Scheduling("lead_batch", 7)
help_batch = Scheduling("help_batch", 7)

SCHEDULING = (run_steps, open_image, lead_image, help_image, lead_batch, help_batch)


# ------------------------------------------------------------------------------------------------------------ measuring
LIMIT_TABLE = 32  # steps until a limit's loop meets the same words again: they stay in the first-level cache

LIMIT_MACS = 2 * 128 * 12 if LOOKUP else 2 * TILE_ROWS * LANES * LANE_BITS  # of a step of `popcount_limit`

time_steps = Scheduling("time_steps", 6)
popcount_limit = Scheduling("popcount_limit", 2, module="roofline")
fma_limit = Scheduling("fma_limit", 2, module="roofline")
read_limit = Scheduling("read_limit", 2, module="roofline")

MEASURING = (time_steps, popcount_limit, fma_limit, read_limit)  # needed by bitvit.bench alone
FUNCTIONS: tuple[Function, ...] = (*KERNELS, *SCHEDULING, *MEASURING)
