"""/metrics: what is counted, under names that no client can choose."""

from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bitvit import serve
from tests.support.serving import ask


def test_requests_images_and_jobs_are_counted(tiny: Path, encoded: Callable[[int], bytes]) -> None:
    app = serve.app(tiny, workers=3, limits=serve.Limits(queue=4))
    for body in (encoded(0), encoded(1), b"nothing"):
        ask(app, "POST", "/classify", body)
    for number in range(3):
        ask(app, "GET", f"/{number}")
    answer = ask(app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    assert samples["bitvit_requests_total", ("/classify", "200")] == 2
    assert samples["bitvit_requests_total", ("/classify", "400")] == 1
    assert samples["bitvit_requests_total", ("none", "404")] == 3
    assert samples["bitvit_images_total", ("tiny",)] == 2
    assert samples["bitvit_request_seconds_count", ("/classify",)] == 3
    assert samples["bitvit_request_seconds_sum", ("/classify",)] > 0
    assert (samples["bitvit_workers", ()], samples["bitvit_queue_limit", ()], samples["bitvit_jobs", ()]) == (3, 4, 0)
    assert samples["process_resident_memory_bytes", ()] > 0
    assert len([name for name, _ in samples if name == "bitvit_requests_total"]) == 3


def test_openmetrics_is_given_to_those_who_ask_for_it(tiny: Path) -> None:
    answer = ask(serve.app(tiny), "GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
