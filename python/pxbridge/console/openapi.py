"""The OpenAPI 3.1 document of the console's API, made from its endpoints and their models."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from pxbridge.console import models

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

    from pxbridge.console.api import Endpoint

_REF: Final = "#/components/schemas/{model}"

_FOR_ALL: Final = (403,)
_FOR_STRANGERS: Final = (401, 403, 429)
"""Statuses that say that a client is not let in (`pxbridge.console.auth`)."""

LIVE_MODELS: Final = (models.Snapshot,)
"""What comes over the WebSocket ``/api/live``, which OpenAPI cannot describe."""


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """The document.

    Args:
        endpoints: What can be asked.
        version: The version of the bridge.
    """
    endpoints = tuple(endpoints)
    asked = {each.asks for each in endpoints if each.asks is not None}
    given: set[type[BaseModel]] = {models.Refused, *LIVE_MODELS}
    given |= {each.gives for each in endpoints if each.gives is not None and not isinstance(each.gives, str)}
    kinds = [
        *((model, "validation") for model in _sorted(asked)),
        *((model, "serialization") for model in _sorted(given)),
    ]
    _, schemas = models_json_schema(kinds, ref_template=_REF)  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for each in endpoints:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pxbridge console",
            "version": version,
            "description": "What the operator's console and the talk page use. Requests that change "
            "something must be JSON, and must not come from a page of another site.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas["$defs"].items())),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "pxbridge_session"},
            },
        },
        "security": [{"session": []}, {"basic": []}, {"bearer": []}],
    }


def _sorted(kinds: Iterable[type[BaseModel]]) -> list[type[BaseModel]]:
    return sorted(kinds, key=lambda kind: kind.__name__)


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": endpoint.name, "summary": endpoint.summary}
    if names := re.findall(r"\{(\w+)\}", endpoint.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if endpoint.asks is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.asks)}
    done: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase}
    if endpoint.gives is not None:
        done["content"] = _content(endpoint.gives)
    operation["responses"] = {str(endpoint.status): done} | {
        str(status): {"description": HTTPStatus(status).phrase, "content": _content(models.Refused)}
        for status in sorted({*endpoint.refusals, *(_FOR_ALL if endpoint.public else _FOR_STRANGERS)})
    }
    if endpoint.public:
        operation["security"] = []
    return operation


def _content(kind: type[BaseModel] | str) -> dict[str, Any]:
    if isinstance(kind, str):
        schema = {} if kind == "application/json" else {"type": "string", "format": "binary"}
        return {kind: {"schema": schema}}
    return {"application/json": {"schema": {"$ref": _REF.format(model=kind.__name__)}}}
