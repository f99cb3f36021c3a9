"""Requests: every kind of valid one, and what a hostile client makes of it."""

import base64
import copy
import gzip
import io
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from bitvit.serve.tensors import HEADER_LENGTH, pack_bytes

__all__ = ["Request", "mutated", "valid_requests"]

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "", "get", "\u00e9")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**62, 2**64, 10**400, 0.0, -0.5, 1e308, 5e-324),
    *("", "x", "\0", "é" * 50, "x" * 5000, "pixels", "images", "logits", "BYTES", "FP32", "1", "NaN"),
    *([], {}, [[]], [None], [0] * 1000, [[1], [1, 2]], [["x"]], [2**62, 3, 2, 2], {"": 0}, [{}, {}]),
)
HEADER_VALUES = (
    *("", "0", "-1", "1", "99999999999999999999", "1e3", "\xff", "x" * 5000, "gzip", "deflate", "br", "identity"),
    *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=XX", "application/json"),
)
TARGETS = ("/%", "//", "/%2e%2e/", "/v2/models/%00", "/\n", "?top_k=", "?model=%ff", "?x&x", "/versions/1", "?heat=1")


@dataclass(frozen=True)
class Request:
    """target: path and query, as in a first line."""

    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def raw(self) -> bytes:
        """As it is sent over a connection. Its Content-Length is right unless it names one."""
        headers = [("Host", "x"), *self.headers]
        if self.body and "content-length" not in {name.lower() for name, _ in headers}:
            headers.append(("Content-Length", str(len(self.body))))
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + self.body


def valid_requests(name: str, size: int) -> list[Request]:
    """For a model of this name, whose input has `size` pixels each way, and that may be loaded again."""
    images = [_image(kind, size) for kind in ("PNG", "JPEG", "BMP", "GIF")]
    classify, infer = "/classify", f"/v2/models/{name}/infer"
    wanted = [{"name": "logits", "parameters": {"classification": 2}}, {"name": "label"}, {"name": "score"}]
    as_bytes = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "label"}]
    data, pixels = pack_bytes(images), np.zeros((2, 3, size, size), np.float32)
    texts = [base64.b64encode(image).decode() for image in images]
    content = [
        ({"inputs": [_input("images", "BYTES", [4], data=texts)], "outputs": wanted, "id": "7"}, b""),
        ({"inputs": [_input("images", "BYTES", [4], binary_data_size=len(data))]}, data),
        ({"inputs": [_input("pixels", "FP32", pixels.shape, data=pixels.tolist())]}, b""),
        ({"inputs": [_input("pixels", "FP32", pixels.shape, binary_data_size=pixels.nbytes)]}, pixels.tobytes()),
        (
            {
                "inputs": [_input("images", "BYTES", [1, 1], data=texts[:1])],
                "outputs": as_bytes,
                "parameters": {"binary_data_output": True},
            },
            b"",
        ),
    ]
    found = [Request("GET", path) for path in ("/", "/models", "/metrics", "/openapi.json", "/v2")]
    found += [Request("GET", f"/v2/{path}") for path in ("health/live", "health/ready", f"models/{name}")]
    found += [Request("GET", f"/v2/models/{name}{path}") for path in ("/ready", "/versions/1", "/versions/1/ready")]
    found += [Request("POST", f"{classify}?top_k=2&model={name}", image) for image in images]
    found += [Request("POST", "/explain?heat=1&top_k=3", images[0])]
    parameters = {"top_k": 2, "function_to_apply": "sigmoid"}
    found += [Request("POST", classify, json.dumps({"inputs": texts[0], "parameters": parameters}).encode())]
    form = b'--XX\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = form % (b"f", b'; filename="a"', images[0]) + form % (b"top_k", b"", b"2") + b"--XX--\r\n"
    found += [Request("POST", classify, parts, (("Content-Type", "multipart/form-data; boundary=XX"),))]
    for head, tail in content:
        text = json.dumps(head).encode()
        length = ((HEADER_LENGTH, str(len(text))),) if tail else ()
        found.append(Request("POST", infer, text + tail, length))
        packed = (*length, ("Content-Encoding", "gzip"))
        found.append(
            Request("POST", f"/v2/models/{name}/versions/1/infer", gzip.compress(text + tail, 1, mtime=0), packed)
        )
    found += [Request("POST", classify, zlib.compress(images[0]), (("Content-Encoding", "deflate"),))]
    found += [Request("POST", "/v2/repository/index", b"{}")]
    return found


