"""Open Inference Protocol v2: what is decoded is what was encoded, and what is wrong is said."""

import base64
import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from bitvit.serve.tensors import (
    InferRequest,
    Tensor,
    Wanted,
    classification,
    decode_request,
    encode_response,
    pack_bytes,
    unpack_bytes,
)

Result = TypeVar("Result")

SIZE = 2
OUTPUTS = {"logits": True, "label": False, "score": False}
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def decoded(content: object, tail: bytes = b"") -> InferRequest:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return decode_request(text + tail, str(len(text)) if tail else "", SIZE, OUTPUTS)


def pixels(shape: object = (1, 3, 2, 2), data: object = (0.5,) * 12, **more: object) -> dict[str, Any]:
    return {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": shape, "data": data}], **more}


def images(*data: object, shape: object = None) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "datatype": "BYTES", "shape": shape or [len(data)], "data": data}]}


def attempt(work: Callable[[], Result]) -> tuple[Result | None, int]:
    """What it gives and 200, or the status of its error."""
    try:
        return work(), 200
    except HTTPException as error:
        return None, error.status_code


# ------------------------------------------------------------------------------------------------------ round trips
@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 3), *map(st.just, (3, SIZE, SIZE))), elements=FLOATS))
def test_pixels_arrive_bit_for_bit(array: NDArray[np.float32]) -> None:
    flat = pixels(array.shape, array.reshape(-1).tolist())
    nested = pixels(array.shape, array.tolist())
    data = array.astype("<f4").tobytes()
    item = {"name": "pixels", "datatype": "FP32", "shape": array.shape, "parameters": {"binary_data_size": len(data)}}
    for found in (decoded(flat), decoded(nested), decoded({"inputs": [item]}, data)):
        assert found.images is None
        assert found.pixels is not None
        assert found.pixels.dtype == np.float32
        assert found.pixels.shape == array.shape
        assert found.pixels.tobytes() == array.tobytes()
        assert found.pixels.flags.c_contiguous
        assert found.pixels.flags.aligned


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=20), max_size=5))
def test_images_arrive_byte_for_byte(files: list[bytes]) -> None:
    """Trailing zeros and bytes that are no UTF-8 included."""
    texts = [base64.b64encode(file).decode() for file in files]
    data = pack_bytes(files)
    item = {
        "name": "images",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(data)},
    }
    for found in (decoded(images(*texts)), decoded({"inputs": [item]}, data)):
        assert found.pixels is None
        assert found.images == files
    column = {
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [len(files), 1], "data": [[t] for t in texts]}]
    }
    assert decoded(column).images == files
    assert unpack_bytes(memoryview(data), "x") == files


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 4)), elements=FLOATS),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=4),
    st.tuples(st.booleans(), st.booleans()),
)
def test_an_answer_holds_each_tensor_as_it_was_asked_for(
    logits: NDArray[np.float32], labels: list[str], binary: tuple[bool, bool]
) -> None:
    tensors = [Tensor("logits", logits.shape, logits), Tensor("label", (len(labels),), labels)]
    body, media_type, headers = encode_response({"model_name": "m"}, list(zip(tensors, binary, strict=True)))
    assert (media_type == "application/octet-stream") == any(binary) == bool(headers)
    end = int(dict(headers).get("Inference-Header-Content-Length", len(body)))
    content, rest = json.loads(body[:end]), body[end:]
    assert content["model_name"] == "m"
    first, second = content["outputs"]
    assert (first["name"], first["datatype"], first["shape"]) == ("logits", "FP32", list(logits.shape))
    assert (second["name"], second["datatype"], second["shape"]) == ("label", "BYTES", [len(labels)])
    if binary[0]:
        size = first["parameters"]["binary_data_size"]
        found = np.frombuffer(rest[:size], "<f4")
        rest = rest[size:]
    else:
        found = np.array(first["data"], np.float32)
    assert found.tobytes() == logits.tobytes()
    if binary[1]:
        assert second["parameters"]["binary_data_size"] == len(rest)
        assert [item.decode() for item in unpack_bytes(memoryview(rest), "x")] == labels
    else:
        assert second["data"] == labels
        assert rest == b""


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=40))
def test_any_bytes_are_elements_or_refused(data: bytes) -> None:
    found, status = attempt(lambda: unpack_bytes(memoryview(data), "x"))
    assert status in (200, 400)
    assert found is None or pack_bytes(found) == data


