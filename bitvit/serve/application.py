"""The ASGI application: each request read, admitted, answered, counted and logged."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from http import HTTPStatus

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from bitvit.errors import BitvitError, lacks_memory
from bitvit.messages import shown
from bitvit.serve.admission import Admission, GoOn, StoppedError
from bitvit.serve.classification import ClassifyJob, whole_number
from bitvit.serve.explaining import ExplainJob
from bitvit.serve.infer import InferJob
from bitvit.serve.limits import Limits
from bitvit.serve.messages import CLOSE, GONE, JSON, RETRY, Bodies, Exchange, query_of, read_body
from bitvit.serve.metadata import model_metadata, models_metadata, server_metadata
from bitvit.serve.metrics import Metrics
from bitvit.serve.openapi import document
from bitvit.serve.page import page
from bitvit.serve.registry import Registry, Served
from bitvit.serve.tensors import HEADER_LENGTH
from bitvit.system import available_threads

__all__ = ["ACCESS", "Application", "timestamp"]

log = logging.getLogger("bitvit.serve")
ACCESS = logging.getLogger("bitvit.serve.access")
LONGEST_PATH = 200  # of a path in the log
EXCHANGE = "bitvit.exchange"  # of a request, in its scope

Job = Callable[[GoOn], tuple[Response, int]]


class Application(Starlette):
    """What bitvit.serve.app gives. registry: the models; the other arguments as there."""

    def __init__(self, registry: Registry, *, workers: int | None, limits: Limits, allow_load: bool) -> None:
        workers = available_threads() if workers is None else workers
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1")
        self.registry, self.limits, self.allow_load = registry, limits, allow_load
        self.ending = False
        """Whether the server is about to end, so that no new requests are to be sent to it."""
        self.admission = Admission(workers, limits.queue)
        self.metrics = Metrics(self.admission)
        self._bodies = Bodies()
        self._loading = asyncio.Lock()
        self._loader = ThreadPoolExecutor(1, "bitvit-serve-load")
        errors = (HTTPException, ClientDisconnect, StoppedError, BitvitError, Exception)
        super().__init__(
            routes=self._routes(), exception_handlers=dict.fromkeys(errors, self._error), lifespan=self._life
        )
        self.router.redirect_slashes = False
        self._paths = {route.endpoint: route.path for route in reversed(self.routes)}

    def _routes(self) -> list[Route]:
        """The most frequent first, in which order they are compared."""
        post = {"/classify": self._classify, "/v2/models/{name}/infer": self._infer}
        post |= {"/v2/models/{name}/versions/{version}/infer": self._infer, "/explain": self._explain}
        if self.allow_load:
            post |= {"/v2/repository/index": self._index, "/v2/repository/models/{name}/load": self._load}
        get = {
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/v2/models/{name}/ready": self._model_ready,
            "/v2/models/{name}/versions/{version}/ready": self._model_ready,
            "/v2/models/{name}": self._model,
            "/v2/models/{name}/versions/{version}": self._model,
            "/metrics": self._metrics,
            "/": self._page,
            "/models": self._models,
            "/openapi.json": self._openapi,
            "/v2": self._server,
        }
        return [Route(path, handler, methods=["POST"]) for path, handler in post.items()] + [
            Route(path, handler, methods=["GET"]) for path, handler in get.items()
        ]

    @contextlib.asynccontextmanager
    async def _life(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        self.close()

    def close(self) -> None:
        """Begin no further job. The application cannot be used again."""
        self.ending = True
        self.admission.stop()
        self._loader.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------------ ASGI
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        begin = time.perf_counter()
        exchange = Exchange()
        root, path = scope.get("root_path", "").rstrip("/"), scope["path"].rstrip("/")
        if path == root or path.endswith("\n"):  # before which Starlette's patterns may end: /v2 would be at /v2%0A
            path += "/"
        scope = {**scope, "path": path, "root_path": root, EXCHANGE: exchange}

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                if self.ending:
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            else:
                exchange.sent += len(message["body"])
                if scope["method"] == "HEAD":
                    message = {**message, "body": b""}
            try:
                await send(message)
            except OSError:  # as some servers say that the client went away
                exchange.status = GONE

        try:
            if (size := _size_of_head(scope)) > self.limits.headers:
                text = f"the headers have {size} bytes, expected at most {self.limits.headers}"
                await JSON({"error": text}, 431, CLOSE)(scope, receive, observed)
            else:
                await super().__call__(scope, receive, observed)
        except asyncio.CancelledError:
            if not self.ending:
                raise
            await _ending()(scope, receive, observed)
        except Exception:  # has been answered and logged; Starlette raises it again for a server that logs it
            pass
        finally:
            self._bodies.held -= exchange.received
            self._note(scope, exchange, time.perf_counter() - begin)

    async def _error(self, request: Request, error: Exception) -> Response | None:
        """What is answered when a handler raises, or there is none."""
        if isinstance(error, ClientDisconnect):
            return None
        if isinstance(error, StoppedError):
            return _ending()
        if isinstance(error, HTTPException):
            return _refusal(error, request)
        name = f"{request.method} {self._route(request.scope)}"
        if isinstance(error, BitvitError) or lacks_memory(error):  # the machine's fault, not the request's
            text = str(error) if isinstance(error, BitvitError) else "too little memory; allow the server more"
            log.error("%s: %s", name, text)
            return JSON({"error": text}, 503, RETRY)
        log.error("%s failed", name, exc_info=error)
        return JSON({"error": "an error inside the server, which its log describes"}, 500)

    def _route(self, scope: Scope) -> str:
        """The path that a request's handler has, which no client can choose."""
        return self._paths.get(scope.get("endpoint"), "none")

    def _note(self, scope: Scope, exchange: Exchange, seconds: float) -> None:
        """For metrics and the access log."""
        self.metrics.answered(self._route(scope), exchange.status, seconds)
        if ACCESS.isEnabledFor(logging.INFO):
            client = scope.get("client")
            line: dict[str, object] = {
                "time": timestamp(),
                "client": client[0] if client else None,
                "method": scope["method"],
                "path": scope["path"][:LONGEST_PATH].encode("utf-8", "replace").decode(),
                "status": exchange.status,
                "received": exchange.received,
                "sent": exchange.sent,
                "milliseconds": round(1000 * seconds, 3),
            }
            ACCESS.info(orjson.dumps({**line, **exchange.noted}).decode())

    # ----------------------------------------------------------------------------------------------- about the server
    async def _page(self, _request: Request) -> Response:
        return page()

    async def _models(self, _request: Request) -> Response:
        return JSON(models_metadata(self.registry))

    async def _metrics(self, request: Request) -> Response:
        return self.metrics.response(request.headers.get("accept", ""))

    async def _openapi(self, request: Request) -> Response:
        return JSON(document(self.registry, self.limits, request.scope["root_path"], self.allow_load))

    async def _server(self, _request: Request) -> Response:
        return JSON(server_metadata())

    async def _live(self, _request: Request) -> Response:
        return JSON({"live": True})

    async def _ready(self, _request: Request) -> Response:
        return self._readiness({})

    async def _model(self, request: Request) -> Response:
        return JSON(model_metadata(self._served(request)))

    async def _model_ready(self, request: Request) -> Response:
        return self._readiness({"name": self._served(request).name})

    def _readiness(self, content: dict[str, str]) -> Response:
        if self.ending:
            return JSON({**content, "ready": False, "error": "the server ends"}, 503)
        return JSON({**content, "ready": True})

    def _served(self, request: Request) -> Served:
        """The model that a path names. Raises HTTPException 404."""
        version = request.path_params.get("version", "1")
        if version != "1":
            raise HTTPException(404, f"version {shown(version)}, expected '1': each model has one version")
        return self.registry.named(request.path_params["name"])

    # ------------------------------------------------------------------------------------------------------- the work
    async def _infer(self, request: Request) -> Response:
        served, headers = self._served(request), request.headers
        body = await self._body(request)
        coding, length = headers.get("content-encoding", ""), headers.get(HEADER_LENGTH, "")
        return await self._run(request, served, InferJob(served, body, coding, length, self.limits.body))

    async def _classify(self, request: Request) -> Response:
        asked, served = self._asked(request, ("model", "top_k", "function_to_apply"))
        headers = request.headers
        body = await self._body(request)
        coding, kind = headers.get("content-encoding", ""), headers.get("content-type", "")
        return await self._run(request, served, ClassifyJob(served, body, coding, kind, asked, self.limits.body))

    async def _explain(self, request: Request) -> Response:
        asked, served = self._asked(request, ("model", "top_k", "heat"))
        top_k, heat = whole_number("top_k", asked.get("top_k"), 5), asked.get("heat", "0")
        if heat not in ("0", "1"):
            raise HTTPException(400, f"heat: is {heat[:20]!r}, expected 0 or 1")
        body = await self._body(request)
        coding = request.headers.get("content-encoding", "")
        return await self._run(request, served, ExplainJob(served, body, coding, top_k, heat == "1", self.limits.body))

    def _asked(self, request: Request, known: tuple[str, ...]) -> tuple[Mapping[str, str], Served]:
        """The query without its model, and the model. Raises HTTPException 400, also for a name that is not known."""
        asked = query_of(request)
        if unknown := asked.keys() - set(known):
            raise HTTPException(400, f"query: {sorted(unknown)[0][:40]!r}, expected {', '.join(known)}")
        name = asked.pop("model", None)
        return asked, self.registry.default if name is None else self.registry.named(name)

    async def _body(self, request: Request) -> bytes:
        """A request's body, unless there is no place for it."""
        self.admission.check()
        return await self._read(request)

    async def _read(self, request: Request) -> bytes:
        return await read_body(request, self.limits, self._bodies, request.scope[EXCHANGE])

    async def _run(self, request: Request, served: Served, job: Job) -> Response:
        response, images = await self.admission.run(job, lambda: _client_left(request.receive))
        self.metrics.images.labels(served.name).inc(images)
        request.scope[EXCHANGE].noted |= {"model": served.name, "images": images}
        return response

    # ------------------------------------------------------------------------------------------------- loading again
    async def _index(self, request: Request) -> Response:
        await self._read(request)
        return JSON([{"name": served.name, "version": "1", "state": "READY"} for served in self.registry])

    async def _load(self, request: Request) -> Response:
        served = self._served(request)
        if "origin" in request.headers:  # whoever looks at a web page is not who runs the server
            raise HTTPException(403, "a web page may not ask for this")
        body = await self._read(request)
        try:
            asked = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError:
            asked = None
        if not isinstance(asked, dict) or asked.get("parameters"):
            raise HTTPException(
                400, "the body is neither empty nor an object without parameters; a model is read from its own file"
            )
        if problem := await self.reload(served.name):
            raise HTTPException(409, problem)
        return JSON({})

    async def reload(self, name: str) -> str:
        """Read a model's file again while requests go on; returns what was wrong, in which case the old model stays."""
        async with self._loading:
            try:
                await asyncio.get_running_loop().run_in_executor(self._loader, self.registry.reload, name)
            except BitvitError as error:
                self.metrics.loads.labels(name, "failed").inc()
                log.error("%s: the old model stays, for the new one cannot be used: %s", name, error)
                return str(error)
            self.metrics.loads.labels(name, "done").inc()
            log.warning("%s: loaded again", name)
            return ""

    async def reload_all(self) -> None:
        """Read the file of each model again that has one."""
        for served in list(self.registry):
            if served.path is not None:
                await self.reload(served.name)


def timestamp() -> str:
    """Now, as the log has it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _size_of_head(scope: Scope) -> int:
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    return size + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _refusal(error: HTTPException, request: Request) -> Response:
    """The answer to an error of a handler, or of Starlette's routing, which knows no more than its status."""
    text, headers = error.detail, error.headers
    if error.status_code == 405:
        allowed = ", ".join(sorted(error.headers["Allow"].split(", ")))
        text, headers = f"method {shown(request.method)}, expected {allowed}", {"allow": allowed}
    elif text == HTTPStatus.NOT_FOUND.phrase:
        text = f"nothing is at {shown(request.scope['path'])}; /openapi.json lists what there is"
    return JSON({"error": text}, error.status_code, headers)


def _ending() -> Response:
    return JSON({"error": "the server ends; ask another"}, 503, RETRY)


async def _client_left(receive: Receive) -> None:
    """Returns when the client has gone away; its request has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
