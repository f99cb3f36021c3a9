"""Classifier: every kind of image and of collection, with a model that answers with the images' colours."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import bitvit
from bitvit.classify import Classifier
from bitvit.errors import ConfigError, ImageError
from bitvit.images import ImageSource
from bitvit.model import BHViT
from bitvit.preprocess import Preprocessing
from tests.support.colours import Colours, patch
from tests.support.runtime import load_with_team, tireless_team
from tests.support.uploads import Arrayable, Response, Row, Upload

RED, GREEN, BLUE = patch(255, 0, 0), patch(0, 255, 0), patch(0, 0, 255)


def tops(results: Any) -> list[str]:
    return [predictions[0]["label"] for predictions in results]


def test_one_image_gives_a_list_of_predictions() -> None:
    best, *others = Classifier(Colours())(patch(0, 102, 255))
    assert best["label"] == "blue"
    assert best["index"] == 2
    powers = np.exp(np.array([0.0, 4.0, 10.0]))
    assert best["score"] == pytest.approx(powers[2] / powers.sum(), rel=1e-6)
    assert [other["label"] for other in others] == ["green", "red"]
    assert [type(value) for value in best.values()] == [str, int, float]


def test_every_source_gives_the_same_answer(tmp_path: Path) -> None:
    path = tmp_path / "green.png"
    Image.fromarray(GREEN).save(path)
    classify = Classifier(Colours())
    data = path.read_bytes()
    for source in (path, str(path), data, bytearray(data), io.BytesIO(data), Image.fromarray(GREEN), Arrayable(GREEN)):
        expected = classify(GREEN)
        assert classify(source) == expected
        assert classify([source, source]) == [expected, expected]
        assert list(classify(iter([source]))) == [expected]
        assert list(classify.attempt(source)) == [expected]
        assert np.array_equal(classify.logits(source), classify.logits(GREEN))
        assert np.array_equal(classify.logits([source]), classify.logits(GREEN))
        (crop, turned) = classify.prepare(0, source)  # type: ignore[misc]
        assert (crop.shape, turned) == ((32, 32, 3), False)


def test_an_upload_may_be_saved_before_or_afterwards() -> None:
    """Before, it stands at its end, and was answered with an empty list; afterwards all of it must be saved."""
    file = io.BytesIO()
    Image.fromarray(BLUE).save(file, "PNG")
    data, classify = file.getvalue(), Classifier(Colours())
    upload = Upload(io.BytesIO(data), "blue.png")
    assert upload.read() == data
    assert tops([classify(upload)]) == ["blue"]
    assert classify.logits(upload).shape == (1, 3)
    upload.seek(0)
    assert tops([classify(upload)]) == ["blue"]
    assert upload.read() == data


def test_an_empty_upload_is_no_empty_answer() -> None:
    classify = Classifier(Colours())
    for use in (classify, classify.logits, lambda upload: next(classify.attempt(upload))):
        for source in (io.BytesIO(), Upload(io.BytesIO(), "a.png"), Response(b""), b""):
            try:
                outcome = use(source)
            except ImageError as error:
                outcome = error
            assert "is empty; copy or download the image again" in str(outcome)


def test_a_column_of_a_table_is_a_collection(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for path, image in zip(paths, (RED, BLUE), strict=True):
        Image.fromarray(image).save(path)
    classify = Classifier(Colours())
    for column in (np.array(paths), np.array(paths, object), Row(paths)):
        assert tops(classify(column)) == ["red", "blue"]


def test_a_list_gives_a_list_of_lists() -> None:
    classify = Classifier(Colours())
    assert tops(classify([RED, BLUE, GREEN])) == ["red", "blue", "green"]
    assert tops(classify((RED, BLUE))) == ["red", "blue"]
    assert classify([]) == []


def test_an_iterator_is_answered_lazily_in_order_and_in_small_batches() -> None:
    taken: list[int] = []

    def endless() -> Iterator[NDArray[np.uint8]]:
        while True:
            taken.append(len(taken))
            yield (RED, GREEN, BLUE)[len(taken) % 3]

    model = Colours()
    results = Classifier(model, batch_size=4)(endless())
    assert taken == []
    assert tops([next(results) for _ in range(6)]) == ["green", "blue", "red", "green", "blue", "red"]
    assert len(taken) == 8
    assert model.batches == [4, 4]


@pytest.mark.parametrize(("size", "batches"), [(8, [4]), (3, [3, 1]), (1, [1] * 4)])
def test_batch_size(size: int, batches: list[int]) -> None:
    model = Colours()
    assert tops(Classifier(model, batch_size=size)([RED, GREEN, BLUE, RED])) == ["red", "green", "blue", "red"]
    assert model.batches == batches


def test_logits() -> None:
    classify = Classifier(Colours())
    assert np.array_equal(classify.logits([RED, BLUE]), np.array([[10, 0, 0], [0, 0, 10]], np.float32))
    assert np.array_equal(classify.logits(iter([GREEN])), np.array([[0, 10, 0]], np.float32))
    assert classify.logits(GREEN).shape == (1, 3)
    assert classify.logits([]).shape == (0, 3)
    assert classify.logits([]).dtype == classify.logits(RED).dtype == np.float32


def test_labels_default_to_numbers() -> None:
    assert tops(Classifier(Colours(labels=None))([BLUE])) == ["LABEL_2"]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_top_k_is_capped_at_the_number_of_classes(top_k: int, count: int) -> None:
    assert len(Classifier(Colours())(RED, top_k=top_k)) == count


def test_equal_scores_come_in_the_order_of_the_classes() -> None:
    assert [best["index"] for best in Classifier(Colours())(patch(9, 9, 9))] == [0, 1, 2]


def test_scores_of_extreme_logits_are_finite() -> None:
    model = Colours()
    model.preprocessing = Preprocessing.for_image_size(32, mean=(0, 0, 0), std=(1e-4, 1, 1))  # logits up to 1e5
    assert [best["score"] for best in Classifier(model)(RED)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, None])
def test_wrong_top_k_is_refused_at_once(top_k: Any) -> None:
    classify = Classifier(Colours())
    for images in (RED, [RED], iter([RED])):
        with pytest.raises(ValueError, match=r"top_k is .*, expected a whole number of at least 1"):
            classify(images, top_k=top_k)
    with pytest.raises(ValueError, match="top_k is"):
        classify.attempt([RED], top_k=top_k)


def test_wrong_batch_size() -> None:
    with pytest.raises(ValueError, match="batch_size is 0, expected a whole number of at least 1"):
        Classifier(Colours(), batch_size=0)


def test_threads_belong_to_loading() -> None:
    with pytest.raises(ValueError, match=r"threads: the model is loaded already; give bitvit.load its threads"):
        Classifier(Colours(), threads=2)


def test_model_without_a_classifier() -> None:
    with pytest.raises(ConfigError, match=r"the model has no classifier \(0 classes\)"):
        Classifier(Colours(labels=None, classes=0))


@pytest.mark.parametrize("images", [None, 5, {"a": RED}, np.float32(5), object(), patch, io.BytesIO])
def test_something_else_than_images_is_refused_at_once(images: Any) -> None:
    classify = Classifier(Colours())
    for use in (classify, classify.logits, classify.attempt):
        with pytest.raises(
            ImageError, match=r"images: is of type \w+, expected a path, .* or a list or iterator of them"
        ):
            use(images)


def test_a_bad_image_is_named_by_its_path_or_number(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (5, 5)).save(small)
    classify = Classifier(Colours())
    with pytest.raises(ImageError, match=r"^nothing.png: no such file"):
        classify([RED, "nothing.png"])
    with pytest.raises(ImageError, match=r"small.png: image of 5 x 5 pixels, expected exactly 32 x 32"):
        classify(small)
    with pytest.raises(ImageError, match=r"^image 1: 1 byte of data: not an image"):
        classify([RED, b"x"])
    with pytest.raises(ImageError, match=r"^image 2: image: array float64"):
        classify.logits([RED, RED, np.zeros((3, 3))])


def test_an_iterator_fails_at_the_bad_image_not_before() -> None:
    images: list[ImageSource] = [RED, b"x", BLUE]
    results = Classifier(Colours())(iter(images))
    assert next(results)[0]["label"] == "red"
    with pytest.raises(ImageError, match="image 1"):
        next(results)


def test_attempt_goes_on_after_a_bad_image() -> None:
    model = Colours()
    results = list(Classifier(model, batch_size=2).attempt(iter([b"x", RED, b"y", b"z", BLUE]), top_k=1))
    errors = [str(result).split(":")[0] for result in results if isinstance(result, ImageError)]
    assert errors == ["image 0", "image 2", "image 3"]
    assert tops([results[1], results[4]]) == ["red", "blue"]
    assert model.batches == [1, 1]  # nothing to compute for the second pair


def test_images_are_not_kept_open() -> None:
    file = io.BytesIO()
    Image.fromarray(RED).save(file, "PNG")
    classify = Classifier(Colours())
    assert classify(file.getvalue()) == classify(RED)  # an open file would be a ResourceWarning, an error here


# ------------------------------------------------------------------------------------------------------- orientation
def photo(orientation: int | None) -> bytes:
    """The upper half red, the lower one blue; or the other way round, where 3 says that it is upside down."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.concatenate([patch(255, 0, 0)[:20], patch(0, 0, 255)[20:]])).save(file, "PNG", exif=exif)
    return file.getvalue()