JSON = st.recursive(
    st.sampled_from([None, True, -1, 0, 1, 2**62, 0.5, "", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "x"]), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=50)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": JSON,
            "parameters": JSON,
            "outputs": JSON,
            "inputs": JSON
            | st.lists(
                st.fixed_dictionaries(
                    {
                        "name": st.sampled_from(["pixels", "images", "x"]),
                        "datatype": st.sampled_from(["FP32", "BYTES"]),
                    },
                    optional={"shape": JSON | st.just([1, 3, 2, 2]), "data": JSON, "parameters": JSON},
                ),
                max_size=2,
            ),
        },
    ),
    st.binary(max_size=8),
)
def test_whatever_json_is_sent_is_understood_or_refused_with_400(content: dict[str, Any], tail: bytes) -> None:
    text = json.dumps(content)
    found, status = attempt(lambda: decode_request(text.encode() + tail, str(len(text)), SIZE, OUTPUTS))
    assert status in (200, 400)
    assert found is None or (found.pixels is None) != (found.images is None)


# ---------------------------------------------------------------------------------------------------------- outputs
def test_no_outputs_asked_for_are_all_of_them() -> None:
    """tritonclient then says once for all that they are to be binary."""
    assert decoded(pixels()).outputs == tuple(Wanted(name, binary=False) for name in OUTPUTS)
    asked = decoded(pixels(parameters={"binary_data_output": True}, outputs=[]))
    assert asked.outputs == tuple(Wanted(name, binary=True) for name in OUTPUTS)
    assert asked.id == ""


def test_outputs_are_binary_each_as_it_says() -> None:
    outputs = [
        {"name": "score"},
        {"name": "label", "parameters": {"binary_data": False}},
        {"name": "logits", "parameters": {"classification": 2, "binary_data": True}},
    ]
    asked = decoded(pixels(outputs=outputs, parameters={"binary_data_output": True}, id="x"))
    assert asked.outputs == (Wanted("score", True), Wanted("label", False), Wanted("logits", True, 2))
    assert asked.id == "x"


def test_classification_is_tritons() -> None:
    values = np.array([[1.5, -2, 1.5, 0], [0, 0.25, 0, 0]], np.float32)
    found = classification(values, ["a", "b:c", "d", "e"], 2, "logits")
    assert found.shape == (2, 2)
    assert found.data == ["1.500000:0:a", "1.500000:2:d", "0.250000:1:b:c", "0.000000:0:a"]
    assert classification(values, ["a", "b", "c", "d"], 100, "logits").shape == (2, 4)
    assert classification(values[:0], ["a", "b", "c", "d"], 3, "logits").shape == (0, 3)


