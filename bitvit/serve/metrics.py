"""What the server counts, in Prometheus' text; a registry of its own for each application."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from bitvit.serve.admission import Admission

__all__ = ["Metrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one application."""

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("bitvit_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "bitvit_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter("bitvit_images", "Images classified.", ["model"], registry=self.registry)
        self.loads = Counter("bitvit_model_loads", "Models loaded again.", ["model", "outcome"], registry=self.registry)
        self._gauge("bitvit_jobs", "Requests that wait for a worker or are computed.", lambda: admission.admitted)
        self._gauge("bitvit_workers", "Requests that can be computed at once.", lambda: admission.workers)
        self._gauge("bitvit_queue_limit", "Requests that may wait for a worker.", lambda: admission.queue)
        self._counted: dict[tuple[str, int], Callable[[float], None]] = {}

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(name, text, registry=self.registry).set_function(value)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """route: of the routes' own names, never a client's text, which would be a new series each time."""
        count = self._counted.get((route, status))
        if count is None:
            count = self._counted[route, status] = self._counting(route, status)
        count(seconds)

    def _counting(self, route: str, status: int) -> Callable[[float], None]:
        """Looking labels up takes longer than counting."""
        requests, histogram = self.requests.labels(route, str(status)), self.seconds.labels(route)

        def count(seconds: float) -> None:
            requests.inc()
            histogram.observe(seconds)

        return count

    def response(self, accept: str) -> Response:
        """All of it, in OpenMetrics where the client asks for it."""
        encode, media_type = choose_encoder(accept)
        return Response(encode(self.registry), media_type=media_type)
