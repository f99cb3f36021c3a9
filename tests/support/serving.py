"""Asking an application as an ASGI server would, and a server in a process of its own."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from tests.support.paths import ROOT
from tests.support.patience import patience

if TYPE_CHECKING:
    from bitvit.serve.application import Application

__all__ = ["Answer", "RunningServer", "ask", "exchange", "running", "scope_of"]


@dataclass(frozen=True)
class Answer:
    """What an application answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of {"error": text}, which is all there is."""
        content = self.json()
        assert content.keys() == {"error"}, content
        assert self.headers["content-type"] == "application/json"
        return str(content["error"])


def scope_of(method: str, target: str, headers: Mapping[str, str] | None = None, root_path: str = "") -> dict[str, Any]:
    """An ASGI scope. target: path and query, as in a request's first line."""
    path, _, query = target.partition("?")
    named = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return {
        "type": "http",
        "method": method,
        "path": root_path + unquote(path),
        "raw_path": root_path.encode() + quote(path, safe="/%").encode(),
        "query_string": query.encode(),
        "root_path": root_path,
        "headers": named,
        "client": ("127.0.0.1", 1),
    }


async def exchange(app: Any, scope: dict[str, Any], parts: Sequence[bytes | float | None]) -> Answer:
    """The answer to a request whose body comes in parts; its status is 0 if there is none.

    A number among the parts is a wait of so many seconds, None the client's end; without it the client stays.
    """
    left = list(parts)
    sent: list[dict[str, Any]] = []
    answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        while left and isinstance(left[0], float):
            await asyncio.sleep(float(left.pop(0)))  # type: ignore[arg-type]
        if not left:
            await answered.wait()
        part = left.pop(0) if left else None
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            answered.set()

    await app(scope, receive, send)
    if not sent:
        return Answer(0, {}, b"")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    if scope["method"] != "HEAD":
        assert headers["content-length"] == str(len(sent[1]["body"]))
    return Answer(sent[0]["status"], headers, sent[1]["body"])


def ask(
    app: "Application",
    method: str,
    target: str,
    body: bytes | dict[str, Any] = b"",
    headers: Mapping[str, str] | None = None,
    *,
    root_path: str = "",
) -> Answer:
    """One request. body: bytes, or what is sent as JSON; without a Content-Type, as some clients do it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(exchange(app, scope_of(method, target, headers, root_path), [data]))


# ----------------------------------------------------------------------------------------------------------- processes
@dataclass
class RunningServer:
    """`bitvit serve` in a process of its own."""

    process: "subprocess.Popen[str]"
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience(30))

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), patience(30))

    def ask(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code."""
        self.process.send_signal(number)
        return self.process.wait(patience(60))

    def logged(self, key: str, value: object) -> dict[str, Any]:
        """The last line of the log with this value, which may come a little after the answer."""
        deadline = time.monotonic() + patience(30)
        while time.monotonic() < deadline:
            for line in reversed(self.lines()):
                if line.get(key) == value:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no line with {key} {value!r}: {self.log.read_text()}")

    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]


@contextlib.contextmanager
def running(
    folder: Path,
    *arguments: object,
    where: str = " at http://127.0.0.1:",
    variables: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """A server at a free port, that listens; it is ended if it has not been stopped. folder: of its log.

    where: what it says of its address. variables: of its environment, beside this process's.
    """
    log = folder / "serve.log"
    command = [sys.executable, "-m", "bitvit", "serve", "--port", "0", *map(str, arguments)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, **(variables or {})}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert where in line, log.read_text()
            port = line.rpartition(":")[2].strip()
            yield RunningServer(process, int(port) if port.isdigit() else 0, log)
        finally:
            process.kill()
