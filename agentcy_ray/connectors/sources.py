"""Sources in Postgres. Configs are validated before they are stored; secrets are stored sealed.

Every change of config takes a new ``config_version``; the secrets are sealed anew under
organisation, source and version, and the former ones are deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from shutil import rmtree
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel

from agentcy_ray.connectors.base import Connector
from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.redaction import without_secrets
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.secrets import Secrets, put_secrets, take_secrets
from agentcy_ray.connectors.source_records import NewSource, Source, SourceChange
from agentcy_ray.core.errors import AgentcyError, ConflictError, InvalidError, NotFoundError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.egress_pins import Pins
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.vault import Sealed, Vault

Along = Callable[[Any], Awaitable[object]]
"""Work for the transaction of somebody else; it is given the connection."""

_COLUMNS = (
    "id, org_id, name, connector, realm, config, config_version, sync_mode, schedule, egress,"
    " retention_days, status, enabled, current_package_id, last_error, created_by, created_at,"
    " updated_at"
)
_INSERT = f"""
INSERT INTO sources (id, org_id, name, connector, realm, config, sync_mode, schedule, egress,
                     retention_days, enabled, created_by, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'ready')
RETURNING {_COLUMNS}"""
_GET = f"SELECT {_COLUMNS} FROM sources WHERE id = $1"
_BY_NAME = f"SELECT {_COLUMNS} FROM sources WHERE name = $1"
_LOCK = f"SELECT {_COLUMNS} FROM sources WHERE id = $1 FOR UPDATE"
_LIST = f"""
SELECT {_COLUMNS} FROM sources
WHERE ($1::text[] IS NULL OR realm = ANY ($1)) AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3"""
_UPDATE = f"""
UPDATE sources SET name = $2, realm = $3, config = $4, sync_mode = $5, schedule = $6, egress = $7,
  retention_days = $8, enabled = $9, config_version = config_version + $10::int,
  status = CASE WHEN $10 = 1 THEN 'ready' ELSE status END,
  last_error = CASE WHEN $10 = 1 THEN NULL ELSE last_error END
