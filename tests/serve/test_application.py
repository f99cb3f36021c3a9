"""What the application answers, asked as a server asks it."""

import asyncio
import base64
import gzip
import json
import logging
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitvit
from bitvit import serve
from bitvit.serve.application import Application
from bitvit.serve.tensors import pack_bytes
from tests.support.patience import patience
from tests.support.serving import Answer, ask, exchange, scope_of

GETS = ["/", "/models", "/metrics", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"]
MODEL = ["", "/ready", "/versions/1", "/versions/1/ready"]
POSTS = ["/classify", "/explain", "/v2/models/cifar/infer", "/v2/models/cifar/versions/1/infer"]

Encoded = Callable[[int], bytes]


def infer(app: Application, content: dict[str, Any], tail: bytes = b"", **headers: str) -> Answer:
    text = json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if tail:
        named["Inference-Header-Content-Length"] = str(len(text))
    return ask(app, "POST", "/v2/models/cifar/infer", text + tail, named)


def binary_images(*files: bytes, **more: object) -> tuple[dict[str, Any], bytes]:
    data = pack_bytes(files)
    item = {
        "name": "images",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(data)},
    }
    return {"inputs": [item], **more}, data


def outputs(answer: Answer) -> dict[str, Any]:
    """The outputs of an answer in JSON, by name."""
    assert answer.status == 200, answer.body
    return {item["name"]: item for item in answer.json()["outputs"]}


# ------------------------------------------------------------------------------------------------------------- paths
@pytest.mark.parametrize("path", [*GETS, *(f"/v2/models/cifar{end}" for end in MODEL)])
def test_what_can_be_got(app: Application, path: str) -> None:
    """With HEAD too, and a slash at the end; any other method is told what there is."""
    answer = ask(app, "GET", path)
    assert answer.status == 200
    assert ask(app, "GET", path.rstrip("/") + "/").status == 200
    head = ask(app, "HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers.keys() == answer.headers.keys()
    for method in ("POST", "DELETE", "OPTIONS", "BREW"):
        refused = ask(app, method, path)
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        assert refused.error.startswith(f"method '{method}', expected GET")


@pytest.mark.parametrize("path", POSTS)
def test_what_can_be_posted(app: Application, path: str) -> None:
    for method in ("GET", "HEAD", "PUT"):
        refused = ask(app, method, path)
        assert (refused.status, refused.headers["allow"]) == (405, "POST")
    body = json.dumps(binary_images()[0] | {"inputs": []}).encode() if "infer" in path else b""
    assert ask(app, "POST", path, body).status == 400
    assert ask(app, "POST", path + "/", body).status == 400


@pytest.mark.parametrize(
    "path", ["/v3", "/v2/models", "/v2/models/x", "/v2/models/x/ready", "/v2/models/cifar/versions/2", "/%0a"]
)
def test_what_is_not_there(app: Application, path: str) -> None:
    answer = ask(app, "GET", path)
    assert answer.status == 404
    assert answer.error


def test_models_that_are_not_there(app: Application) -> None:
    assert ask(app, "POST", "/v2/models/x/infer").status == 404
    assert ask(app, "POST", "/v2/models/cifar/versions/2/infer").status == 404
    assert ask(app, "POST", "/classify?model=x").error == "no model is called 'x'; there are: cifar, tiny"


def test_metadata(app: Application) -> None:
    assert ask(app, "GET", "/v2").json() == {
        "name": "bitvit",
        "version": bitvit.__version__,
        "extensions": ["classification", "binary_tensor_data"],
    }
    model = ask(app, "GET", "/v2/models/cifar").json()
    assert (model["name"], model["versions"]) == ("cifar", ["1"])
    assert [(item["name"], item["datatype"], item["shape"]) for item in model["inputs"]] == [
        ("pixels", "FP32", [-1, 3, 48, 48]),
        ("images", "BYTES", [-1]),
    ]
    assert [(item["name"], item["datatype"], item["shape"]) for item in model["outputs"]] == [
        ("logits", "FP32", [-1, 10]),
        ("label", "BYTES", [-1]),
        ("score", "FP32", [-1]),
    ]
    assert ask(app, "GET", "/v2/models/cifar/versions/1").json() == model
    assert ask(app, "GET", "/v2/models/cifar/ready").json() == {"name": "cifar", "ready": True}
    models = ask(app, "GET", "/models").json()
    assert models["default"] == "cifar"
    assert models["models"][0] == {"name": "cifar", "classes": 10, "image_size": 48}


# ---------------------------------------------------------------------------------------------------------- inference
def test_pixels_as_json_and_as_bytes_give_the_models_logits(app: Application, classifier: bitvit.Classifier) -> None:
    """Bit for bit, without a Content-Type, and with one that is wrong."""
    pixels = np.random.default_rng(0).normal(size=(9, 3, 48, 48)).astype(np.float32)
    expected = classifier.model(pixels)
    item = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape)}
    found = outputs(infer(app, {"inputs": [{**item, "data": pixels.tolist()}], "id": "7"}, Content_Type="text/plain"))
    assert list(found) == ["logits", "label", "score"]
    assert np.array(found["logits"]["data"], np.float32).tobytes() == expected.tobytes()
    assert found["label"]["data"] == [classifier.labels[k] for k in expected.argmax(axis=1)]
    data = pixels.tobytes()
    binary = {**item, "parameters": {"binary_data_size": len(data)}}
    asked = {"inputs": [binary], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}], "id": "7"}
    answer = infer(app, asked, data)
    end = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.body[end:] == expected.tobytes()
    assert json.loads(answer.body[:end]) == {
        "model_name": "cifar",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [9, 10], "parameters": {"binary_data_size": 360}}],
    }


