"""Bodies of requests, read and unpacked within limits, and answers in JSON."""

import zlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import anyio
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bitvit.messages import shown
from bitvit.serve.limits import Limits

__all__ = ["CLOSE", "GONE", "JSON", "RETRY", "Bodies", "Exchange", "query_of", "read_body", "unpacked"]

CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's wbits; "deflate" is zlib's format
GONE = 499  # in log and metrics: the client went away before it was answered

# Headers of errors.
CLOSE = {"connection": "close"}
RETRY = {"retry-after": "1"}


class JSON(Response):
    """Content as JSON, by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


@dataclass
class Bodies:
    """How many bytes of bodies the application holds."""

    held: int = 0


@dataclass
class Exchange:
    """What is known of a request and its answer, for log and metrics."""

    status: int = GONE
    received: int = 0
    """Bytes of the body so far."""
    sent: int = 0
    noted: dict[str, object] = field(default_factory=dict)
    """For the log."""


def query_of(request: Request) -> dict[str, str]:
    """The values of the query. Raises HTTPException 400, also for a name that is there twice."""
    text = request.scope.get("query_string", b"").decode("latin-1")
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError:
        raise HTTPException(400, "the query is not one: expected name=value pairs in UTF-8, at most 32") from None
    for name, values in found.items():
        if len(values) > 1:
            raise HTTPException(400, f"query: {shown(name)} is there {len(values)} times, expected it once")
    return {name: values[0] for name, values in found.items()}


async def read_body(request: Request, limits: Limits, bodies: Bodies, exchange: Exchange) -> bytes:
    """A body as it was sent. Whoever calls takes its bytes from bodies.held again.

    Raises HTTPException 408, 413 and 503, and Starlette's ClientDisconnect.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limits.body):
        raise too_large(limits.body)
    try:
        with anyio.fail_after(limits.seconds):
            return await _read(request, limits, bodies, exchange)
    except TimeoutError:
        text = f"the body was not complete within {limits.seconds:g} seconds: {exchange.received} bytes came"
        raise HTTPException(408, text, CLOSE) from None


async def _read(request: Request, limits: Limits, bodies: Bodies, exchange: Exchange) -> bytes:
    parts: list[bytes] = []
    async for part in request.stream():
        exchange.received += len(part)
        bodies.held += len(part)
        if exchange.received > limits.body:
            raise too_large(limits.body)
        if bodies.held > limits.bodies:
            raise HTTPException(503, "too many large requests at once; try again", RETRY)
        if part:
            parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the body has more than {most} bytes, unpacked; send fewer images at once")


def unpacked(body: bytes, coding: str, most: int) -> bytes:
    """A body without its Content-Encoding. Raises HTTPException 400, 413, 415."""
    coding = coding.lower()
    if coding in ("", "identity"):
        return body
    if coding not in CODINGS:
        raise HTTPException(
            415,
            f"Content-Encoding: {shown(coding)}, expected gzip, deflate or none",
            {"accept-encoding": "gzip, deflate"},
        )
    decompress = zlib.decompressobj(CODINGS[coding])
    try:
        found = decompress.decompress(body, most + 1)
    except zlib.error as problem:
        raise HTTPException(400, f"the body is not {coding} data, as Content-Encoding says: {problem}") from None
    if len(found) > most:
        raise too_large(most)
    if not decompress.eof or decompress.unused_data:
        raise HTTPException(400, f"the body is not one piece of {coding} data, as Content-Encoding says")
    return found
