"""explain: rollout against its definition, the engine's attention against the reference's, and a planted pattern."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import bitvit
from bitvit import explain
from bitvit.errors import BitvitError, ImageError
from bitvit.explain import CELL, Explanation, enlarge, importance, rollout
from bitvit.model import BHViT
from bitvit.modelfile import load_model_file
from bitvit.predictions import Prediction
from bitvit.preprocess import Preprocessing
from bitvit.runtime.trace import BlockAttention, Trace
from bitvit.verify import reference
from tests.support.colours import Colours, patch
from tests.support.golden_data import load_case

Packed = Callable[[str], Path]
RNG = np.random.default_rng(0)


def block(weights: NDArray[Any], side: int, window: int, fine: float = 1.0) -> BlockAttention:
    """A block whose heads all have these weights, [windows, N, N]."""
    return BlockAttention("", side, window, np.asarray(weights, np.float32)[:, None], fine)


def attending(side: int, window: int, key: int, fine: float = 1.0) -> BlockAttention:
    """Every token attends to one token, the same in each window."""
    windows = (side // window) ** 2
    weights = np.zeros((windows, window**2 + windows, window**2 + windows))
    weights[:, :, key] = 2.5
    return block(weights, side, window, fine)


# ------------------------------------------------------------------------------------------------------------- rollout
def by_definition(blocks: list[BlockAttention]) -> NDArray[np.float64]:
    """Steps 1 to 4 of the module's docstring as matrices from pixels to pixels, written out."""
    product: NDArray[np.float64] | None = None
    for b in blocks:
        side, window, n = b.side, b.window, b.side // b.window
        merged = np.zeros((n * n, side, side))
        for my, mx in itertools.product(range(n), repeat=2):
            for y, x in itertools.product(range(side), repeat=2):
                top, left = window * my - window // 2, window * mx - window // 2
                merged[my * n + mx, y, x] = top <= y < top + window and left <= x < left + window
            merged[my * n + mx] /= merged[my * n + mx].sum()
        weights = np.maximum(b.weights.mean(axis=1, dtype=np.float64), 0)
        rows = []  # [window][token] -> what it attends to, as a map of pixels
        for w in range(n * n):
            tokens = np.zeros((window**2 + n * n, side, side))
            for t in range(window**2):
                tokens[t, w // n * window + t // window, w % n * window + t % window] = 1
            tokens[window**2 :] = merged
            sums = weights[w].sum(axis=1)
            rows.append([(row / s) @ tokens.reshape(len(row), -1) if s else tokens[i].reshape(-1)
                         for i, (row, s) in enumerate(zip(weights[w], sums, strict=True))])  # fmt: skip
        attention = np.zeros((side * side, side * side))
        for y, x in itertools.product(range(side), repeat=2):
            w = y // window * n + x // window
            own = rows[w][y % window * window + x % window]
            coarse = np.mean([rows[v][window**2 + w] for v in range(n * n)], axis=0)
            attention[y * side + x] = b.fine_share * own + (1 - b.fine_share) * coarse
        matrix = (np.eye(side * side) + attention) / 2
        if product is not None and len(product) != len(matrix):
            before = round(len(product) ** 0.5)
            pooling = np.zeros((side * side, len(product)))
            for y, x, i, j in itertools.product(range(side), range(side), range(2), range(2)):
                pooling[y * side + x, (2 * y + i) * before + 2 * x + j] = 1 / 4
            product = pooling @ product
        product = matrix if product is None else matrix @ product
    assert product is not None
    side = blocks[0].side
    found: NDArray[np.float64] = product.mean(axis=0).reshape(side, side)
    return found


@pytest.mark.parametrize(
    ("sides", "window", "fine"), [((6, 3), 3, 0.7), ((6, 6), 3, 0.2), ((3, 1), 1, 0.5), ((5,), 5, 1)]
)
def test_rollout_is_what_its_description_says(sides: tuple[int, ...], window: int, fine: float) -> None:
    blocks = []
    for side in sides:
        windows = (side // window) ** 2
        shape = windows, 3, window**2 + windows, window**2 + windows
        weights = RNG.integers(-1, 4, shape).astype(np.float32) * (RNG.random(shape) < 0.4)
        blocks.append(BlockAttention("", side, window, weights, fine))
    found = rollout(blocks)
    assert found.dtype == np.float32
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0
    assert found == pytest.approx(by_definition(blocks), rel=1e-5)


def test_a_pixel_that_all_attend_to() -> None:
    found = rollout([attending(6, 3, key=4)])
    expected = np.full((6, 6), 1 / 72)
    expected[1::3, 1::3] += 1 / 8  # the centres of the four windows
    assert found == pytest.approx(expected)


def test_a_merged_token_that_all_attend_to() -> None:
    found = rollout([attending(6, 3, key=9 + 3)])
    expected = np.full((6, 6), 1 / 72)
    expected[2:5, 2:5] += 1 / 18  # its cell: 3 x 3 pixels, shifted by one against the window
    assert found == pytest.approx(expected)
    found = rollout([attending(6, 3, key=9 + 0)])
    assert found[:2, :2] == pytest.approx(np.full((2, 2), 1 / 72 + 1 / 8))  # what is left of it at the edge


def test_no_attention_changes_nothing() -> None:
    even = np.full((6, 6), 1 / 36)
    assert rollout([block(np.zeros((4, 13, 13)), 6, 3)]) == pytest.approx(even)
    assert rollout([block(-np.ones((4, 13, 13)), 6, 3)]) == pytest.approx(even)


@pytest.mark.parametrize("fine", [-0.5, 1.5])
def test_shares_are_limited(fine: float) -> None:
    limited = rollout([attending(6, 3, key=4, fine=min(max(fine, 0), 1))])
    assert np.array_equal(rollout([attending(6, 3, key=4, fine=fine)]), limited)


def test_a_row_that_the_downsampling_drops_has_no_importance() -> None:
    found = rollout([block(np.zeros((9, 18, 18)), 9, 3), block(np.zeros((16, 17, 17)), 4, 1)])
    assert found[8].sum() == found[:, 8].sum() == 0
    assert found.sum() == pytest.approx(1)


def test_even_attention_is_an_even_map() -> None:
    """Merged tokens see less of the right and lower edges, whatever is attended to: no choice of the network."""
    ones = [np.ones((windows, n, n)) for windows, n in ((4, 13), (1, 10))]
    blocks = [block(ones[0], 6, 3, fine=0.5), block(ones[1], 3, 3, fine=0.4)]
    assert rollout(blocks)[5].max() < 0.85 / 36
    assert importance(blocks) == pytest.approx(np.full((6, 6), 1 / 36))
    assert importance([block(np.zeros((4, 13, 13)), 6, 3)]) == pytest.approx(np.full((6, 6), 1 / 36))


def test_importance_is_relative_to_even_attention() -> None:
    blocks = [attending(6, 3, key=4, fine=0.5)]
    even = rollout([block(np.ones((4, 13, 13)), 6, 3, fine=0.5)])
    found = importance(blocks)
    assert found.sum() == pytest.approx(1)
    assert found * even / (found * even).sum() == pytest.approx(rollout(blocks), rel=1e-5)


# -------------------------------------------------------------------------------------------------------------- engine
@pytest.mark.parametrize("name", ["micro96_somefp", "micro96_gsb", "micro96_ln", "micro160_odd"])
def test_attention_is_the_references(name: str, packed: Packed) -> None:
    case = load_case(name)
    model = bitvit.load(packed(name), threads=1)
    found: dict[str, NDArray[Any]] = {}
    reference.forward(case.state, case.input[:1], **case.geometry, trace=lambda n, array: found.update({n: array}))
    logits, blocks = Trace(model.runner).run_image(case.input[0])
    assert np.array_equal(logits, model(case.input[:1])[0])
    assert len(blocks) == sum(model.config.depths[2:])
    for i, b in enumerate(blocks):
        prefix = f"vit.encoder.layerB.{i}.attention.attention"
        expected = found[f"{prefix}.probs"]
        assert b.weights.shape == expected.shape
        equal = np.isclose(b.weights, expected, rtol=1e-5, atol=1e-7)
        assert equal.mean() > 0.99  # a sign that hangs on the last bits changes what is behind it
        assert b.fine_share == pytest.approx(float(case.state[f"{prefix}.parm"].mean()), rel=1e-5)
        assert (b.side, b.window) == (blocks[0].side >> (i >= model.config.depths[2]), model.config.window_size)
        assert b.layer == f"stages.{2 + (i >= model.config.depths[2])}.blocks.{i % model.config.depths[2]}"


PATCH = RNG.standard_normal((3, CELL, CELL)).astype(np.float32) * 3


def planted(row: int, column: int) -> NDArray[np.float32]:
    """A grey image of 96 x 96 pixels with a pattern in one cell."""
    pixels = np.zeros((3, 96, 96), np.float32)
    pixels[:, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = PATCH
    return pixels


@pytest.fixture(scope="module")
def seeker(packed: Packed) -> BHViT:
    """A model whose queries in stage 3 look for the pattern: they are its keys, whatever the image is."""
    file = load_model_file(packed("micro96_somefp"))
    tensors = {name: tensor.copy() for name, tensor in file.tensors.items()}
    for index in range(file.config.depths[2]):
        model = BHViT(dataclasses.replace(file, tensors=tensors), threads=1)
        name = f"stages.2.blocks.{index}.attention"
        bits = keys_of(model, planted(1, 1), name)[0, 4]  # first window, pixel (1, 1)
        tensors[f"{name}.query.out_threshold"] = np.where(bits > 0, -1e30, 1e30).astype(np.float32)
    return BHViT(dataclasses.replace(file, tensors=tensors), threads=1)


def keys_of(model: BHViT, pixels: NDArray[np.float32], layer: str) -> NDArray[np.int8]:
    """Signs of the keys of a block, [windows, N, C]."""
    trace = Trace(model.runner)
    trace.workspace.set_image(pixels)
    for i, step in enumerate(model.runner.program.steps):
        signs = trace.run_steps([i])
        if step.layer == layer and "attention.attention.key_bits" in signs:
            found: NDArray[np.int8] = signs["attention.attention.key_bits"]
            return found
    raise AssertionError(layer)


@pytest.mark.parametrize("place", [(1, 1), (4, 4), (2, 5), (0, 3)])
def test_a_planted_pattern_is_found(place: tuple[int, int], seeker: BHViT) -> None:
    grid = importance(Trace(seeker.runner).run_image(planted(*place))[1])
    assert divmod(int(grid.argmax()), 6) == place
    assert grid.max() > 3 * grid.mean()
    assert sorted(grid.reshape(-1))[-2] < 0.7 * grid.max()


# ---------------------------------------------------------------------------------------------------------- classifier
@pytest.fixture
def classify(packed: Packed) -> bitvit.Classifier:
    return bitvit.Classifier(packed("micro96_somefp"))


def test_explain(classify: bitvit.Classifier) -> None:
    image = RNG.integers(0, 256, (130, 200, 3), np.uint8)
    explanation = classify.explain(image, top_k=3)
    assert explanation.heat.shape == (96, 96)
    assert explanation.grid.shape == (6, 6)
    assert explanation.heat.dtype == explanation.grid.dtype == np.float32
    assert explanation.heat.sum() == pytest.approx(1, rel=1e-5)
    assert explanation.grid.sum() == pytest.approx(1, rel=1e-5)
    assert explanation.heat.min() >= 0
    assert explanation.contrast > 1
    assert explanation.predictions == classify(image, top_k=3)
    best = explanation.predictions[0]
    said = f"{best['label']!r} ({best['score']:.1%}), 96 x 96 pixels, contrast {explanation.contrast:.1f}"
    assert repr(explanation) == f"<bitvit.explain.Explanation {said}>", "no screenful of arrays"
    again = classify.explain(Image.fromarray(image))
    assert np.array_equal(again.heat, explanation.heat)
    other = classify.explain(255 - image)
    assert not np.array_equal(other.heat, explanation.heat)


def test_explain_errors(classify: bitvit.Classifier, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no\.png: no such file"):
        classify.explain("no.png")
    with pytest.raises(ValueError, match="top_k is 0"):
        classify.explain(patch(1, 2, 3), top_k=0)
    with pytest.raises(TypeError, match=r"explain needs a packed model, as bitvit.load gives it; not a Colours"):
        bitvit.Classifier(Colours()).explain(patch(1, 2, 3))
    explanation = classify.explain(np.zeros((96, 96), np.uint8))
    with pytest.raises(BitvitError, match="cannot be written"):
        explanation.save(tmp_path / "no" / "heat.png")
    with pytest.raises(ValueError, match="strength is 2"):
        explanation.overlay(2)


# ------------------------------------------------------------------------------------------------------------ drawings
def explanation(
    grid: NDArray[np.float32], preprocessing: Preprocessing, size: tuple[int, int], names: tuple[str, ...] = ()
) -> Explanation:
    predictions: list[Prediction] = [{"label": name, "index": 7, "score": 0.5} for name in names]
    image = Image.new("RGB", size, (100, 100, 100))
    return Explanation(enlarge(grid, preprocessing.image_size), grid, predictions, image, preprocessing)


def test_heat_lies_over_its_cell() -> None:
    grid = np.zeros((6, 6), np.float32)
    grid[1, 4] = 1
    heat = enlarge(grid, 100)  # 4 pixels more than whole cells
    assert heat.sum() == pytest.approx(1)
    assert heat[96:].sum() == heat[:, 96:].sum() == 0
    assert heat[16:32, 64:80].sum() > 0.5
    assert np.unravel_index(heat.argmax(), heat.shape)[0] in range(16, 32)


def test_overlay() -> None:
    grid = np.zeros((14, 14), np.float32)
    grid[0, 0] = 1
    drawn = np.asarray(explanation(grid, Preprocessing.for_image_size(224), (800, 600)).overlay()).astype(int)
    side = 525  # of the image's own pixels, that which is cropped from 256 of 600
    seen = drawn.max(axis=2) - drawn.min(axis=2) > 0  # not grey
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (side, side)
    left, top = columns[0], rows[0]
    assert (top, left) == pytest.approx((16 * side / 224, 0.25 * side), abs=2)
    assert drawn.shape[:2] == pytest.approx((600, 1.5 * side), abs=2)
    assert drawn[0, 0].tolist() == [50, 50, 50]  # cropped off
    assert drawn[top, left].tolist() == [191, 193, 138]  # 0.6 of the brightest colour, 0.4 of the image
    assert drawn[top + 400, left + 400].tolist() == pytest.approx([40, 40, 42], abs=1)  # the darkest


@pytest.mark.parametrize(
    ("size", "side"), [((4000, 3000), 768), ((300, 300), 524), ((40, 30), 472), ((3000, 60), 472), ((60, 3000), 472)]
)
def test_any_image_is_drawn_at_a_legible_size(size: tuple[int, int], side: int) -> None:
    """side: 224 of 256 pixels of the shorter edge, or a whole multiple of them."""
    grid = np.full((14, 14), 1 / 196, np.float32)
    drawn = explanation(grid, Preprocessing.for_image_size(224), size).overlay()
    seen = np.asarray(drawn).astype(int)
    rows = np.flatnonzero((seen.max(axis=2) - seen.min(axis=2) > 0).any(axis=1))
    assert rows[-1] - rows[0] + 1 == pytest.approx(side, abs=1)
    assert max(drawn.size) <= 1.5 * 768 + 1


def test_even_attention_is_one_colour_and_small_images_are_enlarged() -> None:
    grid = np.full((2, 2), 0.25, np.float32)
    preprocessing = Preprocessing.for_image_size(32, pad=2)
    even = explanation(grid, preprocessing, (28, 28))
    drawn = np.asarray(even.overlay())
    assert drawn.shape == (448, 448, 3)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1
    assert even.contrast == 1
    assert np.array_equal(np.asarray(even.overlay(0)), np.full((448, 448, 3), 100))


def test_the_drawing_has_the_image_its_classes_and_a_scale() -> None:
    grid = np.zeros((2, 2), np.float32)
    grid[0, 0] = 1
    preprocessing = Preprocessing.for_image_size(32)
    bare = explanation(grid, preprocessing, (32, 32))
    named = explanation(grid, preprocessing, (32, 32), ("cat", "\u732b\U0010fffe", "x" * 300, "fourth"))
    over, drawn, plain = (np.asarray(image) for image in (named.overlay(), named.drawing(), bare.drawing()))
    assert drawn.shape[1] == over.shape[1]
    assert np.array_equal(drawn[: len(over)], over)
    assert len(drawn) - len(plain) == explain.CAPTION * (explain.TEXT + explain.GAP)  # a line for each of the best
    assert (drawn[:, -1] == 255).all(axis=1).sum() > 3 * 16  # nothing is written beyond the edge
    ramp = {tuple(pixel) for pixel in drawn[len(over) :].reshape(-1, 3).tolist()}
    assert {(0, 0, 4), (252, 255, 164)} <= ramp  # the ends of the scale


def test_long_names_are_shortened_in_their_middle() -> None:
    grid, preprocessing = np.full((2, 2), 0.25, np.float32), Preprocessing.for_image_size(32)
    long = "a very long name " * 4
    drawn = [
        np.asarray(explanation(grid, preprocessing, (32, 32), (name,)).drawing())
        for name in (f"one {long} end", f"one {long} two {long} end", f"one {long} other", f"other {long} end")
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], drawn[3])


def test_a_name_without_a_font_is_numbered() -> None:
    """Told from the drawings: that of a name of unassigned letters is that of `class 7`."""
    grid, preprocessing = np.full((2, 2), 0.25, np.float32), Preprocessing.for_image_size(32)
    drawn = [
        np.asarray(explanation(grid, preprocessing, (32, 32), (name,)).drawing())
        for name in ("\U0010fffe\U0010fffd", "class 7", "class 8")
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_the_image_keeps_its_own_pixels(classify: bitvit.Classifier, tmp_path: Path) -> None:
    image = RNG.integers(0, 256, (700, 900, 3), np.uint8)
    explained = classify.explain(image)
    assert explained.image.size == (900, 700)
    plain = np.asarray(explained.overlay(0)).astype(int)
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) > 100_000  # not those of 96 x 96 pixels, enlarged
    explained.save(tmp_path / "heat.png")
    with Image.open(tmp_path / "heat.png") as drawn:
        assert drawn.size == explained.drawing().size