def test_orientation_is_ignored_and_counted_or_obeyed() -> None:
    upright, turned = photo(None), photo(3)
    ignoring, obeying = Classifier(Colours()), Classifier(Colours(), exif=True)
    for classify, count in ((ignoring, 1), (obeying, 0)):
        assert classify.turned == 0
        classify(turned)
        assert classify.turned == count
        list(classify(iter([upright, turned, b"x"][:2])))
        list(classify.attempt([b"x", turned]))
        classify.logits([turned, turned, photo(1)])
        assert classify.turned == 5 * count
    upside_down = Image.open(io.BytesIO(turned)).transpose(Image.Transpose.ROTATE_180)
    as_stored, as_meant = ignoring.prepare(0, turned), obeying.prepare(0, turned)
    assert not isinstance(as_stored, ImageError)
    assert not isinstance(as_meant, ImageError)
    assert (as_stored.turned, as_meant.turned) == (True, False)
    assert np.array_equal(as_stored.crop, obeying.prepare(0, np.asarray(Image.open(io.BytesIO(turned))))[0])  # type: ignore[index]
    assert np.array_equal(as_meant.crop, ignoring.prepare(0, np.asarray(upside_down))[0])  # type: ignore[index]


def test_explain_counts_and_obeys_too(tiny: Path) -> None:
    ignoring, obeying = Classifier(tiny, threads=1), Classifier(tiny, threads=1, exif=True)
    for classify, colour, count in ((ignoring, (255, 0, 0), 1), (obeying, (0, 0, 255), 0)):
        explanation = classify.explain(photo(3))
        assert explanation.image.getpixel((0, 0)) == colour
        assert classify.turned == count
        assert explanation.predictions == classify(photo(3))


