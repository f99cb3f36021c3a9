"""The OpenAPI document of an application: what /openapi.json says."""

from typing import Any

from bitvit.serve.limits import Limits
from bitvit.serve.registry import Registry
from bitvit.version import __version__

__all__ = ["document"]

Json = dict[str, Any]

NUMBER: Json = {"type": "number"}
TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
FLAG: Json = {"type": "boolean"}
BINARY: Json = {"application/octet-stream": {"schema": {}}}

SCHEMAS: Json = {
    "Error": {"type": "object", "properties": {"error": TEXT}, "required": ["error"]},
    "Prediction": {
        "type": "object",
        "properties": {"label": TEXT, "index": COUNT, "score": NUMBER},
        "required": ["label", "index", "score"],
    },
    "Input": {
        "type": "object",
        "description": "One of: FP32 pixels [n, 3, S, S], normalised; BYTES images [n], in JSON base64.",
        "properties": {
            "name": {"enum": ["pixels", "images"]},
            "datatype": {"enum": ["FP32", "BYTES"]},
            "shape": {"type": "array", "items": COUNT},
            "parameters": {"type": "object", "properties": {"binary_data_size": COUNT}},
            "data": {"type": "array"},
        },
        "required": ["name", "datatype", "shape"],
    },
    "WantedOutput": {
        "type": "object",
        "properties": {
            "name": {"enum": ["logits", "label", "score"]},
            "parameters": {
                "type": "object",
                "properties": {"binary_data": FLAG, "classification": {"type": "integer", "minimum": 1}},
            },
        },
        "required": ["name"],
    },
    "InferRequest": {
        "type": "object",
        "properties": {
            "id": TEXT,
            "parameters": {"type": "object", "properties": {"binary_data_output": FLAG}},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Input"}, "minItems": 1, "maxItems": 1},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/WantedOutput"}},
        },
        "required": ["inputs"],
    },
    "Tensor": {
        "type": "object",
        "properties": {
            "name": TEXT,
            "datatype": {"enum": ["FP32", "BYTES"]},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
        "required": ["name", "datatype", "shape"],
    },
    "InferResponse": {
        "type": "object",
        "properties": {
            "model_name": TEXT,
            "model_version": TEXT,
            "id": TEXT,
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
        "required": ["model_name", "model_version", "outputs"],
    },
    "ClassifyRequest": {
        "type": "object",
        "properties": {
            "inputs": {"type": "string", "description": "An image file in base64."},
            "parameters": {
                "type": "object",
                "properties": {
                    "top_k": {"type": "integer", "minimum": 1, "maximum": 1000000},
                    "function_to_apply": {"enum": ["softmax", "sigmoid", "none"]},
                },
                "additionalProperties": False,
            },
        },
        "required": ["inputs"],
        "additionalProperties": False,
    },
    "Explanation": {
        "type": "object",
        "properties": {
            "model": TEXT,
            "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
            "milliseconds": {
                "type": "object",
                "properties": {"decode": NUMBER, "prepare": NUMBER, "network": NUMBER},
            },
            "width": COUNT,
            "height": COUNT,
            "heat": {
                "type": "object",
                "properties": {
                    "grid": {"type": "array", "items": {"type": "array", "items": NUMBER}},
                    "box": {"type": "array", "items": NUMBER, "minItems": 4, "maxItems": 4},
                },
                "required": ["grid", "box"],
            },
        },
        "required": ["model", "predictions", "milliseconds", "width", "height"],
    },
}


def document(registry: Registry, limits: Limits, root_path: str, allow_load: bool) -> Json:
    """OpenAPI 3.1. root_path: where the application is mounted."""
    names = [served.name for served in registry]
    model = {"name": "name", "in": "path", "required": True, "schema": {"enum": names}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"enum": ["1"]}}
    paths: Json = {
        "/": _get("The page.", {"text/html": {"schema": TEXT}}),
        "/models": _get("The models, for the page.", _json(_object("models", "default"))),
        "/metrics": _get("Prometheus' metrics.", {"text/plain": {"schema": TEXT}}),
        "/openapi.json": _get("This document.", _json(_object("openapi", "paths"))),
        "/v2": _get("Server metadata.", _json(_object("name", "version", "extensions"))),
        "/v2/health/live": _get("Whether the server lives.", _json(_object("live"))),
        "/v2/health/ready": _get("Whether to send it requests.", _json(_object("ready")), 503),
        "/classify": _post("Hugging Face's image classification.", _json(_list("Prediction")), _classify_body()),
        "/explain": _post("Predictions, times, heat map.", _json(_reference("Explanation")), _image_body()),
    }
    paths["/classify"]["post"]["parameters"] = [
        _choice("model", names),
        _TOP_K,
        _choice("function_to_apply", _FUNCTIONS),
    ]
    paths["/explain"]["post"]["parameters"] = [_choice("model", names), _TOP_K, _choice("heat", ["0", "1"])]
    for place, parameters in (("", [model]), ("/versions/{version}", [model, version])):
        base = f"/v2/models/{{name}}{place}"
        described = _json(_object("name", "versions", "platform", "inputs", "outputs"))
        paths[base] = {**_get("Model metadata.", described, 404), "parameters": parameters}
        ready = _get("Whether the model is ready.", _json(_object("name", "ready")), 404, 503)
        paths[f"{base}/ready"] = {**ready, "parameters": parameters}
        answer = {**_json(_reference("InferResponse")), **BINARY}
        infer = _post("Open Inference Protocol v2.", answer, {**_json(_reference("InferRequest")), **BINARY})
        infer["post"]["parameters"] = [
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "description": "Bytes of the JSON in front of binary tensors, unpacked.",
                "schema": {"type": "integer", "minimum": 1},
            }
        ]
        paths[f"{base}/infer"] = {**infer, "parameters": parameters}
    if allow_load:
        index = {"type": "array", "items": _object("name", "version", "state")}
        paths["/v2/repository/index"] = _post("The models, as Triton lists them.", _json(index), {})
        load = _post("Read a model's file again.", _json({"type": "object"}), _json({"type": "object"}), 403, 409)
        paths["/v2/repository/models/{name}/load"] = {**load, "parameters": [model]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bitvit",
            "version": __version__,
            "description": f"Image classification. A body has at most {limits.body} bytes, unpacked.",
        },
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


