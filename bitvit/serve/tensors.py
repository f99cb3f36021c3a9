"""Open Inference Protocol v2: bodies of /infer to arrays and back, in JSON and with its binary tensor extension.

    request     {"id", "inputs": [{"name", "datatype", "shape", "data"}], "outputs": [{"name", "parameters"}]}
    binary      an input has parameters.binary_data_size in place of data; the bytes of all such inputs follow the JSON,
                in order. The header Inference-Header-Content-Length says how long the JSON is (unpacked).
    BYTES       each element: its length, 4 bytes little-endian, then its bytes. In JSON: text; images are base64
    response    the same, an output at a time: parameters.binary_data, or for all of them binary_data_output

Pure functions: nothing here knows of HTTP but the status of its errors.
"""

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from bitvit.messages import listing, shown

__all__ = [
    "HEADER_LENGTH",
    "InferRequest",
    "Tensor",
    "Wanted",
    "classification",
    "decode_image_text",
    "decode_request",
    "encode_response",
    "pack_bytes",
    "unpack_bytes",
]

HEADER_LENGTH = "Inference-Header-Content-Length"
OCTETS = "application/octet-stream"
MOST_IMAGES = 4096  # of a request: an empty one takes four bytes of a body, and far more than that here

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Tensor:
    """An output of the network: float32 [n, ...], or texts [n, ...] in one row."""

    name: str
    shape: tuple[int, ...]
    data: NDArray[np.float32] | Sequence[str]


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for."""

    name: str
    binary: bool
    classification: int = 0
    """How many classes as "value:index:label"; 0: the tensor itself."""


@dataclass(frozen=True)
class InferRequest:
    """What a request asks for: pixels or images, one of them."""

    id: str
    pixels: NDArray[np.float32] | None
    """[n, 3, S, S], finite"""
    images: Sequence[bytes] | None
    """Encoded image files."""
    outputs: tuple[Wanted, ...]


# ---------------------------------------------------------------------------------------------------------- requests
def decode_request(body: bytes, header_length: str, size: int, classifying: Mapping[str, bool]) -> InferRequest:
    """A request's body, unpacked. Raises HTTPException 400.

    header_length: the value of Inference-Header-Content-Length, or empty: the body is JSON alone. size: side S of the
    network's input. classifying: the outputs' names, and which of them can be asked for by classification.
    """
    end = _header_end(header_length, len(body))
    content = _json(body[:end] if end < len(body) else body)
    rest = memoryview(body)[end:]
    request_id = content.get("id")
    if not isinstance(request_id, str | None):
        raise HTTPException(400, f"id: is {shown(request_id)}, expected text")
    inputs = _objects(content.get("inputs"), "inputs")
    pixels: NDArray[np.float32] | None = None
    images: list[bytes] | None = None
    for place, item in enumerate(inputs):
        where, name = f"inputs[{place}]", item.get("name")
        if name not in ("pixels", "images"):
            raise HTTPException(400, f"{where}: name is {shown(name)}, expected 'pixels' or 'images'")
        if pixels is not None or images is not None:
            raise HTTPException(400, f"{where}: a second input, expected one: either 'pixels' or 'images'")
        data, rest = _binary(item, f"{where} ({name})", rest)
        if name == "pixels":
            pixels = _pixels(item, data, f"{where} (pixels)", size)
        else:
            images = _images(item, data, f"{where} (images)")
    if len(rest):
        raise HTTPException(
            400, f"{len(rest)} bytes are left behind the inputs; expected as many as binary_data_size says"
        )
    if pixels is None and images is None:
        raise HTTPException(400, "inputs: is empty, expected one of 'pixels' and 'images'")
    return InferRequest(request_id or "", pixels, images, _outputs(content, classifying))


def _header_end(text: str, length: int) -> int:
    """Where the JSON ends."""
    if not text:
        return length
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 0 < int(text) <= length):
        raise HTTPException(
            400,
            f"Inference-Header-Content-Length: {shown(text)}, expected the JSON's bytes, 1 to {length}, the body's "
            "(unpacked)",
        )
    return int(text)


def _json(text: bytes) -> Json:
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as problem:
        raise HTTPException(400, f"the body is not JSON ({problem}); NaN and Infinity are none either") from None
    if not isinstance(content, dict):
        raise HTTPException(400, f"the body is a JSON {type(content).__name__}, expected an object")
    return content


def _objects(value: object, where: str) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise HTTPException(400, f"{where}: is {shown(value)}, expected a list of objects")
    return value


def _parameters(item: Json, where: str) -> Json:
    found = item.get("parameters")
    if not isinstance(found, dict | None):
        raise HTTPException(400, f"{where}: parameters is {shown(found)}, expected an object")
    return found or {}


def _binary(item: Json, where: str, rest: memoryview) -> tuple[memoryview | None, memoryview]:
    """The bytes of an input, None if it has data in JSON, and what is left for the others."""
    size = _parameters(item, where).get("binary_data_size")
    if size is None:
        return None, rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise HTTPException(400, f"{where}: binary_data_size is {shown(size)}, but {len(rest)} bytes are left")
    if "data" in item:
        raise HTTPException(400, f"{where}: has data and binary_data_size, expected one of them")
    return rest[:size], rest[size:]


def _shape(item: Json, where: str) -> tuple[int, ...]:
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise HTTPException(400, f"{where}: shape is {shown(shape)}, expected a list of whole numbers, none negative")
    return tuple(shape)


def _check_datatype(item: Json, where: str, expected: str) -> None:
    if item.get("datatype") != expected:
        raise HTTPException(400, f"{where}: datatype is {shown(item.get('datatype'))}, expected {expected!r}")


def _pixels(item: Json, data: memoryview | None, where: str, size: int) -> NDArray[np.float32]:
    """float32 [n, 3, S, S], finite, C-contiguous."""
    _check_datatype(item, where, "FP32")
    shape = _shape(item, where)
    if len(shape) != 4 or shape[1:] != (3, size, size):
        raise HTTPException(
            400, f"{where}: shape is {shown(list(shape))}, expected [n, 3, {size}, {size}]: planes R, G, B"
        )
    count = math.prod(shape)
    if data is not None:
        if len(data) != 4 * count:
            raise HTTPException(400, f"{where}: {len(data)} bytes for shape {list(shape)}, expected {4 * count}")
        flat = np.require(np.frombuffer(data, "<f4"), np.float32, ["C", "A"])
    else:
        flat = _numbers(item.get("data"), where)
        if flat.size != count:
            raise HTTPException(400, f"{where}: {flat.size} numbers for shape {list(shape)}, expected {count}")
    pixels = flat.reshape(shape)
    if not np.isfinite(pixels).all():
        first = int(np.isfinite(pixels.reshape(shape[0], -1)).all(axis=1).argmin())
        raise HTTPException(400, f"{where}: image {first} has NaN or infinite values, expected finite ones")
    return pixels


def _numbers(data: object, where: str) -> NDArray[np.float32]:
    """What JSON has, a list or nested lists."""
    if not isinstance(data, list):
        raise HTTPException(400, f"{where}: data is {shown(data)}, expected a list of numbers")
    try:
        found = np.array(data) if data else np.empty(0)
    except (ValueError, OverflowError):
        raise HTTPException(
            400, f"{where}: data is nested unevenly, expected a list of numbers, flat or by shape"
        ) from None
    if found.dtype.kind not in "iuf":
        raise HTTPException(400, f"{where}: data holds more than numbers, expected numbers alone")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return found.astype(np.float32)


def _images(item: Json, data: memoryview | None, where: str) -> list[bytes]:
    _check_datatype(item, where, "BYTES")
    shape = _shape(item, where)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise HTTPException(400, f"{where}: shape is {shown(list(shape))}, expected [n] or [n, 1]")
    if shape[0] > MOST_IMAGES:
        raise HTTPException(400, f"{where}: shape is {list(shape)}, expected at most {MOST_IMAGES} images in a request")
    if data is not None:
        found = unpack_bytes(data, where)
    else:
        texts = item.get("data")
        if not isinstance(texts, list):
            raise HTTPException(400, f"{where}: data is {shown(texts)}, expected a list of base64 texts")
        if len(shape) == 2 and all(isinstance(text, list) and len(text) == 1 for text in texts):
            texts = [text[0] for text in texts]
        found = [decode_image_text(text, f"{where}: data[{place}]") for place, text in enumerate(texts)]
    if len(found) != shape[0]:
        raise HTTPException(400, f"{where}: {len(found)} elements for shape {list(shape)}, expected {shape[0]}")
    return found


def decode_image_text(text: object, where: str) -> bytes:
    """The bytes of base64, which may be a data: URL and may hold spaces. Raises HTTPException 400."""
    if not isinstance(text, str):
        raise HTTPException(400, f"{where}: is {shown(text)}, expected an image file in base64")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(
            400, f"{where}: is {shown(text)}, which is not base64; expected an image file in base64"
        ) from None


def _outputs(content: Json, classifying: Mapping[str, bool]) -> tuple[Wanted, ...]:
    """What is asked for, or all outputs."""
    binary = _flag(_parameters(content, "request"), "binary_data_output", "request")
    asked = content.get("outputs")
    if asked is None or asked == []:
        return tuple(Wanted(name, binary) for name in classifying)
    found: dict[str, Wanted] = {}
    for place, item in enumerate(_objects(asked, "outputs")):
        where, name = f"outputs[{place}]", item.get("name")
        if not isinstance(name, str) or name not in classifying:
            raise HTTPException(400, f"{where}: name is {shown(name)}, expected one of {listing(list(classifying))}")
        if name in found:
            raise HTTPException(400, f"{where}: {name} is asked for twice, expected once")
        parameters = _parameters(item, where)
        count = parameters.get("classification")
        if count is not None and (type(count) is not int or count < 1):
            raise HTTPException(
                400, f"{where}: classification is {shown(count)}, expected a whole number of at least 1"
            )
        if count is not None and not classifying[name]:
            raise HTTPException(400, f"{where}: classification of {name}, expected of an output with a value a class")
        found[name] = Wanted(name, _flag(parameters, "binary_data", where, binary), count or 0)
    return tuple(found.values())


def _flag(parameters: Json, name: str, where: str, default: bool = False) -> bool:
    value = parameters.get(name)
    if not isinstance(value, bool | None):
        raise HTTPException(400, f"{where}: {name} is {shown(value)}, expected true or false")
    return default if value is None else value


# ------------------------------------------------------------------------------------------------------------- BYTES
def unpack_bytes(data: memoryview, where: str) -> list[bytes]:
    """The elements of a BYTES tensor. Raises HTTPException 400 where a length leads beyond the end, or for too many."""
    found: list[bytes] = []
    place = 0
    while place < len(data):
        if len(found) == MOST_IMAGES:
            raise HTTPException(400, f"{where}: more than {MOST_IMAGES} elements; send fewer images at once")
        if place + 4 > len(data):
            raise HTTPException(400, f"{where}: element {len(found)}: ends within its length, expected 4 bytes")
        (length,) = struct.unpack_from("<I", data, place)
        place += 4
        if length > len(data) - place:
            raise HTTPException(
                400, f"{where}: element {len(found)}: is to have {length} bytes, but {len(data) - place} are left"
            )
        found.append(bytes(data[place : place + length]))
        place += length
    return found


def pack_bytes(elements: Sequence[bytes]) -> bytes:
    """The inverse of unpack_bytes."""
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


# --------------------------------------------------------------------------------------------------------- responses
def classification(values: NDArray[np.float32], labels: Sequence[str], count: int, name: str) -> Tensor:
    """Triton's classification extension: "value:index:label" of the `count` largest values, the largest first.

    values: float32 [n, classes]; equal ones by index.
    """
    count = min(count, len(labels))
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    texts = [f"{row[k]:f}:{k}:{labels[k]}" for row, best in zip(values, order.tolist(), strict=True) for k in best]
    return Tensor(name, (len(values), count), texts)


def encode_response(head: Json, tensors: Sequence[tuple[Tensor, bool]]) -> tuple[bytes, str, dict[str, str]]:
    """Body, media type and further headers of an answer.

    head: what stands before the outputs. tensors: each with whether it is sent as bytes.
    """
    outputs, parts = [], []
    for tensor, binary in tensors:
        data = tensor.data
        is_text = not isinstance(data, np.ndarray)
        described: Json = {
            "name": tensor.name,
            "datatype": "BYTES" if is_text else "FP32",
            "shape": list(tensor.shape),
        }
        if binary:
            part = pack_bytes([text.encode() for text in data]) if is_text else _little_endian(data)
            described["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            described["data"] = list(data) if is_text else np.ascontiguousarray(data).reshape(-1)
        outputs.append(described)
    text = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not any(binary for _, binary in tensors):
        return text, "application/json", {}
    return b"".join([text, *parts]), OCTETS, {HEADER_LENGTH: str(len(text))}


def _little_endian(data: Any) -> bytes:
    return np.ascontiguousarray(data, "<f4").tobytes()
