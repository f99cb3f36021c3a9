"""A request and its answer, whatever they are about, and the errors that become answers."""

import asyncio
import functools
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import orjson

from bitvit.messages import shown
from bitvit.serve.limits import Limits

__all__ = [
    "Body",
    "HTTPError",
    "Headers",
    "Receive",
    "Request",
    "Response",
    "Scope",
    "Send",
    "json_response",
    "unpacked",
]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's wbits; "deflate" is zlib's format


class HTTPError(Exception):
    """An answer other than 200. Its text is the client's to read: what was wrong, what was expected."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers

    def response(self) -> "Response":
        return json_response({"error": str(self)}, self.status, self.headers)


class DisconnectedError(Exception):
    """The client went away before its request was complete."""


@dataclass(frozen=True)
class Response:
    """An answer."""

    body: bytes
    media_type: bytes = JSON
    status: int = 200
    headers: Headers = ()


def json_response(content: object, status: int = 200, headers: Headers = ()) -> Response:
    return Response(orjson.dumps(content), JSON, status, headers)


@dataclass
class Body:
    """How many bytes of bodies the application holds."""

    held: int = 0


@dataclass
class Request:
    """One request. Its body is read when a handler wants it."""

    scope: Scope
    receive: Receive
    limits: Limits
    bodies: Body
    """That all requests share."""
    path: str
    """Below the place where the application is mounted, without a slash at its end."""
    size: int = 0
    """Bytes of the body so far."""
    noted: dict[str, object] = field(default_factory=dict)
    """For the access log."""

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @functools.cached_property
    def headers(self) -> dict[bytes, bytes]:
        """By lower-case names; of several of one name the last."""
        return dict(self.scope["headers"])

    def header(self, name: bytes) -> str:
        """A header's value, or an empty text."""
        return self.headers.get(name, b"").decode("latin-1").strip()

    @functools.cached_property
    def query(self) -> dict[str, str]:
        """The values of the query. 400 for a name that is there twice."""
        text = self.scope.get("query_string", b"").decode("latin-1")
        try:
            found = parse_qs(text, keep_blank_values=True, max_num_fields=32, errors="strict")
        except ValueError:
            raise HTTPError(400, "the query is not one: expected name=value pairs in UTF-8, at most 32") from None
        for name, values in found.items():
            if len(values) > 1:
                raise HTTPError(400, f"query: {shown(name)} is there {len(values)} times, expected it once")
        return {name: values[0] for name, values in found.items()}

    async def read(self) -> bytes:
        """The body as it was sent. Raises HTTPError 408, 411, 413 and 503, DisconnectedError."""
        length = self.headers.get(b"content-length")
        if length is not None and length.isdigit() and (len(length) > 18 or int(length) > self.limits.body):
            raise self.too_large()
        try:
            return await asyncio.wait_for(self._read(), self.limits.seconds)
        except (asyncio.TimeoutError, TimeoutError):
            raise HTTPError(
                408,
                f"the body was not complete within {self.limits.seconds:g} seconds: {self.size} bytes came",
                ((b"connection", b"close"),),
            ) from None

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                raise DisconnectedError
            part = message.get("body", b"")
            self.size += len(part)
            self.bodies.held += len(part)
            if self.size > self.limits.body:
                raise self.too_large()
            if self.bodies.held > self.limits.bodies:
                raise HTTPError(503, "too many large requests at once; try again", ((b"retry-after", b"1"),))
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self) -> None:
        """The body is needed no more."""
        self.bodies.held -= self.size

    def too_large(self) -> HTTPError:
        return HTTPError(413, f"the body has more than {self.limits.body} bytes, unpacked; send fewer images at once")


def unpacked(body: bytes, coding: str, most: int) -> bytes:
    """A body without its Content-Encoding. Raises HTTPError 400, 413, 415."""
    coding = coding.lower()
    if coding in ("", "identity"):
        return body
    if coding not in CODINGS:
        raise HTTPError(
            415,
            f"Content-Encoding: {shown(coding)}, expected gzip, deflate or none",
            ((b"accept-encoding", b"gzip, deflate"),),
        )
    decompress = zlib.decompressobj(CODINGS[coding])
    try:
        found = decompress.decompress(body, most + 1)
    except zlib.error as problem:
        raise HTTPError(400, f"the body is not {coding} data, as Content-Encoding says: {problem}") from None
    if len(found) > most:
        raise HTTPError(413, f"the body has more than {most} bytes, unpacked; send fewer images at once")
    if not decompress.eof or decompress.unused_data:
        raise HTTPError(400, f"the body is not one piece of {coding} data, as Content-Encoding says")
    return found
