"""Where did the network look? Attention rollout over the windowed blocks of stages 3 and 4.

What is computed, for one image, from the quantised attention weights that the kernels themselves used:

1. A block's attention: of each window the weights A of its pixels and merged tokens, averaged over the heads, with 0
   for negative ones (which only the gsb quantizer has), each row scaled to the sum 1. A row that is 0 throughout
   attends to its own token.
2. Merged tokens stand for pixels: as a key, merged token m is all pixels of its cell, in equal shares; as a query, its
   result is the mean over all windows, and is pasted over the pixels of window m (the coarse map, SPEC 7.4.8). A pixel
   takes the share f from its own row and 1 - f from the coarse map; f is the mean over channels of the block's `parm`,
   limited to 0 … 1. So the block's attention is a matrix T from pixels to pixels with rows of sum 1.
3. The block is ½·identity + ½·T: its residual connection and its attention count the same (Abnar and Zuidema,
   "Quantifying Attention Flow in Transformers", 2020, there for ordinary transformers).
4. The head averages all pixels of stage 4, so a pixel's importance is its column's mean in the product of the blocks.
   It is carried back from block to block; each pixel of stage 4 is four pixels of stage 3, with a quarter for each.

5. Even attention does not give an even map: the last window//2 rows and columns of a map belong to no merged token's
   cell, so the right and lower edges always get less, and the upper left corner more. So the importance is divided by
   what rows that attend to all tokens alike would give, and scaled to the sum 1.

The result has stage 3's resolution: a cell is 16 x 16 pixels of the network's input.

What it does not tell: which class the attention spoke for; what the values that were attended to contained; what the
MLPs and shift residuals did (which mix neighbours). And stages 1 and 2, which are convolutions, have already gathered
into each cell an area far wider than its 16 pixels. Attention is a trace of the computation, not a cause of the answer.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitvit.files import write_file
from bitvit.predictions import Prediction
from bitvit.preprocess import Preprocessing

if TYPE_CHECKING:
    from bitvit.runtime.trace import BlockAttention

__all__ = ["Explanation", "enlarge", "importance", "rollout"]

CELL = 16  # pixels of a side of stage 3's cells: a stem of 4, and two downsamplings
SMALLEST, LARGEST = 448, 768  # pixels of a side of what the network sees, as it is drawn
MARGIN = 0.25  # of that side: what is shown, at most, of that which was cropped off
CAPTION = 3  # predictions below a drawing
CROWDED = 0.2  # place of the mean on the scale, below which it is written where "none" would be
FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "arial.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
TEXT, GAP, BAR = 16, 8, 14  # pixels: height of its letters, space around them, height of the scale of colours
# Dark to bright, as matplotlib's inferno; between them colours are mixed.
COLOURS = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)])


@dataclass(frozen=True, eq=False)
class Explanation:
    """A heat map over an image, and what the image was taken for."""

    heat: NDArray[np.float32]
    """[S, S] importance of each pixel of the network's input, at least 0 and in sum 1; smooth between the cells."""
    grid: NDArray[np.float32]
    """The same before it was enlarged: [cells, cells], in sum 1; a cell is 16 x 16 pixels."""
    predictions: list[Prediction]
    image: Image.Image
    """The image as it was decoded."""
    preprocessing: Preprocessing

    def __repr__(self) -> str:
        best = [f"{answer['label']!r} ({answer['score']:.1%})" for answer in self.predictions[:1]]
        facts = [*best, f"{len(self.heat)} x {len(self.heat)} pixels", f"contrast {self.contrast:.1f}"]
        return f"<bitvit.explain.Explanation {', '.join(facts)}>"

    @property
    def contrast(self) -> float:
        """The greatest importance of a cell over the mean one; 1 for even attention, which explains nothing."""
        return float(self.grid.max() / self.grid.mean())

    @property
    def _top(self) -> float:
        """The importance of the brightest colour."""
        return max(2 / self.heat.size, float(self.heat.max()))

    def overlay(self, strength: float = 0.6) -> Image.Image:
        """The image with the heat map over what the network saw of it, and some of what was cropped off, in grey.

        The colours go from black, for no importance, to the brightest yellow, for twice the mean, or for the greatest
        importance if that is more. So a map in the red of the scale's middle says that the attention was even.
        strength: of the colours, 0 … 1; ValueError for another. What the network saw is drawn with 448 to 768 pixels a
        side, out of the image's own pixels.
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength}, expected a number from 0 to 1")
        pad, crop = self.preprocessing.pad, self.preprocessing.crop
        resized = self.preprocessing.resized(self.image)
        left, top = self.preprocessing.crop_corner(resized)
        margin = MARGIN * crop
        region = (  # in pixels of the resized image
            max(0.0, left - margin),
            max(0.0, top - margin),
            min(float(resized.width), left + crop + margin),
            min(float(resized.height), top + crop + margin),
        )
        across, down = self.image.width / resized.width, self.image.height / resized.height
        side, resample = _drawn_side(crop * min(across, down))
        scale = side / crop
        size = (round((region[2] - region[0]) * scale), round((region[3] - region[1]) * scale))
        box = (region[0] * across, region[1] * down, region[2] * across, region[3] * down)
        base = np.asarray(self.image.resize(size, resample, box)).astype(np.float32)
        seen = Image.fromarray(self.heat[pad : pad + crop, pad : pad + crop] / np.float32(self._top))
        colours = _colours(np.asarray(seen.resize((side, side), Image.Resampling.BILINEAR)))
        x, y = round((left - region[0]) * scale), round((top - region[1]) * scale)
        place = (slice(y, y + side), slice(x, x + side))
        out = np.repeat(base.mean(axis=2, keepdims=True), 3, axis=2) * 0.5
        out[place] = (1 - strength) * base[place] + strength * colours[: len(base) - y, : base.shape[1] - x]
        return Image.fromarray(np.clip(np.rint(out), 0, 255).astype(np.uint8))

    def drawing(self, strength: float = 0.6) -> Image.Image:
        """The overlay, and below it the best predictions and the scale of colours."""
        from PIL import ImageDraw, ImageFont  # here, as few programs draw

        over, font = self.overlay(strength), ImageFont.load_default(TEXT)
        lines = [_line(best, over.width - 2 * GAP) for best in self.predictions[:CAPTION]]
        row, bar = TEXT + GAP, over.height + GAP + len(lines) * (TEXT + GAP)
        drawn = Image.new("RGB", (over.width, bar + BAR + 2 * row + GAP), "white")
        drawn.paste(over)
        pen = ImageDraw.Draw(drawn)
        for number, (line, its_font) in enumerate(lines):
            pen.text((GAP, over.height + GAP + number * row), line, "black", its_font)
        width = over.width - 2 * GAP
        ramp = np.tile(_colours(np.linspace(0, 1, width, dtype=np.float32)), (BAR, 1, 1))
        drawn.paste(Image.fromarray(np.rint(ramp).astype(np.uint8)), (GAP, bar))
        mean = 1 / (self._top * self.heat.size)  # its place on the scale
        ticks = [(mean, "mean", "ma"), (1.0, f"{1 / mean:.1f} x the mean", "ra")]
        if mean > CROWDED:
            ticks.append((0.0, "none", "la"))
        for place, text, anchor in ticks:
            pen.line([(GAP + place * (width - 1), bar + BAR), (GAP + place * (width - 1), bar + BAR + 4)], "black")
            pen.text((GAP + place * width, bar + BAR + 4), text, "black", font, anchor)
        pen.text((over.width / 2, bar + BAR + row), "where the network looked (attention rollout)", "black", font, "ma")
        return drawn

    def save(self, path: str | os.PathLike[str], strength: float = 0.6) -> None:
        """Write the drawing as a PNG. Raises BitvitError if it cannot be written."""
        drawn = self.drawing(strength)
        write_file(path, lambda file: drawn.save(file, "PNG"))


def _drawn_side(own: float) -> tuple[int, Image.Resampling]:
    """The side to draw what the network saw with, which has `own` pixels, and how to get there."""
    if own >= SMALLEST:
        return round(min(own, LARGEST)), Image.Resampling.LANCZOS
    times = math.ceil(SMALLEST / own)  # a whole number, so that each pixel becomes a square
    return round(own * times), Image.Resampling.NEAREST


def _line(best: Prediction, width: float) -> tuple[str, Any]:
    """A class and its probability, no wider than that, and a font for it; by its number, if none has its letters."""
    name, share = best["label"], f"  {100 * best['score']:.1f} %"
    font = next((font for font in _fonts() if _has(font, name)), None)
    if font is None:
        name, font = f"class {best['index']}", next(_fonts())
    whole, kept = name, len(name)
    while kept and font.getlength(name + share) > width:
        kept -= 1  # from the middle, since names that are alike often differ at their ends
        name = f"{whole[: kept - kept // 2]}...{whole[len(whole) - kept // 2 :]}"
    return name + share, font


def _fonts() -> Iterator[Any]:
    """Pillow's own font, which has little more than ASCII, and what the system has of FONTS."""
    from PIL import ImageFont

    yield ImageFont.load_default(TEXT)
    for file in FONTS:
        with contextlib.suppress(OSError):
            yield ImageFont.truetype(file, TEXT)


