"""Constraints and indexes, created when first needed; safe from several processes at once."""

from __future__ import annotations

import asyncio
from hashlib import blake2b

from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.basic.layout import name_of
from agentcy_ray.core.errors import EngineError

# The selective property leads: the embedded server uses an index as soon as its first property is
# compared, and with `org` in front it would walk a whole organisation for every look-up by id.
_ENTITIES = (
    "CREATE CONSTRAINT entity_id IF NOT EXISTS FOR (n:Entity) REQUIRE n.id IS UNIQUE",
    "CREATE INDEX entity_name IF NOT EXISTS FOR (n:Entity) ON (n.name, n.realm, n.org)",
    "CREATE INDEX entity_external_id IF NOT EXISTS"
    " FOR (n:Entity) ON (n.external_id, n.source_id, n.org)",
    "CREATE INDEX entity_url IF NOT EXISTS FOR (n:Entity) ON (n.url)",
)
_TEXT = "CREATE TEXT INDEX entity_text IF NOT EXISTS FOR (n:Entity) ON (n._text)"
_EDGES = "CREATE CONSTRAINT {name} IF NOT EXISTS FOR ()-[r:{type}]-() REQUIRE r.id IS UNIQUE"

_ATTEMPTS = 4


class Schema:
    """What has been ensured by this process."""

    def __init__(self, bolt: Bolt) -> None:
        self._bolt = bolt
        self._entities = False
        self._edges: set[str] = set()

    async def entities(self) -> None:
        """Uniqueness of ``Entity.id`` and the indexes of nodes."""
        if self._entities:
            return
        traits = await self._bolt.traits()
        for statement in (*_ENTITIES, *((_TEXT,) if traits.text_index else ())):
            await self._ensure(statement)
        self._entities = True

    async def edges(self, type_: str) -> None:
        """Uniqueness of the id among the edges of one type; it is also how they are found."""
        if type_ in self._edges:
            return
        digest = blake2b(type_.encode(), digest_size=8).hexdigest()
        await self._ensure(_EDGES.format(name=f"edge_{digest}", type=name_of("type", type_)))
        self._edges.add(type_)

    async def _ensure(self, statement: str) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._bolt.execute(statement)
            except EngineError:  # another process creates the same one at this moment
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(0.05 * attempt)
            else:
                return