WHERE id = $1
RETURNING {_COLUMNS}"""
_VERSION = "SELECT config_version FROM sources WHERE id = $1"
_DELETE = "DELETE FROM sources WHERE id = $1"
_FORGET_CURSORS = "DELETE FROM source_cursors WHERE source_id = $1"
_SEAL = """
INSERT INTO credentials (id, org_id, source_id, version, ciphertext, nonce, wrapped_key, key_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""
_UNSEAL = """
SELECT ciphertext, nonce, wrapped_key, key_id FROM credentials
WHERE source_id = $1 AND version = $2"""
_FORGET_SECRETS = "DELETE FROM credentials WHERE source_id = $1 AND version < $2"

_SYNCING = frozenset({"running", "publishing"})


class SourceStore:
    """Sources of all organisations; every method names the one it acts for."""

    def __init__(
        self, db: Database, vault: Vault, registry: Registry, bell: Bell | None = None
    ) -> None:
        self._db = db
        self._vault = vault
        self._bell = bell
        self.registry = registry

    async def create(self, principal: Principal, new: NewSource, *, check: bool = False) -> Source:
        """Store a source whose config its connector accepts; with ``check``, reach it first.

        Raises:
            PermissionDeniedError: the principal may not create sources.
            SourceConfigError: unknown connector, invalid config, or the check failed.
            EgressDeniedError: it would connect to where it may not.
            InvalidError: no such realm.
            ConflictError: the name is taken.
        """
        principal.require("source.create")
        source_id, connector = new_id(), self.registry.get(new.connector)
        if connector.spec.internal:
            raise fault(
                "config",
                f"sources of {new.connector!r} are made by the platform; choose another connector",
                loc="connector",
            )
        config = self._validate(connector, principal.org_id, source_id, new.config, new.egress)
        masked, secrets = take_secrets(config)
        realm = new.realm or connector.spec.default_realm
        _within(principal, realm)
        if check:
            await self._check(connector, config, principal.org_id, source_id, new.egress)
        sealed = await self._seal(principal.org_id, source_id, 1, secrets)
        try:
            async with self._db.tenant(principal.org_id) as connection:
                row = await connection.fetchrow(
                    _INSERT, source_id, principal.org_id, new.name, connector.spec.name, realm,
                    masked, new.sync_mode, new.schedule, new.egress.stored(), new.retention_days,
                    new.enabled, principal.user_id,
                )  # fmt: skip
                await _store(connection, principal.org_id, source_id, 1, sealed)
        except asyncpg.IntegrityConstraintViolationError as error:
            raise _refusal(error, new.name, realm) from error
        await self._announce(principal.org_id, source_id)
        return _source(row)

    async def get(self, org_id: UUID, source_id: UUID) -> Source:
        """A source by id.

        Raises:
            NotFoundError: absent, or another organisation's.
        """
        async with self._db.tenant(org_id) as connection:
            return _found(await connection.fetchrow(_GET, source_id))

    async def by_name(self, org_id: UUID, name: str) -> Source:
        """A source by its name, which is unique in the organisation.

        Raises:
            NotFoundError: there is none.
        """
        async with self._db.tenant(org_id) as connection:
            return _found(await connection.fetchrow(_BY_NAME, name))

    async def list(
        self,
        org_id: UUID,
        *,
        realms: Sequence[str] | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> list[Source]:
        """Sources, newest first; ``before`` is the id of the last one of the former page."""
        async with self._db.tenant(org_id) as connection:
            asked = None if realms is None else [*realms]
            return [_source(row) for row in await connection.fetch(_LIST, asked, before, limit)]

    async def update(self, principal: Principal, source_id: UUID, change: SourceChange) -> Source:
        """Change a source. A new config or realm forgets the cursors: the next sync is a full one.

        A secret sent as ``***`` keeps its stored value.

        Raises:
            NotFoundError, SourceConfigError, InvalidError: as ``get`` and ``create``.
            EgressDeniedError: as ``create``.
            ConflictError: the name is taken, or config, egress or realm change during a sync.
        """
        principal.require("source.update")
        given, org_id = change.given(), principal.org_id
        try:
            async with self._db.tenant(org_id) as connection:
                old = _found(await connection.fetchrow(_LOCK, source_id))
                _within(principal, old.realm)
                _within(principal, given.get("realm", old.realm))
                new = {**old.model_dump(include=set(SourceChange.model_fields)), **given}
                pins: Pins = given.get("egress", old.egress)
                moved = "config" in given or new["realm"] != old.realm
                anew = "config" in given or pins != old.egress
                if moved or anew:
                    if old.status in _SYNCING:
                        raise ConflictError(
                            f"source {old.name!r} is being synced; wait for it or cancel it first",
                            code="state_conflict",
                        )
                    if moved:
                        await connection.execute(_FORGET_CURSORS, source_id)
                if anew:
                    secrets = await self._open(old, await _stored(connection, old))
                    config = self._validate(
                        self.registry.get(old.connector),
                        org_id,
                        source_id,
                        put_secrets(given.get("config", old.config), secrets),
                        pins,
                    )
                    new["config"], secrets = take_secrets(config)
                    version = old.config_version + 1
                    sealed = await self._seal(org_id, source_id, version, secrets)
                    await _store(connection, org_id, source_id, version, sealed)
                    await connection.execute(_FORGET_SECRETS, source_id, version)
                row = await connection.fetchrow(
                    _UPDATE, source_id, new["name"], new["realm"], new["config"], new["sync_mode"],
                    new["schedule"], pins.stored(), new["retention_days"], new["enabled"],
                    int(anew),
                )  # fmt: skip
        except asyncpg.IntegrityConstraintViolationError as error:
            raise _refusal(error, change.name or "", change.realm or "") from error
        await self._announce(org_id, source_id)
        return _source(row)

    async def delete(
        self, principal: Principal, source_id: UUID, *, along: Along | None = None
    ) -> None:
        """Delete a source with its secrets, runs and packages; its entities are not touched.

        Args:
            principal: who deletes; needs ``source.delete`` and the source's realm.
            source_id: the source.
            along: what is done in the same transaction.

        Raises:
            NotFoundError: absent.
            ConflictError: it is being synced.
        """
        principal.require("source.delete")
        async with self._db.tenant(principal.org_id) as connection:
            source = _found(await connection.fetchrow(_LOCK, source_id))
            _within(principal, source.realm)
            if source.status in _SYNCING:
                raise ConflictError(
                    f"source {source.name!r} is being synced; wait for it or cancel it first",
                    code="sync_in_progress",
                )
            await connection.execute(_DELETE, source_id)
            if along is not None:
                await along(connection)
        await self._announce(principal.org_id, source_id)

    async def open_config(
        self, org_id: UUID, source_id: UUID
    ) -> tuple[Source, Connector, BaseModel]:
        """A source with its connector and its config, secrets opened.

        For session hosts and ingest only: nothing else may hold opened secrets.

        Raises:
            NotFoundError: absent.
            SourceConfigError: the connector is not installed, or refuses the stored config.
            SealBrokenError: the secrets do not open.
            StoreUnavailableError: the key service does not answer.
        """
        async with self._db.tenant(org_id) as connection:
            source = _found(await connection.fetchrow(_GET, source_id))
            sealed = await _stored(connection, source)
        connector = self.registry.get(source.connector)
        config = put_secrets(source.config, await self._open(source, sealed))
        model = self._validate(connector, org_id, source_id, config, source.egress)
        return source, connector, model

    async def version(self, org_id: UUID, source_id: UUID) -> int:
        """The present ``config_version``, which tells a session whether it is stale.

        Raises:
            NotFoundError: absent.
        """
        async with self._db.tenant(org_id) as connection:
            version = await connection.fetchval(_VERSION, source_id)
        if version is None:
            raise _absent()
        return int(version)

    # -- inside --------------------------------------------------------------------------------

    def _validate(
        self,
        connector: Connector,
        org_id: UUID,
        source_id: UUID,
        config: dict[str, Any],
        pins: Pins,
    ) -> BaseModel:
        return connector.validate(config, self.registry.context(org_id, source_id, pins=pins))

    async def _check(
        self,
        connector: Connector,
        config: BaseModel,
        org_id: UUID,
        source_id: UUID,
        pins: Pins,
    ) -> None:
        context = self.registry.context(org_id, source_id, pins=pins)
        try:
            with without_secrets(config):
                session = await connector.open(config, context)
                try:
                    await session.check()
                finally:
                    await session.close()
        except AgentcyError:  # there will be no source whose folder this is
            await asyncio.to_thread(rmtree, context.work_dir, ignore_errors=True)
            raise

    async def _seal(
        self, org_id: UUID, source_id: UUID, version: int, secrets: Secrets
    ) -> Sealed | None:
        if not secrets:
            return None
        return await self._vault.seal(orjson.dumps(secrets), _aad(org_id, source_id, version))

    async def _open(self, source: Source, sealed: Sealed | None) -> Secrets:
        if sealed is None:
            return {}
        aad = _aad(source.org_id, source.id, source.config_version)
        return orjson.loads(await self._vault.open(sealed, aad))

    async def _announce(self, org_id: UUID, source_id: UUID) -> None:
        if self._bell is not None:
            await self._bell.ring(f"ch:catalog:{org_id.hex}", {"source_id": source_id.hex})


async def _store(
    connection: Any, org_id: UUID, source_id: UUID, version: int, sealed: Sealed | None
) -> None:
    if sealed is not None:
        await connection.execute(
            _SEAL, new_id(), org_id, source_id, version,
            sealed.ciphertext, sealed.nonce, sealed.wrapped_key, sealed.key_id,
        )  # fmt: skip


async def _stored(connection: Any, source: Source) -> Sealed | None:
    row = await connection.fetchrow(_UNSEAL, source.id, source.config_version)
    return None if row is None else Sealed(**dict(row))


def _aad(org_id: UUID, source_id: UUID, version: int) -> str:
    """Binds sealed secrets to their place: opened anywhere else, they do not decrypt."""
    return f"credentials/{org_id.hex}/{source_id.hex}/{version}"


def _source(row: Any) -> Source:
    return Source(**dict(row))


def _found(row: Any) -> Source:
    if row is None:
        raise _absent()
    return _source(row)


def _absent() -> NotFoundError:
    return NotFoundError("no such source; `agentcy sources list` shows those there are")


def _within(principal: Principal, realm: str) -> None:
    if principal.realms is not None and realm not in principal.realms:
        raise NotFoundError(f"there is no realm {realm!r} among those that you may use")


def _refusal(
    error: asyncpg.IntegrityConstraintViolationError, name: str, realm: str
) -> ConflictError | InvalidError:
    if isinstance(error, asyncpg.UniqueViolationError):
        return ConflictError(f"a source is called {name!r} already; choose another name")
    message = f"there is no realm {realm!r}; list the realms, or create it first"
    return InvalidError(message, errors=[{"loc": "realm", "message": message}])
