"""A server in a process of its own: sockets, signals, limits of connections."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bitvit
from tests.support.patience import patience
from tests.support.serving import RunningServer, running

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
Encoded = Callable[[int], bytes]


@pytest.fixture(scope="module")
def server(cifar_file: Path, tmp_path_factory: pytest.TempPathFactory, classifier: object) -> Iterator[RunningServer]:
    """One for all tests that leave it running; 1 second for a request."""
    assert classifier  # its kernels are compiled
    folder = tmp_path_factory.mktemp("server")
    with running(folder, f"cifar={cifar_file}", "--timeout", 1, "--workers", 2, "--queue", 1000) as server:
        yield server


def answers_of(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of each of so many answers."""
    found = []
    file = connection.makefile("rb")
    for _ in range(count):
        status = int(file.readline().split()[1])
        headers = http.client.parse_headers(file)
        found.append((status, file.read(int(headers["content-length"]))))
    return found


def request_of(target: str, body: bytes) -> bytes:
    return f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_it_listens_at_loopback_alone(server: RunningServer) -> None:
    addresses = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    assert f"0100007F:{server.port:04X}" in addresses
    assert f"00000000:{server.port:04X}" not in addresses


def test_pipelined_requests_are_answered_in_order(
    server: RunningServer, encoded: Encoded, classifier: bitvit.Classifier
) -> None:
    with server.raw() as connection:
        connection.sendall(b"".join(request_of("/classify?top_k=1", encoded(number)) for number in range(20)))
        found = answers_of(connection, 20)
    assert [(status, json.loads(body)) for status, body in found] == [
        (200, classifier(encoded(number), top_k=1)) for number in range(20)
    ]


def test_chunked_bodies_and_two_lengths(server: RunningServer, encoded: Encoded) -> None:
    """A body in chunks is no second request, and a request with two lengths is none."""
    image = encoded(0)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (image[:100], image[100:])) + b"0\r\n\r\n"
    with server.raw() as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [status for status, _ in answers_of(connection, 2)] == [200, 200]
    for length in (b"Content-Length: 1\r\nContent-Length: 2", b"Content-Length: -1", b"Content-Length: x"):
        with server.raw() as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\nab")
            ((status, body),) = answers_of(connection, 1)
            assert (status, list(json.loads(body))) == (400, ["error"])
            assert connection.recv(1) == b""
    last = server.logged("status", 400)
    assert last["client"] == "127.0.0.1"
    assert last["error"].startswith("the request is not HTTP/1.1")


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, b"GET /" + b"x" * 40_000, b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 7000],
)
def test_headers_without_end_are_refused(server: RunningServer, sent: bytes) -> None:
    with server.raw() as connection:
        connection.sendall(sent)
        ((status, body),) = answers_of(connection, 1)
        assert (status, list(json.loads(body))) == (431, ["error"])
        assert connection.recv(1) == b""


def test_requests_that_do_not_end_are_refused(server: RunningServer, encoded: Encoded) -> None:
    """A body, headers, and a connection that says nothing; at once, and others are answered meanwhile."""
    with server.raw() as body, server.raw() as headers, server.raw() as silent:
        body.sendall(request_of("/classify", encoded(0))[:-1])
        headers.sendall(b"GET / HTTP/1.1\r\nX:")
        assert server.ask("POST", "/classify", encoded(0)).status == 200
        for connection in (body, headers):
            ((status, text),) = answers_of(connection, 1)
            assert (status, list(json.loads(text))) == (408, ["error"])
            assert connection.recv(1) == b""
        assert silent.recv(1) == b""


def test_an_answer_that_is_not_read_ends_the_connection(server: RunningServer) -> None:
    """A client that asks for more than a connection holds, and reads nothing."""
    with server.raw() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        assert server.logged("error", "the answer was not read within 1 seconds")["status"] == 499
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(1 << 20):
                received += len(part)
    assert received < 1000 * len(server.ask("GET", "/").body)


def test_a_large_body_is_refused_while_it_is_sent(server: RunningServer) -> None:
    with server.raw() as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + bytes(100_000))
        ((status, body),) = answers_of(connection, 1)
        assert (status, list(json.loads(body))) == (413, ["error"])


def test_expect_continue(server: RunningServer, encoded: Encoded) -> None:
    head, _, body = request_of("/classify", encoded(0)).partition(b"\r\n\r\n")
    with server.raw() as connection:
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert answers_of(connection, 1)[0][0] == 200