_FUNCTIONS = ["softmax", "sigmoid", "none"]
_TOP_K: Json = {"name": "top_k", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000000}}


def _choice(name: str, values: list[str]) -> Json:
    return {"name": name, "in": "query", "schema": {"enum": values}}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(name: str) -> Json:
    return {"type": "array", "items": _reference(name)}


def _object(*required: str) -> Json:
    return {"type": "object", "required": list(required)}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _image_body() -> Json:
    return {kind: {"schema": {}} for kind in ("image/png", "image/jpeg", "application/octet-stream")}


def _classify_body() -> Json:
    form = {
        "type": "object",
        "properties": {"file": {"type": "string", "contentMediaType": "image/*"}},
        "required": ["file"],
    }
    return {**_json(_reference("ClassifyRequest")), **_image_body(), "multipart/form-data": {"schema": form}}


def _answers(content: Json, statuses: tuple[int, ...]) -> Json:
    said = {
        str(status): {"description": _REASONS[status], "content": _json(_reference("Error"))} for status in statuses
    }
    return {"200": {"description": "Done.", "content": content}, **said}


def _get(summary: str, content: Json, *statuses: int) -> Json:
    return {"get": {"summary": summary, "responses": _answers(content, (431, *statuses))}}


def _post(summary: str, content: Json, body: Json, *statuses: int) -> Json:
    statuses = (400, 404, 408, 413, 415, 431, 500, 503, *statuses)
    operation: Json = {"summary": summary, "responses": _answers(content, statuses)}
    if body:
        operation["requestBody"] = {"required": True, "content": body}
    return {"post": operation}


_REASONS = {
    400: "The request is not right; the text says what was found and expected.",
    403: "A web page may not ask for this.",
    404: "There is no such model or version.",
    408: "The body did not come in time.",
    409: "The new file cannot be used; the old model stays.",
    413: "The body is too large.",
    415: "The body is packed in a way that is not known.",
    431: "The headers are too large.",
    500: "An error inside the server.",
    503: "Too busy, or about to end; Retry-After says when to try again.",
}
