"""POST /classify: Hugging Face's image classification, however the image is sent."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bitvit
from bitvit.serve.application import Application
from tests.support.serving import Answer, ask

Encoded = Callable[[int], bytes]


def form(*parts: tuple[str, str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A multipart body of (name, file's name or "", content), and its header."""
    body = b""
    for name, file, content in parts:
        named = f'; filename="{file}"' if file else ""
        body += f'--XX\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--XX--\r\n", {"Content-Type": "multipart/form-data; boundary=XX"}


def as_json(image: bytes, **parameters: Any) -> dict[str, Any]:
    return {"inputs": base64.b64encode(image).decode(), **({"parameters": parameters} if parameters else {})}


def test_all_ways_to_send_an_image_give_what_the_classifier_gives(
    app: Application, classifier: bitvit.Classifier, encoded: Encoded
) -> None:
    image = encoded(1)
    best: list[Any] = classifier(image, top_k=3)
    url = f"data:image/bmp;base64,{base64.encodebytes(image).decode()}"
    answers = [
        ask(app, "POST", "/classify?top_k=3", image),
        ask(app, "POST", "/classify?top_k=3&model=cifar", image, {"Content-Type": "application/json"}),
        ask(app, "POST", "/classify?top_k=3", image, {"Content-Type": "application/x-www-form-urlencoded"}),
        ask(app, "POST", "/classify", as_json(image, top_k=3)),
        ask(app, "POST", "/classify?top_k=9", as_json(image, top_k=3, function_to_apply="softmax")),
        ask(app, "POST", "/classify?top_k=3", {"inputs": url, "parameters": None}),
        ask(app, "POST", "/classify?top_k=3", *form(("anything", "a.bmp", image))),
        ask(app, "POST", "/classify", *form(("top_k", "", b"3"), ("f", "x", image))),
    ]
    assert [answer.json() for answer in answers] == [best] * len(answers)


def test_without_parameters_there_are_five_classes_and_with_many_all(app: Application, encoded: Encoded) -> None:
    assert len(ask(app, "POST", "/classify", encoded(0)).json()) == 5
    assert len(ask(app, "POST", "/classify?top_k=1000000", encoded(0)).json()) == 10


@pytest.mark.parametrize("function", ["none", "sigmoid"])
def test_other_functions_of_the_logits(
    app: Application, classifier: bitvit.Classifier, encoded: Encoded, function: str
) -> None:
    logits = classifier.logits(encoded(0))[0].astype(np.float64)
    expected = logits if function == "none" else 1 / (1 + np.exp(-logits))
    found = ask(app, "POST", f"/classify?top_k=10&function_to_apply={function}", encoded(0)).json()
    assert [item["index"] for item in found] == np.argsort(-logits, kind="stable").tolist()
    assert [item["score"] for item in found] == pytest.approx(np.sort(expected)[::-1].tolist())
    assert found == ask(app, "POST", "/classify", as_json(encoded(0), top_k=10, function_to_apply=function)).json()


PART = 'Content-Disposition: form-data; name="f"; filename="x"'


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda app: ask(app, "POST", "/classify"), "the body has no image"),
        (lambda app: ask(app, "POST", "/classify", b"nothing"), "7 bytes of data: not an image"),
        (lambda app: ask(app, "POST", "/classify", b"{"), "the body begins as JSON but is not"),
        (lambda app: ask(app, "POST", "/classify", b' \n{"inputs": NaN}'), "the body begins as JSON but is not"),
        (lambda app: ask(app, "POST", "/classify", {"inputs": 1}), "inputs: is 1, expected an image file in base64"),
        (lambda app: ask(app, "POST", "/classify", {"inputs": ""}), "the body has no image"),
        (lambda app: ask(app, "POST", "/classify", {}), "inputs: is None"),
        (lambda app: ask(app, "POST", "/classify", {"image": ""}), "the body has ['image'], expected inputs and"),
        (lambda app: ask(app, "POST", "/classify", {"inputs": "", "parameters": 1}), "parameters: is 1"),
        (lambda app: ask(app, "POST", "/classify", as_json(b"x", k=1)), "parameters: has ['k']"),
        (lambda app: ask(app, "POST", "/classify", as_json(b"x", top_k=0)), "top_k: is 0, expected a whole number"),
        (lambda app: ask(app, "POST", "/classify", as_json(b"x", top_k=True)), "top_k: is True"),
        (lambda app: ask(app, "POST", "/classify", as_json(b"x", top_k=1.5)), "top_k: is 1.5"),
        (lambda app: ask(app, "POST", "/classify?top_k=-1", b"x"), "top_k: is '-1'"),
        (lambda app: ask(app, "POST", "/classify?top_k=99999999", b"x"), "top_k: is '99999999'"),
        (lambda app: ask(app, "POST", "/classify", as_json(b"x", function_to_apply="relu")), "is 'relu', expected one"),
        (lambda app: ask(app, "POST", "/classify", as_json(b"x", function_to_apply=[])), "function_to_apply: is []"),
        (lambda app: ask(app, "POST", "/classify?k=1", b"x"), "query: 'k', expected model, top_k, function_to_apply"),
        (lambda app: ask(app, "POST", "/classify?top_k=1&top_k=2", b"x"), "'top_k' is there 2 times"),
        (lambda app: ask(app, "POST", "/classify?model=%ff", b"x"), "the query is not one"),
        (lambda app: ask(app, "POST", "/classify", *form()), "the form has no file, expected one"),
        (
            lambda app: ask(app, "POST", "/classify", *form(("a", "x", b"x"), ("b", "y", b"y"))),
            "the form has several files",
        ),
        (lambda app: ask(app, "POST", "/classify", *form(("a", "", b"x"))), "the form has a field 'a'"),
        (lambda app: ask(app, "POST", "/classify", *form(*[("top_k", "", b"1")] * 2)), "the form has top_k twice"),
        (lambda app: ask(app, "POST", "/classify", *form(("a", "x", b""))), "the body has no image"),
        (lambda app: ask(app, "POST", "/classify", b"x", form()[1]), "the form cannot be read"),
        (lambda app: ask(app, "POST", "/classify", b"x", {"Content-Type": "multipart/form-data"}), "boundary"),
        (lambda app: ask(app, "POST", "/classify", f"--XX\r\n{PART}\r\n\r\nab".encode(), form()[1]), "form"),
    ],
)
def test_what_is_wrong_is_said(app: Application, answer: Callable[[Application], Answer], said: str) -> None:
    found = answer(app)
    assert (found.status, said in found.error) == (400, True), found.body
    assert json.loads(found.body)
