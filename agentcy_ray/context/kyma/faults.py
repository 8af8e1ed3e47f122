"""What an answer of kyma that is no success means, by its status and code, never by its text.

kyma says errors in three forms: a JSON envelope with a code, a JSON text, and, from its
authentication, plain text. The message is only ever shown to people.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

import orjson

from agentcy_ray.core.errors import (
    AgentcyError,
    EngineBusyError,
    EngineError,
    EngineRefusedError,
    MissingDataError,
    QueryTimeoutError,
    QueryTooCostlyError,
    StoreUnavailableError,
)

Role = Literal["read", "write"]
EXCERPT = 400
"""Characters of kyma's own message that ours quotes."""
_NO_DATA = {"database_not_found", "database_empty", "table_not_found"}
_GATEWAY = {502, 503, 504}


@dataclass(frozen=True)
class Failure:
    """An answer that is no success. ``code`` is kyma's, empty when it gave none."""

    status: int
    code: str
    message: str
    retry_after_secs: float | None
    limit: str | None = None
    """The budget that was used up, such as ``1048576 memory``."""

    @property
    def sheds_load(self) -> bool:
        """Whether the same request may be sent again after a while, as it is."""
        return self.status == 429 and self.code not in {"memory_exceeded", "wall_clock_exceeded"}


def read_failure(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Take an answer of status 400 or more apart."""
    code, message = "", body[:EXCERPT].decode("utf-8", "replace").strip()
    try:
        data: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        data = None
    error: Any = cast("dict[str, Any]", data).get("error") if isinstance(data, dict) else None
    if isinstance(error, dict):
        fields = cast("dict[str, Any]", error)
        code, message = str(fields.get("code", "")), str(fields.get("message", ""))[:EXCERPT]
    elif isinstance(error, str):
        message = error[:EXCERPT]
    limit = headers.get("x-kyma-budget-limit") or headers.get("x-pensieve-budget-limit")
    return Failure(status, code, message, _retry_after(headers.get("retry-after")), limit)


def as_error(failure: Failure, database: str, role: Role) -> AgentcyError:
    """The error of ours that says the same, with what to do next.

    Args:
        failure: the answer.
        database: the database that was asked.
        role: the role that the request needs.
    """
    said = f"kyma answered {failure.status}"
    details: dict[str, Any] = {"status": failure.status, "engine_code": failure.code}
    if failure.message:
        details["engine_message"] = failure.message
    if failure.status == 401:
        return EngineRefusedError(
            f"{said}: it does not know our token; set KYMA_TOKEN to one of its tokens", **details
        )
    if failure.status == 403:
        return EngineRefusedError(
            f"{said}: the token may not do this; KYMA_TOKEN needs the {role} role, for the database"
            f" {database!r}",
            **details,
        )
    if failure.status == 404 and failure.code in _NO_DATA:
        return MissingDataError(f"kyma holds nothing in {database!r} yet", database=database)
    if failure.status == 429:
        return _over_budget(failure, said, details)
    if failure.status in _GATEWAY or (failure.status >= 500 and role == "write"):
        return StoreUnavailableError(
            f"{said} ({failure.code or 'no code'}) again and again; see its logs, then repeat:"
            " nothing is lost or stored twice",
            store="kyma", **details,
        )  # fmt: skip
    if failure.status >= 500:
        return EngineError(f"{said} ({failure.code}): {failure.message}; see its logs", **details)
    if failure.status in {404, 405}:
        return EngineRefusedError(
            f"{said}: there is no such route; check that KYMA_BASE_URL names a kyma", **details
        )
    return EngineRefusedError(
        f"{said} ({failure.code or 'no code'}): {failure.message or 'no reason given'}", **details
    )


def unreachable(base_url: str, reason: str) -> StoreUnavailableError:
    """Kyma does not answer at all."""
    return StoreUnavailableError(
        f"kyma at {base_url} does not answer ({reason}); check KYMA_BASE_URL, or run"
        " `agentcy doctor`",
        store="kyma",
    )


def too_slow(timeout_ms: float) -> QueryTimeoutError:
    """A query was stopped at its limit."""
    return QueryTimeoutError(
        f"the query ran past {timeout_ms:g} ms and was stopped; narrow it, or allow more time",
        timeout_ms=timeout_ms,
    )


def _over_budget(failure: Failure, said: str, details: dict[str, Any]) -> AgentcyError:
    if failure.limit is not None:
        details["limit"] = failure.limit
    if failure.code == "memory_exceeded":
        return QueryTooCostlyError(
            "the query needs more memory than kyma gives to one; narrow it, or aggregate earlier",
            **details,
        )
    if failure.code == "wall_clock_exceeded":
        return QueryTimeoutError(
            "the query ran past kyma's time limit and was stopped; narrow it", **details
        )
    if failure.retry_after_secs is not None:
        details["retry_after_secs"] = failure.retry_after_secs
    return EngineBusyError(
        f"{said}: it has more to do than it takes, and stayed so; try again later, or raise its"
        " rate limits",
        **details,
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header: a number, or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())
