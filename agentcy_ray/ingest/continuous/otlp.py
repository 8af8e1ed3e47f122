"""OTLP/HTTP in JSON as records of events: a log record, a span, a metric's data point each.

Names and shapes are those of the protocol's JSON encoding (OTLP 1.x): lowerCamelCase keys, 64-bit
numbers as text, ids in hexadecimal. An exporter repeats what it got no answer for, so the id of an
event follows from its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Literal, cast

import orjson

from agentcy_ray.core.errors import BadRequestError, MediaTypeError
from agentcy_ray.ingest.continuous.body import BadLine

Signal = Literal["logs", "traces", "metrics"]
SIGNALS: tuple[Signal, ...] = ("logs", "traces", "metrics")

Json = dict[str, Any]
_REJECTED: dict[Signal, str] = {
    "logs": "rejectedLogRecords",
    "traces": "rejectedSpans",
    "metrics": "rejectedDataPoints",
}
_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS = ("unset", "ok", "error")
_METRICS = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")
_SEVERITIES = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")


def check_media_type(header: str) -> None:
    """Refuse what is not JSON.

    Raises:
        MediaTypeError: the export is binary, or anything else.
    """
    kind = header.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise MediaTypeError(
            "send OTLP as JSON: set the exporter's protocol to http/json "
            "(OTEL_EXPORTER_OTLP_PROTOCOL)"
        )


def records_of(signal: Signal, body: bytes) -> Iterator[tuple[int, Json | BadLine]]:
    """Records of an export, counted from 1, in the shape that an events pipeline takes.

    Raises:
        BadRequestError: the body is no JSON object.
    """
    try:
        export = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the export is not JSON: {error}") from error
    if not isinstance(export, dict):
        raise BadRequestError("an export is a JSON object")
    yield from enumerate(_ITEMS[signal](cast("Json", export)), start=1)


def answer(signal: Signal, rejected: int, reasons: Sequence[str]) -> Json:
    """The body of the answer: empty when all was taken."""
    if not rejected:
        return {}
    told = "; ".join(dict.fromkeys(reasons))[:1_000]
    return {"partialSuccess": {_REJECTED[signal]: str(rejected), "errorMessage": told}}


def _logs(export: Json) -> Iterator[Json | BadLine]:
    for resource, scope, record in _walk(export, "resourceLogs", "scopeLogs", "logRecords"):
        body = _value(record.get("body"))
        number = record.get("severityNumber")
        yield _event(
            "log",
            record,
            resource,
            scope,
            at=_first(record, "timeUnixNano", "observedTimeUnixNano"),
            body=body if isinstance(body, str) else None if body is None else _text(body),
            severity=record.get("severityText") or _severity(number),
            extra={"body": body} if isinstance(body, dict | list) else {},
        )


def _spans(export: Json) -> Iterator[Json | BadLine]:
    for resource, scope, span in _walk(export, "resourceSpans", "scopeSpans", "spans"):
        start, end = _nanos(span.get("startTimeUnixNano")), _nanos(span.get("endTimeUnixNano"))
        status = _object(span.get("status"))
        took = (end - start) / 1e6 if start is not None and end is not None else None
        extra: Json = {
            "kind": _named(_KINDS, span.get("kind")),
            "status": _named(_STATUS, status.get("code")),
            "status_message": status.get("message"),
            "parent_span_id": span.get("parentSpanId") or None,
            "events": [
                {
                    "name": each.get("name"),
                    "at": _iso(_nanos(each.get("timeUnixNano"))),
                    "attributes": _attributes(each.get("attributes")),
                }
                for each in _objects(span.get("events"))
            ] or None,
            "links": [
                {"trace_id": each.get("traceId"), "span_id": each.get("spanId")}
                for each in _objects(span.get("links"))
            ] or None,
        }  # fmt: skip
        failed = extra["status"] == "error"
        yield _event(
            "span", span, resource, scope, at=start, body=span.get("name"),
            severity="ERROR" if failed else None, duration=took, extra=extra,
        )  # fmt: skip


def _metrics(export: Json) -> Iterator[Json | BadLine]:
    for resource, scope, metric in _walk(export, "resourceMetrics", "scopeMetrics", "metrics"):
        kind = next((name for name in _METRICS if isinstance(metric.get(name), dict)), None)
        if kind is None:
            yield BadLine(f"metric {metric.get('name')!r} has no data of a known kind")
            continue
        data = _object(metric[kind])
        for point in _objects(data.get("dataPoints")):
            extra: Json = {
                "metric": metric.get("name"),
                "metric_kind": kind,
                "unit": metric.get("unit") or None,
                "value": _number(point),
                "count": _whole(point.get("count")),
                "sum": point.get("sum"),
                "min": point.get("min"),
                "max": point.get("max"),
                "bucket_counts": [_whole(n) for n in _list(point.get("bucketCounts"))] or None,
                "explicit_bounds": point.get("explicitBounds") or None,
                "quantiles": point.get("quantileValues") or None,
                "temporality": data.get("aggregationTemporality"),
                "monotonic": data.get("isMonotonic"),
                "since": _iso(_nanos(point.get("startTimeUnixNano"))),
            }
            seed = {"metric": metric.get("name"), "kind": kind, "point": point}
            yield _event(
                "metric", point, resource, scope, at=_nanos(point.get("timeUnixNano")),
                body=metric.get("name"), extra=extra, seed=seed,
            )  # fmt: skip


_ITEMS = {"logs": _logs, "traces": _spans, "metrics": _metrics}


def _event(
    label: str,
    item: Json,
    resource: Json,
    scope: Json,
    *,
    at: int | None,
    body: Any,
    extra: Json,
    severity: Any = None,
    duration: float | None = None,
    seed: Json | None = None,
) -> Json | BadLine:
    if at is None:
        return BadLine(f"a {label} without a time")
    properties = {name: value for name, value in extra.items() if value is not None}
    properties["attributes"] = _attributes(item.get("attributes"))
    properties["resource"] = resource
    if scope:
        properties["scope"] = scope
    identity = orjson.dumps([label, resource, scope, seed or item], option=orjson.OPT_SORT_KEYS)
    return {
        "event_id": blake2b(identity, digest_size=16).hexdigest(),
        "at": _moment(at),
        "label": label,
        "body": body,
        "severity": severity,
        "service": resource.get("service.name"),
        "trace_id": item.get("traceId") or None,
        "span_id": item.get("spanId") or None,
        "duration_ms": duration,
        "properties": properties,
    }


def _walk(
    export: Json, resources: str, scopes: str, items: str
) -> Iterator[tuple[Json, Json, Json]]:
    """(attributes of the resource, the scope, the item) of every item."""
    for outer in _objects(export.get(resources)):
        attributes = _attributes(_object(outer.get("resource")).get("attributes"))
        for inner in _objects(outer.get(scopes)):
            scope = _object(inner.get("scope"))
            told = {name: scope[name] for name in ("name", "version") if scope.get(name)}
            for item in _objects(inner.get(items)):
                yield attributes, told, item


def _attributes(pairs: Any) -> Json:
    return {str(pair.get("key")): _value(pair.get("value")) for pair in _objects(pairs)}


def _value(any_value: Any) -> Any:
    """A protobuf ``AnyValue`` as plain JSON."""
    value = _object(any_value)
    if "intValue" in value:
        return _whole(value["intValue"])
    if "arrayValue" in value:
        return [_value(each) for each in _list(_object(value["arrayValue"]).get("values"))]
    if "kvlistValue" in value:
        return _attributes(_object(value["kvlistValue"]).get("values"))
    for name in ("stringValue", "boolValue", "doubleValue", "bytesValue"):
        if name in value:
            return value[name]
    return None


def _number(point: Json) -> Any:
    return _whole(point["asInt"]) if "asInt" in point else point.get("asDouble")


def _whole(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        return None


def _nanos(value: Any) -> int | None:
    """Nanoseconds since 1970; 0 means that the time is not known."""
    return _whole(value) or None


def _first(record: Json, *names: str) -> int | None:
    return next((nanos for name in names if (nanos := _nanos(record.get(name)))), None)


def _moment(nanos: int) -> Any:
    try:
        seconds, rest = divmod(nanos, 1_000_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    except (OverflowError, ValueError, OSError):
        return "beyond the calendar"  # no time: the record is rejected with that reason


def _iso(nanos: int | None) -> str | None:
    moment = None if nanos is None else _moment(nanos)
    return moment.isoformat() if isinstance(moment, datetime) else None


def _severity(number: Any) -> str | None:
    """The short name of a severity number: four numbers each, from TRACE (1) to FATAL (24)."""
    whole = _whole(number)
    return _SEVERITIES[(whole - 1) // 4] if whole is not None and 1 <= whole <= 24 else None


def _named(names: tuple[str, ...], value: Any) -> str | None:
    """An enum of the protocol, sent as number or as name."""
    if isinstance(value, str):
        return value.rpartition("_")[2].lower()
    whole = _whole(value)
    return names[whole] if whole is not None and 0 <= whole < len(names) else None


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def _object(value: Any) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _objects(value: Any) -> list[Json]:
    return [cast("Json", each) for each in _list(value) if isinstance(each, dict)]
