"""The NumPy oracle against the PyTorch model's goldens, and its operators against results worked out by hand."""

import ast
import functools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.verify import reference
from tests.support.golden_data import Case, case_names, load_case, trace, trace_names

Array = NDArray[Any]

# Two float64 implementations differ by a few 1e-15 while all their signs agree; one wrong sign costs 5e-5 or more.
LOGITS_RTOL = 1e-9
# Traces are rounded to float32 (half an ulp of their largest value, some 3e-7 of their spread); so are the inputs of
# a block that is fed with them.
TRACE_RTOL = 2e-6

CASES = case_names()
TRACES = trace_names()


# -------------------------------------------------------------------------------------------------------- helpers


def deviation(got: Array, expected: Array) -> float:
    """max |difference| / std(expected)."""
    return float(np.abs(got - expected).max() / expected.astype(np.float64).std())


def record(case: Case, image: slice = slice(0, 1)) -> tuple[dict[str, Array], Array]:
    """All that the oracle traces for image 0 of a case (or `image`), and its logits."""
    seen: dict[str, Array] = {}
    logits = reference.forward(case.state, case.input[image], **case.geometry, trace=seen.__setitem__)
    return seen, logits


def assert_matches_trace(got: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Integers equal in value and dtype, floats within TRACE_RTOL; every expected name is there."""
    assert expected.keys() <= got.keys()
    for name, array in expected.items():
        assert got[name].shape == array.shape, name
        if array.dtype.kind == "i":
            assert got[name].dtype == array.dtype, name
            np.testing.assert_array_equal(got[name], array, err_msg=name)
        else:
            assert deviation(got[name], array) <= TRACE_RTOL, name


def constant(width: int, value: float) -> Array:
    return np.full(width, value, np.float32)


def neutral_rprelu(prefix: str, width: int, slope: float = 1.0) -> dict[str, Array]:
    """An RPReLU that is the identity, or |slope| below zero."""
    return {
        f"{prefix}.move1": constant(width, 0),
        f"{prefix}.prelu.weight": constant(width, slope),
        f"{prefix}.move2": constant(width, 0),
    }


def neutral_norm(prefix: str, width: int) -> dict[str, Array]:
    """A batch norm that is the identity up to eps."""
    return {
        f"{prefix}.weight": constant(width, 1),
        f"{prefix}.bias": constant(width, 0),
        f"{prefix}.running_mean": constant(width, 0),
        f"{prefix}.running_var": constant(width, 1 - reference.EPS),
    }


def neutral_scale(prefix: str, width: int, alpha: float, move: float = 0.0) -> dict[str, Array]:
    return {f"{prefix}.alpha": constant(width, alpha), f"{prefix}.move": constant(width, move)}


def one_hot_map(side: int, channels: int, y: int, x: int) -> Array:
    """[1, side, side, channels]: channel c holds c + 1 at (y, x), all else is 0."""
    result = np.zeros((1, side, side, channels))
    result[0, y, x] = np.arange(1, channels + 1)
    return result


# ------------------------------------------------------------------------------------------------ against goldens


def test_imports_nothing_but_numpy_and_the_standard_library() -> None:
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "numpy" in found
    assert {name.split(".")[0] for name in found} <= {"numpy", *sys.stdlib_module_names}
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_float64_model(name: str) -> None:
    case = load_case(name)
    logits = reference.forward(case.state, case.input, **case.geometry)
    assert logits.dtype == np.float64
    assert logits.shape == case.logits_f64.shape
    assert deviation(logits, case.logits_f64) <= LOGITS_RTOL


@pytest.mark.parametrize("name", TRACES)
def test_intermediate_results_equal_the_float64_model(name: str) -> None:
    case, expected = load_case(name), trace(name)
    got: dict[str, Array] = {}

    def keep(path: str, array: Array) -> None:  # all traces of a large case would be a gigabyte
        if path in expected:
            assert path not in got, f"{path} is traced twice"
            got[path] = array

    reference.forward(case.state, case.input[:1], **case.geometry, trace=keep)
    assert_matches_trace(got, expected)


@pytest.mark.parametrize("name", TRACES)
def test_each_block_alone_equals_the_float64_model(name: str) -> None:
    """Teacher-forced: every block gets the recorded input, so that an error stays where it is made."""
    case, expected = load_case(name), trace(name)
    geometry = case.geometry
    before = "vit.embeddings"
    for prefix, stage in reference.schedule(geometry["depths"]):
        got: dict[str, Array] = {}
        x = reference.block(
            case.state,
            prefix,
            expected[before],
            num_heads=geometry["num_heads"][stage],
            window_size=geometry["window_size"],
            trace=got.__setitem__,
        )
        np.testing.assert_array_equal(x, got[prefix])
        inner = {path: array for path, array in expected.items() if path == prefix or path.startswith(f"{prefix}.")}
        assert_matches_trace(got, inner)
        before = prefix


@pytest.mark.parametrize("name", TRACES)
def test_stem_and_head_alone_equal_the_float64_model(name: str) -> None:
    case, expected = load_case(name), trace(name)
    got: dict[str, Array] = {}
    reference.stem(case.state, case.input[:1], trace=got.__setitem__)
    last = reference.schedule(case.config["depths"])[-1][0]
    logits = reference.head(case.state, expected[last], trace=got.__setitem__)
    parts = ("vit.embeddings", "vit.layernorm", "pooled", "logits")
    assert_matches_trace(got, {path: array for path, array in expected.items() if path.startswith(parts)})
    np.testing.assert_array_equal(logits, got["logits"])


@pytest.mark.parametrize("name", ["micro96_binary", "micro96_ln", "micro160_odd"])
def test_block_alone_equals_the_block_in_the_network(name: str) -> None:
    case = load_case(name)
    seen, logits = record(case)
    geometry = case.geometry
    x = reference.stem(case.state, case.input[:1])
    for prefix, stage in reference.schedule(geometry["depths"]):
        heads = geometry["num_heads"][stage]
        x = reference.block(case.state, prefix, x, num_heads=heads, window_size=geometry["window_size"])
        np.testing.assert_array_equal(x, seen[prefix], err_msg=prefix)
    np.testing.assert_array_equal(reference.head(case.state, x), logits)


@pytest.mark.parametrize("name", ["micro96_somefp", "micro160_odd"])
def test_images_do_not_see_each_other(name: str) -> None:
    case = load_case(name)
    together = reference.forward(case.state, case.input, **case.geometry)
    for i in range(2):
        alone = reference.forward(case.state, case.input[i : i + 1], **case.geometry)
        assert deviation(alone, together[i : i + 1]) <= LOGITS_RTOL


@pytest.mark.parametrize("name", ["micro96_somefp", "micro96_gsb", "micro96_ln", "micro96_binary", "edge_zeros"])
def test_float32_makes_the_same_decisions(name: str) -> None:
    """The goldens keep every threshold far from float32's noise, so single precision differs by rounding only."""
    case = load_case(name)
    logits = reference.forward(case.state, case.input, **case.geometry, dtype=np.float32)
    assert logits.dtype == np.float32
    assert 0 < deviation(logits, case.logits_f64) <= 2e-5  # honest float32 gives 2.4e-6 at most


def test_without_a_classifier_the_pooled_features_come_out() -> None:
    case = load_case("micro96_somefp")
    seen, _ = record(case)
    headless = {name: array for name, array in case.state.items() if not name.startswith("classifier.")}
    features = reference.forward(headless, case.input[:1], **case.geometry)
    np.testing.assert_array_equal(features, seen["pooled"])


def test_a_missing_tensor_is_a_key_error() -> None:
    case = load_case("micro96_somefp")
    state = {name: array for name, array in case.state.items() if name != "vit.encoder.layerB.1.output.dense.weight"}
    with pytest.raises(KeyError, match=r"layerB\.1\.output\.dense\.weight"):
        reference.forward(state, case.input[:1], **case.geometry)


def test_schedule_lists_blocks_and_downsamplings_with_their_stage() -> None:
    assert reference.schedule([1, 2, 1, 2]) == [
        ("vit.encoder.layerA.0", 0),
        ("vit.encoder.patch_embed1", 0),
        ("vit.encoder.layerA.1", 1),
        ("vit.encoder.layerA.2", 1),
        ("vit.encoder.patch_embed2", 1),
        ("vit.encoder.layerB.0", 2),
        ("vit.encoder.patch_embed3", 2),
        ("vit.encoder.layerB.1", 3),
        ("vit.encoder.layerB.2", 3),
    ]


# --------------------------------------------------------------------------------------------------- traced bits


@functools.cache
def recorded(name: str) -> dict[str, Array]:
    return record(load_case(name))[0]


@pytest.mark.parametrize("name", ["micro96_somefp", "micro96_gsb", "micro96_binary"])
def test_every_binarised_tensor_is_traced(name: str) -> None:
    case, seen = load_case(name), recorded(name)
    depths, options = case.config["depths"], case.options
    expected = set()
    for i in range(depths[0] + depths[1]):
        path = f"vit.encoder.layerA.{i}"
        expected |= {f"{path}.GC.bits", f"{path}.intermediate.bits", f"{path}.output.bits"}
    for i in range(depths[2] + depths[3]):
        path = f"vit.encoder.layerB.{i}"
        expected |= {f"{path}.attention.output.bits", f"{path}.intermediate.bits", f"{path}.output.bits"}
        for z in ("query", "key", "value"):
            expected |= {f"{path}.attention.attention.{z}{kind}" for kind in (".input_bits", "_bits")}
    if not options["some_fp"]:
        expected |= {f"vit.encoder.patch_embed{k}.bits" for k in (1, 2, 3)}
    found = {path: array for path, array in seen.items() if path.endswith("bits")}
    assert found.keys() == expected
    for path, array in found.items():
        assert array.dtype == np.int8, path
        assert set(np.unique(array)) == {-1, 1}, path  # no exact zeros in these cases


def signs(x: Array, offset: Array) -> Array:
    return np.sign(x.astype(np.float64) + offset.reshape(-1)).astype(np.int8)


@pytest.mark.parametrize("block", ["layerA.0", "layerA.1", "layerB.1"])
def test_traced_bits_are_the_signs_of_the_recorded_values(block: str) -> None:
    """Bits have no goldens of their own, but the values before the sign have, with margins above their rounding."""
    state, values, seen = load_case("micro96_somefp").state, trace("micro96_somefp"), recorded("micro96_somefp")
    path = f"vit.encoder.{block}"
    pairs = {
        "intermediate.bits": ("layernorm_after", "intermediate.move"),
        "output.bits": ("intermediate", "output.move"),
    }
    if "layerA" in block:
        pairs["GC.bits"] = ("layernorm_before", "GC.move.bias")
    else:
        inner = "attention.attention"
        pairs["attention.output.bits"] = (inner, "attention.output.move")
        for z in ("query", "key", "value"):
            pairs[f"{inner}.{z}.input_bits"] = (f"{inner}.token_FA", f"{inner}.move{z[0]}")
            pairs[f"{inner}.{z}_bits"] = (f"{inner}.rprelu{z[0]}", f"{inner}.move{z[0]}2")
    for bits, (value, offset) in pairs.items():
        expected = signs(values[f"{path}.{value}"], state[f"{path}.{offset}"])
        np.testing.assert_array_equal(seen[f"{path}.{bits}"], expected, err_msg=bits)


def test_traced_bits_of_a_downsampling_cover_the_input_map() -> None:
    seen = recorded("micro96_binary")
    for k, before in ((1, "layerA.0"), (2, "layerA.1"), (3, "layerB.1")):
        assert seen[f"vit.encoder.patch_embed{k}.bits"].shape == seen[f"vit.encoder.{before}"].shape


def test_exact_zeros_survive_binarisation() -> None:
    case = load_case("edge_zeros")
    seen, _ = record(case)
    zeros = sum(np.count_nonzero(array == 0) for path, array in seen.items() if path.endswith("output.bits"))
    assert zeros > 1000
    _, weight_signs = reference.binary_weight(case.state["vit.encoder.layerA.0.output.dense.weight"], np.float64)
    assert np.count_nonzero(weight_signs == 0) > 10


def test_tracing_changes_nothing() -> None:
    case = load_case("micro96_gsb")
    silent = reference.forward(case.state, case.input[:1], **case.geometry)
    _, traced = record(case)
    np.testing.assert_array_equal(silent, traced)


# ------------------------------------------------------------------------------------------- binarisation by hand


def test_sign_of_zero_is_zero() -> None:
    x = np.array([[0.0, -0.0, 0.25, -0.25, 1e-300, -1e-300, 2.0]])
    offset = np.array([0.0, 0.0, -0.25, 0.25, 0.0, 0.0, -3.0])
    seen: dict[str, Array] = {}
    bits = reference.binarise(x, offset, "here", seen.__setitem__)
    expected = [[0, 0, 0, 0, 1, -1, -1]]
    np.testing.assert_array_equal(bits, expected)
    assert seen["here"].dtype == np.int8
    np.testing.assert_array_equal(seen["here"], expected)


def test_weight_scale_is_taken_before_centring_and_the_sign_after() -> None:
    weight = np.array([[1, 2, 3, 6], [-1, -1, -1, -1], [0, 0, 0, 0]], np.float32)
    scale, weight_signs = reference.binary_weight(weight, np.float64)
    np.testing.assert_array_equal(scale, [3, 1, 0])
    # mean 3: the 3 itself is an exact zero; a constant row has no sign at all, but keeps its scale
    np.testing.assert_array_equal(weight_signs, [[-1, -1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_constant_rows_have_no_sign_in_any_dtype() -> None:
    """0.1 added up 27 times and divided by 27 is not 0.1 in float32; in float64 sums of float32 values are exact."""
    weight = np.full((2, 3, 3, 3), 0.1, np.float32)
    for dtype in (np.float32, np.float64):
        scale, weight_signs = reference.binary_weight(weight, dtype)
        assert scale.dtype == weight_signs.dtype == dtype
        np.testing.assert_array_equal(weight_signs, np.zeros_like(weight))
        np.testing.assert_array_equal(scale, np.full(2, np.float32(0.1), dtype))


def test_convolution_weights_are_centred_over_their_own_group() -> None:
    weight = np.arange(8 * 2 * 9, dtype=np.float32).reshape(8, 2, 3, 3)
    scale, weight_signs = reference.binary_weight(weight, np.float64)
    np.testing.assert_array_equal(scale, np.arange(8) * 18 + 8.5)
    np.testing.assert_array_equal(weight_signs, np.broadcast_to(np.array([-1, 1])[:, None, None], weight.shape))


def test_binary_linear_by_hand() -> None:
    state = {"p.weight": np.array([[1, 2, 6], [4, -4, 0]], np.float32)}  # means 3, 0; scales 3, 8/3
    y = reference.binary_linear(state, "p", np.array([[1.0, -1.0, -1.0], [0.0, 1.0, 1.0]]))
    np.testing.assert_allclose(y, [[3 * (-1 + 1 - 1), 8 / 3 * 2], [3 * (-1 + 1), -8 / 3]], rtol=1e-15)


# --------------------------------------------------------------------------------------- norms and pointwise by hand


def test_batch_norm_uses_running_statistics_and_layer_norm_the_token() -> None:
    x = np.array([[1.0, 3.0], [5.0, 5.0]])
    affine = {"n.weight": np.array([2, 3], np.float32), "n.bias": np.array([10, 20], np.float32)}
    running = {"n.running_mean": np.array([1, 2], np.float32), "n.running_var": np.array([4, 1], np.float32)}
    eps = 1e-5
    batch = reference.norm({**affine, **running}, "n", x)
    expected = [[10.0, 20 + 3 / math.sqrt(1 + eps)], [10 + 8 / math.sqrt(4 + eps), 20 + 9 / math.sqrt(1 + eps)]]
    np.testing.assert_allclose(batch, expected, rtol=1e-15)
    layer = reference.norm(affine, "n", x)
    unit = 1 / math.sqrt(1 + eps)  # mean 2, biased variance 1
    np.testing.assert_allclose(layer, [[10.0 - 2 * unit, 20 + 3 * unit], [10.0, 20.0]], rtol=1e-15)


def test_rprelu_with_any_slope() -> None:
    slope = np.array([0.5, -0.5, 2.0, 0.0], np.float32)
    state = {"r.move1": constant(4, 1), "r.prelu.weight": slope, "r.move2": constant(4, 10)}
    y = reference.rprelu(state, "r", np.array([[3.0] * 4, [1.0] * 4, [-3.0] * 4]))
    np.testing.assert_array_equal(y, [[12, 12, 12, 12], [10, 10, 10, 10], [8, 12, 2, 10]])


def test_layer_scale_has_an_offset_and_may_be_absent() -> None:
    x = np.array([[1.0, -2.0]])
    state = {"s.alpha": np.array([3, 4], np.float32), "s.move": np.array([10, 20], np.float32)}
    np.testing.assert_array_equal(reference.layer_scale(state, "s", x), [[13, 12]])
    np.testing.assert_array_equal(reference.layer_scale({}, "s", x), x)


def test_gelu_is_the_exact_one() -> None:
    # x * Phi(x) with Phi(1) = 0.8413447460685429; the tanh approximation is off by 1.5e-4 there
    y = reference.gelu(np.array([-40.0, -1.0, 0.0, 1.0, 40.0]))
    np.testing.assert_allclose(y, [0, -0.15865525393145705, 0, 0.8413447460685429, 40], rtol=1e-15, atol=1e-300)
    assert reference.gelu(np.ones(1, np.float32)).dtype == np.float32


# ---------------------------------------------------------------------------------------------- convolution by hand


def convolution(weight: Array, bits: Array, dilation: int, bias: float = 0.0) -> Array:
    state = {"c.weight": weight, "c.bias": constant(len(weight), bias)}
    return reference.binary_convolution(state, "c", bits, dilation)


def single_tap(i: int, j: int) -> Array:
    """[4, 1, 3, 3]: sign +1 at tap (i, j), scale 1, sign -1 at the other taps."""
    weight = np.full((4, 1, 3, 3), -0.5625, np.float32)
    weight[:, :, i, j] = 4.5
    return weight


def test_convolution_reads_the_tap_of_its_index() -> None:
    """A correlation: tap (0, 2) of dilation d reads the pixel d above and d to the right."""
    bits = np.zeros((1, 9, 9, 4))
    bits[0, 4, 4] = 1
    for dilation in (1, 3):
        y = convolution(single_tap(0, 2), bits, dilation)
        assert y[0, 4 + dilation, 4 - dilation, 0] == 1
        assert y[0, 4 - dilation, 4 + dilation, 0] == -1
        assert np.count_nonzero(y[..., 0]) == 9


def test_convolution_pads_with_zeros_not_with_signs() -> None:
    weight = single_tap(1, 1)
    y = convolution(weight, np.ones((1, 4, 4, 4)), 1, bias=100)
    assert y[0, 1, 1, 0] == 100 + 1 - 8  # all nine taps
    assert y[0, 0, 1, 0] == 100 + 1 - 5  # upper edge: three taps are missing
    assert y[0, 3, 3, 0] == 100 + 1 - 3  # corner: four are left


def test_convolution_wider_than_its_map_keeps_the_centre_tap() -> None:
    bits = np.where(np.arange(9) % 2, 1.0, -1.0).reshape(1, 3, 3, 1).repeat(4, axis=3)
    np.testing.assert_array_equal(convolution(single_tap(1, 1), bits, 5), bits)


def test_convolution_groups_do_not_mix() -> None:
    """Eight channels, four groups of two: output o reads the channels of group o // 2 only."""
    weight = np.ones((8, 2, 3, 3), np.float32)
    weight[:, 0, 1, 1] = 2  # the only weight above the mean
    for channel in range(8):
        bits = np.zeros((1, 1, 1, 8))
        bits[..., channel] = 1
        y = convolution(weight, bits, 1)[0, 0, 0]
        scale, first = 19 / 18, channel // 2 * 2
        expected = np.zeros(8)
        expected[first : first + 2] = scale if channel % 2 == 0 else -scale
        np.testing.assert_allclose(y, expected, rtol=1e-15)


def test_token_mixer_adds_three_rprelus_of_one_bit_map() -> None:
    state: dict[str, Array] = {"g.move.bias": np.full((1, 4, 1, 1), -5, np.float32), **neutral_norm("g.norm", 4)}
    for k, slope in ((1, 1.0), (2, 0.5), (3, 0.0)):
        state[f"g.cov{k}.weight"] = single_tap(1, 1)
        state[f"g.cov{k}.bias"] = constant(4, 0)
        state |= neutral_rprelu(f"g.act{k}", 4, slope)
    x = np.array([4.0, 6.0]).reshape(1, 1, 2, 1).repeat(2, axis=1).repeat(4, axis=3)  # columns become -1, +1
    y = reference.token_mixer(state, "g", x, None)
    # dilation 1 sees the whole 2x2 map: own pixel minus the three others; dilations 3 and 5 only the pixel itself
    left, right = (-1 + 1 - 2) - 0.5 + 0, (1 - 1 + 2) + 1 + 1
    np.testing.assert_allclose(y[0, :, :, 0], [[left, right], [left, right]], rtol=1e-6)  # float32 running_var


# ----------------------------------------------------------------------------------- windows and merged tokens by hand


def test_windows_and_their_tokens_are_row_major() -> None:
    x = np.arange(2 * 6 * 6).reshape(2, 6, 6, 1)
    windows = reference.split_windows(x, 3)
    assert windows.shape == (8, 9, 1)
    np.testing.assert_array_equal(windows[0, :, 0], [0, 1, 2, 6, 7, 8, 12, 13, 14])
    np.testing.assert_array_equal(windows[1, :, 0], [3, 4, 5, 9, 10, 11, 15, 16, 17])
    assert windows[2, 0, 0] == 18
    assert windows[4, 0, 0] == 36  # the second image
    np.testing.assert_array_equal(reference.join_windows(windows, 6, 3), x)


def test_merged_cells_are_shifted_against_the_windows() -> None:
    x = np.arange(1, 37, dtype=np.float64).reshape(1, 6, 6, 1)  # row y, column x: 6 y + x + 1
    average = reference.merged_tokens(x, np.zeros(1), 3, 1)
    maximum = reference.merged_tokens(x, np.ones(1), 3, 1)
    # cells cover rows -1..1 and 2..4; row 5 belongs to none; divided by 9 also where 4 or 6 pixels are in the map
    np.testing.assert_allclose(
        average[0, :, 0],
        [(1 + 2 + 7 + 8) / 9, (3 + 4 + 5 + 9 + 10 + 11) / 9, (13 + 14 + 19 + 20 + 25 + 26) / 9, 22],
        rtol=1e-15,
    )
    np.testing.assert_array_equal(maximum[0, :, 0], [8, 11, 26, 29])
    mixed = reference.merged_tokens(x, np.full(1, 0.25), 3, 1)
    np.testing.assert_allclose(mixed, 0.25 * maximum + 0.75 * average, rtol=1e-15)


def test_merged_maximum_ignores_the_padding() -> None:
    x = np.full((1, 3, 3, 2), -2.0)
    np.testing.assert_array_equal(reference.merged_tokens(x, np.ones(2), 3, 1), np.full((1, 1, 2), -2.0))
    np.testing.assert_allclose(
        reference.merged_tokens(x, np.zeros(2), 3, 1), np.full((1, 1, 2), -2 * 4 / 9), rtol=1e-15
    )


def test_merged_token_of_a_single_window_sees_rows_and_columns_0_to_3() -> None:
    for y in range(7):
        x = np.zeros((1, 7, 7, 1))
        x[0, y, 3] = 49
        assert reference.merged_tokens(x, np.zeros(1), 7, 3)[0, 0, 0] == (1 if y < 4 else 0)
        np.testing.assert_array_equal(reference.merged_tokens(x.swapaxes(1, 2), np.zeros(1), 7, 3), y < 4)


def test_merged_tokens_of_window_1_are_the_pixels() -> None:
    x = np.arange(2 * 3 * 3 * 2, dtype=np.float64).reshape(2, 3, 3, 2)
    np.testing.assert_array_equal(reference.merged_tokens(x, np.full(2, 0.5), 1, 0), x.reshape(2, 9, 2))


def test_token_set_appends_the_images_own_merged_tokens_and_normalises() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 6, 4))
    state = {
        "t.a1": np.full((1, 1, 4), 0.5, np.float32),
        "t.norm.weight": constant(4, 1),
        "t.norm.bias": constant(4, 7),
    }
    tokens = reference.token_set(state, "t", x, (3, 1), None)
    assert tokens.shape == (8, 9 + 4, 4)
    np.testing.assert_allclose(tokens.mean(axis=-1), 7, rtol=1e-12)  # a layer norm, without running statistics
    for window in range(8):
        np.testing.assert_array_equal(tokens[window, 9:], tokens[window // 4 * 4, 9:])
    assert not np.allclose(tokens[0, 9:], tokens[4, 9:])


def test_fuse_pastes_the_coarse_mean_on_the_windows() -> None:
    # one image of 4 windows of 1 pixel; merged token m of window i holds 100 m + i, whose mean over i is 100 m + 1.5
    fine = np.arange(4.0).reshape(4, 1, 1) * -1
    coarse = 100 * np.arange(4.0).reshape(1, 4, 1) + np.arange(4.0).reshape(4, 1, 1)
    tokens = np.concatenate([fine, coarse], axis=1)
    np.testing.assert_array_equal(reference.fuse(tokens, np.ones(1), 2, 1)[0, :, :, 0], [[0, -1], [-2, -3]])
    only_coarse = reference.fuse(tokens, np.zeros(1), 2, 1)[0, :, :, 0]
    np.testing.assert_array_equal(only_coarse, [[1.5, 101.5], [201.5, 301.5]])
    mixed = reference.fuse(tokens, np.full(1, 0.25), 2, 1)[0, 1, 1, 0]
    assert mixed == 0.25 * -3 + 0.75 * 301.5


def test_fuse_repeats_a_coarse_cell_over_its_window() -> None:
    tokens = np.zeros((2 * 4, 9 + 4, 1))  # two images of 6x6, window 3
    tokens[:, 9:, 0] = np.repeat([[0, 1, 2, 3], [10, 11, 12, 13]], 4, axis=0)
    y = reference.fuse(tokens, np.zeros(1), 6, 3)[..., 0]
    np.testing.assert_array_equal(y[0], np.kron([[0, 1], [2, 3]], np.ones((3, 3))))
    np.testing.assert_array_equal(y[1], y[0] + 10)


# --------------------------------------------------------------------------------------------------- attention by hand


def test_heads_own_adjacent_channels() -> None:
    x = np.arange(2 * 6).reshape(2, 6)
    heads = reference.split_heads(x, 2)
    np.testing.assert_array_equal(heads, [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]])
    np.testing.assert_array_equal(reference.join_heads(heads), x)


def test_levels_round_half_to_even() -> None:
    probs = np.array([1 / 6, 0.5, 5 / 6, 1.0, 0.0])
    assert 3 * probs[0] == 0.5  # exact ties
    assert 3 * probs[2] == 2.5
    levels = reference.quantised_levels(probs, np.array(1.0), np.array(0.0))
    np.testing.assert_array_equal(levels, [0, 2, 2, 3, 0])


def test_levels_clamp_and_keep_the_zero_point() -> None:
    probs = np.array([0.0, 0.1, 0.5, 1.0])
    alpha, zero_point = np.array(0.5), np.array(1.0)
    np.testing.assert_array_equal(reference.quantised_levels(probs, alpha, zero_point), [1, 2, 3, 3])
    # a negative step counts down from the zero point
    np.testing.assert_array_equal(reference.quantised_levels(probs, -alpha, np.array(3.0)), [3, 2, 0, 0])


def test_quantised_probabilities_have_a_step_per_head() -> None:
    state = {
        "a.att_prob_quantizer.alpha": np.array([0.5, -0.25], np.float32),
        "a.att_prob_quantizer.zero_point": np.array([0, 2], np.float32),
    }
    levels, probs = reference.quantise(state, "a", np.array([[[0.25, 0.75]], [[0.25, 0.75]]]))
    np.testing.assert_array_equal(levels, [[[2, 3]], [[0, 0]]])  # 1.5 -> 2, 4.5 -> 3; 2 - 3 -> 0, 2 - 9 -> 0
    np.testing.assert_array_equal(probs, [[[1, 1.5]], [[0, 0]]])
    levels, probs = reference.quantise(state, "a", np.array([[[0.0, 1.0]], [[0.0, 1.0]]]))
    np.testing.assert_array_equal(levels, [[[0, 3]], [[2, 0]]])
    np.testing.assert_array_equal(probs, [[[0, 1.5]], [[-0.5, 0]]])


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        # q = 1.0, 0.8, 0.6, 0.2: t2 for the first, t1 for the first two, base for the first three
        ((0.5, 3.0, 5.0), [(1 - 1 + 5) * 0.5, (1 - 1 + 3) * 0.5, 0.5, 0]),
        # q = 0.25, 0.2, 0.15, 0.05: base is 0 everywhere, hence -1 where t1
        ((2.0, 0.5, 3.0), [(-1 + 3) * 2, (-1 + 0.5) * 2, 0, 0]),
        # a negative multiplier becomes the floor
        ((0.5, -1.0, 5.0), [5 * 0.5, float(np.float32(1e-5)) * 0.5, 0.5, 0]),
        # a negative step: q = -1.0, -0.8, -0.6, -0.2 of maximum -0.2 = the last, which 0.7 and 0.9 of it exceed
        ((-0.5, 3.0, 5.0), [0, 0, 0, 0]),
    ],
)
def test_gsb_by_hand(clips: tuple[float, float, float], expected: list[float]) -> None:
    probs = np.array([[0.5, 0.4, 0.3, 0.1]])
    result = reference.gsb(probs, *(np.array([clip]) for clip in clips))
    np.testing.assert_allclose(result, [expected], rtol=1e-15)


def test_gsb_comparisons_are_strict() -> None:
    # maximum 1: 0.9 * 1 and 0.7 * 1 themselves are not above the bars
    result = reference.gsb(np.array([[1.0, 0.9, 0.7]]), *(np.array([clip]) for clip in (1.0, 3.0, 5.0)))
    np.testing.assert_array_equal(result, [[5, 3, 1]])


def test_gsb_divides_by_the_raw_step_and_multiplies_by_the_floored_one() -> None:
    tiny = 1e-6
    result = reference.gsb(np.array([[0.5, 0.6 * tiny]]), *(np.array([clip]) for clip in (tiny, 2.0, 3.0)))
    floor = float(np.float32(1e-5))
    # 0.6 rounds to 1; with the floored step in the division it would be 0.06, hence 0
    np.testing.assert_allclose(result, [[3 * floor, floor]], rtol=1e-15)


def test_binary_attention_by_hand() -> None:
    """One window, one head of 4: the first query equals the first key, scores 4 and -4."""
    query = np.array([[[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]]])
    key = np.array([[[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]])
    value = np.array([[[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, 0.0, 0.0]]])
    state = {
        "a.att_prob_quantizer.alpha": constant(1, 1),
        "a.att_prob_quantizer.zero_point": constant(1, 0),
    }
    seen: dict[str, Array] = {}
    context = reference.binary_attention(state, "a", query, key, value, 1, seen.__setitem__)
    np.testing.assert_array_equal(seen["a.scores"], [[[[4, -4], [0, 0]]]])
    assert seen["a.scores"].dtype == np.int16
    # softmax of (2, -2) is (0.982, 0.018): levels 3, 0; of (0, 0) exactly one half each: 1.5 -> 2
    np.testing.assert_array_equal(seen["a.levels"], [[[[3, 0], [2, 2]]]])
    assert seen["a.levels"].dtype == np.int8
    np.testing.assert_array_equal(context, [[[3, -3, 3, -3], [4, 0, 2, -2]]])


def test_scores_are_divided_by_the_root_of_the_head_size() -> None:
    """Scores 2 and -2 of a head of 4: P = 0.881, 0.119, hence 3 P + 0.3 = 2.94, 0.66; levels 3, 1.

    Undivided they would be 0.982, 0.018, levels 3, 0; divided by 4, 0.731, 0.269, levels 2, 1.
    """
    query = np.array([[[1.0, 1.0, 1.0, -1.0]] * 2])
    key = np.array([[[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]])
    state = {
        "a.att_prob_quantizer.alpha": constant(1, 1),
        "a.att_prob_quantizer.zero_point": constant(1, 0.3),
    }
    context = reference.binary_attention(state, "a", query, key, key, 1, None)
    np.testing.assert_array_equal(context, np.full((1, 2, 4), 3 - 1))


def test_softmax_of_large_values() -> None:
    np.testing.assert_array_equal(reference.softmax(np.array([1e4, 1e4])), [0.5, 0.5])
    np.testing.assert_allclose(reference.softmax(np.array([0.0, math.log(3)])), [0.25, 0.75], rtol=1e-15)


# ----------------------------------------------------------------------------------------------- MLP and shifts by hand


def test_tile_is_modular_and_pool_is_adjacent() -> None:
    x = np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(reference.tile(x, 6), [[1, 2, 1, 2, 1, 2]])
    np.testing.assert_array_equal(reference.pool(np.array([[1.0, 2.0, 3.0, 40.0, 50.0, 60.0]]), 2), [[2, 50]])
    np.testing.assert_array_equal(reference.tile(x, 2), x)
    np.testing.assert_array_equal(reference.pool(x, 2), x)


def test_channel_quarters_roll_down_up_right_left() -> None:
    moves = [(1, 0), (-1, 0), (0, 1), (0, -1)]
    for reach in (1, 2):
        y = reference.rolled_quarters(one_hot_map(6, 8, 2, 3), reach)
        for channel in range(8):
            dy, dx = moves[channel // 2]
            expected = np.zeros((6, 6))
            expected[2 + reach * dy, 3 + reach * dx] = channel + 1
            np.testing.assert_array_equal(y[0, :, :, channel], expected)


def test_rolls_are_circular() -> None:
    y = reference.rolled_quarters(one_hot_map(4, 4, 3, 0), 1)
    assert y[0, 0, 0, 0] == 1  # down, over the lower edge
    assert y[0, 2, 0, 1] == 2
    assert y[0, 3, 1, 2] == 3
    assert y[0, 3, 3, 3] == 4  # left, over the left edge


def test_quarters_of_a_width_that_four_does_not_divide() -> None:
    """ceil(10 / 4) = 3 channels each, one left for the last."""
    y = reference.rolled_quarters(one_hot_map(3, 10, 1, 1), 1)
    where = [tuple(int(i) for i in np.argwhere(y[0, :, :, c])[0]) for c in range(10)]
    assert where == [(2, 1)] * 3 + [(0, 1)] * 3 + [(1, 2)] * 3 + [(1, 0)]


@pytest.mark.parametrize(("size", "reach"), [(3, 1), (5, 2)])
def test_shift_residuals_h_along_y_w_along_x(size: int, reach: int) -> None:
    x = one_hot_map(7, 4, 0, 3)
    present = {
        **neutral_scale(f"b.layerscale_h{size}", 4, size, 1000),
        **neutral_scale(f"b.layerscale_w{size}", 4, 10 * size, 2000),
        **neutral_scale(f"b.layerscale_ch{size}", 4, 0, 4000),
    }
    y = reference.shifts(present, "b", x)[0, :, :, 0] - 7000  # each term has its own offset
    expected = np.zeros((7, 7))
    for step in range(-reach, reach + 1):
        expected[step % 7, 3] += 1
        expected[0, 3 + step] += 10
    np.testing.assert_allclose(y, expected, atol=1e-11)


def test_shift_groups_come_from_the_checkpoint() -> None:
    x = np.ones((1, 2, 2, 4))
    groups: dict[int, dict[str, Array]] = {3: {}, 5: {}}
    for size, group in groups.items():
        for term in ("h", "w", "ch"):
            group |= neutral_scale(f"b.layerscale_{term}{size}", 4, 1)
    np.testing.assert_array_equal(reference.shifts({}, "b", x), np.zeros_like(x))
    np.testing.assert_allclose(reference.shifts(groups[3], "b", x), 3 * x, rtol=1e-15)
    np.testing.assert_allclose(reference.shifts(groups[3] | groups[5], "b", x), 6 * x, rtol=1e-15)


def test_mlp_by_hand() -> None:
    """C = 1, I = 2: the shortcuts are the tiled input and the pooled hidden values, the scale comes last."""
    state = {
        "b.intermediate.move": constant(1, 0),
        "b.intermediate.dense.weight": np.zeros((2, 1), np.float32),  # a single weight equals its mean: 0
        **neutral_norm("b.intermediate.norm", 2),
        **neutral_rprelu("b.intermediate.rprelu", 2),
        "b.output.move": np.array([0, -10], np.float32),
        "b.output.dense.weight": np.array([[3, -1]], np.float32),  # scale 2, signs +1, -1
        **neutral_norm("b.output.norm", 1),
        **neutral_rprelu("b.output.rprelu", 1),
        **neutral_scale("b.output.layerscale", 1, 100, 7),
    }
    state["b.intermediate.norm.bias"] = np.array([1, 4], np.float32)
    y = reference.mlp(state, "b", np.array([[2.0]]), None)
    # hidden = (0 + 1 + 2, 0 + 4 + 2) = (3, 6); bits (+1, -1); 2 * (1 + 1) + (3 + 6) / 2 = 8.5
    np.testing.assert_allclose(y, [[8.5 * 100 + 7]], rtol=1e-6)  # float32 running_var
    del state["b.output.layerscale.alpha"]
    np.testing.assert_allclose(reference.mlp(state, "b", np.array([[2.0]]), None), [[8.5]], rtol=1e-6)


# ------------------------------------------------------------------------------------- stem, head, downsampling by hand


def test_stem_patches_and_positions() -> None:
    weight = np.zeros((2, 3, 4, 4), np.float32)
    weight[0, 2, 1, 3] = 1  # blue, row 1, column 3 of the patch
    weight[1, 0, 0, 0] = 1
    path = "vit.embeddings.patch_embeddings"
    positions = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)  # [1, C, y, x]
    state = {
        f"{path}.proj.weight": weight,
        f"{path}.proj.bias": np.array([50, 60], np.float32),
        **neutral_norm(f"{path}.norm", 2),
        "vit.embeddings.position_embeddings": 1000 * positions,
    }
    pixels = np.arange(3 * 11 * 11, dtype=np.float32).reshape(1, 3, 11, 11)  # 11: two patches, three pixels ignored
    y = reference.stem(state, pixels)
    assert y.shape == (1, 2, 2, 2)
    for row in range(2):
        for column in range(2):
            blue, red = pixels[0, 2, 4 * row + 1, 4 * column + 3], pixels[0, 0, 4 * row, 4 * column]
            offset = 1000 * (2 * row + column)
            expected = [blue + 50 + offset, red + 60 + offset + 4000]  # GELU is the identity that far from 0
            np.testing.assert_allclose(y[0, row, column], expected, rtol=1e-6)  # float32 running_var


def test_head_normalises_before_it_pools() -> None:
    x = np.array([[3.0, 1.0], [10.0, 30.0]]).reshape(1, 1, 2, 2).repeat(2, axis=1)
    state = {
        "vit.layernorm.weight": constant(2, 1),
        "vit.layernorm.bias": np.array([0, 5], np.float32),
        "classifier.weight": np.array([[1, 0], [0, 1], [1, 1]], np.float32),
        "classifier.bias": np.array([0, 0, 100], np.float32),
    }
    logits = reference.head(state, x)
    # each token becomes (1, -1) or (-1, 1) whatever its size; their mean is 0
    np.testing.assert_allclose(logits, [[0, 5, 105]], atol=2e-5)  # eps in the layer norm


def test_patches_are_row_major_and_drop_an_odd_edge() -> None:
    x = np.arange(25).reshape(1, 5, 5, 1)
    patches = reference.split_patches(x)
    assert patches.shape == (1, 2, 2, 4, 1)
    np.testing.assert_array_equal(patches[0, :, :, :, 0].reshape(4, 4)[1:3], [[2, 3, 7, 8], [10, 11, 15, 16]])


def test_patch_convolution_reads_the_pixel_of_its_index() -> None:
    x = np.arange(3 * 3 * 2, dtype=np.float64).reshape(1, 3, 3, 2)
    for i in range(2):
        for j in range(2):
            weight = np.zeros((1, 2, 2, 2))
            weight[0, 1, i, j] = 1
            np.testing.assert_array_equal(reference.convolve_patches(x, weight), x[:, i : i + 1, j : j + 1, 1:])


def test_binary_downsampling_by_hand() -> None:
    """Cin = 1, Cout = 2: signs of the moved input, plus the tiled average, plus positions in token order."""
    weight = np.array([[3, -1, -1, -1], [-1, -1, -1, 3]], np.float32).reshape(2, 1, 2, 2)  # scale 1.5
    state = {
        **neutral_norm("d.norm0", 1),
        "d.proj.weight": weight,
        **neutral_norm("d.norm", 2),
        "d.position_embeddings": 100 * np.arange(8, dtype=np.float32).reshape(1, 4, 2),
        "d.move": np.full((1, 1, 1, 1), -10, np.float32),
        **neutral_rprelu("d.rprelu", 2),
    }
    x = np.zeros((1, 4, 4, 1))
    x[0, 0, 2] = 20  # first pixel of the patch at (0, 1); all others are below 10
    y = reference.downsample(state, "d", x, None)
    assert y.shape == (1, 2, 2, 2)
    # bits +1 -1 -1 -1: 1.5 * 4 and 1.5 * 0; average 5
    np.testing.assert_allclose(y[0, 0, 1], [6 + 5 + 200, 0 + 5 + 300], rtol=1e-6)
    # bits all -1: 1.5 * 2 for both
    np.testing.assert_allclose(y[0, 1, 0], [3 + 400, 3 + 500], rtol=1e-6)


def test_float_downsampling_has_no_shortcut() -> None:
    state = {
        **neutral_norm("d.norm0", 1),
        "d.proj.weight": np.array([1, 10, 100, 1000], np.float32).reshape(1, 1, 2, 2),
        **neutral_norm("d.norm", 1),
        "d.position_embeddings": np.array([[[0.5]]], np.float32),
    }
    y = reference.downsample(state, "d", np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 2, 1), None)
    np.testing.assert_allclose(y, [[[[4321.5]]]], rtol=1e-6)
