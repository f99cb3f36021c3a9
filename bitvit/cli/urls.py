"""Images at addresses on the web, for `bitvit classify --urls` alone, where whoever types the command names them.

The Python API and `bitvit serve` never fetch an address, since theirs may come from strangers, who could reach through
them what only this machine may reach.
"""

import contextlib
import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from bitvit.messages import shown
from bitvit.sources import NamedBytes
from bitvit.version import __version__

__all__ = ["AT_ONCE", "SECONDS", "download"]

AT_ONCE = 8  # downloads, whose bytes memory holds together
SECONDS = 20.0  # that a download may take, from the first look for the server to the last byte
BLOCK = 1 << 16


class _RefusedError(Exception):
    """Why an address is not fetched, or not to its end."""


def download(addresses: Sequence[str], most: int, *, seconds: float = SECONDS) -> list[NamedBytes]:
    """The bytes at each address, http or https, or what is wrong; all at once, so give AT_ONCE at most.

    most: MB of one. Links to elsewhere are followed, but never from https to http, nor to anything else.
    """
    found: list[NamedBytes | None] = [None] * len(addresses)
    deadline = time.monotonic() + seconds

    def fetch(number: int) -> None:
        found[number] = _fetched(addresses[number], most, seconds, deadline)

    # Threads of their own, which nobody waits for at the end: a search for a server's name has no limit of time, and
    # a server may send a byte at a time.
    threads = [threading.Thread(target=fetch, args=(k,), daemon=True) for k in range(len(addresses))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [
        NamedBytes(b"", address, f"{address}: {_late(seconds)}") if data is None else data
        for data, address in zip(list(found), addresses, strict=True)
    ]


def _late(seconds: float) -> str:
    return f"not there within {seconds:g} s; try again, or download it first"


def _fetched(address: str, most: int, seconds: float, deadline: float) -> NamedBytes:
    try:
        data = _bytes_at(address, most, seconds, deadline)
        if not data:
            raise _RefusedError("the server sends an empty file; check the address")
    except _RefusedError as problem:
        return NamedBytes(b"", address, f"{address}: {problem}")
    except urllib.error.HTTPError as problem:
        with problem:
            return NamedBytes(
                b"", address, f"{address}: the server answers {problem.code} {problem.reason}; check the address"
            )
    except TimeoutError:
        return NamedBytes(b"", address, f"{address}: {_late(seconds)}")
    except (OSError, http.client.HTTPException, ValueError) as problem:  # ValueError: no address at all
        reason = getattr(problem, "reason", None) or problem
        if isinstance(reason, TimeoutError):
            return NamedBytes(b"", address, f"{address}: {_late(seconds)}")
        return NamedBytes(b"", address, f"{address}: cannot be downloaded ({reason}); check the address")
    return NamedBytes(data, address)


def _bytes_at(address: str, most: int, seconds: float, deadline: float) -> bytes:
    _check(address)
    request = urllib.request.Request(address, headers={"User-Agent": f"bitvit/{__version__}"})
    parts: list[bytes] = []
    size, limit = 0, most << 20
    with contextlib.closing(_opener().open(request, timeout=seconds)) as response:
        expected = response.headers.get("Content-Length", "")
        if expected.isdecimal() and int(expected) > limit:
            raise _RefusedError(f"has {int(expected):,} bytes, more than {most} MB; --max-download allows more")
        for part in _blocks(response):
            size += len(part)
            if size > limit:
                raise _RefusedError(f"has more than {most} MB; --max-download allows more")
            if time.monotonic() > deadline:
                raise TimeoutError
            parts.append(part)
        if expected.isdecimal() and size < int(expected):
            raise _RefusedError(f"ended after {size:,} of {int(expected):,} bytes; try again")
    return b"".join(parts)


def _blocks(response: Any) -> Iterator[bytes]:
    while part := response.read1(BLOCK):
        yield part


def _check(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _RefusedError("expected the address of an image, http://… or https://…")
    if parts.username is not None or parts.password is not None:
        raise _RefusedError("has a user or a password, which are not sent; download it first")
    if not address.isascii():
        raise _RefusedError("has letters beyond ASCII; write them as a browser copies them, with %")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Called for each answer that says the image is elsewhere."""
        fp.close()  # or urllib reads all that comes with such an answer, however much it is
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme, req.type) != ("http", "http"):
            raise _RefusedError(f"leads to {shown(newurl)}, from {req.type} to {scheme}, which is not followed")
        try:
            _check(newurl)
        except _RefusedError as problem:
            raise _RefusedError(f"leads to another address, which {problem}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Of http and https, with the proxy of the environment; urllib's own opens files and ftp too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
