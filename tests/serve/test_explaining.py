"""POST /explain: what the page shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitvit
from bitvit import serve
from bitvit.serve.application import Application
from tests.support.serving import ask

Encoded = Callable[[int], bytes]


def test_predictions_times_and_heat(app: Application, classifier: bitvit.Classifier, encoded: Encoded) -> None:
    found = ask(app, "POST", "/explain?top_k=2&heat=1", encoded(0)).json()
    best: list[Any] = classifier(encoded(0), top_k=2)
    assert (found["model"], found["predictions"], found["width"], found["height"]) == ("cifar", best, 32, 32)
    assert sorted(found["milliseconds"]) == ["decode", "network", "prepare"]
    assert min(found["milliseconds"].values()) > 0
    explained = classifier.explain(encoded(0)).grid
    grid = np.array(found["heat"]["grid"], np.float32)
    assert grid.shape == explained.shape == (3, 3)
    np.testing.assert_allclose(grid / grid.sum(), explained, rtol=1e-5)
    assert 0 <= grid.min() <= grid.max() <= 1
    preprocessing = classifier.model.preprocessing
    if (preprocessing.resize, preprocessing.pad) == (48, 0):
        assert found["heat"]["box"] == [0, 0, 1, 1]
    assert "heat" not in ask(app, "POST", "/explain?heat=0", encoded(0)).json()
    assert "heat" not in ask(app, "POST", "/explain", encoded(0)).json()


def test_a_model_that_cannot_be_traced_has_no_heat(tiny: Path, encoded: Encoded) -> None:
    class Wrapped:
        def __init__(self, model: bitvit.BHViT) -> None:
            self.config, self.preprocessing, self.labels = model.config, model.preprocessing, model.labels
            self.wrapped = model

        def __call__(self, pixels: Any) -> Any:
            return self.wrapped(pixels)

    app = serve.app({"wrapped": bitvit.Classifier(Wrapped(bitvit.load(tiny, threads=1)))})
    found = ask(app, "POST", "/explain?heat=1", encoded(0)).json()
    assert "heat" not in found
    assert found["predictions"] == ask(app, "POST", "/classify", encoded(0)).json()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/explain", "7 bytes of data: not an image"),
        ("/explain?heat=2", "heat: is '2', expected 0 or 1"),
        ("/explain?top_k=x", "top_k: is 'x'"),
        ("/explain?x=1", "query: 'x', expected model, top_k, heat"),
    ],
)
def test_what_is_wrong_is_said(app: Application, target: str, said: str) -> None:
    answer = ask(app, "POST", target, b"nothing")
    assert (answer.status, said in answer.error) == (400, True), answer.body
