"""Classifier: every kind of image and of collection, with a model that answers with the images' colours."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitvit.classify import Classifier
from bitvit.errors import ConfigError, ImageError
from bitvit.images import ImageSource
from bitvit.preprocess import Preprocessing
from tests.support.colours import Colours, patch

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
    sources = (path, str(path), path.read_bytes(), Image.fromarray(GREEN), GREEN)
    assert all(classify(source) == classify(GREEN) for source in sources)


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


@pytest.mark.parametrize("images", [None, 5, {"a": RED}])
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
        classify.logits([RED, RED, np.zeros((3, 3))])  # type: ignore[list-item]


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
