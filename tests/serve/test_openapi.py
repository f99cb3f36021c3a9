"""/openapi.json: names the routes and statuses that there are."""

import json
import re
from pathlib import Path

import pytest

from bitvit import serve
from bitvit.serve.application import Application
from tests.support.serving import ask


@pytest.mark.parametrize("allow_load", [False, True])
def test_it_has_every_route_and_no_other(tiny: Path, allow_load: bool) -> None:
    app = serve.app(tiny, allow_load=allow_load)
    document = ask(app, "GET", "/openapi.json").json()
    found = {(path, method) for path, item in document["paths"].items() for method in item if method != "parameters"}
    assert found == {(route.path, method.lower()) for route in app.routes for method in route.methods - {"HEAD"}}
    for path, item in document["paths"].items():
        named = {parameter["name"] for parameter in item.get("parameters", [])}
        assert named == set(re.findall(r"\{(\w+)\}", path))


def test_references_lead_somewhere_and_answers_have_what_is_required(app: Application) -> None:
    document = ask(app, "GET", "/openapi.json").json()
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == set(document["components"]["schemas"])
    for path in ("/models", "/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(schema["required"]) <= ask(app, "GET", path).json().keys()
    for path in ("/v2/models/{name}", "/v2/models/{name}/ready"):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(schema["required"]) <= ask(app, "GET", path.format(name="cifar")).json().keys()
