"""The routes that take records: their paths below the prefix, and what OpenAPI says of them."""

from __future__ import annotations

import re
from typing import Any

from agentcy_ray.ingest.continuous.otlp import SIGNALS
from agentcy_ray.ingest.continuous.records import IngestAnswer

BY_TOKEN = "/ingest/{token}"  # noqa: S105 - a path
BY_BEARER = "/context/pipelines/{pipeline_id}/ingest"
OTLP = "/otlp/{pipeline}/v1/{signal}"
SCHEME = "ingest_token"
"""Name of their security scheme."""
_OWN_DOOR = re.compile(r"/(ingest/[^/]+|context/pipelines/[^/]+/ingest|otlp/[^/]+/v1/[^/]+)")


def own_door(path: str) -> bool:
    """Whether a path below the prefix lets in by ingest token, and no other way."""
    return _OWN_DOOR.fullmatch(path) is not None


def document() -> dict[str, Any]:
    """Paths of the OpenAPI document, and the schema that they speak of."""
    records = {
        "content": {
            kind: {"schema": {"type": "object", "additionalProperties": True}}
            for kind in ("application/x-ndjson", "application/json")
        },
        "description": "One record a line, a JSON array, or one object; gzip allowed.",
        "required": True,
    }
    taken = {
        "description": "Records were taken; each rejected one is named with its reason.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/IngestAnswer"}}},
    }
    none = taken | {"description": "No record was taken."}
    export = {
        "content": {"application/json": {"schema": {"type": "object"}}},
        "description": "An OTLP export in its JSON encoding; gzip allowed.",
        "required": True,
    }
    exported = {
        "description": "OTLP's own answer; `partialSuccess` when records were rejected.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    status = {
        "description": "Error, in the shape of OTLP",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/OtlpStatus"}}},
    }
    headers = [
        _header("X-Idempotency-Key", "The first answer is given again for 24 hours."),
        _header("X-Agentcy-Signature", "`sha256=` and the HMAC-SHA-256 of the raw body."),
        _header("X-Agentcy-Timestamp", "Seconds since 1970, signed as `<timestamp>.<body>`."),
    ]
    return {
        BY_TOKEN: _operation(
            "post_records", "Post records with the token in the path",
            [_path("token"), *headers], records, {"200": taken, "422": none}, [],
        ),
        BY_BEARER: _operation(
            "post_records_to_pipeline", "Post records with the token as the bearer",
            [_path("pipeline_id"), *headers], records, {"200": taken, "422": none},
            [{SCHEME: []}],
        ),
        OTLP: _operation(
            "export_otlp", "OTLP/HTTP in JSON: logs, traces, metrics",
            [_path("pipeline"), _path("signal", list(SIGNALS))], export,
            {"200": exported, "4XX": status, "5XX": status},
            [{SCHEME: []}],
        ),
    }  # fmt: skip


def schemas() -> dict[str, Any]:
    """Schemas that ``document`` speaks of."""
    model = IngestAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
    status = {
        "type": "object",
        "title": "OtlpStatus",
        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
    }
    return {**model.pop("$defs", {}), "IngestAnswer": model, "OtlpStatus": status}


def _operation(
    name: str,
    summary: str,
    parameters: list[dict[str, Any]],
    body: dict[str, Any],
    responses: dict[str, Any],
    security: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "post": {
            "tags": ["pipelines"],
            "summary": summary,
            "operationId": name,
            "parameters": parameters,
            "requestBody": body,
            "responses": responses,
            "security": security,
        }
    }


def _path(name: str, values: list[str] | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"} | ({"enum": values} if values else {})
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _header(name: str, meaning: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": meaning,
        "schema": schema,
    }