def _image(kind: str, side: int) -> bytes:
    file = io.BytesIO()
    y, x = np.indices((side, side))
    pixels = np.stack([8 * x, 8 * y, 4 * (x + y)], axis=2).astype(np.uint8)  # small files
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _input(name: str, datatype: str, shape: Any, data: Any = None, **parameters: int) -> dict[str, Any]:
    rest = {"parameters": parameters} if parameters else {"data": data}
    return {"name": name, "datatype": datatype, "shape": list(shape), **rest}


# ---------------------------------------------------------------------------------------------------------- mutations
def mutated(request: Request, others: list[Request], random_: random.Random) -> Request:
    """A request, changed one to four times. others: of whose bodies and paths it may get parts."""
    for _ in range(random_.choice((1, 1, 2, 4))):
        change = random_.choices(CHANGES, WEIGHTS)[0]
        request = change(request, random_.choice(others), random_)
    return request


def _bytes(request: Request, other: Request, random_: random.Random) -> Request:
    body = bytearray(request.body)
    start = random_.randrange(len(body) + 1)
    end = min(len(body), start + random_.choice((0, 1, 2, 4, 16, 1000)))
    body[start:end] = random_.choice(
        (b"", random_.randbytes(end - start), random_.randbytes(4), b"\xff" * 4, bytes(8), other.body[start:end])
    )
    return replace(request, body=bytes(body))


def _truncated(request: Request, other: Request, random_: random.Random) -> Request:
    body = random_.choice((request.body, request.body * 2, request.body + other.body, other.body))
    return replace(request, body=body[: random_.randrange(len(body) + 1)] if random_.random() < 0.7 else body)


def _header(request: Request, other: Request, random_: random.Random) -> Request:
    headers = [*request.headers, *random_.choice(((), other.headers))]
    names = [name for name, _ in headers] + [HEADER_LENGTH, "Content-Type", "Content-Encoding", "Accept", "X", "Origin"]
    name = random_.choice(names)
    value = random_.choice((*HEADER_VALUES, str(random_.randrange(len(request.body) + 2))))
    kept = [item for item in headers if item[0] != name or random_.random() < 0.2]
    return replace(request, headers=tuple(kept if random_.random() < 0.2 else [*kept, (name, value)]))


def _target(request: Request, other: Request, random_: random.Random) -> Request:
    target, place = request.target, random_.randrange(len(request.target) + 1)
    changed = random_.choice(
        (
            target[:place] + random_.choice(TARGETS) + target[place:],
            target[:place] + target[place + 1 :],
            target[:place] + chr(random_.randrange(33, 256)) + target[place:],
            other.target,
            target + "/",
        )
    )
    return replace(request, target=changed)


def _method(request: Request, _other: Request, random_: random.Random) -> Request:
    return replace(request, method=random_.choice(METHODS))


def _json(request: Request, _other: Request, random_: random.Random) -> Request:
    """One value of its JSON, or one name, is another. The header that gives its length agrees, mostly."""
    headers = dict(request.headers)
    length = headers.get(HEADER_LENGTH, "")
    packed = headers.get("Content-Encoding") == "gzip"
    try:
        body = gzip.decompress(request.body) if packed else request.body
        end = int(length) if length else len(body)
        content = json.loads(body[:end])
    except (ValueError, OSError, EOFError, zlib.error, RecursionError):
        return _bytes(request, request, random_)
    text = json.dumps(_changed(content, random_)).encode()
    if random_.random() < 0.02:
        text = text.replace(b"[", b"[" * 2000, 1)
    if length and random_.random() < 0.9:
        headers[HEADER_LENGTH] = str(len(text))
    body = text + body[end:]
    return replace(request, body=gzip.compress(body, 1, mtime=0) if packed else body, headers=tuple(headers.items()))


def _changed(content: Any, random_: random.Random) -> Any:
    """The same with one change at a random place; a path down ends at each level with some probability."""
    content = copy.copy(content)
    if isinstance(content, dict) and content and random_.random() < 0.9:
        key = random_.choice(list(content))
        match random_.randrange(8):
            case 0:
                del content[key]
            case 1:
                content[random_.choice(("", "data", "parameters", "binary_data_size", key + "x"))] = content[key]
            case _:
                content[key] = _changed(content[key], random_)
        return content
    if isinstance(content, list) and content and random_.random() < 0.8:
        place = random_.randrange(len(content))
        match random_.randrange(6):
            case 0:
                del content[place]
            case 1:
                content.insert(place, copy.copy(content[place]))
            case _:
                content[place] = _changed(content[place], random_)
        return content
    if isinstance(content, int) and random_.random() < 0.5:
        return content + random_.choice((-1, 1))
    return random_.choice(VALUES)


CHANGES: tuple[Callable[[Request, Request, random.Random], Request], ...]
CHANGES = (_json, _bytes, _truncated, _header, _target, _method)
WEIGHTS = (8, 4, 2, 4, 2, 0.5)
