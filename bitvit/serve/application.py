"""The ASGI application: each request read, admitted, answered, counted and logged."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import orjson

from bitvit.errors import BitvitError
from bitvit.serve.admission import Admission, StoppedError
from bitvit.serve.classification import ClassifyJob, whole_number
from bitvit.serve.explaining import ExplainJob
from bitvit.serve.infer import InferJob
from bitvit.serve.limits import Limits
from bitvit.serve.messages import (
    Body,
    DisconnectedError,
    HTTPError,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    json_response,
)
from bitvit.serve.metadata import model_metadata, models_metadata, server_metadata
from bitvit.serve.metrics import Metrics
from bitvit.serve.openapi import document
from bitvit.serve.page import page
from bitvit.serve.registry import Registry, Served
from bitvit.serve.routes import Handler, Route, Routes
from bitvit.serve.tensors import HEADER_LENGTH
from bitvit.system import available_threads

__all__ = ["ACCESS", "Application", "timestamp"]

log = logging.getLogger("bitvit.serve")
ACCESS = logging.getLogger("bitvit.serve.access")
LONGEST_PATH = 200  # of a path in the log
GONE = 499  # in log and metrics: the client went away before it was answered

Job = Callable[[], tuple[Response, int]]


class Application:
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
        self._bodies = Body()
        self._loading = asyncio.Lock()
        self._loader = ThreadPoolExecutor(1, "bitvit-serve-load")
        self.routes = Routes(self._routes())

    def _routes(self) -> list[Route]:
        get: dict[str, Handler] = {
            "/": self._page,
            "/models": self._models,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/v2": self._server,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
        }
        model = "/v2/models/{name}"
        for place in (model, f"{model}/versions/{{version}}"):
            get |= {place: self._model, f"{place}/ready": self._model_ready}
        post: dict[str, Handler] = {"/classify": self._classify, "/explain": self._explain}
        post |= {f"{model}/infer": self._infer, f"{model}/versions/{{version}}/infer": self._infer}
        if self.allow_load:
            post |= {
                "/v2/repository/index": self._index,
                "/v2/repository/models/{name}/load": self._load,
            }
        return [Route(path, {"GET": handler}) for path, handler in get.items()] + [
            Route(path, {"POST": handler}) for path, handler in post.items()
        ]

    # ------------------------------------------------------------------------------------------------------ ASGI
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live_on(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _live_on(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def close(self) -> None:
        """Begin no further job. The application cannot be used again."""
        self.ending = True
        self.admission.stop()
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        request = Request(scope, receive, self.limits, self._bodies, _path_below(scope))
        route, response = "none", None
        try:
            try:
                self._check_headers(scope)
                found, name = self.routes.find(request.path)
                route = found.path
                response = await self.routes.handler(found, request.method)(request, name)
            except HTTPError as error:
                response = error.response()
            except DisconnectedError:
                return
            except (StoppedError, asyncio.CancelledError) as problem:
                if isinstance(problem, asyncio.CancelledError) and not self.ending:
                    raise
                response = HTTPError(503, "the server ends; ask another", ((b"retry-after", b"1"),)).response()
            except BitvitError as error:  # the machine's fault, such as too little memory: not the request's
                log.error("%s %s: %s", request.method, route, error)
                response = HTTPError(503, str(error), ((b"retry-after", b"1"),)).response()
            except Exception:
                log.exception("%s %s failed", request.method, route)
                response = HTTPError(500, "an error inside the server, which its log describes").response()
            finally:
                request.release()
            try:
                await self._send(response, request.method, send)
            except OSError:  # as some servers say that the client went away
                response = None
        finally:
            self._note(request, route, response, time.perf_counter() - begin)

    def _check_headers(self, scope: Scope) -> None:
        size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self.limits.headers:
            text = f"the headers have {size} bytes, expected at most {self.limits.headers}"
            raise HTTPError(431, text, ((b"connection", b"close"),))

    async def _send(self, response: Response, method: str, send: Send) -> None:
        headers = [
            (b"content-type", response.media_type),
            (b"content-length", str(len(response.body)).encode()),
            *response.headers,
        ]
        if self.ending and not any(name == b"connection" for name, _ in response.headers):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else response.body})

    def _note(self, request: Request, route: str, response: Response | None, seconds: float) -> None:
        """For metrics and the access log."""
        status = GONE if response is None else response.status
        self.metrics.answered(route, status, seconds)
        if ACCESS.isEnabledFor(logging.INFO):
            client = request.scope.get("client")
            line: dict[str, object] = {
                "time": timestamp(),
                "client": client[0] if client else None,
                "method": request.method,
                "path": request.path[:LONGEST_PATH].encode("utf-8", "replace").decode(),
                "status": status,
                "received": request.size,
                "sent": 0 if response is None else len(response.body),
                "milliseconds": round(1000 * seconds, 3),
            }
            ACCESS.info(orjson.dumps({**line, **request.noted}).decode())

    # ----------------------------------------------------------------------------------------------- about the server
    async def _page(self, _request: Request, _name: str) -> Response:
        return page()

    async def _models(self, _request: Request, _name: str) -> Response:
        return json_response(models_metadata(self.registry))

    async def _metrics(self, request: Request, _name: str) -> Response:
        return self.metrics.response(request.header(b"accept"))

    async def _openapi(self, request: Request, _name: str) -> Response:
        return json_response(document(self.registry, self.limits, request.scope.get("root_path", ""), self.allow_load))

    async def _server(self, _request: Request, _name: str) -> Response:
        return json_response(server_metadata())

    async def _live(self, _request: Request, _name: str) -> Response:
        return json_response({"live": True})

    async def _ready(self, _request: Request, _name: str) -> Response:
        if self.ending:
            return json_response({"ready": False, "error": "the server ends"}, 503)
        return json_response({"ready": True})

    async def _model(self, _request: Request, name: str) -> Response:
        return json_response(model_metadata(self.registry.named(name)))

    async def _model_ready(self, _request: Request, name: str) -> Response:
        self.registry.named(name)
        if self.ending:
            return json_response({"name": name, "ready": False, "error": "the server ends"}, 503)
        return json_response({"name": name, "ready": True})

    # ------------------------------------------------------------------------------------------------------- the work
    async def _infer(self, request: Request, name: str) -> Response:
        served = self.registry.named(name)
        body = await self._body(request)
        coding, length = request.header(b"content-encoding"), request.header(HEADER_LENGTH)
        job = InferJob(served, body, coding, length, self.limits.body, self.admission.go_on)
        return await self._run(request, served, job)

    async def _classify(self, request: Request, _name: str) -> Response:
        asked = _checked(request, ("model", "top_k", "function_to_apply"))
        served = self._asked_for(asked)
        body = await self._body(request)
        coding, kind = request.header(b"content-encoding"), request.header(b"content-type")
        parameters = {name: value for name, value in asked.items() if name != "model"}
        job = ClassifyJob(served, body, coding, kind, parameters, self.limits.body, self.admission.go_on)
        return await self._run(request, served, job)

    async def _explain(self, request: Request, _name: str) -> Response:
        asked = _checked(request, ("model", "top_k", "heat"))
        served = self._asked_for(asked)
        top_k, heat = whole_number("top_k", asked.get("top_k"), 5), asked.get("heat", "0")
        if heat not in ("0", "1"):
            raise HTTPError(400, f"heat: is {heat[:20]!r}, expected 0 or 1")
        body = await self._body(request)
        coding = request.header(b"content-encoding")
        job = ExplainJob(served, body, coding, top_k, heat == "1", self.limits.body, self.admission.go_on)
        return await self._run(request, served, job)

    def _asked_for(self, asked: dict[str, str]) -> Served:
        return self.registry.named(asked["model"]) if "model" in asked else self.registry.default

    async def _body(self, request: Request) -> bytes:
        """A request's body, unless there is no place for it."""
        self.admission.check()
        return await request.read()

    async def _run(self, request: Request, served: Served, job: Job) -> Response:
        response, images = await self.admission.run(job)
        self.metrics.images.labels(served.name).inc(images)
        request.noted |= {"model": served.name, "images": images}
        return response

    # ------------------------------------------------------------------------------------------------- loading again
    async def _index(self, request: Request, _name: str) -> Response:
        await request.read()
        return json_response([{"name": served.name, "version": "1", "state": "READY"} for served in self.registry])

    async def _load(self, request: Request, name: str) -> Response:
        self.registry.named(name)
        if request.header(b"origin"):  # whoever looks at a web page is not who runs the server
            raise HTTPError(403, "a web page may not ask for this")
        body = await request.read()
        try:
            asked = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError:
            asked = None
        if not isinstance(asked, dict) or asked.get("parameters"):
            raise HTTPError(
                400, "the body is neither empty nor an object without parameters; a model is read from its own file"
            )
        if problem := await self.reload(name):
            raise HTTPError(409, problem)
        return json_response({})

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


def _path_below(scope: Scope) -> str:
    """The path below the place where the application is mounted, without a slash at its end."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        path = path[len(root) :]
    return path.rstrip("/") or "/"


def _checked(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    """The query. Raises HTTPError 400 for a name that is not known."""
    if unknown := request.query.keys() - set(known):
        raise HTTPError(400, f"query: {sorted(unknown)[0][:40]!r}, expected {', '.join(known)}")
    return request.query
