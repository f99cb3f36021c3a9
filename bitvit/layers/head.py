"""Head: norm, mean over the tokens, classifier (SPEC 7.2)."""

from dataclasses import dataclass

from bitvit import schema
from bitvit.kernels import catalog
from bitvit.kernels.target import LANES
from bitvit.layers.common import interleaved, pieces
from bitvit.layers.norm import normalized
from bitvit.panels import float_panels, natural, padded, take
from bitvit.program import Builder, Map, Region


@dataclass(frozen=True, eq=False, repr=False)
class Head(schema.Head):
    """Emits the mean over the tokens and, if there is one, the classifier."""

    name: str
    layer_norm: bool

    def emit(self, b: Builder, x: Map) -> tuple[Region, int]:
        """Returns the region of the output and its length."""
        # A batch norm is affine, so it may follow the mean over the tokens. Folding it into the classifier as well
        # would let large channel means cancel there.
        source = normalized(b, x, self.norm, self.name, catalog.pool.kind, layer_norm=self.layer_norm)
        order, piece_width = natural(x.channels), 4 * LANES
        pooled = b.state("pooled", x.width)
        b.step(
            catalog.pool,
            self.name,
            pieces(x.width, piece_width),
            moved=(x.rows + 1) * x.width,
            rows=x.rows,
            piece_width=piece_width,
            width=x.width,
            stride=x.stride,
            source=source.region,
            affine=b.const(interleaved(source.norm, order)),
            out=pooled,
        )
        if self.weight is None or self.bias is None:
            return pooled, x.channels
        classes, columns = len(self.weight), catalog.CLASSIFY_COLUMNS
        logits = b.state("logits", padded(classes, columns))
        b.step(
            catalog.classify,
            self.name,
            pieces(classes, columns),
            moved=x.channels + padded(classes, columns),
            depth=x.channels,
            source=pooled,
            panels=b.const(float_panels(self.weight, order[: x.channels], columns)),
            bias=b.const(take(self.bias, natural(classes, columns))),
            out=logits,
        )
        return logits, classes