def test_an_id_is_not_invented(app: Application) -> None:
    assert "id" not in infer(app, *binary_images()).json()


def test_images_give_what_the_classifier_gives(
    app: Application, classifier: bitvit.Classifier, encoded: Encoded
) -> None:
    """More than are computed together; files that are no text, and end in zeros; as bytes and as base64."""
    files = [encoded(number) for number in range(10)]
    files[3] += bytes(5)
    expected, best = classifier.logits(files), classifier(files, top_k=1)
    found = outputs(infer(app, *binary_images(*files)))
    assert np.array(found["logits"]["data"], np.float32).reshape(10, 10).tobytes() == expected.tobytes()
    assert found["label"]["data"] == [row[0]["label"] for row in best]
    assert found["score"]["data"] == pytest.approx([row[0]["score"] for row in best], rel=1e-6)
    texts = [base64.b64encode(file).decode() for file in files]
    item = {"name": "images", "datatype": "BYTES", "shape": [10], "data": texts}
    assert outputs(infer(app, {"inputs": [item]})) == found


def test_no_images_are_answered_with_none(app: Application) -> None:
    found = outputs(infer(app, *binary_images()))
    assert [(item["shape"], item["data"]) for item in found.values()] == [([0, 10], []), ([0], []), ([0], [])]


def test_classification(app: Application, classifier: bitvit.Classifier, encoded: Encoded) -> None:
    wanted = [{"name": "logits", "parameters": {"classification": 3}}]
    (found,) = outputs(infer(app, *binary_images(encoded(0), outputs=wanted))).values()
    logits = classifier.logits(encoded(0))[0]
    assert found["shape"] == [1, 3]
    assert found["data"] == [
        f"{logits[p['index']]:f}:{p['index']}:{p['label']}" for p in classifier(encoded(0), top_k=3)
    ]


