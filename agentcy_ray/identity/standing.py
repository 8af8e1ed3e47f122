"""Who still holds what, for what goes on after the request that began it.

A run acts with what its person held when it began, and an event stream shows what they might see
then. The bell that tells of an end may be lost, and may ring while either begins. So whoever
carries them looks here every few seconds, and ends what nobody stands behind any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.tenancy import PERMISSIONS, Principal, highest
from agentcy_ray.identity.grants import Holding, covers
from agentcy_ray.identity.revocation import Holder, OpenStreams
from agentcy_ray.stores.postgres import Database

LOOK_SECS = 30.0
"""The longest time that a stream outlives its credential."""

_PEOPLE = """
SELECT u.id, u.roles, u.permissions, u.realms
FROM users u JOIN organizations o ON o.id = u.org_id AND o.deleted_at IS NULL
WHERE u.id = ANY($1) AND u.active
"""
_KEYS = "SELECT id FROM api_keys WHERE id = ANY($1) AND active"
_SESSIONS = """
SELECT DISTINCT family_id FROM login_sessions WHERE family_id = ANY($1) AND revoked_at IS NULL
"""

Bearer = Principal | Holder
"""By what somebody came in."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Now:
    """What the database says now of those who were asked about."""

    people: Mapping[UUID, Holding]
    keys: frozenset[UUID]
    sessions: frozenset[UUID]

    def knows(self, bearer: Bearer) -> bool:
        """Whether person and key are still there."""
        key = bearer.api_key_id
        return bearer.user_id in self.people and (key is None or key in self.keys)


class Standing:
    """Looks many people up at once."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of_principals(self, principals: Sequence[Principal]) -> list[bool]:
        """For each, whether they hold all that they held when the principal was made.

        A login that ends takes nothing away: what was begun in it goes on.

        Raises:
            StoreUnavailableError: Postgres does not answer.
        """
        now = await self._now(principals)
        return [
            # Nobody's rights stand behind a part of the system or a visitor.
            principal.auth in ("system", "webchat")
            or (now.knows(principal) and _holds(now.people[principal.user_id], principal))
            for principal in principals
        ]

    async def of_bearers(self, bearers: Sequence[Bearer]) -> list[bool]:
        """For each, whether person, key and login are still there.

        Raises:
            StoreUnavailableError: Postgres does not answer.
        """
        now = await self._now(bearers)
        return [
            now.knows(bearer) and (bearer.session_id is None or bearer.session_id in now.sessions)
            for bearer in bearers
        ]

    async def _now(self, bearers: Sequence[Bearer]) -> _Now:
        users = list({bearer.user_id for bearer in bearers})
        keys = list({key for bearer in bearers if (key := bearer.api_key_id) is not None})
        sessions = list({one for bearer in bearers if (one := bearer.session_id) is not None})
        async with self._db.system() as connection:
            people = await connection.fetch(_PEOPLE, users)
            alive = await connection.fetch(_KEYS, keys) if keys else []
            open_ = await connection.fetch(_SESSIONS, sessions) if sessions else []
        return _Now(
            people={row["id"]: _holding(row) for row in people},
            keys=frozenset(row["id"] for row in alive),
            sessions=frozenset(row["family_id"] for row in open_),
        )


class StreamWatch:
    """Ends event streams whose credential has ended, and nobody heard it."""

    def __init__(self, streams: OpenStreams, standing: Standing, clock: Clock) -> None:
        self._streams = streams
        self._standing = standing
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Look every ``LOOK_SECS``, and whenever a ring may have been missed, until ``stop``."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                doubt = asyncio.create_task(self._streams.doubted.wait())
                await asyncio.wait(
                    {stopped, doubt}, timeout=LOOK_SECS, return_when=asyncio.FIRST_COMPLETED
                )
                doubt.cancel()
                self._streams.doubted.clear()
                await self.look()
        finally:
            stopped.cancel()

    async def look(self) -> None:
        """End the streams that nobody stands behind; none while Postgres is away."""
        held, now = self._streams.held(), self._clock.now().timestamp()
        if not held:
            return
        try:
            stand = await self._standing.of_bearers([holder for _, holder in held])
        except StoreUnavailableError as error:
            log.warning("streams go on unlooked at", problem=error.message)
            return
        for (key, holder), stands in zip(held, stand, strict=True):
            if not stands or holder.expires_at <= now:
                self._streams.stop(key)


def _holding(row: Any) -> Holding:
    realms = row["realms"]
    return Holding(
        highest(row["roles"]), tuple(row["permissions"]), None if realms is None else tuple(realms)
    )


def _holds(now: Holding, principal: Principal) -> bool:
    """Whether nothing that the principal has was taken away."""
    if now.realms is not None and (
        principal.realms is None or not set(principal.realms) <= set(now.realms)
    ):
        return False
    # An issuer's own token says the role for itself; the stored one may be another.
    if principal.auth == "oidc" and principal.session_id is None:
        return set(principal.permissions) <= set(now.permissions)
    if (now.role, now.permissions) == (principal.role, principal.permissions):
        return True
    powers = now.powers()
    return all(
        (held := principal.grant(name)) is None or covers(powers.get(name), held)
        for name in PERMISSIONS
    )
