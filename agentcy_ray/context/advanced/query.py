"""Queries of callers: planned into SQL, run within their limits, decoded or handed on as Arrow."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol
from uuid import UUID

import pyarrow as pa

from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.basic.query import MAX_ROWS
from agentcy_ray.context.engine import Column, Language, NativeResult, Query, QueryResult, Scope
from agentcy_ray.context.kyma.http import Budgets
from agentcy_ray.context.languages.planned import Planned, column_types, decode, to_arrow
from agentcy_ray.context.tables import arrow_field
from agentcy_ray.core.errors import (
    CapabilityError,
    EngineError,
    EngineRefusedError,
    InvalidError,
    QueryRejectedError,
    QueryTimeoutError,
    Transient,
)

_AS_THEY_ARE = frozenset({"text", "integer", "float", "boolean", "timestamp"})
"""Kinds of columns that Arrow has a type for."""
_OF_VALUES = re.compile(
    r"(Cast error|Parser error|Divide by zero|Arithmetic overflow|Compute error|Invalid regex"
    r"|regex parse error|Unsupported date_trunc granularity).*",
    re.DOTALL,
)
"""How a query fails on what its expressions meet; kyma has no status of its own for that."""


class Planner(Protocol):
    """A language: text into SQL on the current relations."""

    def __call__(
        self,
        text: str,
        params: Mapping[str, Any],
        scope: Scope,
        *,
        row_limit: int,
        include_archived: bool,
    ) -> Planned:
        """Plan a query that gives at most ``row_limit + 1`` rows.

        Raises:
            QueryRejectedError: the text is outside the language.
        """
        ...


Planners = Mapping[Language, Planner]


async def run_query(store: Store, planners: Planners, scope: Scope, query: Query) -> QueryResult:
    """Run a query inside the scope.

    Raises:
        CapabilityError: another language.
        QueryRejectedError: it is outside the language, or fails on a value that it meets.
        QueryTimeoutError: it ran past ``timeout_ms``.
    """
    started = time.perf_counter()
    planned = await _plan(planners, scope, query)
    batches = [batch async for batch in _batches(store, scope, query, planned)]
    table = pa.Table.from_batches(batches)
    truncated = table.num_rows > query.limit
    table = table.slice(0, query.limit)
    rows, types = await asyncio.to_thread(_decoded, table, planned)
    cut = (f"cut at {query.limit} rows; there are more",) if truncated else ()
    return QueryResult(
        columns=tuple(
            Column(name=each.name, type=type_)
            for each, type_ in zip(planned.columns, types, strict=True)
        ),
        rows=tuple(rows),
        truncated=truncated,
        took_ms=(time.perf_counter() - started) * 1000,
        engine="advanced",
        warnings=(*planned.warnings, *cut),
        chart=planned.chart,
    )


async def native_query(
    store: Store, org_id: UUID, language: Language, text: str, *, limit: int, timeout_ms: int
) -> NativeResult:
    """Kyma's own answer to a text.

    Raises:
        QueryRejectedError: kyma does not take it.
        QueryTimeoutError: it ran past ``timeout_ms``.
    """
    started = time.perf_counter()
    database = await store.found(org_id)
    answer = await store.client.native(database, language, text, Budgets(timeout_ms=timeout_ms))
    rows = await asyncio.to_thread(answer.records)
    return NativeResult(
        rows=tuple(rows[:limit]),
        truncated=len(rows) > limit,
        took_ms=(time.perf_counter() - started) * 1000,
        engine="advanced",
        database=database,
    )


async def stream_query(
    store: Store, planners: Planners, scope: Scope, query: Query
) -> AsyncGenerator[pa.RecordBatch]:
    """The rows as Arrow batches, cut at the limit; one batch at least. Raises as ``run_query``."""
    planned = await _plan(planners, scope, query)
    left = query.limit
    schema: pa.Schema | None = None
    at_once = all(each.kind in _AS_THEY_ARE for each in planned.columns)
    async with aclosing(_batches(store, scope, query, planned)) as batches:
        async for batch in batches:
            if schema is not None and (not batch.num_rows or left <= 0):
                continue
            rows = batch.slice(0, left)
            made = (
                to_arrow(rows, planned)
                if at_once  # nothing is copied, and a thread would take longer to wake
                else await asyncio.to_thread(to_arrow, rows, planned)
            )
            schema = schema or _schema(made, planned)
            yield pa.RecordBatch.from_arrays(made.columns, schema=schema)
            left -= made.num_rows


async def _plan(planners: Planners, scope: Scope, query: Query) -> Planned:
    if not 1 <= query.limit <= MAX_ROWS:
        raise InvalidError(f"limit is 1 to {MAX_ROWS}, not {query.limit}")
    if query.timeout_ms < 1:
        raise InvalidError("timeout_ms is at least 1")
    planner = planners.get(query.language)
    if planner is None:
        raise CapabilityError(
            f"this engine does not answer {query.language}; ask in {', '.join(planners)}",
            capability=query.language,
            engine="advanced",
        )
    return await asyncio.to_thread(
        planner, query.text, query.params, scope,
        row_limit=query.limit, include_archived=query.include_archived,
    )  # fmt: skip


async def _batches(
    store: Store, scope: Scope, query: Query, planned: Planned
) -> AsyncGenerator[pa.RecordBatch]:
    """The answer as it comes, of the planned columns; an empty batch first.

    The limit is the client's to keep: a timeout of asyncio belongs to one task, and who streams an
    answer may go on with it in another.
    """
    yield pa.RecordBatch.from_pylist([], schema=planned.schema)
    stream = store.batches(scope.org_id, planned.sql, planned.schema, timeout_ms=query.timeout_ms)
    try:
        async with aclosing(stream) as parts:
            async for batch in parts:
                yield batch
    except EngineRefusedError as error:
        if error.details.get("status") != 400:
            raise
        # It was asked in a language of ours, so what is at fault is in the caller's text.
        raise QueryRejectedError(
            f"{error.message}; change the part of the query that it names", **error.details
        ) from error
    except QueryTimeoutError:
        raise QueryTimeoutError(
            f"the query ran past {query.timeout_ms} ms and was stopped; "
            "narrow it, or raise timeout_ms",
            timeout_ms=query.timeout_ms,
        ) from None
    except EngineError as error:
        if isinstance(error, Transient) or (found := _OF_VALUES.search(error.message)) is None:
            raise
        cause = found[0].removesuffix("; see its logs")
        raise QueryRejectedError(
            f"an expression does not take a value that it meets: {cause}; guard it, as by TRY_CAST"
            " in SQL, toInteger in Cypher or toint in KQL, or filter such rows away"
        ) from error


def _decoded(table: pa.Table, planned: Planned) -> tuple[list[tuple[Any, ...]], tuple[str, ...]]:
    return decode(table, planned), column_types(table, planned)


def _schema(batch: pa.RecordBatch, planned: Planned) -> pa.Schema:
    types = {"text": "string", "integer": "int64", "float": "double", "boolean": "bool"}
    return pa.schema([
        arrow_field(
            Column(name=each.name, type=types.get(each.kind, each.kind)), batch.column(place).type
        )
        for place, each in enumerate(planned.columns)
    ])
