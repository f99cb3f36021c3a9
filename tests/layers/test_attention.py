"""How attention sees a map: windows and merged tokens."""

import pytest

from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.target import TILE_ROWS
from bitvit.layers.attention import Buffers, Windows
from bitvit.program import Builder


@pytest.mark.parametrize(("side", "size", "channels"), [(1, 1, 5), (6, 3, 36), (14, 7, 256), (9, 3, 20), (8, 1, 64)])
def test_windows_count_pixels_and_merged_tokens(side: int, size: int, channels: int) -> None:
    b = Builder()
    windows = Windows(b.map(side, channels), size)
    corners = [(y, x) for y in range(0, side, size) for x in range(0, side, size)]
    assert windows.count == len(corners)
    assert windows.pixels == len([(y, x) for y in range(size) for x in range(size)])
    assert windows.tokens == side * side + len(corners)  # every pixel is in one window, every window has a merged token
    assert windows.keys == windows.pixels + len(corners)
    for whole, part in ((windows.plane, windows.tokens), (windows.rows_padded, windows.keys)):
        assert whole % TILE_ROWS == 0
        assert 0 <= whole - part <= TILE_ROWS
    assert (windows.words - 1) * LANE_BITS < windows.map.width <= windows.words * LANE_BITS


def test_buffers_hold_all_tokens() -> None:
    b = Builder()
    windows = Windows(b.map(14, 100), 7)
    buffers = Buffers.of(b, windows, windows.rows_padded)
    x = windows.map
    assert buffers.signs.size >= 3 * windows.words * windows.tokens
    assert buffers.shortcut.size >= windows.tokens * x.stride
    assert buffers.context.size >= windows.count * windows.keys * x.stride
    assert buffers.coarse.size >= windows.count * x.width
    again = Buffers.of(b, windows, windows.rows_padded)
    assert (again.signs, again.context) == (buffers.signs, buffers.context)  # a block's buffers serve the next block
