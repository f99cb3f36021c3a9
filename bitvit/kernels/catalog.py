"""The functions that are compiled to C: where each is written, and what layers and kernels agree on.

A kernel is one C function of one signature:

    kernel(piece, arguments, const, state, scratch)

`arguments` points at a record of int64 (offsets into the arenas, sizes) whose field names stand here; `const` (weights,
tables), `state` (activations of one image) and `scratch` (one thread's working memory) point at arenas of 4-byte units.
Each is compiled apart from all others when a program first needs it, so a process compiles or loads only the kernels
of its own model.

Nothing here needs Numba, which a process imports only to compile.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bitvit.kernels.target import LANES


@dataclass(frozen=True)
class Kernel:
    """A step function and the record of its arguments."""

    module: str
    name: str
    arguments: "np.dtype[np.void]"

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

STEM = fields(
    "rows piece_rows side image_side channels width stride"  # tokens, tokens a piece, tokens a side, pixels a side
    " pixels out"  # state: cell holding the image's address; [rows][stride]
    " panels bias norm position valid"  # const
    " patches"  # scratch
)

stem = Kernel("stem", "stem", STEM)
stem_ln = Kernel("stem", "stem_ln", STEM)


# ----------------------------------------------------------------------------------------------------------- downsample
FLOAT_DOWN = fields(
    # rows: output tokens; side, out_side: of the maps
    "rows piece_rows column_pieces side out_side in_width in_stride channels width stride"
    " source out"  # state
    " norm panels bias bias_stride affine position valid"  # const
    " patches"  # scratch
)

BINARY_DOWN = fields(
    "rows piece_rows side out_side in_channels in_width in_stride channels width stride words start"
    " source out"  # state
    " norm panels affine position prescale valid"  # const
    " bits pooled z"  # scratch
)

float_down = Kernel("downsample", "float_down", FLOAT_DOWN)
float_down_ln = Kernel("downsample", "float_down_ln", FLOAT_DOWN)
binary_down = Kernel("downsample", "binary_down", BINARY_DOWN)
binary_down_ln = Kernel("downsample", "binary_down_ln", BINARY_DOWN)


# ---------------------------------------------------------------------------------------------------------------- mixer
GROUPS = 4
DILATIONS = (1, 3, 5)
BORDER = 5  # zero words around a plane

MIXER_SIGNS = fields("side piece_rows stride group group_words plane plane_row source norm planes")

MIXER = fields(
    # shape: words a dot; packed = whether taps are packed first; taps_row = words of a packed row
    "side piece_rows channels width stride group words start packed taps_row plane_row"
    " planes residual out"  # state
    " offsets entries entry_count panels affine biases classes shift out_affine valid"  # const
    " taps mixed"  # scratch
)

mixer_signs = Kernel("mixer", "mixer_signs", MIXER_SIGNS)
mixer = Kernel("mixer", "mixer", MIXER)
mixer_ln = Kernel("mixer", "mixer_ln", MIXER)


# ------------------------------------------------------------------------------------------------------------ attention
PROJECT = fields(
    "rows piece_rows side window channels width stride words start plane"  # plane: tokens of a word plane of signs
    " source signs shortcut"  # state; signs: [query, key, value][words][plane], shortcut: [tokens][stride]
    " pixels norm token_norm thresholds panels affine prescale valid"  # const
    " tokens bits z"  # scratch
)

ATTEND = fields(
    "heads head_dim window_tokens merged windows width stride row_words plane planes"
    " keys_padded key_words token_words dim_padded rows_padded"  # keys to 32, d/32, keys/32, d to LANES, keys to TILE_ROWS
    " signs context"  # state; context: [windows][rows_padded][stride]
    " quantizer keys_table"  # const
    " head_bits transposed scores plane_words counts weights"  # scratch
)

COARSEN = fields(
    "merged piece_rows windows window_tokens rows_padded width stride channels context shortcut coarse affine valid"
)

OUTPUT = fields(
    "rows piece_rows window_tokens rows_padded channels width stride words start"
    " source out context shortcut coarse"  # state
    " pixels context_affine fine thresholds panels affine prescale valid"  # const
    " mixed bits z"  # scratch
)

project = Kernel("attention", "project", PROJECT)
project_ln = Kernel("attention", "project_ln", PROJECT)
attend_levels = Kernel("attention", "attend_levels", ATTEND)
attend_gsb = Kernel("attention", "attend_gsb", ATTEND)
coarsen = Kernel("attention", "coarsen", COARSEN)
coarsen_ln = Kernel("attention", "coarsen_ln", COARSEN)
output = Kernel("attention", "output", OUTPUT)
output_ln = Kernel("attention", "output_ln", OUTPUT)


# ------------------------------------------------------------------------------------------------------------------ mlp
MLP = fields(
    # shape: rows of the map and of one piece, tokens a side, channels C, width = C padded to LANES, ratio I/C
    "rows piece_rows side channels width stride ratio span period words hidden_words start1 start2 shifts"
    # state: source of the norm and the stencil, residual, output, all [rows][stride]
    " source residual out"
    # const
    " norm panels1 affine1 panels2 affine2 taps valid valid_hidden prescale1 prescale2"
    # scratch
    " bits tiled hidden_bits pooled z row"
)

mlp = Kernel("mlp", "mlp", MLP)
mlp_ln = Kernel("mlp", "mlp_ln", MLP)


# ----------------------------------------------------------------------------------------------------------------- norm
LAYER_NORM = fields("rows piece_rows channels width stride source out affine valid")

layer_norm = Kernel("norm", "layer_norm", LAYER_NORM)


# ----------------------------------------------------------------------------------------------------------------- head
CLASSIFY_COLUMNS = 4 * LANES  # classes of one classifier piece: four accumulators hide the latency of fma

POOL = fields("rows piece_width width stride source affine out")
CLASSIFY = fields("depth source panels bias out")

pool = Kernel("head", "pool", POOL)
classify = Kernel("head", "classify", CLASSIFY)

KERNELS = tuple(value for value in list(globals().values()) if isinstance(value, Kernel))


# ----------------------------------------------------------------------------------------------------------- scheduling
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

time_steps = Scheduling("time_steps", 6)
popcount_limit = Scheduling("popcount_limit", 2, module="limits")
fma_limit = Scheduling("fma_limit", 2, module="limits")
read_limit = Scheduling("read_limit", 2, module="limits")

MEASURING = (time_steps, popcount_limit, fma_limit, read_limit)  # needed by bitvit.bench alone
FUNCTIONS: tuple[Function, ...] = (*KERNELS, *SCHEDULING, *MEASURING)
