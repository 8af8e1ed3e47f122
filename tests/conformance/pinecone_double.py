"""A loopback server that speaks the REST of a Pinecone index, for the calls that we make.

Strict: what the service refuses is refused here, with its status: a write over its limits, an id or
a field of a type that it does not keep, a filter by an operator that it does not know.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

MAX_BODY = 2 * 1024 * 1024
MAX_ROWS = 1000
MAX_METADATA = 40 * 1024
KEY = "pc-loopback"


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PineconeDouble:
    """An index of vectors of one length, compared by cosine."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.spaces: dict[str, dict[str, dict[str, Any]]] = {}
        self.writes: list[tuple[int, int]] = []
        """(rows, bytes) of each upsert."""
        self.down = False
        self._lock = threading.Lock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def log_message(self, format: str, *args: Any) -> None:
                return

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    status, answer = 200, double.call(self.command, self.path, self.headers, body)
                except _RefusedError as error:
                    status, answer = error.status, {"code": 3, "message": str(error)}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    async def close(self) -> None:
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        await asyncio.to_thread(self._thread.join, 5)

    def call(self, verb: str, path: str, headers: Any, body: bytes) -> dict[str, Any]:
        if self.down:
            raise _RefusedError(400, "the index is away")
        if headers.get("Api-Key") != KEY:
            raise _RefusedError(401, "Invalid API Key")
        if not headers.get("X-Pinecone-Api-Version"):
            raise _RefusedError(400, "the version header is missing")
        url = urlsplit(path)
        given: dict[str, Any] = json.loads(body) if body else {}
        with self._lock:
            match verb, url.path:
                case "POST", "/vectors/upsert":
                    return self._upsert(given, len(body))
                case "POST", "/vectors/update":
                    return self._update(given)
                case "POST", "/vectors/delete":
                    return self._delete(given)
                case "POST", "/query":
                    return self._query(given)
                case "GET", "/vectors/fetch":
                    return self._fetch(parse_qs(url.query))
                case "POST", "/describe_index_stats":
                    return self._stats()
                case "DELETE", name if name.startswith("/namespaces/"):
                    if self.spaces.pop(unquote(name.removeprefix("/namespaces/")), None) is None:
                        raise _RefusedError(404, "Namespace not found")
                    return {}
                case _:
                    raise _RefusedError(404, f"no such call: {verb} {url.path}")

    def _upsert(self, given: dict[str, Any], size: int) -> dict[str, Any]:
        _only(given, {"vectors", "namespace"})
        rows = given["vectors"]
        if size > MAX_BODY or not 0 < len(rows) <= MAX_ROWS:
            raise _RefusedError(400, "the request is over the limits of an upsert")
        for row in rows:
            _only(row, {"id", "values", "metadata"})
            if not (isinstance(row["id"], str) and row["id"].isascii() and len(row["id"]) <= 512):
                raise _RefusedError(400, "an id is ASCII of 512 characters at most")
            self._checked(row["values"])
            _check_metadata(row.get("metadata") or {})
        space = self.spaces.setdefault(given.get("namespace", ""), {})
        for row in rows:
            space[row["id"]] = {"values": row["values"], "metadata": row.get("metadata") or {}}
        self.writes.append((len(rows), size))
        return {"upsertedCount": len(rows)}

    def _update(self, given: dict[str, Any]) -> dict[str, Any]:
        _only(given, {"id", "setMetadata", "namespace"})
        _check_metadata(given["setMetadata"])
        row = self.spaces.get(given.get("namespace", ""), {}).get(given["id"])
        if row is not None:
            row["metadata"] = row["metadata"] | given["setMetadata"]
        return {}

    def _delete(self, given: dict[str, Any]) -> dict[str, Any]:
        _only(given, {"ids", "namespace", "deleteAll"})
        if given.get("deleteAll") or not 0 < len(given["ids"]) <= MAX_ROWS:
            raise _RefusedError(400, "a delete takes 1 to 1000 ids")
        space = self.spaces.get(given.get("namespace", ""))
        if space is None:
            raise _RefusedError(404, "Namespace not found")
        for key in given["ids"]:
            space.pop(key, None)
        return {}

    def _query(self, given: dict[str, Any]) -> dict[str, Any]:
        _only(given, {"topK", "vector", "namespace", "filter", "includeValues", "includeMetadata"})
        if not 1 <= given["topK"] <= 10_000:
            raise _RefusedError(400, "topK is 1 to 10000")
        vector = np.asarray(self._checked(given["vector"]))
        found: list[dict[str, Any]] = []
        for key, row in self.spaces.get(given.get("namespace", ""), {}).items():
            if _passes(row["metadata"], given.get("filter") or {}):
                values = np.asarray(row["values"])
                score = values @ vector / (np.linalg.norm(values) * np.linalg.norm(vector))
                found.append({"id": key, "score": float(score)})
        found.sort(key=lambda each: -each["score"])
        return {"matches": found[: given["topK"]], "namespace": given.get("namespace", "")}

    def _fetch(self, asked: Mapping[str, list[str]]) -> dict[str, Any]:
        if not 0 < len(asked["ids"]) <= 100:
            raise _RefusedError(400, "the address is too long")
        space = self.spaces.get(asked.get("namespace", [""])[0], {})
        rows = {key: {"id": key, **space[key]} for key in asked["ids"] if key in space}
        return {"vectors": rows, "namespace": asked.get("namespace", [""])[0]}

    def _stats(self) -> dict[str, Any]:
        counts = {name: {"vectorCount": len(rows)} for name, rows in self.spaces.items()}
        return {
            "namespaces": counts,
            "dimension": self.dim,
            "indexFullness": 0,
            "totalVectorCount": sum(len(rows) for rows in self.spaces.values()),
            "metric": "cosine",
            "vectorType": "dense",
        }

    def _checked(self, values: Any) -> Any:
        if len(values) != self.dim or not np.isfinite(values).all() or not np.any(values):
            raise _RefusedError(400, f"a vector has {self.dim} numbers, one of them not 0")
        return values


def _only(given: Mapping[str, Any], known: set[str]) -> None:
    if unknown := set(given) - known:
        raise _RefusedError(400, f"unknown fields: {sorted(unknown)}")


def _check_metadata(fields: Mapping[str, Any]) -> None:
    if len(json.dumps(fields)) > MAX_METADATA:
        raise _RefusedError(400, "metadata is 40 KB at most")
    for name, value in fields.items():
        texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if name.startswith("$") or not (texts or isinstance(value, str | int | float)):
            raise _RefusedError(400, f"metadata {name} is of a type that is not kept")


def _passes(row: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    for name, test in asked.items():
        if name == "$and":
            if not test or not all(_passes(row, each) for each in test):
                return False
            continue
        if name.startswith("$") or name not in row:
            raise _RefusedError(400, f"cannot filter by {name}")
        for operator, wanted in test.items():
            if not _holds(row[name], operator, wanted):
                return False
    return True


def _holds(value: Any, operator: str, wanted: Any) -> bool:
    values: list[Any] = value if isinstance(value, list) else [value]
    match operator:
        case "$eq":
            return wanted in values
        case "$in":
            return any(each in values for each in wanted)
        case "$nin":
            return not any(each in values for each in wanted)
        case "$gte" if isinstance(wanted, int | float):
            return values[0] >= wanted
        case "$lte" if isinstance(wanted, int | float):
            return values[0] <= wanted
        case _:
            raise _RefusedError(400, f"unknown operator {operator}")
