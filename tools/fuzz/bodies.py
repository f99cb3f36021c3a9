"""Target: HTTP requests to the application of bitvit serve, without a connection."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random

from bitvit import serve
from bitvit.errors import BitvitError
from bitvit.serve.tensors import HEADER_LENGTH
from tools.serve.fuzz import ask
from tools.serve.requests import Request, mutated, valid_requests

from . import damage, documents
from .seeds import CONFIGS, write_packed
from .target import Reading, Target

__all__ = ["Http"]


class Http(Target):
    """Requests as they are sent over a connection; the server that splits them into parts is not bitvit's."""

    allowed = frozenset({"sys.set_asyncgen_hook_firstiter", "sys.set_asyncgen_hook_finalizer"})  # of the event loop

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("python_multipart", "bitvit.serve"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        model = folder / "tiny.safetensors"
        write_packed(model, CONFIGS[0])
        limits = serve.Limits(body=4 << 20, seconds=5)
        self._app = serve.app({"tiny": model}, workers=1, limits=limits, allow_load=True)
        self._loop = asyncio.new_event_loop()
        self._valid = valid_requests("tiny", self._app.registry.default.size)
        self._request = self._valid[0]

    def seeds(self) -> list[bytes]:
        return [request.raw() for request in (*self._valid, *_refused())]

    def mutate(self, rng: Random, data: bytes) -> bytes:
        request = parsed(data)
        if request is None or rng.random() < 0.1:
            return damage.damage(rng, data)
        return mutated(request, self._valid, rng).raw()

    def prepare(self, data: bytes) -> None:
        self._request = parsed(data) or Request("POST", "/classify", data)

    def readings(self) -> Sequence[Reading]:
        return (self._ask,)

    def _ask(self) -> None:
        _, failure = self._loop.run_until_complete(ask(self._app, self._request))
        if failure:
            raise AssertionError(failure)

    def close(self) -> None:
        self._app.close()
        self._loop.close()

    def names(self, error: BitvitError) -> bool:
        raise AssertionError("the application answers every request") from error


def _refused() -> list[Request]:
    """Requests that differ from valid ones by more than a few changes."""
    form = b'--X\r\nContent-Disposition: form-data; name="%s"\r\n\r\n2\r\n'
    file = b'--X\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nGIF8\r\n'
    kind = (("Content-Type", "multipart/form-data; boundary=X"),)
    bodies = (
        file + file + b"--X--\r\n",
        file + 2 * (form % b"top_k") + b"--X--\r\n",
        file + form % b"x" + b"--X--\r\n",
    )
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 32, 32]}
    images = {"name": "images", "datatype": "BYTES", "shape": [5000]}
    inputs: list[tuple[dict[str, object], bytes]] = [
        ({**pixels, "parameters": {"binary_data_size": 12288}}, b"\xff" * 12288),
        ({**pixels, "parameters": {"binary_data_size": 8}}, bytes(8)),
        ({**pixels, "data": [["x"]]}, b""),
        ({**images, "data": []}, b""),
        ({**images, "shape": [1], "parameters": {"binary_data_size": 16388}}, bytes(16388)),
        ({**images, "shape": [1], "parameters": {"binary_data_size": 5}, "data": []}, bytes(5)),
        ({**images, "shape": [1], "data": ["data:image/gif;base64,R0lG"]}, b""),
    ]
    found = [Request("POST", "/classify", body, kind) for body in bodies]
    for item, tail in inputs:
        text = documents.as_json({"inputs": [item]})
        found.append(Request("POST", "/v2/models/tiny/infer", text + tail, ((HEADER_LENGTH, str(len(text))),)))
    load = "/v2/repository/models/tiny/load"
    return [*found, Request("POST", load, b"{}", (("Origin", "x"),)), Request("POST", load, b"[]")]


def parsed(data: bytes) -> Request | None:
    """A request as Request.raw has written it, or nearly; None if it has no head."""
    head, separator, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if not separator or len(words) != 3:
        return None
    pairs = (line.partition(": ") for line in lines)
    headers = tuple((name, value) for name, _, value in pairs if name.lower() not in ("host", "content-length"))
    return Request(words[0], words[1], body, headers)
