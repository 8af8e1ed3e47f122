"""Which spaces answer a search: the active one, and on wish one beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from agentcy_ray.core.errors import ConflictError
from agentcy_ray.core.ids import encode
from agentcy_ray.core.org_cache import OrgCache
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

ROUTE_SECS = 5.0
"""How long a search may go by spaces that have changed, when the ring is lost. Either of them
answers: the former one is kept and written for days."""
SETTING = "dual_space_search"
"""The key in ``organizations.settings``."""

_READ = "SELECT settings->$2 FROM organizations WHERE id = $1"
_WRITE = """
UPDATE organizations SET settings = settings || jsonb_build_object($2::text, $3::boolean)
WHERE id = $1
"""


def channel(org_id: UUID) -> str:
    """What is rung when other spaces answer an organisation."""
    return f"ch:spaces:{org_id.hex}"


@dataclass(frozen=True)
class Route:
    """The spaces of an organisation that may answer."""

    active: Space | None
    beside: Space | None
    """Complete and written, yet not active: what a swap goes to, else what it came from."""
    both: bool
    """Whether the organisation wants every search to ask both."""


class Routes:
    """The route of every organisation, kept for some seconds and told anew by the bell."""

    def __init__(self, db: Database, spaces: SpaceStore, bell: Bell | None = None) -> None:
        self._db = db
        self._spaces = spaces
        self._bell = bell
        self._routes: OrgCache[Route] = OrgCache(
            self._load,
            listen=None if bell is None else lambda org_id: bell.listen(channel(org_id)),
            max_age_secs=ROUTE_SECS,
        )

    async def asked(self, org_id: UUID, space: UUID | Literal["both"] | None) -> tuple[Space, ...]:
        """The spaces that a query goes to, the active one first; none before anything is embedded.

        Args:
            org_id: whose.
            space: the one that the query names, ``both``, or None = as the organisation wants it.

        Raises:
            NotFoundError: no such space.
            ConflictError: ``state_conflict``, it is not filled, or was given up.
        """
        if isinstance(space, UUID):
            named = await self._spaces.get(org_id, space)
            if named.status == "failed" or named.indexed_at is None:
                raise ConflictError(
                    f"{encode('spc', space)} is {named.status} and answers nothing; wait for its "
                    "backfill, or leave `space` out",
                    code="state_conflict",
                    status=named.status,
                )
            return (named,)
        route = await self._routes.get(org_id)
        wanted = (route.active, route.beside if route.both or space == "both" else None)
        return tuple(each for each in wanted if each is not None)

    async def both(self, org_id: UUID) -> bool:
        """Whether the organisation wants every search to ask both."""
        async with self._db.tenant(org_id) as connection:
            return await connection.fetchval(_READ, org_id, SETTING) is True

    async def ask_both(self, org_id: UUID, wanted: bool) -> None:
        """Let every search ask both spaces from now on, or the active one alone."""
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_WRITE, org_id, SETTING, wanted)
        await self.changed(org_id, {"event": "dual_space_search", "on": wanted})

    async def changed(self, org_id: UUID, news: dict[str, Any]) -> None:
        """Tell every process that other spaces answer an organisation."""
        self.expire(org_id)
        if self._bell is not None:
            await self._bell.ring(channel(org_id), news)

    def expire(self, org_id: UUID) -> None:
        """Ask again which spaces answer."""
        self._routes.expire(org_id)

    async def close(self) -> None:
        """Stop listening."""
        await self._routes.close()

    async def _load(self, org_id: UUID, _: Route | None) -> Route:
        written = await self._spaces.writable(org_id)
        active = next((space for space in written if space.status == "active"), None)
        others = [space for space in written if space.status in {"ready", "retired"}]
        others.sort(key=lambda space: (space.status == "ready", space.id), reverse=True)
        return Route(active, others[0] if others else None, await self.both(org_id))
