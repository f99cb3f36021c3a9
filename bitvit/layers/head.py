"""Head: norm, mean over the tokens or another pooling, classifier (SPEC 7.2, 7.9)."""

from dataclasses import dataclass
from typing import Any

from bitvit import schema
from bitvit.kernels import catalog
from bitvit.kernels.target import LANES
from bitvit.layers.common import interleaved, pieces
from bitvit.layers.norm import Source, normalized
from bitvit.panels import float_panels, natural, padded, take
from bitvit.program import Builder, Map, Region


@dataclass(frozen=True, eq=False, repr=False)
class Head(schema.Head):
    """Emits the pooling of the tokens and, if there is one, the classifier."""

    name: str
    layer_norm: bool
    top_tokens: int

    def emit(self, b: Builder, x: Map) -> tuple[Region, int]:
        """Returns the region of the output and its length."""
        # A batch norm is affine, so it may follow the pooling, whose weights add up to 1. Folding it into the
        # classifier as well would let large channel means cancel there.
        source = normalized(b, x, self.norm, self.name, catalog.pool.kind, layer_norm=self.layer_norm)
        order, piece_width = natural(x.channels), 4 * LANES
        pooled = b.state("pooled", x.width)
        arguments: dict[str, Any] = {}
        if weights := self._emit_weights(b, x, source):
            arguments["weights"] = weights
        b.step(
            catalog.weighted_pool if weights else catalog.pool,
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
            **arguments,
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

    def _emit_weights(self, b: Builder, x: Map, source: Source) -> Region | None:
        """What the tokens count by; None if all count the same."""
        if self.pooling is None and not self.top_tokens:
            return None
        order = natural(x.channels)
        weights = b.state("token_weights", padded(x.rows))
        b.step(
            catalog.weigh_top if self.pooling is None else catalog.weigh_attention,
            self.name,
            1,
            moved=x.rows * x.width + x.rows,
            rows=x.rows,
            top=self.top_tokens,
            width=x.width,
            stride=x.stride,
            source=source.region,
            weights=weights,
            affine=b.const(interleaved(source.norm, order) if self.pooling is None else take(self.pooling, order)),
            scores=b.scratch("token_scores", x.rows),
            sums=b.scratch("sums", catalog.SUM_LANES),
        )
        return weights
