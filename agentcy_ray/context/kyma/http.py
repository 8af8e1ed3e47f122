"""kyma over HTTP: requests, headers, deadlines, and repeats where the contract allows them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any, cast

import httpx2
import orjson

from agentcy_ray.context.kyma.address import KymaAddress
from agentcy_ray.context.kyma.faults import (
    Failure,
    Role,
    as_error,
    read_failure,
    too_slow,
    unreachable,
)
from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.core.errors import AgentcyError, EngineError
from agentcy_ray.stores.egress import Egress, Guard
from agentcy_ray.stores.http_client import open_http

MEDIA_TYPES = {
    "sql": "application/sql",
    "kql": "application/x-kql",
    "cypher": "application/x-cypher",
}
_CONNECT_SECS = 5.0
_MAX_ANSWER_BYTES = 4 * 1024**3
"""Of a query, which its own budgets bound far below."""
_WRITE_ANSWER_SECS = 60.0
"""Above kyma's own limit of 30 s: when we give up, it has, so a key is never sent in parallel."""
_GRACE_MS = 5_000
"""kyma stops a query at its limit and says so; this long we wait for it to say it."""


@dataclass(frozen=True)
class Patience:
    """How often a request is repeated, and after which waits, seconds. Waits are jittered."""

    attempts: int = 8
    read_attempts: int = 3
    first_secs: float = 0.2
    most_secs: float = 10.0
    most_told_secs: float = 60.0
    """The longest wait that kyma may ask for."""

    def wait_secs(self, attempt: int, retry_after_secs: float | None) -> float:
        """Seconds to wait after the failed ``attempt`` (from 1)."""
        if retry_after_secs is not None:
            return min(retry_after_secs, self.most_told_secs) * random.uniform(1.0, 1.25)
        return min(self.most_secs, self.first_secs * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class Budgets:
    """What a query may use at most; None = kyma's own default."""

    timeout_ms: int = 30_000
    memory_bytes: int | None = None
    object_store_bytes: int | None = None


@dataclass(frozen=True)
class Answer:
    """A successful answer; ``rows`` as kyma counted them, None when it did not."""

    body: bytes
    media_type: str
    rows: int | None


@dataclass(frozen=True)
class Ack:
    """kyma has committed a slice. ``replayed``: it had done so before, under the same key."""

    rows: int
    replayed: bool


class KymaHttp:
    """A connection pool to one kyma."""

    def __init__(
        self,
        address: KymaAddress,
        patience: Patience,
        connections: int = 64,
        guard: Guard | None = None,
    ) -> None:
        """A pool; nothing is connected yet. ``guard`` None = of settings without a proxy."""
        self.address = address
        self._patience = patience
        self._client = open_http(
            guard or Egress(AccessSettings()).guard("operator"),
            base_url=address.base_url,
            headers={**address.authorization, "accept-encoding": "identity"},
            idle_secs=None,
            connect_secs=_CONNECT_SECS,
            max_bytes=_MAX_ANSWER_BYTES,
            connections=connections,
        )

    async def query(
        self, database: str, text: str, *, language: str, budgets: Budgets, graph: str | None = None
    ) -> Answer:
        """Run a query; the whole answer is in memory, as it is at kyma.

        Raises:
            MissingDataError: no such database, or it is empty.
            EngineRefusedError: it refuses the token or the text (``details["engine_code"]``).
            QueryTimeoutError, QueryTooCostlyError: a budget is used up.
            EngineBusyError, StoreUnavailableError, EngineError: it sheds load, is away, fails.
        """
        headers = {
            "content-type": MEDIA_TYPES[language],
            "x-database": database,
            **self.address.own_headers("Max-Wall-Clock-Ms", budgets.timeout_ms),
        }
        if graph is not None:
            headers["x-graph"] = graph
        for name, value in (
            ("Max-Memory-Bytes", budgets.memory_bytes),
            ("Max-Object-Store-Bytes", budgets.object_store_bytes),
        ):
            if value is not None:
                headers |= self.address.own_headers(name, value)
        try:
            async with asyncio.timeout((budgets.timeout_ms + _GRACE_MS) / 1000):
                return await self._send(
                    "POST", "/v1/query", database, "read", headers=headers, body=text.encode()
                )
        except TimeoutError as error:
            raise too_slow(budgets.timeout_ms) from error

    async def ingest(self, database: str, table: str, body: bytes, key: str) -> Ack:
        """Store NDJSON under an idempotency key; repeated with the same key until it is known.

        Raises:
            EngineRefusedError: 400, 401, 403 or 413 (``details["status"]``); nothing was stored.
            EngineBusyError, StoreUnavailableError: it did not take it; repeat with the same key.
        """
        headers = {
            "content-type": "application/x-ndjson",
            "x-database": database,
            "x-table": table,
            "x-idempotency-key": key,
        }
        answer = await self._send(
            "POST", "/v1/ingest", database, "write", headers=headers, body=body
        )
        ack = self._object(answer)
        return Ack(int(ack.get("rows_ingested", 0)), bool(ack.get("replayed", False)))

    async def get(self, path: str) -> dict[str, Any]:
        """A JSON object that any reader may get.

        Raises:
            EngineRefusedError: there is none, or the token is refused.
            EngineError: what came is not JSON, as with older builds, which answer with a page.
            EngineBusyError, StoreUnavailableError: as ``query``.
        """
        try:
            async with asyncio.timeout(_GRACE_MS / 1000 * 2):
                return self._object(await self._send("GET", path, "", "read", headers={}))
        except TimeoutError as error:
            raise unreachable(self.address.base_url, "no answer in 10 s") from error

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    def _object(self, answer: Answer) -> dict[str, Any]:
        try:
            data: Any = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            data = None
        if not isinstance(data, dict):
            raise EngineError(
                f"{self.address.base_url} does not answer as kyma does ({answer.media_type});"
                " check KYMA_BASE_URL"
            )
        return cast("dict[str, Any]", data)

    async def _send(
        self,
        method: str,
        path: str,
        database: str,
        role: Role,
        *,
        headers: dict[str, str],
        body: bytes = b"",
    ) -> Answer:
        most = self._patience.attempts if role == "write" else self._patience.read_attempts
        for attempt in range(1, most + 1):
            outcome = await self._once(method, path, headers, body, role)
            if isinstance(outcome, Answer):
                return outcome
            failure, error = outcome
            repeat = failure is None or failure.sheds_load or failure.status in {502, 503, 504}
            repeat = repeat or (role == "write" and failure is not None and failure.status >= 500)
            if not repeat or attempt == most:
                raise error or as_error(cast("Failure", failure), database, role)
            after = None if failure is None else failure.retry_after_secs
            await asyncio.sleep(self._patience.wait_secs(attempt, after))
        raise AssertionError("unreachable")

    async def _once(
        self, method: str, path: str, headers: dict[str, str], body: bytes, role: Role
    ) -> Answer | tuple[Failure | None, AgentcyError | None]:
        """One attempt: its answer, or a failure, or why there was no answer."""
        limit = _WRITE_ANSWER_SECS if role == "write" else None
        try:
            async with asyncio.timeout(limit):
                response = await self._client.request(method, path, headers=headers, content=body)
        except TimeoutError:
            return None, unreachable(
                self.address.base_url, f"no answer in {_WRITE_ANSWER_SECS:g} s"
            )
        except httpx2.HTTPError as error:
            reason = self.address.without_token(str(error)) or type(error).__name__
            return None, unreachable(self.address.base_url, reason)
        if response.status_code >= 300:
            content = self.address.without_token(response.content.decode("utf-8", "replace"))
            return read_failure(response.status_code, response.headers, content.encode()), None
        rows = response.headers.get("x-kyma-rows") or response.headers.get("x-pensieve-rows")
        return Answer(
            response.content,
            response.headers.get("content-type", "").partition(";")[0].strip(),
            int(rows) if rows and rows.isdigit() else None,
        )
