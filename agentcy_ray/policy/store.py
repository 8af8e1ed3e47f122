"""Policies as versioned rows. What is stored has compiled together with the rest of its set."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import (
    ConflictError,
    NotFoundError,
    PolicyInvalidError,
    RateLimitedError,
)
from agentcy_ray.core.ids import PolicyId, decode, encode, new_id
from agentcy_ray.policy.engine import PolicyText, compile_policies
from agentcy_ray.policy.shipped import starters
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

MAX_POLICIES = 100

_COLUMNS = """
SELECT p.id, p.name, p.enabled, p.version, p.starter, p.created_at, p.updated_at, v.rego
FROM policies p JOIN policy_versions v ON v.policy_id = p.id AND v.version = p.version
"""
_LIST = _COLUMNS + "ORDER BY p.name"
_GET = _COLUMNS + "WHERE p.id = $1"
_COUNT = "SELECT count(*) FROM policies"
_LOCK_SET = "SELECT 1 FROM organizations WHERE id = $1 FOR NO KEY UPDATE"
_INSERT = """
INSERT INTO policies (id, org_id, name, enabled, starter) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (org_id, name) DO NOTHING RETURNING id
"""
_INSERT_VERSION = """
INSERT INTO policy_versions (org_id, policy_id, version, rego, author) VALUES ($1, $2, $3, $4, $5)
"""
_UPDATE = "UPDATE policies SET version = version + 1 WHERE id = $1 RETURNING version"
_DELETE = "DELETE FROM policies WHERE id = $1"
_RESTORED = "UPDATE policies SET enabled = true, starter = true WHERE id = $1"
_ENABLE = "UPDATE policies SET enabled = $2 WHERE id = $1"
_SETTINGS = "SELECT settings FROM organizations WHERE id = $1"
_FINGERPRINT = """
SELECT coalesce(md5(string_agg(id::text || ':' || version, ',' ORDER BY id)), '')
FROM policies WHERE enabled
"""


class Policy(BaseModel):
    """A policy with the text of its current version."""

    model_config = ConfigDict(frozen=True)

    id: PolicyId
    name: str
    rego: str
    enabled: bool
    version: int
    starter: bool
    created_at: datetime
    updated_at: datetime

    @property
    def text(self) -> PolicyText:
        """What the engine compiles."""
        return PolicyText(encode("pol", self.id), self.name, self.rego)


async def install_starters(connection: Any, org_id: UUID) -> int:
    """Write the starter policies that ``org_id`` lacks; returns how many. For first boot.

    Args:
        connection: a connection inside a transaction that may write this organisation's rows.
        org_id: whose policies.
    """
    written = 0
    for name, rego in sorted(starters().items()):
        policy_id = await connection.fetchval(_INSERT, new_id(), org_id, name, True, True)
        if policy_id is not None:
            await connection.execute(_INSERT_VERSION, org_id, policy_id, 1, rego, None)
            written += 1
    return written


class PolicyStore:
    """Reads and writes policies of one organisation at a time."""

    def __init__(self, db: Database, bell: Bell, timeout_ms: float) -> None:
        self._db = db
        self._bell = bell
        self._timeout_ms = timeout_ms

    async def list(self, org_id: UUID) -> Sequence[Policy]:
        """All policies by name; there are at most ``MAX_POLICIES``."""
        async with self._db.tenant(org_id) as connection:
            return [Policy(**dict(row)) for row in await connection.fetch(_LIST)]

    async def get(self, org_id: UUID, policy_id: UUID) -> Policy:
        """One policy.

        Raises:
            NotFoundError: there is none with this id.
        """
        async with self._db.tenant(org_id) as connection:
            return await _fetch(connection, policy_id)

    async def fingerprint(self, org_id: UUID) -> tuple[str, dict[str, Any]]:
        """A text that changes with the active set, and the organisation's settings."""
        async with self._db.tenant(org_id) as connection:
            version = await connection.fetchval(_FINGERPRINT)
            return version, await connection.fetchval(_SETTINGS, org_id) or {}

    async def create(
        self, org_id: UUID, author: UUID | None, name: str, rego: str, *, enabled: bool = True
    ) -> Policy:
        """Add a policy.

        Raises:
            PolicyInvalidError: the text does not compile; nothing was stored.
            ConflictError: the name is taken.
            RateLimitedError: the organisation has its 100 policies.
        """
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_LOCK_SET, org_id)
            if await connection.fetchval(_COUNT) >= MAX_POLICIES:
                raise RateLimitedError(
                    f"an organisation has {MAX_POLICIES} policies at most; merge some",
                    code="quota_exceeded",
                )
            policy_id = new_id()
            candidate = PolicyText(encode("pol", policy_id), name, rego)
            await self._check(connection, org_id, candidate)
            if not await connection.fetchval(_INSERT, policy_id, org_id, name, enabled, False):
                raise ConflictError(f"a policy {name!r} exists; update it, or choose another name")
            await connection.execute(_INSERT_VERSION, org_id, policy_id, 1, rego, author)
            saved = await _fetch(connection, policy_id)
        await self._announce(org_id)
        return saved

    async def update(self, org_id: UUID, author: UUID | None, policy_id: UUID, rego: str) -> Policy:
        """Write a new version of a policy's text.

        Raises:
            PolicyInvalidError: it does not compile; the active set is unchanged.
            NotFoundError: there is no such policy.
        """
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_LOCK_SET, org_id)
            policy = await _fetch(connection, policy_id)
            candidate = PolicyText(encode("pol", policy_id), policy.name, rego)
            await self._check(connection, org_id, candidate)
            version = await connection.fetchval(_UPDATE, policy_id)
            await connection.execute(_INSERT_VERSION, org_id, policy_id, version, rego, author)
            saved = await _fetch(connection, policy_id)
        await self._announce(org_id)
        return saved

    async def set_enabled(self, org_id: UUID, policy_id: UUID, enabled: bool) -> Policy:
        """Switch a policy on or off.

        Raises:
            NotFoundError: there is no such policy.
            PolicyInvalidError: the set does not compile with it, or the others without it.
        """
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_LOCK_SET, org_id)
            await _fetch(connection, policy_id)
            sound = await self._sound(connection, org_id)
            await connection.execute(_ENABLE, policy_id, enabled)
            if sound:
                await self._check(connection, org_id)
            saved = await _fetch(connection, policy_id)
        await self._announce(org_id)
        return saved

    async def delete(self, org_id: UUID, policy_id: UUID) -> None:
        """Remove a policy with all its versions.

        Raises:
            NotFoundError: there is no such policy.
            PolicyInvalidError: another one calls its functions.
        """
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_LOCK_SET, org_id)
            await _fetch(connection, policy_id)
            sound = await self._sound(connection, org_id)
            await connection.execute(_DELETE, policy_id)
            if sound:
                await self._check(connection, org_id)
        await self._announce(org_id)

    async def restore(self, org_id: UUID, author: UUID | None) -> Sequence[Policy]:
        """Bring the starter policies back: their shipped text as a new version, and on.

        Raises:
            PolicyInvalidError: they do not compile with the others of the organisation.
        """
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_LOCK_SET, org_id)
            await install_starters(connection, org_id)
            shipped = starters()
            for row in await connection.fetch(_LIST):
                if row["name"] not in shipped:
                    continue
                rego = shipped[row["name"]]
                if row["rego"] != rego:
                    version = await connection.fetchval(_UPDATE, row["id"])
                    await connection.execute(
                        _INSERT_VERSION, org_id, row["id"], version, rego, author
                    )
                await connection.execute(_RESTORED, row["id"])
            await self._check(connection, org_id)
            policies = [Policy(**dict(row)) for row in await connection.fetch(_LIST)]
        await self._announce(org_id)
        return [policy for policy in policies if policy.name in shipped]

    async def _sound(self, connection: Any, org_id: UUID) -> bool:
        """Whether the set compiles now; one that does not may be mended step by step."""
        try:
            await self._check(connection, org_id)
        except PolicyInvalidError:
            return False
        return True

    async def _check(
        self, connection: Any, org_id: UUID, candidate: PolicyText | None = None
    ) -> None:
        """Compile the set as it would be; a disabled policy that is written has to compile too."""
        settings = policy_settings(await connection.fetchval(_SETTINGS, org_id) or {})
        texts = [
            policy.text
            for policy in (Policy(**dict(row)) for row in await connection.fetch(_LIST))
            if policy.enabled
            and (candidate is None or decode("pol", candidate.policy_id) != policy.id)
        ]
        if candidate is not None:
            texts.append(candidate)
        await asyncio.to_thread(compile_policies, texts, settings, self._timeout_ms)

    async def _announce(self, org_id: UUID) -> None:
        await self._bell.ring(f"ch:policy:{org_id.hex}", {})


def policy_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an organisation's settings that policies read as ``data.settings``."""
    found = settings.get("policy_settings")
    return dict(found) if isinstance(found, dict) else {}


async def _fetch(connection: Any, policy_id: UUID) -> Policy:
    row = await connection.fetchrow(_GET, policy_id)
    if row is None:
        raise NotFoundError("no such policy; list them to find its id")
    return Policy(**dict(row))