# --------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[]", "the body is a JSON list, expected an object"),
        (b'{"inputs": [{"data": [NaN]}]}', "NaN and Infinity are none either"),
        (b"[" * 100_000, "the body is not JSON"),
        ({}, "inputs: is None, expected a list of objects"),
        ({"inputs": []}, "inputs: is empty, expected one of 'pixels' and 'images'"),
        ({"inputs": [1]}, "inputs: is [1], expected a list of objects"),
        ({"inputs": [{"name": "x"}]}, "inputs[0]: name is 'x', expected 'pixels' or 'images'"),
        ({"inputs": pixels()["inputs"] * 2}, "inputs[1]: a second input, expected one"),
        (pixels(id=1), "id: is 1, expected text"),
        (pixels(parameters=[]), "request: parameters is [], expected an object"),
        (pixels(parameters={"binary_data_output": 1}), "binary_data_output is 1, expected true or false"),
        (pixels(shape=[-1, 3, 2, 2]), "shape is [-1, 3, 2, 2], expected a list of whole numbers, none negative"),
        (pixels(shape=["1", 3, 2, 2]), "expected a list of whole numbers"),
        (pixels(shape=[1.0, 3, 2, 2]), "expected a list of whole numbers"),
        (pixels(shape=[True, 3, 2, 2]), "expected a list of whole numbers"),
        (pixels(shape=3), "shape is 3, expected a list of whole numbers"),
        (pixels(shape=[]), "shape is [], expected [n, 3, 2, 2]"),
        (pixels(shape=[1, 3, 2, 4]), "shape is [1, 3, 2, 4], expected [n, 3, 2, 2]"),
        (pixels(shape=[2**62, 3, 2, 2]), f"12 numbers for shape [{2**62}, 3, 2, 2], expected {12 * 2**62}"),
        (pixels(shape=[2, 3, 2, 2]), "12 numbers for shape [2, 3, 2, 2], expected 24"),
        (pixels(data=None), "data is None, expected a list of numbers"),
        (pixels(data=["1"] * 12), "data holds more than numbers"),
        (pixels(data=[None] * 12), "data holds more than numbers"),
        (pixels(data=[{}] * 12), "data holds more than numbers"),
        (pixels(data=[[1, 2], [3]]), "data is nested unevenly"),
        (pixels(data=[0.0] * 11 + [1e39]), "image 0 has NaN or infinite values"),
        ({"inputs": [{"name": "pixels", "datatype": "FP16"}]}, "datatype is 'FP16', expected 'FP32'"),
        (images("%"), "data[0]: is '%', which is not base64"),
        (images(1), "data[0]: is 1, expected an image file in base64"),
        (images("", shape=[2]), "1 elements for shape [2], expected 2"),
        (images("", shape=[4097]), "shape is [4097], expected at most 4096 images in a request"),
        (images("", shape=[1, 2]), "shape is [1, 2], expected [n] or [n, 1]"),
        (pixels(outputs=[{"name": "x"}]), "outputs[0]: name is 'x', expected one of 'logits', 'label', 'score'"),
        (pixels(outputs=[{"name": []}]), "outputs[0]: name is [], expected one of"),
        (pixels(outputs=[{"name": "score"}] * 2), "outputs[1]: score is asked for twice"),
        (pixels(outputs=[{"name": "logits", "parameters": {"classification": 0}}]), "classification is 0"),
        (pixels(outputs=[{"name": "label", "parameters": {"classification": 1}}]), "classification of label"),
    ],
)
def test_what_is_wrong_is_said(content: object, said: str) -> None:
    with pytest.raises(HTTPException) as error:
        decoded(content)
    assert error.value.status_code == 400
    assert said in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("size", "shape", "tail", "said"),
    [
        (48, [1, 3, 2, 2], 47, "binary_data_size is 48, but 47 bytes are left"),
        (48, [1, 3, 2, 2], 49, "1 bytes are left behind the inputs"),
        (-1, [1, 3, 2, 2], 48, "binary_data_size is -1"),
        (True, [1, 3, 2, 2], 48, "binary_data_size is True"),
        (2**62, [2**62, 3, 2, 2], 48, f"binary_data_size is {2**62}"),
        (48, [2**62, 3, 2, 2], 48, f"48 bytes for shape [{2**62}, 3, 2, 2], expected {48 * 2**62}"),
        (48, [2, 3, 2, 2], 48, "48 bytes for shape [2, 3, 2, 2], expected 96"),
    ],
)
def test_lengths_of_binary_data_must_agree(size: object, shape: object, tail: int, said: str) -> None:
    item = {"name": "pixels", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    with pytest.raises(HTTPException) as error:
        decoded({"inputs": [item]}, bytes(tail))
    assert said in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_must_be_finite(value: float) -> None:
    array = np.zeros((3, 3, 2, 2), np.float32)
    array[1, 2, 0, 1] = value
    item = {"name": "pixels", "datatype": "FP32", "shape": array.shape, "parameters": {"binary_data_size": 144}}
    with pytest.raises(HTTPException, match="image 1 has NaN or infinite values"):
        decoded({"inputs": [item]}, array.tobytes())


@pytest.mark.parametrize("length", ["0", "-1", "1.0", "x", "1000", "9" * 30, "١"])
def test_the_length_of_the_json_must_be_one(length: str) -> None:
    with pytest.raises(HTTPException, match="Inference-Header-Content-Length"):
        decode_request(b"{}", length, SIZE, OUTPUTS)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x01\x00\x00", "element 0: ends within its length"),
        (b"\x01\x00\x00\x00", "element 0: is to have 1 bytes, but 0 are left"),
        (bytes(4 * 4097), "more than 4096 elements; send fewer images at once"),
        (b"\x00\x00\x00\x00\xff\xff\xff\xff", "element 1: is to have 4294967295 bytes, but 0 are left"),
    ],
)
def test_lengths_of_elements_must_agree(data: bytes, said: str) -> None:
    with pytest.raises(HTTPException, match=said):
        unpack_bytes(memoryview(data), "x")
