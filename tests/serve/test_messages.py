"""Bodies: how much of them is read and unpacked, and for how long."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from bitvit.serve.limits import Limits
from bitvit.serve.messages import Bodies, Exchange, read_body, unpacked


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip", "deflate", "identity", ""])
def test_a_body_is_unpacked(coding: str) -> None:
    packing: dict[str, Callable[[bytes], bytes]] = {"deflate": zlib.compress, "": bytes, "identity": bytes}
    pack = packing.get(coding, gzip.compress)
    for data in (b"", b"x", bytes(100_000)):
        assert unpacked(pack(data), coding, 100_000) == data


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        pytest.param(gzip.compress(bytes(1001)), "gzip", 413, id="gzip, too large"),
        pytest.param(zlib.compress(bytes(1 << 24)), "deflate", 413, id="deflate, too large"),
        pytest.param(gzip.compress(bytes(1000))[:-1], "gzip", 400, id="cut"),
        pytest.param(gzip.compress(b"x") + b"y", "gzip", 400, id="followed by a byte"),
        pytest.param(gzip.compress(b"") * 2, "gzip", 400, id="two members"),
        pytest.param(b"", "gzip", 400, id="empty"),
        pytest.param(b"x", "gzip", 400, id="not packed"),
        pytest.param(gzip.compress(b"x"), "deflate", 400, id="gzip called deflate"),
        pytest.param(b"x", "br", 415, id="unknown coding"),
        pytest.param(b"x", "gzip, deflate", 415, id="two codings"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(body: bytes, coding: str, status: int) -> None:
    with pytest.raises(HTTPException) as error:
        unpacked(body, coding, 1000)
    assert error.value.status_code == status
    assert (status == 415) == (error.value.headers == {"accept-encoding": "gzip, deflate"})


def read(parts: list[bytes | None], length: str = "", held: int = 0, wait: float = 0) -> tuple[bytes, Bodies]:
    """What is read of a body; None: the client goes away."""
    bodies = Bodies(held)

    async def receive() -> dict[str, object]:
        await asyncio.sleep(wait)
        part = parts.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    headers = [(b"content-length", length.encode())] if length else []
    limits = Limits(body=10, bodies=100, seconds=1)
    request, exchange = Request({"type": "http", "headers": headers}, receive), Exchange()
    try:
        return asyncio.run(read_body(request, limits, bodies, exchange)), Bodies(bodies.held)
    finally:
        assert bodies.held == held + exchange.received


def test_a_body_is_read_whole_and_counted_while_it_is_held() -> None:
    assert read([b"01234", b"", b"56789"]) == (b"0123456789", Bodies(10))
    assert read([b""], held=100) == (b"", Bodies(100))


@pytest.mark.parametrize(
    ("parts", "length", "held", "status"),
    [
        ([b"0" * 11], "", 0, 413),
        ([b"0" * 10, b"0"], "", 0, 413),
        ([], "11", 0, 413),
        ([], "9" * 5000, 0, 413),
        ([b"0"], "", 100, 503),
    ],
)
def test_a_body_beyond_the_limits_is_refused(parts: list[bytes | None], length: str, held: int, status: int) -> None:
    with pytest.raises(HTTPException) as error:
        read(parts, length, held)
    assert error.value.status_code == status


def test_a_body_that_does_not_end_is_refused() -> None:
    with pytest.raises(HTTPException, match="not complete within 1 seconds: 0 bytes came") as error:
        read([b""], wait=60)
    assert error.value.status_code == 408


def test_a_client_that_goes_away_is_not_answered() -> None:
    with pytest.raises(ClientDisconnect):
        read([b"0", None])


@pytest.mark.parametrize("name", ["queue", "body", "bodies", "headers", "seconds"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"limits: {name} is -1, expected a positive number"):
        Limits(**{name: -1})
