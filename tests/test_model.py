"""The whole engine against the golden logits and traces of the PyTorch model."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import bitvit
from bitvit.runtime.trace import Trace
from bitvit.verify import reference
from tests.support.golden_data import case_names, load_case, trace, trace_names

# Of the spread: honest float32 gives at most 2.4e-6, a single flipped sign 5e-5 and more.
TOLERANCE = 2e-5

CASES = [name for name in case_names() if name != "edge_zeros"]  # refused by name, see test_convert.py


@pytest.mark.parametrize("name", CASES)
def test_golden_logits(name: str, packed: Callable[[str], Path]) -> None:
    case = load_case(name)
    logits = bitvit.load(packed(name), threads=1)(case.input)
    assert logits.dtype == np.float32
    assert logits.shape == case.logits_f64.shape
    assert np.abs(logits - case.logits_f64).max() <= TOLERANCE * case.logits_f64.std()
    assert np.array_equal(logits.argmax(axis=1), case.logits_f64.argmax(axis=1))


@pytest.mark.parametrize("name", CASES)
def test_same_bits_for_any_batch_and_threads(name: str, packed: Callable[[str], Path]) -> None:
    case = load_case(name)
    alone = bitvit.load(packed(name), threads=1)
    expected = alone(case.input).tobytes()
    together = bitvit.load(packed(name), threads=2)
    assert together(case.input).tobytes() == expected
    for model in (alone, together):
        assert b"".join(model(case.input[i : i + 1]).tobytes() for i in range(2)) == expected
    three = together(case.input[[0, 1, 0]])  # two images apart, then one together
    assert three.tobytes() == expected + expected[: len(expected) // 2]


@pytest.mark.parametrize("name", trace_names())
def test_golden_traces_block_by_block(name: str, packed: Callable[[str], Path]) -> None:
    """Each block is fed the recorded output of the block before it; what it binarises must agree exactly."""
    case, expected = load_case(name), trace(name)
    model = bitvit.load(packed(name), threads=1)
    engine = Trace(model.runner)
    engine.workspace.set_image(case.input[0])
    compared = _compare(engine, "stem", None, expected["vit.embeddings"]) if "vit.embeddings" in expected else 0
    before = expected.get("vit.embeddings")
    parts = [place.name for place in model.config.places()][1:-1]  # those between stem and head
    for (prefix, _), layer in zip(reference.schedule(model.config.depths), parts, strict=True):
        after = expected.get(prefix)
        if before is not None and after is not None:
            compared += _compare(engine, layer, before, after, prefix, expected)
        before = after
    assert compared > 0


def _compare(
    engine: Trace,
    layer: str,
    x: NDArray[np.float32] | None,
    expected: NDArray[np.float32],
    prefix: str = "",
    traces: dict[str, NDArray[np.generic]] | None = None,
) -> int:
    got, signs = engine.run_layer(layer, None if x is None else x[0], expected.shape[1], expected.shape[3])
    assert np.abs(got - expected[0]).max() <= TOLERANCE * expected.std(), layer
    for name, values in signs.items():
        recorded = (traces or {}).get(f"{prefix}.{name}")
        if recorded is not None:
            assert np.array_equal(values, recorded), f"{layer} {name}"
    scores = (traces or {}).get(f"{prefix}.attention.attention.scores")
    if scores is not None:
        integers = scores.astype(np.int64)
        distances = (integers.max(axis=-1, keepdims=True) - integers) // 2
        assert np.array_equal(signs["attention.attention.distances"], distances), layer
    return 1


def test_pixels_of_another_shape_are_refused(packed: Callable[[str], Path]) -> None:
    model = bitvit.load(packed("micro96_pth"))
    for shape in ((3, 96, 96), (1, 3, 96, 95), (1, 96, 96, 3)):
        with pytest.raises(ValueError, match=r"expected \(batch, 3, 96, 96\)"):
            model(np.zeros(shape, np.float32))


def test_an_empty_batch_gives_no_logits(packed: Callable[[str], Path]) -> None:
    for threads in (1, 2):
        model = bitvit.load(packed("micro96_pth"), threads=threads)
        assert model(np.zeros((0, 3, 96, 96), np.float32)).shape == (0, model.config.num_classes)


def test_float64_and_strided_pixels_are_taken(packed: Callable[[str], Path]) -> None:
    case = load_case("micro96_pth")
    model = bitvit.load(packed("micro96_pth"))
    channels_last = np.ascontiguousarray(case.input.transpose(0, 2, 3, 1))
    assert np.array_equal(model(channels_last.transpose(0, 3, 1, 2)), model(case.input))
    assert np.array_equal(model(case.input.astype(np.float64)), model(case.input))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_bad_image_does_not_spoil_the_next(bad: float, threads: int, packed: Callable[[str], Path]) -> None:
    """NaN reaches pad lanes, which are multiplied by zero weights; they must be cleared."""
    case = load_case("micro160_odd")
    model = bitvit.load(packed("micro160_odd"), threads=threads)
    expected = model(case.input)
    broken = case.input.copy()
    broken[0, 1, 50, 50] = bad
    assert not np.isfinite(model(broken[:1])).all()
    assert np.array_equal(model(case.input), expected)
    both = model(broken)
    assert not np.isfinite(both[0]).all()
    assert np.array_equal(model(case.input), expected)


def test_threads_must_be_positive(packed: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="threads is 0"):
        bitvit.load(packed("micro96_pth"), threads=0)


def test_a_model_without_classifier_gives_pooled_features(tmp_path: Path) -> None:
    case = load_case("micro96_somefp")
    state = {name: array for name, array in case.state.items() if not name.startswith("classifier.")}
    save_file(state, tmp_path / "checkpoint.safetensors")
    bitvit.convert(tmp_path / "checkpoint.safetensors", tmp_path / "model.safetensors", config=dict(case.config))
    features = bitvit.load(tmp_path / "model.safetensors")(case.input)
    expected = reference.forward(state, case.input, **case.geometry)
    assert features.shape == (2, case.config["hidden_size"][3])
    assert np.abs(features - expected).max() <= TOLERANCE * expected.std()


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_loaded_model_is_not_taken_to_another_process(
    copied: Callable[[object], object], called: bool, tiny: Path
) -> None:
    """It would take addresses along. Nor does it matter whether it has been used."""
    classifier = bitvit.Classifier(tiny, threads=2)
    model = bitvit.load(tiny, threads=2)
    if called:
        size = model.config.image_size
        model(np.zeros((1, 3, size, size), np.float32))
        classifier(np.zeros((size, size, 3), np.uint8))
    for loaded in (model, classifier, model.runner):
        with pytest.raises(TypeError, match="cannot be pickled or deep-copied; load it from its file where it is"):
            copied(loaded)
