"""Hugging Face's image classification: an image in, [{"label", "score", "index"}] out.

The image is the body itself, the file of a form (multipart/form-data), or base64 in JSON:

    {"inputs": base64, "parameters": {"top_k": 5, "function_to_apply": "softmax"}}

JSON is told by its first byte, which no image begins with: clients name all sorts of Content-Type, or none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import python_multipart
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bitvit.errors import ImageError
from bitvit.messages import shown
from bitvit.predictions import Prediction, predictions
from bitvit.serve.messages import JSON, unpacked
from bitvit.serve.registry import Served
from bitvit.serve.tensors import decode_image_text

__all__ = ["PARAMETERS", "ClassifyJob", "Query", "whole_number"]

PARAMETERS = ("top_k", "function_to_apply")
FUNCTIONS = ("softmax", "sigmoid", "none")
MOST_CLASSES = 1_000_000  # that may be asked for; all there are is enough


@dataclass(frozen=True)
class Query:
    """An image and what is wanted of it."""

    image: bytes
    parameters: Mapping[str, Any]

    @classmethod
    def of_body(cls, body: bytes, content_type: str, asked: Mapping[str, str]) -> "Query":
        """asked: of the URL. Raises HTTPException 400."""
        parameters: Mapping[str, Any] = asked
        if content_type[:19].lower() == "multipart/form-data":
            image, fields = _of_form(body, content_type)
            parameters = {**asked, **fields}
        elif body[:1] == b"{" or body.lstrip()[:1] == b"{":
            image, found = _of_json(body)
            parameters = {**asked, **found}
        else:
            image = body
        if not image:
            raise HTTPException(
                400, "the body has no image; send a file as it is, a form with a file, or base64 in JSON"
            )
        return cls(image, parameters)

    def top_k(self) -> int:
        return whole_number("top_k", self.parameters.get("top_k"), 5)

    def function(self) -> str:
        name = self.parameters.get("function_to_apply")
        if name is None:
            return "softmax"
        if name not in FUNCTIONS:
            raise HTTPException(400, f"function_to_apply: is {shown(name)}, expected one of {', '.join(FUNCTIONS)}")
        return str(name)


def whole_number(name: str, value: object, default: int) -> int:
    """A parameter, out of JSON or a URL. Raises HTTPException 400."""
    if value is None:
        return default
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 8:
        value = int(value)
    if type(value) is not int or not 1 <= value <= MOST_CLASSES:
        raise HTTPException(400, f"{name}: is {shown(value)}, expected a whole number from 1 to {MOST_CLASSES}")
    return value


def _of_json(body: bytes) -> tuple[bytes, Mapping[str, Any]]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise HTTPException(400, f"the body begins as JSON but is not ({problem})") from None
    if unknown := content.keys() - {"inputs", "parameters"}:
        raise HTTPException(400, f"the body has {shown(sorted(unknown))}, expected inputs and parameters")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict | None):
        raise HTTPException(400, f"parameters: is {shown(parameters)}, expected an object")
    if unknown := (parameters or {}).keys() - set(PARAMETERS):
        raise HTTPException(400, f"parameters: has {shown(sorted(unknown))}, expected {' and '.join(PARAMETERS)}")
    return decode_image_text(content.get("inputs"), "inputs"), parameters or {}


def _of_form(body: bytes, content_type: str) -> tuple[bytes, Mapping[str, str]]:
    """The one file of a form, and its fields."""
    files: list[bytes] = []
    fields: dict[str, str] = {}

    def on_file(file: File) -> None:
        if files:
            raise HTTPException(400, "the form has several files, expected one: the image")
        file.file_object.seek(0)
        files.append(file.file_object.read())
        file.close()

    def on_field(item: Field) -> None:
        name, value = ((part or b"").decode("utf-8", "replace") for part in (item.field_name, item.value))
        if name not in PARAMETERS:
            raise HTTPException(
                400, f"the form has a field {shown(name)}, expected a file, and {' and '.join(PARAMETERS)}"
            )
        if name in fields:
            raise HTTPException(400, f"the form has {name} twice, expected it once")
        fields[name] = value

    _, options = parse_options_header(content_type)
    settings = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}  # never to a disk, which may be read-only
    try:
        parser = python_multipart.FormParser(
            "multipart/form-data", on_field, on_file, boundary=options.get(b"boundary"), config=settings
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as problem:
        raise HTTPException(400, f"the form cannot be read: {problem}") from None
    if not files:
        raise HTTPException(400, "the form has no file, expected one: the image")
    return files[0], fields


@dataclass(frozen=True)
class ClassifyJob:
    """All the work of a request, which one worker thread does. Raises HTTPException when called."""

    served: Served
    body: bytes
    coding: str
    content_type: str
    asked: Mapping[str, str]
    most: int

    def __call__(self, go_on: Callable[[], None]) -> tuple[Response, int]:
        """The answer, and how many images it is about. go_on: raises if the answer is wanted no more."""
        query = Query.of_body(unpacked(self.body, self.coding, self.most), self.content_type, self.asked)
        top_k, function = query.top_k(), query.function()
        go_on()
        try:
            crop = self.served.crop(query.image)
        except ImageError as error:
            raise HTTPException(400, str(error)) from None
        logits = self.served.of_crops([crop])
        found = predictions(logits, self.served.labels, top_k)[0]
        return JSON(_rescored(found, logits[0], function)), 1


def _rescored(found: list[Prediction], logits: NDArray[np.float32], function: str) -> list[Prediction]:
    """The same classes with what another function makes of their logits."""
    if function == "softmax":
        return found
    for item in found:
        logit = float(logits[item["index"]])
        item["score"] = logit if function == "none" else float(1 / (1 + np.exp(-logit)))
    return found
