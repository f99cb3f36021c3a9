"""The whole engine against the golden logits and traces of the PyTorch model."""

import copy
import dataclasses
import io
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import bitvit
from bitvit.errors import ModelFileError
from bitvit.model import BHViT
from bitvit.modelfile import load_model_file, save_model_file
from bitvit.runtime.trace import Trace
from bitvit.verify import reference
from tests.support.golden_data import case_names, load_case, trace, trace_names
from tests.support.patience import patience

# Of the spread: honest float32 gives at most 2.4e-6, a single flipped sign 5e-5 and more.
TOLERANCE = 2e-5

CASES = [name for name in case_names() if name != "edge_zeros"]  # refused by name, see test_pack.py


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


@pytest.mark.parametrize("threads", [0, -1, 2.0, "2", True])
def test_threads_must_be_a_number_above_zero(threads: Any, packed: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=f"threads is {threads!r}, expected a whole number of at least 1, or None"):
        bitvit.load(packed("micro96_pth"), threads=threads)


@pytest.mark.parametrize("path", [b"model.safetensors", None, io.BytesIO(b"model"), 3])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(TypeError, match=f"path: is of type {type(path).__name__}, expected the path of a packed model"):
        bitvit.load(path)


def test_a_model_without_classifier_gives_pooled_features(tmp_path: Path) -> None:
    case = load_case("micro96_somefp")
    state = {name: array for name, array in case.state.items() if not name.startswith("classifier.")}
    save_file(state, tmp_path / "checkpoint.safetensors")
    bitvit.convert(tmp_path / "checkpoint.safetensors", tmp_path / "model.safetensors", config=dict(case.config))
    features = bitvit.load(tmp_path / "model.safetensors")(case.input)
    expected = reference.forward(state, case.input, **case.geometry)
    assert features.shape == (2, case.config["hidden_size"][3])
    assert np.abs(features - expected).max() <= TOLERANCE * expected.std()


# -------------------------------------------------------------------------------------------------- pickles and copies
def taken_along(model: BHViT, pixels: NDArray[np.float32]) -> tuple[bytes, int, str]:
    """What a worker process finds."""
    return model(pixels).tobytes(), model.threads, repr(model)


def pickled(model: BHViT, protocol: int = pickle.HIGHEST_PROTOCOL) -> BHViT:
    restored = pickle.loads(pickle.dumps(model, protocol))
    assert isinstance(restored, BHViT)
    return restored


@pytest.fixture
def pixels(tiny: Path) -> NDArray[np.float32]:
    size = load_model_file(tiny).config.image_size
    return np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, *(partial(pickled, protocol=protocol) for protocol in range(6))]
)
def test_a_copy_is_the_same_model(
    copied: Callable[[BHViT], BHViT], called: bool, tiny: Path, pixels: NDArray[np.float32]
) -> None:
    model = bitvit.load(tiny, threads=2)
    if called:
        model(pixels)
    other = copied(model)
    assert other is not model
    assert np.array_equal(other(pixels), model(pixels))
    assert (other.config, other.preprocessing, other.labels) == (model.config, model.preprocessing, model.labels)
    assert repr(other) == repr(model)


def test_a_pickle_needs_no_file(tiny: Path, pixels: NDArray[np.float32], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny.read_bytes())
    model = bitvit.load(path, threads=1)
    data = pickle.dumps(model)
    path.unlink()
    restored = pickle.loads(data)
    assert np.array_equal(restored(pixels), model(pixels))
    assert np.array_equal(pickled(restored)(pixels), model(pixels))  # it takes its bytes further
    assert np.array_equal(copy.deepcopy(model)(pixels), model(pixels))


def test_a_model_whose_file_has_changed_is_not_pickled(tiny: Path, tmp_path: Path) -> None:
    """It would come back as another."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny.read_bytes())
    model = bitvit.load(path)
    file = load_model_file(path)
    facts = {"config": file.config, "preprocessing": file.preprocessing, "source_sha256": file.source_sha256}
    save_model_file(path, file.tensors, labels=None, **facts)  # type: ignore[arg-type]
    with pytest.raises(
        ModelFileError, match=r"model\.safetensors: changed since the model was loaded, .* load it again"
    ):
        pickle.dumps(model)
    path.unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors: does not exist"):
        pickle.dumps(model)


def test_the_file_is_found_from_another_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: NDArray[np.float32]
) -> None:
    monkeypatch.chdir(tiny.parent)
    model = bitvit.load(tiny.name)
    monkeypatch.chdir(tmp_path)
    assert pickled(model).path == Path(tiny.name)
    assert np.array_equal(pickled(model)(pixels), model(pixels))


def test_what_was_set_after_loading_is_kept(tiny: Path) -> None:
    model = bitvit.load(tiny)
    model.preprocessing = dataclasses.replace(model.preprocessing, mean=(0.1, 0.2, 0.3))
    model.labels = tuple(f"class {number}" for number in range(model.config.num_classes))
    for other in (pickled(model), copy.copy(model)):
        assert (other.preprocessing, other.labels) == (model.preprocessing, model.labels)


@pytest.mark.parametrize(("threads", "on_two", "on_four"), [(None, 2, 4), (3, 2, 3), (1, 1, 1)])
def test_threads_are_counted_anew(
    threads: int | None, on_two: int, on_four: int, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another machine has them, and as they were asked for."""
    monkeypatch.setattr("bitvit.runtime.runner.available_threads", lambda: 2)
    model = bitvit.load(tiny, threads=threads)
    assert model.threads == on_two
    monkeypatch.setattr("bitvit.runtime.runner.available_threads", lambda: 4)
    other = pickled(model)
    assert other.threads == on_four
    monkeypatch.setattr("bitvit.runtime.runner.available_threads", lambda: 2)
    assert pickled(other).threads == on_two


def test_a_spawned_process_gets_the_model(tiny: Path, pixels: NDArray[np.float32]) -> None:
    model = bitvit.load(tiny, threads=1)
    expected = taken_along(model, pixels)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(taken_along, model, pixels).result(timeout=patience(100)) == expected


def test_a_subclass_stays_one(tiny: Path) -> None:
    model = Named(load_model_file(tiny), threads=1)
    model.name = "mine"
    for other in (pickled(model), copy.copy(model), copy.deepcopy(model)):
        assert isinstance(other, Named)
        assert other.name == "mine"


class Named(BHViT):
    name = ""


def test_a_runner_belongs_to_its_process(tiny: Path) -> None:
    runner = bitvit.load(tiny, threads=1).runner
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="a runner cannot be pickled or deep-copied; pickle the model"):
            copied(runner)


def test_a_model_says_what_it_is(tiny: Path) -> None:
    model = bitvit.load(tiny, threads=1)
    size, classes = model.config.image_size, model.config.num_classes
    assert repr(model) == f"<bitvit.BHViT '{tiny}', {size} x {size} pixels, {classes} classes, 1 thread>"
