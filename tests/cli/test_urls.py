"""bitvit classify --urls: what is fetched from a server on this machine, and what is refused."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import bitvit
from bitvit.classify import Classifier
from bitvit.cli.urls import download
from bitvit.errors import ImageError
from tests.support.command import run

MB = 1 << 20


class Site(BaseHTTPRequestHandler):
    image = b""
    agents: tuple[str | None, ...] = ()

    def log_message(self, *_: object) -> None:  # not on stderr
        pass

    def do_GET(self) -> None:
        Site.agents += (self.headers["User-Agent"],)
        with contextlib.suppress(OSError):  # who asks may go away
            self.answer(self.path)

    def answer(self, path: str) -> None:
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/to/"))
            self.end_headers()
            self.wfile.write(b"elsewhere")
        elif path == "/image.png":
            self.send(Site.image, len(Site.image))
        elif path == "/empty":
            self.send(b"", 0)
        elif path == "/page":
            self.send(b"<html>", 6)
        elif path == "/short":
            self.send(b"abc", 1000)
        elif path == "/huge":
            self.send(b"abc", MB + 1)
        elif path == "/endless":
            self.send(b"", None)
            while True:
                self.wfile.write(bytes(MB))
        elif path == "/drip":
            self.send(b"", None)
            while True:
                self.wfile.write(b".")
                time.sleep(0.02)
        else:
            self.send_error(404, "Gone")

    def send(self, data: bytes, size: int | None) -> None:
        self.send_response(200)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server, pytest.MonkeyPatch.context() as patched:
        patched.setenv("no_proxy", "*")
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def address(site: str, images: Path) -> str:
    Site.image = (images / "a.png").read_bytes()
    return site


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/none", "the server answers 404 Gone"),
        ("/empty", "the server sends an empty file"),
        ("/short", "ended after 3 of 1,000 bytes; try again"),
        ("/huge", "has 1,048,577 bytes, more than 1 MB; --max-download allows more"),
        ("/endless", "has more than 1 MB; --max-download allows more"),
        ("/to/file:///etc/passwd", "302 Found"),
        ("/to/ftp://127.0.0.1/a.png", "from http to ftp, which is not followed"),
        ("/to/http://me:secret@127.0.0.1/a.png", "leads to another address, which has a user or a password"),
        ("/é.png", "has letters beyond ASCII"),
        ("/a b.png", "cannot be downloaded"),
    ],
)
def test_what_is_refused(path: str, said: str, address: str) -> None:
    (found,) = download([address + path], 1)
    assert not found
    assert found.name == address + path
    assert found.problem.startswith(f"{address}{path}: ")
    assert said in found.problem


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ("file:///etc/passwd", "expected the address of an image, http://"),
        ("http://", "expected the address of an image"),
        ("http://me@127.0.0.1/a.png", "has a user or a password, which are not sent"),
        ("http://127.0.0.1:1/a.png", "cannot be downloaded ("),
        ("http://[::1/a.png", "cannot be downloaded ("),
    ],
)
def test_addresses_that_lead_nowhere(whole: str, said: str, site: str) -> None:
    assert site
    assert said in download([whole], 1)[0].problem


def test_images_are_fetched(address: str) -> None:
    found = download([f"{address}/image.png", f"{address}/to/{address}/to/{address}/image.png"], 1)
    assert [(bytes(data), data.problem) for data in found] == [(Site.image, ""), (Site.image, "")]
    assert set(Site.agents) == {f"bitvit/{bitvit.__version__}"}


def test_a_slow_server_is_not_waited_for(address: str) -> None:
    begin = time.monotonic()
    slow, quick = download([f"{address}/drip", f"{address}/image.png"], 1, seconds=0.4)
    assert slow.problem == f"{address}/drip: not there within 0.4 s; try again, or download it first"
    assert quick == Site.image
    assert time.monotonic() - begin < 10


def test_urls_at_the_command_line(model: Path, images: Path, tmp_path: Path, address: str) -> None:
    expected = Classifier(model)(images / "a.png")
    names = tmp_path / "names"
    names.write_text("".join(f"{address}/image.png\n" for _ in range(9)) + f"{images / 'b.jpg'}\n{address}/page\n")
    stdout, stderr = run("classify", model, f"{address}/image.png", f"@{names}", "--urls", "-f", "jsonl", code=3)
    records = [json.loads(line) for line in stdout.splitlines()]
    assert [record.get("predictions") for record in records[:10]] == [expected] * 10
    assert records[10] == {"path": str(images / "b.jpg"), "predictions": Classifier(model)(images / "b.jpg")}
    assert stderr.splitlines()[0].startswith(f"Error: {address}/page: 6 bytes of data: not an image that can be read")
    assert stderr.endswith("Error: 1 of 12 images could not be read\n")


@pytest.mark.parametrize("name", ["image.png", "image.parquet"])
def test_nothing_is_fetched_unasked(name: str, model: Path, address: str) -> None:
    before = Site.agents
    _, stderr = run("classify", model, f"{address}/{name}", code=1)
    assert stderr == f"Error: {address}/{name}: is a URL; --urls lets bitvit download images, or download it first\n"
    _, stderr = run("evaluate", model, f"{address}/{name}", code=1)
    assert stderr.startswith(f"Error: {address}/{name}: ")
    with pytest.raises(ImageError, match="is a URL, expected a path; download the file first"):
        Classifier(model)(f"{address}/{name}")
    assert Site.agents == before