def _has(font: Any, text: str) -> bool:
    """Whether a font has all letters: those that it lacks look like a code that never is one."""
    nothing = bytes(font.getmask("\U0010ffff"))
    return all(letter.isprintable() and bytes(font.getmask(letter)) != nothing for letter in set(text))


def _colours(relative: NDArray[np.float32]) -> NDArray[np.float32]:
    """0 … 1 -> colours, float32 [..., 3]."""
    places = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(relative, places, COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def enlarge(grid: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """[cells, cells] -> [size, size] of the same sum; what is beyond the last whole cell is 0."""
    side = len(grid) * CELL
    large = np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BILINEAR))[:size, :size]
    heat = np.zeros((size, size), np.float32)
    heat[: len(large), : len(large)] = large
    total: NDArray[np.float32] = heat / heat.sum(dtype=np.float64)
    return total.astype(np.float32)


# ------------------------------------------------------------------------------------------------------------ rollout
def importance(blocks: "Sequence[BlockAttention]") -> NDArray[np.float32]:
    """What the network chose to attend to (steps 1 to 5): float32 [side, side] of the first block's map, in sum 1.

    blocks: all ViT blocks in order.
    """
    found, even = rollout(blocks), rollout([_attending_evenly(block) for block in blocks])
    chosen = np.divide(found, even, out=np.zeros_like(found), where=even > 0)
    relative: NDArray[np.float32] = chosen / chosen.sum()
    return relative


