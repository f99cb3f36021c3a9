"""Windowed binary attention with merged tokens (SPEC 7.4), in the four steps of kernels/attention.py."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit import schema
from bitvit.kernels import catalog
from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.target import LANES, TAIL_ROWS, TILE_ROWS
from bitvit.layers.common import (
    NEVER,
    Vector,
    counter_start,
    interleaved,
    kernel_affine,
    pieces,
    prescale,
    product_units,
    rows_a_piece,
    slope_less_one,
    valid_lanes,
    weight_panels,
)
from bitvit.layers.norm import normalized
from bitvit.layers.quantizers import Quantizer, quantizer_of
from bitvit.panels import interleave, lane_words, natural, padded, pair_units, take
from bitvit.program import Builder, Map, Region

FEW = 9  # merged tokens, from which hardly any two of as many pixels are at the same distance
PIXEL_ROWS = 14  # of a piece, where windows have one pixel; what a head's pieces have in common each does for itself


@dataclass(frozen=True, eq=False, repr=False)
class Windows:
    """How attention sees a map: the tokens of each window, then the merged tokens, one for each window."""

    map: Map
    size: int
    """Pixels of a window's side."""

    @property
    def count(self) -> int:
        """Windows, and merged tokens."""
        return (self.map.side // self.size) ** 2

    @property
    def pixels(self) -> int:
        """Pixels of a window."""
        return self.size**2

    @property
    def tokens(self) -> int:
        """Pixels of the map and merged tokens."""
        return self.map.rows + self.count

    @property
    def plane(self) -> int:
        """Tokens of a word plane of signs: whole tiles."""
        return padded(self.tokens, TILE_ROWS)

    @property
    def keys(self) -> int:
        """Tokens that a token attends to: its window's pixels and all merged tokens."""
        return self.pixels + self.count

    @property
    def rows_padded(self) -> int:
        """Rows that a window and head computes: its keys' number in whole tiles, of any height."""
        return tiled(self.keys)

    @property
    def words(self) -> int:
        """Words of a token's signs."""
        return lane_words(self.map.width)


@dataclass(frozen=True, eq=False, repr=False)
class Buffers:
    """What the four steps hand on: state regions."""

    signs: Region  # [query, key, value][words][plane]
    shortcut: Region  # float32 [tokens][stride], the sum of the real query, key and value
    context_rows: int
    context: Region  # float32 [windows][context_rows][stride]
    coarse: Region  # float32 [merged][width]

    @classmethod
    def of(cls, b: Builder, windows: Windows, context_rows: int) -> "Buffers":
        """context_rows: of a window, that its context keeps; 1 if attend coarsens, which writes no pad lanes."""
        x = windows.map
        coarse = f"coarse.{x.channels}" if context_rows == 1 else "coarse"
        return cls(
            context_rows=context_rows,
            signs=b.state(f"signs.{x.width}", 3 * windows.words * windows.plane),
            shortcut=b.state("shortcut", windows.plane * x.stride),
            context=b.state("context", windows.count * context_rows * x.stride),
            coarse=b.state(coarse, windows.count * x.width),
        )


@dataclass(frozen=True, eq=False, repr=False)
class Attention(schema.Attention):
    """Emits project, attend, coarsen and output; with windows of one pixel and no layer norms, attend coarsens."""

    name: str
    num_heads: int
    window: int
    padding: int

    def emit(self, b: Builder, x: Map) -> Map:
        windows = Windows(x, self.window)
        pixels = self.window == 1 and windows.count > FEW
        buffers = Buffers.of(b, windows, context_rows=1 if pixels and not self.layer_norm else windows.rows_padded)
        self._emit_project(b, windows, buffers)
        if pixels:
            self._emit_attend_pixels(b, windows, buffers)
        else:
            self._emit_attend(b, windows, buffers)
        if self.layer_norm or not pixels:
            self._emit_coarsen(b, windows, buffers)
        return self._emit_output(b, windows, buffers)

    @property
    def layer_norm(self) -> bool:
        return self.output.affine.row_scale is not None

    def _emit_project(self, b: Builder, windows: Windows, buffers: Buffers) -> None:
        x, rows, words = windows.map, windows.tokens, windows.words
        kernel = catalog.project_ln if self.layer_norm else catalog.project
        source = normalized(b, x, self.norm, self.name, kernel.kind, layer_norm=self.layer_norm)
        order, piece_rows = natural(x.channels), rows_a_piece(rows, 28)
        share = self.max_share.astype(np.float64)
        layers = (self.query, self.key, self.value)
        affines = [
            interleave(*kernel_affine(layer, order), take(layer.out_threshold, order, NEVER)).reshape(-1)
            for layer in layers
        ]
        panels = [weight_panels(layer, order, natural(x.channels, LANE_BITS)) for layer in layers]
        b.step(
            kernel,
            self.name,
            pieces(rows, piece_rows),
            # signs of three, the norm's values as the shortcut
            moved=(x.rows + rows) * x.channels + 3 * words * rows,
            rows=rows,
            piece_rows=piece_rows,
            side=x.side,
            window=self.window,
            padding=self.padding,
            channels=x.channels,
            width=x.width,
            stride=x.stride,
            words=words,
            start=counter_start(x.channels),
            plane=windows.plane,
            source=source.region,
            signs=buffers.signs,
            shortcut=buffers.shortcut,
            pixels=_shared_pixels(b, windows),
            norm=b.const(
                interleave(
                    take(source.norm.scale, order),
                    take(source.norm.bias, order),
                    take(share, order),
                    take((1 - share) / windows.pixels, order),
                )
            ),
            token_norm=b.const(interleaved(self.token_norm, order)),
            thresholds=b.const(interleave(*(take(layer.threshold, order, NEVER) for layer in layers))),
            panels=b.const(np.concatenate(panels)),
            panels_part=panels[0].size,
            affine=b.const(np.concatenate(affines)),
            prescale=b.const(np.concatenate([prescale(layer, order).reshape(-1) for layer in layers])),
            valid=valid_lanes(b, x.channels),
            tokens=b.scratch("tokens", piece_rows * x.stride),
            bits=b.scratch(f"project.bits.{x.width}", 3 * piece_rows * words),
            pairs=b.scratch("pairs", pair_units(piece_rows, words)),
            z=b.scratch("z", 3 * product_units(piece_rows, x.width)),
            z_part=product_units(piece_rows, x.width),
        )

    def _emit_attend(self, b: Builder, windows: Windows, buffers: Buffers) -> None:
        x, quantizer = windows.map, self._quantizer(windows)
        keys_padded = padded(windows.keys)
        b.step(
            quantizer.kernel,
            self.name,
            windows.count * self.num_heads,
            moved=3 * windows.words * windows.tokens + windows.count * windows.keys * x.channels,
            window_tokens=windows.pixels,
            windows=windows.count,
            head_bits=b.scratch("head_bits", 3 * lane_words(self._head_dim(windows)) * keys_padded + LANES),
            scores=b.scratch("scores", windows.rows_padded * keys_padded),
            **self._attend_fields(b, windows, buffers, windows.rows_padded),
        )

    def _emit_attend_pixels(self, b: Builder, windows: Windows, buffers: Buffers) -> None:
        x, merged, head_dim = windows.map, windows.count, self._head_dim(windows)
        keys_padded, key_words = padded(windows.keys), lane_words(head_dim)
        piece_rows = min(merged, PIXEL_ROWS)
        queries_padded, pixels_padded = padded(piece_rows), padded(merged)
        rows_padded = tiled(piece_rows + min(merged, head_dim + 1))
        b.step(
            self._quantizer(windows).pixels_kernel[self.layer_norm],
            self.name,
            pieces(merged, piece_rows) * self.num_heads,
            # signs, context of the pixels and of the merged tokens, or their shortcut and mean
            moved=3 * windows.words * windows.tokens
            + (merged + (merged**2 if self.layer_norm else 2 * merged)) * x.channels,
            piece_rows=piece_rows,
            queries_padded=queries_padded,
            pixels_padded=pixels_padded,
            context_rows=buffers.context_rows,
            shortcut=buffers.shortcut,
            coarse=buffers.coarse,
            affine=b.const(self._context_planes(x)),
            sign_places=b.shared("sign places", lambda: np.uint32(1 << 31) >> np.arange(LANES, dtype=np.uint32)),
            queries=b.scratch("queries", 2 * key_words * queries_padded),
            keys=b.scratch("keys", key_words * keys_padded + LANES),
            merged_values=b.scratch("merged_values", key_words * keys_padded + LANES),
            pixel_keys=b.scratch("pixel_keys", key_words * pixels_padded),
            pixel_values=b.scratch("pixel_values", key_words * pixels_padded),
            pixel_signs=b.scratch("pixel_signs", pixels_padded * padded(head_dim)),
            scores=b.scratch("scores", tiled(piece_rows) * keys_padded),
            pixel_scores=b.scratch("pixel_scores", tiled(piece_rows) * pixels_padded),
            slots=b.scratch("slots", padded(head_dim + 1)),
            row_scores=b.scratch("row_scores", rows_padded * keys_padded),
            values=b.scratch("values", 2 * rows_padded * LANES),
            **self._attend_fields(b, windows, buffers, rows_padded),
        )

    def _head_dim(self, windows: Windows) -> int:
        return windows.map.channels // self.num_heads

    def _quantizer(self, windows: Windows) -> Quantizer:
        return quantizer_of(self.quantizer, self._head_dim(windows))

    def _attend_fields(self, b: Builder, windows: Windows, buffers: Buffers, rows: int) -> dict[str, Any]:
        """What both records of kernels that attend have. rows: of planes."""
        x, head_dim, quantizer = windows.map, self._head_dim(windows), self._quantizer(windows)
        planes, dim_padded, token_words = quantizer.planes, padded(head_dim), lane_words(windows.keys)
        return {
            "heads": self.num_heads,
            "head_dim": head_dim,
            "merged": windows.count,
            "width": x.width,
            "stride": x.stride,
            "row_words": windows.words,
            "plane": windows.plane,
            "planes": planes,
            "keys_padded": padded(windows.keys),
            "key_words": lane_words(head_dim),
            "token_words": token_words,
            "dim_padded": dim_padded,
            "rows_padded": rows,
            "signs": buffers.signs,
            "context": buffers.context,
            "quantizer": b.const(quantizer.table),
            "keys_table": b.shared(("keys", windows.keys), lambda: _keys_table(windows.keys)),
            "transposed": b.scratch("transposed", token_words * dim_padded),
            "plane_words": b.scratch(f"plane_words.{windows.keys}", planes * rows * token_words),
            "counts": b.scratch("counts", planes * rows),
            "weights": b.scratch("weights", LANES),
        }

    def _context_parameters(self, order: NDArray[np.int64]) -> tuple[Vector, Vector, Vector]:
        """Scale, bias and slope - 1 of what becomes of the context."""
        slope = slope_less_one(self.context.slope, order)
        return take(self.context.scale, order), take(self.context.bias, order), slope

    def _context_planes(self, x: Map) -> Vector:
        """[scale, bias, slope - 1][width and LANES more]: a head's channels may begin at any."""
        return np.pad(np.stack(self._context_parameters(natural(x.channels))), ((0, 0), (0, LANES)))

    def _context_affine(self, order: NDArray[np.int64]) -> Vector:
        return interleave(*self._context_parameters(order))

    def _emit_coarsen(self, b: Builder, windows: Windows, buffers: Buffers) -> None:
        x, merged = windows.map, windows.count
        piece_rows = max(1, merged // 16)
        b.step(
            catalog.coarsen_ln if self.layer_norm else catalog.coarsen,
            self.name,
            pieces(merged, piece_rows),
            # each merged token of every window's context and of the shortcut, and its mean
            moved=(windows.count + 2) * merged * x.channels,
            merged=merged,
            piece_rows=piece_rows,
            windows=windows.count,
            window_tokens=windows.pixels,
            rows_padded=buffers.context_rows,
            width=x.width,
            stride=x.stride,
            channels=x.channels,
            context=buffers.context,
            shortcut=buffers.shortcut,
            coarse=buffers.coarse,
            affine=b.const(self._context_affine(natural(x.channels))),
            valid=valid_lanes(b, x.channels),
        )

    def _emit_output(self, b: Builder, windows: Windows, buffers: Buffers) -> Map:
        x = windows.map
        out = x  # in place: a pixel's residual is read where its sum is written
        order, piece_rows = natural(x.channels), rows_a_piece(x.rows, 28)
        b.step(
            catalog.output_ln if self.layer_norm else catalog.output,
            self.name,
            pieces(x.rows, piece_rows),
            moved=4 * x.rows * x.channels,  # stream, context, shortcut, stream
            rows=x.rows,
            piece_rows=piece_rows,
            window_tokens=windows.pixels,
            rows_padded=buffers.context_rows,
            channels=x.channels,
            width=x.width,
            stride=x.stride,
            words=windows.words,
            start=counter_start(x.channels),
            source=x.region,
            out=out.region,
            context=buffers.context,
            shortcut=buffers.shortcut,
            coarse=buffers.coarse,
            pixels=_shared_pixels(b, windows),
            context_affine=b.const(self._context_affine(order)),
            fine=b.const(take(self.fine_share, order)),
            thresholds=b.const(take(self.output.threshold, order, NEVER)),
            panels=b.const(weight_panels(self.output, order, natural(x.channels, LANE_BITS))),
            affine=b.const(
                interleave(*kernel_affine(self.output, order), take(self.out.scale, order), take(self.out.bias, order))
            ),
            prescale=b.const(prescale(self.output, order)),
            valid=valid_lanes(b, x.channels),
            mixed=b.scratch("tokens", piece_rows * x.stride),
            bits=b.scratch(f"output.bits.{x.width}", piece_rows * windows.words),
            pairs=b.scratch("pairs", pair_units(piece_rows, windows.words)),
            z=b.scratch("z", product_units(piece_rows, x.width)),
        )
        return out


def tiled(rows: int) -> int:
    """So many rows, and room for one more: the last tile may have one too many."""
    return padded(rows + TAIL_ROWS - 1, TILE_ROWS)


# -------------------------------------------------------------------------------------------------------------- tables
def _shared_pixels(b: Builder, windows: Windows) -> int:
    x = windows.map
    return b.shared(("pixels", x.side, windows.size, x.stride), lambda: _window_pixels(x.side, windows.size, x.stride))


def _window_pixels(side: int, window: int, stride: int) -> NDArray[np.int32]:
    """Element offset of token r's pixel: windows row-major, pixels row-major inside each (SPEC 7.4.1).

    Up to whole tiles, spare rows of the map follow.
    """
    n = side // window
    pixels = np.arange(side**2).reshape(n, window, n, window).transpose(0, 2, 1, 3).reshape(-1)
    spare = np.arange(side**2, padded(side**2, TILE_ROWS))
    offsets: NDArray[np.int32] = (stride * np.concatenate([pixels, spare])).astype(np.int32)
    return offsets


def _keys_table(keys: int) -> NDArray[np.uint32]:
    """[penalty (int32)][present][floor], see kernels/quantizers.py."""
    real = np.arange(padded(keys)) < keys
    penalty = np.where(real, 0, 1 << 20).astype(np.uint32)
    present = real.astype(np.float32).view(np.uint32)
    floor = np.where(real, 0, -1e30).astype(np.float32).view(np.uint32)
    return np.concatenate([penalty, present, floor])
