"""Connections of the server: uvicorn's, with bounds on how much and how long a client may take over one request.

uvicorn (0.54, with httptools) takes headers of any size, and waits for ever for a request that never ends, and for a
client that does not read its answer.
"""

import asyncio
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bitvit.serve.application import ACCESS, timestamp
from bitvit.serve.limits import Limits
from bitvit.serve.messages import GONE

__all__ = ["connection_class"]


def connection_class(limits: Limits) -> type[HttpToolsProtocol]:
    """The class of connections for these limits."""

    class Connection(HttpToolsProtocol):
        """One connection. Requests that never reach the application are refused here, with {"error": text} too."""

        _deadline: asyncio.TimerHandle | None = None
        """Of a request that is being received."""
        _unread: asyncio.TimerHandle | None = None
        """When an answer is to have been read, while some of it is left here."""
        _head = 0
        """Bytes of the first line and headers that have come, while they are not complete."""
        _in_head = True
        _began_here = False
        """Whether the head began within the bytes that came last, behind another request."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # what the system does not take at once pauses writing
            self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._deadline is None:
                self._begin()
            self._began_here = False
            super().data_received(data)
            if self._in_head and not self._began_here and not self.transport.is_closing():
                self._head += len(data)
                if self._head > limits.headers:
                    self.refuse(431, f"the headers have more than {limits.headers} bytes")

        def on_headers_complete(self) -> None:
            self._in_head, self._head = False, 0
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head = self._began_here = True
            self._end()
            super().on_message_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(limits.seconds, self._not_read)

        def resume_writing(self) -> None:
            self._stop_waiting()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            self.refuse(400, f"the request is not HTTP/1.1: {msg}")

        def refuse(self, status: int, text: str) -> None:
            """Answer and close."""
            if self.cycle is None or self.cycle.response_complete:  # else an answer is under way
                body = orjson.dumps({"error": text})
                head = [
                    f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                    "content-type: application/json",
                    f"content-length: {len(body)}",
                    "connection: close\r\n\r\n",
                ]
                self.transport.write("\r\n".join(head).encode() + body)
            self.transport.close()
            self._note(status, text)

        def _note(self, status: int, text: str) -> None:
            """For the log."""
            line = {"time": timestamp(), "client": self.client[0] if self.client else None, "status": status}
            ACCESS.info(orjson.dumps({**line, "error": text}).decode())

        def _stop_waiting(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _not_read(self) -> None:
            self.transport.abort()  # to close it would wait for the client to read
            self._note(GONE, f"the answer was not read within {limits.seconds:g} seconds")

        def _begin(self) -> None:
            """A request begins, or is to begin. Twice the time, for the application bounds a body's itself."""
            self._deadline = self.loop.call_later(2 * limits.seconds, self._late)

        def _end(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            if self._head:
                self.refuse(408, f"the headers were not complete within {2 * limits.seconds:g} seconds")
            else:
                self.transport.close()

    return Connection
