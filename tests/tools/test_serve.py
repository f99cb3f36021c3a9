"""tools/serve: requests as clients and vandals send them, and what counts as a failure of the server."""

import asyncio
import json
import random
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from bitvit import serve
from tests.support.serving import Answer
from tools.fuzz.seeds import CONFIGS, write_packed
from tools.serve import fuzz
from tools.serve.requests import Request, mutated, valid_requests

SEED = 1
JSON = {"content-type": "application/json"}


def test_valid_requests_are_answered_and_mutated_ones_do_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.safetensors"
    write_packed(path, CONFIGS[0])
    app = serve.app({"tiny": path}, workers=1, limits=serve.Limits(body=4 << 20, seconds=5), allow_load=True)
    seeds = valid_requests("tiny", app.registry.default.size)
    for request in seeds:
        answer, failure = asyncio.run(fuzz.ask(app, request))
        assert (answer.status, failure) == (200, ""), request
    tally = asyncio.run(fuzz.inside(app, seeds, range(100), SEED))
    app.close()
    assert tally.failures == []
    assert tally.statuses.total() == 100
    assert sum(count for status, count in tally.statuses.items() if 400 <= status < 500) >= 40
    assert tally.report()
    assert "failures: 0" in capsys.readouterr().out


def test_a_request_depends_on_its_number_alone() -> None:
    seeds = valid_requests("tiny", 32)
    found = [fuzz.request_number(number, SEED, seeds) for number in range(50)]
    assert found == [fuzz.request_number(number, SEED, seeds) for number in range(50)]
    assert len(set(found)) > 40
    assert found != [fuzz.request_number(number, SEED + 1, seeds) for number in range(50)]
    assert fuzz.raw_number(3, SEED, seeds) == fuzz.raw_number(3, SEED, seeds)


def test_a_request_as_it_is_sent() -> None:
    raw = Request("POST", "/classify", b"12", (("Accept", "é"),)).raw()
    assert raw == b"POST /classify HTTP/1.1\r\nHost: x\r\nAccept: \xe9\r\nContent-Length: 2\r\n\r\n12"
    assert b"Content-Length: 7\r\n\r\n12" in Request("POST", "/", b"12", (("Content-Length", "7"),)).raw()


@pytest.mark.parametrize(
    ("status", "headers", "body", "found"),
    [
        (200, JSON, b"[]", ""),
        (400, JSON, b'{"error": "what was wrong"}', ""),
        (503, JSON, b'{"error": "busy"}', ""),
        (500, JSON, b'{"error": "x"}', "status 500"),
        (0, JSON, b"", "status 0"),
        (200, {"content-type": "image/png"}, b"", "content type image/png"),
        (404, {"content-type": "text/plain"}, b"Not Found", "an error that is not JSON"),
        (404, JSON, b'{"error": ""}', "an error without its text"),
        (404, JSON, b'{"error": 7}', "an error without its text"),
    ],
)
def test_what_is_a_failure(status: int, headers: dict[str, str], body: bytes, found: str) -> None:
    failure = fuzz.failure_of(Request("GET", "/"), Answer(status, headers, body))
    assert failure.startswith(found)
    assert bool(failure) == bool(found)


def test_growth_and_failures_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for growth, failure, fine in ((0.0, "", True), (fuzz.GROWTH + 1.0, "", False), (0.0, "status 500", False)):
        tally = fuzz.Tally("application", 20)
        for number in range(20):
            tally.add(number, 200, 0.1, failure if number == 7 else "")
            tally.remember(100 + growth * (number > 10))
        assert tally.report() == fine
    assert "application 7: status 500" in capsys.readouterr().err


def test_a_mutated_request_keeps_its_json_in_shape() -> None:
    """Most of a thousand changes of a JSON request are still JSON: they reach what is behind its parser."""
    (request,) = [one for one in valid_requests("tiny", 32) if b'"id": "7"' in one.body and not one.headers]
    random_ = random.Random(0)
    changed = [mutated(request, [request], random_) for _ in range(1000)]
    parsed = 0
    for one in changed:
        try:
            json.loads(one.body)
        except (ValueError, RecursionError):  # the latter for brackets, 2000 deep
            continue
        parsed += 1
    assert parsed > 300