# --------------------------------------------------------------------------------------------------- copies and names
def pickled(value: Any, protocol: int = pickle.HIGHEST_PROTOCOL) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, *(partial(pickled, protocol=protocol) for protocol in range(6))]
)
def test_a_copy_has_the_same_settings(copied: Callable[[Classifier], Classifier], tiny: Path) -> None:
    classify = Classifier(tiny, threads=1, batch_size=3, exif=True)
    classify.labels = tuple(f"class {number}" for number in range(len(classify.labels)))
    size = classify.model.config.image_size
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    other = copied(classify)
    assert (other.batch_size, other.exif, other.labels) == (3, True, classify.labels)
    assert repr(other) == repr(classify)
    assert other(image) == classify(image)
    assert other.turned == 0


def test_results_and_errors_are_pickled(tiny: Path) -> None:
    classify = Classifier(tiny, threads=1)
    size = classify.model.config.image_size
    explanation = classify.explain(patch(9, 99, 199)[:size, :size])
    again = pickled(explanation)
    assert again.predictions == explanation.predictions
    assert np.array_equal(again.heat, explanation.heat)
    assert again.overlay().tobytes() == explanation.overlay().tobytes()
    error = classify.prepare(3, b"x")
    assert isinstance(error, ImageError)
    for copied in (copy.copy, copy.deepcopy, pickled):
        assert (type(copied(error)), str(copied(error))) == (ImageError, str(error))