def _attending_evenly(block: "BlockAttention") -> "BlockAttention":
    """The block if each token that attends to any attended to all alike."""
    attends = np.maximum(block.weights.mean(axis=1, keepdims=True), 0).sum(axis=3, keepdims=True) > 0
    alike = np.broadcast_to(attends, (len(attends), 1, *block.weights.shape[2:])).astype(np.float32)
    return dataclasses.replace(block, weights=alike)


def rollout(blocks: "Sequence[BlockAttention]") -> NDArray[np.float32]:
    """Where all attention leads (steps 1 to 4): float32 [side, side] of the first block's map, in sum 1."""
    side = blocks[-1].side
    share = np.full((side, side), 1 / side**2)
    for block in reversed(blocks):
        if block.side != len(share):
            share = _upsample(share, block.side)
        share = (share + _back_through(block, share)) / 2
    return share.astype(np.float32)


def _back_through(block: "BlockAttention", share: NDArray[np.float64]) -> NDArray[np.float64]:
    """T' · share: from the pixels behind a block's attention, [side, side], to those before it."""
    window, cells = block.window, block.side // block.window
    own = window**2
    weights = _normalized(block.weights)
    fine = min(max(block.fine_share, 0.0), 1.0)
    tiles = share.reshape(cells, window, cells, window).transpose(0, 2, 1, 3).reshape(cells**2, own)
    coarse = (1 - fine) * tiles.sum(axis=1) / cells**2  # of each merged token, in each window
    queries = np.concatenate([fine * tiles, np.tile(coarse, (cells**2, 1))], axis=1)
    keys = np.einsum("wq,wqk->wk", queries, weights)
    pixels = keys[:, :own].reshape(cells, cells, window, window).transpose(0, 2, 1, 3).reshape(block.side, block.side)
    merged = keys[:, own:].sum(axis=0) @ _cells(block.side, window)
    spread: NDArray[np.float64] = pixels + merged.reshape(block.side, block.side)
    return spread


def _normalized(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """[windows, heads, N, N] -> the heads' mean [windows, N, N], at least 0, with rows of sum 1."""
    mean = np.maximum(weights.astype(np.float64).mean(axis=1), 0)
    sums = mean.sum(axis=2, keepdims=True)
    shares: NDArray[np.float64] = np.where(sums > 0, mean / np.where(sums > 0, sums, 1), np.eye(mean.shape[1]))
    return shares


@functools.cache
def _cells(side: int, window: int) -> NDArray[np.float64]:
    """[merged tokens, pixels] share of each pixel in a merged token's cell (SPEC 7.4.2); read-only."""
    cells = side // window
    axis = np.zeros((cells, side))
    for i in range(cells):
        first = window * i - window // 2
        axis[i, max(first, 0) : first + window] = 1
    axis /= axis.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.einsum("iy,jx->ijyx", axis, axis).reshape(cells**2, side**2)
    shares.setflags(write=False)
    return shares


def _upsample(share: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Before a downsampling: a quarter for each of a pixel's four; an odd last row or column was dropped there."""
    before = np.zeros((side, side))
    half = len(share)
    before[: 2 * half, : 2 * half] = np.repeat(np.repeat(share, 2, axis=0), 2, axis=1) / 4
    return before
