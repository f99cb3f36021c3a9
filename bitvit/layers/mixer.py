"""The token mixer of stages 1 and 2: binary convolutions of three dilations in four groups (SPEC 7.3)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitvit import bits, schema
from bitvit.kernels import catalog
from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.layers.common import counter_start, interleaved, pieces, slope_less_one, valid_lanes
from bitvit.layers.norm import normalized
from bitvit.panels import binary_panels, interleave, lane_words, natural, padded, take
from bitvit.program import Builder, Map
from bitvit.schema import Affine, Convolution


@dataclass(frozen=True, eq=False, repr=False)
class TokenMixer(schema.TokenMixer):
    """Emits two steps: signs in planes, then the convolutions of all three dilations."""

    name: str

    def emit(self, b: Builder, x: Map) -> Map:
        layer_norm = self.shift is not None
        kernel = catalog.mixer_ln if layer_norm else catalog.mixer
        group = x.channels // catalog.GROUPS
        group_words, words = lane_words(group), lane_words(9 * group)
        plane_row = x.side + 2 * catalog.BORDER
        plane = plane_row**2
        planes = b.state(f"planes.{x.side}.{group}", catalog.GROUPS * group_words * plane)
        # the move before the sign is folded into the norm's bias, and nothing else reads this norm
        source = normalized(b, x, self.norm, self.name, kernel.kind, layer_norm=layer_norm)
        sign_units = catalog.GROUPS * group_words
        b.step(
            catalog.mixer_signs,
            self.name,
            pieces(x.side, 4),
            moved=x.rows * (sign_units + x.channels),
            side=x.side,
            piece_rows=4,
            stride=x.stride,
            group=group,
            group_words=group_words,
            plane=plane,
            plane_row=plane_row,
            source=source.region,
            norm=b.const(self._sign_norm(source.norm, group)),
            planes=planes,
        )
        out = x  # in place: a pixel's residual is read where its sum is written, and the signs are in the planes
        taps_row = padded(x.side)
        offsets, entries = _tap_tables(group, plane, plane_row, taps_row)
        piece_rows = max(1, -(-x.side // 28))
        order = natural(x.channels)
        b.step(
            kernel,
            self.name,
            pieces(x.side, piece_rows),
            moved=x.rows * (sign_units + 2 * x.channels),
            side=x.side,
            piece_rows=piece_rows,
            channels=x.channels,
            width=x.width,
            stride=x.stride,
            group=group,
            words=words,
            start=counter_start(9 * group),
            packed=int(group % LANE_BITS != 0),
            taps_row=taps_row,
            plane_row=plane_row,
            planes=planes,
            residual=x.region,
            out=out.region,
            offsets=b.shared(("offsets", x.side, group), lambda: offsets),
            entries=b.shared(("entries", x.side, group), lambda: entries),
            entry_count=len(entries),
            panels=b.const(self._panels(group)),
            affine=b.const(self._affine(group)),
            biases=b.const(self._biases(group)),
            classes=b.shared(("classes", x.side), lambda: _tap_classes(x.side)),
            shift=0 if self.shift is None else b.const(take(self.shift, order)),
            out_affine=b.const(interleaved(self.out, order)),
            valid=valid_lanes(b, x.channels),
            taps=b.scratch("taps", 12 * words * taps_row),
            mixed=b.scratch("mixed", padded(x.side, TILE_ROWS) * (x.width + LANES)),
        )
        return out

    def _sign_norm(self, norm: Affine, group: int) -> NDArray[np.float32]:
        order = np.concatenate(_group_orders(group))
        return interleave(take(norm.scale, order), take(norm.bias, order, fill=-1.0))

    def _output_order(self, group: int) -> list[NDArray[np.int64]]:
        """Output channels of each (group, chunk)."""
        return [order[i : i + LANES] for order in _group_orders(group) for i in range(0, len(order), LANES)]

    def _panels(self, group: int) -> NDArray[np.uint32]:
        columns = natural(9 * group, LANE_BITS)
        signs = [_positive(conv, group) for conv in self.convs]
        parts = [binary_panels(positive, o, columns) for o in self._output_order(group) for positive in signs]
        return np.concatenate(parts)

    def _affine(self, group: int) -> NDArray[np.float32]:
        parts = [
            interleave(take(-2 * c.scale.astype(np.float64), order), slope_less_one(c.slope, order))
            for order in self._output_order(group)
            for c in (conv.affine for conv in self.convs)
        ]
        return np.concatenate(parts)

    def _biases(self, group: int) -> NDArray[np.float32]:
        """[group][chunk][dilation][16 sets of missing taps][LANES]: bias + scale·(correction - 2·(K // 2))."""
        order, missing, biases = np.array(self._output_order(group)), np.array(_missing_taps()), []
        for conv in self.convs:
            ones = _positive(conv, group).reshape(-1, 9, group).sum(axis=2)
            correction = group * (9 - missing.sum(axis=1)) + 2 * ones @ missing.T - 9 * group // 2 * 2
            biases.append(conv.affine.bias[:, None] + conv.affine.scale.astype(np.float64)[:, None] * correction)
        found = np.where((order >= 0)[..., None], np.stack(biases)[:, order], 0)
        ordered: NDArray[np.float32] = found.transpose(1, 0, 3, 2).astype(np.float32)
        return ordered  # found: [dilation][group, chunk][lane][set]


def _positive(conv: Convolution, group: int) -> NDArray[np.bool_]:
    """[C, 9·group], where a weight is +1."""
    return bits.unpack(conv.bits, 9 * group)


def _group_orders(group: int) -> list[NDArray[np.int64]]:
    """For each group its channels, then -1 up to whole vectors."""
    order = natural(group)
    return [np.where(order >= 0, g * group + order, -1) for g in range(catalog.GROUPS)]


def _missing_taps() -> list[NDArray[np.bool_]]:
    """For each of the 16 classes 4·rows + columns (bit 0: the first is missing, bit 1: the last): which of 9 taps."""
    sets = []
    for row in range(4):
        for column in range(4):
            rows = np.array([row & 1, 0, row & 2], bool)
            columns = np.array([column & 1, 0, column & 2], bool)
            sets.append((rows[:, None] | columns).reshape(9))
    return sets


def _tap_classes(side: int) -> NDArray[np.int32]:
    """int32 [dilation][position to TILE_ROWS]: LANES·(1 if the first tap is off the map + 2 if the last is)."""
    position = np.arange(padded(side, TILE_ROWS))
    rows = [LANES * ((position < d) + 2 * (position >= side - d)) for d in catalog.DILATIONS]
    classes = np.stack(rows).astype(np.int32)
    classes[:, side:] = 0
    return classes


def _tap_tables(group: int, plane: int, plane_row: int, taps_row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where word j of (group g, dilation d) is found, int32 [g][d][j], and how it is packed, int32 [entry][8].

    Bit t·group + c of a dot is tap t, channel c. Without packing, word t·group_words + w is plane word w at tap t.
    """
    group_words, words = lane_words(group), lane_words(9 * group)
    offsets, entries = [], []
    for g in range(catalog.GROUPS):
        for d, dilation in enumerate(catalog.DILATIONS):
            first = (g * 3 + d) * words
            found = []
            for t in range(9):
                step = (t // 3 - 1) * dilation * plane_row + (t % 3 - 1) * dilation
                found += [
                    (
                        t * group + w * LANE_BITS,
                        min(LANE_BITS, group - w * LANE_BITS),
                        (g * group_words + w) * plane + step,
                    )
                    for w in range(group_words)
                ]
            if group % LANE_BITS == 0:
                offsets += [at for _, _, at in found]
                continue
            offsets += [(first + j) * taps_row for j in range(words)]
            packing: dict[int, list[tuple[int, int, int]]] = {}
            for bit, length, at in found:
                j, shift = divmod(bit, LANE_BITS)
                packing.setdefault(first + j, []).append((at, shift, 0))
                if shift + length > LANE_BITS:
                    packing.setdefault(first + j + 1, []).append((at, 0, LANE_BITS - shift))
            for word, parts in packing.items():
                twos = parts + parts[-1:] * (len(parts) % 2)  # an odd part out is paired with itself: x | x = x
                entries += [(i == 0, word, *twos[i], *twos[i + 1]) for i in range(0, len(twos), 2)]
    return np.array(offsets, np.int32), np.array(entries, np.int32).reshape(-1, 8)
