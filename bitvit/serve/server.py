"""The server of `bitvit serve`: the application under uvicorn, from the socket to the last answer."""

import asyncio
import errno
import signal
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import uvicorn

from bitvit.errors import BitvitError
from bitvit.serve.application import Application
from bitvit.serve.connection import connection_class

__all__ = ["Address", "serve"]

KEEP_ALIVE = 75  # seconds that a connection may wait between requests
BACKLOG = 2048


class Address(NamedTuple):
    """Where to listen: a port of a host, 0 for any that is free, or a Unix socket."""

    host: str
    port: int
    path: Path | None = None


def serve(application: Application, address: Address, grace: float, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, and then answer what has been asked, for `grace` seconds at most.

    started: called with the server's URL when it listens. SIGHUP reads the models' files again. Raises BitvitError
    where it cannot listen.
    """
    listener = _listen(address)
    config = uvicorn.Config(
        application,
        http=connection_class(application.limits),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(grace)),
        backlog=BACKLOG,
    )
    server = _Server(config, application, lambda: started(_url(listener, address)))
    # uvicorn has handlers of its own while it runs; afterwards it raises the signal that ended it once more.
    before = {number: signal.signal(number, server.end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        application.close()
        if address.path is not None:
            with suppress(OSError):
                address.path.unlink()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, application: Application, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._application, self._started = application, started
        self._reloading: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(0.01)  # a request may have arrived but not been read: uvicorn closes such connections
        await super().shutdown(sockets)

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._application.reload_all())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    def end(self, _number: int, _frame: FrameType | None) -> None:
        """At a signal that comes before uvicorn looks out for it."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._application.ending = True
        super().handle_exit(sig, frame)


def _url(listener: socket.socket, address: Address) -> str:
    if address.path is not None:
        return f"unix:{address.path}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(address: Address) -> socket.socket:
    if address.path is not None:
        return _listen_at(address.path)
    try:
        family, _, _, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place[:2], family=family, backlog=BACKLOG)
    except OSError as problem:
        raise BitvitError(f"{address.host} port {address.port}: {_reason(problem)}") from None


def _reason(problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return "is in use by another process; end it, or choose another --port, 0 for any that is free"
    if isinstance(problem, socket.gaierror) or problem.errno == errno.EADDRNOTAVAIL:
        return "is not an address of this machine; --host takes 127.0.0.1, 0.0.0.0 for all, or one of its own"
    if problem.errno == errno.EACCES:
        return "may not be used by this user; choose a --port above 1023"
    return f"cannot be listened at: {problem.strerror or problem}"


def _listen_at(path: Path) -> socket.socket:
    """A Unix socket. One that a server has left behind is removed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                try:
                    client.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as problem:
        listener.close()
        if problem.errno == errno.EADDRINUSE:
            raise BitvitError(f"{path}: is in use by another process, or a file; name another socket") from None
        raise BitvitError(f"{path}: cannot be listened at: {problem.strerror or problem}") from None
    return listener
