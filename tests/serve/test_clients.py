"""Real clients, as their users call them, against a running server."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitvit
from tests.support.serving import RunningServer, running

Encoded = Callable[[int], bytes]


@pytest.fixture(scope="module")
def server(cifar_file: Path, tmp_path_factory: pytest.TempPathFactory, classifier: object) -> Iterator[RunningServer]:
    assert classifier  # its kernels are compiled
    with running(tmp_path_factory.mktemp("clients"), f"cifar={cifar_file}", "--allow-load") as server:
        yield server


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)


@pytest.fixture
def triton(server: RunningServer) -> Iterator[Any]:
    module = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    with module.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def test_tritonclients_health_and_metadata(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("cifar")
    assert triton.is_model_ready("cifar", "1")
    assert not triton.is_model_ready("other")
    assert not triton.is_model_ready("cifar", "2")
    assert triton.get_server_metadata()["name"] == "bitvit"
    assert triton.get_model_metadata("cifar", "1") == triton.get_model_metadata("cifar")
    assert triton.get_model_repository_index()[0]["name"] == "cifar"
    triton.load_model("cifar")
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="no model is called 'other'; there are: cifar"):
        triton.get_model_metadata("other")


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [False, True])
def test_tritonclients_pixels(
    triton: Any,
    pixels: np.ndarray[Any, np.dtype[np.float32]],
    classifier: bitvit.Classifier,
    compression: str | None,
    binary: bool,
) -> None:
    """Asked for all outputs, and for each on its own."""
    from tritonclient.http import InferInput, InferRequestedOutput

    expected = classifier.model(pixels)
    given = InferInput("pixels", list(pixels.shape), "FP32")
    given.set_data_from_numpy(pixels, binary_data=binary)
    packing = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
    found = triton.infer("cifar", [given], **packing)
    assert found.as_numpy("logits").tobytes() == expected.tobytes()
    assert found.as_numpy("label").tolist() == [classifier.labels[k].encode() for k in expected.argmax(axis=1)]
    outputs = [InferRequestedOutput("logits", binary), InferRequestedOutput("label", not binary)]
    found = triton.infer("cifar", [given], "1", outputs=outputs, request_id="x", **packing)
    assert found.as_numpy("logits").tobytes() == expected.tobytes()
    assert found.get_response()["id"] == "x"
    assert found.as_numpy("score") is None
    top = triton.infer("cifar", [given], outputs=[InferRequestedOutput("logits", binary, 3)], **packing)
    texts = np.ravel(top.as_numpy("logits"))
    best = [(text.decode() if binary else text).split(":") for text in texts]
    assert [int(number) for _, number, _ in best] == np.argsort(-expected, axis=1, kind="stable")[
        :, :3
    ].ravel().tolist()


def test_tritonclients_images(
    triton: Any, encoded: Encoded, classifier: bitvit.Classifier, server: RunningServer
) -> None:
    """Files as BYTES; errors reach the client as text; several at once; the asynchronous client."""
    from tritonclient.http import InferInput
    from tritonclient.http import aio as asynchronous
    from tritonclient.utils import InferenceServerException

    files = [encoded(number) for number in range(3)]
    given = InferInput("images", [3], "BYTES")
    given.set_data_from_numpy(np.array(files, object))
    expected = classifier.logits(files).tobytes()
    assert triton.infer("cifar", [given]).as_numpy("logits").tobytes() == expected
    waiting = [triton.async_infer("cifar", [given]) for _ in range(3)]
    assert {item.get_result().as_numpy("logits").tobytes() for item in waiting} == {expected}

    async def ask() -> bytes:
        async with asynchronous.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            return bytes((await client.infer("cifar", [given])).as_numpy("logits").tobytes())

    assert asyncio.run(ask()) == expected
    given.set_data_from_numpy(np.array([files[0], b"nothing", files[1]], object))
    with pytest.raises(InferenceServerException, match="image 1 of 3: 7 bytes of data: not an image"):
        triton.infer("cifar", [given])


@pytest.mark.parametrize("parameters", [{}, {"top_k": 2}, {"top_k": 3, "function_to_apply": "softmax"}])
def test_hugging_faces_client(
    server: RunningServer, encoded: Encoded, classifier: bitvit.Classifier, parameters: dict[str, Any]
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    client = hub.InferenceClient(model=f"{server.url}/classify")
    found = client.image_classification(encoded(0), **parameters)
    best: list[Any] = classifier(encoded(0), top_k=parameters.get("top_k", 5))
    assert [(item.label, item.score) for item in found] == [(item["label"], item["score"]) for item in best]


def test_kserves_client(
    server: RunningServer, pixels: np.ndarray[Any, np.dtype[np.float32]], classifier: bitvit.Classifier
) -> None:
    kserve = pytest.importorskip("kserve", reason="needs kserve")
    given = kserve.InferInput("pixels", list(pixels.shape), "FP32")
    given.set_data_from_numpy(pixels, binary_data=False)

    async def ask() -> Any:
        client = kserve.InferenceRESTClient(kserve.inference_client.RESTConfig(protocol="v2"))
        assert await client.is_server_live(server.url)
        assert await client.is_server_ready(server.url)
        assert await client.is_model_ready(server.url, "cifar")
        return await client.infer(server.url, kserve.InferRequest("cifar", [given]), model_name="cifar")

    found = asyncio.run(ask())
    logits = np.array(found.outputs[0].data, np.float32)
    assert logits.tobytes() == classifier.model(pixels).tobytes()
