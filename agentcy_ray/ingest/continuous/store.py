"""Continuous pipelines as rows: making, changing, listing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
from pydantic import ValidationError

from agentcy_ray.connectors.continuous import CONNECTOR
from agentcy_ray.core.errors import CapabilityError, ConflictError, InvalidError, NotFoundError
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.ingest.continuous.mapping import check_mapping
from agentcy_ray.ingest.continuous.records import (
    CONFIGS,
    ConnectorRuns,
    FileDrop,
    NewPipeline,
    Pipeline,
    PipelineChange,
    PipelineRun,
)

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.core.tenancy import Principal
    from agentcy_ray.stores.postgres import Database

COLUMNS = (
    "id, org_id, name, kind, target_table, realm, source_id, config, mapping, require_signature,"
    " enabled, created_at, updated_at"
)
_GET = f"SELECT {COLUMNS} FROM context_pipelines WHERE id = $1"
_LIST = f"""
SELECT {COLUMNS} FROM context_pipelines
WHERE ($1::text[] IS NULL OR realm = ANY ($1)) AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3
"""
_INSERT = f"""
INSERT INTO context_pipelines (id, org_id, name, kind, target_table, realm, source_id, config,
  mapping, require_signature, enabled, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING {COLUMNS}
"""
_UPDATE = f"""
UPDATE context_pipelines SET name = $2, config = $3, mapping = $4, require_signature = $5,
  enabled = $6 WHERE id = $1 RETURNING {COLUMNS}
"""
_DELETE = "DELETE FROM context_pipelines WHERE id = $1"
_SOURCE_REALM = "SELECT realm FROM sources WHERE id = $1"
_REALM = "SELECT 1 FROM realms WHERE name = $1 FOR NO KEY UPDATE"
_BUILT_IN = "SELECT id FROM sources WHERE connector = $1 AND realm = $2 ORDER BY id LIMIT 1"
_NEW_SOURCE = """
INSERT INTO sources (id, org_id, name, connector, realm, sync_mode, created_by, status)
VALUES ($1, $2, $3, $4, $5, 'incremental', $6, 'ready')
"""
_RUNS = """
SELECT r.*, (SELECT count(*) FROM pipeline_segments s
  WHERE s.run_id = r.id AND s.published_at IS NOT NULL) AS published
FROM context_pipeline_runs r
WHERE r.pipeline_id = $1 AND ($2::uuid IS NULL OR r.id < $2) ORDER BY r.id DESC LIMIT $3
"""
_SYNCS = """
SELECT id, status, counts, rejects, started_at, ended_at FROM sync_runs
WHERE source_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""


class PipelineStore:
    """Pipelines of all organisations; every method names the one it acts for."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, principal: Principal, new: NewPipeline) -> Pipeline:
        """Make a pipeline, and its realm's built-in source when it is the first there.

        Raises:
            CapabilityError: kind ``kafka``, or a bucket of its own.
            InvalidError: config, mapping or realm are not valid.
            ConflictError: the name is taken.
            NotFoundError: the source of kind ``connector`` does not exist.
        """
        principal.require("pipeline.write")
        config = _config(new.kind, new.config)
        check_mapping(new.target_table, new.mapping)
        _check_signing(new.kind, signed=new.require_signature)
        if new.kind == "otlp" and new.target_table != "context_events":
            raise _invalid("target_table", "OTLP is taken into context_events")
        if new.kind != "connector":
            _within(principal, new.realm)
        try:
            async with self._db.tenant(principal.org_id) as connection:
                realm, source_id = new.realm, None
                if new.kind == "connector":
                    source_id = ConnectorRuns.model_validate(config).source_id
                    realm = await connection.fetchval(_SOURCE_REALM, source_id)
                    if realm is None or not principal.bind_realms((realm,)):
                        raise NotFoundError(
                            "no such source; list the sources to find the right one"
                        )
                if source_id is None:
                    source_id = await _built_in(connection, principal, realm)
                row = await connection.fetchrow(
                    _INSERT, new_id(), principal.org_id, new.name, new.kind, new.target_table,
                    realm, source_id, config, new.mapping, new.require_signature, new.enabled,
                    principal.user_id,
                )  # fmt: skip
        except asyncpg.IntegrityConstraintViolationError as error:
            raise _refusal(error, new.name) from error
        return _found(principal, row)

    async def get(self, principal: Principal, pipeline_id: UUID) -> Pipeline:
        """A pipeline in the caller's realms.

        Raises:
            NotFoundError: absent, another organisation's, or in a realm that is not the caller's.
        """
        async with self._db.tenant(principal.org_id) as connection:
            return _found(principal, await connection.fetchrow(_GET, pipeline_id))

    async def list(
        self, principal: Principal, *, limit: int = 50, before: UUID | None = None
    ) -> list[Pipeline]:
        """Pipelines, newest first; ``before`` is the id of the last one of the former page."""
        realms = None if principal.realms is None else list(principal.realms)
        async with self._db.tenant(principal.org_id) as connection:
            rows = await connection.fetch(_LIST, realms, before, limit)
        return [Pipeline(**dict(row)) for row in rows]

    async def update(
        self, principal: Principal, pipeline_id: UUID, change: PipelineChange
    ) -> Pipeline:
        """Change a pipeline; it holds for what comes from now on, within seconds everywhere.

        Raises:
            NotFoundError, InvalidError, CapabilityError, ConflictError: as ``get`` and ``create``.
        """
        principal.require("pipeline.write")
        old = await self.get(principal, pipeline_id)
        given = {name: getattr(change, name) for name in change.model_fields_set}
        new = old.model_copy(update={k: v for k, v in given.items() if v is not None})
        config = _config(new.kind, new.config)
        if old.kind == "connector" and config != old.config:
            raise _invalid("config", "the source of a pipeline is for good; make another pipeline")
        check_mapping(new.target_table, new.mapping)
        _check_signing(new.kind, signed=new.require_signature)
        try:
            async with self._db.tenant(principal.org_id) as connection:
                row = await connection.fetchrow(
                    _UPDATE, pipeline_id, new.name, config, new.mapping, new.require_signature,
                    new.enabled,
                )  # fmt: skip
        except asyncpg.IntegrityConstraintViolationError as error:
            raise _refusal(error, new.name) from error
        return _found(principal, row)

    async def delete(self, principal: Principal, pipeline_id: UUID) -> None:
        """Delete a pipeline with its tokens and runs; what it took stays in the graph.

        Raises:
            NotFoundError: as ``get``.
        """
        principal.require("pipeline.write")
        await self.get(principal, pipeline_id)
        async with self._db.tenant(principal.org_id) as connection:
            await connection.execute(_DELETE, pipeline_id)

    async def runs(
        self,
        principal: Principal,
        pipeline_id: UUID,
        *,
        limit: int = 50,
        before: UUID | None = None,
    ) -> list[tuple[UUID, PipelineRun]]:
        """Runs with their ids, newest first; the syncs of its source for kind ``connector``.

        Raises:
            NotFoundError: as ``get``.
        """
        pipeline = await self.get(principal, pipeline_id)
        async with self._db.tenant(principal.org_id) as connection:
            if pipeline.kind == "connector":
                rows = await connection.fetch(_SYNCS, pipeline.source_id, before, limit)
                return [(row["id"], _sync(row)) for row in rows]
            rows = await connection.fetch(_RUNS, pipeline_id, before, limit)
        return [(row["id"], _run(row)) for row in rows]


async def _built_in(
    connection: PoolConnectionProxy[asyncpg.Record], principal: Principal, realm: str
) -> UUID:
    """The source that the pipelines of a realm share, so that edges of one find nodes of another.

    Raises:
        InvalidError: there is no such realm.
    """
    if not await connection.fetchval(_REALM, realm):  # the lock lets only one make the source
        raise _invalid("realm", f"there is no realm {realm!r}; list the realms, or create it first")
    found = await connection.fetchval(_BUILT_IN, CONNECTOR, realm)
    if found is not None:
        return found
    source_id = new_id()
    await connection.execute(
        _NEW_SOURCE, source_id, principal.org_id, f"pipelines of {realm}", CONNECTOR, realm,
        principal.user_id,
    )  # fmt: skip
    return source_id


def _config(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    if kind == "kafka":
        raise CapabilityError(
            "pipelines of kind kafka are not there yet; consume the topic yourself and post to a "
            "webhook, or let kyma read the topic",
            capability="kafka",
        )
    try:
        config = CONFIGS[kind].model_validate(given)
    except ValidationError as error:
        faults = [
            {"loc": ".".join(("config", *map(str, item["loc"]))), "message": item["msg"]}
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        first = f"{faults[0]['loc']}: {faults[0]['message']}"
        raise InvalidError(f"the config is not valid: {first}", errors=faults) from error
    if isinstance(config, FileDrop) and config.bucket is not None:
        raise CapabilityError(
            "files are dropped into the store of this install, below files/<organisation>; leave "
            "bucket away",
            capability="file_drop.bucket",
        )
    return config.model_dump(mode="json", exclude_none=True)


def _check_signing(kind: str, *, signed: bool) -> None:
    if signed and kind not in ("webhook", "otlp"):
        raise _invalid("require_signature", f"nothing is posted to a pipeline of kind {kind}")


def _within(principal: Principal, realm: str) -> None:
    if not principal.bind_realms((realm,)):
        raise NotFoundError(f"there is no realm {realm!r} among those that you may use")


def _found(principal: Principal, row: asyncpg.Record | None) -> Pipeline:
    if row is None or not principal.bind_realms((row["realm"],)):
        raise NotFoundError("no such pipeline; GET /context/pipelines lists those there are")
    return Pipeline(**dict(row))


def _run(row: asyncpg.Record) -> PipelineRun:
    status = "open" if row["sealed_at"] is None else "sealed"
    values = {**dict(row), "id": encode("prn", row["id"]), "status": status}
    return PipelineRun.model_validate(values)


def _sync(row: asyncpg.Record) -> PipelineRun:
    counts, rejects = row["counts"], row["rejects"]
    return PipelineRun(
        id=encode("syn", row["id"]),
        status=row["status"],
        rejected=int(counts.get("rejected", 0)),
        bytes=int(counts.get("bytes", 0)),
        rejects=rejects,
        counts=counts,
        started_at=row["started_at"],
        sealed_at=row["ended_at"],
    )


def _invalid(loc: str, message: str) -> InvalidError:
    return InvalidError(f"{loc}: {message}", errors=[{"loc": loc, "message": message}])


def _refusal(
    error: asyncpg.IntegrityConstraintViolationError, name: str
) -> ConflictError | InvalidError:
    if isinstance(error, asyncpg.UniqueViolationError):
        what = "source" if error.table_name == "sources" else "pipeline"
        return ConflictError(f"a {what} is called {name!r} already; choose another name")
    return _invalid("realm", "it was deleted at this moment; choose another one")