def test_many_connections_and_some_that_go_away(server: RunningServer, encoded: Encoded) -> None:
    """Two hundred at once; every other one leaves within its body, or before its answer."""
    request = request_of("/classify?top_k=1", encoded(0))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.raw()) for _ in range(200)]
        for number, connection in enumerate(connections):
            connection.sendall(request[: -(number % 4 == 1) or None])
            if number % 2:
                connection.close()
        found = [answers_of(connection, 1)[0] for connection in connections[::2]]
    assert {status for status, _ in found} == {200}
    assert len({body for _, body in found}) == 1
    assert server.ask("GET", "/v2/health/ready").status == 200
    jobs = server.ask("GET", "/metrics").body.decode()
    assert "bitvit_jobs 0.0" in jobs
    assert not [line for line in server.lines() if "traceback" in line]


# ------------------------------------------------------------------------------------------------------------ signals
def test_sigterm_answers_what_is_open_and_leaves_nothing(
    cifar_file: Path, tmp_path: Path, encoded: Encoded, classifier: object
) -> None:
    """Thirty requests open: each gets its answer, the port is free, and the process has ended with 0."""
    assert classifier
    with running(tmp_path, cifar_file, "--workers", 1, "--grace", 20) as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.raw()) for _ in range(30)]
        slow = stack.enter_context(server.raw())
        slow.sendall(request_of("/classify", encoded(0))[:-1])
        assert server.ask("GET", "/v2/health/live").status == 200
        for connection in connections:
            connection.sendall(request_of("/classify", encoded(0)))
        deadline = time.monotonic() + patience(20)
        server.process.send_signal(signal.SIGTERM)
        assert [answers_of(connection, 1)[0][0] for connection in connections] == [200] * 30
        while time.monotonic() < deadline and not _refused(server.port):
            time.sleep(0.01)
        assert _refused(server.port)
        assert server.process.poll() is None  # one request is not complete
        slow.sendall(request_of("/classify", encoded(0))[-1:])
        assert answers_of(slow, 1)[0][0] == 200
        assert server.process.wait(patience(30)) == 0


def test_a_unix_socket_and_sigterm_that_does_not_wait_for_ever(
    cifar_file: Path, tmp_path: Path, classifier: object
) -> None:
    """A socket that a server left behind is replaced; the server takes its own away."""
    assert classifier
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    options = ("--grace", 1, "--timeout", 600)
    with (
        running(tmp_path, cifar_file, "--uds", path, *options, where=f" at unix:{path}") as server,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.connect(str(path))
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answers_of(connection, 1) == [(200, b'{"ready":true}')]
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # so the request is under way
        assert server.stop() == 0
        ((status, body),) = answers_of(connection, 1)
        assert (status, json.loads(body)) == (503, {"error": "the server ends; ask another"})
    assert not path.exists()


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def test_sighup_loads_models_again_while_requests_go_on(
    cifar_file: Path, tiny: Path, tmp_path: Path, encoded: Encoded, classifier: object
) -> None:
    assert classifier
    live = tmp_path / "live.safetensors"
    shutil.copy(cifar_file, live)
    with running(tmp_path, live) as server:
        statuses: list[int] = []
        over = threading.Event()

        def client() -> None:
            while not over.is_set():
                statuses.append(server.ask("POST", "/classify", encoded(0)).status)

        clients = [threading.Thread(target=client) for _ in range(2)]
        for thread in clients:
            thread.start()
        before = server.ask("GET", "/models").json()
        shutil.copy(tiny, tmp_path / "new")
        (tmp_path / "new").replace(live)
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + patience(30)
        while server.ask("GET", "/models").json() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        over.set()
        for thread in clients:
            thread.join()
        assert server.ask("GET", "/models").json() != before
        assert set(statuses) == {200}
        live.write_bytes(b"nothing")
        server.process.send_signal(signal.SIGHUP)
        while len(server.lines()) < 1 or "the old model stays" not in server.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert server.ask("POST", "/classify", encoded(0)).status == 200
        assert server.stop(signal.SIGINT) == 0
        lines = server.lines()
    assert {line["status"] for line in lines if "status" in line} == {200}
    assert [line["level"] for line in lines if "level" in line] == ["warning", "error"]