def test_a_batch_of_more_than_four_megabytes(app: Application) -> None:
    """Where gRPC servers have their limit."""
    data = bytes(160 * 3 * 48 * 48 * 4)
    item = {
        "name": "pixels",
        "datatype": "FP32",
        "shape": [160, 3, 48, 48],
        "parameters": {"binary_data_size": len(data)},
    }
    assert len(data) > 4 << 20
    assert outputs(infer(app, {"inputs": [item]}, data))["logits"]["shape"] == [160, 10]


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_bodies(
    app: Application, tiny: Path, encoded: Encoded, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    """Inference-Header-Content-Length counts unpacked bytes."""
    content, data = binary_images(encoded(0))
    text = json.dumps(content).encode()
    headers = {"Content-Encoding": coding, "Inference-Header-Content-Length": str(len(text))}
    packed = ask(app, "POST", "/v2/models/cifar/infer", pack(text + data), headers)
    assert packed.body == infer(app, content, data).body
    assert ask(app, "POST", "/classify", pack(encoded(0)), headers).status == 200
    small = serve.app(tiny, limits=serve.Limits(body=1 << 20))
    bomb = pack(bytes((1 << 20) + 1))
    assert len(bomb) < 10_000
    assert ask(small, "POST", "/v2/models/tiny/infer", bomb, headers).status == 413
    assert ask(small, "POST", "/classify", bomb, headers).status == 413


def test_a_damaged_image_in_a_batch_is_named(app: Application, encoded: Encoded) -> None:
    refused = infer(app, *binary_images(*map(encoded, range(9)), encoded(0)[:100], encoded(1)))
    assert refused.status == 400
    assert refused.error.startswith("image 9 of 11: 100 bytes of data: cannot be decoded")


def test_pixels_whose_logits_overflow_are_refused(app: Application) -> None:
    data = struct.pack("<f", 3e38) * (3 * 48 * 48)
    item = {
        "name": "pixels",
        "datatype": "FP32",
        "shape": [1, 3, 48, 48],
        "parameters": {"binary_data_size": len(data)},
    }
    answer = infer(app, {"inputs": [item]}, data)
    assert answer.status in (200, 400)
    assert b"NaN" not in answer.body
    if answer.status == 200:
        assert all(isinstance(value, float) for value in outputs(answer)["logits"]["data"])


# ------------------------------------------------------------------------------------------- overload, errors, the end
def test_a_full_queue_is_answered_503_before_the_body_is_read(tiny: Path) -> None:
    app = serve.app(tiny, workers=1, limits=serve.Limits(queue=0))
    app.admission.admitted = 1
    for path in POSTS[:2]:
        refused = asyncio.run(exchange(app, scope_of("POST", path), [None]))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.error == "1 requests are waiting or computed; try again"
    assert ask(app, "GET", "/v2/health/ready").status == 200


def test_limits(tiny: Path) -> None:
    app = serve.app(tiny, limits=serve.Limits(body=100, headers=300, seconds=1))
    assert ask(app, "POST", "/classify", bytes(101)).status == 413
    large = ask(app, "GET", "/v2", headers={"X": "x" * 300})
    assert (large.status, large.headers["connection"]) == (431, "close")
    slow = asyncio.run(exchange(app, scope_of("POST", "/classify"), [b"x", 60.0, b"y"]))
    assert (slow.status, slow.headers["connection"]) == (408, "close")
    assert "1 bytes came" in slow.error


def test_a_client_that_goes_away_gets_no_answer(app: Application) -> None:
    assert asyncio.run(exchange(app, scope_of("POST", "/classify"), [b"x", None])).status == 0
    assert 'bitvit_requests_total{route="/classify",status="499"}' in ask(app, "GET", "/metrics").body.decode()


def test_what_a_client_that_goes_away_asked_for_is_not_computed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, encoded: Encoded
) -> None:
    """Behind a request that takes long; the next is answered as ever."""
    app, release, computed = serve.app(tiny, workers=1), threading.Event(), []
    model, first = app.registry.default, threading.Event()
    crop = model.crop

    def held(image: bytes) -> object:
        computed.append(image)
        first.set()
        assert release.wait(patience(30))
        return crop(image)

    monkeypatch.setattr(model, "crop", held)

    async def everything() -> list[Answer]:
        def post(*parts: bytes | None) -> "asyncio.Task[Answer]":
            return asyncio.create_task(exchange(app, scope_of("POST", "/classify"), parts))

        staying = post(encoded(0))
        await asyncio.to_thread(first.wait, patience(30))
        gone = await post(encoded(2), None)
        assert app.admission.admitted == 1
        release.set()
        return [gone, await staying, await post(encoded(4))]

    assert [answer.status for answer in asyncio.run(everything())] == [0, 200, 200]
    assert computed == [encoded(0), encoded(4)]
    assert 'status="499"' in ask(app, "GET", "/metrics").body.decode()