def test_it_says_what_it_is(tiny: Path) -> None:
    assert repr(Classifier(Colours())) == "<bitvit.Classifier Colours, 32 x 32 pixels, 3 classes, batches of 8>"
    classify = Classifier(tiny, threads=1, batch_size=2, exif=True)
    size, classes = classify.model.config.image_size, len(classify.labels)
    assert repr(classify) == (
        f"<bitvit.Classifier '{tiny}', {size} x {size} pixels, {classes} classes, 1 thread, batches of 2, "
        "turned upright by EXIF>"
    )


@pytest.mark.parametrize("model", [None, 5, b"model", io.BytesIO(), {"config": 1}, patch])
def test_something_else_than_a_model(model: Any) -> None:
    with pytest.raises(
        TypeError, match=r"model: is of type \w+, expected the path of a packed model, or a model as bit"
    ):
        Classifier(model)


# ------------------------------------------------------------------------------------------------------- many threads
@pytest.fixture
def folder(tmp_path: Path, tiny: Path) -> list[Path]:
    """Images, of which two cannot be read and one is turned."""
    size = bitvit.load(tiny, threads=1).config.image_size
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number:02}.png" for number in range(30)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(path)
    paths[3].write_bytes(b"<html>")
    paths[17].unlink()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(paths[5]).save(paths[5], exif=exif)
    return paths


def opened(path: Path) -> Image.Image:
    """Which is not decoded before somebody wants its pixels."""
    return Image.open(io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_give_the_same_answers(threads: int, batch_size: int, tiny: Path, folder: list[Path]) -> None:
    """Labels, scores, logits, order and errors, of lists and iterators, of paths, bytes, arrays and PIL images."""
    alone = Classifier(tiny, threads=1)
    model = load_with_team(tiny, tireless_team(threads))
    classify = Classifier(model, batch_size=batch_size)
    assert model.threads == threads
    expected = [
        [str(item) if isinstance(item, ImageError) else item for item in alone.attempt(path)] for path in folder
    ]
    for images in (folder, iter(folder), map(str, folder)):
        found = [str(item) if isinstance(item, ImageError) else item for item in classify.attempt(images)]
        assert found == [one for (one,) in expected]
    assert (alone.turned, classify.turned) == (1, 3)
    good = [path for number, path in enumerate(folder) if number not in (3, 17)]
    logits = np.concatenate([alone.logits(path) for path in good])
    sources: list[Any] = [
        good, [path.read_bytes() for path in good], [np.asarray(Image.open(path)) for path in good],
        [opened(path) for path in good], map(opened, good), (io.BytesIO(path.read_bytes()) for path in good),
    ]  # fmt: skip
    for images in sources:
        assert np.array_equal(classify.logits(images), logits)


def test_a_buffer_may_be_used_for_the_next_image(tiny: Path, folder: list[Path]) -> None:
    classify = Classifier(load_with_team(tiny, tireless_team(3)))
    frames = [np.array(Image.open(path)) for path in folder[6:16]]

    def camera() -> Iterator[NDArray[np.uint8]]:
        buffer = np.zeros_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    assert np.array_equal(classify.logits(camera()), classify.logits(frames))


def test_with_batches_of_one_nothing_is_taken_ahead(tiny: Path, folder: list[Path]) -> None:
    classify = Classifier(load_with_team(tiny, tireless_team(3)), batch_size=1)
    taken: list[Path] = []

    def images() -> Iterator[Path]:
        for path in folder[6:16]:
            taken.append(path)
            yield path

    for number, _ in enumerate(classify(images()), 1):
        assert len(taken) == number


def test_a_model_that_answers_otherwise_is_asked(tiny: Path, folder: list[Path]) -> None:
    class Doubled(BHViT):
        def __call__(self, pixels: Any) -> Any:
            return 2 * super().__call__(pixels)

    model = bitvit.load(tiny, threads=1)
    doubled = copy.copy(model)
    doubled.__class__ = Doubled
    images = folder[6:16]
    assert np.array_equal(Classifier(doubled).logits(images), 2 * Classifier(model).logits(images))
