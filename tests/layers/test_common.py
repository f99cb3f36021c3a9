"""What layers share: the algebra of half dots, tables, pieces."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitvit.bits import pack
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.layers.common import (
    counter_start,
    half_affine,
    kernel_affine,
    pieces,
    prescale,
    rows_a_piece,
    valid_lanes,
)
from bitvit.panels import natural
from bitvit.program import Builder
from bitvit.schema import Activation, BinaryLinear
from tests.support.paths import ROOT

# For which processors, and whether 64-bit ARM's code is written; prints the pieces that a tile of theirs leaves.
PIECES = """
import sys
import llvmlite.binding as llvm
if sys.argv[1] == "arm":
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.get_process_triple = lambda: "aarch64-unknown-linux-gnu"
from bitvit.kernels.target import PAIR_ROWS, TAIL_ROWS, TILE_ROWS
from bitvit.layers.common import rows_a_piece
for most in (28, 56):
    for rows in range(1, 3200):
        piece = rows_a_piece(rows, most)
        for height in (TILE_ROWS, PAIR_ROWS):
            end = (piece + TAIL_ROWS - 1) // height * height
            end += max(0, piece - end + TAIL_ROWS - 1) // TAIL_ROWS * TAIL_ROWS
            if piece < rows and end != piece:
                print(rows, most, piece, height)
"""


def linear(features: int, row_scale: float | None = None) -> BinaryLinear:
    """One output; its scale 3, bias 5, slope 0.25."""
    scale, bias, slope = (np.array([value], np.float32) for value in (3, 5, 0.25))
    rows = None if row_scale is None else np.array([row_scale], np.float32)
    planes = pack(np.ones((1, features), bool))
    return BinaryLinear(np.zeros(features, np.float32), planes, Activation(scale, bias, slope, rows))


@pytest.mark.parametrize("features", [1, 2, 7, 8, 31, 32, 33])
def test_half_dots_give_every_dot_its_value(features: int) -> None:
    """A dot of K signs takes K + 1 values: all of them."""
    scale, bias = half_affine(linear(features))
    for differing in range(features + 1):
        dot, half = features - 2 * differing, differing + counter_start(features)
        assert scale * half + bias == 3 * dot + 5
        rescale, offset = prescale(linear(features, 2.0), natural(1)).reshape(2, LANES)[:, 0]
        assert rescale * half + offset == 2 * dot


def test_without_layer_norm_nothing_is_scaled_before_it() -> None:
    assert prescale(linear(8), natural(1)).size == 0


def test_kernels_get_the_slope_less_one_and_zeros_for_padding() -> None:
    scale, bias, slope = kernel_affine(linear(8), natural(1), more=np.array([2.0]))
    assert (scale[0], bias[0], slope[0]) == (-6, 7, -0.75)
    for vector in (scale, bias, slope):
        assert vector.shape == (LANES,)
        assert not vector[1:].any()


@given(st.integers(1, 5000), st.sampled_from([28, 56]))
def test_pieces_are_whole_tiles_and_cover_the_rows(rows: int, most: int) -> None:
    height = rows_a_piece(rows, most)
    count = pieces(rows, height)
    assert height % TILE_ROWS == 0
    assert height <= most
    assert (count - 1) * height < rows <= count * height


@pytest.mark.parametrize(
    ("cpu", "features"),
    [("nehalem", "+sse4.2"), ("haswell", "+avx2,+fma"), ("znver4", "+avx2,+fma,+avx512f"), ("cortex-a72", "")],
)
def test_no_tile_goes_beyond_its_piece(cpu: str, features: str) -> None:
    """The row behind a piece is another's, which another thread may have written already."""
    done = subprocess.run(
        [sys.executable, "-c", PIECES, "arm" if cpu.startswith("cortex") else "x86"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_lanes_that_hold_a_feature_are_told_once() -> None:
    b = Builder()
    assert valid_lanes(b, 20) == valid_lanes(b, 20)
    assert valid_lanes(b, 21) != valid_lanes(b, 20)