def test_a_fault_of_the_server_is_500_and_logged(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, encoded: Encoded
) -> None:
    app = serve.app(tiny)
    monkeypatch.setattr(app.registry.default, "of_crops", lambda _: 1 // 0)
    answer = ask(app, "POST", "/classify", encoded(0))
    assert answer.status == 500
    assert answer.error == "an error inside the server, which its log describes"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (bitvit.BitvitError("too little memory to decode"), "too little memory to decode"),
        (MemoryError(), "too little memory; allow the server more"),
    ],
)
def test_a_fault_of_the_machine_is_503(
    problem: Exception,
    told: str,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoded: Encoded,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As too little memory is: whoever asks again may get an answer."""
    app = serve.app(tiny)

    def crop(_: bytes) -> None:
        raise problem

    monkeypatch.setattr(app.registry.default, "crop", crop)
    refused = ask(app, "POST", "/classify", encoded(0))
    assert (refused.status, refused.headers["retry-after"], refused.error) == (503, "1", told)
    assert f"POST /classify: {told}" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_server_about_to_end_is_not_ready_and_closes_connections(tiny: Path, encoded: Encoded) -> None:
    app = serve.app(tiny)
    app.ending = True
    for path in ("/v2/health/ready", "/v2/models/tiny/ready"):
        answer = ask(app, "GET", path)
        assert (answer.status, answer.json()["ready"], answer.headers["connection"]) == (503, False, "close")
    assert ask(app, "GET", "/v2/health/live").json() == {"live": True}
    assert ask(app, "POST", "/classify", encoded(0)).status == 200
    app.close()
    assert ask(app, "POST", "/classify", encoded(0)).status == 503


# ------------------------------------------------------------------------------------------ inside another's server
def test_mounted_below_a_path(app: Application, encoded: Encoded) -> None:
    expected = ask(app, "POST", "/classify", encoded(0)).body
    assert ask(app, "POST", "/classify", encoded(0), root_path="/a/b").body == expected
    assert ask(app, "GET", "/v2/models/cifar", root_path="/a/b/").status in (200, 404)
    assert ask(app, "GET", "", root_path="/a/b").headers["content-type"].startswith("text/html")
    assert ask(app, "GET", "/openapi.json", root_path="/a/b").json()["servers"] == [{"url": "/a/b"}]
    unstripped = {**scope_of("GET", "/v2"), "root_path": "/v"}  # "/v2" is not below "/v"
    assert asyncio.run(exchange(app, unstripped, [b""])).status == 200


def test_lifespan_and_websockets(tiny: Path) -> None:
    app = serve.app(tiny)

    async def talk(kind: str, *received: str) -> list[str]:
        left, sent = [{"type": name} for name in received], []

        async def receive() -> dict[str, Any]:
            return left.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": kind, "path": "/"}, receive, send)
        return sent

    assert asyncio.run(talk("websocket", "websocket.connect")) == ["websocket.close"]
    assert asyncio.run(talk("lifespan", "lifespan.startup", "lifespan.shutdown")) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert app.ending


def test_each_request_is_a_line_in_the_log(
    app: Application, encoded: Encoded, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "bitvit.serve.access"):
        answer = ask(app, "POST", "/classify?model=tiny", encoded(0))
        ask(app, "GET", "/" + "x" * 1000 + "\n")
    first, second = (json.loads(record.getMessage()) for record in caplog.records)
    assert first.pop("milliseconds") > 0
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/classify",
        "status": 200,
        "received": len(encoded(0)),
        "sent": len(answer.body),
        "model": "tiny",
        "images": 1,
    }
    assert (second["status"], len(second["path"])) == (404, 200)


# --------------------------------------------------------------------------------------------------------- arguments
def test_arguments(tiny: Path) -> None:
    with pytest.raises(ValueError, match="workers is 0, expected at least 1"):
        serve.app(tiny, workers=0)
    with pytest.raises(bitvit.ModelFileError):
        serve.app("nothing.safetensors")


# ----------------------------------------------------------------------------------------------------- loading again
def test_loading_again_is_off_unless_asked_for(tiny: Path) -> None:
    app = serve.app(tiny)
    assert ask(app, "POST", "/v2/repository/models/tiny/load").status == 404
    assert ask(app, "POST", "/v2/repository/index").status == 404


def test_loading_again(app: Application) -> None:
    before = app.registry.named("tiny")
    load = "/v2/repository/models/{}/load"
    assert ask(app, "POST", load.format("tiny"), b"{}").json() == {}
    assert app.registry.named("tiny") is not before
    assert ask(app, "POST", load.format("x")).status == 404
    assert ask(app, "POST", load.format("cifar")).status == 409
    assert ask(app, "POST", load.format("tiny"), {"parameters": {"config": "{}"}}).status == 400
    assert ask(app, "POST", load.format("tiny"), headers={"Origin": "http://evil.example"}).status == 403
    assert ask(app, "POST", "/v2/repository/index").json()[1] == {"name": "tiny", "version": "1", "state": "READY"}
    metrics = ask(app, "GET", "/metrics").body.decode()
    assert 'bitvit_model_loads_total{model="tiny",outcome="done"} 1.0' in metrics
    assert 'bitvit_model_loads_total{model="cifar",outcome="failed"} 1.0' in metrics


def test_no_request_fails_while_models_are_loaded_again(tiny: Path, encoded: Encoded) -> None:
    app = serve.app(tiny, workers=2)

    async def load() -> None:
        for _ in range(5):
            await app.reload_all()

    async def everything() -> list[Answer]:
        loading = asyncio.create_task(load())
        found: list[Answer] = []
        while not loading.done() or len(found) < 20:
            pair = [exchange(app, scope_of("POST", "/classify"), [encoded(0)]) for _ in range(4)]
            found += await asyncio.gather(*pair)
        return found

    found = asyncio.run(everything())
    assert {(answer.status, answer.body) for answer in found} == {(200, found[0].body)}
